"""Rows of a sweep, as CSV and as a Markdown table: `sweep_csv(rows)`, `sweep_markdown(rows, command=...)`."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from hf_ddpm.experiments.options import NOISE, SAMPLING_AXES, GridPoint
from hf_ddpm.markdown import code_block, counted, mean_with_error, number, table, value_text
from hf_ddpm.results import ClassMetricValue, MetricValue, Results

AXES = (
    "recipe", "train_seed", "checkpoint", "sigma_rel", "scheduler", "num_inference_steps", "guidance_scale", "guidance",
    "guidance_interval", "num_images",
)  # fmt: skip
COSTS = ("network_calls", "num_seeds", "floor_num_images")
MEAN = "mean"
"""Training seed of a row that is a mean over the training seeds."""
MAIN_METRICS = ("precision", "recall", "class_accuracy", "nearest_train_distance")

Value = TypeVar("Value")
Metric = TypeVar("Metric", bound=MetricValue)


@dataclass(frozen=True, kw_only=True)
class SweepRow:
    """A measured point of the grid. FID names omit the number of images, which is an axis here."""

    cell: str
    """Name of the file of results, without the ending."""
    recipe: str | None
    train_seed: int | str | None
    """Or `mean`: the metrics are means over the training seeds."""
    checkpoint: int | str | None = None
    """Step, or `noise`; None = not an axis."""
    sigma_rel: float | None = None
    """Length of the average of the weights; None = not an axis."""
    scheduler: str | None
    """Here and below: None = noise or a GAN, which does not depend on it."""
    num_inference_steps: int | None
    guidance_scale: float | None
    guidance: str | None = None
    """None = the default of the pipeline."""
    guidance_interval: tuple[float, float] | None = None
    """Fractions of T; None = the default of the model, which is usually everywhere."""
    num_images: int
    """Images of each sampling seed."""
    network_calls: int | None
    """Number of function evaluations (NFE): images that the network processes per sample; None = noise."""
    num_seeds: int
    floor_num_images: int | None
    """Real images behind `floor`; None = no floor."""
    metrics: dict[str, MetricValue]
    floor: dict[str, float]
    """Metrics of real images."""
    ceiling: dict[str, float]
    """Metrics of uniform noise."""
    per_class: dict[str, dict[str, ClassMetricValue]]
    """Metrics by class and name; empty = no classes."""

    @classmethod
    def of(cls, point: GridPoint, results: Results) -> SweepRow:
        axes, protocol = {axis: getattr(point, axis) for axis in AXES}, results.protocol
        if not (point.is_noise or point.is_gan):
            axes |= {"scheduler": point.scheduler or protocol["scheduler"], "guidance_scale": protocol["guidance_scale"]}
        return cls(
            cell=point.name,
            **axes,
            network_calls=protocol.get("network_calls"),
            num_seeds=len(protocol["seeds"]),
            floor_num_images=protocol["floor_num_images"],
            metrics=_plain_names(results.metrics),
            floor=_plain_names(results.floor),
            ceiling=_plain_names(results.ceiling),
            per_class={label: _plain_names(metrics) for label, metrics in results.per_class.items()},
        )

    def columns(self) -> dict[str, Any]:
        """Plain values by the names of columns: `cell`, AXES, COSTS, and each metric with its parts."""
        row = {name: getattr(self, name) for name in ("cell", *AXES, *COSTS)}
        for name, value in self.metrics.items():
            row |= {name: value.mean, f"{name}_stderr": value.stderr, f"{name}_n": value.n}
            row |= {f"{name}_floor": self.floor.get(name), f"{name}_ceiling": self.ceiling.get(name)}
        return row


def means_over_trainings(rows: Iterable[SweepRow]) -> list[SweepRow]:
    """One row for those that differ in the training seed alone.

    Each metric is the mean of the trainings, with the standard error over them; a training counts with its mean over the
    sampling seeds.
    """
    groups: dict[tuple[Any, ...], list[SweepRow]] = {}
    for row in rows:
        groups.setdefault(tuple(getattr(row, axis) for axis in AXES if axis != "train_seed"), []).append(row)
    return [
        replace(
            group[0],
            train_seed=MEAN,
            metrics=_means([row.metrics for row in group]),
            per_class={label: _means([row.per_class[label] for row in group]) for label in group[0].per_class},
        )
        for group in groups.values()
    ]


def plain_name(metric: str) -> str:
    """Name of a metric without the number of images: `fid_train` of `fid1k_train`."""
    return re.sub(r"^fid\d+k?_", "fid_", metric)


def varying_axes(rows: Sequence[SweepRow]) -> list[str]:
    """Axes with at least two values."""
    return [axis for axis in AXES if len({getattr(row, axis) for row in rows} - {None}) > 1]


def metric_names(rows: Iterable[SweepRow]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.metrics))


def distance_name(rows: Sequence[SweepRow]) -> str:
    """The Frechet distance of the rows."""
    return next(name for name in metric_names(rows) if name.startswith(("fid", "fd_")))


def sweep_csv(rows: Sequence[SweepRow]) -> str:
    """One line per point: axes, costs, and each metric with its parts; empty where a point has no value."""
    columns = [row.columns() for row in rows]
    file = io.StringIO()
    header = list(dict.fromkeys(name for row in columns for name in row))
    writer = csv.DictWriter(file, header, lineterminator="\n")
    writer.writeheader()
    writer.writerows(columns)
    return file.getvalue()


def sweep_markdown(rows: Sequence[SweepRow], *, command: str) -> str:
    """A table of the axes that vary and of the main metrics, with real images and noise for each number of images."""
    axes = varying_axes(rows) or ["num_images"]
    if any(row.checkpoint == NOISE for row in rows) and "checkpoint" not in axes:
        axes.insert(0, "checkpoint")
    costs = ["network_calls"] if set(SAMPLING_AXES) & set(axes) else []
    metrics = [distance_name(rows), *(name for name in MAIN_METRICS if name in metric_names(rows))]
    lines = []
    for row in rows:
        values = [value_text(getattr(row, name)) for name in (*axes, *costs)]
        lines.append([*values, *(metric_text(row.metrics.get(name)) for name in metrics)])
    for what, count, bounds in bound_rows(rows, metrics):
        lines.append([f"{what} ({count:,})", *[""] * (len(axes) + len(costs) - 1), *map(number, bounds)])
    images = ", ".join(f"{count:,}" for count in dict.fromkeys(row.num_images for row in rows))
    errors = "mean ± standard error over the seeds" if rows[0].num_seeds > 1 else "no errors"
    about = f"{counted(rows[0].num_seeds, 'seed')} of {images} images each: {errors}."
    return f"{about}\n\n{table([*axes, *costs, *metrics], lines)}\n\n{code_block(command, 'bash')}\n"


def bound_rows(rows: Sequence[SweepRow], metrics: Sequence[str]) -> Iterator[tuple[str, int, list[float | None]]]:
    """Metrics of real images and of noise for each number of images: (name, number of images, value of each metric)."""
    for count in dict.fromkeys(row.num_images for row in rows):
        same = [row for row in rows if row.num_images == count]
        real, noise = [row.floor for row in same], [row.ceiling for row in same]
        for what, images, known in (("real images", same[0].floor_num_images, real), ("uniform noise", count, noise)):
            values = [next((bound[name] for bound in known if name in bound), None) for name in metrics]
            if any(value is not None for value in values):
                yield what, images or count, values


def metric_text(value: MetricValue | None) -> str:
    """A metric with its standard error; "" for None."""
    return "" if value is None else mean_with_error(value.mean, value.stderr)


def _means(trainings: Sequence[dict[str, Metric]]) -> dict[str, Metric]:
    first, means = trainings[0], {}
    for name in (name for name in first if all(name in metrics for metrics in trainings)):
        over = MetricValue.over_seeds([metrics[name].mean for metrics in trainings], n=None)
        means[name] = replace(first[name], mean=over.mean, stderr=over.stderr, values=over.values)
    return means


def _plain_names(metrics: dict[str, Value]) -> dict[str, Value]:
    return {plain_name(name): value for name, value in metrics.items()}
