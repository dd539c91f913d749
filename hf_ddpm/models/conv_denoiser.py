"""ConvDenoiser: strided convolutions down and transposed ones up again, the simple alternative to a U-Net.

Needs torch and diffusers only: `CFGDDPMPipeline.save_pretrained` copies this file beside the weights.
"""

from __future__ import annotations

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn


class ConvDenoiser(ModelMixin, ConfigMixin):
    """Convolutions and transposed convolutions in sequence: no skip connections, no residual blocks, no attention.

    Every layer receives timestep and class as a number that is added to each of its channels.

    Args:
        sample_size: height and width of the images in pixels, one number for both or two.
        in_channels, out_channels: of the images; twice as many output channels for a learned variance.
        num_class_embeds: number of labels, including the null label (the last); None = unconditional.
        block_out_channels: channels of each resolution, highest first; images are halved in between.
        norm_num_groups, norm_eps: groups of the group norms, a divisor of every number of channels, and their epsilon.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        sample_size: int | tuple[int, int] | None = None,
        in_channels: int = 3,
        out_channels: int = 3,
        num_class_embeds: int | None = None,
        block_out_channels: tuple[int, ...] = (64, 128, 256),
        norm_num_groups: int = 32,
        norm_eps: float = 1e-5,
    ):
        super().__init__()
        widths = list(block_out_channels)
        embedding_dim = 4 * widths[0]
        self.time_proj = Timesteps(widths[0], flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(widths[0], embedding_dim)
        self.class_embedding = None if num_class_embeds is None else nn.Embedding(num_class_embeds, embedding_dim)

        steps = list(zip(widths, widths[1:], strict=False))
        convolutions: list[nn.Conv2d | nn.ConvTranspose2d] = [nn.Conv2d(in_channels, widths[0], 3, padding=1)]
        convolutions += [nn.Conv2d(wide, narrow, 4, stride=2, padding=1) for wide, narrow in steps]
        convolutions += [nn.Conv2d(widths[-1], widths[-1], 3, padding=1)]
        convolutions += [nn.ConvTranspose2d(narrow, wide, 4, stride=2, padding=1) for wide, narrow in reversed(steps)]
        self.layers = nn.ModuleList(ConvLayer(conv, embedding_dim, norm_num_groups, norm_eps) for conv in convolutions)
        self.conv_out = nn.Conv2d(widths[0], out_channels, 3, padding=1)
        self.gradient_checkpointing = False

    def forward(
        self, sample: Tensor, timestep: Tensor | float, class_labels: Tensor | None = None, return_dict: bool = True
    ) -> UNet2DOutput | tuple[Tensor]:
        """Predict `sample`, (B, out_channels, H, W) float, alone in a tuple with `return_dict=False`.

        From `sample`, (B, in_channels, H, W) float, and `timestep`, (B,) or a scalar, int64 or float; `class_labels` are
        (B,) int64 in [0, num_class_embeds), None = the model is unconditional.
        """
        if (class_labels is None) != (self.class_embedding is None):
            raise ValueError(f"class_labels is {class_labels}: num_class_embeds is {self.config.num_class_embeds}")
        timesteps = torch.as_tensor(timestep, device=sample.device).expand(len(sample))
        embedding = self.time_embedding(self.time_proj(timesteps).to(self.dtype))
        if self.class_embedding is not None:
            embedding = embedding + self.class_embedding(class_labels)

        hidden = sample
        for layer in self.layers:
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                hidden = self._gradient_checkpointing_func(layer, hidden, embedding)
            else:
                hidden = layer(hidden, embedding)
        output = self.conv_out(hidden)
        return UNet2DOutput(sample=output) if return_dict else (output,)


class ConvLayer(nn.Module):
    """A convolution, which may change the size of the images, a group norm, the embedding, SiLU."""

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d, embedding_dim: int, num_groups: int, eps: float):
        super().__init__()
        self.conv = conv
        self.norm = nn.GroupNorm(num_groups, conv.out_channels, eps=eps)
        self.embedding = nn.Linear(embedding_dim, conv.out_channels)
        self.act = nn.SiLU()

    def forward(self, hidden: Tensor, embedding: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H', W'), given (B, embedding_dim)."""
        # After the norm, which would subtract a number that is added to a whole group.
        shift = self.embedding(self.act(embedding))[:, :, None, None]
        return self.act(self.norm(self.conv(hidden)) + shift)
