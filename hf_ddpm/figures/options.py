"""Options shared by several figures; those of a single figure are in the file that plots it.

A timestep t of a figure counts noising steps, as in Ho et al. 2020: x_0 is the image, x_T is noise; see process.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hf_ddpm.config import MAX_SEED, BaseConfig, require, require_view_channels
from hf_ddpm.data.options import ConditionOptions, ImageShapeOptions, ValueRangeOptions

SUFFIXES = (".png", ".pdf", ".gif")
RANGES = {
    "seed": (0, MAX_SEED), "num_images": (1, math.inf), "num_inference_steps": (1, math.inf), "per_class": (1, 32),
    "max_classes": (1, math.inf), "num_frames": (2, math.inf), "milliseconds": (20, math.inf), "num_colors": (2, 256),
    "smoothing": (1, math.inf),
}  # fmt: skip
"""Smallest and largest value of an option, the same in every figure that has it."""


@dataclass(kw_only=True)
class ModelDataConfig(ValueRangeOptions, ConditionOptions):
    """Real images to show beside the output of a model."""

    split: str | None = None
    """Split of the images; None = the one that --model was trained on, else train."""
    resize: Literal["crop", "pad", "stretch"] | None = None
    """How images are brought to one size; None = as those of --model, else crop."""


@dataclass(kw_only=True)
class FigureDataConfig(ModelDataConfig, ImageShapeOptions):
    """Real images to show."""

    image_size: int | tuple[int, int] | None = None
    """Pixels, [height, width] or one number for both; None = the shorter side of the first image, at most 128."""
    channels: int | None = None
    """1 = grayscale, 3 = RGB, or as many as arrays have; None = RGB if any of the images has colour, or as arrays have."""


@dataclass(kw_only=True)
class FigureConfig(BaseConfig):
    """A figure. Each of its options is in its range, see `RANGES`, and no list of values is empty."""

    output: Path
    """Path of the files without a suffix; missing folders are created, existing files are replaced."""

    def __post_init__(self) -> None:
        super().__post_init__()
        output = Path(self.output)
        remedy = "leave the suffix out, each format adds its own"
        require(output.suffix.lower() not in SUFFIXES, "output", str(output), remedy)
        require(output.name != "", "output", str(output), "name the files, as in figures/digits")
        above = next(folder for folder in output.absolute().parents if folder.exists())
        require(above.is_dir(), "output", str(output), f"{above} is not a folder, name another path")
        for option, value in vars(self).items():
            self.require(value not in ([], ()), option, "give at least one")
            if option in RANGES and value is not None:
                low, high = RANGES[option]
                remedy = f"give at least {low}" if high == math.inf else f"give {low} to {high}"
                self.require(low <= value <= high, option, remedy)


@dataclass(kw_only=True)
class ViewOptions(FigureConfig):
    """What a figure shows of images with several channels."""

    view_channels: list[int] | None = None
    """Channels to show, counted from 0: three as red, green and blue, or one in gray; None = the first three, or the first
    of one or two."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_view_channels(self.view_channels)


@dataclass(kw_only=True)
class ClassLabelOptions(FigureConfig):
    """Which classes a figure shows."""

    class_labels: list[str | int] | None = None
    """Classes by name or id, as in [3, 7], sets of labels such as cat+red, or numbers; None = the first 10."""


@dataclass(kw_only=True)
class GuidanceOptions(ClassLabelOptions):
    """How strongly the samples of a figure are guided."""

    guidance_scale: float | None = None
    """s in u + s (c - u), 1 = no guidance; None = that saved with the model, or 1.5, or 1 for a model without a null label.
    A GAN has none."""


@dataclass(kw_only=True)
class SamplingOptions(ClassLabelOptions, ViewOptions):
    """How the samples of a figure are generated: the same as those of hf-ddpm sample with the same options."""

    scheduler: str | None = None
    """Name of a scheduler, see hf-ddpm sample; None = the one saved with the model. A GAN has none."""
    num_inference_steps: int | None = None
    """Denoising steps; None = those saved with the model, for its scheduler, or 50. A GAN has none."""
    seed: int = 0
    """Seed of the first image; the next ones have seed + 1, seed + 2, ..."""
    device: str | None = None
    """cpu, cuda, cuda:1, mps, ...; None = cuda if there is one, else cpu."""


@dataclass(kw_only=True)
class RowOptions(FigureConfig):
    """How many images of each class a figure shows."""

    per_class: int = 8
    """Images per class, one row per class; an unconditional model fills a square."""


@dataclass(kw_only=True)
class SampleGridConfig(RowOptions, SamplingOptions, GuidanceOptions):
    """A figure of samples in grids, one row per class."""
