"""Decode one image of any format to square uint8 pixels, gray or RGB."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
from datasets.utils.file_utils import xopen

# Part of the name of every cache file: increase it whenever the same image would decode to other pixels.
DECODER_VERSION = 2
# A palette counts as RGB even if all its colours are gray: channels=1 is there to say so.
GRAY_MODES = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N", "F")
ORIENTATION_TAG = PIL.Image.ExifTags.Base.Orientation
MAX_16_BIT = 65535


class UndecodableImage(Exception):
    """An image that cannot be decoded; `reason` is the type and message of the cause, on one line.

    `path` is its file (None = inside another file), `position` that in the decoded dataset (None = not known).
    """

    def __init__(self, path: str | None, reason: str, position: int | None = None) -> None:
        super().__init__(path, reason, position)
        self.path, self.reason, self.position = path, reason, position

    def describe(self, source: str, split: str, row: int | None) -> str:
        """Which image cannot be decoded and why, on one line; `row` in the split, None = unknown."""
        place = "an image" if row is None else f"the image at row {row}"
        file = f" (file {self.path!r})" if self.path else ""
        return f"{place} of split {split!r} of `source` {source!r}{file} cannot be decoded ({self.reason})"


def check_pixel_options(image_size: int, channels: int | None) -> None:
    """Raise a `ValueError` for an impossible size or number of channels."""
    if image_size < 1:
        raise ValueError(f"image_size is {image_size}: give at least 1 pixel")
    if channels not in (None, 1, 3):
        raise ValueError(f"channels is {channels}: give 1 (gray) or 3 (RGB), or leave it out (as the data)")


def decode_image(record: dict[str, Any] | None, *, image_size: int, channels: int) -> bytes:
    """Decode one image to channels * image_size**2 bytes in CHW order.

    The EXIF orientation is applied, transparency is composited over white, and 16-bit gray (0..65535) is divided by 257.
    The shorter side is resized to `image_size` (bicubic, antialiased; skipped if it has that size already), then the
    centre is cropped. An animation is represented by its first frame.

    Args:
        record: `bytes` of an image file, or else its `path`, which may be a URL that datasets can open.
        image_size: height and width, in pixels.
        channels: 1 (gray) or 3 (RGB).

    Raises:
        UndecodableImage: it is missing, corrupt, truncated, suspiciously large or has float pixels.
    """
    with _reading(record) as image:
        image = _to_8_bits(image).convert("L" if channels == 1 else "RGB")
        pixels = np.asarray(_centre_square(image, image_size))
    return pixels.reshape(image_size, image_size, channels).transpose(2, 0, 1).tobytes()


def count_channels(record: dict[str, Any] | None) -> int:
    """1 if an image is gray (with or without transparency), else 3; a palette image counts as RGB."""
    with _reading(record) as image:
        return 1 if image.mode in GRAY_MODES else 3


@contextlib.contextmanager
def _reading(record: dict[str, Any] | None) -> Iterator[PIL.Image.Image]:
    """Open an undecoded image; every error until it is closed becomes an `UndecodableImage`."""
    # Pillow raises a dozen unrelated types on damaged files.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
            with _open(record) as image:
                yield image
    except Exception as error:
        words = re.sub(r" <_io\.BytesIO[^>]*>", "", str(error))  # Pillow's name for bytes without a file
        reason = f"{type(error).__name__}: {' '.join(words.split())}"
        raise UndecodableImage((record or {}).get("path"), reason) from error


def _open(record: dict[str, Any] | None) -> PIL.Image.Image:
    """Open an undecoded image: its bytes, or else the file at its path."""
    if record is None or (record["bytes"] is None and record["path"] is None):
        raise ValueError("the row has no image")
    if record["bytes"] is not None:
        return PIL.Image.open(io.BytesIO(record["bytes"]))
    if "://" in record["path"]:
        with xopen(record["path"], "rb") as file:
            return PIL.Image.open(io.BytesIO(file.read()))
    return PIL.Image.open(record["path"])


def _to_8_bits(image: PIL.Image.Image) -> PIL.Image.Image:
    """Make an image upright, opaque and 8 bits per channel."""
    if image.mode == "F":
        raise ValueError("float pixels (mode F) have no known range: save them with 8 or 16 bits")
    if image.getexif().get(ORIENTATION_TAG) is not None:
        image = PIL.ImageOps.exif_transpose(image)
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _from_16_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = PIL.Image.new("RGBA", image.size, "white")
        white.alpha_composite(image)
        return white
    return image


def _from_16_bits(image: PIL.Image.Image) -> PIL.Image.Image:
    """Scale gray values from 0..65535 to 0..255; the value declared transparent becomes white."""
    values = np.asarray(image).astype(np.int64)
    low, high = values.min(), values.max()
    if low < 0 or high > MAX_16_BIT:
        raise ValueError(f"gray values from {low} to {high} do not fit 16 bits (0..{MAX_16_BIT}): save it with 8 or 16 bits")
    if isinstance(image.info.get("transparency"), int):
        values[values == image.info["transparency"]] = MAX_16_BIT
    return PIL.Image.fromarray(((values + 128) // 257).astype(np.uint8))


def _centre_square(image: PIL.Image.Image, image_size: int) -> PIL.Image.Image:
    """Resize the shorter side to image_size and crop the centre."""
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    if side == image_size:
        return image.crop((int(left), int(top), int(left) + side, int(top) + side))
    # With `box` only the square is resampled: a strip of 1 x 10,000 pixels is not enlarged as a whole first.
    box = (left, top, left + side, top + side)
    return image.resize((image_size, image_size), PIL.Image.Resampling.BICUBIC, box=box)
