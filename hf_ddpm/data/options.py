"""Options of data: small classes from which each program's data group is composed, see `hf_ddpm.config.BaseConfig`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from hf_ddpm.config import BaseConfig
from hf_ddpm.image_shape import MAX_CHANNELS, ImageSize, plain_size, size_pair

Condition = Literal["class", "labels", "number"]


@dataclass(kw_only=True)
class SourceOptions(BaseConfig, group="data"):
    """Where images come from."""

    source: str | None = None
    """As in hf-ddpm train; None = the training data of the model, read from the config.yaml of its run."""


@dataclass(kw_only=True)
class TrainSplitOptions(SourceOptions):
    """The train split."""

    train_split: str = "train"
    """Split to train on."""


@dataclass(kw_only=True)
class HeldOutSplitOptions(TrainSplitOptions):
    """The train split and the held-out split."""

    test_split: str | None = None
    """Held-out split whose loss is logged with each sample grid; None = no held-out loss."""


@dataclass(kw_only=True)
class BaseDataConfig(SourceOptions):
    """Source, columns and classes of images; base of every data group."""

    image_column: str | None = None
    """Column of the images (also of paths, or of arrays of pixels); None = the only image column."""
    label_column: str | None = None
    """Column of the class labels; None = the only class label column, if there is one."""
    labels: list[str | int] | None = None
    """Classes to keep, by name or id, renumbered in this order; None = all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.labels is None or len(self.labels) > 0, "labels", "name at least one class")

    def column_options(self) -> dict[str, Any]:
        """Columns and classes as keyword arguments of `open_source`."""
        return {"image_column": self.image_column, "label_column": self.label_column, "labels": self.labels}


@dataclass(kw_only=True)
class ValueRangeOptions(BaseDataConfig):
    """Values of images that are not plain 8 bits."""

    value_range: tuple[float, float] | None = None
    """Values that become black and white, of images of more than 8 bits and arrays; None = [0, 65535], arrays [0, 255]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.value_range is not None:
            low, high = self.value_range = (float(self.value_range[0]), float(self.value_range[1]))
            self.require(
                -math.inf < low < high < math.inf, "value_range", "give black and then a higher white, as in [0, 4095]"
            )


@dataclass(kw_only=True)
class ResizeOptions(BaseDataConfig):
    """How images are brought to one size."""

    resize: Literal["crop", "pad", "stretch"] = "crop"
    """`crop` = until an image just covers the size, then its center; `pad` = until it fits in, with black around it;
    `stretch` = whatever its proportions are."""


@dataclass(kw_only=True)
class ClassConditionalOptions(BaseDataConfig):
    """Whether a model is class-conditional."""

    class_conditional: bool | None = None
    """Whether the model is conditioned on the class; None = if there are labels."""

    def column_options(self) -> dict[str, Any]:
        return {**super().column_options(), "class_conditional": self.class_conditional}


@dataclass(kw_only=True)
class ConditionOptions(BaseDataConfig):
    """What the images are conditioned on."""

    condition: Condition = "class"
    """What the label column holds for each image: `class` = one class, `labels` = a list of labels, `number` = a number."""
    attribute_columns: list[str] | None = None
    """Columns of 0 (or -1) and 1, each of which is a label; None = a list in the label column. Only with labels."""
    condition_range: tuple[float, float] | None = None
    """Lowest and highest number; None = those of the train split. Only with number."""

    def __post_init__(self) -> None:
        super().__post_init__()
        columns, limits = self.attribute_columns, self.condition_range
        fits = columns is None or self.condition == "labels"
        self.require(fits, "attribute_columns", "add --data.condition labels, or leave it out")
        self.require(columns is None or 0 < len(set(columns)) == len(columns), "attribute_columns", "name different columns")
        named = columns is None or (self.label_column is None and self.labels is None)
        self.require(named, "attribute_columns", "leave out --data.label_column and --data.labels, these are the labels")
        fits = limits is None or self.condition == "number"
        self.require(fits, "condition_range", "add --data.condition number, or leave it out")
        self.require(self.labels is None or self.condition != "number", "labels", "numbers have no names, leave it out")
        if limits is not None:
            low, high = self.condition_range = (float(limits[0]), float(limits[1]))
            is_range = -math.inf < low < high < math.inf
            self.require(is_range, "condition_range", "give the lowest and then the highest number, as in [0, 1]")

    def column_options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"condition": self.condition, "attribute_columns": self.attribute_columns}
        return {**super().column_options(), **options, "condition_range": self.condition_range}


@dataclass(kw_only=True)
class ImageShapeOptions(BaseDataConfig):
    """Size and channels of images."""

    image_size: int | tuple[int, int] | None = None
    """Pixels, [height, width] or one number for both; None = the size of the model preset."""
    channels: int | None = None
    """1 = grayscale, 3 = RGB, up to 16 = the channels of arrays, TIFF or .npy files, with 4 also opacity; None = RGB if any
    image has colour, or as arrays have, or as the model if it is given by its config.json."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size is not None:
            self.require(min(size_pair(self.image_size)) > 0, "image_size", "give a number of pixels above 0")
            self.image_size = plain_size(self.image_size)
        possible = self.channels is None or 1 <= self.channels <= MAX_CHANNELS
        self.require(possible, "channels", f"give 1 (gray), 3 (RGB) or another number up to {MAX_CHANNELS}")


@dataclass(kw_only=True)
class DecodeOptions(ResizeOptions, ValueRangeOptions, TrainSplitOptions):
    """Which images of a split are decoded, and to what."""

    pixel_type: Literal["uint8", "uint16", "float32"] | None = None
    """Type of the pixels; uint8 rounds values of more than 8 bits. None = uint8, but what keeps all bits if all images have
    more than 8: uint16 for whole numbers from 0 to 65535, else float32."""
    max_images: int | None = None
    """Number of images to train on, evenly spread over the split (the first ones of a stream); None = all."""
    on_bad_image: Literal["error", "skip"] = "error"
    """What to do with an image that cannot be decoded: stop, or skip it (a stream takes the next one instead)."""
    max_bad_images: int | None = None
    """Maximum number of images of a split to skip; None = 100. Only with on_bad_image skip."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("max_images", "images")
        self.require_positive("max_bad_images", "images")
        has_cap = self.on_bad_image == "skip" or self.max_bad_images is None
        self.require(has_cap, "max_bad_images", "add --data.on_bad_image skip, or leave it out")


@dataclass(kw_only=True)
class SplitsConfig(DecodeOptions, HeldOutSplitOptions):
    """A train split and an optional held-out split."""


@dataclass(kw_only=True)
class ConditionedSplitsConfig(SplitsConfig, ConditionOptions):
    """Splits that a diffusion model may have been trained on."""


@dataclass(kw_only=True)
class StreamOptions(BaseConfig, group="data"):
    """Reading images while training."""

    streaming: bool = False
    """Read and decode images during training, instead of decoding all of them before it."""
    shuffle_buffer: int | None = None
    """Number of images in the buffer that shuffles a stream; None = 10000. Only with streaming."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("shuffle_buffer", "images")
        has_buffer = self.streaming or self.shuffle_buffer is None
        self.require(has_buffer, "shuffle_buffer", "add --data.streaming, or leave it out")


@dataclass(kw_only=True)
class TrainingDataConfig(DecodeOptions):
    """Images to train on; base of the data groups of all training programs."""

    source: str = "digits"
    """`digits` (built in, 8 x 8), a local folder (parquet, images or a saved dataset) or the id of a Hub dataset."""
    horizontal_flip: bool = False
    """Mirror each image left to right with probability 0.5."""
    vertical_flip: bool = False
    """Turn each image upside down with probability 0.5."""
    batch_size: int = 128
    """Images per process and micro-step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("batch_size", "images")


@dataclass(kw_only=True)
class RandomCropOptions(BaseConfig, group="data"):
    """Random parts of images."""

    random_crop: int | None = None
    """Take a random part of each image, after its edge is repeated by this number of pixels on every side; None = off."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("random_crop", "pixels")

    def check_crop(self, image_size: ImageSize) -> None:
        """Raise a `ValueError` if a part of an image may have nothing of it."""
        fits = self.random_crop is None or self.random_crop < min(size_pair(image_size))
        self.require(fits, "random_crop", f"give less than the image size, {plain_size(image_size)}")


@dataclass(kw_only=True)
class DataConfig(
    RandomCropOptions, TrainingDataConfig, StreamOptions, ConditionedSplitsConfig, ImageShapeOptions, ClassConditionalOptions
):
    """Images to train a diffusion model on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        fits = self.condition == "class" or self.class_conditional is not False
        self.require(fits, "condition", "leave out --data.class_conditional false for it")
