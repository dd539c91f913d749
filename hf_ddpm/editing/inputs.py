"""The images and masks that a user wants to edit: `read_images(find_images(["a.png", "folder"]), shape=(1, 28, 28))`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_ddpm.data.find_files import ARRAY_SUFFIX, IMAGE_SUFFIXES
from hf_ddpm.image_shape import PixelType, ValueRange


def find_images(places: Sequence[str]) -> list[Path]:
    """The image files among some files and in some folders; a `ValueError` names a place without any."""
    found: list[Path] = []
    for place in places:
        path = Path(place).expanduser()
        if path.is_dir():
            suffixes = (*IMAGE_SUFFIXES, ARRAY_SUFFIX)
            inside = sorted(file for file in path.iterdir() if file.suffix.lower() in suffixes and file.is_file())
            if not inside:
                raise ValueError(f"images is {place!r}: there is no image file in this folder")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise ValueError(f"images is {place!r}: no such file or folder exists")
    return found


def check_mask(mask: Path) -> None:
    """Refuse a mask that is not a file."""
    if not mask.is_file():
        raise ValueError(f"mask is {str(mask)!r}: no such file exists")


def read_images(
    paths: Sequence[Path],
    *,
    shape: tuple[int, int, int],
    pixel_type: PixelType = "uint8",
    value_range: ValueRange | None = None,
    fit: bool = False,
    option: str = "images",
) -> np.ndarray[Any, Any]:
    """Decode images as training does, (N, H, W, C) of the pixel type.

    Args:
        paths: N files.
        shape, pixel_type, value_range: (C, H, W) and the values of the model's images.
        fit: resize, crop and remove colours; False = a `ValueError` names an image that would lose pixels or colours.
        option: name of the argument in messages.
    """
    options: dict[str, Any] = {"pixel_type": pixel_type, "value_range": value_range}
    return np.stack([_read(path, shape, fit, option, options) for path in paths])


def read_mask(path: Path, *, size: tuple[int, int], fit: bool = False) -> np.ndarray[Any, Any]:
    """Read which pixels are white in a mask, (H, W) bool; a `ValueError` if there is none, see `read_images`."""
    is_white = read_images([path], shape=(1, *size), fit=fit, option="mask")[0, :, :, 0] >= 128
    if not is_white.any():
        raise ValueError(f"mask is {str(path)!r}: it is black everywhere, make white what is to be repainted")
    return is_white


def _read(path: Path, shape: tuple[int, int, int], fit: bool, option: str, options: dict[str, Any]) -> np.ndarray[Any, Any]:
    from hf_ddpm.data.decode import UndecodableImage, decode_image, inspect_image

    channels, height, width = shape
    remedy = f"give {option} that fit the model, or add --fit to convert them"
    value = {"path": str(path), "bytes": path.read_bytes()}
    try:
        facts = inspect_image(value, channels=channels)
        if not fit and (facts.width, facts.height) != (width, height):
            size = f"{facts.width} x {facts.height} pixels, the model's images {width} x {height}"
            raise ValueError(f"{option} is {str(path)!r}: it has {size}, {remedy}")
        is_plain = options["pixel_type"] == "uint8"
        depth = 3 if channels == 1 and is_plain and not facts.is_gray else channels
        decoded = decode_image(value, image_size=(height, width), channels=depth, **options)
        pixels = np.frombuffer(decoded, options["pixel_type"])
    except UndecodableImage as error:
        raise ValueError(f"{option} is {str(path)!r}: it cannot be decoded ({error.reason})") from None
    image = pixels.reshape(depth, height, width).transpose(1, 2, 0)
    if depth == channels:
        return image
    is_colourless = bool((image == image[:, :, :1]).all())
    if not fit and not is_colourless:
        raise ValueError(f"{option} is {str(path)!r}: it has colours, the model's images are gray, {remedy}")
    gray = np.frombuffer(decode_image(value, image_size=(height, width), channels=1), np.uint8)
    return gray.reshape(height, width, 1)
