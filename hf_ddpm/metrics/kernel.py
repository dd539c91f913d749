"""Kernel distance of two sets of features: `kernel_distance(features_of_samples, features_of_references)`."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from hf_ddpm.metrics.arrays import checked_pair
from hf_ddpm.metrics.nearest import row_chunks


def kernel_distance(
    features: ArrayLike,
    reference_features: ArrayLike,
    *,
    subset_size: int | None = None,
    num_subsets: int = 1,
    seed: int = 0,
) -> float:
    """Unbiased squared maximum mean discrepancy with the kernel (x . y / D + 1)^3 (Binkowski et al. 2018, eq. 4 and 5).

    Unlike for the Frechet distance, its expectation does not depend on the numbers of images. For equal distributions it is
    as often negative as positive. Memory in addition to the features in float64 is under 200 MiB.
    A `ValueError` for fewer than 2 images, a subset larger than a side, or several subsets without a size.

    Args:
        features: (N, D) of the samples.
        reference_features: (M, D) of the references; M may differ from N.
        subset_size: images of each side per subset, 2 or more, sampled without replacement; None = all images, once.
        num_subsets: number of subsets to average over; 1 with all images.
        seed: of the subsets.
    """
    samples, references = checked_pair(features, reference_features, at_least=2)
    if num_subsets < 1:
        raise ValueError(f"num_subsets is {num_subsets}: give at least 1")
    if subset_size is None:
        if num_subsets > 1:
            raise ValueError(f"num_subsets is {num_subsets} without a subset_size: give the number of images per subset")
        return _squared_mmd(samples, references)
    smaller = min(len(samples), len(references))
    if not 2 <= subset_size <= smaller:
        raise ValueError(f"subset_size is {subset_size}: give 2 to {smaller}, the images of the smaller side, or None = all")
    random = np.random.default_rng(seed)
    distances = []
    for _ in range(num_subsets):
        chosen = [side[random.choice(len(side), subset_size, replace=False)] for side in (samples, references)]
        distances.append(_squared_mmd(*chosen))
    return float(np.mean(distances))


def _squared_mmd(*sides: np.ndarray) -> float:
    """MMD_u^2 of Gretton et al. 2012, eq. 3, without pairs of a point with itself: (N, D), (M, D)."""
    x, y = (torch.from_numpy(side.astype(np.float64, order="C")) for side in sides)
    within_x, within_y = (
        (_kernel_sum(points, points) - _kernel((points * points).sum(dim=1), points.shape[1]).sum().item())
        / (len(points) * (len(points) - 1))
        for points in (x, y)
    )
    return within_x + within_y - 2 * _kernel_sum(x, y) / (len(x) * len(y))


def _kernel_sum(x: Tensor, y: Tensor) -> float:
    return sum(_kernel(x[rows] @ y.T, x.shape[1]).sum().item() for rows in row_chunks(len(x), len(y)))


def _kernel(products: Tensor, dim: int) -> Tensor:
    """(x . y / D + 1)^3 of dot products, in place."""
    return products.div_(dim).add_(1).pow_(3)
