"""The real images that samples are measured against, and what real images and noise score in their place.

references = open_references(config, pipeline, extractor, processes)
references.score(summary_of_samples)          # name of each metric -> value
references.floor(1000), references.ceiling(1000)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from accelerate import PartialState

from hf_ddpm.data.table import ImageTable
from hf_ddpm.evaluation.features import Extractor
from hf_ddpm.evaluation.summary import FeatureSummary
from hf_ddpm.metrics.frechet import frechet_distance
from hf_ddpm.metrics.kernel import kernel_distance
from hf_ddpm.metrics.nearest import nearest_distances
from hf_ddpm.metrics.precision_recall import manifold_metrics
from hf_ddpm.runtime.distributed import broadcast_from_main, gather, shard

NEAREST_IMAGES = 1000
"""Samples whose nearest training image is sought, evenly spread: each is compared with every pixel of the train split."""
TABLE_BLOCK = 4096  # training images that are turned into floats at a time
MIN_IMAGES = 6
"""Images that all metrics need on either side: density and coverage look at five neighbours."""


@dataclass(kw_only=True, eq=False)
class References:
    """Real images, summed up once, and what others score against them.

    Attributes:
        extractor: what the features come from.
        train, test: the splits; test None = there is none.
        reference_split: `train` or `test`, which of them samples are compared with.
        summary: of the reference split.
        batch_size: images at a time.
        processes: which share the work.
    """

    extractor: Extractor
    train: ImageTable
    test: ImageTable | None
    reference_split: str
    summary: FeatureSummary
    batch_size: int
    processes: PartialState
    _known: dict = field(default_factory=dict)

    @property
    def reference(self) -> ImageTable:
        """The split that samples are compared with."""
        table = self.train if self.reference_split == "train" else self.test
        assert table is not None, "the reference split is there"
        return table

    @property
    def others(self) -> ImageTable | None:
        """The split that is not the reference, of which the floor is; None = there is none."""
        return self.test if self.reference_split == "train" else self.train

    @property
    def distance_name(self) -> str:
        """Name of the Frechet distance; in the results, `fid` has number and split behind it."""
        return "fid" if self.extractor.name == "inception" else f"fd_{self.extractor.name}"

    def new_summary(self, num_images: int, *, labelled: bool) -> FeatureSummary:
        """An empty summary for images that are to be compared with the references."""
        class_names = self.train.class_names if labelled else None
        return FeatureSummary(
            dim=self.extractor.dim,
            total_images=num_images,
            max_features=self.summary.max_features,
            class_names=class_names,
            predicted_class_names=self.extractor.class_names if class_names else None,
        )

    def score(self, summary: FeatureSummary) -> dict[str, float]:
        """Every metric of a complete summary."""
        name = self.extractor.name
        # Without a warning about few images: the notes of the results have it.
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
        """Metrics of each class, by its name; empty = the images have no labels, or nothing is known of a class alone."""
        names, scores = summary.class_names or [], {}
        ours, theirs = summary.class_statistics or {}, self.summary.class_statistics or {}
        for label in ours.keys() & theirs.keys():
            distance = frechet_distance(ours[label], theirs[label], warn=False)
            scores.setdefault(names[label], {})[self.distance_name] = distance
        for label, accuracy in (summary.class_accuracy or {}).items():
            scores.setdefault(names[label], {})["class_accuracy"] = accuracy
        return {name: scores[name] for name in names if name in scores}

    def nearest_train_distance(self, images: np.ndarray) -> float:
        """Mean distance of images to their nearest training image, as the root mean square over pixels that are in [0, 1].

        Args:
            images: (N, C, H, W) uint8.
        """
        queries = _as_rows(images)
        nearest = np.full(len(queries), np.inf)
        for block in torch.arange(len(self.train)).split(TABLE_BLOCK):
            distances, _ = nearest_distances(queries, _as_rows(self.train.images(block).numpy()))
            nearest = np.minimum(nearest, distances)
        return float(nearest.mean() / np.sqrt(queries.shape[1]))

    def floor(self, num_images: int) -> tuple[dict[str, float], dict[str, dict[str, float]], int] | None:
        """What real images score: metrics, metrics of each class, and how many images of the other split these are.

        Args:
            num_images: n; the floor is that of min(n, size of the other split) images, evenly spread over it.

        Returns:
            None = there is no other split, or one too small.
        """
        others = self.others
        if others is None or min(num_images, len(others)) < MIN_IMAGES:
            return None
        count = min(num_images, len(others))
        if ("floor", count) not in self._known:
            rows = torch.arange(count) * len(others) // count
            labels = None if others.class_labels is None else others.class_labels[rows]
            summary = self._summarise(((others.images(rows[part]), part) for part in self._parts(count)), count, labels)
            self._known["floor", count] = self._score_all(
                summary, others is self.test, lambda kept: others.images(rows[kept])
            )
        return (*self._known["floor", count], count)

    def ceiling(self, num_images: int) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
        """What uniform noise scores: metrics of as many images, and of each class."""
        if ("ceiling", num_images) not in self._known:
            labels = None
            if self.train.class_names is not None:
                labels = torch.arange(num_images) % len(self.train.class_names)
            images = ((self.noise(part), part) for part in self._parts(num_images))
            summary = self._summarise(images, num_images, labels)
            self._known["ceiling", num_images] = self._score_all(summary, True, self.noise)
        return self._known["ceiling", num_images]

    def noise(self, positions: torch.Tensor) -> torch.Tensor:
        """Uniform noise in place of images, (N, C, H, W) uint8, each a function of its position, (N,) int64 from 0."""
        shape = (self.train.channels, self.train.image_size, self.train.image_size)
        images = [
            torch.randint(256, shape, generator=torch.Generator().manual_seed(position), dtype=torch.uint8)
            for position in positions.tolist()
        ]
        return torch.stack(images)

    def _parts(self, count: int) -> Iterator[torch.Tensor]:
        """Positions of this process's share of so many images, in batches."""
        mine = torch.arange(count)[shard(count, self.processes)]
        return iter(mine.split(self.batch_size) if len(mine) else ())

    def _summarise(self, batches, num_images: int, labels: torch.Tensor | None) -> FeatureSummary:
        summary = self.new_summary(num_images, labelled=labels is not None)
        for images, positions in batches:
            summary.update(self.extractor(images), None if labels is None else labels[positions], positions)
        return merged([summary], self.new_summary(num_images, labelled=labels is not None), self.processes)

    def _score_all(self, summary: FeatureSummary, are_unseen: bool, images_at) -> tuple[dict, dict]:
        """Metrics and metrics of each class; with `are_unseen` the distance to training images is one."""

        def score() -> tuple[dict[str, float], dict[str, dict[str, float]]]:
            scores = self.score(summary)
            if are_unseen:
                kept = nearest_positions(summary.total_images)
                scores["nearest_train_distance"] = self.nearest_train_distance(images_at(kept).numpy())
            return scores, self.score_classes(summary)

        return broadcast_from_main(score, self.processes)


def merged(parts: list[FeatureSummary], whole: FeatureSummary, processes: PartialState) -> FeatureSummary:
    """All processes' summaries in one, the same in each of them; every process has to call it."""
    for part in gather(parts, processes):
        whole.merge(part)
    return whole


def nearest_positions(num_images: int) -> torch.Tensor:
    """Positions of the images whose nearest training image is sought: at most `NEAREST_IMAGES`, evenly spread."""
    count = min(num_images, NEAREST_IMAGES)
    return torch.arange(count) * num_images // count


def _as_rows(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).astype(np.float32) / 255
