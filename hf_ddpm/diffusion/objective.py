"""The training objective: noising, targets and their conversions, losses, weights and `diffusion_loss`.

Notation: x_0 `clean_images`, epsilon `noise`, x_t `noisy_images`, alpha-bar `alphas_cumprod`, v `velocity`; images are
(B, C, H, W) float32 in [-1, 1], `alphas_cumprod` here is the value at each sample's timestep, broadcastable to the images.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_ddpm.config import LossWeighting, PredictionType, TimestepSampling, VarianceType
from hf_ddpm.diffusion.likelihood import HALF_BIN, model_log_variance, posterior_of, vlb_terms

HYBRID_WEIGHT = 0.001  # lambda of Nichol & Dhariwal 2021, section 3.1, for a bound in bits per dimension


@dataclass(frozen=True)
class DiffusionLoss:
    """Loss of one batch."""

    loss: Tensor
    """() float32: weighted mean over the batch, the number that is differentiated."""
    sample_losses: Tensor
    """(B,) float32: unweighted loss of each sample's prediction, its mean over pixels."""
    vlb: Tensor | None
    """(B,) float32: T times each sample's term of the bound, in bits per dimension; None = not computed."""


def diffusion_loss(
    model: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    clean_images: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    class_labels: Tensor | None,
    *,
    alphas_cumprod: Tensor,
    prediction_type: PredictionType,
    loss: str = "l2",
    snr_gamma: float | None = None,
    variance_type: VarianceType = "fixed_small",
    loss_weighting: LossWeighting = "simple",
    half_bin: float = HALF_BIN,
) -> DiffusionLoss:
    """Noise a batch, let the model predict its target, and score the prediction (Ho et al. 2020, eq. 14 and its kin).

    With a learned variance the loss is L_simple + 0.001 L_vlb, where the bound trains the variance alone (Nichol & Dhariwal
    2021, eq. 16 and section 3.1). L_vlb is the sum over the timesteps, so T times the mean over uniform ones.

    Args:
        model: `(noisy_images, timesteps, class_labels) -> model_output`, in whatever precision it runs: C channels, and
            C more of variance with `learned_range`.
        clean_images: (B, C, H, W) float32 in [-1, 1].
        noise: (B, C, H, W) float32, standard normal.
        timesteps: (B,) int64 in [0, T).
        class_labels: (B,) int64, the null label where the class is dropped; None = unconditional.
        alphas_cumprod: (T,) float32, of the whole schedule.
        prediction_type: what the model predicts.
        loss: name in `LOSSES`.
        snr_gamma: gamma of min-SNR weights, which the bound does not get; None = weight 1.
        variance_type: variance of the reverse process.
        loss_weighting: `vlb` = the loss is the bound, of mean and variance; the others = as `snr_gamma` says.
        half_bin: of the bound, see `hf_ddpm.diffusion.likelihood.half_bin_of`; that of 8 bits by default.
    """
    channels, learned = clean_images.shape[1], variance_type == "learned_range"
    levels = alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    noisy_images = add_noise(clean_images, noise, levels)
    target = target_of(prediction_type, clean_images, noise, levels)
    model_output = model(noisy_images, timesteps, class_labels).float()
    outputs = 2 * channels if learned else channels
    assert model_output.shape[1] == outputs, f"{model_output.shape[1]} channels with {variance_type}"
    prediction, variance_values = model_output[:, :channels], model_output[:, channels:]
    sample_losses = LOSSES[loss](prediction, target, reduction="none").mean(dim=(1, 2, 3))
    weighted = sample_losses
    if snr_gamma is not None:
        weighted = sample_losses * min_snr_weights(prediction_type, levels.flatten(), snr_gamma)
    if loss_weighting != "vlb" and not learned:
        return DiffusionLoss(loss=weighted.mean(), sample_losses=sample_losses, vlb=None)

    posterior = posterior_of(alphas_cumprod)
    pred_images = clean_images_of(prediction_type, prediction, noisy_images, levels)
    pred_images = pred_images if loss_weighting == "vlb" else pred_images.detach()
    log_variance = model_log_variance(posterior, variance_type, timesteps, variance_values)
    vlb = len(alphas_cumprod) * vlb_terms(
        posterior,
        clean_images,
        noisy_images,
        timesteps,
        pred_original_sample=pred_images,
        log_variance=log_variance,
        half_bin=half_bin,
    )
    total = vlb.mean() if loss_weighting == "vlb" else weighted.mean() + HYBRID_WEIGHT * vlb.mean()
    return DiffusionLoss(loss=total, sample_losses=sample_losses, vlb=vlb)


LOSSES: dict[str, Callable[..., Tensor]] = {
    "l2": F.mse_loss,
    "l1": F.l1_loss,
    "smooth_l1": F.smooth_l1_loss,
    "huber": F.huber_loss,
}


def add_noise(clean_images: Tensor, noise: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """x_t, from q(x_t | x_0) (Ho et al. 2020, eq. 4)."""
    return alphas_cumprod.sqrt() * clean_images + (1 - alphas_cumprod).sqrt() * noise


def target_of(prediction_type: PredictionType, clean_images: Tensor, noise: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """What the model predicts: (B, C, H, W) float32."""
    if prediction_type == "epsilon":
        return noise
    if prediction_type == "sample":
        return clean_images
    return velocity_of(clean_images, noise, alphas_cumprod)


def velocity_of(clean_images: Tensor, noise: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """v (Salimans & Ho 2022, section 4)."""
    return alphas_cumprod.sqrt() * noise - (1 - alphas_cumprod).sqrt() * clean_images


def clean_images_of(
    prediction_type: PredictionType, prediction: Tensor, noisy_images: Tensor, alphas_cumprod: Tensor
) -> Tensor:
    """x_0 from what the model predicted, not clipped: (B, C, H, W)."""
    if prediction_type == "epsilon":
        return clean_images_from_noise(prediction, noisy_images, alphas_cumprod)
    if prediction_type == "sample":
        return prediction
    return clean_images_from_velocity(prediction, noisy_images, alphas_cumprod)


def clean_images_from_noise(noise: Tensor, noisy_images: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """x_0 from epsilon and x_t; undefined where alphas_cumprod is 0."""
    return (noisy_images - (1 - alphas_cumprod).sqrt() * noise) / alphas_cumprod.sqrt()


def noise_from_clean_images(clean_images: Tensor, noisy_images: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """epsilon from x_0 and x_t; undefined where alphas_cumprod is 1."""
    return (noisy_images - alphas_cumprod.sqrt() * clean_images) / (1 - alphas_cumprod).sqrt()


def clean_images_from_velocity(velocity: Tensor, noisy_images: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """x_0 from v and x_t (Salimans & Ho 2022, appendix D)."""
    return alphas_cumprod.sqrt() * noisy_images - (1 - alphas_cumprod).sqrt() * velocity


def noise_from_velocity(velocity: Tensor, noisy_images: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """epsilon from v and x_t (Salimans & Ho 2022, appendix D)."""
    return (1 - alphas_cumprod).sqrt() * noisy_images + alphas_cumprod.sqrt() * velocity


def min_snr_weights(prediction_type: PredictionType, alphas_cumprod: Tensor, snr_gamma: float) -> Tensor:
    """Weight of each sample's loss, (B,): min(snr, gamma) in the loss on x_0 (Hang et al. 2023, eq. 7).

    The same weight on x_0 is min(snr, gamma) / snr on epsilon and / (snr + 1) on v. Written without the quotient, these
    stay finite where snr is 0 or infinite.
    """
    # snr = alphas_cumprod / (1 - alphas_cumprod)
    noise_level = 1 - alphas_cumprod
    if prediction_type == "epsilon":
        return (snr_gamma * noise_level / alphas_cumprod).clamp(max=1)
    if prediction_type == "sample":
        return (alphas_cumprod / noise_level).clamp(max=snr_gamma)
    return torch.minimum(alphas_cumprod, snr_gamma * noise_level)


def stratified_timesteps(count: int, num_train_timesteps: int, generator: torch.Generator) -> Tensor:
    """Sample one timestep per image, each marginally uniform: (count,) int64 in [0, num_train_timesteps).

    [0, T) is cut into `count` equal strata; one timestep is sampled from each, and they are shuffled: the batch covers all
    noise levels, so its mean loss varies less (Kingma et al. 2021, appendix I.1, independently within each stratum).
    """
    uniform = torch.rand(count, generator=generator, dtype=torch.float64)
    return _at_fraction((torch.randperm(count, generator=generator) + uniform) / count, num_train_timesteps)


def timesteps_at(
    positions: range,
    total_batch_size: int,
    num_train_timesteps: int,
    method: TimestepSampling,
    uniform: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """The timesteps of some positions of a batch, each marginally uniform: (len(positions),) int64 in [0, T).

    `stratified` is as in `stratified_timesteps`, but without numbers for the other positions: a random affine permutation
    deals out the strata. `per_batch` is the other extreme, for comparison: all images have the same timestep.

    Args:
        positions: of the batch of `total_batch_size` images.
        num_train_timesteps: T.
        method: how the timesteps of one batch depend on each other.
        uniform: (len(positions),) float64, independent and uniform in [0, 1), one number of each position.
        generator: for what the positions have in common; in the same state for all parts of a batch.
    """
    fractions = fractions_at(positions, total_batch_size, method, uniform, generator)
    return _at_fraction(fractions, num_train_timesteps)


def fractions_at(
    positions: range, total_batch_size: int, method: TimestepSampling, uniform: Tensor, generator: torch.Generator
) -> Tensor:
    """What `timesteps_at` cuts into timesteps: (len(positions),) float64 in [0, 1), each marginally uniform."""
    if method == "stratified":
        # position -> factor * position + offset modulo N takes every value once if factor and N have no common divisor, and
        # the uniform offset makes each value equally likely at each position.
        offset, factor = (_integer_below(total_batch_size, generator) for _ in range(2))
        while math.gcd(factor, total_batch_size) != 1:
            factor = _integer_below(total_batch_size, generator)
        strata = (factor * torch.tensor(positions) + offset) % total_batch_size
        uniform = (strata + uniform) / total_batch_size
    elif method == "per_batch":
        uniform = torch.rand(1, generator=generator, dtype=torch.float64).expand(len(positions))
    return uniform


def _integer_below(end: int, generator: torch.Generator) -> int:
    return int(torch.randint(end, (), generator=generator))


def _at_fraction(fraction: Tensor, num_train_timesteps: int) -> Tensor:
    return (fraction * num_train_timesteps).long().clamp(max=num_train_timesteps - 1)


def network_labels(class_labels: Tensor, null_label: int | None) -> Tensor:
    """Labels of images as a network takes them: (B,) int64 stay as they are, and vectors, (B, K), get the entry of the null
    label, if there is one: (B, K + 1) float32, see `ConditionUNet`."""
    if class_labels.ndim == 1:
        return class_labels
    return F.pad(class_labels.float(), (0, 0 if null_label is None else 1))


def drop_labels(class_labels: Tensor, uniform: Tensor, class_dropout_prob: float, null_label: int) -> Tensor:
    """Replace each label by the null label with the given probability (Ho & Salimans 2022, algorithm 1).

    `class_labels` are those of `network_labels`, and `uniform`, (B,) float32, holds independent uniform numbers in [0, 1).
    """
    dropped = uniform < class_dropout_prob
    if class_labels.ndim == 1:
        return torch.where(dropped, null_label, class_labels)
    null = F.one_hot(torch.tensor(null_label), class_labels.shape[1]).to(class_labels.dtype)
    return torch.where(dropped[:, None], null, class_labels)
