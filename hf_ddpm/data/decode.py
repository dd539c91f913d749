"""Decode one image of any format to pixels of 8 bits, gray or RGB, or to values of any type and number of channels."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import PIL.Image
import PIL.ImageOps
import PIL.ImageSequence

from hf_ddpm.data.deep_files import COLOUR_DEPTHS, ORIENTATION_TAG, MissingReader, read_16_bits
from hf_ddpm.data.resize import Resize, fit_array, fit_picture
from hf_ddpm.data.undecoded import Undecoded, open_undecoded, path_of, shortened
from hf_ddpm.image_shape import MAX_CHANNELS, ImageSize, PixelType, ValueRange, size_pair

# Part of the name of every cache file: increase it whenever the same image would decode to other pixels.
DECODER_VERSION = 2
# A palette counts as RGB even if all its colours are gray: channels=1 is there to say so.
GRAY_MODES = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N", "F")
# The warning about images that may be decompression bombs as an error, as the `warnings` module keeps it.
BOMBS_ARE_ERRORS = ("error", None, PIL.Image.DecompressionBombWarning, None, 0)
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
    """Whether it has no colour, by its mode; a palette image counts as colour, and an array of several channels."""
    channels: int
    """Number of channels as stored, opacity included; a palette has 3."""
    num_pages: int
    """Number of pages of a TIFF file whose pages have one channel, else 1."""
    has_frames: bool
    """Whether it is an animation or has several pages."""
    kind: Kind | None
    """What its values are if they are not plain 8 bits; None = they are."""
    dtype: str | None
    """Name of the type of its values in NumPy; None = plain 8 bits."""
    low: float | None
    """The lowest value; None = plain 8 bits."""
    high: float | None
    """The highest value; None = plain 8 bits."""


def check_pixel_options(image_size: ImageSize, channels: int | None, value_range: ValueRange | None = None) -> None:
    """Raise a `ValueError` for an impossible size, number of channels or range."""
    if min(size_pair(image_size)) < 1:
        raise ValueError(f"image_size is {image_size}: give at least 1 pixel")
    if channels is not None and not 1 <= channels <= MAX_CHANNELS:
        raise ValueError(f"channels is {channels}: give 1 to {MAX_CHANNELS}, or leave it out (as the data)")
    if value_range is not None and not value_range[0] < value_range[1]:
        raise ValueError(f"value_range is {list(value_range)}: give the lower value first, as in [0, 4095]")


def decode_image(
    value: Undecoded,
    *,
    image_size: ImageSize,
    channels: int,
    value_range: ValueRange | None = None,
    pixel_type: PixelType = "uint8",
    resize: Resize = "crop",
    roots: tuple[str, ...] = (),
) -> bytes:
    """Decode one image to channels * height * width values in CHW order, as bytes (the lower one first).

    The EXIF orientation is applied, and the image is brought to its size (bicubic, antialiased; not resampled if it has it
    already). An animation is represented by its first frame.

    As uint8 and gray or RGB, transparency is composited over white, and values of more than 8 bits are scaled from their
    range to 0..255. As another type or with another number of channels, values are kept as they are (plain 8 bits are scaled
    to the range), opacity is a channel, and so are the pages of a TIFF file if they are as many.

    Args:
        value: the image as the data hold it, see `open_undecoded`.
        image_size: height and width, in pixels; one number = both.
        channels: 1 (gray), 3 (RGB), or as many as the image has.
        value_range: the values that become black and white, of images of more than 8 bits and of arrays; None = 0..65535
            for gray images of 16 bits and 0..255 for arrays.
        pixel_type: type of the values.
        resize: `crop` = resized until it just covers the size, then the centre; `pad` = resized until it fits in, then black
            around it; `stretch` = resized whatever its proportions are.
        roots: folders in which its path may lie, see `image_roots`.

    Raises:
        UndecodableImage: it is missing, corrupt, truncated, suspiciously large, or has values outside the range.
    """
    size = size_pair(image_size)
    with _reading(value, roots, channels) as image:
        if pixel_type == "uint8" and channels in (1, 3):
            image, mode = _to_8_bits(image, value_range), "L" if channels == 1 else "RGB"
            image.load()  # before its mode and size are final
            image = image if image.mode == mode else image.convert(mode)
            pixels = np.asarray(fit_picture(image, size, resize))
        else:
            values = _values_of(image, channels, value_range, pixel_type)
            black_and_white = (0, 255) if pixel_type == "uint8" else value_range or DEFAULT_RANGES["integers"]
            pixels = fit_array(values, size, resize, black_and_white).astype(np.dtype(pixel_type).newbyteorder("<"))
    return pixels.reshape(*size, channels).transpose(2, 0, 1).tobytes()


def axis_hint(channels: int | None) -> int | None:
    """A number of channels as far as it tells the axes of arrays: 1 and 3 do not, as images may be converted to them."""
    return None if channels in (1, 3) else channels


def inspect_image(value: Undecoded, roots: tuple[str, ...] = (), channels: int | None = None) -> ImageFacts:
    """Facts from the header of an image, and the range of its values if they are not plain 8 bits.

    `channels` tells the axes of an array where its shape does not, see `open_undecoded`.

    Raises:
        UndecodableImage: it is missing or its header is damaged; other damage may go unnoticed.
    """
    with _reading(value, roots, channels) as image:
        kind = _kind_of(image)
        values = None if kind is None else np.asarray(image)
        if isinstance(image, np.ndarray):
            is_gray, stored = image.ndim == 2, 1 if image.ndim == 2 else image.shape[2]
        else:
            is_gray, stored = image.mode in GRAY_MODES, 3 if image.mode == "P" else len(image.getbands())
        width, height = (image.shape[1], image.shape[0]) if isinstance(image, np.ndarray) else image.size
        dtype = None if values is None else "uint16" if kind == "reduced" else values.dtype.name
        if values is not None and kind == "reduced":  # the upper 8 of 16 bits, and perhaps opacity
            values = (values if values.ndim == 2 or values.shape[2] == 3 else values[..., :-1]).astype(int) * 257
        low, high = (None, None) if values is None else (float(values.min()), float(values.max()))
        has_frames = _has_frames(image)
        num_pages = getattr(image, "n_frames", 1) if getattr(image, "format", None) == "TIFF" and stored == 1 else 1
    return ImageFacts(
        width=width,
        height=height,
        is_gray=is_gray,
        channels=stored,
        num_pages=num_pages,
        has_frames=has_frames,
        kind=kind,
        dtype=dtype,
        low=low,
        high=high,
    )


def _has_frames(image: PIL.Image.Image | np.ndarray[Any, Any]) -> bool:
    """Whether an image is an animation or has several pages; the second picture in a photo, a preview, does not count."""
    if isinstance(image, np.ndarray) or image.format == "MPO":
        return False
    with contextlib.suppress(Exception):  # damage behind the first frame does not matter
        return bool(getattr(image, "is_animated", False))
    return False


@contextlib.contextmanager
def _reading(
    value: Undecoded, roots: tuple[str, ...], channels: int | None
) -> Iterator[PIL.Image.Image | np.ndarray[Any, Any]]:
    """Open an undecoded image; every error until it is closed becomes an `UndecodableImage`, but for a missing library."""
    # Pillow raises a dozen unrelated types on damaged files.
    try:
        if warnings.filters[:1] != [BOMBS_ARE_ERRORS]:  # for good: `catch_warnings` is not safe in several threads
            warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
        image = open_undecoded(value, roots, axis_hint(channels))
        with contextlib.nullcontext(image) if isinstance(image, np.ndarray) else image:
            yield image
    except MissingReader:
        raise
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
        if image.ndim == 3 and image.shape[2] not in COLOUR_DEPTHS:
            raise ValueError(f"it has {image.shape[2]} channels: give that as `channels`")
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
    _require_range(values, value_range)
    return np.rint((values.astype(np.float64) - low) * (255 / (high - low))).astype(np.uint8)


def _require_range(values: np.ndarray[Any, Any], value_range: ValueRange) -> None:
    """A `ValueError` if a value is outside the range."""
    low, high = value_range
    if not (values.min() >= low and values.max() <= high):  # not a number compares as False
        raise ValueError(
            f"values from {values.min():g} to {values.max():g} do not fit {low:g}..{high:g}: name their range with "
            "`value_range`"
        )


def _values_of(
    image: PIL.Image.Image | np.ndarray[Any, Any], channels: int, value_range: ValueRange | None, pixel_type: PixelType
) -> np.ndarray[Any, Any]:
    """The values of an image with all of their bits, upright, (H, W, C) of the pixel type."""
    kind, (low, high) = _kind_of(image), value_range or DEFAULT_RANGES["integers"]
    values = _stored_values(image, kind, channels, high)
    values = values if values.ndim == 3 else values[..., np.newaxis]
    found = values.shape[2]
    if found == 1 and channels == 3:
        values = np.repeat(values, 3, axis=2)
    elif found != channels:
        raise ValueError(f"it has {found} {'channel' if found == 1 else 'channels'}, and `channels` is {channels}")
    if pixel_type == "uint8":
        return values if kind is None else _scale(values, value_range or DEFAULT_RANGES[kind])
    if kind is None:  # 255 levels, which are few for any other range
        scaled = low + values * ((high - low) / 255)
        return (np.rint(scaled) if pixel_type == "uint16" else scaled).astype(pixel_type)
    _require_range(values, (low, high))
    if pixel_type == "uint16" and not np.can_cast(values.dtype, np.int64):
        raise ValueError(f"its values are of type {values.dtype}: give `pixel_type` float32")
    return values.astype(pixel_type)


def _stored_values(
    image: PIL.Image.Image | np.ndarray[Any, Any], kind: Kind | None, channels: int, white: float
) -> np.ndarray[Any, Any]:
    """The values of an image as they are stored, upright, (H, W) or (H, W, C)."""
    if isinstance(image, np.ndarray):
        return image
    if kind == "reduced":
        return read_16_bits(image)
    if image.format == "TIFF" and len(image.getbands()) == 1 and getattr(image, "n_frames", 1) == channels > 1:
        return np.stack([np.asarray(page.copy()) for page in PIL.ImageSequence.Iterator(image)], axis=-1)
    if image.getexif().get(ORIENTATION_TAG) is not None:
        image = PIL.ImageOps.exif_transpose(image)
    if kind is None and image.mode not in ("L", "LA", "RGB", "RGBA", "CMYK"):
        image = image.convert("L" if image.mode == "1" else "RGBA" if image.has_transparency_data else "RGB")
    values = np.asarray(image)
    if kind is not None and isinstance(image.info.get("transparency"), int):
        values = np.where(values == image.info["transparency"], int(white), values).astype(values.dtype)
    return values
