"""Everything random in a training step, as a function of (seed, step, position in the total batch) alone.

A process draws only the blocks of positions that it trains on, so that the work does not grow with the number of processes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hf_ddpm.diffusion.objective import TimestepSampling, fractions_at, timesteps_at
from hf_ddpm.diffusion.randomness import derive_seed, seeded_generator

RANDOMNESS_VERSION = 2
"""Recorded in checkpoints; versions without a record drew the total batch from one generator."""
BLOCK = 8
"""Positions with a generator of their own."""


@dataclass(frozen=True)
class StepRandomness:
    """The random numbers of the N images of one process and micro-step."""

    timesteps: Tensor
    """(N,) int64 in [0, T)."""
    noise: Tensor
    """(N, C, H, W) float32, standard normal."""
    label_drop: Tensor
    """(N,) float32, uniform in [0, 1): the label is dropped where it is below p_uncond."""
    flip: Tensor
    """(N,) bool, True with probability 0.5."""


def sample_step_randomness(
    seed: int,
    step: int,
    positions: range,
    *,
    total_batch_size: int,
    image_shape: tuple[int, int, int],
    num_train_timesteps: int,
    timestep_sampling: TimestepSampling,
) -> StepRandomness:
    """Sample for some positions of the total batch, on the CPU: the same whatever other positions are sampled.

    `image_shape` is (C, H, W), `num_train_timesteps` T; `step` counts the steps before this one.
    """

    def draw(generator: torch.Generator) -> tuple[Tensor, ...]:
        uniform = torch.rand(BLOCK, generator=generator, dtype=torch.float64)
        label_drop, flip = torch.rand(2, BLOCK, generator=generator)
        return uniform, label_drop, flip < 0.5, torch.randn(BLOCK, *image_shape, generator=generator)

    uniform, label_drop, flip, noise = draw_in_blocks("step", seed, step, positions, draw)
    common = seeded_generator("timesteps", seed, step)
    timesteps = timesteps_at(positions, total_batch_size, num_train_timesteps, timestep_sampling, uniform, common)
    return StepRandomness(timesteps=timesteps, noise=noise, label_drop=label_drop, flip=flip)


@dataclass(frozen=True)
class DistillRandomness:
    """The random numbers of the N images of one process and micro-step of a distillation."""

    fractions: Tensor
    """(N,) float64, uniform in [0, 1), one in each of as many equal strata as the total batch has images."""
    noise: Tensor
    """(N, C, H, W) float32, standard normal."""
    flip: Tensor
    """(N,) bool, True with probability 0.5."""


def sample_distill_randomness(
    seed: int, step: int, positions: range, *, total_batch_size: int, image_shape: tuple[int, int, int]
) -> DistillRandomness:
    """Sample for some positions of the total batch, on the CPU; see `sample_step_randomness`."""

    def draw(generator: torch.Generator) -> tuple[Tensor, ...]:
        uniform = torch.rand(BLOCK, generator=generator, dtype=torch.float64)
        flip = torch.rand(BLOCK, generator=generator) < 0.5
        return uniform, torch.randn(BLOCK, *image_shape, generator=generator), flip

    uniform, noise, flip = draw_in_blocks("distill", seed, step, positions, draw)
    common = seeded_generator("noise levels", seed, step)
    fractions = fractions_at(positions, total_batch_size, "stratified", uniform, common)
    return DistillRandomness(fractions=fractions, noise=noise, flip=flip)


def draw_in_blocks(
    stream: str, seed: int, step: int, positions: range, draw: Callable[[torch.Generator], tuple[Tensor, ...]]
) -> list[Tensor]:
    """Random tensors of some positions of one step's total batch, along their first dimension.

    `draw` returns those of `BLOCK` positions from the block's generator, which is independent of those of other streams.
    """
    blocks = range(positions.start // BLOCK, -(-positions.stop // BLOCK))
    first = positions.start - blocks.start * BLOCK
    drawn = [draw(seeded_generator(stream, seed, step, block)) for block in blocks]
    # Not torch.cat: beside the thread that trains it would start as many threads as that one has.
    joined = (torch.from_numpy(np.concatenate([part.numpy() for part in parts])) for parts in zip(*drawn, strict=True))
    return [tensor[first : first + len(positions)] for tensor in joined]


def reseed_dropout(seed: int, step: int, rank: int, micro_step: int) -> None:
    """Seed the global generators, which dropout uses."""
    torch.manual_seed(derive_seed("dropout", seed, step, rank, micro_step))
