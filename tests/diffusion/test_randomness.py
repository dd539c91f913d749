"""Generators are a function of their stream and numbers, and unrelated to each other."""

import torch

from hf_ddpm.diffusion.randomness import derive_seed, image_generator, seeded_generator


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
