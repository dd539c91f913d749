"""Results of an evaluation, as a file keeps them: `Results.read(RunFolder("runs/digits").results / "eval.json")`."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

from hf_ddpm.runtime.reading import parse_json


@dataclass(frozen=True, kw_only=True)
class MetricValue:
    """A metric over the sampling seeds."""

    mean: float
    """Mean over the seeds."""
    stderr: float | None
    """Its standard error; None = a single seed."""
    n: int | None
    """Images behind each value; None = they differ."""
    values: list[float]
    """The metric of each seed."""

    @classmethod
    def over_seeds(cls, values: list[float], *, n: int | None, **more: Any) -> Self:
        """Mean and standard error of the values of at least one seed."""
        stderr = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
        return cls(mean=statistics.fmean(values), stderr=stderr, n=n, values=values, **more)


@dataclass(frozen=True, kw_only=True)
class ClassMetricValue(MetricValue):
    """A metric of the images of one class."""

    floor: float | None
    """The metric of real images of the class; None = unknown."""


Metric = TypeVar("Metric", bound=MetricValue)


@dataclass(kw_only=True)
class Results:
    """Metrics, the scores of real images and noise, and everything needed to repeat the evaluation."""

    metrics: dict[str, MetricValue]
    """By name."""
    floor: dict[str, float]
    """Metrics of real images from the split that is not the reference; empty = there is no other split."""
    ceiling: dict[str, float]
    """Metrics of uniform noise."""
    per_class: dict[str, dict[str, ClassMetricValue]] = field(default_factory=dict)
    """By class, then by metric; empty = no classes."""
    notes: list[str] = field(default_factory=list)
    """What a reader must know about the metrics."""
    protocol: dict[str, Any] = field(default_factory=dict)
    """JSON values: command, model, seeds, sampling, features, data, versions, machine; only keys that apply."""

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Results:
        """Read the text of a results file; only `metrics` is required. ValueError: it is damaged, or not of results."""
        try:
            found = parse_json(text)
            return cls(
                metrics=read_metrics(MetricValue, found["metrics"]),
                floor={name: _number(value) for name, value in found.get("floor", {}).items()},
                ceiling={name: _number(value) for name, value in found.get("ceiling", {}).items()},
                per_class={label: read_metrics(ClassMetricValue, its) for label, its in found.get("per_class", {}).items()},
                notes=[str(note) for note in found.get("notes", [])],
                protocol=dict(found.get("protocol", {})),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            message = "these are not the results of an evaluation, with metrics, floor, ceiling and protocol"
            raise ValueError(message) from error

    @classmethod
    def read(cls, path: Path) -> Results:
        """Read a results file; `ValueError`: it is damaged, or not of results, `OSError`: it cannot be read."""
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is damaged: {error}") from error


def read_metrics(kind: type[Metric], found: dict[str, dict[str, Any]]) -> dict[str, Metric]:
    """Metrics by name from JSON values; a `TypeError`, or another error, if they are of another kind."""
    metrics = {name: kind(**value) for name, value in found.items()}
    for metric in metrics.values():
        for value in (metric.mean, *metric.values, *(it for it in (metric.stderr, metric.n) if it is not None)):
            _number(value)
    return metrics


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} is not a number")
    return value
