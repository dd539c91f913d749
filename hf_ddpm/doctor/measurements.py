"""What the network and its samples show, which takes sampling: `measure(facts, num_images=200)`."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from hf_ddpm.data.batches import to_unit_range
from hf_ddpm.data.load_splits import as_recorded, load_splits
from hf_ddpm.data.options import ConditionedSplitsConfig
from hf_ddpm.data.table import ImageTable
from hf_ddpm.doctor.facts import Facts
from hf_ddpm.doctor.measured import LabelGain, Measured, RealSet, SampledSet
from hf_ddpm.heldout_metrics import simple_losses
from hf_ddpm.metrics.frechet import GaussianStatistics, RunningStatistics, frechet_distance
from hf_ddpm.metrics.nearest import nearest_distances
from hf_ddpm.pipeline import CFGDDPMPipeline
from hf_ddpm.runtime.distributed import init_distributed
from hf_ddpm.sampling import (
    ImagePipeline,
    all_conditions,
    decoded_for,
    default_guidance_scale,
    generate,
    image_shape_of,
    load_pipeline,
)

LOSS_IMAGES = 512
BLOCK = 8192
"""Training images in memory at a time."""
SMALL_SIZE = 16
"""Pixels of a side for the Fréchet distance, which takes a time that grows with the sixth power of it."""
MOMENT_IMAGES = BLOCK
"""Most training images whose mean and covariance are computed."""


def measure(facts: Facts, *, num_images: int, scheduler: str | None, num_inference_steps: int | None) -> Measured:
    """Sample from the newest model of a run and compare with its data; a `ValueError` says why that is impossible.

    Args:
        facts: the run, of a diffusion model or a GAN.
        num_images: samples, and at most as many real images.
        scheduler, num_inference_steps: how the samples are taken; None = the saved scheduler, with its usual steps.
    """
    assert facts.model is not None, "refused before"
    init_distributed(None if (threads := facts.number("", "num_threads")) is None else int(threads))
    pipeline = load_pipeline(str(facts.model), scheduler=scheduler)
    train, test = _load_data(facts, pipeline)
    moments_of_train = _moments(_in_unit_range(train, _spread_rows(train, MOMENT_IMAGES)))

    def sample(pipeline: ImagePipeline, name: str | None, steps: int | None, guidance_scale: float | None) -> SampledSet:
        images = _samples(pipeline, num_images, {"num_inference_steps": steps, "guidance_scale": guidance_scale})
        pixels = torch.from_numpy(to_unit_range(images.transpose(0, 3, 1, 2), train.value_range))
        frechet = frechet_distance(_moments(pixels), moments_of_train, warn=False)
        distances = _nearest(pixels.flatten(1).numpy(), train).tolist()
        return SampledSet(scheduler=name, num_inference_steps=steps, distances=distances, frechet=frechet)

    name = steps = preview = None
    if isinstance(pipeline, CFGDDPMPipeline):
        name = scheduler or type(pipeline.scheduler).__name__
        steps = num_inference_steps or min(pipeline.default_steps, pipeline.scheduler.config.num_train_timesteps)
    samples = sample(pipeline, name, steps, default_guidance_scale(pipeline))
    grid = facts.run.grid
    is_distilled = isinstance(pipeline, CFGDDPMPipeline) and pipeline.is_distilled
    if steps is not None and grid is not None and grid.scheduler is not None and not is_distilled:
        previewed = load_pipeline(str(facts.model), scheduler=grid.scheduler)
        assert isinstance(previewed, CFGDDPMPipeline)
        previewed.set_sampling_defaults({})  # the grid was sampled without those of a later tuning
        preview = sample(previewed, grid.scheduler, grid.num_inference_steps, grid.guidance_scale)
    real = RealSet(distances=_real_distances(train, test, num_images).tolist(), is_held_out=test is not None)
    gain = _label_gain(pipeline, train if test is None else test, is_held_out=test is not None)
    return Measured(samples=samples, preview=preview, real=real, label_gain=gain)


def _load_data(facts: Facts, pipeline: ImagePipeline) -> tuple[ImageTable, ImageTable | None]:
    """The images that a run learned from, and those that it did not (None = none are held out)."""
    channels, height, width = image_shape_of(pipeline)
    known = {option.name for option in fields(ConditionedSplitsConfig)}
    options = {name: value for name, value in as_recorded(facts.run.config.get("data") or {}).items() if name in known}
    try:
        data = decoded_for(ConditionedSplitsConfig(**options), pipeline)
        train, test = load_splits(data, image_size=(height, width), channels=channels)
    except ValueError as error:
        remedy = "run the doctor where they are, or leave out `samples`"
        raise ValueError(f"the images that the run learned from cannot be read, {error}: {remedy}") from error
    return train, test if facts.has_held_out_split else None


def _samples(pipeline: ImagePipeline, num_images: int, options: dict[str, Any]) -> np.ndarray[Any, Any]:
    """(N, H, W, C) samples, of the classes, or each of the labels alone, or numbers, in turn."""
    conditions = all_conditions(pipeline) or [None]
    labels = [conditions[number % len(conditions)] for number in range(num_images)]
    batches = generate(pipeline, class_labels=labels, progress=True, **options)
    return np.concatenate([batch.images for batch in batches])


def _real_distances(train: ImageTable, test: ImageTable | None, num_images: int) -> np.ndarray[Any, Any]:
    """Distance of held-out images to their nearest training image; without any, of training images to the nearest other."""
    table = train if test is None else test
    rows = _spread_rows(table, num_images)
    return _nearest(_as_rows(table, rows), train, but=rows if test is None else None)


def _nearest(queries: np.ndarray[Any, Any], train: ImageTable, but: Tensor | None = None) -> np.ndarray[Any, Any]:
    """Distance of (N, D) pixels in [0, 1] to their nearest training image, RMS over the pixels: at most (N,) float32.

    `but`, (N,) int64: the training image that each of them is and that is left out; None = they are none. Without another
    training image they have no distance.
    """
    nearest = np.full(len(queries), np.inf, dtype=np.float32)
    for block in torch.arange(len(train)).split(BLOCK):
        references = _as_rows(train, block)
        if but is None:
            nearest = np.minimum(nearest, nearest_distances(queries, references)[0])
            continue
        for number, own in enumerate(but.tolist()):
            others = np.delete(references, own - int(block[0]), axis=0) if block[0] <= own <= block[-1] else references
            if len(others):
                nearest[number] = min(nearest[number], nearest_distances(queries[number : number + 1], others)[0][0])
    return nearest[np.isfinite(nearest)] / math.sqrt(queries.shape[1])


def _in_unit_range(table: ImageTable, rows: Tensor) -> Tensor:
    """Images of a table, (N, C, H, W) float32 in [0, 1]."""
    return torch.from_numpy(to_unit_range(table.images(rows).numpy(), table.value_range))


def _as_rows(table: ImageTable, rows: Tensor) -> np.ndarray[Any, Any]:
    """Images of a table as (N, C * H * W) float32 pixels in [0, 1]."""
    return _in_unit_range(table, rows).flatten(1).numpy()


def _moments(images: Tensor) -> GaussianStatistics:
    """Mean and covariance of the pixels of (N, C, H, W) images in [0, 1], which are reduced to at most 16 x 16."""
    height, width = (min(side, SMALL_SIZE) for side in images.shape[-2:])
    small = functional.adaptive_avg_pool2d(images, (height, width))
    moments = RunningStatistics(small[0].numel())
    moments.update(small.flatten(1).numpy())
    return moments.result()


def _spread_rows(table: ImageTable, most: int) -> Tensor:
    """Evenly spread positions of at most this many images of a table, which may be sorted: (N,) int64."""
    count = min(most, len(table))
    return torch.arange(count) * len(table) // count


def _label_gain(pipeline: ImagePipeline, images: ImageTable, *, is_held_out: bool) -> LabelGain | None:
    """How much smaller the loss is with the right labels than with wrong ones, noise and timesteps being the same."""
    if not isinstance(pipeline, CFGDDPMPipeline) or images.class_labels is None or (pipeline.num_classes or 0) < 2:
        return None
    if images.condition != "class":  # a set of labels of another image may be the same, or nearly
        return None
    if pipeline.is_distilled:  # its network does not predict the mean
        return None
    count, classes = min(LOSS_IMAGES, len(images)), pipeline.num_classes or 0
    shifts = 1 + torch.arange(len(images)) % (classes - 1)
    wrong = replace(images, class_labels=(images.class_labels + shifts) % classes)
    right_losses, wrong_losses = (simple_losses(pipeline, it, num_images=count, spread=True) for it in (images, wrong))
    gain = (wrong_losses - right_losses).double() / wrong_losses.double().mean()
    stderr = gain.std().item() / math.sqrt(count) if count > 1 else math.inf
    return LabelGain(mean=gain.mean().item(), stderr=stderr, num_images=count, is_held_out=is_held_out)
