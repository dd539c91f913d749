"""A picture of one measurement: each metric on a scale of its own, between real images and noise."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

INK, ACCENT, FAINT = "#222222", "#c2410c", "#8a8a8a"
ROW_HEIGHT, WIDTH = 0.42, 7.2  # inches


def plot_measurement(results: dict[str, Any], path: Path, *, title: str) -> None:
    """Draw every metric that has a floor or a ceiling, with its standard error.

    Args:
        results: `metrics`, `floor` and `ceiling` as an evaluation leaves them.
        path: file of the picture; its suffix says the format.
        title: above the picture.
    """
    from matplotlib.figure import Figure

    bounded = results["floor"].keys() | results["ceiling"].keys()
    rows = {name: values for name, values in results["metrics"].items() if name in bounded and math.isfinite(values["mean"])}
    figure = Figure(figsize=(WIDTH, ROW_HEIGHT * len(rows) + 0.9), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=9, color=INK)
    for axes, (name, values) in zip(figure.subplots(len(rows), 1, squeeze=False)[:, 0], rows.items(), strict=True):
        _draw_row(axes, name, values, results["floor"].get(name), results["ceiling"].get(name))
    figure.supxlabel("| real images   x noise   o this model, one standard error over the seeds", fontsize=8, color=FAINT)
    figure.savefig(path, dpi=150, metadata={})


def _draw_row(axes, name: str, values: dict[str, Any], floor: float | None, ceiling: float | None) -> None:
    error = values["stderr"] or 0.0
    ends = [end for end in (floor, ceiling, values["mean"] - error, values["mean"] + error) if end is not None]
    margin = 0.04 * (max(ends) - min(ends)) or 1.0
    low, high = min(ends) - margin, max(ends) + margin
    axes.plot([low, high], [0, 0], color="#dddddd", linewidth=1, zorder=0)
    for value, marker in ((floor, "|"), (ceiling, "x")):
        if value is not None:
            axes.plot([value], [0], marker=marker, color=FAINT, markersize=9 if marker == "|" else 6, markeredgewidth=1.6)
    axes.errorbar([values["mean"]], [0], xerr=[error], fmt="o", color=ACCENT, markersize=5, capsize=3, linewidth=1.2)
    axes.set_xlim(low, high)
    axes.set_yticks([0], [name], fontsize=8, color=INK)
    axes.set_xticks([])
    axes.yaxis.set_tick_params(length=0)
    text = f"{values['mean']:.4g}" + (f" ± {values['stderr']:.2g}" if values["stderr"] is not None else "")
    axes.annotate(text, (1.01, 0.5), xycoords="axes fraction", va="center", fontsize=8, color=INK)
    for spine in axes.spines.values():
        spine.set_visible(False)
