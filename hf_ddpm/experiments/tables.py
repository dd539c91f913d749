"""The cells of a sweep as rows, as CSV and as a Markdown table: `sweep_csv(rows)`, `sweep_markdown(rows, command=...)`."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

from hf_ddpm.experiments.options import NOISE, Cell
from hf_ddpm.markdown import code_block, mean_with_error, number, table

AXES = ("recipe", "train_seed", "checkpoint", "scheduler", "num_inference_steps", "guidance_scale", "num_images")
FACTS = ("network_calls", "num_seeds", "floor_num_images")
PARTS = ("", "_stderr", "_n", "_floor", "_ceiling")
"""What stands behind the name of a metric: its mean has nothing."""
MAIN_METRICS = ("precision", "recall", "class_accuracy", "nearest_train_distance")


def cell_row(cell: Cell, results: dict[str, Any]) -> dict[str, Any]:
    """A cell as plain values: `cell`, its name; the axes; facts; and each metric with its parts.

    A FID bears no number of images here, which is an axis.
    """
    protocol = results["protocol"]
    row = {"cell": cell.name, **{axis: getattr(cell, axis) for axis in AXES}}
    if not (cell.is_noise or cell.is_gan):
        row["scheduler"] = cell.scheduler or protocol["scheduler"]
        row["guidance_scale"] = protocol["guidance_scale"]
    row |= {"network_calls": protocol.get("network_calls"), "num_seeds": len(protocol["seeds"])}
    row["floor_num_images"] = protocol["floor_num_images"]
    for name, values in results["metrics"].items():
        bounds = [results[bound].get(name) for bound in ("floor", "ceiling")]
        parts = (values["mean"], values["stderr"], values["n"], *bounds)
        row |= {plain_name(name) + part: value for part, value in zip(PARTS, parts, strict=True)}
    return row


def plain_name(metric: str) -> str:
    """Name of a metric without the number of images: `fid_train` of `fid1k_train`."""
    return re.sub(r"^fid\d+k?_", "fid_", metric)


def varying_axes(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Axes on which there are two values or more."""
    return [axis for axis in AXES if len({row[axis] for row in rows if row[axis] is not None}) > 1]


def metric_names(rows: Iterable[dict[str, Any]]) -> list[str]:
    """Metrics of any row, without their parts, in the order in which they come."""
    return list(dict.fromkeys(name.removesuffix("_stderr") for row in rows for name in row if name.endswith("_stderr")))


def distance_name(rows: Sequence[dict[str, Any]]) -> str:
    """The Frechet distance of the rows."""
    return next(name for name in metric_names(rows) if name.startswith(("fid", "fd_")))


def sweep_csv(rows: Sequence[dict[str, Any]]) -> str:
    """One line a cell: axes, facts, and each metric with its parts; what a cell does not have is empty."""
    columns = ["cell", *AXES, *FACTS, *(name + part for name in metric_names(rows) for part in PARTS)]
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def sweep_markdown(rows: Sequence[dict[str, Any]], *, command: str) -> str:
    """A table of the axes that vary and of the main metrics, with floor and ceiling for each number of images."""
    axes = varying_axes(rows) or ["num_images"]
    has_noise = any(row["checkpoint"] == NOISE for row in rows)
    if has_noise and "checkpoint" not in axes:
        axes.insert(0, "checkpoint")
    costs = ["network_calls"] if {"scheduler", "num_inference_steps", "guidance_scale"} & set(axes) else []
    known = metric_names(rows)
    metrics = [distance_name(rows), *(name for name in MAIN_METRICS if name in known)]
    lines = [[*(_text(row[name]) for name in (*axes, *costs)), *(_metric(row, name) for name in metrics)] for row in rows]
    for count in dict.fromkeys(row["num_images"] for row in rows):
        row = next(row for row in rows if row["num_images"] == count)
        for bound, what in (("floor", f"real images ({row['floor_num_images']})"), ("ceiling", f"uniform noise ({count})")):
            values = [_bound(rows, count, f"{name}_{bound}") for name in metrics]
            if any(values):
                lines.append([what, *[""] * (len(axes) + len(costs) - 1), *values])
    counts = ", ".join(f"{count:,}" for count in dict.fromkeys(row["num_images"] for row in rows))
    about = f"{rows[0]['num_seeds']} seeds of {counts} images each: mean ± standard error over the seeds."
    shown = table([*axes, *costs, *metrics], lines, compact=True)
    return f"{about}\n\n{shown}\n\n{code_block(command, 'bash')}\n"


def _text(value: Any) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _metric(row: dict[str, Any], name: str) -> str:
    return "" if row.get(name) is None else mean_with_error(row[name], row[f"{name}_stderr"])


def _bound(rows: Sequence[dict[str, Any]], count: int, column: str) -> str:
    """A floor or ceiling of so many images, from whichever cell knows it."""
    values = (row.get(column) for row in rows if row["num_images"] == count)
    return number(next((value for value in values if value is not None), None))
