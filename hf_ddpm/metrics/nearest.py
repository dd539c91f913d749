"""Exact nearest neighbours among features or pixels: `distances, indices = nearest_distances(samples, training_images)`.

Samples that are nearer to their nearest training image than test images are a sign of memorisation.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from hf_ddpm.metrics.arrays import checked_features

BLOCK_ENTRIES = 2**22
"""Distances in memory at a time: 32 MiB of float64; a metric holds about three such blocks."""
REFERENCE_BLOCK = 8192
"""References converted to float64 at a time."""


def nearest_distances(queries: ArrayLike, references: ArrayLike, chunk: int = 512) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest of the (M, D) references for each of the (N, D) queries: features, or pixels as floats.

    Candidates come from matrix products in float64; the distance to the nearest one is computed again from the difference,
    so that a copy has distance 0. `chunk` queries are compared at a time; memory in addition to the inputs is about
    8 x 8192 x (2 x chunk + D) bytes.

    Returns:
        (N,) float32 Euclidean distances, and (N,) int64 rows of the references; any of several equally near ones.
    """
    references = checked_features(references, "references", at_least=1)
    queries = checked_features(queries, "queries", dim=references.shape[1])
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}: give at least 1")
    # Distances do not depend on the origin, but their cancellation error does.
    origin = references.mean(axis=0, dtype=np.float64)
    best, indices = np.full(len(queries), np.inf), np.zeros(len(queries), dtype=np.int64)
    for start in range(0, len(references), REFERENCE_BLOCK):
        block = torch.from_numpy(references[start : start + REFERENCE_BLOCK] - origin)
        for first in range(0, len(queries), chunk):
            rows = slice(first, first + chunk)
            squared, nearest = squared_distances(torch.from_numpy(queries[rows] - origin), block).min(dim=1)
            closer = squared.numpy() < best[rows]
            best[rows] = np.where(closer, squared.numpy(), best[rows])
            indices[rows] = np.where(closer, nearest.numpy() + start, indices[rows])
    distances = np.empty(len(queries), dtype=np.float32)
    for first in range(0, len(queries), chunk):
        rows = slice(first, first + chunk)
        difference = queries[rows].astype(np.float64) - references[indices[rows]]
        distances[rows] = np.sqrt(np.einsum("nd,nd->n", difference, difference))
    return distances, indices


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """|a_i|^2 + |b_j|^2 - 2 a_i . b_j: (N, D) and (M, D) float64 -> (N, M) float64.

    The error is of the order of 1e-15 (|a_i|^2 + |b_j|^2), so coinciding points may get less than 0.
    """
    norms = (b * b).sum(dim=1) + (a * a).sum(dim=1, keepdim=True)
    return norms.addmm_(a, b.T, alpha=-2)


def row_chunks(num_rows: int, num_columns: int) -> Iterator[slice]:
    """Slices of the rows of a matrix, of at most `BLOCK_ENTRIES` entries but at least one row each."""
    step = max(1, BLOCK_ENTRIES // num_columns)
    return (slice(start, min(start + step, num_rows)) for start in range(0, num_rows, step))
