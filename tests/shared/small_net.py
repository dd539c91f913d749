"""A network of a few hundred weights that is not part of this package, and losses for it."""

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import nn


class SmallNet(ModelMixin, ConfigMixin):
    """Two convolutions; with dropout, a buffer that is saved and one that is not."""

    @register_to_config
    def __init__(
        self,
        sample_size: int | tuple[int, int] = 8,
        in_channels: int = 1,
        out_channels: int = 1,
        num_class_embeds: int | None = 11,
        width: int = 4,
    ):
        super().__init__()
        self.label = None if num_class_embeds is None else nn.Embedding(num_class_embeds, width)
        self.first = nn.Conv2d(in_channels, width, 3, padding=1)
        self.last = nn.Conv2d(width, out_channels, 3, padding=1)
        self.dropout = nn.Dropout(0.1)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("frequencies", torch.arange(width) / 100, persistent=False)

    def forward(self, sample, timestep, class_labels=None, return_dict=True):
        times = torch.as_tensor(timestep, device=sample.device).expand(len(sample))
        condition = (times[:, None] * self.frequencies).cos()
        if self.label is not None:
            condition = condition + self.label(class_labels)
        if self.training:
            self.calls += 1
        output = self.last(self.dropout(self.first(sample) + condition[:, :, None, None]))
        return UNet2DOutput(sample=output) if return_dict else (output,)


def plain_loss(inputs):
    """The default loss."""
    output = inputs.model(inputs.noisy_images, inputs.timesteps, inputs.class_labels)
    return (output - inputs.target).square().mean(dim=(1, 2, 3))


def weighted_loss(inputs):
    """Random weights, and a second call of the network."""
    again = inputs.model(inputs.noisy_images / 2, inputs.timesteps, inputs.class_labels).mean(dim=(1, 2, 3))
    return plain_loss(inputs) * torch.rand(len(again), device=again.device) + 0.01 * again.square()
