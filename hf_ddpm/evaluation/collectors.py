"""The parts of a `FeatureSummary`: each collects one quantity from the batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from hf_ddpm.metrics.frechet import RunningStatistics
from hf_ddpm.metrics.inception_score import RunningInceptionScore, shuffled

MAX_CLASS_BYTES = 2**30
"""Moments are tracked per class if those of all classes take no more than this."""
NUM_SPLITS = 10
"""Splits of the images for the inception score."""
WAITING = 4096
"""Rows of features collected before they are added to the moments, which touches D x D numbers per class."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Features of B images."""

    rows: np.ndarray
    """(B, D) float32."""
    labels: np.ndarray | None
    """(B,) integers; None = images without labels."""
    positions: np.ndarray
    """(B,) int64."""
    probabilities: np.ndarray | None
    """(B, K) of the extractor's classes; None = it has none."""


class Collector(Protocol):
    """One part of a summary; no two parts use the same array name."""

    def update(self, batch: Batch) -> None: ...
    def merge(self, other: Any) -> None: ...
    def to_arrays(self) -> dict[str, np.ndarray]: ...
    def load_arrays(self, arrays: dict[str, np.ndarray]) -> None: ...


class Moments:
    """Moments of all images, and per class unless there are too many classes."""

    def __init__(self, dim: int, num_classes: int) -> None:
        self._dim, self._waiting = dim, list[tuple[np.ndarray, np.ndarray | None]]()
        self._groups: dict[int | None, RunningStatistics] = {None: RunningStatistics(dim)}
        self.has_classes = 0 < num_classes * dim**2 * 8 <= MAX_CLASS_BYTES

    @property
    def num_images(self) -> int:
        return self._groups[None].num_images + sum(len(rows) for rows, _ in self._waiting)

    @property
    def groups(self) -> dict[int | None, RunningStatistics]:
        """By label; None = all images."""
        self._add_waiting()
        return self._groups

    def classes(self) -> dict[int, RunningStatistics]:
        """By label, in ascending order."""
        return {label: self.groups[label] for label in sorted(label for label in self.groups if label is not None)}

    def update(self, batch: Batch) -> None:
        self._waiting.append((batch.rows, batch.labels))
        if sum(len(rows) for rows, _ in self._waiting) >= WAITING:
            self._add_waiting()

    def merge(self, other: Moments) -> None:
        for label, statistics in other.groups.items():
            self.groups.setdefault(label, RunningStatistics(self._dim)).merge(statistics)

    def to_arrays(self) -> dict[str, np.ndarray]:
        whole, classes, dim = self.groups[None], self.classes(), self._dim
        return {
            "num_images": np.array([whole.num_images]),
            "mean": whole.mean,
            "scatter": whole.scatter,
            "class_labels": np.array(list(classes), dtype=np.int64),
            "class_num_images": np.array([found.num_images for found in classes.values()], dtype=np.int64),
            "class_mean": np.array([found.mean for found in classes.values()]).reshape(-1, dim),
            "class_scatter": np.array([found.scatter for found in classes.values()]).reshape(-1, dim, dim),
        }

    def load_arrays(self, arrays: dict[str, np.ndarray]) -> None:
        dim = self._dim
        counts = _array(arrays, "num_images", np.int64, (1,))
        mean, scatter = _array(arrays, "mean", np.float64, (dim,)), _array(arrays, "scatter", np.float64, (dim, dim))
        labels = _array(arrays, "class_labels", np.int64, (None,))
        class_counts = _array(arrays, "class_num_images", np.int64, (len(labels),))
        class_means = _array(arrays, "class_mean", np.float64, (len(labels), dim))
        class_scatters = _array(arrays, "class_scatter", np.float64, (len(labels), dim, dim))
        self._groups = {None: _statistics(counts[0], mean, scatter)}
        for label, *moments in zip(labels.tolist(), class_counts, class_means, class_scatters, strict=True):
            self._groups[label] = _statistics(*moments)

    def _add_waiting(self) -> None:
        if not self._waiting:
            return
        rows = np.concatenate([rows for rows, _ in self._waiting])
        self._groups[None].update(rows)
        if self.has_classes:
            labels = np.concatenate([labels for _, labels in self._waiting if labels is not None])
            for label in np.unique(labels).tolist():
                self._groups.setdefault(label, RunningStatistics(self._dim)).update(rows[labels == label])
        self._waiting = []


class KeptFeatures:
    """Features and labels of m of the n images, the same for equal m and n, and independent of classes that take turns."""

    def __init__(self, dim: int, total_images: int, num_kept: int) -> None:
        self._kept = np.sort(shuffled(total_images)[:num_kept])
        self.features = np.zeros((num_kept, dim), dtype=np.float32)
        self.labels = np.zeros(num_kept, dtype=np.int64)
        self.is_kept = np.zeros(num_kept, dtype=bool)

    def has_any(self, positions: np.ndarray) -> bool:
        """Whether one of these positions is kept already, or occurs twice."""
        slots = self._slots(positions)[1]
        return bool(self.is_kept[slots].any()) or len(np.unique(slots)) < len(slots)

    def update(self, batch: Batch) -> None:
        chosen, slots = self._slots(batch.positions)
        self.features[slots], self.is_kept[slots] = batch.rows[chosen], True
        if batch.labels is not None:
            self.labels[slots] = batch.labels[chosen]

    def merge(self, other: KeptFeatures) -> None:
        self.features[other.is_kept] = other.features[other.is_kept]
        self.labels[other.is_kept] = other.labels[other.is_kept]
        self.is_kept |= other.is_kept

    def to_arrays(self) -> dict[str, np.ndarray]:
        return {"kept_features": self.features, "kept_labels": self.labels}

    def load_arrays(self, arrays: dict[str, np.ndarray]) -> None:
        self.features = _array(arrays, "kept_features", np.float32, self.features.shape)
        self.labels = _array(arrays, "kept_labels", np.int64, self.labels.shape)
        self.is_kept[:] = True

    def _slots(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(B,) bool, whether each position is to be kept, and the slots of those that are."""
        slots = np.searchsorted(self._kept, positions)
        chosen = self._kept[np.minimum(slots, len(self._kept) - 1)] == positions
        return chosen, slots[chosen]


class Agreement:
    """Number of images per class, and of those whose class the extractor predicts."""

    def __init__(self, num_classes: int, prediction_of: np.ndarray | None) -> None:
        self.counts, self.correct = np.zeros((2, num_classes), dtype=np.int64)
        self.prediction_of = prediction_of
        """(C,) index of each class among the predicted ones; None = predictions are not compared."""

    def update(self, batch: Batch) -> None:
        if batch.labels is None:
            return
        np.add.at(self.counts, batch.labels, 1)
        if self.prediction_of is not None:
            assert batch.probabilities is not None, "an extractor with class names predicts"
            is_correct = batch.probabilities.argmax(axis=1) == self.prediction_of[batch.labels]
            np.add.at(self.correct, batch.labels, is_correct)

    def merge(self, other: Agreement) -> None:
        self.counts += other.counts
        self.correct += other.correct

    def to_arrays(self) -> dict[str, np.ndarray]:
        return {"counts": self.counts, "correct": self.correct}

    def load_arrays(self, arrays: dict[str, np.ndarray]) -> None:
        self.counts = _array(arrays, "counts", np.int64, self.counts.shape)
        self.correct = _array(arrays, "correct", np.int64, self.correct.shape)


class InceptionScore:
    """Inception score, if the extractor predicts classes and there are enough images."""

    def __init__(self, total_images: int) -> None:
        self._total_images = total_images
        self.running: RunningInceptionScore | None = None

    def update(self, batch: Batch) -> None:
        if batch.probabilities is not None and self._total_images >= NUM_SPLITS:
            score = RunningInceptionScore(batch.probabilities.shape[1], NUM_SPLITS)
            score.update(batch.probabilities, batch.positions, self._total_images)
            self._add(score)

    def merge(self, other: InceptionScore) -> None:
        if other.running is not None:
            self._add(other.running)

    def to_arrays(self) -> dict[str, np.ndarray]:
        if (score := self.running) is None:
            return {}
        entropies = score.negative_entropies
        return {"score_counts": score.counts, "score_sums": score.sums, "score_negative_entropies": entropies}

    def load_arrays(self, arrays: dict[str, np.ndarray]) -> None:
        if "score_sums" not in arrays:
            return
        sums = _array(arrays, "score_sums", np.float64, (NUM_SPLITS, None))
        self.running = score = RunningInceptionScore(sums.shape[1], NUM_SPLITS)
        score.num_images, score.sums = self._total_images, sums
        score.counts = _array(arrays, "score_counts", np.int64, (NUM_SPLITS,))
        score.negative_entropies = _array(arrays, "score_negative_entropies", np.float64, (NUM_SPLITS,))

    def _add(self, score: RunningInceptionScore) -> None:
        if self.running is None:
            self.running = RunningInceptionScore(score.sums.shape[1], NUM_SPLITS)
        self.running.merge(score)


def _statistics(num_images: np.integer, mean: np.ndarray, scatter: np.ndarray) -> RunningStatistics:
    statistics = RunningStatistics(len(mean))
    statistics.num_images, statistics.mean, statistics.scatter = int(num_images), mean, scatter
    return statistics


def _array(arrays: dict[str, np.ndarray], name: str, dtype: type, shape: tuple[int | None, ...]) -> np.ndarray:
    """An array of finite numbers, checked for its type and shape (None = any size)."""
    array = arrays.get(name)
    if array is None or array.dtype != dtype or array.ndim != len(shape):
        raise ValueError(f"{name} is missing or of another type")
    fits = all(size in (None, actual) for size, actual in zip(shape, array.shape, strict=True))
    if not fits or not np.isfinite(array).all():
        raise ValueError(f"{name} has another shape, or numbers that are not finite")
    return array
