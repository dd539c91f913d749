"""Generators are a function of their stream and numbers, and unrelated to each other."""

import torch

from hf_ddpm.diffusion.randomness import derive_seed, seeded_generator


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
