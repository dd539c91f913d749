"""Denoising loss and bits per dimension on held-out images: `simple_loss` and `bits_per_dim`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, get_args

import torch
from accelerate import PartialState
from torch import Tensor

from hf_ddpm.config import VarianceType
from hf_ddpm.data.batches import to_model_range
from hf_ddpm.data.labels import first_ten
from hf_ddpm.data.table import ImageTable
from hf_ddpm.diffusion import bound
from hf_ddpm.diffusion.likelihood import half_bin_of
from hf_ddpm.diffusion.objective import diffusion_loss, network_labels, stratified_timesteps
from hf_ddpm.diffusion.randomness import seeded_generator
from hf_ddpm.image_shape import plain_size, size_pair, size_text
from hf_ddpm.pipeline import CFGDDPMPipeline, check_number, require
from hf_ddpm.runtime.distributed import gather, shard

BATCH_SIZE = 128


@dataclass(frozen=True)
class Estimate:
    """A mean over images."""

    mean: float
    stderr: float
    """Standard error of the mean; NaN for a single image."""


@dataclass(frozen=True)
class HeldOutBits:
    """The variational bound in bits per dimension: total = prior + variational + decoder."""

    total: Estimate
    prior: Estimate
    """KL(q(x_T | x_0) || N(0, I))."""
    variational: Estimate
    """Sum of the terms of the timesteps from 1 to T - 1."""
    decoder: Estimate
    """Term of timestep 0."""
    curve: Tensor
    """(T,) float64: mean term of each timestep, the decoder first; NaN where no image has this timestep."""


def simple_loss(
    pipeline: CFGDDPMPipeline,
    images: ImageTable,
    *,
    num_images: int = 512,
    seed: int = 0,
    loss: str = "l2",
    spread: bool = False,
) -> Estimate:
    """Unweighted loss on held-out images, with the same noise and (stratified) timesteps every time.

    Noise and timesteps depend on the seed and the number of images. The pipeline has the averaged weights; a conditional
    one gets the labels. `loss` is a name in `hf_ddpm.diffusion.objective.LOSSES`. With `spread`, the images are evenly
    spread over the table, which may be sorted, instead of the first ones. A `ValueError` if they are too few or do not
    match the model.
    """
    return _estimate(simple_losses(pipeline, images, num_images=num_images, seed=seed, loss=loss, spread=spread))


@torch.no_grad()
def simple_losses(
    pipeline: CFGDDPMPipeline,
    images: ImageTable,
    *,
    num_images: int = 512,
    seed: int = 0,
    loss: str = "l2",
    spread: bool = False,
) -> Tensor:
    """The loss of each image, (num_images,) float32 on the pipeline's device, of which `simple_loss` is the mean."""
    check_images(pipeline, images, num_images, seed)
    unet, alphas_cumprod = pipeline.unet.config, alphas_cumprod_of(pipeline)
    # The same draws in all versions: the loss that a run logs is then comparable throughout.
    generator = seeded_generator("step", seed, 0)
    timesteps = stratified_timesteps(num_images, len(alphas_cumprod), generator)
    noise = torch.randn(num_images, *images.image_shape, generator=generator)
    losses = []
    for rows in torch.arange(num_images).split(BATCH_SIZE):
        where = rows * len(images) // num_images if spread else rows
        clean_images, class_labels = read_images(pipeline, images, where)
        part = diffusion_loss(
            network_function(pipeline),
            clean_images,
            noise[rows].to(pipeline.device),
            timesteps[rows].to(pipeline.device),
            class_labels,
            alphas_cumprod=alphas_cumprod,
            prediction_type=pipeline.scheduler.config.prediction_type,
            variance_type="learned_range" if unet.out_channels == 2 * unet.in_channels else "fixed_small",
            loss=loss,
        )
        losses.append(part.sample_losses)
    return torch.cat(losses)


def bits_per_dim(
    pipeline: CFGDDPMPipeline,
    images: ImageTable,
    *,
    num_images: int = 512,
    timesteps_per_image: int | None = None,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    processes: PartialState | None = None,
) -> HeldOutBits:
    """The variational bound of images evenly spread over a table (Ho et al. 2020, eq. 5 and 13), without clipping.

    Noise and sampled timesteps are a function of the seed and the image's position in the table, so the result does not
    depend on the batch size or the number of processes, except for rounding in the network.

    Args:
        pipeline, images: see `simple_loss`; the scheduler is that of the training, and must have a bound.
        num_images: n; the images are those at floor(i N / n).
        timesteps_per_image: network calls per image besides that of timestep 0, for an unbiased estimate whose standard
            error includes them; None = all T - 1.
        seed: of noise and timesteps.
        batch_size: images at a time.
        processes: the group that shares the images and must call this together; None = this process alone.
    """
    check_images(pipeline, images, num_images, seed)
    # Before the work is shared: if one process failed alone, the others would wait for it.
    _variance_type(pipeline)
    half_bin_of(images.pixel_type, images.value_range)
    alphas_cumprod = alphas_cumprod_of(pipeline)
    bound.bound_posterior(alphas_cumprod, pipeline.scheduler.config.prediction_type)
    total = len(alphas_cumprod)
    check_number("batch_size", batch_size, 1, integer=True)
    if timesteps_per_image is not None:
        check_number("timesteps_per_image", timesteps_per_image, 1, total - 1, integer=True)
    positions = torch.arange(num_images) * len(images) // num_images
    mine = positions if processes is None else positions[shard(num_images, processes)]
    parts = [_bits_of(pipeline, images, rows, timesteps_per_image, seed) for rows in mine.split(batch_size) if len(rows) > 0]
    parts = parts if processes is None else gather(parts, processes)

    fields = ("total", "prior", "variational", "decoder")
    values = {name: _estimate(torch.cat([getattr(part, name) for part in parts])) for name in fields}
    timesteps, terms = (torch.cat([getattr(part, name).flatten() for part in parts]) for name in ("timesteps", "terms"))
    sums = torch.zeros(total, dtype=torch.float64).index_add(0, timesteps, terms)
    curve = sums / timesteps.bincount(minlength=total)
    curve[0] = values["decoder"].mean
    return HeldOutBits(**values, curve=curve)


def _bits_of(
    pipeline: CFGDDPMPipeline, images: ImageTable, rows: Tensor, timesteps_per_image: int | None, seed: int
) -> bound.BitsPerDim:
    """The bound of the images at `rows`, (B,) int64."""
    clean_images, class_labels = read_images(pipeline, images, rows)
    alphas_cumprod, positions, timesteps = alphas_cumprod_of(pipeline), rows.tolist(), None

    def noise(timesteps: Tensor) -> Tensor:
        places = zip(positions, timesteps.tolist(), strict=True)
        draws = [torch.randn(clean_images.shape[1:], generator=seeded_generator("bits", seed, *place)) for place in places]
        return torch.stack(draws)

    if timesteps_per_image is not None:
        generators = [seeded_generator("bits timesteps", seed, position) for position in positions]
        timesteps = bound.sample_bound_timesteps(timesteps_per_image, len(alphas_cumprod), generators)
    return bound.variational_bound(
        network_function(pipeline),
        clean_images,
        class_labels,
        alphas_cumprod=alphas_cumprod,
        prediction_type=pipeline.scheduler.config.prediction_type,
        variance_type=_variance_type(pipeline),
        noise=noise,
        timesteps=timesteps,
        half_bin=half_bin_of(images.pixel_type, images.value_range),
    )


def network_function(pipeline: CFGDDPMPipeline) -> Any:
    """The U-Net as a function for the objective, which converts its input to the precision of the U-Net."""
    unet = pipeline.unet
    return lambda noisy, timesteps, labels: unet(noisy.to(unet.dtype), timesteps, class_labels=labels).sample


def read_images(pipeline: CFGDDPMPipeline, images: ImageTable, rows: Tensor) -> tuple[Tensor, Tensor | None]:
    """Clean images at `rows`, (B, C, H, W) float32 in [-1, 1], and labels for a conditional model, on its device."""
    clean_images = to_model_range(images.images(rows), images.value_range).to(pipeline.device)
    if not pipeline.is_conditional:
        return clean_images, None
    assert images.class_labels is not None, "refused by check_images"
    return clean_images, network_labels(images.class_labels[rows], pipeline.null_label).to(pipeline.device)


def alphas_cumprod_of(pipeline: CFGDDPMPipeline) -> Tensor:
    """(T,) float32 on the pipeline's device."""
    return pipeline.scheduler.alphas_cumprod.to(pipeline.device, torch.float32)


def _variance_type(pipeline: CFGDDPMPipeline) -> VarianceType:
    """Variance of the reverse process; schedulers of other names keep it in their config."""
    unet, variance_type, known = pipeline.unet.config, pipeline.scheduler.config.get("variance_type"), get_args(VarianceType)
    require(variance_type in known, "variance_type", variance_type, f"the bound is defined for {', '.join(known)}")
    outputs = 2 * unet.in_channels if variance_type == "learned_range" else unet.in_channels
    message = f"it needs {outputs} output channels, the model has {unet.out_channels}: give the scheduler of its training"
    require(unet.out_channels == outputs, "variance_type", variance_type, message)
    return variance_type


def check_images(pipeline: CFGDDPMPipeline, images: ImageTable, num_images: int, seed: int) -> None:
    """Refuse images that do not match the model or are too few, and a scheduler without betas."""
    unet, size, channels = pipeline.unet.config, images.image_size, images.channels
    expected = size_pair(unet.sample_size)
    remedy = f"the model takes {size_text(expected)} pixels, give that"
    require(expected == size, "images.image_size", plain_size(size), remedy)
    require(unet.in_channels == channels, "images.channels", channels, f"the model takes {unet.in_channels}, give that")
    for name, given in (("pixel_type", images.pixel_type), ("value_range", images.value_range or (0, 255))):
        own = getattr(pipeline, name)
        require(given == own, f"images.{name}", given, f"the model has {own}, give that")
    if pipeline.is_conditional:
        fits = images.class_names is None or images.condition == pipeline.condition
        require(fits, "images.condition", images.condition, f"the model takes {pipeline.condition!r}, give that")
        _check_classes(pipeline, images.class_names)
    check_number("num_images", num_images, 1, integer=True)
    require(num_images <= len(images), "num_images", num_images, f"there are only {len(images)}, give at most that")
    check_number("seed", seed, 0, 2**32 - 1, integer=True)
    follows = isinstance(getattr(pipeline.scheduler, "alphas_cumprod", None), Tensor)
    require(follows, "scheduler", type(pipeline.scheduler).__name__, "it has no betas, give the one of training")


def _check_classes(pipeline: CFGDDPMPipeline, class_names: list[str] | None) -> None:
    if class_names is None:
        raise ValueError("images have no labels: the model was trained with classes, give images with labels")
    names = pipeline.id2label
    if names is None and len(class_names) != pipeline.num_classes:
        raise ValueError(
            f"images have {len(class_names)} classes: the model was trained on {pipeline.num_classes}, give those"
        )
    if names is not None and names != dict(enumerate(class_names)):
        trained = f"the model was trained on {first_ten(list(names.values()))}, give their images in this order"
        raise ValueError(f"images have the classes {first_ten(class_names)}: {trained}")


def _estimate(values: Tensor) -> Estimate:
    """Estimate from (n,) values: the mean in their type, the standard error in float64."""
    spread = values.to("cpu", torch.float64).std().item() if len(values) > 1 else math.nan
    return Estimate(mean=values.mean().item(), stderr=spread / math.sqrt(len(values)))
