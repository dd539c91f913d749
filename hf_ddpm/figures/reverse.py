"""Figures `reverse` and `reverse_gif`: samples on their way from noise to an image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hf_ddpm.figures.animation import require_colors, save_gif
from hf_ddpm.figures.blocks import ImageBlock, plot_blocks
from hf_ddpm.figures.grids import image_grid
from hf_ddpm.figures.options import SampleFigureConfig, SampleGridConfig
from hf_ddpm.figures.style import save_figure

DEFAULT_IMAGES = 3


@dataclass(kw_only=True)
class ReverseConfig(SampleFigureConfig):
    """Samples on their way from noise to an image: x_t, and below it the x_0 that the network predicts from x_t."""

    model: str
    """Folder of a pipeline (`pipeline/` of a run, or one of its checkpoints), or a Hub id."""
    num_images: int | None = None
    """Number of images, cycling through the classes; None = one of each of `class_labels`, or 3 without them."""
    timesteps: list[int] | None = None
    """Noising steps left, from T (pure noise) to 0 (the sample); the sampling must pass through each. None = both ends and 9
    between them: 1000, 900, ..., 0 with T = 1000 and 50 steps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_at_least(1, "num_images")
        self.require_some("timesteps")


@dataclass(kw_only=True)
class ReverseGifConfig(SampleGridConfig):
    """The reverse process of a grid of samples as a GIF, one row per class."""

    model: str
    """Folder of a pipeline (`pipeline/` of a run, or one of its checkpoints), or a Hub id."""
    per_class: int = 3
    """Images per class, one row per class; an unconditional model fills a square."""
    num_frames: int = 17
    """Number of frames, evenly spread over the denoising steps; at most one more than there are steps."""
    num_colors: int | None = None
    """Grays or colors of the GIF, fewer make a smaller file; None = 16 grays or 64 colors."""
    milliseconds: int = 120
    """Duration of a frame; the last one stays 20 times as long."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_at_least(2, "num_frames")
        self.require_at_least(20, "milliseconds")
        require_colors(self.num_colors)


def plot_reverse(config: ReverseConfig) -> list[Path]:
    """Plot samples on their way from noise, and what the network predicts from them; return the paths of the files."""
    from hf_ddpm.figures.process import reverse_states
    from hf_ddpm.figures.samples import (
        DEFAULT_STEPS,
        describe_sampling,
        guidance_scale_of,
        label_name,
        load_diffusion_pipeline,
    )
    from hf_ddpm.sampling import resolve_labels

    pipeline = load_diffusion_pipeline(config.model, scheduler=config.scheduler, device=config.device)
    count = config.num_images
    if count is None and config.class_labels is None:
        count = DEFAULT_IMAGES
    labels = resolve_labels(pipeline, config.class_labels, None, count)
    states = reverse_states(
        pipeline,
        class_labels=labels,
        seed=config.seed,
        num_inference_steps=config.num_inference_steps or DEFAULT_STEPS,
        guidance_scale=guidance_scale_of(pipeline, config),
        noising_steps=config.timesteps,
    )
    blocks = []
    for i, label in enumerate(labels):
        name = "" if label is None else f"{label_name(pipeline, label)}, "
        blocks.append(
            ImageBlock(
                images=np.stack([states.noisy_images[:, i], states.pred_images[:, i]]),
                title=f"{name}seed {config.seed + i}",
                row_names=["$x_t$", r"predicted $x_0$"],
                column_names=[f"t = {t}" for t in states.noising_steps],
            )
        )
    title = describe_sampling(pipeline, config, len(labels), guidance_scale_of(pipeline, config))
    return save_figure(plot_blocks(blocks, title=title), config.output)


def plot_reverse_gif(config: ReverseGifConfig) -> list[Path]:
    """Animate the reverse process of a grid of samples; return the path of the file."""
    from hf_ddpm.figures.process import reverse_states
    from hf_ddpm.figures.samples import DEFAULT_STEPS, class_rows, guidance_scale_of, load_diffusion_pipeline, row_names

    pipeline = load_diffusion_pipeline(config.model, scheduler=config.scheduler, device=config.device)
    labels = class_rows(pipeline, config.class_labels, config.per_class)
    states = reverse_states(
        pipeline,
        class_labels=labels,
        seed=config.seed,
        num_inference_steps=config.num_inference_steps or DEFAULT_STEPS,
        guidance_scale=guidance_scale_of(pipeline, config),
        count=config.num_frames,
    )
    names = row_names(pipeline, labels, config.per_class)
    frames = [image_grid(images, columns=config.per_class, row_names=names) for images in states.noisy_images]
    captions = [f"t = {t}" for t in states.noising_steps]
    path = Path(f"{config.output}.gif")
    save_gif(frames, captions, path, milliseconds=config.milliseconds, hold=20, num_colors=config.num_colors)
    return [path]
