"""Figures of a sweep, chosen by the axes that vary: `plot_sweep(rows, distance="fd_judge", ...)`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from hf_ddpm.figures.curves import Level, plot_curves, series_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Rows = Sequence[Mapping[str, Any]]


def plot_sweep(rows: Rows, *, distance: str, varying: Sequence[str], title: str) -> dict[str, Figure]:
    """Plot Figures for the options that vary, by name: `guidance`, `network_calls`, `num_images`, `checkpoints`,
    `averages`.

    `rows` come from `SweepRow.columns`, `distance` names the Frechet distance, `varying` the options with several values.
    """
    samples = [row for row in rows if row["checkpoint"] != "noise"]
    floor = _floor_levels(rows, distance)
    plot = partial(plot_curves, title=title)
    figures = {}

    def others(axis: str) -> list[str]:
        return [name for name in varying if name != axis]

    if "guidance_scale" in varying:
        quality = ("precision", "recall", "class_accuracy")
        metrics = [distance, *(name for name in quality if any(row.get(name) is not None for row in rows))]
        series = others("guidance_scale")
        levels = {name: [*_floor_levels(rows, name), *_unguided(samples, name, series)] for name in metrics}
        figures["guidance"] = plot(samples, x="guidance_scale", metrics=metrics, series=series, levels=levels)
    if {"num_inference_steps", "scheduler"} & set(varying):
        # Guidance at s = 1 costs half: with it as a series, a line is one setting at several numbers of steps.
        one, series, levels = [distance], others("num_inference_steps"), {distance: floor}
        figures["network_calls"] = plot(samples, x="network_calls", metrics=one, series=series, levels=levels, log_x=True)
    if "num_images" in varying:
        counts = {
            row["floor_num_images"]: row[f"{distance}_floor"] for row in rows if row.get(f"{distance}_floor") is not None
        }
        real = [{"num_images": count, distance: value, "images": "real images"} for count, value in counts.items()]
        both = [*({**row, "images": "samples"} for row in samples), *real]
        series = ["images", *others("num_images")]
        figures["num_images"] = plot(both, x="num_images", metrics=[distance], series=series, log_x=True)
    if "checkpoint" in varying and len(samples) > 0:
        levels, series = {distance: [*floor, *_noise_levels(rows, distance)]}, others("checkpoint")
        figures["checkpoints"] = plot(samples, x="checkpoint", metrics=[distance], series=series, levels=levels)
    if "sigma_rel" in varying:
        levels, series = {distance: floor}, others("sigma_rel")
        figures["averages"] = plot(samples, x="sigma_rel", metrics=[distance], series=series, levels=levels)
    return figures


def _floor_levels(rows: Rows, metric: str) -> list[Level]:
    """One line of real images per number of images, which the label names if there are several."""
    values = {row["num_images"]: row[f"{metric}_floor"] for row in rows if row.get(f"{metric}_floor") is not None}
    return [
        Level(label="real images" if len(values) == 1 else f"real images, n = {count}", value=value)
        for count, value in sorted(values.items())
    ]


def _unguided(samples: Rows, metric: str, series: Sequence[str]) -> list[Level]:
    """One line per model without guidance, that is per GAN."""
    rows = [row for row in samples if row["guidance_scale"] is None and row.get(metric) is not None]
    return [Level(label=series_label(series, tuple(row[name] for name in series)), value=row[metric]) for row in rows]


def _noise_levels(rows: Rows, metric: str) -> list[Level]:
    noise = [row for row in rows if row["checkpoint"] == "noise"]
    several = len({row["num_images"] for row in noise}) > 1
    return [Level(label=f"noise, n = {row['num_images']}" if several else "noise", value=row[metric]) for row in noise]
