"""What each figure can be told, on the command line and from Python.

A timestep t here counts noising steps, as in Ho et al. 2020: x_0 is the image, x_T is noise. The network's own timestep,
which begins at 0, is t - 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from hf_ddpm.config import BaseConfig, BaseScheduleConfig, BetaSchedule, require
from hf_ddpm.data.options import BaseDataConfig, ImageShapeOptions

SUFFIXES = (".png", ".pdf", ".gif")


def _require_at_least(config, **limits: int) -> None:
    """Check options that are numbers, or None, against the least that they may be."""
    for option, low in limits.items():
        value = getattr(config, option)
        require(value is None or value >= low, option, value, f"give at least {low}")


def _require_colors(num_colors: int | None) -> None:
    require(num_colors is None or 2 <= num_colors <= 256, "num_colors", num_colors, "give 2 to 256")


def _require_some(config, *options: str) -> None:
    for option in options:
        value = getattr(config, option)
        require(value is None or len(value) > 0, option, value, "give at least one")


@dataclass(kw_only=True)
class ModelDataConfig(BaseDataConfig):
    """The real images that are shown beside what a model makes of them."""

    split: str | None = None
    """Split that the images come from; None = the one that --model was trained on, else train."""


@dataclass(kw_only=True)
class FigureDataConfig(ModelDataConfig, ImageShapeOptions):
    """The real images that are shown."""

    image_size: int | None = None
    """Height and width in pixels, by resizing and centre crop; None = the shorter side of the first image, at most 128."""
    channels: Literal[1, 3] | None = None
    """1 = grayscale, 3 = RGB; None = as the first image is."""


@dataclass(kw_only=True)
class ForwardScheduleConfig(BaseScheduleConfig):
    """The forward process."""

    rescale_zero_terminal_snr: bool = False
    """Rescale the betas so that the last timestep is pure noise (Lin et al. 2023)."""


@dataclass(kw_only=True)
class FigureConfig(BaseConfig):
    """A figure."""

    output: Path
    """Path of the files without a suffix; the folder is made if need be, and files of this name are replaced."""

    def __post_init__(self):
        super().__post_init__()
        remedy = "leave the suffix out, each format gets its own"
        require(Path(self.output).suffix.lower() not in SUFFIXES, "output", str(self.output), remedy)
        require(Path(self.output).name != "", "output", str(self.output), "name the files, as in figures/digits")
        above = next(folder for folder in Path(self.output).absolute().parents if folder.exists())
        require(above.is_dir(), "output", str(self.output), f"{above} is no folder, name another")


@dataclass(kw_only=True)
class ClassLabelOptions(FigureConfig):
    """A figure of classes."""

    class_labels: list[str | int] | None = None
    """Classes by name or id, as in [3, 7]; None = the first 10."""

    def __post_init__(self):
        super().__post_init__()
        _require_some(self, "class_labels")


@dataclass(kw_only=True)
class GuidanceOptions(ClassLabelOptions):
    """A figure of one guidance scale."""

    guidance_scale: float | None = None
    """s in u + s (c - u), 1 = no guidance; None = 1.5, or 1 for a model without a null label. A GAN has none."""


@dataclass(kw_only=True)
class SampledConfig(ClassLabelOptions):
    """A figure of samples, which are those of sample.py with the same options."""

    scheduler: str | None = None
    """Name of a sampler, see sample.py; None = the scheduler that was saved with the model. A GAN has none."""
    num_inference_steps: int | None = None
    """Denoising steps; None = 50. A GAN has none."""
    seed: int = 0
    """Seed of the first image; the next ones have seed + 1, seed + 2, ..."""
    device: str | None = None
    """cpu, cuda, cuda:1, mps, ...; None = cuda if there is one, else cpu."""

    def __post_init__(self):
        super().__post_init__()
        _require_at_least(self, seed=0, num_inference_steps=1)


@dataclass(kw_only=True)
class DrawnConfig(SampledConfig, GuidanceOptions):
    """A figure of samples, which are those of sample.py with the same options."""


@dataclass(kw_only=True)
class PerClassOptions(SampledConfig):
    """A figure of as many samples of each class."""

    per_class: int = 8
    """Images of each class, which make a row; an unconditional model draws as many rows as columns."""

    def __post_init__(self):
        super().__post_init__()
        require(1 <= self.per_class <= 32, "per_class", self.per_class, "give 1 to 32")


@dataclass(kw_only=True)
class GridConfig(PerClassOptions, DrawnConfig):
    """A figure of grids of samples."""


@dataclass(kw_only=True)
class ForwardConfig(FigureConfig):
    """Real images as the forward process turns them into noise: one row an image, one column a timestep."""

    model: str | None = None
    """Pipeline whose schedule, size and (without --data.source) training data are taken; None = --data and --schedule."""
    timesteps: list[int] | None = None
    """Noising steps that an image has gone through, from 0 (the image) to T (noise); None = 0, 10, 100, 150, 195 and 999 of
    1000, and as much of another T."""
    num_images: int = 4
    """Images: the first of each class, going round the classes; without classes the first ones."""
    seed: int = 0
    """Seed of the noise of the first image; the next ones have seed + 1, seed + 2, ... An image has one noise
    for all timesteps."""
    data: FigureDataConfig = field(default_factory=FigureDataConfig)
    schedule: ForwardScheduleConfig = field(default_factory=ForwardScheduleConfig)

    def __post_init__(self):
        super().__post_init__()
        _require_at_least(self, num_images=1, seed=0)
        _require_some(self, "timesteps")
        if self.model is None:
            require(self.data.source is not None, "data.source", None, "name the images, or give --model")
        else:
            own = self.schedule == ForwardScheduleConfig()
            require(own, "schedule", self.schedule.beta_schedule, "leave it out, --model has its own schedule")
            for option in ("image_size", "channels"):
                value = getattr(self.data, option)
                require(value is None, f"data.{option}", value, "leave it out, --model has its own")


@dataclass(kw_only=True)
class ReverseConfig(DrawnConfig):
    """Samples on their way from noise to an image: x_t, and below it the x_0 that the network predicts from it."""

    model: str
    """Folder of a pipeline (`pipeline/` of a run, or one of its checkpoints), or its id on the Hub."""
    num_images: int | None = None
    """Images, going round the classes; None = one of each of `class_labels`, or 3 without them."""
    timesteps: list[int] | None = None
    """Noising steps left, from T (pure noise) to 0 (the sample), all of which the denoising steps lead through; None = the
    ends and 9 between them: 1000, 900, ..., 0 with T = 1000 and 50 steps."""

    def __post_init__(self):
        super().__post_init__()
        _require_at_least(self, num_images=1)
        _require_some(self, "timesteps")


@dataclass(kw_only=True)
class PosteriorConfig(FigureConfig):
    """One step of the forward process, and the way back by the model and by the true posterior, side by side."""

    model: str
    """Folder of a pipeline (`pipeline/` of a run, or one of its checkpoints), or its id on the Hub."""
    timesteps: list[int] | None = None
    """t of the steps from x_{t-1} to x_t, from 1 to T; None = 5 of them, 50 to 950 of T = 1000."""
    num_images: int = 1
    """Images, as in `forward`; a block each."""
    amplification: float | None = None
    """What the signed differences are multiplied by; None = a number for each that makes it fill the scale of gray."""
    seed: int = 0
    """Seed of the noise of the first image; the next ones have seed + 1, seed + 2, ..."""
    device: str | None = None
    """cpu, cuda, cuda:1, mps, ...; None = cuda if there is one, else cpu."""
    data: ModelDataConfig = field(default_factory=ModelDataConfig)

    def __post_init__(self):
        super().__post_init__()
        _require_at_least(self, num_images=1, seed=0)
        _require_some(self, "timesteps")
        factor = self.amplification
        require(factor is None or 0 < factor < float("inf"), "amplification", factor, "give a number above 0")


@dataclass(kw_only=True)
class ReverseGifConfig(GridConfig):
    """The reverse process of a grid of samples as a GIF, one row a class."""

    model: str
    """Folder of a pipeline (`pipeline/` of a run, or one of its checkpoints), or its id on the Hub."""
    per_class: int = 3
    """Images of each class, which make a row; an unconditional model draws as many rows as columns."""
    num_frames: int = 17
    """Pictures, evenly spread over the denoising steps; at most one more than there are steps."""
    num_colors: int | None = None
    """Grays, or colours, of the GIF: fewer make it smaller; None = 16 grays, 64 colours."""
    milliseconds: int = 120
    """Time that a picture stays; the last one stays 20 times as long."""

    def __post_init__(self):
        super().__post_init__()
        _require_at_least(self, num_frames=2, milliseconds=20)
        _require_colors(self.num_colors)


@dataclass(kw_only=True)
class CheckpointsConfig(GridConfig):
    """The same seeds at checkpoints of a run: one grid a step."""

    run: Path
    """Run folder."""
    per_class: int = 4
    """Images of each class, which make a row; an unconditional model draws as many rows as columns."""
    checkpoints: list[int] | None = None
    """Optimizer steps, as in [200, 600, 1200]; None = all that were kept."""

    def __post_init__(self):
        super().__post_init__()
        _require_some(self, "checkpoints")


@dataclass(kw_only=True)
class TrainingGifConfig(CheckpointsConfig):
    """The same seeds over a training as a GIF, from the grids that the run has saved or from its checkpoints."""

    per_class: int = 8
    """Images of each class, which make a row; an unconditional model draws as many rows as columns."""
    frames: Literal["samples", "checkpoints"] | None = None
    """`samples` = the pictures in the run's folder samples, as they are; `checkpoints` = drawn from these now, as the
    options about samples say; None = the pictures, if there are at least two and no option about samples is given."""
    num_colors: int | None = None
    """Grays, or colours, of the GIF: fewer make it smaller; None = 16 grays, 64 colours."""
    milliseconds: int = 500
    """Time that a picture stays; the last one stays 5 times as long."""

    def __post_init__(self):
        super().__post_init__()
        _require_at_least(self, milliseconds=20)
        _require_colors(self.num_colors)
        if self.frames == "samples":
            for option, value in self.sampling_options().items():
                require(False, option, value, "leave it out, the pictures in samples are drawn already")

    def sampling_options(self) -> dict[str, Any]:
        """The options about samples that are given, by name."""
        options = [option for option in fields(GridConfig) if option.name != "output"]
        return {
            option.name: getattr(self, option.name) for option in options if getattr(self, option.name) != option.default
        }


@dataclass(kw_only=True)
class SchedulesConfig(FigureConfig):
    """Variance schedules: beta, alpha-bar and log-SNR."""

    schedules: list[BetaSchedule] = field(default_factory=lambda: ["linear", "cosine", "sigmoid"])
    """Schedules to compare; `cosine` is an alias of squaredcos_cap_v2."""
    num_train_timesteps: list[int] = field(default_factory=lambda: [1000])
    """T, each of which is drawn with each schedule."""
    beta_start: float | None = None
    """beta at the first timestep; None = 1e-4. The cosine schedule has none."""
    beta_end: float | None = None
    """beta at the last timestep; None = 0.02. The cosine schedule has none."""
    rescale_zero_terminal_snr: bool = False
    """Rescale the betas so that the last timestep is pure noise (Lin et al. 2023)."""

    def __post_init__(self):
        super().__post_init__()
        for option in ("schedules", "num_train_timesteps"):
            values = getattr(self, option)
            require(0 < len(values) <= 6, option, values, "give 1 to 6")
        self.lines()

    def lines(self) -> list[ForwardScheduleConfig]:
        """The options of each line, checked."""
        betas = {"beta_start": self.beta_start, "beta_end": self.beta_end}
        names = dict.fromkeys("squaredcos_cap_v2" if name == "cosine" else name for name in self.schedules)
        if set(names) == {"squaredcos_cap_v2"}:
            for option, value in betas.items():
                require(value is None, option, value, "leave it out, the cosine schedule does not use it")
        try:
            return [
                ForwardScheduleConfig(
                    beta_schedule=name,
                    num_train_timesteps=total,
                    rescale_zero_terminal_snr=self.rescale_zero_terminal_snr,
                    **({} if name == "squaredcos_cap_v2" else betas),
                )
                for name in names
                for total in dict.fromkeys(self.num_train_timesteps)
            ]
        except ValueError as error:
            raise ValueError(str(error).replace("--schedule.", "--", 1)) from None


@dataclass(kw_only=True)
class LossesConfig(FigureConfig):
    """Training losses of runs over the steps."""

    runs: list[Path]
    """Run folders, as in [runs/a, runs/b]."""
    smoothing: int | None = None
    """Logged values that a moving mean is taken over, which is drawn over the values themselves; None = no mean."""
    log_y: bool = False
    """Whether the losses are on a logarithmic scale."""
    title: str | None = None
    """Above the figure; None = none."""

    def __post_init__(self):
        super().__post_init__()
        _require_some(self, "runs")
        _require_at_least(self, smoothing=1)


@dataclass(kw_only=True)
class GuidedConfig(PerClassOptions):
    """Samples of each class at several guidance scales: a block a scale, a row a class, the same seeds in each block."""

    model: str
    """Folder of a pipeline (`pipeline/` of a run, or one of its checkpoints), or its id on the Hub."""
    per_class: int = 4
    """Images of each class, which make a row."""
    guidance_scales: list[float] = field(default_factory=lambda: [1.0, 2.0, 4.0])
    """s in u + s (c - u) of each block, 1 = no guidance (w = s - 1)."""

    def __post_init__(self):
        super().__post_init__()
        _require_some(self, "guidance_scales")


@dataclass(kw_only=True)
class RealConfig(FigureConfig):
    """Real images of a data source, one row a class."""

    per_class: int = 8
    """Images of each class, the first of the split, which make a row; without classes there are as many rows as columns."""
    max_classes: int = 10
    """Classes that are shown, the first ones; --data.labels names others."""
    data: FigureDataConfig = field(default_factory=FigureDataConfig)

    def __post_init__(self):
        super().__post_init__()
        require(1 <= self.per_class <= 32, "per_class", self.per_class, "give 1 to 32")
        _require_at_least(self, max_classes=1)
        require(self.data.source is not None, "data.source", None, "name the images, as in digits")


FIGURES: dict[str, type[FigureConfig]] = {
    "forward": ForwardConfig,
    "reverse": ReverseConfig,
    "posterior": PosteriorConfig,
    "reverse_gif": ReverseGifConfig,
    "training_gif": TrainingGifConfig,
    "schedules": SchedulesConfig,
    "losses": LossesConfig,
    "guided": GuidedConfig,
    "real": RealConfig,
    "checkpoints": CheckpointsConfig,
}
"""What each figure can be told, by its name on the command line."""
