"""Figures `reverse` and `reverse_gif`: samples on their way from noise to an image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hf_ddpm.figures.animation import save_gif
from hf_ddpm.figures.blocks import ImageBlock, plot_blocks
from hf_ddpm.figures.grids import image_grid
from hf_ddpm.figures.options import GuidanceOptions, SampleGridConfig, SamplingOptions
from hf_ddpm.figures.style import save_figure
from hf_ddpm.figures.view import to_view


@dataclass(kw_only=True)
class ReverseConfig(SamplingOptions, GuidanceOptions):
    """Samples on their way from noise to an image: x_t, and below it the x_0 that the network predicts from x_t."""

    model: str
    """Folder of a pipeline (`pipeline/` of a run, or one of its checkpoints), or a Hub id."""
    num_images: int | None = None
    """Number of images, cycling through the classes; None = one of each of `class_labels`, or 3 without them."""
    timesteps: list[int] | None = None
    """Noising steps left, from T (pure noise) to 0 (the sample); the sampling must pass through each. None = both ends and 9
    between them: 1000, 900, ..., 0 with T = 1000 and 50 steps."""


@dataclass(kw_only=True)
class ReverseGifConfig(SampleGridConfig):
    """The reverse process of a grid of samples as a GIF, one row per class."""

    model: str
    """Folder of a pipeline (`pipeline/` of a run, or one of its checkpoints), or a Hub id."""
    per_class: int = 3
    num_frames: int = 17
    """Number of frames, evenly spread over the denoising steps; at most one more than there are steps."""
    num_colors: int | None = None
    """Grays or colors of the GIF, fewer make a smaller file; None = 16 grays or 64 colors."""
    milliseconds: int = 120
    """Duration of a frame; the last one stays 20 times as long."""


def plot_reverse(config: ReverseConfig) -> list[Path]:
    """Plot samples on their way from noise, and what the network predicts from them; return the paths of the files."""
    from hf_ddpm.figures import samples
    from hf_ddpm.figures.process import reverse_states
    from hf_ddpm.sampling import resolve_labels

    pipeline = samples.load_diffusion_pipeline(config.model, scheduler=config.scheduler, device=config.device)
    count = 3 if config.num_images is None and config.class_labels is None else config.num_images
    labels = resolve_labels(pipeline, config.class_labels, None, count)
    scale, steps = samples.guidance_scale_of(pipeline, config), config.num_inference_steps or pipeline.default_steps
    states = reverse_states(
        pipeline, labels, seed=config.seed, num_inference_steps=steps, guidance_scale=scale, noising_steps=config.timesteps
    )
    row_names, column_names = ["$x_t$", r"predicted $x_0$"], [f"t = {t}" for t in states.noising_steps]
    blocks = []
    for i, label in enumerate(labels):
        title = ("" if label is None else f"{samples.label_name(pipeline, label)}, ") + f"seed {config.seed + i}"
        both = np.stack([states.noisy_images[:, i], states.pred_images[:, i]])
        images = to_view(both, channels=config.view_channels)
        blocks.append(ImageBlock(images=images, title=title, row_names=row_names, column_names=column_names))
    title = samples.describe_sampling(pipeline, config, len(labels), scale)
    return save_figure(plot_blocks(blocks, title=title), config.output)


def plot_reverse_gif(config: ReverseGifConfig) -> list[Path]:
    """Animate the reverse process of a grid of samples; return the path of the file."""
    from hf_ddpm.figures import samples
    from hf_ddpm.figures.process import reverse_states

    pipeline = samples.load_diffusion_pipeline(config.model, scheduler=config.scheduler, device=config.device)
    labels = samples.class_rows(pipeline, config.class_labels, config.per_class)
    scale, steps = samples.guidance_scale_of(pipeline, config), config.num_inference_steps or pipeline.default_steps
    states = reverse_states(
        pipeline, labels, seed=config.seed, num_inference_steps=steps, guidance_scale=scale, count=config.num_frames
    )
    names = samples.row_names(pipeline, labels, config.per_class)
    shown = to_view(states.noisy_images, channels=config.view_channels)
    frames = [image_grid(images, columns=config.per_class, row_names=names) for images in shown]
    captions, gif = [f"t = {t}" for t in states.noising_steps], Path(f"{config.output}.gif")
    save_gif(frames, captions, gif, milliseconds=config.milliseconds, hold=20, num_colors=config.num_colors)
    return [gif]
