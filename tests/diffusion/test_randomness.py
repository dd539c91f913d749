"""Generators are a function of their stream and numbers, and unrelated to each other."""

import pytest
import torch

from hf_ddpm.diffusion.randomness import counter_noise, derive_seed, image_generator, seeded_generator


def test_streams_and_numbers_differ():
    arguments = [("a", 0, 0), ("b", 0, 0), ("a", 1, 0), ("a", 0, 1), ("a", 2**32 - 1, 0), ("ab", 0, 0)]
    draws = {torch.rand(4, generator=seeded_generator(*each)).numpy().tobytes() for each in arguments}
    assert len(draws) == len(arguments)


def test_a_generator_has_its_seed_and_leaves_the_global_one_alone():
    state = torch.get_rng_state()
    assert seeded_generator("a", 1, 2).initial_seed() == derive_seed("a", 1, 2)
    assert torch.equal(
        torch.rand(4, generator=seeded_generator("a", 1, 2)), torch.rand(4, generator=seeded_generator("a", 1, 2))
    )
    assert torch.equal(state, torch.get_rng_state())


def test_seeds_beyond_32_bits_are_seeds_of_their_own():
    seeds = [7, 7 + 2**32, 7 + 2**33, 7 * 2**32, 2**63 - 1]
    drawn = [torch.randn(4, generator=image_generator(seed)).tolist() for seed in seeds]
    assert len({tuple(values) for values in drawn}) == len(seeds)
    assert drawn[0] == torch.randn(4, generator=torch.Generator().manual_seed(7)).tolist()


def test_counted_noise_is_normal_and_a_function_of_seed_and_draw():
    noise = counter_noise(3, (4, 50, 50))
    assert noise.dtype == torch.float32
    assert abs(float(noise.mean())) < 0.05 and abs(float(noise.std()) - 1) < 0.05
    assert torch.equal(counter_noise(3, (7,)), noise.flatten()[:7])
    others = [counter_noise(*each) for each in ((3, (8,), 1), (4, (8,)), (2**63 - 1, (8,)), (3 + 2**32, (8,)))]
    drawn = {tuple(values.tolist()) for values in (noise.flatten()[:8], *others)}
    assert len(drawn) == 5
    # Values that must not change, because links to pictures are made of seeds.
    expected = [0.15853384, 2.98287940, -1.92569196]
    assert counter_noise(0, (3,)).tolist() == pytest.approx(expected, abs=1e-6)
