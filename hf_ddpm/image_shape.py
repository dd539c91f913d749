"""Sizes of images as options, models and messages write them: `size_text((48, 32))` is "48 x 32"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

ImageSize = int | tuple[int, int]
"""Height and width in pixels; one number = both."""
PixelType = Literal["uint8", "uint16", "float32"]
PIL_IMAGES = (("uint8", 1), ("uint8", 3), ("uint8", 4), ("uint16", 1))
"""Types of values and numbers of channels that a `PIL.Image`, and a PNG file that Pillow writes, can hold."""
ValueRange = tuple[float, float]
"""Two values of pixels, the lower one first."""
MAX_CHANNELS = 16
"""Most channels of an image."""


def size_pair(size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width of a size that may be one number."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def plain_size(size: int | Sequence[int]) -> ImageSize:
    """The same size as one number if it is square."""
    height, width = size_pair(size)
    return height if height == width else (height, width)


def size_text(size: int | Sequence[int]) -> str:
    """Height and width for a message."""
    height, width = size_pair(size)
    return f"{height} x {width}"
