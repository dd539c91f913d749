"""Read what Pillow cannot read, or not with all of its bits: .npy files, TIFF of many channels, colour of 16 bits."""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import PIL.Image

from hf_ddpm.image_shape import MAX_CHANNELS

NPY_BEGINNING = b"\x93NUMPY"
TIFF_BEGINNINGS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
ORIENTATION_TAG = PIL.Image.ExifTags.Base.Orientation
BITS_TAG, PLANES_TAG = 258, 284
COLOUR_DEPTHS = (1, 3, 4)
MAX_VALUES = 4 * 89_478_485
"""Most values of a TIFF file: four channels of what Pillow takes."""
Array = np.ndarray[Any, Any]
UPRIGHT: dict[int, Callable[[Array], Array]] = {
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: image.swapaxes(0, 1)[:, ::-1],
    7: lambda image: image.swapaxes(0, 1)[::-1, ::-1],
    8: lambda image: image.swapaxes(0, 1)[::-1],
}
"""How an image, (H, W, ...), is turned by its EXIF orientation."""


class MissingReader(ValueError):
    """A library that reads an image is not installed; the image is not bad, and must not be left out."""


def read_npy(file: bytes) -> Array:
    """The array of a .npy file; never a pickle, and nothing is allocated for what is not there."""
    stream = io.BytesIO(file)
    version = np.lib.format.read_magic(stream)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(stream)
    if not dtype.hasobject and np.prod(shape, dtype=object) * dtype.itemsize > len(file):
        raise ValueError(f"the file ends before an array of shape {shape}")
    return np.load(io.BytesIO(file), allow_pickle=False)


def has_deep_planes(image: PIL.Image.Image) -> bool:
    """Whether an image is a TIFF file that has its channels one after the other in more than 8 bits, which Pillow opens but
    cannot read."""
    tags: Any = getattr(image, "tag_v2", {})
    return tags.get(PLANES_TAG) == 2 and max(tags.get(BITS_TAG, (1,))) > 8


def channels_last(array: Array, channels: int | None = None) -> Array:
    """An array of pixels with its channels, if any, on the last axis; a single one has none.

    Of three axes, the channels are the first or the last one: that which has `channels`, if it is given, else that which has
    at most 16, else that which has 1, 3 or 4. A `ValueError` if each of these fits both or none.
    """
    if array.ndim == 3 and 0 not in array.shape and array.dtype != object:
        sizes = array.shape[0], array.shape[-1]
        for possible in ((channels,), range(1, MAX_CHANNELS + 1), COLOUR_DEPTHS):
            first, last = (size in possible for size in sizes)
            if first != last:
                array = array if last else np.moveaxis(array, 0, -1)
                return array[..., 0] if array.shape[-1] == 1 else array
    if array.ndim != 2 or 0 in array.shape or array.dtype == object:
        axes = f"(H, W), (H, W, C) or (C, H, W) with C from 1 to {MAX_CHANNELS}"
        hint = ", and the number of `channels` if it could be either" if array.ndim == 3 else ""
        raise ValueError(f"an array of shape {array.shape} is not an image: give {axes}{hint}")
    return array


def read_tiff(file: bytes, channels: int | None) -> Array:
    """The first image of a TIFF file, upright, see `channels_last`."""
    tifffile = _import("tifffile", "this TIFF file")
    with tifffile.TiffFile(io.BytesIO(file)) as opened:
        series = opened.series[0]
        if series.size > MAX_VALUES:
            raise ValueError(f"it has {series.size:,} values, more than {MAX_VALUES:,}: it may be a decompression bomb")
        try:
            values, samples = series.asarray(), series.axes.find("S")
        except ValueError as error:
            if "requires the 'imagecodecs' package" not in str(error):
                raise
            raise _missing("imagecodecs", "this compressed TIFF file") from None
        values = np.moveaxis(values, samples, -1) if samples >= 0 else values
        orientation = opened.pages.first.tags.valueof(int(ORIENTATION_TAG), 1)
    values = values if samples >= 0 else channels_last(values, channels)
    return UPRIGHT.get(orientation, lambda same: same)(values)


def read_16_bits(image: PIL.Image.Image) -> Array:
    """All bits of an image of 16 bits and colour or transparency, upright, (H, W, C), which Pillow would reduce to 8."""
    if image.info.get("transparency") is not None:
        raise ValueError("a colour that stands for transparency is not read with 16 bits: save it with 8 bits")
    file: Any = image.fp  # type: ignore[attr-defined]
    file.seek(0)
    content = file.read()
    if image.format == "TIFF":
        return read_tiff(content, channels=None)
    if image.format != "PNG":
        raise ValueError(f"{image.format} files of 16 bits and colour are not read with all bits: save them as PNG or TIFF")
    values = _import("imagecodecs", "a PNG file of 16 bits and colour", ", or give `pixel_type` uint8").png_decode(content)
    return UPRIGHT.get(image.getexif().get(ORIENTATION_TAG, 1), lambda same: same)(values)


def _import(library: str, what: str, otherwise: str = "") -> Any:
    try:
        return importlib.import_module(library)
    except ImportError:
        raise _missing(library, what, otherwise) from None


def _missing(library: str, what: str, otherwise: str = "") -> MissingReader:
    return MissingReader(f'{what} is read by {library}, which is not installed: pip install "hf_ddpm[images]"{otherwise}')
