"""Open picture files that may be a stranger's: `open_picture(path)`."""

from __future__ import annotations

import os
from typing import IO

import PIL.Image

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
