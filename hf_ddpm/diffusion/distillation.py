"""Distillation of a diffusion model into one that samples in few steps: noise levels, steps, targets and losses.

Notation as in `hf_ddpm.diffusion.objective`. sigma is the noise of x_t beside an image of weight 1, the root of
(1 - alphas_cumprod) / alphas_cumprod. The timestep -1 is the image itself: alphas_cumprod is 1 and sigma 0 there.
"""

from __future__ import annotations

import torch
from torch import Tensor

LARGEST_SIGMA = 80.0
"""Noise beside which nothing of an image in [-1, 1] is seen (Karras et al. 2022, table 1). A cosine schedule ends with
20,000, a rescaled one with infinity."""
LOG_SIGMA_MEAN, LOG_SIGMA_STD = -1.1, 2.0
"""Of the noise levels that are trained (Geng et al. 2024, appendix G.2)."""
LAST_SHARE = 0.1
"""Share of a batch at the last timestep, where sampling starts: the one that a normal distribution of log sigma forgets."""
CLOSENESS = (4.0, 16.0, 64.0, 256.0)
"""q of `closer_timesteps` in equal parts of a training: r approaches sigma."""
MIN_SNR_WEIGHT = 1.0


def noise_levels(alphas_cumprod: Tensor) -> Tensor:
    """sigma at every timestep, at most `LARGEST_SIGMA`: (T,) float64; `alphas_cumprod` is (T,)."""
    signal = alphas_cumprod.double()
    return ((1 - signal) / signal).sqrt().clamp(max=LARGEST_SIGMA)


def timesteps_of_noise(fractions: Tensor, sigmas: Tensor) -> Tensor:
    """Timesteps at which a student learns: (B,) int64 in [0, T).

    sigma ~ exp(N(-1.1, 2^2)), clipped to the schedule (Geng et al. 2024, appendix G.2), except `LAST_SHARE` at T - 1.

    Args:
        fractions: (B,) float64, uniform in [0, 1).
        sigmas: (T,) float64, see `noise_levels`.
    """
    last = len(sigmas) - 1
    quantiles = (fractions / (1 - LAST_SHARE)).clamp(1e-9, 1 - 1e-9)
    normal = (2 * quantiles - 1).erfinv() * 2**0.5
    drawn = torch.searchsorted(sigmas, (LOG_SIGMA_MEAN + LOG_SIGMA_STD * normal).exp()).clamp(max=last)
    return torch.where(fractions < 1 - LAST_SHARE, drawn, last)


def closer_timesteps(timesteps: Tensor, sigmas: Tensor, closeness: float) -> Tensor:
    """The timesteps r of the consistency targets: (B,) int64 in [-1, t), with a sigma of at most that of the formula.

    Args:
        timesteps: t, (B,) int64.
        sigmas: (T,) float64, see `noise_levels`.
        closeness: q; 4 and less make most r the image itself.
    """
    sigma = sigmas[timesteps]
    # Geng et al. 2024, the schedule of sigmoid form with k = 8 and b = 1: r / t = 1 - n(t) / q^a, n(t) = 1 + k sigmoid(-b t)
    level = sigma * (1 - (1 + 8 * torch.sigmoid(-sigma)) / closeness)
    below = torch.searchsorted(sigmas, level, right=True) - 1
    return torch.minimum(below, timesteps - 1).clamp(min=-1)


def closeness_at(step: int, total_steps: int) -> float:
    """q after this number of optimizer steps."""
    return CLOSENESS[part_of(step, total_steps, len(CLOSENESS))]


def part_of(step: int, total_steps: int, parts: int) -> int:
    """Which of `parts` equal parts of a training has the step after `step` others: 0 to parts - 1."""
    return min(parts - 1, step * parts // total_steps)


def signal_at(alphas_cumprod: Tensor, timesteps: Tensor) -> Tensor:
    """alphas_cumprod at timesteps from -1 on: (B, 1, 1, 1) float32."""
    found = alphas_cumprod[timesteps.clamp(min=0)]
    return torch.where(timesteps < 0, torch.ones_like(found), found).view(-1, 1, 1, 1)


def ddim_step(noisy_images: Tensor, clean_images: Tensor, signal: Tensor, next_signal: Tensor) -> Tensor:
    """x at a lower noise level, by DDIM without noise (Song et al. 2021, eq. 12): (B, C, H, W) float32.

    Args:
        noisy_images: x_t, (B, C, H, W) float32.
        clean_images: the prediction of x_0, likewise.
        signal, next_signal: alphas_cumprod before and after, (B, 1, 1, 1) float32; `signal` is below 1.
    """
    noise = (noisy_images - signal.sqrt() * clean_images) / (1 - signal).sqrt()
    return next_signal.sqrt() * clean_images + (1 - next_signal).sqrt() * noise


def consistency_losses(prediction: Tensor, target: Tensor, distances: Tensor) -> Tensor:
    """Loss of each image, (B,) float32: the norm of the difference, by the distance of the two noise levels.

    Geng et al. 2024: a Pseudo-Huber metric with c = 0, which is the norm, and the weight 1 / (t - r).

    Args:
        prediction: f(x_t, t), (B, C, H, W) float32.
        target: f(x_r, r) without a gradient, likewise.
        distances: sigma - r, (B,) float32.
    """
    # The root has no derivative at 0, where two networks agree to the last bit.
    squares = (prediction - target).square().sum(dim=(1, 2, 3))
    return (squares + 1e-8).sqrt() / distances


def halved_steps(num_inference_steps: int) -> list[int]:
    """Numbers of steps of the students of progressive distillation: doubled from the last one until there are 16 or more."""
    stages = [num_inference_steps]
    while stages[0] < 16:
        stages.insert(0, 2 * stages[0])
    return stages


def even_timesteps(num_train_timesteps: int, num_inference_steps: int) -> Tensor:
    """Timesteps between even steps, from that of the image, -1, to T - 1: (n + 1,) int64, as DDIM's trailing spacing."""
    steps = torch.arange(num_inference_steps + 1, dtype=torch.float64)
    return (steps * num_train_timesteps / num_inference_steps).round().long() - 1


def progressive_target(noisy_images: Tensor, after_two: Tensor, signal: Tensor, last_signal: Tensor) -> Tensor:
    """The x_0 with which one DDIM step of the student arrives where two of its teacher did: (B, C, H, W) float32.

    Args:
        noisy_images: z_t, (B, C, H, W) float32.
        after_two: z_t'' after two steps of the teacher, likewise.
        signal, last_signal: alphas_cumprod at t and t'', (B, 1, 1, 1) float32.
    """
    # Salimans & Ho 2022, algorithm 2: (z_t'' - sigma_t'' / sigma_t z_t) / (alpha_t'' - sigma_t'' / sigma_t alpha_t)
    ratio = ((1 - last_signal) / (1 - signal)).sqrt()
    return (after_two - ratio * noisy_images) / (last_signal.sqrt() - ratio * signal.sqrt())


def progressive_losses(prediction: Tensor, target: Tensor, signal: Tensor) -> Tensor:
    """Loss of each image, (B,) float32: the squared difference of x_0, with the weight max(SNR, 1).

    Salimans & Ho 2022, eq. 9. `signal`, (B, 1, 1, 1) float32, is alphas_cumprod at t.
    """
    weights = (signal / (1 - signal)).clamp(min=MIN_SNR_WEIGHT).flatten()
    return weights * (prediction - target).square().mean(dim=(1, 2, 3))
