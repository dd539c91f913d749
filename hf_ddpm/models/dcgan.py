"""The networks of a DCGAN for training: the discriminator, and both with fresh weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hf_ddpm.dcgan_pipeline import STAGES, DCGANGenerator


class DCGANDiscriminator(nn.Module):
    """The discriminator of Radford et al. 2016 (https://arxiv.org/abs/1511.06434), a mirror image of the generator.

    Args:
        sample_size, channels, num_classes: see `DCGANGenerator`.
        width: channels of the first hidden map; each map after it has twice as many.
        label_channels: channels of the label embedding, which is tiled over the pixels and joined to the image.
    """

    def __init__(self, *, sample_size: int, channels: int, width: int, num_classes: int | None, label_channels: int):
        super().__init__()
        stages = STAGES[sample_size]
        self.label_embedding = None if num_classes is None else nn.Embedding(num_classes, label_channels)
        before = channels + (0 if num_classes is None else label_channels)
        layers: list[nn.Module] = []
        for stage in range(stages):
            after = width * 2**stage
            layers.append(nn.Conv2d(before, after, 4, stride=2, padding=1, bias=False))
            layers += [nn.BatchNorm2d(after)] if stage > 0 else []
            layers.append(nn.LeakyReLU(0.2, inplace=True))
            before = after
        self.layers = nn.Sequential(*layers, nn.Conv2d(before, 1, sample_size >> stages, bias=False), nn.Flatten(0))

    def forward(self, images: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Logit of being real, (B,) float, of images, (B, C, H, W) float in [-1, 1], with labels as in the generator."""
        if self.label_embedding is not None:
            tiled = self.label_embedding(class_labels)[:, :, None, None].expand(-1, -1, *images.shape[2:])
            images = torch.cat([images, tiled], dim=1)
        return self.layers(images)


class DCGAN(nn.Module):
    """Generator and discriminator together; the arguments are those of the two."""

    def __init__(
        self,
        *,
        sample_size: int,
        channels: int,
        num_classes: int | None,
        latent_dim: int = 128,
        generator_width: int = 64,
        discriminator_width: int = 64,
        label_channels: int = 16,
        wide_early: bool = False,
    ):
        super().__init__()
        same: dict[str, Any] = {
            "sample_size": sample_size, "channels": channels, "num_classes": num_classes, "label_channels": label_channels
        }  # fmt: skip
        self.generator = DCGANGenerator(**same, latent_dim=latent_dim, width=generator_width, wide_early=wide_early)
        self.discriminator = DCGANDiscriminator(**same, width=discriminator_width)
        self.apply(_init_weights)


def _init_weights(module: nn.Module) -> None:
    """Initialize weights from torch's global generator as in the paper (sec. 4)."""
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
