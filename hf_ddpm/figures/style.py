"""Style of curves: lines that differ even without their colors, plain panels, one legend; and `save_figure`."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_ddpm.runtime.files import write_whole

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT = "#222222", "#8a8a8a"
# Color, dash and marker of each line; the colors also differ in lightness.
STYLES: tuple[tuple[str, Any, str], ...] = (
    ("#c2410c", "-", "o"),
    ("#1d4e89", "--", "s"),
    ("#2f7d4f", "-.", "^"),
    ("#7b3f98", ":", "D"),
    ("#b8860b", (0, (5, 1, 1, 1, 1, 1)), "v"),
    ("#444444", (0, (1, 3)), "P"),
)
PANEL_WIDTH, PANEL_HEIGHT = 4.2, 2.9  # inches
LEGEND_SIZE = 7  # points
MAX_LEGEND = 12  # lines that a legend can name at a readable size
DPI = 150  # of a PNG
LARGE_RANGE = 10  # ratio of the largest to the smallest positive value above which a scale is logarithmic


def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """Write a figure as PNG and as PDF, the same bytes every time: `stem` is their path without a suffix; return both."""

    def write(path: Path, metadata: dict[str, Any]) -> Path:
        write_whole(path, lambda partial: figure.savefig(partial, dpi=DPI, metadata=metadata))
        return path

    return [write(Path(f"{stem}.png"), {}), write(Path(f"{stem}.pdf"), {"CreationDate": None})]


def new_panels(count: int, *, room: float, title: str | None) -> tuple[Figure, list[Axes]]:
    """Create a figure of `count` empty panels, two side by side, with `room` inches of height for title and legend."""
    from matplotlib.figure import Figure

    columns = min(2, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(PANEL_WIDTH * max(columns, 1.4), PANEL_HEIGHT * rows + room), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel in panels[count:]:
        panel.remove()
    add_title(figure, title)
    return figure, panels[:count]


def add_title(figure: Figure, title: str | None) -> None:
    """Write a title above a figure; None = none."""
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=9, color=INK)


def add_legend(figure: Figure, lines: Mapping[str, Artist], *, columns: int = 3, most: int = MAX_LEGEND) -> None:
    """Add one legend below all panels: at most `columns` names side by side, and no more than fit into the width, `most` in
    all, and the number of the others."""
    from matplotlib.lines import Line2D

    shown = dict(itertools.islice(lines.items(), most))
    if len(lines) > most:
        shown[f"and {len(lines) - most} more"] = Line2D([], [], linestyle="none")
    characters = figure.get_figwidth() * 72 / (0.55 * LEGEND_SIZE)
    fitting = int(characters / (max(map(len, shown), default=0) + 8))  # a line and the gaps beside it are as wide as 8
    figure.legend(
        list(shown.values()), list(shown), loc="outside lower center", ncols=max(1, min(columns, fitting, len(shown))),
        frameon=False, fontsize=LEGEND_SIZE, labelcolor=INK, handlelength=3.2,
    )  # fmt: skip


def line_style(number: int) -> dict[str, Any]:
    """Keyword arguments of a line; the first 36 differ even without their color."""
    turn, style = divmod(number, len(STYLES))
    color, _, marker = STYLES[style]
    dash = STYLES[(style + turn) % len(STYLES)][1]
    face = "white" if turn % 2 else color
    return {"color": color, "linestyle": dash, "marker": marker, "markerfacecolor": face, "linewidth": 1.3}


def dress_panel(panel: Axes, *, x_label: str, y_label: str | None = None) -> None:
    """Label a panel, and give it a horizontal grid and a frame on the left and below only."""
    panel.set_xlabel(x_label, fontsize=8, color=INK)
    if y_label is not None:
        panel.set_ylabel(y_label, fontsize=8, color=INK)
    panel.tick_params(labelsize=7, colors=INK)
    panel.grid(axis="y", color="#e8e8e8", linewidth=0.7)
    panel.set_axisbelow(True)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
