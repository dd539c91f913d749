"""Precision, recall, density and coverage: the authors' formulas, a reference implementation, ties and blocks."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

from hf_ddpm.metrics import nearest
from hf_ddpm.metrics.precision_recall import ManifoldMetrics, density_coverage, manifold_metrics, precision_recall


def normal(num_images: int, seed: int, *, dim: int = 4, offset: float = 0.0, dtype=np.float64) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(num_images, dim)) + offset).astype(dtype)


def by_definition(x: np.ndarray, y: np.ndarray, precision_recall_k: int, density_coverage_k: int) -> ManifoldMetrics:
    """The formulas over whole matrices of exact distances."""

    def radii(points: np.ndarray, k: int) -> np.ndarray:
        return np.sort(cdist(points, points), axis=1)[:, k]

    across = cdist(x, y)
    inside = across < radii(y, density_coverage_k)
    return ManifoldMetrics(
        precision=(across <= radii(y, precision_recall_k)).any(axis=1).mean(),
        recall=(across <= radii(x, precision_recall_k)[:, None]).any(axis=0).mean(),
        density=inside.sum() / (density_coverage_k * len(x)),
        coverage=inside.any(axis=0).mean(),
    )


@pytest.mark.parametrize("origin", [0.0, 1e3, 1e6])
@pytest.mark.parametrize(("num_images", "num_references"), [(60, 60), (40, 75), (75, 40)])
def test_they_are_their_definitions(num_images, num_references, origin):
    features, reference_features = normal(num_images, 0, offset=0.8), normal(num_references, 1)
    expected = by_definition(features, reference_features, 3, 5)
    assert 0 < expected.precision < 1 and 0 < expected.recall < 1 and 0 < expected.coverage < 1
    # Both moved far away: distances, and so the metrics, stay.
    assert manifold_metrics(features + origin, reference_features + origin) == expected


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_precision_and_recall_equal_torch_fidelity(dtype):
    features, reference_features = normal(80, 2, offset=0.8, dtype=dtype), normal(90, 3, dtype=dtype)
    sides = [torch.from_numpy(side) for side in (features, reference_features)]
    options = {"prc_neighborhood": 3, "prc_batch_size": 32, "save_cpu_ram": True, "verbose": False}
    expected = prc_features_to_metric(*sides, **options)
    precision, recall = precision_recall(features, reference_features)
    assert precision == pytest.approx(expected[KEY_METRIC_PRECISION], rel=1e-4)
    assert recall == pytest.approx(expected[KEY_METRIC_RECALL], rel=1e-4)
    assert precision < 1 and recall < 1


@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e4])
def test_a_set_compared_with_itself_is_perfect(scale):
    # Each radius is a distance of the same set, so everything hangs on ties.
    features = scale * normal(300, 4, dim=37, dtype=np.float32)
    shuffled = np.random.default_rng(0).permutation(features)
    assert manifold_metrics(shuffled, features) == ManifoldMetrics(1, 1, 1, 1)


@pytest.mark.parametrize("rows", [1, 5, 7, 33])
@pytest.mark.parametrize("offset", [0.0, 3.0, 1000.0])
def test_ties_survive_the_edges_of_blocks(rows, offset, monkeypatch):
    features = normal(101, 5, dim=37, offset=offset, dtype=np.float32)
    monkeypatch.setattr(nearest, "BLOCK_ENTRIES", rows * len(features))
    assert manifold_metrics(features[::-1], features) == ManifoldMetrics(1, 1, 1, 1)


def test_points_on_a_line_by_hand():
    references = np.array([[0.0], [1.0], [2.0], [10.0]])
    samples = np.array([[1.5], [100.0], [101.0]])
    # Radii with k = 1: references 1, 1, 1, 8; samples 98.5, 1, 1. Sample 1.5 lies in the balls of 1 and 2, not on 10's rim.
    assert precision_recall(samples, references, nearest_k=1) == (1 / 3, 1)
    density, coverage = density_coverage(samples, references, nearest_k=1)
    assert density == pytest.approx(2 / 3) and coverage == 2 / 4
    # 2 stands on the rim of 1's ball and of 10's: inside of the closed balls, outside of the open ones.
    rim = np.array([[2.0], [100.0]])
    assert precision_recall(rim, references, nearest_k=1)[0] == 1 / 2
    assert density_coverage(rim, references, nearest_k=1) == (1 / 2, 1 / 4)


def test_sets_far_apart_score_zero():
    assert manifold_metrics(normal(20, 0), normal(20, 1, offset=100)) == ManifoldMetrics(0, 0, 0, 0)


def test_a_collapsed_model_has_precision_and_no_recall():
    references = normal(200, 0)
    collapsed = references[:1] + 1e-3 * normal(200, 1)
    metrics = manifold_metrics(collapsed, references)
    assert metrics.precision == 1 and metrics.recall <= 1 / 200
    assert metrics.coverage < 0.1 and metrics.density > 0.9


def test_they_fall_with_noise():
    features, references = normal(300, 6), normal(300, 7)
    noise = normal(300, 8)
    scores = [manifold_metrics(features + scale * noise, references) for scale in (0, 0.5, 1, 2, 4)]
    for name in ("precision", "density", "coverage"):
        values = [getattr(score, name) for score in scores]
        assert values == sorted(values, reverse=True) and values[0] > values[-1], name


def test_blocks_and_order_do_not_matter(monkeypatch):
    features, references = normal(53, 0, offset=0.8), normal(47, 1)
    whole = manifold_metrics(features, references)
    for entries in (1, 150):
        monkeypatch.setattr(nearest, "BLOCK_ENTRIES", entries)
        assert manifold_metrics(np.random.default_rng(2).permutation(features), references[::-1]) == whole


def test_the_short_forms_are_parts_of_the_whole():
    features, references = normal(53, 0, offset=0.8), normal(47, 1)
    whole = manifold_metrics(features, references, precision_recall_k=2, density_coverage_k=4)
    assert precision_recall(features, references, nearest_k=2) == (whole.precision, whole.recall)
    assert density_coverage(features, references, nearest_k=4) == (whole.density, whole.coverage)


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match="reference_features are of 5 images: give at least 6"):
        manifold_metrics(normal(20, 0), normal(5, 1))
    with pytest.raises(ValueError, match="^features are of 3 images: give at least 4"):
        precision_recall(normal(3, 0), normal(20, 1))
    with pytest.raises(ValueError, match="nearest_k is 0: give at least 1"):
        density_coverage(normal(20, 0), normal(20, 1), nearest_k=0)
    with pytest.raises(ValueError, match="features have 3 dimensions: give 4"):
        manifold_metrics(normal(20, 0, dim=3), normal(20, 1))
    with pytest.raises(ValueError, match="not finite in row 0"):
        manifold_metrics(normal(20, 0) * np.nan, normal(20, 1))
