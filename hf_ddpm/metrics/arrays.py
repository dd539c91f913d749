"""Checks that all metrics share: features are finite, of one dimension, with one row per image."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def checked_features(features: ArrayLike, name: str, *, dim: int | None = None, at_least: int = 0) -> np.ndarray:
    """The features, an array or a CPU tensor, as (N, D) float32 or float64, without a copy if they are of one of these.

    `dim` is the required D (None = any above 0), `at_least` the required N. A `ValueError` starts with
    `name` if these are not met, or a value is not finite.
    """
    array = np.asarray(features)
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float64)
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(f"{name} have the shape {array.shape}: give (N, D), one row per image")
    if dim is not None and array.shape[1] != dim:
        raise ValueError(f"{name} have {array.shape[1]} dimensions: give {dim}, from the same extractor")
    if len(array) < at_least:
        raise ValueError(f"{name} are of {len(array)} images: give at least {at_least}")
    if not np.isfinite(array).all():
        row = int(np.isfinite(array).all(axis=1).argmin())
        raise ValueError(f"{name} are not finite in row {row}: look at that image and at the extractor's weights")
    return array


def checked_pair(features: ArrayLike, reference_features: ArrayLike, *, at_least: int) -> tuple[np.ndarray, np.ndarray]:
    """Both sides of a comparison, (N, D) and (M, D), each checked as `checked_features` does."""
    reference = checked_features(reference_features, "reference_features", at_least=at_least)
    return checked_features(features, "features", dim=reference.shape[1], at_least=at_least), reference
