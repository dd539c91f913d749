"""How curves look: colours, lines that are told apart without them, and plain panels."""

from __future__ import annotations

from typing import Any

INK, FAINT = "#222222", "#8a8a8a"
# Colour, dash and marker of each line; the colours also differ in lightness.
STYLES = (
    ("#c2410c", "-", "o"),
    ("#1d4e89", "--", "s"),
    ("#2f7d4f", "-.", "^"),
    ("#7b3f98", ":", "D"),
    ("#b8860b", (0, (5, 1, 1, 1, 1, 1)), "v"),
    ("#444444", (0, (1, 3)), "P"),
)
PANEL_WIDTH, PANEL_HEIGHT = 4.2, 2.9  # inches
MAX_LEGEND = 12  # lines that a legend names at a readable size


def line_style(number: int) -> dict[str, Any]:
    """Options of matplotlib for a line; no two of the first 36 are alike without their colour."""
    turn, style = divmod(number, len(STYLES))
    colour, _, marker = STYLES[style]
    dash = STYLES[(style + turn) % len(STYLES)][1]
    face = "white" if turn % 2 else colour
    return {"color": colour, "linestyle": dash, "marker": marker, "markerfacecolor": face, "linewidth": 1.3}


def dress_panel(panel, *, x_label: str, y_label: str | None = None) -> None:
    """Label a panel of matplotlib, with horizontal lines behind the curves and no frame above and on the right."""
    panel.set_xlabel(x_label, fontsize=8, color=INK)
    if y_label is not None:
        panel.set_ylabel(y_label, fontsize=8, color=INK)
    panel.tick_params(labelsize=7, colors=INK)
    panel.grid(axis="y", color="#e8e8e8", linewidth=0.7)
    panel.set_axisbelow(True)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
