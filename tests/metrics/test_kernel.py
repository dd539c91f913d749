"""Kernel distance: its definition, the two reference implementations, unbiasedness, and independence of blocks."""

import numpy as np
import pytest
import torch
from torch import nn
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric
from torchmetrics.image.kid import KernelInceptionDistance

from hf_ddpm.metrics import nearest
from hf_ddpm.metrics.kernel import kernel_distance


def normal(num_images: int, seed: int, *, dim: int = 5, offset: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(num_images, dim)) + offset


def by_definition(x: np.ndarray, y: np.ndarray) -> float:
    """Sums over pairs, one by one."""

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return (float(a @ b) / len(a) + 1) ** 3

    def mean_within(points: np.ndarray) -> float:
        return np.mean([kernel(a, b) for i, a in enumerate(points) for j, b in enumerate(points) if i != j])

    return mean_within(x) + mean_within(y) - 2 * np.mean([kernel(a, b) for a in x for b in y])


def test_it_is_its_definition_with_unequal_counts():
    features, reference_features = normal(7, 0), normal(11, 1, offset=0.3)
    expected = by_definition(features, reference_features)
    assert kernel_distance(features, reference_features) == pytest.approx(expected, rel=1e-10)
    assert kernel_distance(reference_features, features) == pytest.approx(expected, rel=1e-10)


def test_it_equals_torch_fidelity():
    features, reference_features = normal(60, 2), normal(60, 3, offset=0.5)
    sides = [torch.from_numpy(side) for side in (features, reference_features)]
    expected = kid_features_to_metric(*sides, kid_subsets=1, kid_subset_size=60, verbose=False)[KEY_METRIC_KID_MEAN]
    assert kernel_distance(features, reference_features) == pytest.approx(expected, rel=1e-9)


# It keeps the features of all images, and says so.
@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance` will save all extracted features")
def test_it_equals_torchmetrics():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 5, dtype=torch.float64)).eval()
    network.num_features = 5
    images, references = torch.rand(2, 40, 3, 2, 2, dtype=torch.float64)
    images = images / 2
    metric = KernelInceptionDistance(feature=network, subsets=1, subset_size=40)
    metric.update(references, real=True)
    metric.update(images, real=False)
    with torch.no_grad():
        value = kernel_distance(network(images), network(references))
    assert value == pytest.approx(metric.compute()[0].item(), rel=1e-4)


def test_it_is_unbiased():
    pairs = [kernel_distance(normal(10, 2 * seed), normal(10, 2 * seed + 1)) for seed in range(300)]
    assert min(pairs) < 0
    assert abs(np.mean(pairs)) < 4 * np.std(pairs) / np.sqrt(len(pairs))


def test_it_grows_with_noise():
    features, others = normal(200, 4), normal(200, 5)
    noise = np.random.default_rng(6).normal(size=features.shape)
    distances = [kernel_distance(features + scale * noise, others) for scale in (0, 0.5, 1, 2, 4)]
    assert distances == sorted(distances)


def test_blocks_and_order_do_not_matter(monkeypatch):
    features, reference_features = normal(23, 0), normal(17, 1, offset=0.3)
    whole = kernel_distance(features, reference_features)
    monkeypatch.setattr(nearest, "BLOCK_ENTRIES", 40)
    assert kernel_distance(features[::-1], reference_features) == pytest.approx(whole, rel=1e-10)
    monkeypatch.setattr(nearest, "BLOCK_ENTRIES", 1)
    assert kernel_distance(features, reference_features) == pytest.approx(whole, rel=1e-10)


def test_subsets_follow_the_seed():
    features, reference_features = normal(30, 0), normal(40, 1, offset=0.3)
    first = kernel_distance(features, reference_features, subset_size=10, num_subsets=3, seed=1)
    assert kernel_distance(features, reference_features, subset_size=10, num_subsets=3, seed=1) == first
    assert kernel_distance(features, reference_features, subset_size=10, num_subsets=3, seed=2) != first
    whole = kernel_distance(features, reference_features[:30])
    assert kernel_distance(features, reference_features[:30], subset_size=30) == pytest.approx(whole, rel=1e-10)


def test_many_subsets_approach_the_whole():
    features, reference_features = normal(60, 0), normal(60, 1, offset=1.0)
    subsets = kernel_distance(features, reference_features, subset_size=20, num_subsets=200)
    assert subsets == pytest.approx(kernel_distance(features, reference_features), rel=0.1)


def test_the_given_features_are_not_changed():
    features, reference_features = normal(10, 0), normal(10, 1)
    copies = features.copy(), reference_features.copy()
    features.flags.writeable = False
    kernel_distance(features, reference_features)
    np.testing.assert_array_equal(features, copies[0])
    np.testing.assert_array_equal(reference_features, copies[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subset_size": 11}, "subset_size is 11: give 2 to 10"),
        ({"subset_size": 1}, "subset_size is 1: give 2 to 10"),
        ({"num_subsets": 3}, "num_subsets is 3 without a subset_size"),
        ({"num_subsets": 0, "subset_size": 5}, "num_subsets is 0: give at least 1"),
    ],
)
def test_wrong_subsets_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        kernel_distance(normal(10, 0), normal(12, 1), **options)


def test_wrong_features_are_refused():
    with pytest.raises(ValueError, match="^features are of 1 images: give at least 2"):
        kernel_distance(normal(1, 0), normal(5, 1))
    with pytest.raises(ValueError, match="^reference_features are of 1 images: give at least 2"):
        kernel_distance(normal(5, 0), normal(1, 1))
    with pytest.raises(ValueError, match="features have 4 dimensions: give 5"):
        kernel_distance(normal(5, 0, dim=4), normal(5, 1))
    with pytest.raises(ValueError, match="not finite in row 0"):
        kernel_distance(normal(5, 0) * np.inf, normal(5, 1))
