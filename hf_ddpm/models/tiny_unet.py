"""TinyUNet: a small U-Net that receives timestep and class only at its input.

Needs torch and diffusers only: `CFGDDPMPipeline.save_pretrained` copies this file beside the weights.
"""

from __future__ import annotations

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.unets.unet_2d import UNet2DOutput
from diffusers.models.unets.unet_2d_blocks import DownBlock2D, UNetMidBlock2D, UpBlock2D
from torch import Tensor, nn


class TinyUNet(ModelMixin, ConfigMixin):
    """U-Net of residual blocks without attention; the embeddings are added after the first convolution and nowhere else.

    Args:
        sample_size: height and width of the images in pixels, one number for both or two.
        in_channels, out_channels: of the images; twice as many output channels for a learned variance.
        num_class_embeds: number of labels, including the null label (the last); None = unconditional.
        block_out_channels: channels of each level, highest resolution first; images are halved between levels.
        layers_per_block: residual blocks per level on the way down; one more on the way up.
        norm_num_groups, norm_eps: groups of the group norms, a divisor of every number of channels, and their epsilon.
        dropout: probability in the residual blocks.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        sample_size: int | tuple[int, int] | None = None,
        in_channels: int = 3,
        out_channels: int = 3,
        num_class_embeds: int | None = None,
        block_out_channels: tuple[int, ...] = (32, 64, 128),
        layers_per_block: int = 1,
        norm_num_groups: int = 8,
        norm_eps: float = 1e-5,
        dropout: float = 0.0,
    ):
        super().__init__()
        first, last = block_out_channels[0], block_out_channels[-1]
        self.conv_in = nn.Conv2d(in_channels, first, 3, padding=1)
        self.time_proj = Timesteps(first, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(first, 4 * first, out_dim=first)
        self.class_embedding = None if num_class_embeds is None else nn.Embedding(num_class_embeds, first)

        options = {
            "temb_channels": None, "dropout": dropout, "resnet_eps": norm_eps, "resnet_act_fn": "silu",
            "resnet_groups": norm_num_groups,
        }  # fmt: skip
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        before, levels = first, list(enumerate(block_out_channels))
        for level, width in levels:
            size = {"num_layers": layers_per_block, "add_downsample": level < len(levels) - 1}
            self.down_blocks.append(DownBlock2D(before, width, **size, **options))
            before = width
        self.mid_block = UNetMidBlock2D(last, add_attention=False, **options)
        widths = [first, *block_out_channels]  # channels of the last skip connection of each level
        for level, width in reversed(levels):
            size = {"num_layers": layers_per_block + 1, "add_upsample": level > 0}
            self.up_blocks.append(UpBlock2D(widths[level], before, width, **size, **options))
            before = width

        self.norm_out = nn.GroupNorm(norm_num_groups, first, eps=norm_eps)
        self.act_out = nn.SiLU()
        self.conv_out = nn.Conv2d(first, out_channels, 3, padding=1)

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

        hidden = self.conv_in(sample) + embedding[:, :, None, None]
        skips = (hidden,)
        for block in self.down_blocks:
            hidden, outputs = block(hidden)
            skips += outputs
        hidden = self.mid_block(hidden)
        for block in self.up_blocks:
            count = self.config.layers_per_block + 1
            hidden, skips = block(hidden, skips[-count:]), skips[:-count]
        output = self.conv_out(self.act_out(self.norm_out(hidden)))
        return UNet2DOutput(sample=output) if return_dict else (output,)
