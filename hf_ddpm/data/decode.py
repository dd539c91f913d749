"""Decode one image of any format to uint8 pixels, gray or RGB."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import PIL.Image
import PIL.ImageOps

from hf_ddpm.data.undecoded import Undecoded, open_undecoded, path_of, shortened
from hf_ddpm.image_shape import ImageSize, ValueRange, size_pair

# Part of the name of every cache file: increase it whenever the same image would decode to other pixels.
DECODER_VERSION = 2
# A palette counts as RGB even if all its colours are gray: channels=1 is there to say so.
GRAY_MODES = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N", "F")
# The warning about images that may be decompression bombs as an error, as the `warnings` module keeps it.
BOMBS_ARE_ERRORS = ("error", None, PIL.Image.DecompressionBombWarning, None, 0)
ORIENTATION_TAG = PIL.Image.ExifTags.Base.Orientation
Kind = Literal["integers", "floats", "array", "reduced"]
"""Images of more than 8 bits: gray integers, gray floats, arrays of any type, and those that Pillow reduces to 8 bits."""
MAX_16_BIT = 65535
DEFAULT_RANGES: dict[Kind, ValueRange] = {"integers": (0, MAX_16_BIT), "array": (0, 255), "reduced": (0, MAX_16_BIT)}


class UndecodableImage(Exception):
    """An image that cannot be decoded; `reason` is the type and message of the cause, on one line.

    `path` is its file (None = inside another file).
    """

    def __init__(self, path: str | None, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def describe(self, source: str, split: str, row: int | None) -> str:
        """Which image cannot be decoded and why, on one line; `row` in the split, None = unknown."""
        place = "an image" if row is None else f"the image at row {row}"
        file = f" (file {shortened(self.path)!r})" if self.path else ""
        return f"{place} of split {split!r} of `source` {source!r}{file} cannot be decoded ({self.reason})"


@dataclass(frozen=True, kw_only=True)
class ImageFacts:
    """An image before it is decoded."""

    width: int
    """In pixels, as stored."""
    height: int
    """In pixels, as stored."""
    is_gray: bool
    """Whether it has no colour, by its mode; a palette image counts as colour."""
    has_frames: bool
    """Whether it is an animation or has several pages."""
    kind: Kind | None
    """What its values are if they are not plain 8 bits; None = they are."""
    low: float | None
    """The lowest value; None = plain 8 bits."""
    high: float | None
    """The highest value; None = plain 8 bits."""


def check_pixel_options(image_size: ImageSize, channels: int | None, value_range: ValueRange | None = None) -> None:
    """Raise a `ValueError` for an impossible size, number of channels or range."""
    if min(size_pair(image_size)) < 1:
        raise ValueError(f"image_size is {image_size}: give at least 1 pixel")
    if channels not in (None, 1, 3):
        raise ValueError(f"channels is {channels}: give 1 (gray) or 3 (RGB), or leave it out (as the data)")
    if value_range is not None and not value_range[0] < value_range[1]:
        raise ValueError(f"value_range is {list(value_range)}: give the lower value first, as in [0, 4095]")


def decode_image(
    value: Undecoded,
    *,
    image_size: ImageSize,
    channels: int,
    value_range: ValueRange | None = None,
    roots: tuple[str, ...] = (),
) -> bytes:
    """Decode one image to channels * height * width bytes in CHW order.

    The EXIF orientation is applied, transparency is composited over white, and values of more than 8 bits are scaled from
    their range to 0..255. The image is resized until it just covers `image_size` (bicubic, antialiased; skipped if it does
    so already), then the centre is cropped. An animation is represented by its first frame.

    Args:
        value: the image as the data hold it, see `open_undecoded`.
        image_size: height and width, in pixels; one number = both.
        channels: 1 (gray) or 3 (RGB).
        value_range: the values that become black and white, of images of more than 8 bits and of arrays; None = 0..65535
            for gray images of 16 bits and 0..255 for arrays.
        roots: folders in which its path may lie, see `image_roots`.

    Raises:
        UndecodableImage: it is missing, corrupt, truncated, suspiciously large, or has values outside the range.
    """
    with _reading(value, roots) as image:
        image, mode = _to_8_bits(image, value_range), "L" if channels == 1 else "RGB"
        image.load()  # before its mode and size are final
        image = image if image.mode == mode else image.convert(mode)
        pixels = np.asarray(_cropped(image, size_pair(image_size)))
    return pixels.reshape(*size_pair(image_size), channels).transpose(2, 0, 1).tobytes()


def inspect_image(value: Undecoded, roots: tuple[str, ...] = ()) -> ImageFacts:
    """Facts from the header of an image, and the range of its values if they are not plain 8 bits.

    Raises:
        UndecodableImage: it is missing or its header is damaged; other damage may go unnoticed.
    """
    with _reading(value, roots) as image:
        kind = _kind_of(image)
        values = None if kind is None else np.asarray(image)
        is_gray = image.ndim == 2 if isinstance(image, np.ndarray) else image.mode in GRAY_MODES
        width, height = (image.shape[1], image.shape[0]) if isinstance(image, np.ndarray) else image.size
        if values is not None and kind == "reduced":  # the upper 8 of 16 bits, and perhaps opacity
            values = (values if values.ndim == 2 or values.shape[2] == 3 else values[..., :-1]).astype(int) * 257
        low, high = (None, None) if values is None else (float(values.min()), float(values.max()))
        has_frames = _has_frames(image)
    return ImageFacts(width=width, height=height, is_gray=is_gray, has_frames=has_frames, kind=kind, low=low, high=high)


def _has_frames(image: PIL.Image.Image | np.ndarray[Any, Any]) -> bool:
    """Whether an image is an animation or has several pages; the second picture in a photo, a preview, does not count."""
    if isinstance(image, np.ndarray) or image.format == "MPO":
        return False
    with contextlib.suppress(Exception):  # damage behind the first frame does not matter
        return bool(getattr(image, "is_animated", False))
    return False


@contextlib.contextmanager
def _reading(value: Undecoded, roots: tuple[str, ...]) -> Iterator[PIL.Image.Image | np.ndarray[Any, Any]]:
    """Open an undecoded image; every error until it is closed becomes an `UndecodableImage`."""
    # Pillow raises a dozen unrelated types on damaged files.
    try:
        if warnings.filters[:1] != [BOMBS_ARE_ERRORS]:  # for good: `catch_warnings` is not safe in several threads
            warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
        image = open_undecoded(value, roots)
        with contextlib.nullcontext(image) if isinstance(image, np.ndarray) else image:
            yield image
    except Exception as error:
        raise UndecodableImage(path_of(value), f"{type(error).__name__}: {' '.join(str(error).split())}") from error


def _kind_of(image: PIL.Image.Image | np.ndarray[Any, Any]) -> Kind | None:
    """What the values of an unread image are; None = plain 8 bits."""
    if isinstance(image, np.ndarray):
        return "array"
    if image.mode == "F":
        return "floats"
    if image.mode == "I" or image.mode.startswith("I;16"):
        return "integers"
    tiles = getattr(image, "tile", [])
    arguments = tiles[0].args if tiles else None
    layout = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return "reduced" if isinstance(layout, str) and ";16" in layout else None


def _to_8_bits(image: PIL.Image.Image | np.ndarray[Any, Any], value_range: ValueRange | None) -> PIL.Image.Image:
    """Make an image upright, opaque and 8 bits per channel."""
    if isinstance(image, np.ndarray):
        return _opaque(PIL.Image.fromarray(_scale(image, value_range or DEFAULT_RANGES["array"])))
    if image.mode == "F" and value_range is None:
        raise ValueError("float pixels (mode F) have no known range: name it with `value_range`")
    kind = _kind_of(image)
    if image.getexif().get(ORIENTATION_TAG) is not None:
        image = PIL.ImageOps.exif_transpose(image)
    if kind in ("integers", "floats"):
        values, (low, high) = np.asarray(image), value_range or DEFAULT_RANGES["integers"]
        if isinstance(image.info.get("transparency"), int):
            values = np.where(values == image.info["transparency"], high, values)
        return PIL.Image.fromarray(_scale(values, (low, high)))
    return _opaque(image)


def _opaque(image: PIL.Image.Image) -> PIL.Image.Image:
    """Composite transparency over white."""
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    white = PIL.Image.new("RGBA", image.size, "white")
    white.alpha_composite(image)
    return white


def _scale(values: np.ndarray[Any, Any], value_range: ValueRange) -> np.ndarray[Any, Any]:
    """Scale values of any type from their range to 0..255, uint8; a `ValueError` if one is outside it."""
    low, high = value_range
    if not (values.min() >= low and values.max() <= high):  # not a number compares as False
        raise ValueError(
            f"values from {values.min():g} to {values.max():g} do not fit {low:g}..{high:g}: name their range with "
            "`value_range`"
        )
    return np.rint((values.astype(np.float64) - low) * (255 / (high - low))).astype(np.uint8)


def _cropped(image: PIL.Image.Image, image_size: tuple[int, int]) -> PIL.Image.Image:
    """Resize until the image just covers the size, and crop the centre."""
    height, width = image_size
    if image.size == (width, height):
        return image
    # The part of the image that has the proportions of the result; whole pixels if it is square.
    is_wide = image.width * height >= image.height * width
    part_width = image.height * width / height if is_wide else image.width
    part_height = image.height if is_wide else image.width * height / width
    left, top = (image.width - part_width) / 2, (image.height - part_height) / 2
    if (part_width, part_height) == (width, height):
        return image.crop((int(left), int(top), int(left) + width, int(top) + height))
    # With `box` only that part is resampled: a strip of 1 x 10,000 pixels is not enlarged as a whole first.
    box = (left, top, left + part_width, top + part_height)
    return image.resize((width, height), PIL.Image.Resampling.BICUBIC, box=box)
