"""Frechet distance: closed forms, the two reference implementations, and statistics that do not depend on batches."""

import numpy as np
import pytest
import torch
from torch import nn
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric
from torchmetrics.image.fid import FrechetInceptionDistance

from hf_ddpm.metrics.frechet import GaussianStatistics, RunningStatistics, frechet_distance

DIM = 6


def normal(num_images: int, seed: int, *, dim: int = DIM, offset: float = 0.0, dtype=np.float64) -> np.ndarray:
    """Correlated features."""
    random = np.random.default_rng(seed)
    return (random.normal(size=(num_images, dim)) @ random.normal(size=(dim, dim)) + offset).astype(dtype)


def statistics_of(features: np.ndarray) -> GaussianStatistics:
    running = RunningStatistics(features.shape[1])
    running.update(features)
    return running.result()


def distance(features: np.ndarray, reference_features: np.ndarray) -> float:
    return frechet_distance(statistics_of(features), statistics_of(reference_features))


class PixelFeatures(nn.Module):
    """A linear map of 3 x 2 x 2 images."""

    num_features = 5

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(12, self.num_features, dtype=torch.float64)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.linear(images.flatten(1).double() / 255)


def test_moments_are_those_of_numpy():
    features = normal(50, 0, offset=3.0)
    statistics = statistics_of(features)
    assert statistics.num_images == 50
    np.testing.assert_allclose(statistics.mean, features.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(statistics.covariance, np.cov(features, rowvar=False), rtol=1e-11)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("offset", [0.0, 1e4, -1e6])
def test_neither_batch_size_nor_order_nor_merging_matters(offset, dtype):
    features = normal(97, 1, offset=offset, dtype=dtype)
    # The offset is taken out first: what is left is what a one-pass sum of squares would lose.
    exact = np.cov(features.astype(np.float64) - features[0].astype(np.float64), rowvar=False)
    shuffled = np.random.default_rng(2).permutation(features)
    merged = RunningStatistics(DIM)
    for part in np.array_split(shuffled, 3):
        process = RunningStatistics(DIM)
        for batch in np.array_split(part, 4):
            process.update(batch)
        merged.merge(process)
    one_by_one = RunningStatistics(DIM)
    for row in features:
        one_by_one.update(row[None])
    for running in (merged, one_by_one):
        result = running.result()
        assert result.num_images == 97
        np.testing.assert_allclose(result.mean, features.mean(axis=0, dtype=np.float64), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(result.covariance, exact, rtol=1e-9, atol=1e-9 * abs(exact).max())


def test_empty_batches_and_empty_processes_change_nothing():
    running, empty = RunningStatistics(DIM), RunningStatistics(DIM)
    running.merge(empty)
    running.update(normal(20, 3))
    before = running.result()
    running.update(np.zeros((0, DIM)))
    running.merge(empty)
    after = running.result()
    assert after.num_images == 20
    np.testing.assert_array_equal(after.mean, before.mean)
    np.testing.assert_array_equal(after.covariance, before.covariance)
    assert empty.num_images == 0


def test_a_result_is_not_changed_by_later_batches():
    running = RunningStatistics(DIM)
    running.update(normal(20, 3))
    before = running.result()
    mean = before.mean.copy()
    running.update(normal(20, 4) + 100)
    np.testing.assert_array_equal(before.mean, mean)


def test_tensors_are_features_too():
    features = normal(20, 3, dtype=np.float32)
    running = RunningStatistics(DIM)
    running.update(torch.from_numpy(features))
    np.testing.assert_array_equal(running.result().covariance, statistics_of(features).covariance)


def test_commuting_gaussians_have_a_closed_form():
    random = np.random.default_rng(0)
    axes, _ = np.linalg.qr(random.normal(size=(DIM, DIM)))
    variances, other_variances = random.uniform(0.1, 4, size=(2, DIM))
    mean, other_mean = random.normal(size=(2, DIM))
    a = GaussianStatistics(100, mean, axes @ np.diag(variances) @ axes.T)
    b = GaussianStatistics(100, other_mean, axes @ np.diag(other_variances) @ axes.T)
    expected = ((mean - other_mean) ** 2).sum() + ((np.sqrt(variances) - np.sqrt(other_variances)) ** 2).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)


def test_two_dimensional_gaussians_have_a_closed_form():
    # For 2 x 2 matrices Tr sqrt(M) = sqrt(Tr M + 2 sqrt(det M)), and the product of two covariances need not be symmetric.
    first, second = np.array([[2.0, 0.7], [0.7, 1.0]]), np.array([[0.5, -0.3], [-0.3, 3.0]])
    product = first @ second
    root_trace = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    expected = np.trace(first) + np.trace(second) - 2 * root_trace
    value = frechet_distance(GaussianStatistics(9, np.zeros(2), first), GaussianStatistics(9, np.zeros(2), second))
    assert value == pytest.approx(expected, rel=1e-12)


def test_it_equals_torch_fidelity():
    features, reference_features = normal(80, 5), normal(120, 6, offset=0.5)
    statistics = [fid_features_to_statistics(torch.from_numpy(side)) for side in (features, reference_features)]
    expected = fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID]
    assert distance(features, reference_features) == pytest.approx(expected, rel=1e-9)


def test_it_equals_torchmetrics():
    torch.manual_seed(0)
    network = PixelFeatures().eval()
    images, references = torch.randint(0, 256, (2, 60, 3, 2, 2), dtype=torch.uint8)
    images //= 2
    metric = FrechetInceptionDistance(feature=network).set_dtype(torch.float64)
    metric.update(references, real=True)
    metric.update(images, real=False)
    with torch.no_grad():
        value = distance(network(images).numpy(), network(references).numpy())
    assert value == pytest.approx(metric.compute().item(), rel=1e-4)


def test_equal_statistics_have_distance_zero_and_sides_may_be_swapped():
    first, second = statistics_of(normal(50, 0)), statistics_of(normal(70, 1))
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-10)
    assert frechet_distance(first, second) == pytest.approx(frechet_distance(second, first), rel=1e-10)


def test_it_grows_with_noise():
    features = normal(400, 7)
    noise = np.random.default_rng(8).normal(size=features.shape)
    distances = [distance(features + scale * noise, features) for scale in (0, 0.1, 0.3, 1, 3)]
    assert distances == sorted(distances) and distances[0] < 1e-9 < distances[1]


def test_few_images_are_warned_about(caplog):
    few, many = statistics_of(normal(DIM, 0)), statistics_of(normal(50, 1))
    assert frechet_distance(statistics_of(normal(DIM + 1, 0)), many) and frechet_distance(few, many, warn=False)
    assert not caplog.text
    assert np.isfinite(frechet_distance(few, many))
    assert f"give more than {DIM} images" in caplog.text


def test_mistakes_are_refused():
    running = RunningStatistics(DIM)
    with pytest.raises(ValueError, match="needs at least 2 images, not 0"):
        running.result()
    with pytest.raises(ValueError, match="give 6, from the same extractor"):
        running.update(np.zeros((2, DIM + 1)))
    with pytest.raises(ValueError, match="one row per image"):
        running.update(np.zeros(DIM))
    for bad in (np.nan, np.inf):
        features = normal(5, 0)
        features[3, 2] = bad
        with pytest.raises(ValueError, match="not finite in row 3"):
            running.update(features)
    assert running.num_images == 0
    with pytest.raises(ValueError, match="merge those of 6"):
        running.merge(RunningStatistics(DIM + 1))
    with pytest.raises(ValueError, match="6 and 5 dimensions"):
        frechet_distance(statistics_of(normal(20, 0)), statistics_of(normal(20, 0, dim=5)))
    with pytest.raises(ValueError, match=r"shapes \(2,\) and \(3, 3\): give \(D,\) and \(D, D\)"):
        frechet_distance(statistics_of(normal(20, 0)), GaussianStatistics(9, np.zeros(2), np.eye(3)))
    with pytest.raises(ValueError, match="not finite"):
        frechet_distance(GaussianStatistics(9, np.full(2, np.nan), np.eye(2)), GaussianStatistics(9, np.zeros(2), np.eye(2)))
