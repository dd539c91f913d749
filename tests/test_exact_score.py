"""Every scheduler with the exact score of known data as its network, compared with the truth and schedulers set by hand.

The pixels of image 0 are N(0.3, 0.08^2), of image 1 N(0, 0.5^2), and of image 2 -1 or 1 with the weights 0.7 and 0.3.
"""

import math

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from known_mean import KnownMean

from hf_ddpm.pipeline import WITHOUT_SAMPLE_PREDICTION, CFGDDPMPipeline
from hf_ddpm.schedulers import SCHEDULERS, build_scheduler

LINEAR, COSINE = "linear", "squaredcos_cap_v2"
NAMES = [name for name in SCHEDULERS if name != "dpmsolver_sde"]
FIRST_ORDER = ["ddpm", "ddim", "euler", "euler_ancestral", "pndm"]
HIGHER_ORDER = [name for name in NAMES if name not in FIRST_ORDER]
NOISY = ["ddpm", "euler_ancestral", "kdpm2_ancestral"]
SIZE = 32
MEANS, SPREADS, WEIGHT = (0.3, 0.0), (0.08, 0.5), 0.3


class ExactNetwork(KnownMean):
    """For the three distributions, one per image."""

    def mean(self, x, alpha, sigma):
        mean, spread = (torch.tensor(values, dtype=torch.float64).view(2, 1, 1, 1) for values in (MEANS, SPREADS))
        gain = alpha[:2] * spread**2 / (alpha[:2] ** 2 * spread**2 + sigma[:2] ** 2)
        gaussian = mean + gain * (x[:2] - alpha[:2] * mean)
        two_valued = torch.tanh(alpha[2:] * x[2:] / sigma[2:] ** 2 + math.log(WEIGHT / (1 - WEIGHT)) / 2)
        return torch.cat([gaussian, two_valued])


def quantiles(count: int) -> torch.Tensor:
    """(3, N) equally probable values of the three distributions, in ascending order."""
    levels = (torch.arange(count).double() + 0.5) / count
    normal = math.sqrt(2) * torch.erfinv(2 * levels - 1)
    gaussian = [mean + spread * normal for mean, spread in zip(MEANS, SPREADS, strict=True)]
    return torch.stack([*gaussian, torch.where(levels < 1 - WEIGHT, -1.0, 1.0).double()])


def first_noise() -> torch.Tensor:
    """(3, 1, 32, 32) float32: equally probable values of N(0, 1), shuffled, so that no error is that of few pixels."""
    normal = (quantiles(SIZE**2)[1] / SPREADS[1]).float()
    return torch.stack([normal[torch.from_numpy(np.random.default_rng(i).permutation(SIZE**2))] for i in range(3)]).view(
        3, 1, SIZE, SIZE
    )


def sample(scheduler, trained: dict, steps: int, **options) -> torch.Tensor:
    pipeline = CFGDDPMPipeline(ExactNetwork(trained, sample_size=SIZE), DDPMScheduler(**trained))
    pipeline.scheduler = scheduler
    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(i) for i in range(3)]
    options = {"num_images_per_prompt": 3, "latents": first_noise(), "generator": generators, **options}
    return pipeline(num_inference_steps=steps, output_type="latent", **options).images


def sample_by_hand(scheduler, trained: dict, steps: int) -> torch.Tensor:
    """The loop of a diffusers example, without this package."""
    network, generators = ExactNetwork(trained, sample_size=SIZE), [torch.Generator().manual_seed(i) for i in range(3)]
    scheduler.set_timesteps(steps)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)  # two timesteps may be equal after rounding
    x = first_noise() * scheduler.init_noise_sigma
    takes_noise = any(word in type(scheduler).__name__ for word in ("DDPM", "Ancestral"))
    for t in scheduler.timesteps:
        (output,) = network(scheduler.scale_model_input(x, t), t.expand(3), return_dict=False)
        step = scheduler.step(output, t, x, **({"generator": generators} if takes_noise else {}))
        x = (
            step.pred_original_sample
            if isinstance(scheduler, DDPMScheduler) and t == scheduler.timesteps[-1]
            else step.prev_sample
        )
    return x


def distances(images: torch.Tensor) -> list[float]:
    """Wasserstein distance of each image's pixels to the truth."""
    values = images.flatten(1).double().sort(dim=1).values
    return (values - quantiles(values.shape[1])).abs().mean(dim=1).tolist()


def spread_ratios(images: torch.Tensor) -> list[float]:
    values = images.flatten(1).double()
    return (values.std(dim=1) / quantiles(values.shape[1]).std(dim=1)).tolist()


def trained_as(beta_schedule: str, prediction_type: str = "v_prediction") -> dict:
    return {"beta_schedule": beta_schedule, "prediction_type": prediction_type}


def set_by_hand(name: str, trained: dict, steps: int):
    """What someone who knows diffusers well would take: the class of this name, and its options with the reason."""
    cls = SCHEDULERS[name].scheduler_class
    # The default beta_start of some classes is 0.00085, which is not that of the model.
    options = {**trained, "beta_start": 1e-4, "beta_end": 0.02}
    if name in ("ddpm", "ddim"):  # start at t = 999, and the data need no clipping
        return cls(**options, timestep_spacing="trailing", clip_sample=False)
    if name == "pndm":  # half steps of the Runge-Kutta start would miss the trailing timesteps
        return cls(**options, timestep_spacing="trailing", skip_prk_steps=True, set_alpha_to_one=True)
    if name in ("euler", "euler_ancestral"):
        return cls(**options, timestep_spacing="trailing")
    spacing = {} if name == "dpmsolver++_single" else {"timestep_spacing": "trailing"}
    orders = {"solver_order": 2} if name in ("dpmsolver++", "dpmsolver++_single", "deis", "unipc") else {}
    ends = {"final_sigmas_type": "zero", "lower_order_final": True} if name.startswith("dpmsolver++") else {}
    # With few steps those in even t keep outlines, with many those in even log sigma keep details; after a cosine schedule's
    # sigma of 20,000 the slope of Heun and the noise of KDPM2Ancestral need the latter always.
    is_cosine = trained["beta_schedule"] == COSINE
    many = {"deis": 40}.get(name, 15) if is_cosine else 10 if orders else 15
    exponential = steps >= many or name in ("heun", "kdpm2_ancestral")
    return cls(**options, **spacing, **orders, **ends, use_exponential_sigmas=exponential)


@pytest.mark.parametrize("beta_schedule", [LINEAR, COSINE])
@pytest.mark.parametrize("name", NAMES)
def test_samples_have_the_distribution_of_the_data(name, beta_schedule):
    trained = trained_as(beta_schedule)
    for steps in (10, 20, 50):
        images = sample(build_scheduler(name, DDPMScheduler(**trained).config), trained, steps)
        by_hand = distances(sample_by_hand(set_by_hand(name, trained, steps), trained, steps))
        found = distances(images)
        noise = 5 * SPREADS[1] / SIZE if name in NOISY else 0  # of the mean, five standard deviations
        assert sum(found) <= 1.1 * sum(by_hand) + 0.005 + noise, (steps, found, by_hand)
        assert abs(images[:2].mean(dim=(1, 2, 3)) - torch.tensor(MEANS)).max() < 0.02 + noise
        if name in HIGHER_ORDER and steps >= 20:
            # Second order: the error is that of a step h in log sigma, squared; timesteps are rounded, noise is finite.
            h = math.log(157 / 0.01) / steps
            bound = h**2 / 2 + (0.08 if name in NOISY else 0.01)
            assert all(abs(ratio - 1) < bound for ratio in spread_ratios(images)), (steps, spread_ratios(images))


@pytest.mark.parametrize(("beta_schedule", "types"), [(LINEAR, ("epsilon", "sample")), (COSINE, ("sample",))])
@pytest.mark.parametrize("name", NAMES)
def test_what_the_network_predicts_does_not_matter(name, beta_schedule, types):
    def images_of(prediction_type: str) -> torch.Tensor:
        trained = trained_as(beta_schedule, prediction_type)
        return sample(build_scheduler(name, DDPMScheduler(**trained).config), trained, 20)

    expected = images_of("v_prediction")
    for prediction_type in types:
        if prediction_type == "sample" and SCHEDULERS[name].scheduler_class.__name__ in WITHOUT_SAMPLE_PREDICTION:
            with pytest.raises(ValueError, match="prediction_type is 'sample': .* cannot use it"):
                images_of(prediction_type)
            continue
        # Some schedulers round the timestep that belongs to a sigma, which weighs the outputs in another way.
        np.testing.assert_allclose(spread_ratios(images_of(prediction_type)), spread_ratios(expected), atol=0.05)


def closed_form_spread(spread: float, trained: dict, timesteps: list[int]) -> float:
    """Spread that DDIM gives to N(0, spread^2) in exact arithmetic: each step multiplies x_t by a number."""
    signals = [*DDPMScheduler(**trained).alphas_cumprod.double()[timesteps].tolist(), 1.0]
    result = 1.0
    for before, after in zip(signals[:-1], signals[1:], strict=True):
        variance = before * spread**2 + 1 - before
        result *= math.sqrt(after * before) * spread**2 / variance + math.sqrt((1 - after) * (1 - before)) / variance
    return result


@pytest.mark.parametrize("beta_schedule", [LINEAR, COSINE])
@pytest.mark.parametrize("steps", [2, 7, 48, 61, 97, 333])
def test_ddim_steps_to_its_next_timestep_for_every_number_of_steps(steps, beta_schedule):
    trained = trained_as(beta_schedule)
    scheduler = build_scheduler("ddim", DDPMScheduler(**trained).config)
    ratios = spread_ratios(sample(scheduler, trained, steps))
    timesteps = scheduler.timesteps.tolist()
    assert len(timesteps) == steps and timesteps[0] == 999 and scheduler.num_inference_steps == steps
    for ratio, spread in zip(ratios[:2], SPREADS, strict=True):
        assert ratio == pytest.approx(closed_form_spread(spread, trained, timesteps) / spread, rel=2e-3)


@pytest.mark.parametrize("spacing", ["leading", "linspace"])
def test_ddim_with_other_spacings_steps_to_its_next_timestep(spacing):
    trained = trained_as(LINEAR)
    scheduler = DDIMScheduler(**trained, clip_sample=False, timestep_spacing=spacing)
    ratios = spread_ratios(sample(scheduler, trained, 48))
    expected = closed_form_spread(SPREADS[1], trained, scheduler.timesteps.tolist()) / SPREADS[1]
    assert ratios[1] == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("name", ["ddpm", "pndm"])
def test_uneven_steps_are_as_good_as_even_ones(name):
    trained = trained_as(LINEAR)
    few, uneven, many = (
        sum(distances(sample(build_scheduler(name, DDPMScheduler(**trained).config), trained, steps)))
        for steps in (40, 48, 50)
    )
    assert uneven < (few if name == "pndm" else 1.2 * few)
    assert uneven == pytest.approx(many, rel=0.2)


@pytest.mark.parametrize("beta_schedule", [LINEAR, COSINE])
@pytest.mark.parametrize("name", ["dpmsolver++", "dpmsolver++_single", "deis", "unipc"])
def test_steps_are_spaced_as_is_best_for_their_number(name, beta_schedule):
    trained = trained_as(beta_schedule)
    built = build_scheduler(name, DDPMScheduler(**trained).config)
    before = dict(built.config)
    even_in_t = type(built).from_config(DDPMScheduler(**trained).config, **{**before, "_log_sigma_from": None})
    even_in_t.register_to_config(_log_sigma_from=None)
    for steps in (20, 25, 50):
        found, other = (sum(distances(sample(scheduler, trained, steps))) for scheduler in (built, even_in_t))
        assert found <= 1.05 * other and (steps < 50 or name == "deis" or found < 0.5 * other)
    if beta_schedule == COSINE:
        in_log_sigma = type(built).from_config(before)
        in_log_sigma.register_to_config(_log_sigma_from=1)
        found, other = (distances(sample(scheduler, trained, 5))[2] for scheduler in (built, in_log_sigma))
        assert found < 0.7 * other
    assert dict(built.config) == before


@pytest.mark.parametrize("steps", [1, 2, 5, 10])
@pytest.mark.parametrize(
    "trained", [trained_as(COSINE), trained_as(LINEAR), {**trained_as(LINEAR), "rescale_betas_zero_snr": True}]
)
def test_ddim_with_the_noise_of_ddpm_is_finite(trained, steps):
    images = sample(build_scheduler("ddim", DDPMScheduler(**trained).config), trained, steps, eta=1.0)
    as_ddpm = sample(build_scheduler("ddpm", DDPMScheduler(**trained).config), trained, steps)
    assert images.isfinite().all()
    np.testing.assert_allclose(spread_ratios(images), spread_ratios(as_ddpm), atol=0.1)


# A scheduler that does not belong to the model


@pytest.mark.parametrize("name", ["HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler"])
def test_a_scheduler_with_other_betas_is_refused(name, tmp_path):
    model = DDPMScheduler()
    pipeline = CFGDDPMPipeline(ExactNetwork(trained_as(LINEAR, "epsilon")), model)
    pipeline.scheduler = getattr(diffusers, name).from_config(model.config)
    message = rf"scheduler is '{name}': its betas are not those of the model, set .*build_scheduler\(NAME, pipeline.trained"
    with pytest.raises(ValueError, match=message):
        pipeline(num_inference_steps=4)
    with pytest.raises(ValueError, match=message):
        pipeline.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())
    pipeline.scheduler = build_scheduler("heun", pipeline.trained_config)
    pipeline.check_inputs(num_inference_steps=4)


def test_a_scheduler_given_while_loading_is_compared_with_the_saved_one(tiny_unet, tmp_path):
    CFGDDPMPipeline(tiny_unet(num_class_embeds=None), DDPMScheduler()).save_pretrained(tmp_path)
    heun = diffusers.HeunDiscreteScheduler.from_config(DDPMScheduler().config)
    with pytest.raises(ValueError, match="scheduler is 'HeunDiscreteScheduler': its betas are not those of the model"):
        CFGDDPMPipeline.from_pretrained(tmp_path, scheduler=heun)(num_inference_steps=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prediction_type": "sample"}, "prediction_type of the scheduler is 'sample': the model has 'epsilon', set "),
        ({"num_train_timesteps": 500}, "num_train_timesteps of the scheduler is 500: the model has 1000, set "),
        ({"beta_schedule": COSINE}, "scheduler is 'DDIMScheduler': its betas are not those of the model, set "),
        ({"rescale_betas_zero_snr": True}, "scheduler is 'DDIMScheduler': its betas are not those of the model, set "),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_scheduler_that_disagrees_with_the_model_is_refused(options, message):
    pipeline = CFGDDPMPipeline(ExactNetwork(trained_as(LINEAR, "epsilon")), DDPMScheduler())
    pipeline.scheduler = DDIMScheduler(**options)
    with pytest.raises(ValueError, match=message):
        pipeline(num_inference_steps=4)
