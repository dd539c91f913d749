"""Open picture files that may be a stranger's, and write our own: `open_picture(path)`, `save_image(image, path)`."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import IO, Any

import numpy as np
import PIL.Image

from hf_ddpm.runtime.files import write_whole

RASTER_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "DIB", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF", "TGA")
"""Formats that Pillow reads by itself, whatever a file is called: for PostScript, for example, it starts Ghostscript."""


def open_picture(file: str | os.PathLike[str] | IO[bytes]) -> PIL.Image.Image:
    """Open a picture of one of the `RASTER_FORMATS`; its pixels are read when they are first used.

    Raises:
        PIL.UnidentifiedImageError: it is of another format, or not a picture.
    """
    try:
        return PIL.Image.open(file, formats=RASTER_FORMATS)
    except PIL.UnidentifiedImageError:
        raise PIL.UnidentifiedImageError(f"it is in none of the formats {', '.join(RASTER_FORMATS)}") from None


def save_image(image: np.ndarray[Any, Any], path: Path) -> None:
    """Write an image, (H, W, C), whole or not at all: as a PNG file, if PIL can hold it, or as an array in a .npy file."""
    if path.suffix == ".npy":
        write_whole(path, functools.partial(_save_array, image))
        return
    pixels = image[:, :, 0] if image.shape[2] == 1 else image
    write_whole(path, PIL.Image.fromarray(pixels).save)


def _save_array(array: np.ndarray[Any, Any], path: Path) -> None:
    with path.open("wb") as file:  # `np.save` would change the name
        np.save(file, array, allow_pickle=False)
