"""Curves of metrics over an option, from rows with the option, the metrics and their standard errors `<name>_stderr`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hf_ddpm.figures.style import FAINT, LARGE_RANGE, add_legend, dress_panel, line_style, new_panels
from hf_ddpm.markdown import value_text

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = Sequence[Mapping[str, Any]]

LEVEL_DASHES = ((0, (8, 3)), (0, (2, 2)), "-")  # of horizontal lines
TICK_DISTANCE = 0.07  # least distance of labels of the horizontal axis, as a fraction of it
LABELS = {
    "guidance_scale": "guidance scale s  (w = s - 1)",
    "network_calls": "network calls a sample",
    "num_images": "images n",
    "checkpoint": "training step",
    "sigma_rel": "length of the average, sigma_rel",
    "num_inference_steps": "denoising steps",
    "train_seed": "training seed",
    "class_accuracy": "class accuracy",
}
SHORT_NAMES = dict(
    guidance_scale="s", guidance_interval="guided t / T", num_images="n", num_inference_steps="steps", train_seed="seed",
    checkpoint="step",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Level:
    """A horizontal line across a panel."""

    label: str
    value: float


def plot_curves(
    rows: Rows,
    *,
    x: str,
    metrics: Sequence[str],
    series: Sequence[str] = (),
    levels: Mapping[str, Sequence[Level]] | None = None,
    log_x: bool = False,
    title: str | None = None,
) -> Figure:
    """Plot a panel for each metric; a ValueError says that no row has a value of x, or that there are no metrics.

    Args:
        rows: those without a value of x, or without a finite value of a metric, are left out.
        x: name of the option along the horizontal axis.
        series: options; each combination of their values is a line.
        levels: horizontal lines by the name of the metric; None = none.
    """
    from matplotlib.lines import Line2D

    rows = [row for row in rows if row.get(x) is not None]
    if not rows or not metrics:
        raise ValueError(f"nothing to plot over {x!r}: give rows with this option, and at least one metric")
    figure, panels = new_panels(len(metrics), room=0.6, title=title)
    for panel, metric in zip(panels, metrics, strict=True):
        _draw_panel(panel, rows, x, metric, series, (levels or {}).get(metric, ()), log_x)
    named: dict[str, Artist] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            named.setdefault(label, handle)
    # Horizontal lines come last.
    add_legend(figure, dict(sorted(named.items(), key=lambda item: isinstance(item[1], Line2D))))
    return figure


def _draw_panel(
    panel: Axes, rows: Rows, x: str, metric: str, series: Sequence[str], levels: Sequence[Level], log_x: bool
) -> None:
    finite = [row for row in rows if row.get(metric) is not None and math.isfinite(row[metric])]
    keys = list(dict.fromkeys(tuple(row.get(name) for name in series) for row in rows))
    for number, key in enumerate(keys):
        line = sorted((row for row in finite if tuple(row.get(name) for name in series) == key), key=lambda row: row[x])
        if not line:
            continue
        points = [(row[x], row[metric], row.get(f"{metric}_stderr") or 0.0) for row in line]
        label, style = series_label(series, key) or "model", line_style(number)
        positions, means, errors = zip(*points, strict=True)
        panel.errorbar(positions, means, yerr=errors, label=label, **style, markersize=4.5, capsize=2.5)
    for level, dash in zip(levels, itertools.cycle(LEVEL_DASHES), strict=False):
        panel.axhline(level.value, color=FAINT, linestyle=dash, linewidth=1.1, zorder=0, label=level.label)
    _scale(panel, [row[metric] for row in finite] + [level.value for level in levels], log_x, {row[x] for row in finite})
    dress_panel(panel, x_label=LABELS.get(x, x), y_label=LABELS.get(metric, metric))


def _scale(panel: Axes, values: list[float], log_x: bool, positions: set[float]) -> None:
    """Logarithmic scales where they help, with ticks at the values of x."""
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator, StrMethodFormatter

    if values and min(values) > 0 and max(values) > LARGE_RANGE * min(values):
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        panel.yaxis.set_minor_formatter(NullFormatter())
    is_log = log_x and bool(positions) and min(positions) > 0
    if is_log:
        panel.set_xscale("log")
    ticks = _spread(positions, math.log if is_log else float)
    panel.set_xticks(ticks, [value_text(tick) for tick in ticks])
    panel.xaxis.set_minor_locator(NullLocator())


def _spread(positions: set[float], scale: Callable[[float], float]) -> list[float]:
    """The positions whose labels do not touch the label before them."""
    ticks: list[float] = []
    for position in sorted(positions):
        span = scale(max(positions)) - scale(min(positions))
        if not ticks or scale(position) - scale(ticks[-1]) >= TICK_DISTANCE * span:
            ticks.append(position)
    return ticks


def series_label(series: Sequence[str], key: tuple[Any, ...]) -> str:
    """The values of a line; numbers with the name of their option."""
    given = [(SHORT_NAMES.get(name, name), value) for name, value in zip(series, key, strict=True) if value is not None]
    return ", ".join(value if isinstance(value, str) else f"{name} = {value_text(value)}" for name, value in given)
