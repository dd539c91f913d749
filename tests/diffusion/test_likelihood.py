"""The terms of the variational bound against closed forms, torch.distributions and diffusers."""

import math
from dataclasses import astuple

import pytest
import torch
from diffusers import DDPMScheduler
from torch.distributions import Normal, kl_divergence

from hf_ddpm.diffusion.likelihood import (
    HALF_BIN,
    discretized_gaussian_log_likelihood,
    gaussian_kl,
    half_bin_of,
    model_log_variance,
    posterior_mean,
    posterior_of,
    prior_term,
    vlb_terms,
)
from hf_ddpm.diffusion.objective import add_noise, clean_images_from_noise

VARIANCE_TYPES = ["fixed_small", "fixed_large", "learned_range"]
BYTES = torch.arange(256, dtype=torch.float64) * (2 / 255) - 1
# Timesteps at both ends and between them.
TIMESTEPS = torch.tensor([0, 1, 2, 250, 500, 998, 999])


def scheduler_of(beta_schedule: str = "squaredcos_cap_v2", **options) -> DDPMScheduler:
    return DDPMScheduler(beta_schedule=beta_schedule, clip_sample=False, **options)


def batch(alphas_cumprod: torch.Tensor, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Clean images of 8 bits, noise and noisy images at TIMESTEPS, in the type of alphas_cumprod."""
    generator, shape = torch.Generator().manual_seed(seed), (len(TIMESTEPS), 3, 4, 4)
    clean_images = BYTES[torch.randint(256, shape, generator=generator)].to(alphas_cumprod)
    noise = torch.randn(shape, generator=generator).to(alphas_cumprod)
    return clean_images, noise, add_noise(clean_images, noise, alphas_cumprod[TIMESTEPS].view(-1, 1, 1, 1))


# Posterior


@pytest.mark.parametrize("beta_schedule", ["linear", "squaredcos_cap_v2", "sigmoid"])
@pytest.mark.parametrize("rescale", [False, True])
def test_posterior_is_that_of_bayes(beta_schedule, rescale):
    # q(x_{t-1} | x_t, x_0) is proportional to q(x_t | x_{t-1}) q(x_{t-1} | x_0): precisions add up.
    alphas_cumprod = scheduler_of(beta_schedule, rescale_betas_zero_snr=rescale).alphas_cumprod.double()
    posterior = posterior_of(alphas_cumprod)
    alphas = alphas_cumprod[1:] / alphas_cumprod[:-1]
    step_precision, prior_precision = alphas / (1 - alphas), 1 / (1 - alphas_cumprod[:-1])
    variance = 1 / (step_precision + prior_precision)
    torch.testing.assert_close(posterior.log_variance[1:], variance.log(), rtol=0, atol=1e-9)
    torch.testing.assert_close(posterior.log_beta[1:], (1 - alphas).log(), rtol=0, atol=1e-9)
    torch.testing.assert_close(
        posterior.clean_weight[1:], variance * prior_precision * alphas_cumprod[:-1].sqrt(), rtol=1e-9, atol=0
    )
    torch.testing.assert_close(posterior.noisy_weight[1:], variance * alphas.sqrt() / (1 - alphas), rtol=1e-9, atol=0)


@pytest.mark.parametrize("beta_schedule", ["linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("rescale", [False, True])
def test_float32_tables_have_the_digits_of_float64(beta_schedule, rescale):
    alphas_cumprod = scheduler_of(beta_schedule, rescale_betas_zero_snr=rescale).alphas_cumprod
    for table, exact in zip(
        astuple(posterior_of(alphas_cumprod)), astuple(posterior_of(alphas_cumprod.double())), strict=True
    ):
        assert table.dtype == torch.float32 and table.isfinite().all()
        torch.testing.assert_close(table.double(), exact, rtol=1e-7, atol=0)


def test_ends_of_the_posterior():
    posterior = posterior_of(scheduler_of(rescale_betas_zero_snr=True).alphas_cumprod)
    assert (posterior.clean_weight[0], posterior.noisy_weight[0]) == (1, 0), "at t = 0 the mean is x_0"
    assert posterior.log_variance[0] == posterior.log_variance[1]
    assert (posterior.noisy_weight[-1], posterior.log_beta[-1]) == (0, 0), "pure noise tells nothing of x_{t-1}"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(beta_start=1e-9, beta_end=1e-9), "is 1 at timestep 0 as before it"),
        (dict(beta_start=0.5, beta_end=0.9), "at timestep 1[0-9][0-9] as before it"),
    ],
)
def test_schedules_without_a_posterior_are_refused(options, words):
    with pytest.raises(ValueError, match=f"alphas_cumprod .*{words}.*set `num_train_timesteps` lower"):
        posterior_of(scheduler_of("linear", **options).alphas_cumprod)


# Equality with the scheduler that samples


@pytest.mark.parametrize("beta_schedule", ["linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("variance_type", VARIANCE_TYPES)
def test_variances_are_those_that_diffusers_samples_with(beta_schedule, rescale, variance_type):
    scheduler = scheduler_of(beta_schedule, variance_type=variance_type, rescale_betas_zero_snr=rescale)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()  # its differences lose digits in float32
    values = 2 * torch.rand(len(TIMESTEPS), 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 1
    posterior = posterior_of(scheduler.alphas_cumprod)
    got = model_log_variance(posterior, variance_type, TIMESTEPS, values).expand_as(values)
    for row, timestep in enumerate(TIMESTEPS.tolist()):
        if timestep == 0:
            continue  # no noise is added there
        expected = scheduler._get_variance(timestep, predicted_variance=values[row])
        expected = expected if variance_type == "learned_range" else expected.log()
        torch.testing.assert_close(got[row], expected.expand_as(got[row]), rtol=0, atol=1e-9)


def test_means_are_those_that_diffusers_samples_with():
    scheduler = scheduler_of(prediction_type="sample")
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    posterior = posterior_of(scheduler.alphas_cumprod)
    clean_images, _, noisy_images = batch(scheduler.alphas_cumprod)
    other_images, _, other_noisy = batch(scheduler.alphas_cumprod, seed=1)

    def step(row: int, clean_images, noisy_images) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        return scheduler.step(clean_images[row], TIMESTEPS[row], noisy_images[row], generator=generator).prev_sample

    # Two steps add the same noise, so they lie apart as their means do.
    got = posterior_mean(posterior, clean_images, noisy_images, TIMESTEPS)
    got = got - posterior_mean(posterior, other_images, other_noisy, TIMESTEPS)
    for row in range(len(TIMESTEPS)):
        expected = step(row, clean_images, noisy_images) - step(row, other_images, other_noisy)
        torch.testing.assert_close(got[row], expected, rtol=0, atol=1e-9)


def test_learned_variance_lies_between_the_fixed_ones():
    posterior, timesteps = posterior_of(scheduler_of().alphas_cumprod.double()), torch.arange(1, 1000)

    def learned(value: float) -> torch.Tensor:
        return model_log_variance(posterior, "learned_range", timesteps, torch.full((999, 1, 1, 1), value))

    small, large = (model_log_variance(posterior, name, timesteps) for name in ("fixed_small", "fixed_large"))
    torch.testing.assert_close(learned(-1.0), small, rtol=1e-12, atol=0)
    torch.testing.assert_close(learned(1.0), large, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(learned(0.0), (small + large) / 2, rtol=1e-12, atol=0)
    assert (small < large).all()


def test_fixed_variances_have_one_decoder():
    posterior, first = posterior_of(scheduler_of().alphas_cumprod), torch.tensor([0])
    small, large = (model_log_variance(posterior, name, first) for name in ("fixed_small", "fixed_large"))
    assert small == large == posterior.log_variance[1]


# Kullback-Leibler divergence


def test_divergence_is_that_of_torch():
    mean1, log_variance1, mean2, log_variance2 = torch.randn(4, 500, generator=torch.Generator().manual_seed(0)).double()
    p, q = Normal(mean1, (log_variance1 / 2).exp()), Normal(mean2, (log_variance2 / 2).exp())
    got = gaussian_kl(mean1, log_variance1, mean2, log_variance2)
    torch.testing.assert_close(got, kl_divergence(p, q), rtol=1e-9, atol=1e-12)
    assert (gaussian_kl(mean1, log_variance1, mean1, log_variance1) == 0).all()


def test_bfloat16_is_computed_in_float32():
    values = torch.randn(4, 50, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert torch.equal(gaussian_kl(*values), gaussian_kl(*values.float()))
    assert torch.equal(
        discretized_gaussian_log_likelihood(*values[:3]), discretized_gaussian_log_likelihood(*values[:3].float())
    )


# Decoder


@pytest.mark.parametrize("mean", [0.0, -1.0, 1.0, 0.3001, 3.0, -50.0])
@pytest.mark.parametrize("std", [1e-3, 4.7e-3, 0.1, 10.0])
def test_probabilities_of_all_values_sum_to_one(mean, std):
    log_variance = torch.tensor(2 * math.log(std), dtype=torch.float64)
    log_probability = discretized_gaussian_log_likelihood(BYTES, torch.tensor(mean, dtype=torch.float64), log_variance)
    assert log_probability.isfinite().all()
    assert abs(log_probability.exp().sum() - 1) < 1e-12
    in_float32 = discretized_gaussian_log_likelihood(BYTES.float(), torch.tensor(mean), log_variance.float())
    assert abs(in_float32.exp().sum() - 1) < 1e-5


def test_probability_is_the_integral_over_the_bin():
    value, normal = BYTES[140], Normal(torch.tensor(0.05).double(), torch.tensor(0.1).double())
    grid = torch.linspace(value - HALF_BIN, value + HALF_BIN, 10_001, dtype=torch.float64)
    integral = torch.trapezoid(normal.log_prob(grid).exp(), grid)
    got = discretized_gaussian_log_likelihood(value, normal.loc, normal.scale.log() * 2)
    torch.testing.assert_close(got.exp(), integral, rtol=1e-8, atol=0)


@pytest.mark.parametrize(("value", "sign"), [(0, 1), (1, 1), (1, -1), (128, 1), (128, -1), (254, 1), (254, -1), (255, -1)])
def test_far_tails_keep_their_gradient(value, sign):
    # The tail of a Gaussian: log p is about -z^2 / 2, z standard deviations from the nearer edge of the bin.
    std, image = 4.7e-3, BYTES[value].float()
    mean = (image + sign * 40).requires_grad_()
    log_variance = torch.tensor(2 * math.log(std), requires_grad=True)
    log_probability = discretized_gaussian_log_likelihood(image, mean, log_variance)
    log_probability.backward()
    edge = mean.detach() - image - sign * HALF_BIN
    torch.testing.assert_close(log_probability.detach(), -((edge / std) ** 2) / 2, rtol=1e-4, atol=0)
    torch.testing.assert_close(mean.grad, -edge / std**2, rtol=1e-4, atol=0)
    torch.testing.assert_close(log_variance.grad, (edge / std) ** 2 / 2, rtol=1e-4, atol=0)


@pytest.mark.parametrize("end", [-1.0, 1.0])
def test_the_outer_bins_are_open(end):
    mean = torch.tensor([40 * end, 2 * end], requires_grad=True)
    log_probability = discretized_gaussian_log_likelihood(torch.tensor(end), mean, torch.tensor(-4.0))
    log_probability.sum().backward()
    assert (log_probability.abs() < 1e-6).all() and (mean.grad.abs() < 1e-6).all()


def test_gradient_of_the_decoder_is_that_of_finite_differences():
    generator = torch.Generator().manual_seed(0)
    images = BYTES[[0, 3, 100, 128, 254, 255]]
    mean = images + 0.02 * torch.randn(6, generator=generator, dtype=torch.float64)
    log_variance = torch.full((6,), 2 * math.log(0.01), dtype=torch.float64)
    torch.autograd.gradcheck(
        lambda mean, log_variance: discretized_gaussian_log_likelihood(images, mean, log_variance),
        (mean.requires_grad_(), log_variance.requires_grad_()),
        eps=1e-7,
        atol=1e-3,
    )


# Terms of the bound


def terms_of(alphas_cumprod, variance_type: str, pred_original_sample, **options) -> torch.Tensor:
    posterior = posterior_of(alphas_cumprod)
    clean_images, _, noisy_images = batch(alphas_cumprod)
    log_variance = model_log_variance(posterior, variance_type, TIMESTEPS, **options)
    return vlb_terms(
        posterior,
        clean_images,
        noisy_images,
        TIMESTEPS,
        pred_original_sample=pred_original_sample,
        log_variance=log_variance,
    )


@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("beta_schedule", ["linear", "squaredcos_cap_v2"])
def test_divergence_is_the_weighted_error_of_the_noise(variance_type, beta_schedule):
    # Ho et al. 2020, eq. 12: beta^2 / (2 sigma^2 alpha (1 - alpha-bar)) |epsilon - epsilon_theta|^2 + C.
    alphas_cumprod = scheduler_of(beta_schedule).alphas_cumprod.double()
    _, noise, noisy_images = batch(alphas_cumprod)
    predicted = noise + torch.randn(noise.shape, generator=torch.Generator().manual_seed(9)).double()
    level = alphas_cumprod[TIMESTEPS]
    pred_original_sample = clean_images_from_noise(predicted, noisy_images, level.view(-1, 1, 1, 1))
    got = terms_of(alphas_cumprod, variance_type, pred_original_sample) * math.log(2)

    level, before = level[1:], alphas_cumprod[TIMESTEPS[1:] - 1]
    alpha = level / before
    beta_tilde = (1 - alpha) * (1 - before) / (1 - level)
    sigma2 = beta_tilde if variance_type == "fixed_small" else 1 - alpha
    weight = (1 - alpha) ** 2 / (2 * sigma2 * alpha * (1 - level))
    error = (noise - predicted).square().mean(dim=(1, 2, 3))[1:]
    constant = (beta_tilde / sigma2 - 1 - (beta_tilde / sigma2).log()) / 2
    torch.testing.assert_close(got[1:], weight * error + constant, rtol=1e-6, atol=1e-12)


def test_the_first_term_is_the_decoder():
    alphas_cumprod = scheduler_of().alphas_cumprod.double()
    clean_images, _, _ = batch(alphas_cumprod)
    predicted = clean_images + 0.01
    log_variance = posterior_of(alphas_cumprod).log_variance[0]
    expected = discretized_gaussian_log_likelihood(clean_images[0], predicted[0], log_variance)
    got = terms_of(alphas_cumprod, "fixed_small", predicted)
    torch.testing.assert_close(got[0], -expected.mean() / math.log(2), rtol=1e-12, atol=0)


def test_an_order_of_the_batch_changes_no_term():
    alphas_cumprod = scheduler_of().alphas_cumprod
    posterior, order = posterior_of(alphas_cumprod), torch.tensor([3, 0, 6, 0, 1])
    clean_images, noise, noisy_images = batch(alphas_cumprod)
    predicted = clean_images + 0.1 * noise

    def terms(rows):
        timesteps = TIMESTEPS[rows]
        log_variance = model_log_variance(posterior, "learned_range", timesteps, noise[rows])
        images = clean_images[rows], noisy_images[rows], timesteps
        return vlb_terms(posterior, *images, pred_original_sample=predicted[rows], log_variance=log_variance)

    torch.testing.assert_close(terms(order), terms(torch.arange(7))[order], rtol=1e-6, atol=0)
    assert terms(torch.tensor([2, 3])).shape == (2,), "a batch without t = 0"


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("variance_type", VARIANCE_TYPES)
def test_a_perfect_prediction_gives_the_least_bound(variance_type, rescale):
    alphas_cumprod = scheduler_of(rescale_betas_zero_snr=rescale).alphas_cumprod
    clean_images, noise, _ = batch(alphas_cumprod)
    options = dict(variance_values=torch.zeros_like(noise)) if variance_type == "learned_range" else {}
    perfect = terms_of(alphas_cumprod, variance_type, clean_images, **options)
    assert (perfect[:-1] < terms_of(alphas_cumprod, variance_type, clean_images + 0.05 * noise, **options)[:-1]).all()
    if variance_type == "fixed_small":
        assert (perfect[1:] == 0).all()
    # From the last step the cosine schedule learns next to nothing.
    worse = terms_of(alphas_cumprod, variance_type, clean_images + 3 * noise, **options)
    assert perfect.isfinite().all() and (perfect <= worse).all() and perfect[0] > 0


def test_the_best_variance_is_the_posterior_s_for_a_perfect_mean():
    alphas_cumprod = scheduler_of().alphas_cumprod.double()
    clean_images, noise, _ = batch(alphas_cumprod)
    values = torch.full_like(noise, -1.0).requires_grad_()
    terms = terms_of(alphas_cumprod, "learned_range", clean_images, variance_values=values)
    terms[1:].sum().backward()
    assert values.grad.abs().max() < 1e-12 and terms[1:].abs().max() < 1e-12
    wide = terms_of(alphas_cumprod, "learned_range", clean_images, variance_values=values.detach() + 1)
    assert (wide[1:] > 0).all()


# The prior's term


def test_the_prior_s_term_is_the_divergence_of_torch():
    alphas_cumprod = scheduler_of("linear").alphas_cumprod.double()
    clean_images, _, _ = batch(alphas_cumprod)
    last = alphas_cumprod[-1]
    expected = kl_divergence(Normal(last.sqrt() * clean_images, (1 - last).sqrt()), Normal(0.0, 1.0))
    got = prior_term(alphas_cumprod, clean_images)
    torch.testing.assert_close(got, expected.mean(dim=(1, 2, 3)) / math.log(2), rtol=1e-9, atol=0)
    assert (got > 0).all()


def test_the_prior_s_term_keeps_its_digits_in_float32():
    exact = torch.tensor([0.5, 4e-5], dtype=torch.float64)
    black = torch.full((2, 1, 2, 2), -1.0, dtype=torch.float64)
    # KL(N(sqrt(a), 1 - a) || N(0, 1)) = (a - a - log(1 - a)) / 2 where x_0^2 = 1.
    expected = torch.full((2,), -math.log1p(-4e-5) / 2 / math.log(2), dtype=torch.float64)
    # exp(-4e-5) - 1 + 4e-5 keeps 2.2e-16 / 4e-5 = 6e-12 of its digits, whose last ones are those of the CPU's exp.
    torch.testing.assert_close(prior_term(exact, black), expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(prior_term(exact.float(), black.float()), expected, rtol=1e-7, atol=0)


def test_pure_noise_at_the_end_has_no_prior_s_term():
    assert prior_term(torch.tensor([0.5, 0.0]), torch.ones(3, 1, 2, 2)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("std", [0.01, 0.5])
def test_the_probabilities_of_all_values_of_16_bits_add_up_to_one(std):
    half_bin = half_bin_of("uint16", (0, 65535))
    values = torch.arange(65536, dtype=torch.float64) * 2 * half_bin - 1
    log_variance = torch.tensor(2 * math.log(std), dtype=torch.float64)
    log_probability = discretized_gaussian_log_likelihood(values, torch.tensor(0.3).double(), log_variance, half_bin)
    assert log_probability.exp().sum().item() == pytest.approx(1, abs=1e-9)


def test_floats_have_no_decoder():
    assert half_bin_of("uint8", None) == HALF_BIN
    with pytest.raises(ValueError, match="the images are float32: the variational bound is defined for integers"):
        half_bin_of("float32", (0, 1))
