"""The class with which a diffusion model denoises an image best: `decide(config, pipeline, images, positions)`.

All classes get the same noise and timesteps, which are a function of the seed, the position of the image in its table and
the number of the trial. Classes with large errors are given up on the way (Li et al. 2023, "Your diffusion model is secretly
a zero-shot classifier", algorithm 2).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hf_ddpm.config import PredictionType
from hf_ddpm.data.table import ImageTable
from hf_ddpm.diffusion.objective import diffusion_loss
from hf_ddpm.diffusion.randomness import seeded_generator
from hf_ddpm.evaluation.classifier_options import ClassifierConfig
from hf_ddpm.heldout_metrics import alphas_cumprod_of, network_function, read_images
from hf_ddpm.pipeline import CFGDDPMPipeline


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What the classifier says of an image."""

    position: int
    """Of the image in its table."""
    label: int
    """Class id of its label."""
    preferred: int
    """The class with the smallest error."""
    margin: float
    """Error of the label minus that of the preferred class, in the trials of both: mean square of epsilon per value."""
    margin_stderr: float | None
    """Its standard error over the trials; None = one trial, or the label is preferred."""
    network_calls: int
    """Noisy images that the network denoised for it."""


@torch.no_grad()
def decide(config: ClassifierConfig, pipeline: CFGDDPMPipeline, images: ImageTable, positions: Tensor) -> list[Decision]:
    """Decisions about the images at these positions of a table, (B,) int64."""
    clean_images, labels = read_images(pipeline, images, positions)
    assert labels is not None and pipeline.num_classes is not None, "the model is conditional"
    classes = pipeline.num_classes
    errors = np.full((len(positions), classes, config.trials[-1]), np.nan)
    candidates, done = np.ones((len(positions), classes), bool), 0
    for stage, trials in enumerate(config.trials):
        for trial in range(done, trials):
            timesteps, noise = draw(config.seed, positions.tolist(), trial, clean_images.shape[1:], pipeline)
            rows, ids = np.nonzero(candidates)
            errors[rows, ids, trial] = denoising_errors(
                pipeline, clean_images, noise, timesteps, torch.from_numpy(rows), torch.from_numpy(ids), config.batch_size
            )
        done = trials
        means = np.where(candidates, errors[:, :, :trials].mean(axis=2), np.inf)
        if trials != config.trials[-1]:
            best = np.argsort(means, axis=1, kind="stable")[:, : config.classes_after(stage, int(candidates[0].sum()))]
            candidates = np.zeros_like(candidates)
            np.put_along_axis(candidates, best, True, axis=1)
    return [
        _decision(int(position), int(label), errors[row], int(means[row].argmin()))
        for row, (position, label) in enumerate(zip(positions, labels, strict=True))
    ]


def draw(
    seed: int, positions: list[int], trial: int, image_shape: torch.Size, pipeline: CFGDDPMPipeline
) -> tuple[Tensor, Tensor]:
    """Timesteps (B,) int64 and noise (B, C, H, W) of a trial for the images at some positions, on the pipeline's device.

    The timesteps of an image are evenly spread after any number of trials: the van der Corput sequence from a random start.
    """
    total = len(pipeline.scheduler.alphas_cumprod)
    fraction = sum((trial >> bit & 1) / 2 ** (bit + 1) for bit in range(trial.bit_length()))
    starts = [torch.rand((), generator=seeded_generator("classifier timesteps", seed, at)).item() for at in positions]
    timesteps = torch.tensor([int((start + fraction) % 1 * total) for start in starts])
    noise = [torch.randn(image_shape, generator=seeded_generator("classifier noise", seed, at, trial)) for at in positions]
    return timesteps.to(pipeline.device), torch.stack(noise).to(pipeline.device)


def denoising_errors(
    pipeline: CFGDDPMPipeline,
    clean_images: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    rows: Tensor,
    ids: Tensor,
    batch_size: int,
) -> np.ndarray[Any, Any]:
    """The mean square error of epsilon, (P,) float64, of pairs of an image and a class id, `rows` and `ids` (P,) int64."""
    unet, alphas_cumprod = pipeline.unet.config, alphas_cumprod_of(pipeline)
    prediction_type = pipeline.scheduler.config.prediction_type
    pairs, errors = torch.stack([rows, ids]).to(pipeline.device), []
    for image, label in pairs.split(batch_size, dim=1):
        losses = diffusion_loss(
            network_function(pipeline),
            clean_images[image],
            noise[image],
            timesteps[image],
            label,
            alphas_cumprod=alphas_cumprod,
            prediction_type=prediction_type,
            variance_type="learned_range" if unet.out_channels == 2 * unet.in_channels else "fixed_small",
            loss="l2",
        ).sample_losses
        errors.append(losses.double() * epsilon_weights(prediction_type, alphas_cumprod[timesteps[image]].double()))
    return torch.cat(errors).cpu().numpy()


def epsilon_weights(prediction_type: PredictionType, alphas_cumprod: Tensor) -> Tensor:
    """The square of an error of epsilon in units of that of the prediction, given x_t; `alphas_cumprod` are (B,)."""
    weights: dict[PredictionType, Callable[[Tensor], Tensor]] = {
        "epsilon": torch.ones_like,
        # epsilon = (x_t - alpha x_0) / sigma
        "sample": lambda signal: signal / (1 - signal),
        # epsilon = alpha v + sigma x_t
        "v_prediction": lambda signal: signal,
    }
    return weights[prediction_type](alphas_cumprod)


def _decision(position: int, label: int, errors: np.ndarray[Any, Any], preferred: int) -> Decision:
    """Decide about an image, given its errors, (classes, trials) with NaN where a class had been given up."""
    differences = errors[label] - errors[preferred]
    differences = differences[~np.isnan(differences)]
    is_sure = label == preferred or len(differences) < 2
    return Decision(
        position=position,
        label=label,
        preferred=preferred,
        margin=float(differences.mean()),
        margin_stderr=None if is_sure else float(differences.std(ddof=1) / math.sqrt(len(differences))),
        network_calls=int((~np.isnan(errors)).sum()),
    )
