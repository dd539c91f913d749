"""Figure `forward`: real images at several timesteps of the forward process."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from hf_ddpm.figures.blocks import ImageBlock, plain, plot_blocks
from hf_ddpm.figures.options import FigureDataConfig, ViewOptions
from hf_ddpm.figures.schedules import ForwardScheduleConfig
from hf_ddpm.figures.style import save_figure
from hf_ddpm.figures.view import to_view

NOISING_SHARES = (0, 0.01, 0.1, 0.15, 0.195, 0.999)  # of T: 0, 10, 100, 150, 195, 999 of 1000


@dataclass(kw_only=True)
class ForwardConfig(ViewOptions):
    """Real images turned into noise by the forward process: one row per image, one column per timestep."""

    main_options: ClassVar[tuple[str, ...]] = (
        "output", "model", "timesteps", "num_images", "seed", "view_channels", "data.source", "data.image_size",
        "data.channels", "data.labels", "data.split", "schedule.beta_schedule", "schedule.num_train_timesteps",
    )  # fmt: skip
    model: str | None = None
    """Pipeline that gives the schedule, the image size and, without --data.source, the data; None = options give them."""
    timesteps: list[int] | None = None
    """Noising steps applied, 0 (the image) to T (noise); None = 0, 10, 100, 150, 195 and 999 thousandths of T."""
    num_images: int = 4
    """Number of images: the first of each class, then the second of each, and so on; without classes the first ones."""
    seed: int = 0
    """Seed of the first image's noise, the same at all timesteps; the next ones have seed + 1, seed + 2, ..."""
    data: FigureDataConfig = field(default_factory=FigureDataConfig)
    schedule: ForwardScheduleConfig = field(default_factory=ForwardScheduleConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model is None:
            self.data.require(self.data.source is not None, "source", "name the images, or give --model")
            return
        if self.schedule != ForwardScheduleConfig():
            raise ValueError(f"--schedule is {self.schedule.beta_schedule!r}: leave it out, --model has its own schedule")
        for option in ("image_size", "channels"):
            self.data.require(getattr(self.data, option) is None, option, "leave it out, --model has its own")


def plot_forward(config: ForwardConfig) -> list[Path]:
    """Plot real images at several timesteps of the forward process; return the paths of the files."""
    from hf_ddpm.figures.process import forward_states
    from hf_ddpm.figures.real_images import data_of_model, process_title, read_images
    from hf_ddpm.figures.samples import load_diffusion_pipeline

    data, pipeline = config.data, None
    if config.model is None:
        alphas_cumprod, beta_schedule = config.schedule.alphas_cumprod(), config.schedule.beta_schedule
    else:
        pipeline = load_diffusion_pipeline(config.model)
        alphas_cumprod, beta_schedule = pipeline.scheduler.alphas_cumprod, pipeline.scheduler.config.beta_schedule
        data = data_of_model(data, config.model)
    total = len(alphas_cumprod)
    noising_steps = config.timesteps or sorted({round(share * total) for share in NOISING_SHARES})
    real = read_images(data, count=config.num_images, pipeline=pipeline)
    seeds = range(config.seed, config.seed + config.num_images)
    states = forward_states(real.in_model_range(), noising_steps, alphas_cumprod=alphas_cumprod, seeds=seeds)
    names = None if real.names is None else [plain(name) for name in real.names]
    images = to_view(states.swapaxes(0, 1), channels=config.view_channels)
    block = ImageBlock(images=images, row_names=names, column_names=[f"t = {t}" for t in noising_steps])
    return save_figure(plot_blocks([block], title=process_title(data, beta_schedule, total)), config.output)
