"""The whole bound against closed forms, true entropies, and itself in other batches."""

import math
from collections.abc import Callable

import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor
from torch.distributions import Normal

from hf_ddpm.diffusion.bound import BitsPerDim, sample_bound_timesteps, variational_bound
from hf_ddpm.diffusion.likelihood import discretized_gaussian_log_likelihood, posterior_of
from hf_ddpm.diffusion.objective import noise_from_clean_images, velocity_of

BYTES = torch.arange(256, dtype=torch.float64) * (2 / 255) - 1
LN2 = math.log(2)
NORMAL = Normal(torch.tensor(0.0).double(), torch.tensor(1.0).double())


def linear(num_train_timesteps: int, beta_start: float = 1e-4) -> Tensor:
    betas = torch.linspace(beta_start, 0.5, num_train_timesteps, dtype=torch.float64)
    return (1 - betas).cumprod(dim=0)


def quantiles(count: int) -> Tensor:
    """Standard normal values that stand for the whole distribution: a rule of integration."""
    values = NORMAL.icdf((torch.arange(count, dtype=torch.float64) + 0.5) / count)
    return values / values.std(correction=0)


def predictor(denoise: Callable, alphas_cumprod: Tensor, prediction_type: str = "sample", values: Tensor | None = None):
    """A network with the output of `denoise(noisy_images, level)`, and the variance `values[timesteps]` if it learns one."""

    def predict(noisy_images: Tensor, timesteps: Tensor, class_labels: Tensor | None) -> Tensor:
        level = alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        clean_images = denoise(noisy_images, level)
        noise = noise_from_clean_images(clean_images, noisy_images, level)
        outputs = {"epsilon": noise, "sample": clean_images, "v_prediction": velocity_of(clean_images, noise, level)}
        output = outputs[prediction_type]
        if values is None:
            return output
        return torch.cat([output, values[timesteps].view(-1, 1, 1, 1).expand_as(output)], dim=1)

    return predict


def best_for_gaussian(mean: float, std: float) -> Callable:
    """E(x_0 | x_t) of x_0 from N(mean, std^2)."""

    def denoise(noisy_images: Tensor, level: Tensor) -> Tensor:
        precision = 1 / std**2 + level / (1 - level)
        return (mean / std**2 + level.sqrt() * noisy_images / (1 - level)) / precision

    return denoise


def left_over_variance(std: float, alphas_cumprod: Tensor) -> Tensor:
    """Variance of x_0 given x_t."""
    return 1 / (1 / std**2 + alphas_cumprod / (1 - alphas_cumprod))


# Gaussian data


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large"])
def test_every_term_is_the_closed_form_for_gaussian_data(prediction_type, variance_type):
    mean, std, alphas_cumprod = 0.1, 0.05, linear(60)
    # Four pixels with the first two moments of data and noise: the terms are quadratic in both, so they are expectations.
    signs = torch.tensor([1.0, 1.0, -1.0, -1.0]).double(), torch.tensor([1.0, -1.0, 1.0, -1.0]).double()
    clean_images, noise = mean + std * signs[0].view(1, 1, 2, 2), signs[1].view(1, 1, 2, 2)
    predict = predictor(best_for_gaussian(mean, std), alphas_cumprod, prediction_type)
    got = variational_bound(
        predict,
        clean_images,
        alphas_cumprod=alphas_cumprod,
        prediction_type=prediction_type,
        variance_type=variance_type,
        noise=lambda timesteps: noise,
    )
    assert {value.dtype for value in (got.prior, got.decoder, got.terms, got.total)} == {torch.float64}

    level, before = alphas_cumprod[1:], alphas_cumprod[:-1]
    beta = 1 - level / before
    beta_tilde = beta * (1 - before) / (1 - level)
    variance = beta_tilde if variance_type == "fixed_small" else beta
    weight = before.sqrt() * beta / (1 - level)  # of x_0 in the posterior's mean
    spread = weight**2 * left_over_variance(std, level)
    terms = (beta_tilde / variance - 1 - (beta_tilde / variance).log() + spread / variance) / 2 / LN2
    assert got.timesteps.tolist() == [list(range(1, 60))]
    torch.testing.assert_close(got.terms[0], terms, rtol=1e-7, atol=1e-12)

    last = alphas_cumprod[-1]
    prior = (last * (mean**2 + std**2) - last - torch.log1p(-last)) / 2 / LN2
    torch.testing.assert_close(got.prior[0], prior, rtol=1e-9, atol=1e-15)
    noisy_images = alphas_cumprod[0].sqrt() * clean_images + (1 - alphas_cumprod[0]).sqrt() * noise
    decoder = Normal(best_for_gaussian(mean, std)(noisy_images, alphas_cumprod[0]), beta_tilde[0].sqrt())
    bins = decoder.cdf(clean_images + 1 / 255) - decoder.cdf(clean_images - 1 / 255)
    torch.testing.assert_close(got.decoder[0], -bins.log2().mean(), rtol=1e-9, atol=0)
    torch.testing.assert_close(got.total[0], got.decoder[0] + prior + terms.sum(), rtol=1e-9, atol=0)


@pytest.mark.parametrize("num_train_timesteps", [5, 40])
def test_the_exact_reverse_process_reaches_the_true_likelihood(num_train_timesteps):
    # The reversal of a diffusion of Gaussian data is Gaussian, so the bound is tight with few timesteps already.
    std, alphas_cumprod = 0.2, linear(num_train_timesteps, beta_start=2e-3)
    posterior = posterior_of(alphas_cumprod)
    variance = posterior.log_variance.exp() + posterior.clean_weight**2 * left_over_variance(std, alphas_cumprod)
    variance[0] = left_over_variance(std, alphas_cumprod)[0]
    values = 2 * (variance.log() - posterior.log_variance) / (posterior.log_beta - posterior.log_variance) - 1
    clean_images = BYTES[((std * quantiles(400) + 1) * 127.5).round().long()].view(1, 1, -1, 1).expand(1, 1, 400, 60)
    got = variational_bound(
        predictor(best_for_gaussian(0, std), alphas_cumprod, values=values),
        clean_images,
        alphas_cumprod=alphas_cumprod,
        prediction_type="sample",
        variance_type="learned_range",
        noise=lambda timesteps: quantiles(60).expand_as(clean_images),
    )
    log_probability = discretized_gaussian_log_likelihood(BYTES, torch.zeros(()), torch.tensor(2 * math.log(std)).double())
    entropy = -(log_probability.exp() * log_probability).sum() / LN2
    marginal = 1 + alphas_cumprod[-1] * (std**2 - 1)  # the variance of x_T, where the model begins with 1
    expected = entropy + (marginal - 1 - marginal.log()) / 2 / LN2
    torch.testing.assert_close(got.total[0], expected, rtol=0, atol=0.01)


def test_many_timesteps_come_near_the_entropy_of_8_bit_values():
    # Two values, one three times as frequent as the other.
    low, high = BYTES[60], BYTES[180]
    clean_images = torch.stack([low, high, high, high]).view(1, 1, 4, 1).expand(1, 1, 4, 400)

    def denoise(noisy_images: Tensor, level: Tensor) -> Tensor:
        middle, width = level.sqrt() * (low + high) / 2, (1 - level) / (level.sqrt() * (high - low))
        return low + (high - low) * torch.sigmoid((noisy_images - middle) / width + math.log(3))

    def gap(num_train_timesteps: int) -> float:
        alphas_cumprod = torch.linspace(14, -9, num_train_timesteps, dtype=torch.float64).sigmoid()
        got = variational_bound(
            predictor(denoise, alphas_cumprod),
            clean_images,
            alphas_cumprod=alphas_cumprod,
            prediction_type="sample",
            variance_type="fixed_small",
            noise=lambda timesteps: quantiles(400).expand_as(clean_images),
        )
        return got.total.item() - (2 - 0.75 * math.log2(3))

    gaps = [gap(count) for count in (30, 120, 480)]
    assert 0 < gaps[2] < 0.3 * gaps[1] < 0.1 * gaps[0] and gaps[2] < 0.02


# Estimates and batches


ALPHAS_CUMPROD = DDPMScheduler(10, beta_end=0.3).alphas_cumprod
GENERATOR = torch.Generator().manual_seed(0)
NOISE = torch.randn(10, 6, 2, 2, 2, generator=GENERATOR)  # of each timestep and image
CLEAN_IMAGES = BYTES[torch.randint(256, (6, 2, 2, 2), generator=GENERATOR)].float()
LABELS = torch.arange(6)


def bound_of(rows: Tensor, timesteps: Tensor | None = None, dtype: torch.dtype = torch.float32) -> BitsPerDim:
    """The bound of images of a model whose error depends on the timestep and the label."""

    def predict(noisy_images: Tensor, timesteps: Tensor, class_labels: Tensor) -> Tensor:
        return 0.9 * noisy_images + (0.01 * timesteps - 0.02 * class_labels).view(-1, 1, 1, 1)

    return variational_bound(
        predict,
        CLEAN_IMAGES[rows].to(dtype),
        LABELS[rows],
        alphas_cumprod=ALPHAS_CUMPROD.to(dtype),
        prediction_type="v_prediction",
        variance_type="fixed_large",
        noise=lambda timesteps: NOISE[timesteps, rows],
        timesteps=timesteps,
    )


def generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


def test_an_image_has_the_same_bound_in_every_batch():
    whole = bound_of(torch.arange(6))
    order = torch.tensor([5, 0, 3])
    part = bound_of(order)
    for name in ("prior", "decoder", "terms", "variational", "total"):
        torch.testing.assert_close(getattr(part, name), getattr(whole, name)[order], rtol=1e-12, atol=0)
        assert len(getattr(whole, name).unique(dim=0)) == 6
    torch.testing.assert_close(whole.total, whole.prior + whole.terms.sum(dim=1) + whole.decoder, rtol=1e-12, atol=0)


def test_float32_gives_the_bound_of_float64():
    exact, rounded = (bound_of(torch.arange(6), dtype=dtype) for dtype in (torch.float64, torch.float32))
    torch.testing.assert_close(rounded.total, exact.total, rtol=1e-5, atol=0)
    assert (rounded.total != exact.total).all()


@pytest.mark.parametrize("timesteps_per_image", [1, 4, 9])
def test_the_estimate_has_the_mean_of_the_full_sum(timesteps_per_image):
    count, rows = 4000, torch.full((4000,), 2)
    timesteps = sample_bound_timesteps(timesteps_per_image, 10, generators(count))
    estimates = bound_of(rows, timesteps).total
    exact = bound_of(torch.tensor([2])).total
    error = (estimates.mean() - exact).abs().item()
    assert error <= 4 * estimates.std().item() / math.sqrt(count) + 1e-9
    assert (estimates.std() < 1e-9) == (timesteps_per_image == 9), "all timesteps are no estimate"


def test_timesteps_of_an_estimate_are_stratified_and_each_as_likely():
    drawn = sample_bound_timesteps(4, 10, generators(6000))
    assert (drawn.shape, drawn.dtype) == ((6000, 4), torch.int64)
    frequency = drawn.flatten().bincount(minlength=10).double() / 6000
    assert frequency[0] == 0 and (frequency[1:] - 4 / 9).abs().max() < 0.03
    # One in each quarter of [1, 10).
    edges = torch.tensor([1, 3.25, 5.5, 7.75])
    ordered = drawn.sort(dim=1).values
    assert (ordered >= edges.floor()).all() and (ordered <= (edges + 2.25).floor()).all()
    assert torch.equal(sample_bound_timesteps(4, 10, generators(9))[:3], drawn[:3]), "an image's draw is its generator's"
    assert sample_bound_timesteps(9, 10, generators(5)).sort(dim=1).values.tolist() == [list(range(1, 10))] * 5


def test_an_estimate_takes_the_terms_of_the_full_sum():
    timesteps = sample_bound_timesteps(3, 10, generators(6))
    part, whole = bound_of(torch.arange(6), timesteps), bound_of(torch.arange(6))
    torch.testing.assert_close(part.terms, whole.terms.gather(1, timesteps - 1), rtol=1e-6, atol=0)
    torch.testing.assert_close(part.variational, 3 * part.terms.sum(dim=1), rtol=1e-12, atol=0)
    assert torch.equal(part.decoder, whole.decoder) and torch.equal(part.prior, whole.prior)


@pytest.mark.parametrize("prediction_type", ["sample", "v_prediction", "epsilon"])
def test_pure_noise_at_the_end(prediction_type):
    alphas_cumprod = DDPMScheduler(10, rescale_betas_zero_snr=True).alphas_cumprod

    def bound() -> BitsPerDim:
        return variational_bound(
            lambda noisy_images, timesteps, class_labels: noisy_images,
            CLEAN_IMAGES,
            alphas_cumprod=alphas_cumprod,
            prediction_type=prediction_type,
            variance_type="fixed_small",
            noise=lambda timesteps: NOISE[timesteps, torch.arange(6)],
        )

    if prediction_type == "epsilon":
        with pytest.raises(ValueError, match="prediction_type is 'epsilon'.*train v_prediction"):
            bound()
    else:
        got = bound()
        assert got.total.isfinite().all() and (got.prior == 0).all()


def test_a_schedule_without_a_bound_is_refused():
    with pytest.raises(ValueError, match="alphas_cumprod"):
        variational_bound(
            lambda noisy_images, timesteps, class_labels: noisy_images,
            CLEAN_IMAGES,
            alphas_cumprod=torch.tensor([0.9, 0.9, 0.1]),
            prediction_type="sample",
            variance_type="fixed_small",
            noise=lambda timesteps: NOISE[0],
        )
