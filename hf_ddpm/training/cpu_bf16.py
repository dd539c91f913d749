"""Faster bf16 training of a U-Net on a CPU, without changing what it computes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import ModelMixin
from diffusers.models.attention_processor import Attention
from torch import Tensor

CHANNELS_LAST_FROM = 64
"""Fewest channels of the narrowest level with which channels_last is faster."""


class Float32Attention:
    """Attention processor that leaves autocast: on a CPU the backward pass of attention is several times slower in bf16."""

    def __init__(self, processor: Callable[..., Tensor]) -> None:
        self.processor = processor

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        with torch.autocast(hidden_states.device.type, enabled=False):
            return self.processor(attn, hidden_states.float(), encoder_hidden_states, attention_mask, temb)


def speed_up(network: ModelMixin, device: torch.device, mixed_precision: str) -> None:
    """Prepare a network in place for training on `device` in `mixed_precision` (fp32, bf16 or fp16).

    In bf16 on a CPU, attention runs in float32, and networks with wide convolutions keep their images in channels_last; it
    slows narrow ones down, because of their group norms. `train_scripts/benchmark.py` measures both.
    """
    if device.type != "cpu" or mixed_precision != "bf16":
        return
    use_float32_attention(network)
    if min(network.config.block_out_channels) >= CHANNELS_LAST_FROM:
        network.to(memory_format=torch.channels_last)


def use_float32_attention(network: ModelMixin) -> None:
    """Let every attention layer of the network leave autocast."""
    for module in network.modules():
        if isinstance(module, Attention):
            module.set_processor(Float32Attention(module.processor))
