"""One measurement as a figure: each metric on its own scale, between real images and noise."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from hf_ddpm.figures.blocks import plain
from hf_ddpm.figures.style import FAINT, INK
from hf_ddpm.results import MetricValue, Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ACCENT = "#c2410c"
ROW_HEIGHT, WIDTH = 0.42, 7.2  # inches


def plot_measurement(results: Results, path: Path, *, title: str) -> None:
    """Plot every metric that has a floor or a ceiling, with its standard error; the suffix of `path` gives the format."""
    from matplotlib.figure import Figure

    bounded = results.floor.keys() | results.ceiling.keys()
    rows = {name: value for name, value in results.metrics.items() if name in bounded and math.isfinite(value.mean)}
    figure = Figure(figsize=(WIDTH, ROW_HEIGHT * len(rows) + 0.9), layout="constrained")
    figure.suptitle(plain(title, longest=100), x=0.01, ha="left", fontsize=9, color=INK)
    for axes, (name, value) in zip(figure.subplots(len(rows), 1, squeeze=False)[:, 0], rows.items(), strict=True):
        _draw_row(axes, name, value, results.floor.get(name), results.ceiling.get(name))
    figure.supxlabel("| real images   x noise   o this model, one standard error over the seeds", fontsize=8, color=FAINT)
    figure.savefig(path, dpi=150, metadata={})


def _draw_row(axes: Axes, name: str, metric: MetricValue, floor: float | None, ceiling: float | None) -> None:
    error = metric.stderr or 0.0
    ends = [end for end in (floor, ceiling, metric.mean - error, metric.mean + error) if end is not None]
    margin = 0.04 * (max(ends) - min(ends)) or 1.0
    low, high = min(ends) - margin, max(ends) + margin
    axes.plot([low, high], [0, 0], color="#dddddd", linewidth=1, zorder=0)
    for value, marker in ((floor, "|"), (ceiling, "x")):
        if value is not None:
            axes.plot([value], [0], marker=marker, color=FAINT, markersize=9 if marker == "|" else 6, markeredgewidth=1.6)
    axes.errorbar([metric.mean], [0], xerr=[error], fmt="o", color=ACCENT, markersize=5, capsize=3, linewidth=1.2)
    axes.set_xlim(low, high)
    axes.set_yticks([0], [name], fontsize=8, color=INK)
    axes.set_xticks([])
    axes.yaxis.set_tick_params(length=0)
    text = f"{metric.mean:.4g}" + (f" ± {metric.stderr:.2g}" if metric.stderr is not None else "")
    axes.annotate(text, (1.01, 0.5), xycoords="axes fraction", va="center", fontsize=8, color=INK)
    for spine in axes.spines.values():
        spine.set_visible(False)
