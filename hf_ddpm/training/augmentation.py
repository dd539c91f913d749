"""Change the images of a batch at random, as a function of (seed, step, position) alone: `augment(images, config.data)`."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_ddpm.data.batches import flip_horizontally, flip_vertically, shift_images
from hf_ddpm.data.options import TrainingDataConfig
from hf_ddpm.training.step_randomness import BLOCK, draw_in_blocks


def augment(images: Tensor, data: TrainingDataConfig, flip: Tensor, *, seed: int, step: int, positions: range) -> Tensor:
    """Flip and shift images, (B, C, H, W) of any type, as the options say.

    Args:
        flip: (B,) bool, which images `horizontal_flip` mirrors.
        seed, step, positions: of these images in the total batch, see `draw_in_blocks`.
    """
    random_crop = getattr(data, "random_crop", None)
    if random_crop is not None or data.vertical_flip:
        vertical_flip, shift = draw_in_blocks("augmentation", seed, step, positions, _draw)
        if random_crop is not None:
            images = shift_images(images, (shift * (2 * random_crop + 1)).long() - random_crop)
        if data.vertical_flip:
            images = flip_vertically(images, vertical_flip < 0.5)
    return flip_horizontally(images, flip) if data.horizontal_flip else images


def _draw(generator: torch.Generator) -> tuple[Tensor, ...]:
    """Uniform numbers in [0, 1), whatever the options are, so that none changes what another one does."""
    uniform = torch.rand(3, BLOCK, generator=generator, dtype=torch.float64)
    return uniform[0], uniform[1:].T
