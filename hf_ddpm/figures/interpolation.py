"""Figure `interpolation`: the way from one sample to another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hf_ddpm.figures.blocks import ImageBlock, plot_blocks
from hf_ddpm.figures.options import GuidanceOptions, SamplingOptions
from hf_ddpm.figures.style import save_figure
from hf_ddpm.figures.view import to_view


@dataclass(kw_only=True)
class InterpolationConfig(SamplingOptions, GuidanceOptions):
    """Samples between two samples, by slerp of their noise: one row per class, the same seeds in each."""

    model: str
    """Folder of a pipeline (`pipeline/` of a run, or one of its checkpoints), or a Hub id."""
    scheduler: str | None = None
    """Name of a scheduler without noise in its steps, see hf-ddpm sample; None = ddim."""
    num_images: int = 8
    """Images of a row, from the sample of the first seed to that of the second, seed + 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.num_images >= 2, "num_images", "give at least 2")


def plot_interpolation(config: InterpolationConfig) -> list[Path]:
    """Plot samples between the samples of two seeds; return the paths of the files."""
    from hf_ddpm.diffusion.randomness import image_generator
    from hf_ddpm.figures import samples
    from hf_ddpm.sampling import values_of
    from hf_ddpm.schedulers import build_scheduler

    pipeline = samples.load_editing_pipeline(config.model, scheduler=config.scheduler, device=config.device)
    if config.scheduler is None and not pipeline.is_distilled:
        pipeline.scheduler = build_scheduler("ddim", pipeline.scheduler.config)
    steps = config.num_inference_steps or pipeline.default_steps
    labels = samples.class_rows(pipeline, config.class_labels, 1)
    scale = samples.guidance_scale_of(pipeline, config)
    rows = []
    for label in labels:
        options: dict[str, Any] = {} if label is None else {"class_labels": label}
        options |= {} if scale is None else {"guidance_scale": scale}
        ends = [image_generator(config.seed + i) for i in range(2)]
        found: Any = pipeline.interpolate(config.num_images, ends, num_inference_steps=steps, output_type="np", **options)
        values = values_of(pipeline, found.images, "the samples")
        rows.append(to_view(values, pipeline.value_range, config.view_channels))
    weights = [f"{i / (config.num_images - 1):.2f}" for i in range(config.num_images)]
    block = ImageBlock(images=np.stack(rows), row_names=samples.row_names(pipeline, labels, 1), column_names=weights)
    title = samples.describe_sampling(pipeline, config, 2, scale)
    return save_figure(plot_blocks([block], title=title), config.output)
