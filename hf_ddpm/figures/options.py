"""Options shared by several figures. Those of a single figure are in the file that plots it, see `FIGURES` in registry.py.

A timestep t of a figure counts noising steps, as in Ho et al. 2020: x_0 is the image, x_T is noise. In the code these are
`noising_steps`; the network's own timestep, which begins at 0, is one less.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hf_ddpm.config import BaseConfig, require
from hf_ddpm.data.options import BaseDataConfig, ImageShapeOptions

SUFFIXES = (".png", ".pdf", ".gif")


@dataclass(kw_only=True)
class ModelDataConfig(BaseDataConfig):
    """Real images to show beside the output of a model."""

    split: str | None = None
    """Split of the images; None = the one that --model was trained on, else train."""


@dataclass(kw_only=True)
class FigureDataConfig(ModelDataConfig, ImageShapeOptions):
    """Real images to show."""

    image_size: int | None = None
    """Height and width in pixels, by resizing and center crop; None = the shorter side of the first image, at most 128."""
    channels: Literal[1, 3] | None = None
    """1 = grayscale, 3 = RGB; None = those of the first image."""


@dataclass(kw_only=True)
class FigureConfig(BaseConfig):
    """A figure."""

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

    def require_at_least(self, low: float, *options: str) -> None:
        """Raise `ValueError` unless each option is None or at least `low`."""
        for option in options:
            value = getattr(self, option)
            self.require(value is None or value >= low, option, f"give at least {low}")

    def require_some(self, option: str) -> None:
        """Raise `ValueError` if an option is an empty list."""
        value = getattr(self, option)
        self.require(value is None or len(value) > 0, option, "give at least one")


@dataclass(kw_only=True)
class ClassLabelOptions(FigureConfig):
    """Which classes a figure shows."""

    class_labels: list[str | int] | None = None
    """Classes by name or id, as in [3, 7]; None = the first 10."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_some("class_labels")


@dataclass(kw_only=True)
class GuidanceOptions(FigureConfig):
    """How strongly the samples of a figure are guided."""

    guidance_scale: float | None = None
    """s in u + s (c - u), 1 = no guidance; None = 1.5, or 1 for a model without a null label. A GAN has none."""


@dataclass(kw_only=True)
class SamplingOptions(FigureConfig):
    """How the samples of a figure are generated."""

    scheduler: str | None = None
    """Name of a scheduler, see sample.py; None = the one saved with the model. A GAN has none."""
    num_inference_steps: int | None = None
    """Denoising steps; None = 50. A GAN has none."""
    seed: int = 0
    """Seed of the first image; the next ones have seed + 1, seed + 2, ..."""
    device: str | None = None
    """cpu, cuda, cuda:1, mps, ...; None = cuda if there is one, else cpu."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_at_least(0, "seed")
        self.require_at_least(1, "num_inference_steps")


@dataclass(kw_only=True)
class RowOptions(FigureConfig):
    """How many images of each class a figure shows."""

    per_class: int = 8
    """Images per class, one row per class; an unconditional model fills a square."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(1 <= self.per_class <= 32, "per_class", "give 1 to 32")


@dataclass(kw_only=True)
class SampleFigureConfig(SamplingOptions, GuidanceOptions, ClassLabelOptions):
    """A figure of samples, the same as those of sample.py with the same options."""


@dataclass(kw_only=True)
class SampleGridConfig(RowOptions, SampleFigureConfig):
    """A figure of samples in grids, one row per class."""
