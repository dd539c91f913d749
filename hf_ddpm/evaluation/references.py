"""The real images that samples are compared with, and the scores of real images and noise instead of samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor

from hf_ddpm.data.batches import to_unit_range
from hf_ddpm.data.table import ImageTable
from hf_ddpm.diffusion.randomness import image_generator
from hf_ddpm.evaluation.features import Extractor
from hf_ddpm.evaluation.summary import FeatureSummary, empty_summary
from hf_ddpm.metrics.frechet import frechet_distance
from hf_ddpm.metrics.kernel import kernel_distance
from hf_ddpm.metrics.nearest import nearest_distances
from hf_ddpm.metrics.precision_recall import manifold_metrics
from hf_ddpm.runtime.distributed import broadcast_from_main, shard

NEAREST_IMAGES = 1000
"""Samples whose nearest training image is searched, evenly spread: each is compared with every training image."""
TABLE_BLOCK = 4096
"""Training images converted to floats at a time."""
MIN_IMAGES = 6
"""Images that the metrics need on each side: density and coverage look at five neighbours."""


@dataclass(frozen=True, kw_only=True)
class Bound:
    """Scores of real images or noise."""

    metrics: dict[str, float]
    """By name."""
    per_class: dict[str, dict[str, float]]
    """By class, then by metric."""
    num_images: int


@dataclass(kw_only=True, eq=False)
class References:
    """Real images, summarized once, and the scores of other images against them."""

    extractor: Extractor
    train: ImageTable
    test: ImageTable | None
    """The held-out split; None = there is none."""
    reference_split: str
    """`train` or `test`: the split that samples are compared with."""
    summary: FeatureSummary
    """Of the reference split."""
    batch_size: int
    processes: PartialState
    _known: dict[tuple[str, int], Bound] = field(default_factory=dict)

    @property
    def reference(self) -> ImageTable:
        """The split that samples are compared with."""
        table = self.train if self.reference_split == "train" else self.test
        assert table is not None, "the reference split is there"
        return table

    @property
    def others(self) -> ImageTable | None:
        """The other split, which gives the floor; None = there is none."""
        return self.test if self.reference_split == "train" else self.train

    @property
    def distance_name(self) -> str:
        """Name of the Frechet distance; the results append the number of images and the split to `fid`."""
        return "fid" if self.extractor.name == "inception" else f"fd_{self.extractor.name}"

    def new_summary(self, num_images: int, *, labelled: bool) -> FeatureSummary:
        """An empty summary for images to compare with the references."""
        class_names = self.train.class_names if labelled and self.train.condition == "class" else None
        return empty_summary(self.extractor, num_images, self.summary.max_features, class_names)

    def score(self, summary: FeatureSummary) -> dict[str, float]:
        """Every metric of a complete summary."""
        name = self.extractor.name
        # Without a warning about few images: it is among the notes of the results.
        distance = frechet_distance(summary.statistics, self.summary.statistics, warn=False)
        features, reference_features = summary.kept_features, self.summary.kept_features
        manifold = manifold_metrics(features, reference_features)
        scores = {
            self.distance_name: distance,
            f"kd_{name}": kernel_distance(features, reference_features),
            "precision": manifold.precision,
            "recall": manifold.recall,
            "density": manifold.density,
            "coverage": manifold.coverage,
        }
        if name.startswith("inception") and summary.inception_score is not None:
            scores["inception_score"] = summary.inception_score[0]
        if summary.accuracy is not None:
            scores["class_accuracy"] = summary.accuracy
        return scores

    def score_classes(self, summary: FeatureSummary) -> dict[str, dict[str, float]]:
        """Metrics by class; empty = the images have no labels, or no metric is tracked per class."""
        ours, theirs = summary.class_statistics or {}, self.summary.class_statistics or {}
        accuracies = summary.class_accuracy or {}
        scores: dict[str, dict[str, float]] = {}
        for label, name in enumerate(summary.class_names or []):
            found = {}
            if label in ours and label in theirs:
                found[self.distance_name] = frechet_distance(ours[label], theirs[label], warn=False)
            if label in accuracies:
                found["class_accuracy"] = accuracies[label]
            if found:
                scores[name] = found
        return scores

    def nearest_train_distance(self, images: np.ndarray) -> float:
        """Mean distance of (N, C, H, W) images to their nearest training image: RMS over pixels in [0, 1]."""
        queries = self._as_rows(images)
        nearest = np.full(len(queries), np.inf)
        for block in torch.arange(len(self.train)).split(TABLE_BLOCK):
            distances, _ = nearest_distances(queries, self._as_rows(self.train.images(block).numpy()))
            nearest = np.minimum(nearest, distances)
        return float(nearest.mean() / np.sqrt(queries.shape[1]))

    def floor(self, num_images: int) -> Bound | None:
        """Scores of at most `num_images` real images, evenly spread over the other split; every process must call it.

        None = there is no other split, or it is too small.
        """
        others = self.others
        if others is None or min(num_images, len(others)) < MIN_IMAGES:
            return None
        count = min(num_images, len(others))
        if ("floor", count) not in self._known:
            rows = torch.arange(count) * len(others) // count
            labels = others.class_labels[rows] if others.class_labels is not None and others.condition == "class" else None
            self._known["floor", count] = self._score_all(
                lambda positions: others.images(rows[positions]), count, labels, are_unseen=others is self.test
            )
        return self._known["floor", count]

    def ceiling(self, num_images: int) -> Bound:
        """Scores of this number of images of uniform noise; every process must call it."""
        if ("ceiling", num_images) not in self._known:
            names = self.train.class_names if self.train.condition == "class" else None
            labels = None if names is None else torch.arange(num_images) % len(names)
            self._known["ceiling", num_images] = self._score_all(self.noise, num_images, labels, are_unseen=True)
        return self._known["ceiling", num_images]

    def noise(self, positions: Tensor) -> Tensor:
        """Images of uniform noise, (N, C, H, W) like the real ones; each depends only on its position, (N,) int64 from 0."""
        return torch.stack([self._noise(image_generator(position)) for position in positions.tolist()])

    def _noise(self, generator: torch.Generator) -> Tensor:
        """One image of uniform noise, (C, H, W)."""
        shape, (low, high) = self.train.image_shape, self.train.value_range or (0, 255)
        if self.train.pixel_type == "float32":
            return low + (high - low) * torch.rand(shape, generator=generator)
        values = torch.randint(int(low), int(high) + 1, shape, generator=generator, dtype=torch.int32)
        return values.to(getattr(torch, self.train.pixel_type))

    def _as_rows(self, images: np.ndarray) -> np.ndarray:
        return to_unit_range(images.reshape(len(images), -1), self.train.value_range)

    def _score_all(
        self, images_at: Callable[[Tensor], Tensor], num_images: int, labels: Tensor | None, *, are_unseen: bool
    ) -> Bound:
        """Score images, each process its share; `images_at` maps (N,) int64 positions to (N, C, H, W) images.

        With `are_unseen`, they are not training images, so that their distance to training images is meaningful.
        """
        mine = torch.arange(num_images)[shard(num_images, self.processes)]
        summary = self.new_summary(num_images, labelled=labels is not None)
        for positions in batches_of(mine, self.batch_size):
            found = self.extractor(images_at(positions), self.train.value_range)
            summary.update(found, None if labels is None else labels[positions], positions)
        summary = summary.of_all_processes(self.processes)

        def score() -> Bound:
            metrics = self.score(summary)
            if are_unseen:
                kept = images_at(nearest_positions(num_images))
                metrics["nearest_train_distance"] = self.nearest_train_distance(kept.numpy())
            return Bound(metrics=metrics, per_class=self.score_classes(summary), num_images=num_images)

        return broadcast_from_main(score, self.processes)


def nearest_positions(num_images: int) -> Tensor:
    """Positions of the images whose nearest training image is searched: at most `NEAREST_IMAGES`, evenly spread."""
    count = min(num_images, NEAREST_IMAGES)
    return torch.arange(count) * num_images // count


def batches_of(positions: Tensor, batch_size: int) -> Iterator[Tensor]:
    """Split positions into batches; the last may be smaller, and there is none without positions."""
    return iter(positions.split(batch_size) if len(positions) else ())
