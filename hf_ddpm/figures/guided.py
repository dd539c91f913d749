"""Figure `guided`: samples of each class at several guidance scales."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_ddpm.figures.blocks import ImageBlock, in_rows, plot_blocks
from hf_ddpm.figures.options import RowOptions, SamplingOptions
from hf_ddpm.figures.style import save_figure


@dataclass(kw_only=True)
class GuidedConfig(RowOptions, SamplingOptions):
    """Samples of each class at several guidance scales: one block per scale, one row per class, the same seeds in each."""

    model: str
    """Folder of a pipeline (`pipeline/` of a run, or one of its checkpoints), or a Hub id."""
    per_class: int = 4
    """Images per class, one row per class."""
    guidance_scales: list[float] = field(default_factory=lambda: [1.0, 2.0, 4.0])
    """s in u + s (c - u), one block each; 1 = no guidance (w = s - 1)."""


def plot_guided(config: GuidedConfig) -> list[Path]:
    """Plot samples of each class at several guidance scales; return the paths of the files."""
    from hf_ddpm.figures import samples

    pipeline = samples.load_diffusion_pipeline(config.model, scheduler=config.scheduler, device=config.device)
    if not pipeline.is_conditional:
        raise ValueError(f"--model is {config.model!r}: it is unconditional, give a class-conditional one")
    labels: list[Any] = samples.class_rows(pipeline, config.class_labels, config.per_class)
    steps = config.num_inference_steps
    for scale in config.guidance_scales:  # before the first is sampled
        pipeline.check_inputs(labels[:1], guidance_scale=scale, num_inference_steps=steps or pipeline.default_steps)
    blocks = []
    for number, scale in enumerate(config.guidance_scales):
        images = in_rows(samples.sample_images(pipeline, labels, config, guidance_scale=scale), config.per_class)
        names = samples.row_names(pipeline, labels, config.per_class) if number == 0 else None
        blocks.append(ImageBlock(images=images, title=samples.scale_text(scale), row_names=names))
    title = samples.describe_sampling(pipeline, config, len(labels), None)
    return save_figure(plot_blocks(blocks, columns=len(blocks), title=title), config.output)
