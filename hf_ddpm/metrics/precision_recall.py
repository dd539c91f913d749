"""Precision, recall, density and coverage: how much of one set of features is in the neighbourhoods of the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from hf_ddpm.metrics.arrays import checked_pair
from hf_ddpm.metrics.nearest import row_chunks, squared_distances

TIE = 4e-12
"""Squared distances that differ by less than this fraction of the squared norms count as equal; rounding, which differs at
the edges of blocks, is a hundred times smaller."""


@dataclass(frozen=True)
class ManifoldMetrics:
    """Four metrics of one comparison; each is 1 for a set compared with itself."""

    precision: float
    """Fraction of the samples in the neighbourhood of a reference, in [0, 1]."""
    recall: float
    """Fraction of the references in the neighbourhood of a sample, in [0, 1]."""
    density: float
    """Mean number of neighbourhoods of references that a sample is in, divided by k; 0 or more."""
    coverage: float
    """Fraction of the references whose neighbourhood holds a sample, in [0, 1]."""


def manifold_metrics(
    features: ArrayLike, reference_features: ArrayLike, *, precision_recall_k: int = 3, density_coverage_k: int = 5
) -> ManifoldMetrics:
    """Compute all four from the same distances of (N, D) samples and (M, D) references.

    The neighbourhood of a point is the ball around it whose radius is the distance to its k-th nearest other point of its
    own set. Precision and recall (Kynkaanniemi et al. 2019, eq. 1 and 2) use the closed ball, density and coverage (Naeem
    et al. 2020, eq. 3 and 4) the open one, as the authors' code does; more than k copies of one reference have an empty
    open ball. The values depend on the numbers of images: compare only values with equal N and M. Each set needs more than
    k images.

    Most of the time is spent on three matrix products in float64, 2 D (N^2 + N M + M^2) operations. Memory in addition to
    the features in float64 is under 200 MiB for any N and M.
    """
    smallest_k, largest_k = sorted((precision_recall_k, density_coverage_k))
    if smallest_k < 1:
        raise ValueError(f"nearest_k is {smallest_k}: give at least 1")
    both = checked_pair(features, reference_features, at_least=largest_k + 1)
    # Distances do not depend on the origin, but their cancellation error does.
    origin = both[1].mean(axis=0, dtype=np.float64)
    samples, references = (torch.from_numpy(side - origin) for side in both)

    (sample_radii,) = _squared_radii(samples, [precision_recall_k])
    reference_radii, density_radii = _squared_radii(references, [precision_recall_k, density_coverage_k])
    closed_samples = sample_radii + _tie(samples, sample_radii)
    closed_references = reference_radii + _tie(references, reference_radii)
    open_references = density_radii - _tie(references, density_radii)

    precise = inside = 0
    recalled, covered = torch.zeros((2, len(references)), dtype=torch.bool)
    for rows in row_chunks(len(samples), len(references)):
        squared = squared_distances(samples[rows], references)
        precise += int((squared <= closed_references).any(dim=1).sum())
        recalled |= (squared <= closed_samples[rows, None]).any(dim=0)
        neighbours = squared < open_references
        inside += int(neighbours.sum())
        covered |= neighbours.any(dim=0)
    return ManifoldMetrics(
        precision=precise / len(samples),
        recall=recalled.double().mean().item(),
        density=inside / (density_coverage_k * len(samples)),
        coverage=covered.double().mean().item(),
    )


def precision_recall(features: ArrayLike, reference_features: ArrayLike, *, nearest_k: int = 3) -> tuple[float, float]:
    """Precision and recall of `manifold_metrics`."""
    metrics = manifold_metrics(features, reference_features, precision_recall_k=nearest_k, density_coverage_k=nearest_k)
    return metrics.precision, metrics.recall


def density_coverage(features: ArrayLike, reference_features: ArrayLike, *, nearest_k: int = 5) -> tuple[float, float]:
    """Density and coverage of `manifold_metrics`."""
    metrics = manifold_metrics(features, reference_features, precision_recall_k=nearest_k, density_coverage_k=nearest_k)
    return metrics.density, metrics.coverage


def _squared_radii(points: Tensor, nearest: list[int]) -> list[Tensor]:
    """(N,) squared distances of each point to its k-th nearest other point, for each k."""
    count = max(nearest) + 1  # the nearest one is the point itself, or a copy of it
    chunks = (squared_distances(points[rows], points) for rows in row_chunks(len(points), len(points)))
    radii = torch.cat([squared.topk(count, dim=1, largest=False).values for squared in chunks]).clamp(min=0)
    return [radii[:, k] for k in nearest]


def _tie(centres: Tensor, squared_radii: Tensor) -> Tensor:
    """(N,) largest difference by rounding between a squared radius and an equal squared distance from the centre."""
    return TIE * ((centres * centres).sum(dim=1) + squared_radii)
