"""The forward and the reverse process: against closed forms, against diffusers, and against the samples of `generate`."""

import math

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from hf_ddpm.diffusion.likelihood import posterior_of
from hf_ddpm.figures.process import _level_at, forward_states, reverse_noising_steps, reverse_states, step_back, to_pixels
from hf_ddpm.pipeline import CFGDDPMPipeline
from hf_ddpm.sampling import generate
from hf_ddpm.schedulers import build_scheduler

T = 1000


@pytest.fixture(scope="module")
def tiny_pipeline(tiny_pipeline):
    def build(**options) -> CFGDDPMPipeline:
        defaults = {"prediction_type": "v_prediction", "beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "trailing"}
        outputs = 2 if options.get("variance_type") == "learned_range" else 1
        return tiny_pipeline(DDPMScheduler(**defaults | options), names=("cat", "dog", "$"), out_channels=outputs)

    return build


def some_images(count: int) -> torch.Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


def noise_of(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# Forward


def test_forward_states_follow_the_schedule_from_the_image_to_noise():
    images, levels = some_images(2), DDPMScheduler().alphas_cumprod
    states = forward_states(images, [0, 1, 500, T], alphas_cumprod=levels, seeds=[7, 8])
    assert states.shape == (4, 2, 8, 8, 1)
    np.testing.assert_array_equal(states[0], to_pixels(images))
    noise, (_, *timesteps) = torch.stack([noise_of(7, 1, 8, 8), noise_of(8, 1, 8, 8)]), [0, 1, 500, T]
    for state, t in zip(states[1:], timesteps, strict=True):
        expected = DDPMScheduler().add_noise(images, noise, torch.tensor([t - 1] * 2))
        assert abs(state.astype(int) - to_pixels(expected)).max() <= 1


def test_an_image_keeps_its_noise_whatever_stands_beside_it():
    images, levels = some_images(3), DDPMScheduler().alphas_cumprod
    together = forward_states(images, [10, 900], alphas_cumprod=levels, seeds=[0, 1, 2])
    alone = forward_states(images[2:], [900], alphas_cumprod=levels, seeds=[2])
    np.testing.assert_array_equal(together[1, 2], alone[0, 0])


@pytest.mark.parametrize("t", [-1, T + 1])
def test_timesteps_out_of_range_are_refused(t):
    with pytest.raises(ValueError, match=f"`timesteps` is {t}: give 0 to 1000"):
        forward_states(some_images(1), [t], alphas_cumprod=DDPMScheduler().alphas_cumprod, seeds=[0])


# Reverse


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_reverse_states_end_with_the_samples_of_generate(tiny_pipeline, scale):
    pipeline, labels = tiny_pipeline(), [0, 2, 1]
    options = {"class_labels": labels, "seed": 5, "num_inference_steps": 5, "guidance_scale": scale}
    states = reverse_states(pipeline, **options)
    (batch,) = generate(pipeline, **options)
    assert states.noising_steps == [1000, 800, 600, 400, 200, 0]
    np.testing.assert_array_equal(states.noisy_images[-1], batch.images)
    np.testing.assert_array_equal(states.pred_images[-1], batch.images)
    noise = torch.stack([noise_of(seed, 1, 8, 8) for seed in (5, 6, 7)])
    np.testing.assert_array_equal(states.noisy_images[0], to_pixels(noise))
    # The samples do not depend on what is kept of them.
    few = reverse_states(pipeline, **options, noising_steps=[0, 400])
    assert few.noising_steps == [0, 400]
    np.testing.assert_array_equal(few.noisy_images, states.noisy_images[[5, 3]])
    np.testing.assert_array_equal(few.pred_images, states.pred_images[[5, 3]])


@pytest.mark.parametrize(
    ("name", "prediction_type"),
    [
        ("ddpm", "sample"), ("ddim", "epsilon"), ("dpmsolver++", "v_prediction"), ("euler", "epsilon"), ("euler", "sample"),
        ("heun", "v_prediction"), ("unipc", "sample"),
    ],
)  # fmt: skip
def test_the_last_prediction_of_every_scheduler_is_its_sample(tiny_pipeline, name, prediction_type):
    pipeline = tiny_pipeline(prediction_type=prediction_type, beta_schedule="linear")
    pipeline.scheduler = build_scheduler(name, pipeline.scheduler.config)
    states = reverse_states(pipeline, class_labels=[0, 1], num_inference_steps=4, count=100)
    assert states.noising_steps[0] >= 999 and states.noising_steps[-1] == 0
    assert states.noising_steps == sorted(set(states.noising_steps), reverse=True)
    # x_T is the noise, scaled to variance 1 where a scheduler counts in sigmas.
    noise = torch.stack([noise_of(seed, 1, 8, 8) for seed in (0, 1)])
    assert abs(states.noisy_images[0].astype(int) - to_pixels(noise)).max() <= 1
    # All of these end by going to x_0 itself.
    assert abs(states.pred_images[-2].astype(int) - states.pred_images[-1]).max() <= 1


def test_a_repeated_timestep_is_shown_as_the_second_call_finds_it(tiny_pipeline):
    pipeline = tiny_pipeline(beta_schedule="linear")
    pipeline.scheduler = build_scheduler("heun", pipeline.scheduler.config)
    visited, options = reverse_noising_steps(pipeline, 4), {"class_labels": [0], "num_inference_steps": 4}
    assert len(visited) == 8 and visited[1] == visited[2]
    every, one = reverse_states(pipeline, **options), reverse_states(pipeline, **options, noising_steps=[visited[1]])
    np.testing.assert_array_equal(one.noisy_images[0], every.noisy_images[every.noising_steps.index(visited[1])])


def test_between_timesteps_the_level_is_that_of_the_scheduler():
    scheduler = build_scheduler("euler", DDPMScheduler(beta_schedule="squaredcos_cap_v2").config)
    scheduler.set_timesteps(7)
    assert any(float(t) % 1 > 0.1 for t in scheduler.timesteps)
    for t, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
        level = _level_at(scheduler.alphas_cumprod, float(t))
        assert float(level) == pytest.approx(1 / (1 + float(sigma) ** 2), rel=1e-2)


def test_a_learned_variance_is_no_part_of_the_prediction(tiny_pipeline):
    states = reverse_states(tiny_pipeline(variance_type="learned_range"), class_labels=[1], num_inference_steps=4)
    assert states.pred_images.shape == (5, 1, 8, 8, 1)


def test_a_timestep_off_the_path_is_refused_with_the_nearest(tiny_pipeline):
    pipeline = tiny_pipeline()
    assert reverse_noising_steps(pipeline, 4) == [1000, 750, 500, 250, 0]
    with pytest.raises(ValueError, match="`timesteps` is 300: .* give 250 or 500, or other steps"):
        reverse_states(pipeline, class_labels=[0], num_inference_steps=4, noising_steps=[300])
    with pytest.raises(ValueError, match="num_inference_steps is 0"):
        reverse_states(pipeline, class_labels=[0], num_inference_steps=0)


# One step


@pytest.mark.parametrize("t", [1, 2, 300, T])
def test_the_true_posterior_is_bayes_rule(tiny_pipeline, t):
    pipeline, images = tiny_pipeline(beta_schedule="linear"), some_images(2)
    step = step_back(pipeline, images, torch.tensor([0, 1]), t, seeds=[0, 1])
    levels = torch.cat([torch.ones(1), pipeline.scheduler.alphas_cumprod]).double()
    alpha, before = levels[t] / levels[t - 1], levels[t - 1]
    if t == 1:
        torch.testing.assert_close(step.true_sample, images, atol=1e-5, rtol=0)
        torch.testing.assert_close(step.previous, images)
        torch.testing.assert_close(step.model_sample, step.model_mean)
        return
    # N(x_{t-1}; sqrt(before) x_0, 1 - before) times N(x_t; sqrt(alpha) x_{t-1}, 1 - alpha), as a Gaussian of x_{t-1}.
    precision = 1 / (1 - before) + alpha / (1 - alpha)
    mean = (before.sqrt() * images / (1 - before) + alpha.sqrt() * step.noisy / (1 - alpha)) / precision
    torch.testing.assert_close(step.true_mean, mean.float(), atol=1e-4, rtol=0)
    # The way back has the noise of its own variance, and both have the same.
    drawn = (step.true_sample - step.true_mean) * precision.sqrt()
    torch.testing.assert_close(step.model_sample - step.model_mean, step.true_sample - step.true_mean)
    assert 0.7 < drawn.std() < 1.3
    # The step forward has that of beta, the same at every t.
    forward = (step.noisy - alpha.sqrt() * step.previous) / (1 - alpha).sqrt()
    other = step_back(pipeline, images, torch.tensor([0, 1]), 50, seeds=[0, 1])
    beta = pipeline.scheduler.betas[49]
    torch.testing.assert_close(
        forward.float(), (other.noisy - (1 - beta).sqrt() * other.previous) / beta.sqrt(), atol=2e-2, rtol=0
    )


@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large", "learned_range"])
@pytest.mark.parametrize("t", [2, 400, T])
def test_the_way_back_by_the_model_is_a_step_of_its_scheduler(tiny_pipeline, t, variance_type):
    pipeline, labels = tiny_pipeline(variance_type=variance_type), torch.tensor([2])
    step = step_back(pipeline, some_images(1), labels, t, seeds=[3])
    scheduler = pipeline.scheduler
    scheduler.set_timesteps(T)
    with torch.no_grad():
        output = pipeline.unet(step.noisy, torch.tensor([t - 1]), class_labels=labels).sample
    result = scheduler.step(output, t - 1, step.noisy, generator=torch.Generator().manual_seed(0)).prev_sample
    spread = scheduler._get_variance(t - 1, predicted_variance=output[:, 1:])
    spread = (0.5 * spread).exp() if variance_type == "learned_range" else spread.sqrt()
    torch.testing.assert_close(step.model_mean, result - spread * noise_of(0, 1, 1, 8, 8), atol=1e-4, rtol=0)
    small = (posterior_of(scheduler.alphas_cumprod).log_variance[t - 1] / 2).exp()
    ratio = (step.model_sample - step.model_mean) / (step.true_sample - step.true_mean)
    torch.testing.assert_close(ratio, (spread / small).expand_as(ratio), atol=2e-2, rtol=2e-2)


def test_a_step_needs_a_timestep_with_one_before_it(tiny_pipeline):
    for t in (0, T + 1):
        with pytest.raises(ValueError, match=f"`timesteps` is {t}: give 1 to 1000"):
            step_back(tiny_pipeline(), some_images(1), torch.tensor([0]), t, seeds=[0])


def test_a_scheduler_without_a_variance_type_is_refused(tiny_pipeline):
    pipeline = tiny_pipeline()
    pipeline.scheduler = DDIMScheduler()
    with pytest.raises(ValueError, match="variance_type of the scheduler is None: "):
        step_back(pipeline, some_images(1), torch.tensor([0]), 5, seeds=[0])


def test_pixels_are_those_of_the_pipeline():
    images = torch.tensor([-2.0, -1.0, 0.0, 1.0, math.nextafter(1, 2), 3.0]).view(1, 1, 1, 6)
    assert to_pixels(images).flatten().tolist() == [0, 0, 128, 255, 255, 255]
