"""ClassMapUNet: a U-Net that receives the class as an additional channel of its residual blocks, not with the timestep.

Needs torch and diffusers only: `CFGDDPMPipeline.save_pretrained` copies this file beside the weights.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from diffusers import ModelMixin, UNet2DModel
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn

__all__ = ["ClassMapUNet", "ModelMixin"]  # diffusers loads a class only from a module that exports ModelMixin

STAGES = ("down", "mid", "up")


class ClassMapUNet(UNet2DModel):
    """UNet2DModel in which each residual block of some stages makes its own map from the embedding of the label.

    The label reaches the output only through these maps; the timestep is embedded as usual.

    Args:
        class_map_stages: stages whose residual blocks get a map: any of `down`, `mid` and `up`.
        **unet_arguments: of UNet2DModel. `num_class_embeds` is required, and images must have `sample_size` pixels.
    """

    def __init__(self, class_map_stages: list[str] | tuple[str, ...] = ("down", "up"), **unet_arguments: Any):
        super().__init__(**unet_arguments)
        self.register_to_config(class_map_stages=list(class_map_stages))
        self._check_config()
        time_dim, class_dim = self.time_embedding.linear_2.out_features, self.class_embedding.embedding_dim
        size = self.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        down = [(height >> level, width >> level) for level in range(len(self.down_blocks))]
        sizes = {"down": down, "mid": down[-1:], "up": down[::-1]}
        blocks = {"down": self.down_blocks, "mid": [self.mid_block], "up": self.up_blocks}
        for stage in self.config.class_map_stages:
            for block, block_size in zip(blocks[stage], sizes[stage], strict=True):
                _add_maps(block, time_dim, class_dim, block_size)

    def forward(
        self, sample: Tensor, timestep: Tensor | float, class_labels: Tensor | None = None, return_dict: bool = True
    ) -> UNet2DOutput | tuple[Tensor]:
        """Predict `sample`, (B, out_channels, H, W) float of the `sample_size`, alone in a tuple with `return_dict=False`.

        From `sample`, (B, in_channels, H, W) float, `timestep`, (B,) or a scalar, int64 or float, and `class_labels`, (B,)
        int64 in [0, num_class_embeds), always required.
        """
        if class_labels is None:
            raise ValueError("class_labels is None: give one label for each image")
        timesteps = torch.as_tensor(timestep, device=sample.device).expand(len(sample))
        time_embedding = self.time_embedding(self.time_proj(timesteps).to(self.dtype))
        both = torch.cat([time_embedding, self.class_embedding(class_labels).to(time_embedding.dtype)], dim=1)
        given = {stage: both if stage in self.config.class_map_stages else time_embedding for stage in STAGES}

        hidden = self.conv_in(sample)
        skips = (hidden,)
        for block in self.down_blocks:
            hidden, outputs = block(hidden, given["down"])
            skips += outputs
        if self.mid_block is not None:
            hidden = self.mid_block(hidden, given["mid"])
        for block in self.up_blocks:
            count = len(block.resnets)
            hidden, skips = block(hidden, skips[-count:], given["up"]), skips[:-count]
        output = self.conv_out(self.conv_act(self.conv_norm_out(hidden)))
        return UNet2DOutput(sample=output) if return_dict else (output,)

    def _check_config(self) -> None:
        config, stages = self.config, self.config.class_map_stages
        known = len(stages) > 0 and len(set(stages)) == len(stages) and set(stages) <= set(STAGES)
        _require(known, "class_map_stages", stages, f"give one or more of {', '.join(STAGES)}")
        _require(config.num_class_embeds is not None, "num_class_embeds", None, "maps are made from class labels")
        _require(config.class_embed_type is None, "class_embed_type", config.class_embed_type, "leave it out")
        size = config.sample_size
        sides = size if isinstance(size, (list, tuple)) else [size] * 2
        is_size = len(sides) == 2 and all(type(side) is int for side in sides)
        _require(is_size, "sample_size", size, "give the height and width, one number or two")
        has_mid = self.mid_block is not None or "mid" not in stages
        _require(has_mid, "class_map_stages", stages, "the network has no middle block, leave mid out")
        _require(not config.center_input_sample, "center_input_sample", True, "leave it out")
        _require(config.time_embedding_type != "fourier", "time_embedding_type", "fourier", "give positional")
        skip = any(hasattr(block, "skip_conv") for block in (*self.down_blocks, *self.up_blocks))
        _require(not skip, "down_block_types", config.down_block_types, "blocks that skip images cannot have maps")

    @staticmethod
    def _get_init_keys(input_class: type) -> set[str]:
        # The library reads the arguments that a config may hold from the signature, which names only ours.
        return {*inspect.signature(UNet2DModel.__init__).parameters, "class_map_stages"}


class ClassMapBlock(nn.Module):
    """A residual block whose input has one channel more: the embedding of the label, through a dense layer, as an image.

    Args:
        block: a residual block with fresh weights, which is changed to take the channel.
        time_dim, class_dim: widths of the embeddings of timestep and label.
        size: height and width of the block's input.
    """

    def __init__(self, block: ResnetBlock2D, time_dim: int, class_dim: int, size: tuple[int, int]):
        super().__init__()
        channels, out_channels = block.in_channels, block.conv2.out_channels
        block.norm1 = NormBesideMap(block.norm1.num_groups, channels, block.norm1.eps)
        block.conv1 = nn.Conv2d(channels + 1, block.conv1.out_channels, 3, padding=1)
        block.conv_shortcut = nn.Conv2d(channels + 1, out_channels, 1)
        for resize in filter(None, (block.upsample, block.downsample)):
            resize.channels = channels + 1
        self.block, self.widths, self.size = block, (time_dim, class_dim), size
        self.to_map = nn.Linear(class_dim, size[0] * size[1])

    def forward(self, hidden: Tensor, temb: Tensor) -> Tensor:
        """Map (B, C, *size) to (B, C', H, W); `temb`: the two embeddings side by side, (B, time_dim + class_dim)."""
        time_embedding, class_embedding = temb.split(self.widths, dim=1)
        class_map = self.to_map(class_embedding).view(-1, 1, *self.size).to(hidden.dtype)
        return self.block(torch.cat([hidden, class_map], dim=1), time_embedding)


class NormBesideMap(nn.GroupNorm):
    """GroupNorm of all channels but the last, which passes unchanged: its mean is what tells the classes apart."""

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.cat([super().forward(hidden[:, :-1]), hidden[:, -1:]], dim=1)


def _add_maps(stage_block: nn.Module, time_dim: int, class_dim: int, size: tuple[int, int]) -> None:
    """Replace each residual block within one block of the U-Net."""
    found = [(parent, *child) for parent in stage_block.modules() for child in parent.named_children()]
    found = [(parent, name, child) for parent, name, child in found if type(child) is ResnetBlock2D]
    _require(len(found) > 0, "down_block_types", type(stage_block).__name__, "it has no residual block that could get a map")
    for parent, name, child in found:
        setattr(parent, name, ClassMapBlock(child, time_dim, class_dim, size))


def _require(ok: bool, name: str, value: Any, remedy: str) -> None:
    if not ok:
        raise ValueError(f"{name} is {value!r}: {remedy}")
