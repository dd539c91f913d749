"""Decode the images of a dataset once into a memory-mapped table of pixels: `load_images("digits", "train", ...)`."""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import datasets
import numpy as np
import torch

from hf_ddpm.data.bad_images import BadImages
from hf_ddpm.data.batches import ImageBatch, IndexStream
from hf_ddpm.data.decode import DECODER_VERSION, UndecodableImage, check_pixel_options, decode_image
from hf_ddpm.data.decoded import DecodedImages
from hf_ddpm.data.decoded_cache import cache_file, read_or_build, stamps_of
from hf_ddpm.data.description import LeftOut, Originals
from hf_ddpm.data.in_order import InOrder
from hf_ddpm.data.options import Condition
from hf_ddpm.data.resize import Resize
from hf_ddpm.data.scan import Scan, scan
from hf_ddpm.data.settle import Pixels, settle_pixels
from hf_ddpm.data.sources import ImageSource, open_source
from hf_ddpm.data.undecoded import Undecoded
from hf_ddpm.image_shape import ImageSize, PixelType, ValueRange, plain_size, size_pair

DECODING_BATCH = 256  # images
HASHING_BATCH = 512  # images


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageTable(DecodedImages):
    """Decoded images: pixels on disk (in memory if the dataset is in memory), labels in memory."""

    pixels: datasets.Dataset
    """One column `pixels`: the values of an image per row, in CHW order."""
    class_names: list[str] | None
    """Name of each class or label in their order, or that of the number; None = no labels."""
    class_labels: torch.Tensor | None
    """(N,) int64 in [0, num_classes), for sets of labels (N, K) bool, for numbers (N, 1) float64; None = no labels."""
    rows: np.ndarray[Any, Any] | None = None
    """(N,) int64: the row of each image in its split; None = all rows, in order."""
    originals: Originals | None = None
    """The images as they were before they were decoded; None = unknown."""
    left_out: tuple[LeftOut, ...] = ()
    """What was found in the data and is not used."""
    unused_label_columns: tuple[str, ...] = ()
    """Columns that look like labels and are not used."""

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def num_images(self) -> int:
        """N, the number of images."""
        return len(self.pixels)

    def reader(self, *, seed: int, batch_size: int, num_processes: int = 1, process_index: int = 0) -> TableReader:
        """A `TableReader`, which reads batches of this table for training."""
        return TableReader(self, seed=seed, batch_size=batch_size, num_processes=num_processes, process_index=process_index)

    def images(self, indices: torch.Tensor) -> torch.Tensor:
        """Images at some positions, (B,) int64 in [0, N) in any order: (B, C, H, W) of the `pixel_type`."""
        rows = bytearray().join(self.pixels[indices.tolist()]["pixels"])
        return torch.from_numpy(np.frombuffer(rows, dtype=self.pixel_type).reshape(len(indices), *self.image_shape))

    def in_class_order(self, class_names: list[str]) -> ImageTable:
        """The same images with their classes, which these are the names of, numbered in another order."""
        if self.class_names is None or self.class_labels is None or self.class_names == class_names:
            return self
        if self.condition != "class":
            columns = [self.class_names.index(name) for name in class_names]
            return replace(self, class_names=class_names, class_labels=self.class_labels[:, columns])
        new_ids = torch.tensor([class_names.index(name) for name in self.class_names])
        return replace(self, class_names=class_names, class_labels=new_ids[self.class_labels])

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256 (hex) of all pixels, labels and class names: equal for equal data, wherever they are stored."""
        header: dict[str, Any] = {
            "shape": [len(self), *self.image_shape],
            "class_names": self.class_names,
            **self.type_facts,
        }
        if self.condition != "class":
            header["condition"] = self.condition
        digest = hashlib.sha256(json.dumps(header).encode())
        for rows in self.pixels.iter(batch_size=HASHING_BATCH):
            digest.update(b"".join(rows["pixels"]))
        if self.class_labels is not None:
            kind = "<f8" if self.condition == "number" else "<i8"
            digest.update(self.class_labels.numpy().astype(kind).tobytes())
        return digest.hexdigest()


class TableReader:
    """Batches of a table in the order of an `IndexStream`; what is read depends on the position alone."""

    def __init__(self, table: ImageTable, *, seed: int, batch_size: int, num_processes: int, process_index: int) -> None:
        """`seed` is that of the run, at least 0, and `batch_size` is B, images per process and micro-step.

        `num_processes` processes read together, of which this is number `process_index`.
        """
        self.table = table
        self.batch_size, self.num_processes, self.process_index = batch_size, num_processes, process_index
        self._stream = IndexStream(len(table), seed)

    def read(self, images_seen: int, micro_step: int) -> ImageBatch:
        """Read the images from position images_seen + (micro_step * num_processes + process_index) * B on.

        Before this optimizer step all processes together have trained on `images_seen` images.
        """
        start = (micro_step * self.num_processes + self.process_index) * self.batch_size
        indices = self._stream.indices(images_seen + start, self.batch_size)
        labels = self.table.class_labels
        return ImageBatch(
            images=self.table.images(indices), class_labels=None if labels is None else labels[indices], sample_ids=indices
        )


def load_images(
    source: str,
    split: str,
    *,
    image_size: ImageSize,
    channels: int | None = None,
    value_range: ValueRange | None = None,
    pixel_type: PixelType | None = None,
    resize: Resize = "crop",
    image_column: str | None = None,
    label_column: str | None = None,
    labels: list[str | int] | None = None,
    class_conditional: bool | None = None,
    max_images: int | None = None,
    on_bad_image: Literal["error", "skip"] = "error",
    max_bad_images: int | None = None,
    condition: Condition = "class",
    attribute_columns: list[str] | None = None,
    condition_range: tuple[float, float] | None = None,
) -> ImageTable:
    """Open one split of a dataset and decode it: `open_source`, then `decode_images`, where the options are explained."""
    columns: dict[str, Any] = {"image_column": image_column, "label_column": label_column, "labels": labels}
    columns |= {"condition": condition, "attribute_columns": attribute_columns, "condition_range": condition_range}
    opened = open_source(source, split, class_conditional=class_conditional, max_images=max_images, **columns)
    bad: dict[str, Any] = {"on_bad_image": on_bad_image, "max_bad_images": max_bad_images}
    pixels: dict[str, Any] = {"channels": channels, "value_range": value_range, "pixel_type": pixel_type}
    return decode_images(opened, image_size=image_size, resize=resize, **pixels, **bad)


def decode_images(
    source: ImageSource,
    *,
    image_size: ImageSize,
    channels: int | None = None,
    value_range: ValueRange | None = None,
    pixel_type: PixelType | None = None,
    resize: Resize = "crop",
    seen: tuple[Scan, Pixels] | None = None,
    on_bad_image: Literal["error", "skip"] = "error",
    max_bad_images: int | None = None,
) -> ImageTable:
    """Decode all images of a source in its order, or map the pixels of an earlier call from the datasets cache.

    An option that is wrong, or an image that cannot be decoded and is not left out, is a `ValueError`.

    Args:
        image_size: height and width in pixels, one number = both; see `decode_image` for how an image is resized.
        channels: 1 to 16; None = RGB if any image has colour, or as many as arrays have, see `settle_pixels`.
        value_range: the values that become black and white, see `decode_image` and `check_value_range`.
        pixel_type: type of the values, see `settle_pixels`.
        resize: how an image is brought to its size, see `decode_image`.
        seen: the results of `scan` and `settle_pixels`, which stand for the three options before; None = look at the images.
        on_bad_image: `skip` leaves out images that cannot be decoded, and logs the first few.
        max_bad_images: images that `skip` may leave out; None = 100.
    """
    check_pixel_options(image_size, channels, value_range)
    bad_images = BadImages(source.name, source.split, on_bad_image, max_bad_images)
    if seen is None:
        asked: dict[str, Any] = {"channels": channels, "pixel_type": pixel_type, "value_range": value_range}
        scanned = scan(source, channels)
        seen = scanned, settle_pixels([scanned], source.name, source.split, **asked)
    scanned, settled = seen
    options: dict[str, Any] = {"image_size": image_size, "resize": resize, **asdict(settled)}
    pixels = _decode_all(source, bad_images, scanned.mean_pixels, **options)
    labels = source.label_column
    class_labels = None if labels is None else torch.tensor(source.dataset.with_format("numpy")[labels][:])
    rows, left_out = source.kept_rows, source.left_out + scanned.left_out(source.split, settled.channels)
    if bad_images.are_left_out:
        kept = _kept_positions(pixels, source, bad_images, **options)
        if kept is not None:
            left_out += (LeftOut(f"images of split {source.split!r}", len(pixels) - len(kept), "cannot be decoded"),)
            pixels, rows = pixels.select(kept), kept if rows is None else rows[kept]
            if class_labels is not None:
                if source.condition == "class":
                    _require_classes(source, class_labels, class_labels[kept])
                class_labels = class_labels[kept]
    return ImageTable(
        pixels=pixels,
        channels=settled.channels,
        image_size=size_pair(image_size),
        pixel_type=settled.pixel_type,
        value_range=settled.model_range,
        class_names=source.class_names,
        class_labels=class_labels,
        rows=rows,
        originals=scanned.originals,
        left_out=left_out,
        unused_label_columns=source.unused_label_columns,
        condition=source.condition,
        condition_range=source.condition_range,
    )


def _decode_all(
    source: ImageSource,
    bad_images: BadImages,
    mean_pixels: float,
    *,
    image_size: ImageSize,
    channels: int,
    value_range: ValueRange | None,
    pixel_type: PixelType,
    resize: Resize,
) -> datasets.Dataset:
    """The table of pixels, one row per image; None for those that cannot be decoded and are left out."""
    options: dict[str, Any] = {"value_range": value_range, "pixel_type": pixel_type, "resize": resize}
    records = source.dataset.select_columns([source.image_column])

    def decode(numbered: tuple[int, Undecoded]) -> bytes | None:
        position, value = numbered
        try:
            return decode_image(value, image_size=image_size, channels=channels, roots=source.roots, **options)
        except UndecodableImage as error:
            if bad_images.are_left_out:
                return None
            raise bad_images.refusal(error, _row(source, position)) from error.__cause__

    def rows() -> Iterator[dict[str, list[Any]]]:
        start, in_order = 0, InOrder()
        for batch in records.iter(batch_size=DECODING_BATCH):
            values = list(enumerate(batch[source.image_column], start))
            yield {"pixels": list(in_order(decode, values, mean_pixels))}
            start += len(values)

    stamps = stamps_of(records, source.image_column, source.roots)
    parts = [DECODER_VERSION, plain_size(image_size), channels, records.column_names, records._fingerprint, stamps]
    parts += ["bad images left out"] if bad_images.are_left_out else []
    parts += [] if value_range is None else [list(value_range)]
    # Absent where they do nothing, so that what was decoded before there were these options keeps its name.
    parts += [] if pixel_type == "uint8" else [pixel_type]
    parts += [] if resize == "crop" else [resize]
    return read_or_build(
        None if stamps is None else cache_file("pixels", parts),
        datasets.Features({"pixels": datasets.Value("binary")}),
        len(records),
        rows,
        f"decoding {source.split}",
        channels * math.prod(size_pair(image_size)) * np.dtype(pixel_type).itemsize,
    )


def _kept_positions(
    pixels: datasets.Dataset,
    source: ImageSource,
    bad_images: BadImages,
    **options: Any,
) -> np.ndarray[Any, Any] | None:
    """Positions (int64) of the images that could be decoded with these options of `decode_image`; None = all.

    The others are counted, and a `ValueError` if they are too many.
    """
    column = pixels.data.column("pixels")
    if column.null_count == 0:
        return None
    missing = column.is_null().to_numpy()
    for position in np.flatnonzero(missing).tolist():
        value = source.dataset[position][source.image_column]
        try:
            decode_image(value, **options, roots=source.roots)
        except UndecodableImage as error:
            bad_images.leave_out(value, error, _row(source, position))
    if missing.all():
        raise ValueError(f"source is {source.name!r}, but no image of split {source.split!r} can be decoded: give another")
    return np.flatnonzero(~missing)


def _require_classes(source: ImageSource, before: torch.Tensor, after: torch.Tensor) -> None:
    """Raise a `ValueError` if a class has no image that can be decoded; these are the labels of all images, and of those."""
    for label in sorted(set(before.tolist()) - set(after.tolist())):
        assert source.class_names is not None, "there are labels"
        raise ValueError(
            f"source is {source.name!r}, but no image of class {source.class_names[label]!r} in split {source.split!r} can "
            "be decoded: replace them, or choose other classes with `labels`"
        )


def _row(source: ImageSource, position: int) -> int:
    """The row in the split of a position in the source."""
    return position if source.kept_rows is None else int(source.kept_rows[position])
