"""All chance in a step is a function of (seed, step, position), however the batch is split."""

from dataclasses import fields
from typing import get_args, get_type_hints

import pytest
import torch

from hf_ddpm.config import ObjectiveConfig
from hf_ddpm.diffusion.objective import TimestepSampling
from hf_ddpm.training.step_randomness import StepRandomness, reseed_dropout, sample_step_randomness

SHAPE = (1, 4, 4)
METHODS = get_args(TimestepSampling)
NAMES = [field.name for field in fields(StepRandomness)]


def sample(seed: int = 0, step: int = 0, total: int = 12, method: str = "stratified") -> StepRandomness:
    return sample_step_randomness(seed, step, total, SHAPE, 1000, method)


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
    assert len(noise.unique(dim=0)) == 12


def test_one_timestep_a_batch_changes_nothing_else():
    one, each = sample(method="per_batch"), sample(method="uniform")
    assert len(one.timesteps.unique()) == 1 and len(each.timesteps.unique()) > 1
    assert all(torch.equal(getattr(one, name), getattr(each, name)) for name in NAMES if name != "timesteps")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [1, 3, 4, 6, 12])
def test_slices_tile_the_total_batch(count, method):
    whole = sample(method=method)
    parts = [whole.slice(start, count) for start in range(0, 12, count)]
    for name in NAMES:
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))


def mask(*numbers: int) -> tuple[float, ...]:
    reseed_dropout(*numbers)
    return tuple(torch.nn.functional.dropout(torch.ones(64), 0.5).tolist())


def test_dropout_is_a_function_of_seed_step_rank_and_micro_step():
    places = [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)]
    masks = [mask(*place) for place in places]
    assert masks == [mask(*place) for place in places]
    assert len(set(masks)) == len(places)
