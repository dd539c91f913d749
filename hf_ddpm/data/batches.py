"""The order of images in training, batches, and transformations of a batch."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hf_ddpm.image_shape import ValueRange


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageBatch:
    """What one process trains on in one micro-step."""

    images: torch.Tensor
    """(B, C, H, W) uint8 in [0, 255], or uint16 or float32 in the range of the values."""
    class_labels: torch.Tensor | None
    """(B,) int64 in [0, num_classes), or (B, K) of another condition, see `ImageTable`; None = no labels."""
    sample_ids: torch.Tensor
    """(B,) int64: rows of a table, or positions in the endless sequence that this process reads from a stream."""


def epoch_seed(seed: int, epoch: int) -> int:
    """The seed of one epoch, in [0, 2**64), derived from the seed of the run; a `ValueError` if that is negative."""
    if seed < 0:
        raise ValueError(f"seed is {seed}: give an integer of at least 0")
    # spawn_key, and not [seed, epoch]: a seed above 32 bits would spill into the place of the epoch.
    return int(np.random.SeedSequence(seed, spawn_key=(epoch,)).generate_state(1, np.uint64)[0])


def epoch_permutation(num_images: int, seed: int, epoch: int) -> torch.Tensor:
    """The order of N images in one epoch (counted from 0), a pure function of its arguments: (N,) int64."""
    return torch.randperm(num_images, generator=torch.Generator().manual_seed(epoch_seed(seed, epoch)))


class IndexStream:
    """The endless concatenation of the epoch permutations, the last two cached; a position is a number of images seen."""

    def __init__(self, num_images: int, seed: int) -> None:
        if num_images < 1:
            raise ValueError(f"num_images is {num_images}: an endless stream needs at least 1 image")
        self.num_images = num_images
        self._permutation = functools.lru_cache(maxsize=2)(functools.partial(epoch_permutation, num_images, seed))

    def indices(self, position: int, count: int) -> torch.Tensor:
        """(count,) int64 in [0, N): the stream from `position` to `position + count - 1`."""
        assert position >= 0 and count >= 0
        pieces = [torch.empty(0, dtype=torch.int64)]
        while count > 0:
            epoch, offset = divmod(position, self.num_images)
            piece = self._permutation(epoch)[offset : offset + count]
            pieces.append(piece)
            position, count = position + len(piece), count - len(piece)
        return torch.cat(pieces)


def to_model_range(images: torch.Tensor, value_range: ValueRange | None = None) -> torch.Tensor:
    """Scale pixels, (B, C, H, W) uint8, uint16 or float32, to the range of the model, float32 in [-1, 1].

    `value_range` are the values that become -1 and 1; None = 0 and 255, which uint8 always has.
    """
    assert (value_range is None) == (images.dtype == torch.uint8)
    low, high = value_range or (0, 255)
    scaled = images.numpy().astype(np.float32)  # NumPy, as it runs beside the threads of the network
    if low:
        scaled -= low
    scaled /= (high - low) / 2
    scaled -= 1
    return torch.from_numpy(scaled)


def to_unit_range(images: np.ndarray[Any, Any], value_range: ValueRange | None = None) -> np.ndarray[Any, Any]:
    """Scale pixels of any shape and type to float32 in [0, 1]; for `value_range` see `to_model_range`."""
    low, high = value_range or (0, 255)
    scaled = images.astype(np.float32)
    if low:
        scaled -= low
    return scaled / np.float32(high - low)


def flip_horizontally(images: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mirror images, (B, C, H, W) of any type, left to right where the mask, (B,) bool, is True."""
    flipped, chosen = images.numpy().copy(), mask.numpy()
    flipped[chosen] = flipped[chosen][..., ::-1]
    return torch.from_numpy(flipped)


def flip_vertically(images: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Turn images, (B, C, H, W) of any type, upside down where the mask, (B,) bool, is True."""
    flipped, chosen = images.numpy().copy(), mask.numpy()
    flipped[chosen] = flipped[chosen][..., ::-1, :]
    return torch.from_numpy(flipped)


def shift_images(images: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Move images, (B, C, H, W) of any type, by `shift`, (B, 2) int64, pixels down and to the right; edges are repeated."""
    count, channels, height, width = images.shape
    rows = (torch.arange(height) - shift[:, :1]).clamp(0, height - 1)  # (B, H)
    columns = (torch.arange(width) - shift[:, 1:]).clamp(0, width - 1)  # (B, W)
    image, channel = torch.arange(count)[:, None, None, None], torch.arange(channels)[:, None, None]
    places = (image, channel, rows[:, None, :, None], columns[:, None, None, :])
    return torch.from_numpy(images.numpy()[tuple(np.asarray(place) for place in places)])
