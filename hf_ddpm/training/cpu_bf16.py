"""What makes a U-Net train faster on the hardware at hand without changing what it computes."""

from __future__ import annotations

import torch
from diffusers import ModelMixin
from diffusers.models.attention_processor import Attention

CHANNELS_LAST_FROM = 64  # channels of the narrowest level


class Float32Attention:
    """Attention processor that leaves autocast: on a CPU the backward pass of bf16 attention is several times slower."""

    def __init__(self, processor):
        self.processor = processor

    def __call__(
        self, attn: Attention, hidden_states: torch.Tensor, encoder_hidden_states=None, attention_mask=None, temb=None
    ):
        with torch.autocast(hidden_states.device.type, enabled=False):
            return self.processor(attn, hidden_states.float(), encoder_hidden_states, attention_mask, temb)


def speed_up(network: ModelMixin, device: torch.device, mixed_precision: str) -> None:
    """Prepare a network in place for training on `device` in `mixed_precision` (fp32, bf16 or fp16).

    In bf16 on a CPU, attention runs in float32, and networks with wide convolutions keep their images in channels_last;
    narrow ones are slower that way, as their group norms are. `train_scripts/benchmark.py` measures both.
    """
    if device.type != "cpu" or mixed_precision != "bf16":
        return
    use_float32_attention(network)
    if min(network.config.block_out_channels) >= CHANNELS_LAST_FROM:
        network.to(memory_format=torch.channels_last)


def use_float32_attention(network: ModelMixin) -> None:
    """Let every attention of the network leave autocast."""
    for module in network.modules():
        if isinstance(module, Attention):
            module.set_processor(Float32Attention(module.processor))
