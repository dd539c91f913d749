"""Summary of the features of n images in one pass: moments, a sample of features, and classifier accuracy."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import numpy as np
from accelerate import PartialState
from numpy.typing import ArrayLike

from hf_ddpm.evaluation.collectors import Agreement, Batch, Collector, InceptionScore, KeptFeatures, Moments
from hf_ddpm.evaluation.features import Extractor, Features
from hf_ddpm.metrics.frechet import GaussianStatistics
from hf_ddpm.pipeline import check_number
from hf_ddpm.runtime.distributed import gather


@dataclass(kw_only=True, eq=False)
class FeatureSummary:
    """Collects features from one pass over n images; a `ValueError` if the extractor lacks a label's name.

    The result depends on the images and their positions, and (up to rounding of 1e-9) not on batches, order or number of
    processes. Memory does not grow with n: D^2 float64 for the moments, times 1 + the number of classes if these are
    tracked; `max_features` times D float32; and a buffer of 4096 times D float32.
    """

    dim: int
    """D, features per image."""
    total_images: int
    """n, over all updates of all processes, at least 1."""
    max_features: int = 10_000
    """Features to keep at most, at least 1; see `KeptFeatures`."""
    class_names: list[str] | None = None
    """Names of the C classes in the order of the labels; None = images without labels."""
    predicted_class_names: list[str] | None = None
    """Names of the K classes in the order of the extractor's probabilities; None = no names, and no accuracy."""

    def __post_init__(self) -> None:
        check_number("total_images", self.total_images, 1, integer=True)
        check_number("max_features", self.max_features, 1, integer=True)
        num_classes = len(self.class_names or [])
        self._moments = Moments(self.dim, num_classes)
        self._kept = KeptFeatures(self.dim, self.total_images, min(self.total_images, self.max_features))
        self._agreement = Agreement(num_classes, _match_classes(self.class_names, self.predicted_class_names))
        self._score = InceptionScore(self.total_images)
        self._collectors: tuple[Collector, ...] = (self._moments, self._kept, self._agreement, self._score)

    def update(self, features: Features, class_labels: ArrayLike | None, positions: ArrayLike) -> None:
        """Add B images; a `ValueError` for wrong labels or positions, or a feature that is not finite.

        Labels are (B,) integers in [0, C), None = images without labels; positions (B,) integers in [0, n), each only once.
        """
        # Copies, because rows and labels are buffered, and the caller may reuse the memory.
        rows, positions = np.asarray(features.features, dtype=np.float32).copy(), np.asarray(positions)
        labels = None if class_labels is None else np.asarray(class_labels).copy()
        self._check_batch(rows, labels, positions)
        positions = positions.astype(np.int64)
        self._check_new(self._kept.has_any(positions), len(rows))
        probabilities = None if features.probabilities is None else np.asarray(features.probabilities)
        batch = Batch(rows=rows, labels=labels, positions=positions, probabilities=probabilities)
        for collector in self._collectors:
            collector.update(batch)

    def merge(self, other: FeatureSummary) -> None:
        """Add the part of the n images that another process has seen; a `ValueError` if an image is in both."""
        assert asdict(self) == asdict(other), "summaries of one pass are made with the same options"
        self._check_new(bool((self._kept.is_kept & other._kept.is_kept).any()), other.num_images)
        for mine, theirs in zip(self._collectors, other._collectors, strict=True):
            mine.merge(theirs)

    def of_all_processes(self, processes: PartialState) -> FeatureSummary:
        """Merge the summaries of all processes; every process must call it, and gets the same."""
        whole = replace(self)
        for part in gather([self], processes):
            whole.merge(part)
        return whole

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Everything collected, as arrays of numbers; `load_arrays` is the inverse."""
        self._check_complete()
        return {name: array for collector in self._collectors for name, array in collector.to_arrays().items()}

    def load_arrays(self, arrays: dict[str, np.ndarray]) -> None:
        """Restore from `to_arrays` of a summary with the same options; a `ValueError` if an array does not fit."""
        for collector in self._collectors:
            collector.load_arrays(arrays)
        self._check_complete()

    @property
    def num_images(self) -> int:
        """Images seen so far."""
        return self._moments.num_images

    @property
    def statistics(self) -> GaussianStatistics:
        """Moments of all n images; here and below, a `ValueError` unless all have been seen."""
        self._check_complete()
        return self._moments.groups[None].result()

    @property
    def class_statistics(self) -> dict[int, GaussianStatistics] | None:
        """Moments by label, of classes with at least 2 images; None = no labels, or too many classes."""
        self._check_complete()
        if not self._moments.has_classes:
            return None
        return {label: found.result() for label, found in self._moments.classes().items() if found.num_images > 1}

    @property
    def kept_features(self) -> np.ndarray:
        """(m, D) float32, in the order of their positions, see `KeptFeatures`."""
        self._check_complete()
        return self._kept.features

    @property
    def accuracy(self) -> float | None:
        """Fraction of images whose label the extractor predicts; None = no labels or predictions."""
        self._check_complete()
        found = self._agreement
        return None if found.prediction_of is None else float(found.correct.sum() / found.counts.sum())

    @property
    def class_accuracy(self) -> dict[int, float] | None:
        """`accuracy` by label, of classes with images."""
        self._check_complete()
        found = self._agreement
        if found.prediction_of is None:
            return None
        return {int(label): float(found.correct[label] / found.counts[label]) for label in found.counts.nonzero()[0]}

    @property
    def inception_score(self) -> tuple[float, float] | None:
        """Mean and standard deviation over 10 splits; None = no probabilities, or fewer than 10 images."""
        self._check_complete()
        return None if self._score.running is None else self._score.running.result()

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

    def _check_new(self, is_repeated: bool, num_images: int) -> None:
        """Refuse repeated images, as far as this is known without remembering all positions."""
        if is_repeated or self.num_images + num_images > self.total_images:
            raise ValueError(f"an image was given twice: give each of the {self.total_images} positions once")

    def _check_complete(self) -> None:
        if self.num_images != self.total_images or not self._kept.is_kept.all():
            raise ValueError(f"the summary has seen {self.num_images} of {self.total_images} images: give each of them once")


def empty_summary(extractor: Extractor, total_images: int, max_features: int, names: list[str] | None) -> FeatureSummary:
    """A `FeatureSummary` for this extractor; `names` are its class names."""
    classes = {"class_names": names, "predicted_class_names": extractor.class_names}
    return FeatureSummary(dim=extractor.dim, total_images=total_images, max_features=max_features, **classes)


def _match_classes(class_names: list[str] | None, predicted: list[str] | None) -> np.ndarray | None:
    """(C,) index of each label's name among the predicted ones; None = no labels or no predictions."""
    if class_names is None or predicted is None:
        return None
    unknown = [name for name in class_names if name not in predicted]
    if unknown:
        raise ValueError(
            f"the extractor knows {', '.join(predicted)[:60]} but not {unknown[0]!r}: use a judge of these images' data"
        )
    return np.array([predicted.index(name) for name in class_names], dtype=np.int64)
