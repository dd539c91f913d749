"""A perfect network for data whose mean of x_0 given x_t is known: `class Ours(KnownMean)` with its `mean`."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ConfigMixin, DDPMScheduler, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor


class KnownMean(ModelMixin, ConfigMixin):
    """That mean as the output of a network of any prediction type, with any label."""

    @register_to_config
    def __init__(
        self, trained: dict[str, Any], sample_size: int = 8, in_channels: int = 1, num_class_embeds: int | None = None
    ):
        """`trained` is the config of the scheduler that the network was trained with."""
        super().__init__()
        signals = DDPMScheduler.from_config(trained).alphas_cumprod.double().clamp(min=1e-12)
        self.register_buffer("log_sigmas", ((1 - signals) / signals).log() / 2)
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def mean(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The mean of x_0, (B, C, H, W) float64, given x = alpha x_0 + sigma noise."""
        raise NotImplementedError

    def forward(self, sample, timesteps, class_labels=None, return_dict=True):
        """Schedulers may ask for what lies between two timesteps."""
        low = timesteps.long().clamp(max=len(self.log_sigmas) - 2)
        log_sigma = torch.lerp(self.log_sigmas[low], self.log_sigmas[low + 1], timesteps.double() - low)
        sigma_over_alpha = log_sigma.exp().view(-1, 1, 1, 1)
        alpha = 1 / (1 + sigma_over_alpha**2).sqrt()
        sigma, x = sigma_over_alpha * alpha, sample.double()
        clean = self.mean(x, alpha, sigma)
        noise = (x - alpha * clean) / sigma
        outputs = {"sample": clean, "epsilon": noise, "v_prediction": alpha * noise - sigma * clean}
        output = outputs[self.config.trained["prediction_type"]].to(sample.dtype)
        return UNet2DOutput(sample=output) if return_dict else (output,)
