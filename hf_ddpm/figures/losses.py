"""Figure `losses`: training losses of runs over the steps."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_ddpm.config import require
from hf_ddpm.figures.options import FigureConfig
from hf_ddpm.figures.style import LARGE_RANGE, MAX_LEGEND, add_legend, dress_panel, line_style, new_panels, save_figure
from hf_ddpm.run_folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Runs = Mapping[str, Sequence[Mapping[str, Any]]]  # rows of `read_losses` by the name of the run

LOSSES = {"loss": "training loss", "d_loss": "discriminator loss", "g_loss": "generator loss"}
"""Training losses in metrics.jsonl (`loss` of diffusion models and judges, the others of GANs) and their axis labels."""
RAW_ALPHA = 0.3  # of the logged values below their moving mean
MAX_MARKERS = 12  # on one line
LEGEND_CHARACTERS = 105  # per line of the legend, counting 10 per name for its symbol
LEGEND_LINE = 0.16  # inches


@dataclass(kw_only=True)
class LossesConfig(FigureConfig):
    """Training losses of runs over the steps."""

    runs: list[Path]
    """Run folders, as in [runs/a, runs/b]."""
    smoothing: int | None = None
    """Window of the moving mean that is drawn over the logged values, in values; None = no mean."""
    log_y: bool = False
    """Whether the scale of the losses is logarithmic."""
    title: str | None = None
    """Title of the figure; None = none."""


def plot_losses(config: LossesConfig) -> list[Path]:
    """Plot training losses of runs; return the paths of the files."""
    runs = [RunFolder(run) for run in config.runs]
    for run in runs:
        require(run.metrics.is_file(), "runs", str(run.path), "it has no metrics.jsonl, give run folders")
    names = [run.path.resolve().name for run in runs]
    unique = len(set(names)) == len(names)
    rows = {name if unique else str(run.path): read_losses(run.path) for name, run in zip(names, runs, strict=True)}
    figure = plot_loss_curves(rows, smoothing=config.smoothing, log_y=config.log_y, title=config.title)
    return save_figure(figure, config.output)


def read_losses(run_dir: Path) -> list[dict[str, Any]]:
    """Read the rows of `metrics.jsonl` that have a training loss, in the folder of a run of any program, finished or not.

    There is one row per step, in order: `step`, `loss` (or `d_loss` and `g_loss`), each the mean since the row before, and
    the other logged values. Lines that are not of a run are left out, with a warning. ValueError: the file is missing.
    """
    run = RunFolder(run_dir)
    if not run.metrics.is_file():
        raise ValueError(f"{run_dir} is not a run folder: it has no metrics.jsonl")
    rows = {row["step"]: row for row in run.read_metrics() if any(name in row for name in LOSSES)}
    return [rows[step] for step in sorted(rows)]


def plot_loss_curves(runs: Runs, *, smoothing: int | None = None, log_y: bool = False, title: str | None = None) -> Figure:
    """Plot a panel for each kind of training loss, with a line for each run (rows of `read_losses` by name), over the step.

    `smoothing` is the window of the `moving_mean` drawn over the faint values (None = only the values). A ValueError says
    that no run has a training loss, that `smoothing` is less than 1, or that a loss has no logarithm.
    """
    from matplotlib.lines import Line2D

    kinds = [kind for kind in LOSSES if any(kind in row for rows in runs.values() for row in rows)]
    if not kinds:
        raise ValueError("nothing to plot: no run has logged a training loss")
    if smoothing is not None and smoothing < 1:
        raise ValueError(f"smoothing is {smoothing}: give a number of logged values of at least 1, or None")
    if log_y and any(row[kind] <= 0 for rows in runs.values() for row in rows for kind in kinds if kind in row):
        raise ValueError("log_y is True: a loss is not above 0, leave it out")
    names = list(runs)[:MAX_LEGEND]
    side_by_side = min(3, len(names), max(1, LEGEND_CHARACTERS // (10 + max(map(len, names)))))
    figure, panels = new_panels(len(kinds), room=LEGEND_LINE * -(-len(names) // side_by_side) + 0.45, title=title)
    for panel, kind in zip(panels, kinds, strict=True):
        _draw_panel(panel, runs, kind, smoothing, log_y)
    shown = [name.replace("$", r"\$") for name in runs]  # not the start of a formula
    lines = {name: Line2D([], [], **line_style(i), markersize=4) for i, name in enumerate(shown)}
    add_legend(figure, lines, columns=side_by_side)
    return figure


def moving_mean(values: Sequence[float], count: int) -> list[float]:
    """The mean of `count` values around each (one more if even); near the ends the window shrinks on both sides alike."""
    last = len(values) - 1
    reach = [min(count // 2, here, last - here) for here in range(len(values))]
    return [statistics.fmean(values[here - side : here + side + 1]) for here, side in enumerate(reach)]


def _draw_panel(panel: Axes, runs: Runs, kind: str, smoothing: int | None, log_y: bool) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

    for number, rows in enumerate(runs.values()):
        steps, values = ([row[name] for row in rows if kind in row] for name in ("step", kind))
        if not values:
            continue
        style = line_style(number)
        if smoothing is not None:
            panel.plot(steps, values, color=style["color"], linewidth=0.8, alpha=RAW_ALPHA, zorder=1)
            values = moving_mean(values, smoothing)
        panel.plot(steps, values, **style, markersize=4, markevery=-(-len(values) // MAX_MARKERS), zorder=2)
    if log_y:
        values = [row[kind] for rows in runs.values() for row in rows if kind in row]
        is_wide = max(values) > LARGE_RANGE * min(values)
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)) if is_wide else MaxNLocator(6, steps=(1, 2, 5, 10)))
        panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        panel.yaxis.set_minor_locator(NullLocator())
    dress_panel(panel, x_label="training step", y_label=LOSSES[kind])
