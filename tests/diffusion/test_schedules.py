"""The forward process: closed forms, both ends, and what is saved for sampling."""

import math

import pytest
import torch

from hf_ddpm.config import ScheduleConfig
from hf_ddpm.diffusion.schedules import build_noise_scheduler


def build(beta_schedule: str = "linear", **options):
    defaults = {
        "num_train_timesteps": 1000,
        "beta_start": 1e-4,
        "beta_end": 0.02,
        "variance_type": "fixed_small",
        "prediction_type": "v_prediction",
        "rescale_zero_terminal_snr": False,
    }
    return build_noise_scheduler(beta_schedule=beta_schedule, **defaults | options)


def test_linear_is_the_product_of_its_closed_form():
    betas = [1e-4 + (0.02 - 1e-4) * step / 999 for step in range(1000)]
    expected = torch.tensor([1 - beta for beta in betas], dtype=torch.float64).cumprod(0)
    torch.testing.assert_close(build().alphas_cumprod.double(), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("steps", [100, 1000])
def test_cosine_is_that_of_nichol_and_dhariwal(steps):
    def level(fraction: float) -> float:
        return math.cos((fraction + 0.008) / 1.008 * math.pi / 2) ** 2

    scheduler = build(ScheduleConfig(beta_schedule="cosine").beta_schedule, num_train_timesteps=steps)
    expected = torch.tensor([level((step + 1) / steps) / level(0) for step in range(steps)])
    got = scheduler.alphas_cumprod
    # The last betas are capped at 0.999, so the last step is left out.
    torch.testing.assert_close(got[:-1], expected[:-1], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"])
def test_images_lose_information_at_each_step(beta_schedule):
    alphas_cumprod = build(beta_schedule).alphas_cumprod
    assert (alphas_cumprod.diff() < 0).all()
    assert 0.99 < alphas_cumprod[0] < 1 and 0 < alphas_cumprod[-1] < 0.07


@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_zero_terminal_snr_ends_at_pure_noise(beta_schedule):
    plain, rescaled = build(beta_schedule), build(beta_schedule, rescale_zero_terminal_snr=True)
    assert plain.alphas_cumprod[-1] > 0
    assert rescaled.alphas_cumprod[-1] == 0
    assert (rescaled.alphas_cumprod[:-1] > 0).all() and (rescaled.alphas_cumprod.diff() < 0).all()
    torch.testing.assert_close(rescaled.alphas_cumprod[0], plain.alphas_cumprod[0])


@pytest.mark.parametrize("num_inference_steps", [1, 7, 50, 1000])
def test_sampling_starts_at_the_last_timestep(num_inference_steps):
    scheduler = build("squaredcos_cap_v2")
    scheduler.set_timesteps(num_inference_steps)
    assert scheduler.config.timestep_spacing == "trailing"
    assert scheduler.timesteps[0] == 999 and len(scheduler.timesteps) == num_inference_steps
    assert (scheduler.timesteps.diff() < 0).all()


@pytest.mark.parametrize("variance_type", ["fixed_large", "learned_range"])
def test_requested_options_are_saved_for_sampling(tmp_path, variance_type):
    scheduler = build("linear", prediction_type="sample", variance_type=variance_type, num_train_timesteps=40)
    scheduler.save_pretrained(tmp_path)
    again = type(scheduler).from_pretrained(tmp_path)
    assert (again.config.prediction_type, again.config.variance_type) == ("sample", variance_type)
    assert again.config.clip_sample
    assert torch.equal(again.alphas_cumprod, scheduler.alphas_cumprod)
