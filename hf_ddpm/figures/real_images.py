"""A few real images of a data source, decoded one by one: `read_images(config.data, count=4, image_size=None)`."""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from hf_ddpm.data.batches import to_model_range, to_unit_range
from hf_ddpm.data.decode import UndecodableImage, decode_image, inspect_image
from hf_ddpm.data.load_splits import options_of_run
from hf_ddpm.data.scan import scan, scan_values
from hf_ddpm.data.settle import settle_pixels
from hf_ddpm.data.sources import ImageSource, open_source
from hf_ddpm.figures.blocks import plain
from hf_ddpm.figures.options import FigureDataConfig, ModelDataConfig
from hf_ddpm.figures.schedules import schedule_name
from hf_ddpm.figures.view import to_view
from hf_ddpm.image_shape import ValueRange, size_pair
from hf_ddpm.sampling import ImagePipeline, condition_name, image_shape_of, pixel_options

Data = TypeVar("Data", bound=ModelDataConfig)
LARGEST_SIZE = 128  # pixels, by default


@dataclass(frozen=True, kw_only=True, eq=False)
class RealImages:
    """Real images and their classes."""

    images: np.ndarray[Any, Any]
    """(N, H, W, C) of any pixel type."""
    value_range: ValueRange | None
    """The values that are -1 and 1 in a model; None = 0 and 255, of uint8."""
    labels: list[Any] | None
    """N class ids, lists of label names, or numbers; None = the data has no classes."""
    names: list[str] | None
    """The same in words; None = the data has no classes."""
    num_classes: int | None
    """Number of classes of the data, shown or not; None = an image does not have one class."""

    def in_model_range(self) -> Tensor:
        """The images as input of a model: (N, C, H, W) float32 in [-1, 1]."""
        return to_model_range(torch.from_numpy(self.images).permute(0, 3, 1, 2), self.value_range)

    def in_unit_range(self) -> np.ndarray[Any, Any]:
        """The images as a pipeline edits them: (N, H, W, C) float32 in [0, 1]."""
        return to_unit_range(self.images, self.value_range)

    def view(self, channels: list[int] | None) -> np.ndarray[Any, Any]:
        """Some channels of the images, (N, H, W, 1 or 3) uint8, see `to_view`."""
        return to_view(self.images, self.value_range, channels)


def data_of_model(data: Data, model: str) -> Data:
    """Complete data options without a source by those of the model's run; given ones win (ValueError: no run)."""
    if data.source is not None:
        return data
    trained = options_of_run(model)
    own = {name: value for name, value in asdict(data).items() if value != getattr(type(data)(), name)}
    of_run = {name: trained[name] for name in asdict(data) if name in trained} | {"split": trained.get("train_split")}
    return replace(data, **{**of_run, **own})


def read_images(
    data: ModelDataConfig,
    *,
    count: int | None = None,
    per_class: int | None = None,
    max_classes: int | None = None,
    pipeline: ImagePipeline | None = None,
) -> RealImages:
    """Read the first images of each class; a ValueError names a wrong option, unreadable data or too few images.

    Args:
        count: number of images, cycling through the classes; without classes the first ones. None = see `per_class`.
        per_class: images of each class, class after class; without classes its square. None = see `count`.
        max_classes: number of classes, the first ones; None = all.
        pipeline: its images have the size, channels and values of those to read; None = the options say which, else the
            first image, in 8 bits.
    """
    asked: dict[str, Any] = {"channels": None, "pixel_type": "uint8", "value_range": data.value_range}
    size: tuple[int, int] | None = None
    if pipeline is not None:
        asked |= pixel_options(pipeline)
        asked["channels"], height, width = image_shape_of(pipeline)
        size = (height, width)
    elif isinstance(data, FigureDataConfig):
        asked["channels"] = data.channels
        size = None if data.image_size is None else size_pair(data.image_size)
    assert data.source is not None  # checked by the options of the figure, or set by `data_of_model`
    source = open_source(data.source, data.split or "train", **data.column_options())
    rows = _choose_rows(source, count, per_class, max_classes)
    values = source.dataset.select(rows)[source.image_column][:]
    try:
        looked = scan_values(values, source.roots, asked["channels"])
        scans = [scan(source, asked["channels"]) if looked.ranges else looked]
        settled = settle_pixels(scans, source.name, source.split, are_all=bool(looked.ranges), **asked)
        first = inspect_image(source.dataset[0][source.image_column], source.roots, settled.channels)
        size = size or size_pair(min(first.width, first.height, LARGEST_SIZE))
        options: dict[str, Any] = {"image_size": size, "resize": data.resize or "crop", "roots": source.roots}
        options |= asdict(settled)
        pixels = [np.frombuffer(decode_image(value, **options), settled.pixel_type) for value in values]
    except UndecodableImage as error:
        raise ValueError(f"{error.describe(source.name, source.split, None)}: replace or remove it") from None
    images = np.stack([image.reshape(settled.channels, *size).transpose(1, 2, 0) for image in pixels])
    return RealImages(images=images, value_range=settled.model_range, **_conditions(source, rows))


def _conditions(source: ImageSource, rows: list[int]) -> dict[str, Any]:
    """What the images at some rows are conditioned on, as fields of `RealImages`."""
    if source.class_names is None:
        return {"labels": None, "names": None, "num_classes": None}
    labels: list[Any] = list(source.dataset.select(rows)[source.label_column])
    if source.condition == "class":
        names = [source.class_names[label] for label in labels]
        return {"labels": labels, "names": names, "num_classes": len(source.class_names)}
    if source.condition == "number":
        labels = [number for [number] in labels]
    else:
        labels = [list(itertools.compress(source.class_names, vector)) for vector in labels]
    return {"labels": labels, "names": [condition_name(label, None) for label in labels], "num_classes": None}


def data_title(data: ModelDataConfig) -> str:
    """Source and split of the images, for the title of a figure."""
    source = Path(data.source or "")
    name = source.resolve().name if source.is_dir() else data.source
    return plain(f"{name}, {data.split or 'train'}", longest=60)


def process_title(data: ModelDataConfig, beta_schedule: str, num_train_timesteps: int) -> str:
    """Source of the images and schedule of the process, for the title of a figure."""
    return f"{data_title(data)}; {schedule_name(beta_schedule)} schedule, T = {num_train_timesteps:,}"


def _choose_rows(source: ImageSource, count: int | None, per_class: int | None, max_classes: int | None) -> list[int]:
    has_classes = source.class_names is not None and source.condition == "class"
    if per_class is None or not has_classes:
        wanted = count or (per_class or 1) ** 2
        _require_enough(source, len(source.dataset), wanted, "")
    if source.class_names is None or not has_classes:
        return list(range(wanted))
    labels = np.array(source.dataset[source.label_column][:])
    names = source.class_names[:max_classes]
    rows_of_class = [np.flatnonzero(labels == label) for label in range(len(names))]
    if per_class is not None:
        for name, rows in zip(names, rows_of_class, strict=True):
            _require_enough(source, len(rows), per_class, f" of class {name!r}")
        return [int(row) for rows in rows_of_class for row in rows[:per_class]]
    # The first row of each class, then the second of each, and so on, until a class has no more.
    turns = itertools.zip_longest(*(rows[:count].tolist() for rows in rows_of_class))
    return [row for turn in turns for row in turn if row is not None][:count]


def _require_enough(source: ImageSource, found: int, wanted: int, of: str) -> None:
    if found < wanted:
        raise ValueError(f"`split` is {source.split!r}: {source.name} has {found} images{of}, {wanted} are needed")
