"""Images that a program gives in Python instead of naming them: `load_given(dataset, config.data, image_size=32)`."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import datasets
import numpy as np
import pyarrow
import torch

from hf_ddpm.config import GIVEN_IN_PYTHON
from hf_ddpm.data.load_splits import decode_sources
from hf_ddpm.data.open_splits import check_classes, open_sources
from hf_ddpm.data.options import SplitsConfig
from hf_ddpm.data.sources import no_rows, open_source
from hf_ddpm.data.table import ImageTable
from hf_ddpm.image_shape import ImageSize, PixelType, plain_size, size_pair, size_text
from hf_ddpm.runtime.progress import Progress

Splits = tuple[ImageTable, ImageTable | None]
PIXEL_TYPES: dict[torch.dtype, PixelType] = {torch.uint8: "uint8", torch.uint16: "uint16", torch.float32: "float32"}
EXACT = {torch.float16: torch.float32, torch.bfloat16: torch.float32}
"""Types that others hold without a loss."""
BATCH = 256  # images


def load_given(dataset: Any, data: SplitsConfig, *, image_size: ImageSize, channels: int | None) -> Splits:
    """Read the train split and, if one is named, the held-out one, of data sets that a program has.

    Args:
        dataset: a `datasets.Dataset`, which is read like the data sets of a folder, by the same options; or a map-style
            torch Dataset of images, (C, H, W) or (H, W) tensors, alone or as pairs with their labels. Its images are taken
            as they are, without a change of a bit: uint8 with the values 0 to 255, or uint8, uint16 or floats with the range
            in `data.value_range`. Labels are integers or names, or as `data.condition` says; `dataset.classes` names them.
            Several splits are a mapping of their names to data sets, such as a DatasetDict; one alone is `data.train_split`.
        data: the options.
        image_size: of the network, one number or (height, width).
        channels: of the network; None = as the images.

    Raises:
        ValueError: the data cannot be read, or do not fit the options; a data set gives other values each time it is read.
    """
    data = copy.copy(data)
    data.source = GIVEN_IN_PYTHON
    splits = dict(dataset) if isinstance(dataset, Mapping) else {data.train_split: dataset}
    for split, each in splits.items():
        if isinstance(each, datasets.IterableDataset | torch.utils.data.IterableDataset):
            raise ValueError(f"dataset: split {split!r} is a stream, give a data set with a length and numbered items")
        if isinstance(each, datasets.Dataset) and each.format["type"] == "custom":
            raise ValueError(f"dataset: split {split!r} has a transform, which would not be used: call reset_format()")
    if all(isinstance(each, datasets.Dataset) for each in splits.values()):
        return decode_sources(data, open_sources(data, splits), image_size=image_size, channels=channels)
    names = [data.train_split] + ([] if data.test_split is None else [data.test_split])
    for name in names:
        if name not in splits:
            raise ValueError(f"dataset: it has no split {name!r}, but {', '.join(map(repr, splits))}: give {name!r} too")
    for option in ("image_column", "label_column", "on_bad_image", "pixel_type", "resize"):
        is_default = getattr(data, option) == getattr(SplitsConfig(), option)
        data.require(is_default, option, "leave it out, as the images are tensors of a torch Dataset")
    tables = [_read(splits[name], name, data, max_images=data.max_images if name == names[0] else None) for name in names]
    for table in tables:
        _check_shape(table, data, image_size, channels)
    train, test = tables[0], tables[1] if len(tables) > 1 else None
    check_classes(data, train, test)
    return train, test


@dataclass
class _Items:
    """What is known of the items of a data set after the first one."""

    split: str
    shape: tuple[int, ...]
    """(C, H, W)."""
    dtype: torch.dtype
    has_labels: bool
    labels: list[Any] = field(default_factory=list)
    low: float = float("inf")
    high: float = float("-inf")


def _read(dataset: Any, split: str, data: SplitsConfig, *, max_images: int | None) -> ImageTable:
    """Read a torch Dataset into a table in memory."""
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise ValueError(
            f"dataset: split {split!r} is a {type(dataset).__name__}, give a datasets.Dataset, or a torch Dataset with "
            "__getitem__ and __len__"
        )
    if len(dataset) == 0:
        raise ValueError(no_rows(GIVEN_IN_PYTHON, split))
    image, label = _item(dataset, 0, split)
    if image.numpy().tobytes() != _item(dataset, 0, split)[0].numpy().tobytes():
        raise ValueError(
            f"dataset: item 0 of split {split!r} is another image each time: leave out random transforms, as images "
            "are read once, and use `horizontal_flip`"
        )
    items = _Items(split, tuple(image.shape), image.dtype, label is not None)
    value_range, pixel_type = data.value_range, PIXEL_TYPES[image.dtype]
    if pixel_type == "uint8":  # in a table, the values of uint8 are those from 0 to 255
        value_range = None if value_range == (0, 255) else value_range
        pixel_type = "uint8" if value_range is None else "uint16"
    parts = [pyarrow.array(part, pyarrow.binary()) for part in _pixels(dataset, items, pixel_type)]
    pixels = datasets.Dataset(pyarrow.table({"pixels": pyarrow.chunked_array(parts)}))
    _check_values(items, data)
    channels, height, width = items.shape
    is_class = getattr(data, "condition", "class") == "class"
    source = open_source(
        GIVEN_IN_PYTHON,
        split,
        splits={split: _labels(dataset, items)},
        max_images=max_images,
        **{**data.column_options(), "label_column": None if is_class else "label"},
    )
    labels = None
    if source.label_column is not None:
        labels = torch.tensor(source.dataset.with_format("numpy")[source.label_column][:])
    return ImageTable(
        pixels=pixels if source.kept_rows is None else pixels.select(source.kept_rows),
        channels=channels,
        image_size=(height, width),
        pixel_type=pixel_type,
        value_range=value_range,
        class_names=source.class_names,
        class_labels=labels,
        rows=source.kept_rows,
        condition=source.condition,
        condition_range=source.condition_range,
        left_out=source.left_out,
        unused_label_columns=source.unused_label_columns,
    )


def _pixels(dataset: Any, items: _Items, pixel_type: PixelType) -> Iterator[list[bytes]]:
    """The bytes of all images in a type that holds them, in batches; labels and the range of values are noted in `items`."""
    with Progress(f"reading {items.split}", len(dataset), "image") as bar:
        for start in range(0, len(dataset), BATCH):
            part = []
            for row in range(start, min(start + BATCH, len(dataset))):
                image, label = _item(dataset, row, items.split)
                found = (tuple(image.shape), image.dtype, label is not None)
                if found != (items.shape, items.dtype, items.has_labels):
                    raise ValueError(
                        f"dataset: item {row} of split {items.split!r} is {_described(*found)}, and item 0 is "
                        f"{_described(items.shape, items.dtype, items.has_labels)}: make them alike"
                    )
                values = image.numpy()
                items.low = float(np.minimum(items.low, values.min()))  # which is NaN if one of the two is
                items.high = float(np.maximum(items.high, values.max()))
                part.append(values.astype(pixel_type).tobytes())
                items.labels.append(label)
            yield part
            bar.advance(len(part))


def _item(dataset: Any, row: int, split: str) -> tuple[torch.Tensor, Any]:
    """An image, (C, H, W) of a type in `PIXEL_TYPES`, and its label; None = it has none."""
    item = dataset[row]
    image, *more = item if isinstance(item, tuple | list) else (item,)
    place = f"item {row} of split {split!r}"
    if not isinstance(image, torch.Tensor) or len(more) > 1:
        kinds = f"({', '.join(type(each).__name__ for each in item)})" if more else type(image).__name__
        raise ValueError(f"dataset: {place} is {kinds}, give a tensor, or a tensor and its label")
    image = image.detach().cpu()
    image = image.to(EXACT.get(image.dtype, image.dtype))
    if image.dtype not in PIXEL_TYPES:
        raise ValueError(f"dataset: {place} is {str(image.dtype)[6:]}, give uint8, uint16 or float32")
    if image.ndim == 2:
        image = image[None]
    if image.ndim != 3 or 0 in image.shape:
        raise ValueError(f"dataset: {place} has the shape {tuple(image.shape)}, give (channels, height, width)")
    return image, _plain_label(more[0]) if more else None


def _plain_label(label: Any) -> Any:
    """A label as a number, a text, or a list of them."""
    return label.tolist() if isinstance(label, torch.Tensor | np.ndarray | np.generic) else label


def _labels(dataset: Any, items: _Items) -> datasets.Dataset:
    """The labels as a data set whose images are empty, from which options choose classes and images as from any other."""
    features: dict[str, Any] = {"image": datasets.Image()}
    columns: dict[str, Any] = {"image": [{"bytes": b"", "path": None}] * len(items.labels)}
    try:
        if items.has_labels:
            columns["label"], names = items.labels, getattr(dataset, "classes", None)
            features |= datasets.Features.from_arrow_schema(pyarrow.table({"label": items.labels}).schema)
            if names is not None and all(type(label) is int for label in items.labels):
                features["label"] = datasets.ClassLabel(names=[str(name) for name in names])
        return datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    except (pyarrow.ArrowException, ValueError, TypeError) as error:
        raise ValueError(f"dataset: the labels of split {items.split!r} cannot be read ({error}): give integers") from error


def _check_values(items: _Items, data: SplitsConfig) -> None:
    """Raise `ValueError` unless the range of the values is known, and holds them."""
    where = f"the values of split {items.split!r} are {items.low:g} to {items.high:g}"
    if not np.isfinite([items.low, items.high]).all():
        raise ValueError(f"dataset: {where}, give finite ones")
    if data.value_range is None:
        known = items.dtype == torch.uint8
        data.require(known, "value_range", f"{where}, give those that are black and white, such as [0, 1]")
        return
    low, high = data.value_range
    data.require(low <= items.low and items.high <= high, "value_range", f"{where}, give a range that holds them")


def _check_shape(table: ImageTable, data: SplitsConfig, image_size: ImageSize, channels: int | None) -> None:
    """Raise `ValueError` for images of another size, or number of channels, than the network has."""
    if table.image_size != size_pair(image_size):
        found, given = size_text(table.image_size), plain_size(table.image_size)
        raise ValueError(
            f"image_size is {image_size}, of the network, but the tensors of the dataset are {found}: give `image_size` "
            f"{given if isinstance(given, int) else list(given)}, or another network"
        )
    if channels not in (None, table.channels):
        raise ValueError(f"channels is {channels}, of the network, but the tensors of the dataset have {table.channels}")


def _described(shape: tuple[int, ...], dtype: torch.dtype, has_label: bool) -> str:
    return f"{tuple(shape)} {str(dtype)[6:]} {'with' if has_label else 'without'} a label"
