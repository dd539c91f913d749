"""ConditionUNet: a U-Net that receives a set of labels, or one number, instead of a class.

Needs torch and diffusers only: `CFGDDPMPipeline.save_pretrained` copies this file beside the weights.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import ModelMixin, UNet2DModel
from diffusers.models.embeddings import TimestepEmbedding
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["ConditionUNet", "ModelMixin"]  # diffusers loads a class only from a module that exports ModelMixin

NUM_WAVES = 16


class ConditionUNet(UNet2DModel):
    """UNet2DModel whose `class_labels` are vectors, (B, num_class_embeds) float: one entry per label, or one for a number.

    An entry of a label is 1 where the image has it, else 0. The entry of a number has its value. With a null condition, the
    last entry is 1 where there is no condition, and the others are 0 there. Integers, (B,) int64, stand for vectors with a 1
    at this place and 0 elsewhere.

    Args:
        condition_range: lowest and highest number in training; None = the condition is a set of labels.
        **unet_arguments: of UNet2DModel. `num_class_embeds` is required.
    """

    def __init__(self, condition_range: Sequence[float] | None = None, **unet_arguments: Any):
        super().__init__(**unet_arguments)
        self.register_to_config(condition_range=None if condition_range is None else list(condition_range))
        entries, width = self.config.num_class_embeds, self.time_embedding.linear_2.out_features
        _require(entries is not None, "num_class_embeds", None, "give the length of the vectors")
        _require(self.config.class_embed_type is None, "class_embed_type", self.config.class_embed_type, "leave it out")
        self.class_embedding: nn.Module = LabelSetEmbedding(entries, width)
        if condition_range is None:
            return
        pair = list(condition_range)
        is_range = len(pair) == 2 and all(isinstance(end, (int, float)) for end in pair) and -math.inf < pair[0] < pair[1]
        _require(is_range and pair[1] < math.inf, "condition_range", pair, "give the lowest and the highest number")
        _require(entries in (1, 2), "num_class_embeds", entries, "a number is one entry, and 2 with a null condition")
        self.class_embedding = NumberEmbedding(entries, width, pair[0], pair[1])

    @staticmethod
    def _get_init_keys(input_class: type) -> set[str]:
        # The library reads the arguments that a config may hold from the signature, which names only ours.
        return {*inspect.signature(UNet2DModel.__init__).parameters, "condition_range"}


class LabelSetEmbedding(nn.Embedding):
    """The sum of the rows of all labels in a set; the empty set is 0, and the null condition has a row of its own."""

    def forward(self, labels: Tensor) -> Tensor:
        """Map (B, K) float in {0, 1}, or the only label of each, (B,) int64, to (B, width)."""
        return super().forward(labels) if labels.ndim == 1 else labels.to(self.weight.dtype) @ self.weight


class NumberEmbedding(nn.Module):
    """An MLP of half waves over the range of a number.

    They vary slowly enough that numbers between those of the training images get something between, unlike the waves of
    timesteps, which tell neighbours of a thousand apart.

    Args:
        entries: 2 with a null condition, else 1.
        width: of the embedding.
        low, high: the range.
    """

    def __init__(self, entries: int, width: int, low: float, high: float):
        super().__init__()
        self.entries, self.low, self.high = entries, low, high
        self.mlp = TimestepEmbedding(NUM_WAVES + entries - 1, width)

    def forward(self, labels: Tensor) -> Tensor:
        """Map (B, entries) float, see `ConditionUNet`, to (B, width)."""
        if labels.ndim == 1:
            labels = functional.one_hot(labels, self.entries)
        numbers, null = labels[:, :1].float(), labels[:, 1:].float()
        phase = math.pi * (numbers - self.low) / (self.high - self.low)
        waves = torch.cos(phase * torch.arange(1, NUM_WAVES + 1, device=labels.device))
        present = 1 - null if self.entries == 2 else 1
        return self.mlp(torch.cat([waves * present, null], dim=1).to(self.mlp.linear_1.weight.dtype))


def _require(ok: bool, name: str, value: Any, remedy: str) -> None:
    if not ok:
        raise ValueError(f"{name} is {value!r}: {remedy}")
