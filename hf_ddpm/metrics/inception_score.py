"""Inception score of class probabilities, given in batches, in any order and from several processes."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import ArrayLike


class RunningInceptionScore:
    """exp(E KL(p(y|x) || p(y))) over parts of the images, without keeping the probabilities (Salimans et al. 2016).

    The images are shuffled by a fixed permutation: parts of images in the order of their classes would have few classes
    each. Image i, at place r of the n shuffled ones, belongs to part s if s n // num_splits <= r < (s + 1) n // num_splits.
    Permutation and parts are those of torch-fidelity, and the score does not depend on batches or processes. With E over the
    images of a part, E KL(p || q) = E sum p log p - sum q log q for q = E p.
    """

    def __init__(self, num_classes: int, num_splits: int) -> None:
        if num_splits < 1:
            raise ValueError(f"num_splits is {num_splits}: give at least 1")
        self.num_images: int | None = None
        """Number of all images; None before the first batch."""
        self.counts = np.zeros(num_splits, dtype=np.int64)
        """(num_splits,) images so far."""
        self.sums = np.zeros((num_splits, num_classes))
        """(num_splits, num_classes) sums of the probabilities."""
        self.negative_entropies = np.zeros(num_splits)
        """(num_splits,) sums of p log p, in nats."""

    def update(self, probabilities: ArrayLike, positions: ArrayLike, num_images: int) -> None:
        """Add (B, K) probabilities, whose rows sum to 1, of images at (B,) positions in [0, num_images).

        `num_images` is the number of all images, the same in each call; a `ValueError` if something does not fit.
        """
        probabilities, positions = np.asarray(probabilities, dtype=np.float64), np.asarray(positions)
        self._check_batch(probabilities, positions, num_images)
        self._agree_on(num_images)
        parts = np.searchsorted(self._bounds(num_images), _places(num_images)[positions], side="right") - 1
        np.add.at(self.counts, parts, 1)
        np.add.at(self.sums, parts, probabilities)
        np.add.at(self.negative_entropies, parts, _negative_entropies(probabilities))

    def merge(self, other: RunningInceptionScore) -> None:
        """Add the images of another process; a `ValueError` if the numbers of classes, parts or all images differ."""
        if other.sums.shape != self.sums.shape:
            raise ValueError(f"the other score has (parts, classes) = {other.sums.shape}: merge those of {self.sums.shape}")
        if other.num_images is not None:
            self._agree_on(other.num_images)
        self.counts += other.counts
        self.sums += other.sums
        self.negative_entropies += other.negative_entropies

    def result(self) -> tuple[float, float]:
        """Mean of the parts' scores, each in [1, num_classes], and their standard deviation (divided by num_splits).

        A `ValueError` unless every image was given once.
        """
        if self.num_images is None or not (self.counts == np.diff(self._bounds(self.num_images))).all():
            of = "no" if self.num_images is None else self.num_images
            raise ValueError(f"the inception score has seen {self.counts.sum()} of {of} images: give each of them once")
        marginals = self.sums / self.counts[:, None]
        scores = np.exp(self.negative_entropies / self.counts - _negative_entropies(marginals))
        return float(scores.mean()), float(scores.std())

    def _bounds(self, num_images: int) -> np.ndarray:
        """(num_splits + 1,) int64: the parts' first places, and the number of images."""
        return np.arange(len(self.counts) + 1) * num_images // len(self.counts)

    def _agree_on(self, num_images: int) -> None:
        if self.num_images not in (None, num_images):
            raise ValueError(f"num_images is {num_images}: give {self.num_images}, as in the first batch")
        if num_images < len(self.counts):
            raise ValueError(f"num_splits is {len(self.counts)}: give at most {num_images}, the number of images")
        self.num_images = num_images

    def _check_batch(self, probabilities: np.ndarray, positions: np.ndarray, num_images: int) -> None:
        if probabilities.ndim != 2 or probabilities.shape[1] != self.sums.shape[1]:
            raise ValueError(f"probabilities have the shape {probabilities.shape}: give (B, {self.sums.shape[1]})")
        sums = probabilities.sum(axis=1)
        if not (np.isfinite(sums).all() and (probabilities >= 0).all() and (abs(sums - 1) < 1e-3).all()):
            raise ValueError("probabilities are not all 0 or more with rows that sum to 1: give the softmax of the logits")
        if positions.shape != (len(probabilities),):
            raise ValueError(f"positions have the shape {positions.shape}: give one for each of {len(probabilities)} images")
        if len(positions) and not np.issubdtype(positions.dtype, np.integer):
            raise ValueError(f"positions are {positions.dtype}: give integers")
        if len(positions) and not (positions.min() >= 0 and positions.max() < num_images):
            raise ValueError(f"positions are in {positions.min()}..{positions.max()}: give 0 to {num_images - 1}")


def shuffled(num_images: int) -> np.ndarray:
    """(N,) int64: all positions in an order that is the same each time; the seed is the default of torch-fidelity."""
    return np.random.RandomState(2020).permutation(num_images)


@functools.lru_cache(maxsize=4)
def _places(num_images: int) -> np.ndarray:
    """(N,) int64: the place of each image among the shuffled ones."""
    return np.argsort(shuffled(num_images))


def _negative_entropies(probabilities: np.ndarray) -> np.ndarray:
    """(N,) sums of p log p over the rows, with 0 log 0 = 0."""
    logarithms = np.log(probabilities, where=probabilities > 0, out=np.zeros_like(probabilities))
    return (probabilities * logarithms).sum(axis=1)
