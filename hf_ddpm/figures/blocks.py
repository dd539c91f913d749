"""Blocks of named images as one figure, in which each pixel of an image is a square of the same size.

The layout is in pixels of the PNG; in the PDF the images keep their own. Names are matplotlib text, see `plain`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_ddpm.figures.style import DPI, INK
from hf_ddpm.text import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MIN_TILE = 56  # pixels; smaller images are enlarged
GAP, MARGIN = 4, 10  # pixels between images, around the figure
TEXT_GAP = 8  # pixels between texts side by side
BLOCK_GAP = 18
FONT_SIZE, TITLE_SIZE, CAPTION_SIZE = 7.0, 8.0, 6.0  # points
LINE = 1.35  # height of a line of text, in font sizes
MAX_NAME = 28  # characters


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageBlock:
    """A table of images; its names are optional."""

    images: np.ndarray[Any, Any]
    """(R, C, H, W, channels) uint8, 1 or 3 channels."""
    title: str | None = None
    row_names: Sequence[str] | None = None
    """R names, on the left."""
    column_names: Sequence[str] | None = None
    """C names, above; a name may have several lines."""
    captions: Sequence[Sequence[str]] | None = None
    """R lists of C captions, each below its image."""

    def __post_init__(self) -> None:
        shape = self.images.shape
        if len(shape) != 5 or shape[4] not in (1, 3) or 0 in shape or self.images.dtype != np.uint8:
            raise ValueError(f"images are {self.images.dtype} of the shape {shape}: give (R, C, H, W, 1 or 3) uint8")
        for name, count in (("row_names", shape[0]), ("column_names", shape[1]), ("captions", shape[0])):
            names = getattr(self, name)
            if names is not None and len(names) != count:
                raise ValueError(f"{name} has {len(names)} entries: give {count}")


def plot_blocks(blocks: Sequence[ImageBlock], *, columns: int = 1, tile: int = MIN_TILE, title: str | None = None) -> Figure:
    """Plot at least one block, row by row, `columns` side by side; all images have one size.

    Images whose shorter side has fewer than `tile` pixels are enlarged by a whole factor.
    """
    from matplotlib.figure import Figure

    layouts = [_Layout(block, tile) for block in blocks]
    columns = min(columns, len(blocks))
    rows = [layouts[start : start + columns] for start in range(0, len(layouts), columns)]
    widths = [_align(layouts[i::columns]) for i in range(columns)]
    heights = [max(layout.height for layout in row) for row in rows]
    head = 0 if title is None else _line_height(TITLE_SIZE) + GAP
    width = 2 * MARGIN + max(sum(widths) + BLOCK_GAP * (columns - 1), math.ceil(_text_width(title or "", TITLE_SIZE)))
    height = 2 * MARGIN + head + sum(heights) + BLOCK_GAP * (len(rows) - 1)

    # A hundredth of a pixel more, so that rounding down does not lose a pixel.
    figure = Figure(figsize=((width + 0.01) / DPI, (height + 0.01) / DPI), dpi=DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    if title is not None:
        axes.text(MARGIN, MARGIN, title, fontsize=TITLE_SIZE, color=INK, ha="left", va="top")
    y = MARGIN + head
    for row, row_height in zip(rows, heights, strict=True):
        x = MARGIN
        for layout, column_width in zip(row, widths, strict=False):
            layout.draw(axes, x, y)
            x += column_width + BLOCK_GAP
        y += row_height + BLOCK_GAP
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    return figure


def in_rows(images: np.ndarray[Any, Any], columns: int) -> np.ndarray[Any, Any]:
    """(N, H, W, C) as (rows, columns, H, W, C)."""
    return images.reshape(-1, columns, *images.shape[1:])


def plain(name: str, *, longest: int = MAX_NAME) -> str:
    """Escape a name for matplotlib, on one line of at most `longest` characters."""
    name = one_line(name)
    name = name if len(name) <= longest else name[: longest - 1] + "…"
    return name.replace("$", r"\$")


class _Layout:
    """Positions of the parts of a block, in pixels from its upper left corner."""

    def __init__(self, block: ImageBlock, tile: int) -> None:
        self.block = block
        rows, columns, *sizes, _ = block.images.shape
        scale = max(1, math.ceil(tile / min(sizes)))
        self.tile_height, self.tile_width = (scale * size for size in sizes)
        self.left = math.ceil(max((_text_width(name, FONT_SIZE) for name in block.row_names or []), default=-GAP)) + GAP
        widest = [(name, FONT_SIZE) for name in block.column_names or []]
        widest += [(caption, CAPTION_SIZE) for caption in itertools.chain(*(block.captions or []))]
        text_widths = (math.ceil(_text_width(text, size)) + TEXT_GAP - GAP for text, size in widest)
        self.step_x = max([self.tile_width, *text_widths]) + GAP
        lines = max((name.count("\n") + 1 for name in block.column_names or []), default=0)
        self.top = (0 if block.title is None else _line_height(TITLE_SIZE)) + lines * _line_height(FONT_SIZE)
        self.step_y = self.tile_height + GAP + (_line_height(CAPTION_SIZE) if block.captions else 0)
        # Width without the row names.
        self.right = max(columns * self.step_x - GAP, math.ceil(_text_width(block.title or "", TITLE_SIZE)))
        self.height = self.top + rows * self.step_y - GAP

    def draw(self, axes: Axes, x: int, y: int) -> None:
        """Draw the block with its upper left corner at (x, y)."""
        block, left = self.block, x + self.left
        text: dict[str, Any] = {"color": INK, "fontsize": FONT_SIZE}
        if block.title is not None:
            axes.text(left, y, block.title, color=INK, fontsize=TITLE_SIZE, ha="left", va="top")
        for column, name in enumerate(block.column_names or []):
            middle = left + column * self.step_x + (self.step_x - GAP) / 2
            axes.text(middle, y + self.top - GAP / 2, name, **text, ha="center", va="bottom", linespacing=1.1)
        for row, images in enumerate(block.images):
            above = y + self.top + row * self.step_y
            if block.row_names is not None:
                middle = above + self.tile_height / 2
                axes.text(left - GAP, middle, block.row_names[row], **text, ha="right", va="center")
            for column, image in enumerate(images):
                begin = left + column * self.step_x + (self.step_x - GAP - self.tile_width) // 2
                extent = (begin, begin + self.tile_width, above + self.tile_height, above)
                pixels = np.broadcast_to(image, (*image.shape[:2], 3))
                axes.imshow(pixels, extent=extent, interpolation="none", aspect="auto", origin="upper")
                if block.captions is not None:
                    middle, below = begin + self.tile_width / 2, above + self.tile_height + GAP / 2
                    caption = block.captions[row][column]
                    axes.text(middle, below, caption, color=INK, fontsize=CAPTION_SIZE, ha="center", va="top")


def _align(layouts: Sequence[_Layout]) -> int:
    """Align the images of blocks below each other at their left; return the width of the blocks."""
    left = max(layout.left for layout in layouts)
    for layout in layouts:
        layout.left = left
    return left + max(layout.right for layout in layouts)


def _line_height(size: float) -> int:
    return math.ceil(LINE * size * DPI / 72)


def _text_width(text: str, size: float) -> float:
    """Width in pixels of the longest line of a text, as it is drawn into the PNG."""
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.font_manager import FontProperties

    renderer, font = RendererAgg(1, 1, DPI), FontProperties(size=size)
    lines = [(line.replace(r"\$", "S"), "$" in line.replace(r"\$", "")) for line in text.split("\n")]
    widths = [renderer.get_text_width_height_descent(line, font, is_math)[0] for line, is_math in lines if line]
    return max(widths, default=0.0)
