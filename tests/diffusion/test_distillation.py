"""The mathematics of distillation, with networks that are exactly known."""

import math

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from hf_ddpm.diffusion.distillation import (
    LARGEST_SIGMA,
    closeness_at,
    closer_timesteps,
    consistency_losses,
    ddim_step,
    even_timesteps,
    halved_steps,
    noise_levels,
    part_of,
    progressive_losses,
    progressive_target,
    signal_at,
    timesteps_of_noise,
)
from hf_ddpm.diffusion.objective import add_noise

ALPHAS = DDPMScheduler(beta_schedule="squaredcos_cap_v2").alphas_cumprod
SIGMAS = noise_levels(ALPHAS)
FRACTIONS = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture
def noise() -> torch.Tensor:
    return torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def test_noise_levels_grow_up_to_the_one_that_hides_an_image():
    assert (SIGMAS.diff() >= 0).all() and SIGMAS[0] < 0.01 and SIGMAS[-1] == LARGEST_SIGMA
    rescaled = DDPMScheduler(rescale_betas_zero_snr=True).alphas_cumprod  # ends with a signal of 0
    assert noise_levels(rescaled)[-1] == LARGEST_SIGMA


def test_a_tenth_of_the_batch_is_at_the_last_timestep_and_the_rest_follows_the_normal_distribution():
    timesteps = timesteps_of_noise(FRACTIONS, SIGMAS)
    assert (timesteps[900:] == 999).all() and (timesteps[:890] < 999).all()
    logs = SIGMAS[timesteps[:900]].log()
    for share, deviations in ((0.16, -1), (0.5, 0), (0.84, 1)):
        assert logs.quantile(share).item() == pytest.approx(-1.1 + 2 * deviations, abs=0.05)


@pytest.mark.parametrize("closeness", [4, 16, 64, 256])
def test_the_target_is_at_the_largest_noise_level_of_the_schedule_up_to_that_of_the_formula(closeness):
    timesteps = torch.arange(1000)
    closer = closer_timesteps(timesteps, SIGMAS, closeness)
    assert ((closer < timesteps) & (closer >= -1)).all()
    wanted = SIGMAS * (1 - (1 + 8 / (1 + SIGMAS.exp())) / closeness)
    for t in range(0, 1000, 7):
        below = [s for s in range(-1, t) if s == -1 or SIGMAS[s] <= wanted[t]]
        assert closer[t] == below[-1], t


def test_the_targets_approach_in_equal_parts_of_the_training():
    assert [closeness_at(step, 8) for step in range(8)] == [4, 4, 16, 16, 64, 64, 256, 256]
    assert closeness_at(9, 8) == 256 and part_of(0, 1, 3) == 0


def test_a_ddim_step_with_the_true_image_stays_on_the_line_to_it(images, noise):
    start, end = torch.full((6,), 700), torch.full((6,), 200)
    before, after = (add_noise(images, noise, signal_at(ALPHAS, t)) for t in (start, end))
    moved = ddim_step(before, images, signal_at(ALPHAS, start), signal_at(ALPHAS, end))
    torch.testing.assert_close(moved, after, rtol=0, atol=1e-5)
    to_image = ddim_step(before, images, signal_at(ALPHAS, start), signal_at(ALPHAS, torch.full((6,), -1)))
    torch.testing.assert_close(to_image, images, rtol=0, atol=1e-5)


def test_the_step_of_a_student_arrives_where_two_steps_of_its_teacher_do(images, noise):
    generator = torch.Generator().manual_seed(2)
    guesses = torch.randn(2, 6, 1, 4, 4, generator=generator)
    signals = [signal_at(ALPHAS, torch.full((6,), t)) for t in (749, 624, 499)]
    before = add_noise(images, noise, signals[0])
    after_two = ddim_step(ddim_step(before, guesses[0], *signals[:2]), guesses[1], *signals[1:])
    target = progressive_target(before, after_two, signals[0], signals[2])
    torch.testing.assert_close(ddim_step(before, target, signals[0], signals[2]), after_two, rtol=1e-4, atol=1e-5)


def test_losses(images):
    target = images.clone()
    target[0] += 0.5
    prediction = images.requires_grad_()
    losses = consistency_losses(prediction, target, torch.full((6,), 0.25))
    assert losses[0].item() == pytest.approx(math.sqrt(16) * 0.5 / 0.25)
    losses.mean().backward()
    assert torch.isfinite(prediction.grad).all(), "also where both agree"
    weighted = progressive_losses(images.detach(), target, torch.tensor([0.1, 0.9]).view(2, 1, 1, 1).repeat(3, 1, 1, 1))
    assert weighted[0].item() == pytest.approx(0.25) and weighted[1:].sum() == 0
    weighted = progressive_losses(images.detach()[:1], target[:1], torch.full((1, 1, 1, 1), 0.9))
    assert weighted.item() == pytest.approx(9 * 0.25, rel=1e-4)


@pytest.mark.parametrize(("last", "stages"), [(4, [16, 8, 4]), (2, [16, 8, 4, 2]), (5, [20, 10, 5]), (16, [16])])
def test_the_steps_of_the_students(last, stages):
    assert halved_steps(last) == stages


@pytest.mark.parametrize("steps", [4, 8, 3])
def test_even_timesteps_are_those_of_ddim(steps):
    scheduler = DDIMScheduler(timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    assert even_timesteps(1000, steps).tolist() == [-1, *reversed(scheduler.timesteps.tolist())]
