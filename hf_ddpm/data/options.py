"""Options of data, in small classes of which each program's group is made: see `hf_ddpm.config.BaseConfig`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from hf_ddpm.config import BaseConfig


@dataclass(kw_only=True)
class SourceOptions(BaseConfig, group="data"):
    """Where images come from."""

    source: str | None = None
    """As in train.py; None = the data that the model was trained on, as the config.yaml of its run says."""


@dataclass(kw_only=True)
class TrainSplitOptions(SourceOptions):
    """The split of a model."""

    train_split: str = "train"
    """Split that is trained on."""


@dataclass(kw_only=True)
class HeldOutSplitOptions(TrainSplitOptions):
    """The split of a model, and another one beside it."""

    test_split: str | None = None
    """Held-out split whose loss is logged beside each sample grid; None = no held-out loss."""


@dataclass(kw_only=True)
class BaseDataConfig(SourceOptions):
    """Which images are read."""

    image_column: str | None = None
    """Column of the images; None = the only image column."""
    label_column: str | None = None
    """Column of the class labels; None = the only class label column, if there is one."""
    labels: list[str | int] | None = None
    """Classes to keep, by name or id, renumbered in this order; None = all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.labels is None or len(self.labels) > 0, "labels", "name at least one class")

    def column_options(self) -> dict[str, Any]:
        """The options that say which column and which classes are read, as keyword arguments of `open_source`."""
        return {"image_column": self.image_column, "label_column": self.label_column, "labels": self.labels}


@dataclass(kw_only=True)
class ClassConditionalOptions(BaseDataConfig):
    """Images of a model that may be told their class."""

    class_conditional: bool | None = None
    """Whether the model is told the class; None = yes if there are labels."""

    def column_options(self) -> dict[str, Any]:
        return {**super().column_options(), "class_conditional": self.class_conditional}


@dataclass(kw_only=True)
class ImageShapeOptions(BaseDataConfig):
    """Images of a chosen size."""

    image_size: int | None = None
    """Height and width in pixels, by resizing and centre crop; None = the size of the model preset."""
    channels: Literal[1, 3] | None = None
    """1 = grayscale, 3 = RGB; None = as the first image is, or as a model given by its config.json demands."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("image_size", "pixels")


@dataclass(kw_only=True)
class DecodeOptions(BaseDataConfig, TrainSplitOptions):
    """Images of which whole splits are read."""

    max_images: int | None = None
    """Images to train on, evenly spread over the split (of a stream: the first ones); None = all."""
    on_bad_image: Literal["error", "skip"] = "error"
    """An image that cannot be decoded ends the program, or is left out (in a stream: the next one takes its place)."""
    max_bad_images: int | None = None
    """Images of a split that may be left out; None = 100. Only with on_bad_image skip."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("max_images", "images")
        self.require_positive("max_bad_images", "images")
        has_cap = self.on_bad_image == "skip" or self.max_bad_images is None
        self.require(has_cap, "max_bad_images", "add --data.on_bad_image skip, or leave it out")


@dataclass(kw_only=True)
class SplitsConfig(DecodeOptions, HeldOutSplitOptions):
    """Images of which a train split and perhaps a held-out split are read."""


@dataclass(kw_only=True)
class StreamOptions(BaseConfig, group="data"):
    """Reading images while training."""

    streaming: bool = False
    """Read the images while training, decoding each as it comes, in place of decoding all of them before."""
    shuffle_buffer: int | None = None
    """Images that a stream is shuffled within; None = 10000. Only with streaming."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("shuffle_buffer", "images")
        has_buffer = self.streaming or self.shuffle_buffer is None
        self.require(has_buffer, "shuffle_buffer", "add --data.streaming, or leave it out")


@dataclass(kw_only=True)
class TrainingDataConfig(DecodeOptions):
    """Which images a model learns, and how they are read."""

    source: str = "digits"
    """`digits` (embedded, 8 x 8), a local folder (parquet, images or a saved data set) or the id of a Hub data set."""
    horizontal_flip: bool = False
    """Mirror each image left to right with probability 0.5."""
    batch_size: int = 128
    """Images a process and micro-step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("batch_size", "images")


@dataclass(kw_only=True)
class DataConfig(TrainingDataConfig, StreamOptions, SplitsConfig, ImageShapeOptions, ClassConditionalOptions):
    """Which images a model learns, and how they are read."""
