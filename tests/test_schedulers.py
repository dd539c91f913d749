"""Every scheduler by name: the forward process it keeps, the images it makes, and what is refused."""

import copy
import inspect

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, UNet2DModel
from diffusers.utils import is_torchsde_available
from known_mean import KnownMean

from hf_ddpm.pipeline import WITHOUT_SAMPLE_PREDICTION, CFGDDPMPipeline
from hf_ddpm.sampling import load_pipeline
from hf_ddpm.schedulers import SCHEDULERS, build_scheduler, fitting_steps

NAMES = [name for name in SCHEDULERS if name != "dpmsolver_sde" or is_torchsde_available()]
STOCHASTIC = {"ddpm", "euler_ancestral", "kdpm2_ancestral", "dpmsolver_sde"}
# 100 timesteps with the noise of the usual 1000: KDPM2 takes long to make its tables.
SHORT = {"num_train_timesteps": 100, "beta_start": 1e-3, "beta_end": 0.2}
ZERO_SNR = {**SHORT, "beta_schedule": "linear", "rescale_betas_zero_snr": True}
SPREAD = 0.25


class GaussianDenoiser(KnownMean):
    """For images whose pixels are N(0, SPREAD^2)."""

    def mean(self, x, alpha, sigma):
        return alpha * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2) * x


def gaussian_images(name: str, steps: int, count: int = 4, **trained) -> tuple[torch.Tensor, torch.Tensor]:
    """Images, (B, 1, 8, 8), and what the probability flow makes of their first noise."""
    trained = {**SHORT, "prediction_type": "v_prediction", **trained}
    pipeline = CFGDDPMPipeline(GaussianDenoiser(trained), build_scheduler(name, DDPMScheduler(**trained).config))
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    options = {"num_images_per_prompt": count, "latents": noise, "generator": torch.Generator().manual_seed(1)}
    return pipeline(num_inference_steps=steps, output_type="latent", **options).images, SPREAD * noise


@pytest.fixture(scope="module")
def tiny_unet(tiny_unet):
    def build(channels: int, **options) -> UNet2DModel:
        unet = tiny_unet(channels=channels, **options)
        # Random weights make an x_0 far outside [-1, 1], and rounding errors with it.
        with torch.no_grad():
            unet.conv_out.weight *= 0.3
        return unet

    return build


@pytest.fixture(scope="module", params=[1, 3])
def unet(tiny_unet, request) -> UNet2DModel:
    return tiny_unet(request.param)


@pytest.fixture(scope="module", params=[1, 3])
def unet_with_variance(tiny_unet, request) -> UNet2DModel:
    return tiny_unet(request.param, out_channels=2 * request.param)


def pipeline_of(unet, scheduler, null_label: int | None = 3) -> CFGDDPMPipeline:
    pipeline = CFGDDPMPipeline(unet, scheduler, null_label=null_label if unet.config.num_class_embeds else None)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sample(pipeline, labels, seeds, steps: int, **options) -> np.ndarray:
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return pipeline(labels, generator=generators, num_inference_steps=steps, output_type="np", **options).images


# Every name


def test_every_compatible_scheduler_has_a_name_or_is_refused():
    named = {scheduler.scheduler_class.__name__ for scheduler in SCHEDULERS.values()}
    compatible = {scheduler.name for scheduler in diffusers.schedulers.KarrasDiffusionSchedulers}
    assert compatible - named == {"EDMEulerScheduler"}
    assert named - compatible == set()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("beta_schedule", ["linear", "squaredcos_cap_v2", "sigmoid"])
@pytest.mark.parametrize("rescale", [False, True])
def test_schedulers_keep_the_forward_process(name, beta_schedule, rescale):
    options = {**SHORT, "beta_schedule": beta_schedule, "rescale_betas_zero_snr": rescale}
    trained = DDPMScheduler(prediction_type="v_prediction", **options)
    scheduler = build_scheduler(name, trained.config)
    assert scheduler.config.prediction_type == "v_prediction"
    torch.testing.assert_close(scheduler.alphas_cumprod, trained.alphas_cumprod)
    signal = scheduler.alphas_cumprod[scheduler.alphas_cumprod > 0]
    assert len(signal) >= (99 if name in ("ddpm", "ddim") else 100)
    scheduler.set_timesteps(4)
    timesteps = scheduler.timesteps.double()
    assert timesteps[0] == pytest.approx(99)
    assert (timesteps.diff() <= 0).all() or name == "kdpm2_ancestral"  # it looks below the next sigma before it adds noise
    assert timesteps.min() >= 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("prediction_type", "schedule"),
    [
        ("epsilon", {"beta_schedule": "linear"}),
        ("epsilon", {"beta_schedule": "sigmoid"}),
        ("v_prediction", {"beta_schedule": "squaredcos_cap_v2"}),
        ("v_prediction", ZERO_SNR),
        ("sample", ZERO_SNR),
    ],
    ids=["epsilon-linear", "epsilon-sigmoid", "v-cosine", "v-zero_snr", "sample-zero_snr"],
)
def test_a_perfect_network_makes_the_images_it_was_made_for(name, prediction_type, schedule):
    if prediction_type == "sample" and SCHEDULERS[name].scheduler_class.__name__ in WITHOUT_SAMPLE_PREDICTION:
        with pytest.raises(ValueError, match="prediction_type is 'sample': .* cannot use it"):
            gaussian_images(name, 50, prediction_type=prediction_type, **schedule)
        return
    images, flow = gaussian_images(name, 50, prediction_type=prediction_type, **schedule)
    if name in STOCHASTIC:
        assert 0.75 < images.std() / SPREAD < 1.15
    else:
        # Where the flow leads to; first order schedulers are 10 % off at 50 steps of the linear schedule.
        assert (images - flow).std() < 0.12 * SPREAD


@pytest.mark.parametrize("name", [name for name in NAMES if name != "pndm"])
def test_an_error_of_epsilon_does_not_grow_where_the_cosine_schedule_ends(name):
    trained = {**SHORT, "beta_schedule": "squaredcos_cap_v2", "prediction_type": "epsilon"}
    network = GaussianDenoiser(trained)
    network.register_forward_hook(lambda module, inputs, output: (output[0] + 0.01 * torch.sin(3 * inputs[0]),))
    pipeline = pipeline_of(network, build_scheduler(name, DDPMScheduler(**trained).config))
    images = sample(pipeline, None, range(4), 20, num_images_per_prompt=4) * 2 - 1
    assert 0.5 < images.std() / SPREAD < 1.5


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("steps", "scale"), [(2, 1.0), (10, 2.0)])
def test_an_image_depends_on_its_seed_and_label_alone(name, steps, scale, unet):
    pipeline = pipeline_of(unet, build_scheduler(name, DDPMScheduler(**SHORT, prediction_type="v_prediction").config))
    together, alone = (sample(pipeline, labels, labels, steps, guidance_scale=scale) for labels in ([0, 1, 2], [2]))
    assert together.shape == (3, 8, 8, unet.config.in_channels)
    assert np.isfinite(together).all()
    assert abs(together[0] - together[1]).max() > 0.05
    # The kernel of another batch size rounds in another way, and a scheduler that carries x_0 + sigma noise has sigmas of
    # 221 here, whose last digit is 1.5e-5. What users are promised is the image in uint8.
    assert abs((alone * 255).round() - (together[2:] * 255).round()).max() <= 1
    # A network in float64 gives the scheduler the same float32 with every kernel: the rest is the scheduler's own.
    pipeline.unet = copy.deepcopy(unet).double()
    together = sample(pipeline, [0, 1, 2], [0, 1, 2], steps, guidance_scale=scale)
    one_by_one = [sample(pipeline, [label], [label], steps, guidance_scale=scale) for label in range(3)]
    np.testing.assert_allclose(np.concatenate(one_by_one), together, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_the_learned_variance_is_used_by_ddpm_alone(name, unet_with_variance):
    trained = DDPMScheduler(**SHORT, variance_type="learned_range", prediction_type="v_prediction")
    pipeline = pipeline_of(unet_with_variance, build_scheduler(name, trained.config))
    bias = unet_with_variance.conv_out.bias
    before = sample(pipeline, [0, 1], [0, 1], 3, guidance_scale=2.0)
    with torch.no_grad():
        bias[unet_with_variance.config.in_channels :] += 1
    after = sample(pipeline, [0, 1], [0, 1], 3, guidance_scale=2.0)
    with torch.no_grad():
        bias[unet_with_variance.config.in_channels :] -= 1
    assert np.isfinite(before).all()
    assert before.shape[-1] == unet_with_variance.config.in_channels
    assert (abs(before - after).max() > 1e-3) == (name == "ddpm")


@pytest.mark.parametrize("name", NAMES)
def test_a_scheduler_set_by_hand_is_saved_and_loaded(tiny_unet, name, tmp_path):
    pipeline = pipeline_of(
        tiny_unet(1), build_scheduler(name, DDPMScheduler(**ZERO_SNR, prediction_type="v_prediction").config)
    )
    before = [sample(pipeline, [0, 1], [0, 1], steps) for steps in (4, 16)]
    pipeline.save_pretrained(tmp_path)
    loaded = load_pipeline(str(tmp_path), device="cpu")
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded.scheduler) is type(pipeline.scheduler)
    np.testing.assert_array_equal([sample(loaded, [0, 1], [0, 1], steps) for steps in (4, 16)], before)


@pytest.mark.parametrize("name", NAMES)
def test_a_scheduler_is_the_same_before_and_after_saving_and_switching(name, tmp_path):
    def settings(scheduler):
        expected = inspect.signature(type(scheduler).__init__).parameters
        return {key: value for key, value in scheduler.config.items() if key in expected and key[0] != "_"}

    trained = DDPMScheduler(num_train_timesteps=10, beta_end=0.01)
    trained.save_pretrained(tmp_path)
    expected = settings(build_scheduler(name, trained.config))
    assert expected["beta_end"] == 0.01
    assert settings(build_scheduler(name, DDPMScheduler.from_pretrained(tmp_path).config)) == expected
    for other in NAMES:
        assert settings(build_scheduler(name, build_scheduler(other, trained.config).config)) == expected


# What each is set up with


def test_schedulers_are_set_up_as_their_papers_have_them():
    config = DDPMScheduler(clip_sample=False).config
    ddpm, ddim, solver = (build_scheduler(name, config) for name in ("ddpm", "ddim", "dpmsolver++"))
    assert isinstance(ddpm, DDPMScheduler)
    assert ddpm.config.clip_sample is True
    assert isinstance(ddim, DDIMScheduler)
    assert ddim.config.clip_sample is False
    assert isinstance(solver, DPMSolverMultistepScheduler)
    assert (solver.config.algorithm_type, solver.config.solver_order) == ("dpmsolver++", 2)
    assert (solver.config.final_sigmas_type, solver.config.thresholding) == ("zero", False)


def test_sigma_grows_with_t_where_the_last_signal_is_replaced():
    for total, beta_end in ((10, 0.5), (1000, 0.02)):
        trained = DDPMScheduler(total, beta_end=beta_end, rescale_betas_zero_snr=True, prediction_type="v_prediction")
        alphas_cumprod = build_scheduler("heun", trained.config).alphas_cumprod
        assert (alphas_cumprod.diff() < 0).all()
        assert 0 < alphas_cumprod[-1] < 1e-7


def test_a_scheduler_begins_at_the_first_of_two_equal_timesteps():
    trained = {"prediction_type": "v_prediction", "beta_schedule": "squaredcos_cap_v2"}
    karras = DPMSolverMultistepScheduler(**trained, use_karras_sigmas=True)
    pipeline = pipeline_of(GaussianDenoiser(trained), karras)
    images = sample(pipeline, None, range(2), 20, num_images_per_prompt=2) * 2 - 1
    assert karras.timesteps[0] == karras.timesteps[1]
    assert karras.step_index == 20
    assert 0.8 < images.std() / SPREAD < 1.2


def test_ancestral_noise_is_a_number_after_a_sigma_of_20_000():
    for steps in (1, 2, 3, 25):
        images, _ = gaussian_images("euler_ancestral", steps, num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2")
        assert images.isfinite().all()


def test_fitting_steps_leave_no_noise_behind():
    ddim, euler = (build_scheduler(name, DDPMScheduler().config) for name in ("ddim", "euler"))
    assert [fitting_steps(ddim, steps) for steps in (1, 20, 61, 501, 5000)] == [1, 20, 61, 501, 1000]
    assert [fitting_steps(euler, steps) for steps in (1, 20, 61, 501, 5000)] == [1, 20, 60, 501, 1000]


# Refusals


def test_unknown_schedulers_are_refused():
    with pytest.raises(ValueError, match=r"scheduler is 'ddimm': give one of ddpm, ddim, dpmsolver\+\+"):
        build_scheduler("ddimm", DDPMScheduler().config)
    with pytest.raises(ValueError, match="scheduler is 'ddimm'"):
        load_pipeline("nowhere", scheduler="ddimm")


@pytest.mark.skipif(is_torchsde_available(), reason="torchsde is installed")
def test_sde_needs_torchsde():
    with pytest.raises(ValueError, match="scheduler is 'dpmsolver_sde': .* pip install torchsde"):
        build_scheduler("dpmsolver_sde", DDPMScheduler().config)


def test_pndm_is_refused_where_it_spoils_the_images():
    config = DDPMScheduler(beta_schedule="squaredcos_cap_v2").config
    with pytest.raises(ValueError, match="scheduler is 'pndm': it spoils images of epsilon prediction"):
        build_scheduler("pndm", config)


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (diffusers.EDMEulerScheduler(), "scheduler is 'EDMEulerScheduler': it does not follow the betas"),
        (diffusers.FlowMatchEulerDiscreteScheduler(), "scheduler is 'FlowMatchEulerDiscreteScheduler': it does not follow"),
        (DDPMScheduler(variance_type="fixed_large_log"), "variance_type is 'fixed_large_log': .* set fixed_large or"),
        (DDPMScheduler(variance_type="learned"), "variance_type is 'learned': .* set fixed_large or learned_range"),
        (DDIMScheduler(rescale_betas_zero_snr=True), "prediction_type is 'epsilon': .* train v_prediction"),
        (diffusers.KDPM2DiscreteScheduler(prediction_type="sample"), "prediction_type is 'sample': KDPM2DiscreteScheduler"),
        (
            diffusers.HeunDiscreteScheduler.from_config(DDPMScheduler(**ZERO_SNR, prediction_type="v_prediction").config),
            "rescale_betas_zero_snr is True: HeunDiscreteScheduler does not support it",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_schedulers_that_cannot_work_are_refused_when_they_are_set_and_when_they_were_saved(
    tiny_unet, scheduler, message, tmp_path
):
    pipeline = pipeline_of(tiny_unet(1), scheduler)
    pipeline.save_pretrained(tmp_path)
    loaded = load_pipeline(str(tmp_path), device="cpu")
    for refused in (pipeline, loaded):
        with pytest.raises(ValueError, match=message):
            refused(0, num_inference_steps=2)


def test_betas_cannot_be_guessed_from_a_scheduler_without():
    with pytest.raises(ValueError, match="the saved scheduler is None: it has no beta schedule"):
        build_scheduler("ddim", diffusers.EDMEulerScheduler().config)


@pytest.mark.parametrize("name", NAMES)
def test_prediction_of_x_0_is_refused_where_the_scheduler_has_none(name):
    scheduler = build_scheduler(name, DDPMScheduler(**SHORT, prediction_type="sample").config)
    scheduler.set_timesteps(4)
    noise = torch.randn(1, 1, 8, 8)
    scheduler.scale_model_input(noise, scheduler.timesteps[0])
    try:
        scheduler.step(noise, scheduler.timesteps[0], noise)
        works = True
    except (NotImplementedError, ValueError):
        works = False
    assert works != (type(scheduler).__name__ in WITHOUT_SAMPLE_PREDICTION)
