"""The terms of a DDPM's variational bound: posterior, Kullback-Leibler divergence, decoder, `vlb_terms` and `prior_term`.

Notation: x_0 `clean_images`, x_t `noisy_images`, alpha-bar `alphas_cumprod`; images are (B, C, H, W) in [-1, 1], of integer
values that are two times `half_bin` apart.
Everything is computed in the type of the arguments, at least in float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_ddpm.config import VarianceType
from hf_ddpm.image_shape import PixelType, ValueRange

HALF_BIN = 1 / 255  # 8-bit values on [-1, 1] lie 2 / 255 apart


@dataclass(frozen=True)
class Posterior:
    """q(x_{t-1} | x_t, x_0), a Gaussian with mean `clean_weight * x_0 + noisy_weight * x_t`; each field is (T,)."""

    clean_weight: Tensor
    """Weight of x_0 in the mean."""
    noisy_weight: Tensor
    """Weight of x_t in the mean."""
    log_variance: Tensor
    """log beta-tilde; at t = 0, where beta-tilde is 0, that of t = 1."""
    log_beta: Tensor
    """log beta, of the step from x_{t-1} to x_t."""


def posterior_of(alphas_cumprod: Tensor) -> Posterior:
    """Posterior of each timestep (Ho et al. 2020, eq. 6 and 7), computed in float64.

    Args:
        alphas_cumprod: (T,) float, T >= 2, falling; the last may be 0. The result has its type and device.

    Raises:
        ValueError: alphas_cumprod does not fall at some timestep, which then has no posterior.
    """
    exact = alphas_cumprod.to("cpu", torch.float64)  # not every device knows float64
    previous = torch.cat([exact.new_ones(1), exact[:-1]])
    still = (exact >= previous).nonzero().flatten()
    if len(still) > 0:
        raise ValueError(
            f"alphas_cumprod is {exact[still[0]].item():.4g} at timestep {still[0].item()} as before it, so the bound is "
            "not defined: set `num_train_timesteps` lower, or betas between 1e-6 and 0.02"
        )
    # 1 - alphas_cumprod / previous would lose digits: beta is about 1e-4 at first.
    betas = (previous - exact) / previous
    variance = betas * (1 - previous) / (1 - exact)
    variance[0] = variance[1]
    tables = (
        previous.sqrt() * betas / (1 - exact),
        (exact / previous).sqrt() * (1 - previous) / (1 - exact),
        variance.log(),
        betas.log(),
    )
    return Posterior(*(table.to(alphas_cumprod) for table in tables))


def posterior_mean(posterior: Posterior, clean_images: Tensor, noisy_images: Tensor, timesteps: Tensor) -> Tensor:
    """Mean of x_{t-1} given x_t and x_0, or a prediction of x_0 (Ho et al. 2020, eq. 7): (B, C, H, W)."""
    clean_weight, noisy_weight = _at(posterior.clean_weight, timesteps), _at(posterior.noisy_weight, timesteps)
    return clean_weight * clean_images + noisy_weight * noisy_images


def model_log_variance(
    posterior: Posterior, variance_type: VarianceType, timesteps: Tensor, variance_values: Tensor | None = None
) -> Tensor:
    """Log variance of the reverse process, broadcastable to the images.

    Args:
        posterior: of the schedule.
        variance_type: `fixed_small` is beta-tilde, `fixed_large` is beta, `learned_range` is between them. At t = 0, for the
            decoder, both fixed ones are beta-tilde of t = 1, as in the code of Ho et al. 2020.
        timesteps: (B,) int64.
        variance_values: (B, C, H, W), the second half of the channels of a model with `learned_range`: v, -1 for
            beta-tilde and 1 for beta.
    """
    log_variance, log_beta = _at(posterior.log_variance, timesteps), _at(posterior.log_beta, timesteps)
    if variance_type == "fixed_small":
        return log_variance
    if variance_type == "fixed_large":
        return torch.where(timesteps.view(-1, 1, 1, 1) == 0, log_variance, log_beta)
    assert variance_values is not None, "learned_range needs the variance values of the network"
    # Nichol & Dhariwal 2021, eq. 15, with (v + 1) / 2 for their v.
    fraction = (_at_least_float32(variance_values) + 1) / 2
    return fraction * log_beta + (1 - fraction) * log_variance


def vlb_terms(
    posterior: Posterior,
    clean_images: Tensor,
    noisy_images: Tensor,
    timesteps: Tensor,
    *,
    pred_original_sample: Tensor,
    log_variance: Tensor,
    half_bin: float = HALF_BIN,
) -> Tensor:
    """The term of the bound at each sample's timestep (Ho et al. 2020, eq. 5), (B,) in bits per dimension.

    It is KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)) for t > 0, and the decoder's -log p(x_0 | x_t) for t = 0, which the
    paper counts as 1. The bound is the sum over all T timesteps, that is T times the mean over uniform ones, and the prior's
    KL(q(x_T | x_0) || N(0, 1)), which no model changes.

    Args:
        posterior: of the schedule.
        clean_images: (B, C, H, W) in [-1, 1], multiples of 2 `half_bin` away from -1.
        noisy_images, timesteps: x_t, (B, C, H, W), and t, (B,) int64.
        pred_original_sample: (B, C, H, W), the model's x_0.
        log_variance: broadcastable to the images, from `model_log_variance`.
        half_bin: see `half_bin_of`.
    """
    true_mean = posterior_mean(posterior, clean_images, noisy_images, timesteps)
    mean = posterior_mean(posterior, _at_least_float32(pred_original_sample), noisy_images, timesteps)
    log_variance = log_variance.expand_as(mean)
    divergence = gaussian_kl(true_mean, _at(posterior.log_variance, timesteps), mean, log_variance)
    # Decoders are computed for their few rows only: they cost more, and are meant for means near x_0.
    first = (timesteps == 0).nonzero().flatten()
    decoder = discretized_gaussian_log_likelihood(clean_images[first], mean[first], log_variance[first], half_bin)
    nats = divergence.mean(dim=(1, 2, 3)).index_copy(0, first, -decoder.mean(dim=(1, 2, 3)))
    return nats / math.log(2)


def prior_term(alphas_cumprod: Tensor, clean_images: Tensor) -> Tensor:
    """The bound's KL(q(x_T | x_0) || N(0, 1)), which no model changes (Ho et al. 2020, eq. 5), given the whole schedule.

    It is small, about 1e-5 bits: in float32 it would lose most of its digits, so it is (B,) float64 on the CPU, in bits
    per dimension.
    """
    clean_images, last = clean_images.to("cpu", torch.float64), alphas_cumprod[-1].to("cpu", torch.float64)
    zero = torch.zeros((), dtype=torch.float64)
    divergence = gaussian_kl(last.sqrt() * clean_images, torch.log1p(-last), zero, zero)
    return divergence.mean(dim=(1, 2, 3)) / math.log(2)


def gaussian_kl(mean1: Tensor, log_variance1: Tensor, mean2: Tensor, log_variance2: Tensor) -> Tensor:
    """KL(N(mean1, exp(log_variance1)) || N(mean2, exp(log_variance2))) of each element, in nats; arguments broadcast."""
    mean1, log_variance1, mean2, log_variance2 = map(_at_least_float32, (mean1, log_variance1, mean2, log_variance2))
    log_ratio = log_variance1 - log_variance2
    return 0.5 * (log_ratio.exp() - 1 - log_ratio + (mean1 - mean2).square() * (-log_variance2).exp())


def half_bin_of(pixel_type: PixelType, value_range: ValueRange | None) -> float:
    """Half the distance of two values of images on [-1, 1]; a `ValueError` for floats, whose bound has no decoder."""
    if pixel_type == "float32":
        raise ValueError(
            "the images are float32: the variational bound is defined for integers, so learned_range, vlb and bits per "
            "dimension are not: leave them out, or give images of 8 or 16 bits"
        )
    low, high = value_range or (0, 255)
    return 1 / (high - low)


def discretized_gaussian_log_likelihood(
    images: Tensor, mean: Tensor, log_variance: Tensor, half_bin: float = HALF_BIN
) -> Tensor:
    """Log probability, in nats, of each integer value under a Gaussian, integrated over its bin (Ho et al. 2020, eq. 13).

    The bins are 2 `half_bin` wide on [-1, 1]; the first and the last are open to the outside. No probability is clamped:
    one far out in the tail, too small for float32, still has its logarithm and its gradient.

    Args:
        images: values in [-1, 1], multiples of 2 `half_bin` away from -1.
        mean, log_variance: broadcastable to the images.
        half_bin: see `half_bin_of`; that of 8 bits by default.
    """
    images, mean, log_variance = map(_at_least_float32, (images, mean, log_variance))
    precision = (-0.5 * log_variance).exp()
    low, high = (images - half_bin - mean) * precision, (images + half_bin - mean) * precision
    # log(cdf(high) - cdf(low)) on the left of the mean, where the cdf has digits; the right is its mirror image.
    mirrored = low + high > 0
    log_low, log_high = _log_cdf(torch.where(mirrored, -high, low)), _log_cdf(torch.where(mirrored, -low, high))
    difference = (log_low - log_high).clamp(max=-torch.finfo(images.dtype).eps)
    inside = log_high + torch.log(-torch.expm1(difference))
    # Half a bin from the ends, whatever the rounding of the images.
    open_end = _log_cdf(torch.where(images < 0, high, -low))
    return torch.where(images.abs() > 1 - half_bin, open_end, inside)


def _log_cdf(values: Tensor) -> Tensor:
    """log P(z < values), z standard normal. The gradient keeps its digits in the tail; that of torch's log_ndtr does not."""
    left, right = values.clamp(max=0), values.clamp(min=0)
    tail = torch.log(torch.special.erfcx(-left / math.sqrt(2)) / 2) - left.square() / 2
    return torch.where(values < 0, tail, torch.log1p(-torch.special.erfc(right / math.sqrt(2)) / 2))


def _at(table: Tensor, timesteps: Tensor) -> Tensor:
    return table[timesteps].view(-1, 1, 1, 1)


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
