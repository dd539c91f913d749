"""Frechet distance of two sets of features: `frechet_distance(statistics_of_samples, statistics_of_references)`."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from hf_ddpm.metrics.arrays import checked_features

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GaussianStatistics:
    """First two moments of a set of features."""

    num_images: int
    mean: np.ndarray
    """(D,) float64."""
    covariance: np.ndarray
    """(D, D) float64, unbiased: divided by num_images - 1."""


class RunningStatistics:
    """Mean and covariance of features that come in batches, in float64.

    Each batch is centred on its own mean and merged by the parallel formula of Chan, Golub & LeVeque (1979), so that an
    offset of the features, the batch size and the order change the result only by rounding.
    """

    def __init__(self, dim: int) -> None:
        self.num_images = 0
        self.mean = np.zeros(dim)
        """(D,) float64; zeros before the first image."""
        self.scatter = np.zeros((dim, dim))
        """(D, D) float64, sum of (x - mean)(x - mean)^T over the images."""

    def update(self, features: ArrayLike) -> None:
        """Add a batch, (B, D) with B >= 0; a `ValueError` for another shape, or a value that is not finite."""
        batch = checked_features(features, "features", dim=len(self.mean)).astype(np.float64, copy=False)
        if len(batch):
            mean = batch.mean(axis=0)
            centred = batch - mean
            self._add(len(batch), mean, centred.T @ centred)

    def merge(self, other: RunningStatistics) -> None:
        """Add the images of other statistics, which stay unchanged; a `ValueError` if the dimensions differ."""
        if other.mean.shape != self.mean.shape:
            raise ValueError(f"the other statistics have {len(other.mean)} dimensions: merge those of {len(self.mean)}")
        self._add(other.num_images, other.mean, other.scatter)

    def result(self) -> GaussianStatistics:
        """Mean and unbiased covariance of all images so far, as copies; a `ValueError` for fewer than 2."""
        if self.num_images < 2:
            raise ValueError(f"a covariance needs at least 2 images, not {self.num_images}")
        return GaussianStatistics(self.num_images, self.mean.copy(), self.scatter / (self.num_images - 1))

    def _add(self, num_images: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        total = self.num_images + num_images
        if num_images == 0:
            return
        shift = mean - self.mean
        self.scatter += scatter
        if self.num_images:
            self.scatter += np.outer(shift, shift * (self.num_images * num_images / total))
        self.mean += shift * (num_images / total)
        self.num_images = total


def frechet_distance(a: GaussianStatistics, b: GaussianStatistics, *, warn: bool = True) -> float:
    """|m1 - m2|^2 + Tr(S1 + S2 - 2 (S1 S2)^(1/2)) (Dowson & Landau 1982; Heusel et al. 2017, eq. 6).

    It is in squared units of the features. The trace of (S1 S2)^(1/2) is the sum of the square roots of the eigenvalues of
    the symmetric S1^(1/2) S2 S1^(1/2), which are those of S1 S2. The value is not clipped: for equal statistics, rounding
    may make it slightly negative. It is biased upwards for few images, so compare only values with the same number of
    images. `warn` logs a warning if there are no more images than dimensions, so that a covariance is singular.
    """
    for statistics in (a, b):
        if statistics.covariance.shape != 2 * statistics.mean.shape:
            shapes = f"{statistics.mean.shape} and {statistics.covariance.shape}"
            raise ValueError(f"mean and covariance have the shapes {shapes}: give (D,) and (D, D)")
        if not (np.isfinite(statistics.mean).all() and np.isfinite(statistics.covariance).all()):
            raise ValueError("the statistics contain values that are not finite: compute them again")
    dim = len(a.mean)
    if len(b.mean) != dim:
        raise ValueError(f"the statistics have {dim} and {len(b.mean)} dimensions: give those of one extractor")
    if warn and min(a.num_images, b.num_images) <= dim:
        logger.warning(
            "Frechet distance of %d and %d images with %d dimensions: a covariance is singular, and the value far above "
            "that of many images; give more than %d images on each side",
            *(a.num_images, b.num_images, dim, dim),
        )
    difference = a.mean - b.mean
    root = _square_root(a.covariance)
    product = root @ b.covariance @ root
    eigenvalues = np.linalg.eigvalsh((product + product.T) / 2)
    trace_of_root = np.sqrt(eigenvalues.clip(min=0)).sum()  # rounding makes zero eigenvalues slightly negative
    return float(difference @ difference + np.trace(a.covariance) + np.trace(b.covariance) - 2 * trace_of_root)


def _square_root(covariance: np.ndarray) -> np.ndarray:
    """Symmetric square root of a (D, D) covariance."""
    eigenvalues, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    return (vectors * np.sqrt(eigenvalues.clip(min=0))) @ vectors.T
