"""Open an image as a dataset holds it, before it is decoded: bytes of a file, a path, or an array of pixels."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub.constants
import numpy as np
import PIL.Image
from datasets.utils.file_utils import xopen
from huggingface_hub.file_download import repo_folder_name

from hf_ddpm.config import GIVEN_IN_PYTHON
from hf_ddpm.data.deep_files import (
    NPY_BEGINNING,
    TIFF_BEGINNINGS,
    channels_last,
    has_deep_planes,
    read_npy,
    read_tiff,
)
from hf_ddpm.data.find_files import ARRAY_SUFFIX
from hf_ddpm.runtime.pictures import open_picture

BASE64 = re.compile(r"[A-Za-z0-9+/\s]{64,}=*\s*")
NOT_UTF8 = re.compile(r"\\x[89a-f][0-9a-f]")
"""A byte in the name of a file, as `hf_ddpm.data.folders` writes it."""
Undecoded = dict[str, Any] | list[Any] | np.ndarray[Any, Any] | None
"""`bytes` of an image file, or else its `path`; or the pixels themselves, (H, W), (H, W, C) or (C, H, W); None = missing."""


def open_undecoded(
    value: Undecoded, roots: tuple[str, ...], channels: int | None = None
) -> PIL.Image.Image | np.ndarray[Any, Any]:
    """Open an image without decoding it; an array is returned as (H, W) or (H, W, C), of any type.

    `roots` are the folders in which a path is read, see `image_roots`, and `channels` tells the axes of an array where its
    shape does not, see `channels_last`. Pillow, the operating system and numpy raise a dozen unrelated types of errors.
    """
    if isinstance(value, (list, np.ndarray)):
        return channels_last(np.asarray(value), channels)
    if value is None or (value["bytes"] is None and value["path"] is None):
        raise ValueError("the row has no image")
    if value["bytes"] is not None:
        return _open_file(io.BytesIO(value["bytes"]), channels)
    path = _allowed(value["path"], roots)
    if "://" in path:
        with xopen(path, "rb") as file:
            return _open_file(io.BytesIO(file.read()), channels)
    _require_file(path)
    return _open_file(path, channels)


def path_of(value: Undecoded) -> str | None:
    """The file of an image as its data names it; None = it has none."""
    return value.get("path") if isinstance(value, dict) else None


def shortened(path: str) -> str:
    """A path for a message: what a row calls a path may be a text of any length."""
    return path if len(path) <= 300 else f"{path[:50]}..."


def image_roots(source: str, dataset: datasets.Dataset | datasets.IterableDataset) -> tuple[str, ...]:
    """Where the images of a dataset may be read that are kept as paths; no folder = nowhere, only bytes are read.

    A row could name any file of this machine, or an address. So a path must lie in the folder of the data; or, if datasets
    itself has listed the image files of a Hub repository, in that repository, where it was downloaded to, or in an archive
    that was unpacked.
    """
    folder, lists_files = Path(source).expanduser(), dataset.info.builder_name == "imagefolder"
    unpacked = [str(datasets.config.EXTRACTED_DATASETS_PATH)] if lists_files else []
    if source == "digits":
        return ()
    if source == GIVEN_IN_PYTHON:  # the program that has these rows could open each file itself
        return (os.getcwd(), os.path.abspath(os.sep))
    if folder.is_dir():
        return (str(folder.absolute()), str(folder.resolve()), *unpacked)
    downloaded = Path(huggingface_hub.constants.HF_HUB_CACHE) / repo_folder_name(repo_id=source, repo_type="dataset")
    return (str(downloaded), f"hf://datasets/{source}@", *unpacked) if lists_files else ()


def local_file(path: str, roots: tuple[str, ...]) -> Path | None:
    """A path, absolute or in the first of the local folders, without following links; None = it is in none of them."""
    folders = [root for root in roots if "://" not in root]
    whole = os.path.normpath(os.path.join(folders[0], path)) if folders else path
    return Path(whole) if any(whole.startswith(os.path.join(folder, "")) for folder in folders) else None


def _allowed(path: str, roots: tuple[str, ...]) -> str:
    """The path, made absolute, if it lies in one of the folders; else a `ValueError`."""
    *inside, place = path.split("::")  # zip://inside.png::archive.zip
    is_address = "://" in place and not any(place.startswith(root) for root in roots if "://" in root)
    if is_address or not all(part.startswith("zip://") for part in inside):
        raise ValueError(f"its path {shortened(path)!r} is an address, and no images are fetched: download it")
    if "://" in place:
        return path
    whole = local_file(place, roots)
    if whole is None:
        raise ValueError(f"its path {shortened(path)!r} is not in a local folder of data: move it there, or store its bytes")
    if not os.path.exists(whole) and BASE64.fullmatch(path):
        raise ValueError("its path looks like the text of base64: store the bytes that it stands for")
    return "::".join([*inside, str(whole)])


def _require_file(path: str) -> None:
    """Say why a path is not a file; a pipe would never end."""
    if os.path.isfile(path):
        return
    if os.path.islink(path):
        raise FileNotFoundError(f"it is a link to {os.readlink(path)!r}, which leads nowhere")
    if os.path.exists(path):
        raise ValueError("it is not a regular file")
    hint = "; its name is not UTF-8, rename it" if NOT_UTF8.search(path) else ""
    raise FileNotFoundError(f"there is no such file{hint}")


def _open_file(file: str | io.BytesIO, channels: int | None) -> PIL.Image.Image | np.ndarray[Any, Any]:
    """Open an image file, or its bytes."""

    def content() -> bytes:
        return Path(file).read_bytes() if isinstance(file, str) else file.getvalue()

    if (file.lower().endswith(ARRAY_SUFFIX)) if isinstance(file, str) else content().startswith(NPY_BEGINNING):
        return channels_last(read_npy(content()), channels)
    try:
        image = open_picture(file)
    except PIL.UnidentifiedImageError:
        if not content().startswith(TIFF_BEGINNINGS):
            raise
        return read_tiff(content(), channels)
    if not has_deep_planes(image):
        return image
    with image:
        return read_tiff(content(), channels)
