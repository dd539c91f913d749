"""Samples in figures: the images that hf-ddpm sample generates with the same options, in rows with names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from hf_ddpm.dcgan_pipeline import DCGANPipeline
from hf_ddpm.editing_pipeline import CFGDDPMEditingPipeline
from hf_ddpm.figures.blocks import plain
from hf_ddpm.figures.options import GuidanceOptions, SamplingOptions
from hf_ddpm.figures.real_images import RealImages
from hf_ddpm.figures.view import to_view
from hf_ddpm.markdown import interval_text
from hf_ddpm.pipeline import CFGDDPMPipeline, Condition, require
from hf_ddpm.sampling import (
    ImagePipeline,
    all_conditions,
    condition_name,
    default_guidance_scale,
    generate,
    load_pipeline,
    resolve_labels,
)

MAX_CLASSES = 10  # shown by default


def load_diffusion_pipeline(model: str, *, scheduler: str | None = None, device: str | None = None) -> CFGDDPMPipeline:
    """Load a diffusion pipeline, see `load_pipeline`; a ValueError also refuses a GAN and a scheduler without betas."""
    pipeline = load_pipeline(model, scheduler=scheduler, device=device)
    if isinstance(pipeline, DCGANPipeline):
        raise ValueError(f"`model` is {model!r}: it is a GAN, which has no steps and no guidance, give a diffusion model")
    has_betas = isinstance(getattr(pipeline.scheduler, "alphas_cumprod", None), torch.Tensor)
    require(has_betas, "`model`", model, f"its {type(pipeline.scheduler).__name__} has no betas, give a DDPM")
    return pipeline


def load_editing_pipeline(model: str, *, scheduler: str | None = None, device: str | None = None) -> CFGDDPMEditingPipeline:
    """Load a diffusion pipeline that edits, without its progress bar; see `load_diffusion_pipeline`."""
    pipeline = CFGDDPMEditingPipeline.from_pipe(load_diffusion_pipeline(model, scheduler=scheduler, device=device))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def class_rows(pipeline: ImagePipeline, class_labels: Sequence[str | int] | None, per_class: int) -> list[Condition | None]:
    """The condition of each image of a grid, one row each (None = the first 10 classes); None = unconditional, in a square.

    A ValueError names a class that does not exist, or says that the model is unconditional.
    """
    if class_labels is not None:
        return resolve_labels(pipeline, class_labels, per_class, None)
    if not pipeline.is_conditional:
        return [None] * per_class**2
    return [label for label in all_conditions(pipeline)[:MAX_CLASSES] for _ in range(per_class)]


def label_name(pipeline: ImagePipeline, label: Condition) -> str:
    """Name of a class, of a set of labels or of a number in a figure."""
    is_nameless = isinstance(label, int) and label not in (pipeline.id2label or {})
    return plain(f"class {label}" if is_nameless else condition_name(label, pipeline.id2label))


def row_names(pipeline: ImagePipeline, labels: Sequence[Condition | None], per_class: int) -> list[str] | None:
    """Class names of the rows of a grid; None = the model is unconditional."""
    return [label_name(pipeline, label) for label in labels[::per_class] if label is not None] or None


def real_conditions(pipeline: CFGDDPMPipeline, real: RealImages) -> list[Any] | None:
    """The conditions of real images as the model takes them, looked up by name; None = the model is unconditional."""
    if not pipeline.is_conditional:
        return None
    if real.names is None or real.labels is None:
        raise ValueError("`source` has no labels: the model was trained with classes, give images with labels")
    has_names = pipeline.condition == "class" and pipeline.id2label
    return pipeline.get_label_ids([*real.names] if has_names else [*real.labels])


def guidance_scale_of(pipeline: ImagePipeline, config: GuidanceOptions) -> float | None:
    """The guidance scale that the options give, or the default of hf-ddpm sample; None = there is no guidance."""
    return default_guidance_scale(pipeline) if config.guidance_scale is None else config.guidance_scale


def sample_images(
    pipeline: ImagePipeline, labels: Sequence[Condition | None], config: SamplingOptions, *, guidance_scale: float | None
) -> np.ndarray[Any, Any]:
    """Generate one image for each label of `class_rows`, (N, H, W, 1 or 3) uint8; guidance scale None = no guidance."""
    steps = config.num_inference_steps
    batches = generate(
        pipeline, class_labels=labels, seed=config.seed, num_inference_steps=steps, guidance_scale=guidance_scale
    )
    return np.concatenate([to_view(batch.images, pipeline.value_range, config.view_channels) for batch in batches])


def describe_sampling(
    pipeline: ImagePipeline, config: SamplingOptions, num_images: int, guidance_scale: float | None
) -> str:
    """How samples were generated, in one line; guidance scale None = no guidance, or each block shows its own."""
    parts = []
    if isinstance(pipeline, CFGDDPMPipeline):
        name = type(pipeline.scheduler).__name__.removesuffix("Scheduler")
        parts += [name, f"{config.num_inference_steps or pipeline.default_steps} steps"]
        parts += [] if guidance_scale is None else [scale_text(guidance_scale)]
        saved = {} if guidance_scale == 1 else pipeline.sampling_defaults
        parts += [saved["guidance"]] if "guidance" in saved else []
        parts += [interval_text(saved["guidance_interval"])] if "guidance_interval" in saved else []
    seed = config.seed
    return ", ".join([*parts, f"seed {seed}" if num_images == 1 else f"seeds {seed} to {seed + num_images - 1}"])


def scale_text(guidance_scale: float) -> str:
    """A guidance scale in both conventions."""
    return f"s = {guidance_scale:g} (w = {round(guidance_scale - 1, 6):g})"
