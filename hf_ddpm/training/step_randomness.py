"""Everything random in a training step, as a function of (seed, step, position in the total batch) alone."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from hf_ddpm.diffusion.objective import TimestepSampling, sample_timesteps
from hf_ddpm.diffusion.randomness import derive_seed, seeded_generator


@dataclass(frozen=True)
class StepRandomness:
    """The random numbers of one optimizer step, for its total batch of N samples or a slice of it."""

    timesteps: Tensor
    """(N,) int64 in [0, T)."""
    noise: Tensor
    """(N, C, H, W) float32, standard normal."""
    label_drop: Tensor
    """(N,) float32, uniform in [0, 1): the label is dropped where it is below p_uncond."""
    flip: Tensor
    """(N,) bool, True with probability 0.5."""

    def slice(self, start: int, count: int) -> StepRandomness:
        """The part of one process and micro-step."""
        return StepRandomness(*(getattr(self, field.name)[start : start + count] for field in fields(self)))


def sample_step_randomness(
    seed: int,
    step: int,
    total_batch_size: int,
    image_shape: tuple[int, int, int],
    num_train_timesteps: int,
    timestep_sampling: TimestepSampling,
) -> StepRandomness:
    """Sample for the total batch, on the CPU: the same however the batch is split into processes and micro-steps.

    `total_batch_size` is N, `image_shape` (C, H, W), `num_train_timesteps` T; `step` counts the steps before this one.
    """
    generator = seeded_generator("step", seed, step)
    return StepRandomness(
        timesteps=sample_timesteps(total_batch_size, num_train_timesteps, timestep_sampling, generator),
        noise=torch.randn(total_batch_size, *image_shape, generator=generator),
        label_drop=torch.rand(total_batch_size, generator=generator),
        flip=torch.rand(total_batch_size, generator=generator) < 0.5,
    )


def reseed_dropout(seed: int, step: int, rank: int, micro_step: int) -> None:
    """Seed the global generators, which dropout uses."""
    torch.manual_seed(derive_seed("dropout", seed, step, rank, micro_step))
