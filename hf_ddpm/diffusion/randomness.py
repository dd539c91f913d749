"""Randomness as a function of a stream's name and numbers such as a seed and an image's position."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import numpy as np
import torch


def seeded_generator(stream: str, *numbers: int) -> torch.Generator:
    """A CPU generator that is independent of those of any other stream or numbers (each in [0, 2**32))."""
    return torch.Generator().manual_seed(derive_seed(stream, *numbers))


def image_generator(seed: int) -> torch.Generator:
    """A CPU generator for the image with this seed, 0 or more.

    Torch uses only the low 32 bits of the seed of a CPU generator: larger seeds are hashed, so that 7 and 7 + 2**32 differ.
    """
    return torch.Generator().manual_seed(seed if seed < 2**32 else derive_seed("image", seed % 2**32, seed // 2**32))


def counter_noise(seed: int, shape: Sequence[int], draw: int = 0) -> torch.Tensor:
    """Standard normal float32 noise of this shape, which any language can compute: Philox4x64-10 and Box & Muller 1958.

    Args:
        seed: of an image, 0 or more: the key of the generator.
        shape: of the noise.
        draw: 0 = the first noise of an image, n = that of its step n: the highest word of the counter.
    """
    count = math.prod(shape)
    counter = np.array([0, 0, 0, draw], dtype=np.uint64)
    words = np.random.Philox(key=seed, counter=counter).random_raw(count + count % 2) >> np.uint64(11)
    radius = np.sqrt(-2 * np.log((words[0::2] + 1.0) * 2.0**-53))
    angle = 2 * np.pi * (words[1::2] * 2.0**-53)
    noise = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).ravel()[:count]
    return torch.from_numpy(noise.astype(np.float32)).reshape(*shape)


def derive_seed(stream: str, *numbers: int) -> int:
    """The seed of such a generator, in [0, 2**64)."""
    assert all(0 <= number < 2**32 for number in numbers)
    entropy = [zlib.crc32(stream.encode()), len(numbers), *numbers]  # one 32-bit word each, so no two calls are alike
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])
