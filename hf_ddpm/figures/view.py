"""Images of any type and number of channels as pixels to look at: `to_view(images, value_range)`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hf_ddpm.image_shape import ValueRange


def to_view(
    images: np.ndarray[Any, Any], value_range: ValueRange | None = None, channels: Sequence[int] | None = None
) -> np.ndarray[Any, Any]:
    """Images, (..., C) of any type, as (..., 1 or 3) uint8.

    Args:
        value_range: the values that become black and white; uint8 stays as it is.
        channels: which to show, three as red, green and blue or one in gray; None = the first three, or the first of fewer.
            A `ValueError` names one that does not exist.
    """
    shown = chosen_channels(images.shape[-1], channels)
    return to_8_bits(images if len(shown) == images.shape[-1] and channels is None else images[..., shown], value_range)


def chosen_channels(count: int, channels: Sequence[int] | None) -> list[int]:
    """Which of `count` channels are shown, see `to_view`."""
    if channels is None:
        return list(range(3 if count >= 3 else 1))
    for channel in channels:
        if not 0 <= channel < count:
            raise ValueError(f"view_channels is {list(channels)}: the images have {count}, give 0 to {count - 1}")
    return list(channels)


def to_8_bits(images: np.ndarray[Any, Any], value_range: ValueRange | None) -> np.ndarray[Any, Any]:
    """Images of any type, scaled from their range to 0..255, as uint8; uint8 stays as it is."""
    if images.dtype == np.uint8:
        return images
    assert value_range is not None, "other values have a range"
    low, high = value_range
    scaled = (images.astype(np.float64) - low) * (255 / (high - low))
    return np.rint(scaled).clip(0, 255).astype(np.uint8)
