"""Training losses of runs as curves: `save_figure(plot_losses({"digits": read_losses(run_dir)}, smoothing=5), stem)`."""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_ddpm.figures.curves import LARGE_RANGE
from hf_ddpm.figures.style import INK, MAX_LEGEND, PANEL_HEIGHT, PANEL_WIDTH, dress_panel, line_style

LOSSES = {"loss": "training loss", "d_loss": "discriminator loss", "g_loss": "generator loss"}
"""Training losses in metrics.jsonl, of diffusion models and judges and of GANs, and what they are called beside a panel."""
RAW_ALPHA = 0.3  # of the logged values under their moving mean
MAX_MARKERS = 12  # on one line
LEGEND_CHARACTERS = 105  # that fit side by side below the panels, with 10 a name for its line
LEGEND_LINE = 0.16  # inches


def read_losses(run_dir: Path) -> list[dict[str, Any]]:
    """The rows of `metrics.jsonl` in a run folder that carry a training loss, whichever program wrote them.

    Args:
        run_dir: folder of a run of train.py, train_gan.py or train_judge.py, finished or not.

    Returns:
        Rows with `step` and `loss`, or `d_loss` and `g_loss`, each the mean since the row before, and with what else was
        logged beside them; in the order of the steps, of which none comes twice.

    Raises:
        ValueError: there is no such file, or a line other than the last is damaged.
    """
    path = Path(run_dir) / "metrics.jsonl"
    if not path.is_file():
        raise ValueError(f"{run_dir} is no folder of a run: it holds no metrics.jsonl")
    lines, rows = path.read_text(encoding="utf-8").splitlines(), {}
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            step = row["step"]
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):  # the line that a run is writing, or was when it was killed
                break
            raise ValueError(f"{path}: line {number} is damaged, it holds no JSON object with a step") from error
        if any(name in row for name in LOSSES):
            rows[step] = row
    return [rows[step] for step in sorted(rows)]


def plot_losses(
    runs: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    smoothing: int | None = None,
    log_y: bool = False,
    title: str | None = None,
):
    """Draw a panel for each kind of training loss, with a line for each run, over the training step.

    Args:
        runs: rows as `read_losses` gives them, by the name of the run.
        smoothing: logged values of which the moving mean is drawn over the faint values themselves, see `moving_mean`;
            None = only the values.
        log_y: whether losses are on a logarithmic scale.
        title: above the panels; None = none.

    Returns:
        A matplotlib Figure.

    Raises:
        ValueError: no run has a training loss, `smoothing` is less than 1, or a loss has no logarithm.
    """
    from matplotlib.figure import Figure

    kinds = [kind for kind in LOSSES if any(kind in row for rows in runs.values() for row in rows)]
    if not kinds:
        raise ValueError("there is nothing to draw: no run has logged a training loss")
    if smoothing is not None and smoothing < 1:
        raise ValueError(f"smoothing is {smoothing}: give a number of logged values of at least 1, or None")
    if log_y and any(row[kind] <= 0 for rows in runs.values() for row in rows for kind in kinds if kind in row):
        raise ValueError("log_y is True: a loss is not above 0, leave it out")
    columns = min(2, len(kinds))
    lines, width = -(-len(kinds) // columns), PANEL_WIDTH * max(columns, 1.4)
    names = list(runs)[:MAX_LEGEND]
    side_by_side = min(3, len(names), max(1, LEGEND_CHARACTERS // (10 + max(map(len, names)))))
    height = PANEL_HEIGHT * lines + LEGEND_LINE * -(-len(names) // side_by_side) + 0.45
    figure = Figure(figsize=(width, height), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).flat
    for panel, kind in itertools.zip_longest(panels, kinds):
        if kind is None:
            panel.remove()
        else:
            _draw_panel(panel, runs, kind, smoothing, log_y)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=9, color=INK)
    _draw_legend(figure, list(runs), side_by_side)
    return figure


def moving_mean(values: Sequence[float], count: int) -> list[float]:
    """The mean of `count` values (of one more if that is even) around each; of fewer near the ends, so that it stays the
    middle one and a steep curve is not moved aside."""
    last = len(values) - 1
    reach = [min(count // 2, here, last - here) for here in range(len(values))]
    return [statistics.fmean(values[here - side : here + side + 1]) for here, side in enumerate(reach)]


def _draw_panel(
    panel, runs: Mapping[str, Sequence[Mapping[str, Any]]], kind: str, smoothing: int | None, log_y: bool
) -> None:
    for number, rows in enumerate(runs.values()):
        points = [(row["step"], row[kind]) for row in rows if kind in row]
        if not points:
            continue
        steps, values = zip(*points, strict=True)
        style = _style(number)
        if smoothing is not None:
            panel.plot(steps, values, color=style["color"], linewidth=0.8, alpha=RAW_ALPHA, zorder=1)
            values = moving_mean(values, smoothing)
        panel.plot(steps, values, **style, markevery=-(-len(values) // MAX_MARKERS), zorder=2)
    if log_y:
        _scale(panel, [row[kind] for rows in runs.values() for row in rows if kind in row])
    dress_panel(panel, x_label="training step", y_label=LOSSES[kind])


def _scale(panel, values: Sequence[float]) -> None:
    """A logarithmic scale with ticks at round numbers."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

    is_wide = max(values) > LARGE_RANGE * min(values)
    panel.set_yscale("log")
    panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)) if is_wide else MaxNLocator(6, steps=(1, 2, 5, 10)))
    panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    panel.yaxis.set_minor_locator(NullLocator())


def _style(number: int) -> dict[str, Any]:
    """How the line of a run looks, in every panel."""
    return line_style(number) | {"markersize": 4}


def _draw_legend(figure, names: Sequence[str], side_by_side: int) -> None:
    """One legend below all panels; runs beyond those that can be read are counted."""
    from matplotlib.lines import Line2D

    shown = [name.replace("$", r"\$") for name in names[:MAX_LEGEND]]  # which would begin mathematics
    named = {name: Line2D([], [], **_style(number)) for number, name in enumerate(shown)}
    if len(names) > MAX_LEGEND:
        named[f"and {len(names) - MAX_LEGEND} more"] = Line2D([], [], linestyle="none")
    figure.legend(
        named.values(), named.keys(), loc="outside lower center", ncols=side_by_side, frameon=False, fontsize=7,
        labelcolor=INK, handlelength=3.2,
    )  # fmt: skip
