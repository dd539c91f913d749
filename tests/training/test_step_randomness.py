"""All chance in a step is a function of (seed, step, position), however the batch is split."""

import math
from dataclasses import fields
from typing import get_args, get_type_hints

import pytest
import torch

from hf_ddpm.config import ObjectiveConfig
from hf_ddpm.diffusion.objective import TimestepSampling
from hf_ddpm.diffusion.randomness import seeded_generator
from hf_ddpm.training import step_randomness
from hf_ddpm.training.step_randomness import BLOCK, StepRandomness, reseed_dropout, sample_step_randomness

SHAPE = (1, 4, 4)
METHODS = get_args(TimestepSampling)
NAMES = [field.name for field in fields(StepRandomness)]


def sample(
    seed: int = 0,
    step: int = 0,
    total: int = 48,
    method: str = "stratified",
    positions: range | None = None,
    num_train_timesteps: int = 1000,
) -> StepRandomness:
    return sample_step_randomness(
        seed,
        step,
        range(total) if positions is None else positions,
        total_batch_size=total,
        image_shape=SHAPE,
        num_train_timesteps=num_train_timesteps,
        timestep_sampling=method,
    )


def equal(first: StepRandomness, second: StepRandomness) -> bool:
    return all(torch.equal(getattr(first, name), getattr(second, name)) for name in NAMES)


@pytest.mark.parametrize("method", METHODS)
def test_it_is_a_pure_function_of_the_arguments(method):
    first = sample(3, 5, method=method)
    torch.manual_seed(1)
    sample(4, 6, method=method)
    before = torch.get_rng_state()
    assert equal(first, sample(3, 5, method=method))
    assert torch.equal(before, torch.get_rng_state())


def test_the_options_know_every_way_to_sample_timesteps():
    assert get_type_hints(ObjectiveConfig)["timestep_sampling"] == TimestepSampling


def test_it_has_the_documented_shapes_dtypes_and_ranges():
    sampled = sample(total=4000)
    assert (sampled.timesteps.dtype, sampled.noise.dtype) == (torch.int64, torch.float32)
    assert (sampled.label_drop.dtype, sampled.flip.dtype) == (torch.float32, torch.bool)
    assert sampled.noise.shape == (4000, *SHAPE) and {len(getattr(sampled, name)) for name in NAMES} == {4000}
    assert sampled.timesteps.min() >= 0 and sampled.timesteps.max() < 1000
    assert sampled.label_drop.min() >= 0 and sampled.label_drop.max() < 1
    assert abs(sampled.noise.mean()) < 0.02 and abs(sampled.noise.std() - 1) < 0.02
    assert abs(sampled.flip.double().mean() - 0.5) < 0.05


@pytest.mark.parametrize("other", [(0, 1), (1, 0), (1, 1), (2**32 - 1, 0)])
def test_seeds_and_steps_have_random_numbers_of_their_own(other):
    first, second = sample(0, 0), sample(*other)
    assert not any(torch.equal(getattr(first, name), getattr(second, name)) for name in NAMES)


def test_samples_of_a_batch_differ():
    noise = sample().noise.flatten(1)
    assert len(noise.unique(dim=0)) == 48


def test_one_timestep_a_batch_changes_nothing_else():
    one, each = sample(method="per_batch"), sample(method="uniform")
    assert len(one.timesteps.unique()) == 1 and len(each.timesteps.unique()) > 1
    assert all(torch.equal(getattr(one, name), getattr(each, name)) for name in NAMES if name != "timesteps")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [1, 3, BLOCK, BLOCK + 4, 16, 24, 48])
def test_parts_are_those_of_the_total_batch(count, method):
    """However the batch is split, and also where a part begins or ends within a block."""
    whole = sample(method=method)
    parts = [sample(method=method, positions=range(start, start + count)) for start in range(0, 48, count)]
    for name in NAMES:
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))


@pytest.mark.parametrize("total", [16, 16 * 512])
def test_a_process_draws_its_own_part_only(total, monkeypatch):
    drawn = []

    def counting(stream, *numbers):
        drawn.append((stream, *numbers))
        return seeded_generator(stream, *numbers)

    monkeypatch.setattr(step_randomness, "seeded_generator", counting)
    sampled = sample(total=total, positions=range(total - 16, total))
    assert len(sampled.noise) == 16
    first = (total - 16) // BLOCK
    assert drawn == [*(("step", 0, 0, first + block) for block in range(16 // BLOCK)), ("timesteps", 0, 0)]


@pytest.mark.parametrize("total", [1, 2, 7, 48, 60])
@pytest.mark.parametrize("step", range(3))
def test_stratified_timesteps_of_all_processes_are_one_in_each_stratum(total, step):
    parts = [sample(step=step, total=total, positions=range(i, i + 1), num_train_timesteps=total) for i in range(total)]
    timesteps = torch.cat([part.timesteps for part in parts])
    assert torch.equal(timesteps.sort().values, torch.arange(total))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("position", [0, 7, 11])
def test_each_position_has_uniform_timesteps(method, position):
    """Over the steps, as the images of a stream are always at the positions of the process that reads them."""
    draws = [sample(0, step, 12, method, range(position, position + 1), 8).timesteps for step in range(2000)]
    chi_squared = ((torch.cat(draws).bincount(minlength=8) - 250) ** 2 / 250).sum()
    assert chi_squared < 24.3  # 99.9 % of the distribution with 7 degrees of freedom


def test_the_strata_of_a_process_are_spread():
    """Neighbours are at all distances from each other, so that no process has the low noise levels of a step alone."""
    pairs = torch.stack([sample(0, step, 12, positions=range(2), num_train_timesteps=12).timesteps for step in range(1000)])
    distances = (pairs[:, 1] - pairs[:, 0]) % 12
    assert set(distances.tolist()) == {1, 5, 7, 11}, "the numbers that have no divisor in common with 12"
    assert distances.bincount()[[1, 5, 7, 11]].min() > 200


def test_the_numbers_of_a_sample_are_independent():
    """No correlation between pixels, neighbours, blocks, steps and kinds of numbers: |r| below 4.5 standard errors."""
    count = 4096
    first, second = (sample(0, step, count, "uniform") for step in (0, 1))
    numbers = {
        **{f"pixel {pixel}": first.noise.flatten(1)[:, pixel] for pixel in (0, 1, 15)},
        "neighbour": first.noise.flatten(1)[:, 0].roll(1),
        "next block": first.noise.flatten(1)[:, 0].roll(BLOCK),
        "next step": second.noise.flatten(1)[:, 0],
        **{name: getattr(first, name).double() for name in NAMES if name != "noise"},
    }
    correlations = torch.corrcoef(torch.stack([values.double() for values in numbers.values()]))
    assert (correlations - torch.eye(len(numbers))).abs().max() < 4.5 / math.sqrt(count)


def mask(*numbers: int) -> tuple[float, ...]:
    reseed_dropout(*numbers)
    return tuple(torch.nn.functional.dropout(torch.ones(64), 0.5).tolist())


def test_dropout_is_a_function_of_seed_step_rank_and_micro_step():
    places = [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)]
    masks = [mask(*place) for place in places]
    assert masks == [mask(*place) for place in places]
    assert len(set(masks)) == len(places)
