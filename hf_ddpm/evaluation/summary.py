"""What one pass over n images leaves of their features: moments, a sample of them, and how often a classifier agrees.

summary = FeatureSummary(dim=extractor.dim, total_images=n, class_names=names, predicted_class_names=extractor.class_names)
summary.update(extractor(images), class_labels, positions)      # in any order, in any batches
summary.merge(summary_of_another_process)
frechet_distance(summary.statistics, other.statistics)
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hf_ddpm.evaluation.features import Features
from hf_ddpm.metrics.frechet import GaussianStatistics, RunningStatistics
from hf_ddpm.metrics.inception_score import RunningInceptionScore
from hf_ddpm.pipeline import check_number

MAX_FEATURES = 10_000
MAX_CLASS_BYTES = 2**30
"""Moments of each class are kept if those of all classes take no more than this."""
NUM_SPLITS = 10
"""Parts of the images for the inception score."""
_WAITING = 4096  # rows of features that wait to be added, because D x D numbers are touched for every class each time


class FeatureSummary:
    """Collects features from one pass over n images.

    The result depends on the images and their positions, and up to rounding (1e-9) neither on the batches, nor on their
    order, nor on the number of processes. The memory does not grow with n: moments of D^2 float64, times 1 + the number of
    classes while these are tracked; `max_features` times D float32; and 4096 times D float32 that wait to be added.

    Attributes:
        total_images: n.
        max_features: how many features are kept at most, those of the positions floor(i n / m), m = min(n, max_features).
        class_names: of the labels; None = images without labels.
    """

    def __init__(
        self,
        *,
        dim: int,
        total_images: int,
        max_features: int = MAX_FEATURES,
        class_names: list[str] | None = None,
        predicted_class_names: list[str] | None = None,
    ) -> None:
        """
        Args:
            dim: D, features an image.
            total_images: n, the images of all updates of all processes together, at least 1.
            max_features: see the attribute, at least 1.
            class_names: names of the C classes in the order of the labels; None = images without labels.
            predicted_class_names: names of the K classes in the order of the extractor's probabilities; None = it predicts
                none that have names, and no accuracy is counted.

        Raises:
            ValueError: a number is out of range, or the extractor does not know one of the labels' names.
        """
        check_number("total_images", total_images, 1, integer=True)
        check_number("max_features", max_features, 1, integer=True)
        self.total_images, self.max_features, self.class_names = total_images, max_features, class_names
        self.dim, self.predicted_class_names = dim, predicted_class_names
        self._statistics = RunningStatistics(dim)
        num_classes = len(class_names or [])
        self._has_class_statistics = 0 < num_classes * dim**2 * 8 <= MAX_CLASS_BYTES
        self._class_statistics: dict[int, RunningStatistics] = {}
        num_kept = min(total_images, max_features)
        self._kept = np.zeros((num_kept, dim), dtype=np.float32)
        self._kept_labels = np.zeros(num_kept, dtype=np.int64)
        self._is_kept = np.zeros(num_kept, dtype=bool)
        self._counts, self._correct = np.zeros((2, num_classes), dtype=np.int64)
        self._prediction_of = _match_classes(class_names, predicted_class_names)
        self._inception_score: RunningInceptionScore | None = None
        self._waiting: list[tuple[np.ndarray, np.ndarray | None]] = []

    def update(self, features: Features, class_labels: ArrayLike | None, positions: ArrayLike) -> None:
        """Add a batch.

        Args:
            features: of B images.
            class_labels: (B,) integers in [0, C); None = images without labels.
            positions: (B,) integers in [0, n), where each image stands among all.

        Raises:
            ValueError: labels or positions that are not such, a position that came before, or a feature that is not finite.
        """
        # Copies, because they wait, and the caller may write the next batch into the same memory.
        rows, positions = np.asarray(features.features, dtype=np.float32).copy(), np.asarray(positions)
        labels = None if class_labels is None else np.asarray(class_labels).copy()
        self._check_batch(rows, labels, positions)
        positions = positions.astype(np.int64)
        assert self._prediction_of is None or features.probabilities is not None, "an extractor with class names predicts"
        self._keep(rows, labels, positions)
        if labels is not None:
            np.add.at(self._counts, labels, 1)
        if features.probabilities is not None:
            probabilities = np.asarray(features.probabilities)
            if self._prediction_of is not None:
                is_correct = probabilities.argmax(axis=1) == self._prediction_of[labels]
                np.add.at(self._correct, labels, is_correct)
            if self.total_images >= NUM_SPLITS:
                score = RunningInceptionScore(probabilities.shape[1], NUM_SPLITS)
                score.update(probabilities, positions, self.total_images)
                self._add_score(score)
        self._waiting.append((rows, labels))
        if sum(len(waiting) for waiting, _ in self._waiting) >= _WAITING:
            self._add_waiting()

    def merge(self, other: FeatureSummary) -> None:
        """Add what another process has seen of the same n images.

        Raises:
            ValueError: both have seen the same image.
        """
        assert self._options() == other._options(), "summaries of one pass are made with the same options"
        self._check_new(other._is_kept.nonzero()[0], other.num_images)
        for summary in (self, other):
            summary._add_waiting()
        self._statistics.merge(other._statistics)
        for label, statistics in other._class_statistics.items():
            self._class_statistics.setdefault(label, RunningStatistics(self.dim)).merge(statistics)
        self._kept[other._is_kept] = other._kept[other._is_kept]
        self._kept_labels[other._is_kept] = other._kept_labels[other._is_kept]
        self._is_kept |= other._is_kept
        self._counts += other._counts
        self._correct += other._correct
        if other._inception_score is not None:
            self._add_score(other._inception_score)

    @property
    def num_images(self) -> int:
        """Images seen so far."""
        return self._statistics.num_images + sum(len(rows) for rows, _ in self._waiting)

    @property
    def statistics(self) -> GaussianStatistics:
        """Moments of all n images.

        Raises:
            ValueError: of this and all that follow: not all of the n images have been seen.
        """
        self._check_complete()
        return self._statistics.result()

    @property
    def class_statistics(self) -> dict[int, GaussianStatistics] | None:
        """Moments of the images of each class that has at least 2, by label; None = no labels, or too many classes."""
        self._check_complete()
        if not self._has_class_statistics:
            return None
        found = sorted(self._class_statistics.items())
        return {label: statistics.result() for label, statistics in found if statistics.num_images > 1}

    @property
    def kept_positions(self) -> np.ndarray:
        """(m,) int64, ascending: the positions whose features are kept."""
        num_kept = len(self._kept)
        return np.arange(num_kept) * self.total_images // num_kept

    @property
    def kept_features(self) -> np.ndarray:
        """(m, D) float32, in the order of the positions."""
        self._check_complete()
        return self._kept

    @property
    def kept_labels(self) -> np.ndarray | None:
        """(m,) int64 labels of the kept features; None = images without labels."""
        self._check_complete()
        return None if self.class_names is None else self._kept_labels

    @property
    def accuracy(self) -> float | None:
        """Share of the images of whose class the extractor says that it is their label; None = no labels or predictions."""
        self._check_complete()
        return None if self._prediction_of is None else float(self._correct.sum() / self._counts.sum())

    @property
    def class_accuracy(self) -> dict[int, float] | None:
        """`accuracy` of each class that has images, by label."""
        self._check_complete()
        if self._prediction_of is None:
            return None
        return {int(label): float(self._correct[label] / self._counts[label]) for label in self._counts.nonzero()[0]}

    @property
    def class_counts(self) -> dict[int, int] | None:
        """Images of each class, by label; None = images without labels."""
        return None if self.class_names is None else {label: int(count) for label, count in enumerate(self._counts)}

    @property
    def inception_score(self) -> tuple[float, float] | None:
        """Mean and standard deviation over 10 parts of the images; None = no probabilities, or fewer than 10 images."""
        self._check_complete()
        return None if self._inception_score is None else self._inception_score.result()

    def to_arrays(self) -> dict[str, np.ndarray]:
        """All that was collected, as arrays of numbers; `load_arrays` is the inverse."""
        self._check_complete()
        labels = sorted(self._class_statistics)
        of_classes = [self._class_statistics[label] for label in labels]
        arrays = {
            "num_images": np.array([self._statistics.num_images]),
            "mean": self._statistics.mean,
            "scatter": self._statistics.scatter,
            "class_labels": np.array(labels, dtype=np.int64),
            "class_num_images": np.array([statistics.num_images for statistics in of_classes], dtype=np.int64),
            "class_mean": np.array([statistics.mean for statistics in of_classes]).reshape(-1, self.dim),
            "class_scatter": np.array([statistics.scatter for statistics in of_classes]).reshape(-1, self.dim, self.dim),
            "kept_features": self._kept,
            "kept_labels": self._kept_labels,
            "counts": self._counts,
            "correct": self._correct,
        }
        score = self._inception_score
        if score is not None:
            arrays["score_counts"], arrays["score_sums"] = score.counts, score.sums
            arrays["score_negative_entropies"] = score.negative_entropies
        return arrays

    def load_arrays(self, arrays: dict[str, np.ndarray]) -> None:
        """Take over what `to_arrays` of a summary with the same options returned.

        Raises:
            ValueError: an array is missing, or has another type or shape or numbers than such a summary has.
        """
        num_classes, num_kept = len(self.class_names or []), len(self._kept)
        class_labels = _array(arrays, "class_labels", np.int64, (None,))
        num_present = len(class_labels)
        self._statistics = _statistics(
            _array(arrays, "num_images", np.int64, (1,))[0],
            _array(arrays, "mean", np.float64, (self.dim,)),
            _array(arrays, "scatter", np.float64, (self.dim, self.dim)),
        )
        each = zip(
            class_labels.tolist(),
            _array(arrays, "class_num_images", np.int64, (num_present,)),
            _array(arrays, "class_mean", np.float64, (num_present, self.dim)),
            _array(arrays, "class_scatter", np.float64, (num_present, self.dim, self.dim)),
            strict=True,
        )
        self._class_statistics = {label: _statistics(*moments) for label, *moments in each}
        self._kept = _array(arrays, "kept_features", np.float32, (num_kept, self.dim))
        self._kept_labels = _array(arrays, "kept_labels", np.int64, (num_kept,))
        self._is_kept[:] = True
        self._counts = _array(arrays, "counts", np.int64, (num_classes,))
        self._correct = _array(arrays, "correct", np.int64, (num_classes,))
        if "score_sums" in arrays:
            sums = _array(arrays, "score_sums", np.float64, (NUM_SPLITS, None))
            self._inception_score = score = RunningInceptionScore(sums.shape[1], NUM_SPLITS)
            score.num_images, score.sums = self.total_images, sums
            score.counts = _array(arrays, "score_counts", np.int64, (NUM_SPLITS,))
            score.negative_entropies = _array(arrays, "score_negative_entropies", np.float64, (NUM_SPLITS,))
        self._check_complete()

    def _options(self) -> tuple[Any, ...]:
        return self.dim, self.total_images, self.max_features, self.class_names, self.predicted_class_names

    def _keep(self, rows: np.ndarray, labels: np.ndarray | None, positions: np.ndarray) -> None:
        """Copy the rows whose positions are among those that are kept."""
        num_kept = len(self._kept)
        slots = -(-positions * num_kept // self.total_images)  # the only i for which floor(i n / m) can be the position
        chosen = (slots < num_kept) & (slots * self.total_images // num_kept == positions)
        slots = slots[chosen]
        self._check_new(slots, len(rows))
        self._kept[slots], self._is_kept[slots] = rows[chosen], True
        if labels is not None:
            self._kept_labels[slots] = labels[chosen]

    def _check_batch(self, rows: np.ndarray, labels: np.ndarray | None, positions: np.ndarray) -> None:
        assert rows.ndim == 2 and rows.shape[1] == self.dim, "features come from the extractor of this summary"
        if not np.isfinite(rows).all():
            position = positions[~np.isfinite(rows).all(axis=1)][0]
            raise ValueError(f"the features of image {position} are not finite: look at it and at the extractor's weights")
        if (labels is None) != (self.class_names is None):
            raise ValueError(f"class_labels is {labels}: give labels exactly where the summary has class_names")
        num_classes = len(self.class_names or [])
        for name, values, limit in (("class_labels", labels, num_classes), ("positions", positions, self.total_images)):
            if values is None:
                continue
            in_range = values.dtype.kind in "iu" and ((values >= 0) & (values < limit)).all()
            if values.shape != (len(rows),) or not in_range:
                raise ValueError(f"{name} is {values}: give {len(rows)} integers in [0, {limit})")

    def _check_new(self, slots: np.ndarray, num_images: int) -> None:
        """Refuse what was seen before, as far as it can be known without remembering all positions."""
        repeated = self._is_kept[slots].any() or len(np.unique(slots)) < len(slots)
        if repeated or self.num_images + num_images > self.total_images:
            raise ValueError(f"an image came twice: give each of the {self.total_images} positions once")

    def _check_complete(self) -> None:
        self._add_waiting()
        if self.num_images != self.total_images or not self._is_kept.all():
            raise ValueError(f"the summary has seen {self.num_images} of {self.total_images} images: give each of them once")

    def _add_waiting(self) -> None:
        if not self._waiting:
            return
        rows = np.concatenate([rows for rows, _ in self._waiting])
        self._statistics.update(rows)
        if self._has_class_statistics:
            labels = np.concatenate([labels for _, labels in self._waiting])
            for label in np.unique(labels).tolist():
                self._class_statistics.setdefault(label, RunningStatistics(self.dim)).update(rows[labels == label])
        self._waiting = []

    def _add_score(self, score: RunningInceptionScore) -> None:
        if self._inception_score is None:
            self._inception_score = RunningInceptionScore(score.sums.shape[1], NUM_SPLITS)
        self._inception_score.merge(score)


def _match_classes(class_names: list[str] | None, predicted: list[str] | None) -> np.ndarray | None:
    """(C,) the index of each label's name among the predicted ones; None = there are no labels or no predictions."""
    if class_names is None or predicted is None:
        return None
    unknown = [name for name in class_names if name not in predicted]
    if unknown:
        raise ValueError(
            f"the extractor knows {', '.join(predicted)[:60]} and no {unknown[0]!r}: take a judge of these images' data"
        )
    return np.array([predicted.index(name) for name in class_names], dtype=np.int64)


def _statistics(num_images: np.integer, mean: np.ndarray, scatter: np.ndarray) -> RunningStatistics:
    statistics = RunningStatistics(len(mean))
    statistics.num_images, statistics.mean, statistics.scatter = int(num_images), mean, scatter
    return statistics


def _array(arrays: dict[str, np.ndarray], name: str, dtype: type, shape: tuple[int | None, ...]) -> np.ndarray:
    """An array of finite numbers with the type and shape that it must have, None = any size."""
    array = arrays.get(name)
    if array is None or array.dtype != dtype or array.ndim != len(shape):
        raise ValueError(f"{name} is missing or of another type")
    if (
        any(size not in (None, actual) for size, actual in zip(shape, array.shape, strict=True))
        or not np.isfinite(array).all()
    ):
        raise ValueError(f"{name} has another shape, or numbers that are not finite")
    return array
