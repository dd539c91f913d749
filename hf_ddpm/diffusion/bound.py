"""The variational bound of images in bits per dimension, what lossless storage would take: `variational_bound`.

Notation: x_0 `clean_images`, x_t `noisy_images`, alpha-bar `alphas_cumprod`; timesteps go from 0 (the paper's 1) to T - 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_ddpm.config import PredictionType, VarianceType
from hf_ddpm.diffusion.likelihood import HALF_BIN, Posterior, model_log_variance, posterior_of, prior_term, vlb_terms
from hf_ddpm.diffusion.objective import add_noise, clean_images_of, stratified_timesteps


@dataclass(frozen=True)
class BitsPerDim:
    """The bound of B images; all in bits per dimension (the mean over channels and pixels), float64, on the CPU."""

    prior: Tensor
    """(B,): L_T, KL(q(x_T | x_0) || N(0, I))."""
    decoder: Tensor
    """(B,): L_0, -log p(x_0 | x_1) of the integer values."""
    timesteps: Tensor
    """(B, n) int64 in [1, T): where the terms between them were computed."""
    terms: Tensor
    """(B, n): L_1 to L_{T-1}, KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)) at these timesteps."""
    num_train_timesteps: int
    """T."""

    @property
    def variational(self) -> Tensor:
        """(B,): the sum of L_1 to L_{T-1}, estimated without bias where n < T - 1."""
        return (self.num_train_timesteps - 1) * self.terms.mean(dim=1)

    @property
    def total(self) -> Tensor:
        """(B,): the bound."""
        return self.prior + self.variational + self.decoder


@torch.no_grad()
def variational_bound(
    predict: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    clean_images: Tensor,
    class_labels: Tensor | None = None,
    *,
    alphas_cumprod: Tensor,
    prediction_type: PredictionType,
    variance_type: VarianceType,
    noise: Callable[[Tensor], Tensor],
    timesteps: Tensor | None = None,
    half_bin: float = HALF_BIN,
) -> BitsPerDim:
    """Compute the bound of Ho et al. 2020, eq. 5 with the decoder of eq. 13, by 1 + n calls of the network.

    Predictions of x_0 are not clipped: the bound is that of the model as it is.

    Args:
        predict: `model` of `hf_ddpm.diffusion.objective.diffusion_loss`.
        clean_images: (B, C, H, W) float32 or float64 in [-1, 1], multiples of 2 `half_bin` away from -1. The terms are
            computed in this type.
        class_labels: (B,) int64; None = unconditional.
        alphas_cumprod: (T,) float, of the whole schedule, of the type of the images.
        prediction_type, variance_type: what the model predicts, and the variance of the reverse process.
        noise: `(B,) int64 timesteps -> (B, C, H, W)`, the standard normal noise of each image at its timestep.
        timesteps: (B, n) int64 in [1, T), from `sample_bound_timesteps`, for an estimate; None = all, in order.
        half_bin: see `hf_ddpm.diffusion.likelihood.half_bin_of`; that of 8 bits by default.
    """
    posterior, channels = bound_posterior(alphas_cumprod, prediction_type), clean_images.shape[1]

    def terms_at(timesteps: Tensor) -> Tensor:
        levels = alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        noisy_images = add_noise(clean_images, noise(timesteps).to(clean_images), levels)
        model_output = predict(noisy_images, timesteps, class_labels).to(clean_images.dtype)
        outputs = 2 * channels if variance_type == "learned_range" else channels
        assert model_output.shape[1] == outputs, f"{model_output.shape[1]} channels with {variance_type}"
        prediction, variance_values = model_output[:, :channels], model_output[:, channels:]
        terms = vlb_terms(
            posterior,
            clean_images,
            noisy_images,
            timesteps,
            pred_original_sample=clean_images_of(prediction_type, prediction, noisy_images, levels),
            log_variance=model_log_variance(posterior, variance_type, timesteps, variance_values),
            half_bin=half_bin,
        )
        return terms.to("cpu", torch.float64)  # not every device knows float64

    count, total = len(clean_images), len(alphas_cumprod)
    timesteps = torch.arange(1, total).expand(count, -1) if timesteps is None else timesteps.cpu()
    assert timesteps.min() >= 1 and timesteps.max() < total
    columns = timesteps.to(clean_images.device).T
    return BitsPerDim(
        prior=prior_term(alphas_cumprod, clean_images),
        decoder=terms_at(torch.zeros_like(columns[0])),
        timesteps=timesteps,
        terms=torch.stack([terms_at(column) for column in columns], dim=1),
        num_train_timesteps=total,
    )


def bound_posterior(alphas_cumprod: Tensor, prediction_type: PredictionType) -> Posterior:
    """`posterior_of` a schedule; a `ValueError` if a model of this prediction type has no bound with it."""
    if prediction_type == "epsilon" and alphas_cumprod[-1] == 0:
        raise ValueError(
            "prediction_type is 'epsilon': the schedule ends with pure noise, from which x_0 cannot be computed, so "
            "the bound is not defined: train v_prediction"
        )
    return posterior_of(alphas_cumprod)


def sample_bound_timesteps(
    timesteps_per_image: int, num_train_timesteps: int, generators: Sequence[torch.Generator]
) -> Tensor:
    """Sample the timesteps of an estimate of the bound: (B, n) int64, stratified over [1, T) in each image.

    `timesteps_per_image` is n, in [1, T - 1] (T - 1 samples each of them once), and each image has its own generator.
    """
    # Each timestep of stratified_timesteps is uniform, so (T - 1) times the mean of their terms is unbiased.
    rows = [stratified_timesteps(timesteps_per_image, num_train_timesteps - 1, rng) for rng in generators]
    return torch.stack(rows) + 1
