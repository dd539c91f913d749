"""Grids of images: `image_grid(images, columns=8).save("grid.png")`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from hf_ddpm.text import one_line

MIN_TILE = 32  # pixels; smaller images are enlarged
PADDING = 2  # pixels of white around each tile
MAX_COLUMNS = 16
MIN_FONT_SIZE, MAX_FONT_SIZE = 12, 20
MAX_NAME = 40  # characters; of a longer name the middle is left out


def image_grid(
    images: np.ndarray[Any, Any], *, columns: int, row_names: Sequence[str] | None = None, scale: int | None = None
) -> Image.Image:
    """Lay images out row by row on white, as an RGB image; the last row may be short.

    Args:
        images: (N, H, W, C) uint8, C = 1 (grayscale) or 3 (RGB).
        row_names: one name for each row, written on its left; None = no names.
        scale: whole factor by which images are enlarged; None = the smallest that makes them 32 pixels wide and high.

    A ValueError refuses images of another shape or type, or another number of names.
    """
    if images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape:
        raise ValueError(f"images have the shape {images.shape}: give (N, H, W, 1) or (N, H, W, 3)")
    if images.dtype != np.uint8:
        raise ValueError(f"images are {images.dtype}: give uint8 in 0..255")
    if columns < 1:
        raise ValueError(f"columns is {columns}: give at least 1")
    rows = math.ceil(len(images) / columns)
    if row_names is not None and len(row_names) != rows:
        raise ValueError(f"row_names has {len(row_names)} names: give one for each of {rows} rows")
    if scale is None:
        scale = max(1, math.ceil(MIN_TILE / min(images.shape[1:3])))
    elif scale < 1:
        raise ValueError(f"scale is {scale}: give at least 1, or None")

    height, width = (scale * size for size in images.shape[1:3])
    margin, names = (0, None) if row_names is None else _draw_names(row_names, height)
    step_y, step_x = height + PADDING, width + PADDING
    grid = Image.new("RGB", (margin + PADDING + columns * step_x, PADDING + rows * step_y), "white")
    if names is not None:
        grid.paste(names, (PADDING, PADDING))
    for i, image in enumerate(images):
        tile = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
        tile = tile.resize((width, height), Image.Resampling.NEAREST)
        grid.paste(tile, (margin + PADDING + i % columns * step_x, PADDING + i // columns * step_y))
    return grid


def grid_positions(total: int, row_length: int | None) -> tuple[list[int], int]:
    """Positions of the images that fit into a picture, of `total` images row by row, and their number per row.

    The first 16 of each `row_length` images are shown; None = a square of at most 256 images.
    """
    columns = min(MAX_COLUMNS, row_length or math.ceil(math.sqrt(total)))
    row_length, max_rows = row_length or columns, total if row_length else columns
    return [i for i in range(total) if i % row_length < columns and i // row_length < max_rows], columns


def _draw_names(names: Sequence[str], row_height: int) -> tuple[int, Image.Image]:
    """Draw the names of the rows; return the width of the picture, and the picture."""
    font = ImageFont.load_default(size=min(max(row_height // 2, MIN_FONT_SIZE), MAX_FONT_SIZE))
    lines = [one_line(name, MAX_NAME) for name in names]
    width = math.ceil(max(map(font.getlength, lines))) + 2 * PADDING
    picture = Image.new("RGB", (width, len(names) * (row_height + PADDING)), "white")
    draw = ImageDraw.Draw(picture)
    for row, name in enumerate(lines):
        middle = row * (row_height + PADDING) + row_height / 2
        draw.text((width - PADDING, middle), name, fill="black", font=font, anchor="rm")
    return width, picture
