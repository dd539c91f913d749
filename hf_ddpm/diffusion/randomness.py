"""Randomness as a function of a stream's name and numbers such as a seed and an image's position."""

from __future__ import annotations

import zlib

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


def derive_seed(stream: str, *numbers: int) -> int:
    """The seed of such a generator, in [0, 2**64)."""
    assert all(0 <= number < 2**32 for number in numbers)
    entropy = [zlib.crc32(stream.encode()), len(numbers), *numbers]  # one 32-bit word each, so no two calls are alike
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])
