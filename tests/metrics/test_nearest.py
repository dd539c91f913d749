"""Nearest neighbours: exact, copies at distance 0, also far from the origin and in any blocks."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from hf_ddpm.metrics import nearest
from hf_ddpm.metrics.nearest import nearest_distances


def normal(num_images: int, seed: int, *, dim: int = 6, dtype=np.float64) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(num_images, dim)).astype(dtype)


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e6])
def test_it_is_exact_for_any_origin(offset):
    queries, references = normal(40, 0) + offset, normal(50, 1) + offset
    exact = cdist(queries, references)
    distances, indices = nearest_distances(queries, references)
    assert distances.dtype == np.float32 and indices.dtype == np.int64
    np.testing.assert_array_equal(indices, exact.argmin(axis=1))
    np.testing.assert_allclose(distances, exact.min(axis=1), rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
def test_a_copy_is_at_distance_zero_and_a_near_copy_is_not(dtype):
    references = (255 * np.random.default_rng(0).uniform(size=(30, 12))).astype(dtype)
    order = np.random.default_rng(1).permutation(30)
    distances, indices = nearest_distances(references[order], references)
    assert (distances == 0).all()
    np.testing.assert_array_equal(indices, order)
    changed = references[order].astype(np.float64)
    changed[:, 3] += 1e-3
    distances, indices = nearest_distances(changed, references)
    np.testing.assert_allclose(distances, 1e-3, rtol=1e-6)
    np.testing.assert_array_equal(indices, order)


def test_blocks_and_order_do_not_matter(monkeypatch):
    queries, references = normal(23, 0), normal(31, 1)
    distances, indices = nearest_distances(queries, references)
    monkeypatch.setattr(nearest, "REFERENCE_BLOCK", 7)
    order = np.random.default_rng(2).permutation(31)
    again, where = nearest_distances(queries, references[order], chunk=5)
    np.testing.assert_array_equal(again, distances)
    np.testing.assert_array_equal(order[where], indices)


def test_they_grow_with_noise_and_training_images_are_nearer_than_others():
    training, held_out = normal(200, 0), normal(50, 1)
    noise = normal(50, 2)
    means = [nearest_distances(training[:50] + scale * noise, training)[0].mean() for scale in (0, 0.1, 0.5, 2, 8)]
    assert means[0] == 0 and means == sorted(means)
    assert means[1] < nearest_distances(held_out, training)[0].mean()


def test_queries_may_be_empty_or_tensors():
    distances, indices = nearest_distances(torch.zeros(0, 6), torch.from_numpy(normal(5, 0)))
    assert distances.shape == indices.shape == (0,)


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match="references are of 0 images: give at least 1"):
        nearest_distances(normal(3, 0), normal(0, 1))
    with pytest.raises(ValueError, match="queries have 5 dimensions: give 6"):
        nearest_distances(normal(3, 0, dim=5), normal(4, 1))
    with pytest.raises(ValueError, match="queries are not finite in row 0"):
        nearest_distances(normal(3, 0) * np.nan, normal(4, 1))
    with pytest.raises(ValueError, match="chunk is 0"):
        nearest_distances(normal(3, 0), normal(4, 1), chunk=0)
