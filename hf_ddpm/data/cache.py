"""Decode the images of a dataset once, into a memory-mapped table of uint8 pixels.

table = load_images("digits", "train", image_size=8)
batch = table.images(torch.tensor([5, 0, 5]))          # (3, 1, 8, 8) uint8
"""

import functools
import hashlib
import io
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import PIL.Image
import PIL.ImageOps
import torch

from hf_ddpm.data.sources import ImageSource, open_source

# Part of the name of every cache file: raise it whenever the same image would decode to other pixels.
DECODER_VERSION = 1
DECODING_BATCH = 256  # images
HASHING_BATCH = 512  # images
GRAY_MODES = ("1", "L", "I", "I;16", "F")
ORIENTATION_TAG = PIL.Image.ExifTags.Base.Orientation


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageTable:
    """Decoded images: pixels on disk (or in memory for a dataset that is in memory), labels in memory.

    Attributes:
        pixels: a dataset with one column `pixels`: channels * image_size**2 bytes a row, in CHW order.
        channels: 1 (gray) or 3 (RGB).
        image_size: height and width, in pixels.
        class_names: name of each class in the order of the labels, None = no labels.
        class_labels: (N,) int64 in [0, num_classes), None = no labels.
    """

    pixels: datasets.Dataset
    channels: int
    image_size: int
    class_names: list[str] | None
    class_labels: torch.Tensor | None

    def __len__(self) -> int:
        return len(self.pixels)

    def images(self, indices: torch.Tensor) -> torch.Tensor:
        """Read images by their position in the table.

        Args:
            indices: (B,) int64 in [0, N), in any order, repeats allowed.

        Returns:
            (B, C, H, W) uint8 in [0, 255].
        """
        rows = bytearray().join(self.pixels[indices.tolist()]["pixels"])
        shape = (len(indices), self.channels, self.image_size, self.image_size)
        return torch.from_numpy(np.frombuffer(rows, dtype=np.uint8).reshape(shape))

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256 (hex) of all pixels, labels and class names: equal for equal data, wherever it is stored."""
        header = {
            "shape": [len(self), self.channels, self.image_size, self.image_size],
            "class_names": self.class_names,
        }
        digest = hashlib.sha256(json.dumps(header).encode())
        for rows in self.pixels.iter(batch_size=HASHING_BATCH):
            digest.update(b"".join(rows["pixels"]))
        if self.class_labels is not None:
            digest.update(self.class_labels.numpy().astype("<i8").tobytes())
        return digest.hexdigest()


def load_images(
    source: str,
    split: str,
    *,
    image_size: int,
    channels: int | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    labels: list[str | int] | None = None,
    class_conditional: bool | None = None,
) -> ImageTable:
    """Open one split of a dataset and decode it: `open_source`, then `decode_images`.

    Args:
        source, split, image_column, label_column, labels, class_conditional: see `open_source`.
        image_size, channels: see `decode_images`.

    Returns:
        The decoded images.

    Raises:
        ValueError: an option is wrong, or an image or a label is.
    """
    return decode_images(
        open_source(
            source,
            split,
            image_column=image_column,
            label_column=label_column,
            labels=labels,
            class_conditional=class_conditional,
        ),
        image_size=image_size,
        channels=channels,
    )


def decode_images(source: ImageSource, *, image_size: int, channels: int | None = None) -> ImageTable:
    """Decode every image of a source, or map the pixels of an earlier call from the datasets cache.

    Args:
        source: an opened source.
        image_size: height and width in pixels. The shorter side is resized to it (bicubic, antialiased; not
            at all if it has that size), then the centre is cropped.
        channels: 1 (gray) or 3 (RGB); None = as the first image is.

    Returns:
        The decoded images, in the order of the source.

    Raises:
        ValueError: an option is wrong, or an image is missing, corrupt, truncated or suspiciously large.
    """
    if image_size < 1:
        raise ValueError(f"--data.image_size {image_size} is impossible: give a size of at least 1 pixel")
    if channels not in (None, 1, 3):
        raise ValueError(f"--data.channels {channels} is impossible: give 1 (gray), 3 (RGB) or null (as the data)")
    records = source.dataset.select_columns([source.image_column])
    try:
        if channels is None:
            channels = _count_channels(records[0][source.image_column])
        pixels = records.map(
            _decode_batch,
            batched=True,
            with_indices=True,
            batch_size=DECODING_BATCH,
            input_columns=[source.image_column],
            remove_columns=[source.image_column],
            features=datasets.Features({"pixels": datasets.Value("binary")}),
            fn_kwargs={"image_size": image_size, "channels": channels},
            desc=f"decoding {source.split}",
            **_cache_place(records, image_size, channels),
        )
    except _UndecodableImage as error:
        raise ValueError(_describe(error, source)) from error.__cause__
    assert len(pixels) == len(records), "a cache file that is complete has one row an image"
    has_labels = source.label_column is not None
    return ImageTable(
        pixels=pixels,
        channels=channels,
        image_size=image_size,
        class_names=source.class_names,
        class_labels=torch.tensor(source.dataset[source.label_column][:]) if has_labels else None,
    )


def _cache_place(records: datasets.Dataset, image_size: int, channels: int) -> dict[str, str | None]:
    """Name the cache file of decoded pixels by all that they depend on.

    By itself `Dataset.map` would hash an importable function by its name only, and would write beside the
    source, which may be a read-only folder.

    Returns:
        keyword arguments of `Dataset.map`; no file for a dataset that is in memory.
    """
    files = [Path(file["filename"]) for file in records.cache_files]
    if not files:
        return {"cache_file_name": None}
    stamps = [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    parts = [DECODER_VERSION, image_size, channels, records.column_names, records._fingerprint, stamps]
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "hf_ddpm_pixels"
    folder.mkdir(parents=True, exist_ok=True)
    return {"cache_file_name": str(folder / f"{key}.arrow"), "new_fingerprint": key}


class _UndecodableImage(Exception):
    """An image that Pillow refuses; the position in the decoded dataset, the file if known, and the cause."""

    def __init__(self, position: int, path: str | None) -> None:
        super().__init__(position, path)
        self.position = position
        self.path = path


def _describe(error: _UndecodableImage, source: ImageSource) -> str:
    """Say which image is wrong, and why, on one line."""
    row = error.position if source.kept_rows is None else source.kept_rows[error.position]
    file = f" (file {error.path!r})" if error.path else ""
    cause = f"{type(error.__cause__).__name__}: {' '.join(str(error.__cause__).split())}"
    return (
        f"--data.source {source.name!r}: the image at row {row} of split {source.split!r}{file} "
        f"cannot be decoded ({cause}): replace or remove it"
    )


def _decode_batch(
    records: list[dict[str, Any]], positions: list[int], *, image_size: int, channels: int
) -> dict[str, list[bytes]]:
    """Decode a batch of undecoded images to CHW bytes."""
    return {
        "pixels": [
            _decode(record, position, image_size=image_size, channels=channels)
            for record, position in zip(records, positions, strict=True)
        ]
    }


def _decode(record: dict[str, Any] | None, position: int, *, image_size: int, channels: int) -> bytes:
    """Decode one image to channels * image_size**2 bytes in CHW order."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
            with _open(record) as image:
                # The orientation that a camera noted, as datasets.Image applies it.
                if image.getexif().get(ORIENTATION_TAG) is not None:
                    image = PIL.ImageOps.exif_transpose(image)
                image = _centre_square(image.convert("L" if channels == 1 else "RGB"), image_size)
    # Pillow raises a dozen unrelated types on damaged files.
    except Exception as error:
        raise _UndecodableImage(position, (record or {}).get("path")) from error
    pixels = np.asarray(image).reshape(image_size, image_size, channels)
    return pixels.transpose(2, 0, 1).tobytes()


def _open(record: dict[str, Any] | None) -> PIL.Image.Image:
    """Open an undecoded image: bytes, or else the file at path."""
    if record is None or (record["bytes"] is None and record["path"] is None):
        raise ValueError("the row has no image")
    return PIL.Image.open(record["path"] if record["bytes"] is None else io.BytesIO(record["bytes"]))


def _centre_square(image: PIL.Image.Image, image_size: int) -> PIL.Image.Image:
    """Resize the shorter side to image_size and crop the centre."""
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    if side == image_size:
        left, top = int(left), int(top)
        return image.crop((left, top, left + side, top + side))
    # With `box` only the square is resampled: a strip of 1 x 10,000 pixels is not first blown up whole.
    box = (left, top, left + side, top + side)
    return image.resize((image_size, image_size), PIL.Image.Resampling.BICUBIC, box=box)


def _count_channels(record: dict[str, Any] | None) -> int:
    """Return 1 if the first image is gray, else 3."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
            with _open(record) as image:
                return 1 if image.mode in GRAY_MODES else 3
    except Exception as error:
        raise _UndecodableImage(0, (record or {}).get("path")) from error
