"""A look at a model while it is trained: a grid of samples and the loss on held-out images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from accelerate import PartialState

from hf_ddpm.data.table import ImageTable
from hf_ddpm.dcgan_pipeline import DCGANPipeline
from hf_ddpm.figures.grids import image_grid
from hf_ddpm.heldout_metrics import simple_loss
from hf_ddpm.pipeline import CFGDDPMPipeline
from hf_ddpm.runtime.distributed import gather, shard
from hf_ddpm.runtime.files import write_whole
from hf_ddpm.sampling import generate
from hf_ddpm.schedulers import build_scheduler, fitting_steps

COLUMNS, MAX_CLASSES = 8, 10
MAX_INFERENCE_STEPS, GUIDANCE_SCALE = 20, 1.5
HELD_OUT_IMAGES = 512


def save_sample_grid(pipeline: CFGDDPMPipeline | DCGANPipeline, path: Path, *, seed: int) -> None:
    """Draw the same seeds and labels every time: one row a class (the first 10), else 8 x 8.

    A diffusion model takes 20 steps of DPM-Solver++.

    The processes share the work, so all of them have to call it; the first one writes the picture.
    """
    processes = PartialState()
    id2label = pipeline.id2label
    labels = list(id2label)[:MAX_CLASSES] if id2label else [None] * COLUMNS
    labels_of_images = [label for label in labels for _ in range(COLUMNS)]
    mine = shard(len(labels_of_images), processes)
    options = {}
    if isinstance(pipeline, CFGDDPMPipeline):
        sampler = build_scheduler("dpmsolver++", pipeline.scheduler.config)
        pipeline = CFGDDPMPipeline(pipeline.unet, sampler, id2label=id2label, null_label=pipeline.null_label)
        options["num_inference_steps"] = fitting_steps(sampler, MAX_INFERENCE_STEPS)
        options["guidance_scale"] = 1.0 if pipeline.null_label is None else GUIDANCE_SCALE
    batches = generate(pipeline, class_labels=labels_of_images[mine], seed=seed + mine.start, **options)
    images = np.concatenate(gather([batch.images for batch in batches], processes))
    if not processes.is_main_process:
        return
    row_names = [id2label[label] for label in labels] if id2label else None
    write_whole(path, image_grid(images, columns=COLUMNS, row_names=row_names).save)


def held_out_loss(pipeline: CFGDDPMPipeline, images: ImageTable, *, loss: str) -> float:
    """Unweighted loss of the first 512 images, with noise and timesteps that are the same every time.

    Args:
        pipeline: with the averaged weights.
        images: the held-out split.
        loss: name in `hf_ddpm.diffusion.objective.LOSSES`.
    """
    return simple_loss(pipeline, images, num_images=min(len(images), HELD_OUT_IMAGES), loss=loss).mean
