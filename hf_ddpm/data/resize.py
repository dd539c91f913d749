"""Bring an image to a size: `fit_picture(image, (48, 32), "crop")`, or `fit_array` for values of any type and number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import PIL.Image

from hf_ddpm.image_shape import ValueRange

Resize = Literal["crop", "pad", "stretch"]
BICUBIC = PIL.Image.Resampling.BICUBIC


@dataclass(frozen=True)
class _Plan:
    """Which part of an image becomes which part of the result."""

    box: tuple[float, float, float, float]
    """Left, top, right and bottom of the part of the image."""
    size: tuple[int, int]
    """Width and height of that part in the result."""
    place: tuple[int, int] = (0, 0)
    """Left and top of that part in the result; what is around it is black."""

    @property
    def whole_pixels(self) -> tuple[int, int, int, int] | None:
        """The part in whole pixels if none has to be resampled, else None."""
        left, top, right, bottom = self.box
        if (right - left, bottom - top) != self.size:
            return None
        return int(left), int(top), int(left) + self.size[0], int(top) + self.size[1]


def fit_picture(image: PIL.Image.Image, image_size: tuple[int, int], resize: Resize) -> PIL.Image.Image:
    """Bring a picture to a size (bicubic, antialiased; not resampled if it has that size)."""
    height, width = image_size
    if image.size == (width, height):
        return image
    plan = _plan(image.width, image.height, width, height, resize)
    # With `box` only that part is resampled: a strip of 1 x 10,000 pixels is not enlarged as a whole first.
    fitted = image.crop(plan.whole_pixels) if plan.whole_pixels else image.resize(plan.size, BICUBIC, box=plan.box)
    if plan.size == (width, height):
        return fitted
    canvas = PIL.Image.new(image.mode, (width, height))
    canvas.paste(fitted, plan.place)
    return canvas


def fit_array(
    values: np.ndarray[Any, Any], image_size: tuple[int, int], resize: Resize, value_range: ValueRange
) -> np.ndarray[Any, Any]:
    """The same for an image of (H, W, C) values of any type from black to white, which resampling does not exceed."""
    height, width = image_size
    plan = _plan(values.shape[1], values.shape[0], width, height, resize)
    if plan.whole_pixels is not None:
        left, top, right, bottom = plan.whole_pixels
        fitted = values[top:bottom, left:right]
    else:
        channels = [PIL.Image.fromarray(np.ascontiguousarray(values[..., c], np.float32)) for c in range(values.shape[2])]
        resized = np.stack([np.asarray(each.resize(plan.size, BICUBIC, box=plan.box)) for each in channels], axis=-1)
        resized = np.clip(resized, *value_range)
        fitted = (np.rint(resized) if np.issubdtype(values.dtype, np.integer) else resized).astype(values.dtype)
    if plan.size == (width, height):
        return fitted
    canvas = np.full((height, width, values.shape[2]), value_range[0], values.dtype)
    left, top = plan.place
    canvas[top : top + plan.size[1], left : left + plan.size[0]] = fitted
    return canvas


def _plan(image_width: int, image_height: int, width: int, height: int, resize: Resize) -> _Plan:
    """How an image is brought to a size."""
    whole = (0, 0, image_width, image_height)
    if resize == "stretch":
        return _Plan(whole, (width, height))
    is_wide = image_width * height >= image_height * width
    if resize == "crop":  # the part in the middle that has the proportions of the result; whole pixels if that is square
        part_width = image_height * width / height if is_wide else image_width
        part_height = image_height if is_wide else image_width * height / width
        left, top = (image_width - part_width) / 2, (image_height - part_height) / 2
        return _Plan((left, top, left + part_width, top + part_height), (width, height))
    inner_width = width if is_wide else max(1, round(image_width * height / image_height))
    inner_height = max(1, round(image_height * width / image_width)) if is_wide else height
    place = (width - inner_width) // 2, (height - inner_height) // 2
    return _Plan(whole, (inner_width, inner_height), place)
