"""Previews of a model in training: a grid of samples and the loss on held-out images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from accelerate import PartialState

from hf_ddpm.data.stream import ImageStream
from hf_ddpm.data.table import ImageTable
from hf_ddpm.figures.grids import image_grid
from hf_ddpm.figures.view import to_view
from hf_ddpm.heldout_metrics import simple_loss
from hf_ddpm.pipeline import CFGDDPMPipeline, Condition
from hf_ddpm.run_folder import GridSettings, RunFolder
from hf_ddpm.runtime.distributed import gather, shard
from hf_ddpm.runtime.files import write_whole
from hf_ddpm.sampling import ImagePipeline, all_conditions, condition_name, default_guidance_scale, generate
from hf_ddpm.schedulers import build_scheduler, fitting_steps

COLUMNS, MAX_CLASSES = 8, 10
SCHEDULER, MAX_INFERENCE_STEPS = "dpmsolver++", 20
HELD_OUT_IMAGES = 512


def save_sample_grid(
    pipeline: ImagePipeline, folder: RunFolder, step: int, *, seed: int, rows: Sequence[Condition] | None = None
) -> None:
    """Save a grid of samples, with the same seeds and labels every time, and a record of how it was sampled.

    The grid has one row per class (the first 10), or for each of the conditions `rows`, or 8 x 8 images; a diffusion model
    takes 20 steps of DPM-Solver++, and a distilled one its own few. All processes share the work and have to call this;
    `folder.sample_grid(step)` and `folder.grid_settings` are written. `seed` is that of the first image; the others have the
    seeds that follow.
    """
    processes, id2label = PartialState(), pipeline.id2label
    labels: Sequence[Condition | None] = [None] * COLUMNS
    if id2label:
        labels = rows or all_conditions(pipeline)[:MAX_CLASSES]
    names = [condition_name(label, id2label) for label in labels] if id2label else None
    steps = None
    name: str | None = None
    if isinstance(pipeline, CFGDDPMPipeline) and pipeline.is_distilled:
        name, steps = type(pipeline.scheduler).__name__, pipeline.default_steps
    elif isinstance(pipeline, CFGDDPMPipeline):
        name = SCHEDULER
        scheduler = build_scheduler(SCHEDULER, pipeline.scheduler.config)
        steps = fitting_steps(scheduler, MAX_INFERENCE_STEPS)
        pipeline = CFGDDPMPipeline(pipeline.unet, scheduler, **pipeline.facts)
    settings = GridSettings(
        columns=COLUMNS,
        class_labels=labels,
        class_names=names,
        seed=seed,
        scheduler=name,
        num_inference_steps=steps,
        guidance_scale=default_guidance_scale(pipeline),
    )
    labels_of_images = [label for label in labels for _ in range(COLUMNS)]
    mine = shard(len(labels_of_images), processes)
    batches = generate(
        pipeline,
        class_labels=labels_of_images[mine],
        seed=seed + mine.start,
        num_inference_steps=steps,
        guidance_scale=settings.guidance_scale,
        progress=True,
    )
    images = np.concatenate(gather([batch.images for batch in batches], processes))
    if processes.is_main_process:
        write_whole(folder.grid_settings, settings.to_json())
        images = to_view(images, pipeline.value_range)
        write_whole(folder.sample_grid(step), image_grid(images, columns=COLUMNS, row_names=names).save)


def usual_label_sets(images: ImageTable | ImageStream) -> list[Condition] | None:
    """The sets of labels that most images have, at most 10; None = they have other conditions, or are not read yet."""
    if images.condition != "labels" or isinstance(images, ImageStream) or images.class_labels is None:
        return None
    sets, counts = images.class_labels.unique(dim=0, return_counts=True)
    most = counts.argsort(descending=True, stable=True)[:MAX_CLASSES]
    return [labels.nonzero().flatten().tolist() for labels in sets[most]]


def held_out_loss(pipeline: CFGDDPMPipeline, images: ImageTable, *, loss: str) -> float:
    """Unweighted loss, one of `hf_ddpm.diffusion.objective.LOSSES`, on the first 512 images with the same randomness."""
    return simple_loss(pipeline, images, num_images=min(len(images), HELD_OUT_IMAGES), loss=loss).mean
