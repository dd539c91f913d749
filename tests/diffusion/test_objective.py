"""The objective against its formulas: inverses in float64, and equality with diffusers and torch."""

import math
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler

from hf_ddpm.diffusion.likelihood import model_log_variance, posterior_of, vlb_terms
from hf_ddpm.diffusion.objective import (
    LOSSES,
    TimestepSampling,
    add_noise,
    clean_images_from_noise,
    clean_images_from_velocity,
    clean_images_of,
    diffusion_loss,
    drop_labels,
    min_snr_weights,
    noise_from_clean_images,
    noise_from_velocity,
    stratified_timesteps,
    target_of,
    timesteps_at,
    velocity_of,
)

PREDICTION_TYPES = ["epsilon", "sample", "v_prediction"]
METHODS = get_args(TimestepSampling)
SCHEDULER = DDPMScheduler(beta_schedule="squaredcos_cap_v2")


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def batch(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Clean images, noise and timesteps at all noise levels."""
    clean_images = normal(6, 3, 4, 4, seed=1, dtype=dtype).clamp(-1, 1)
    return clean_images, normal(6, 3, 4, 4, seed=2, dtype=dtype), torch.tensor([0, 1, 250, 500, 998, 999])


def levels() -> torch.Tensor:
    """alphas_cumprod strictly between 0 and 1, broadcastable to the images."""
    return torch.tensor([1 - 1e-4, 0.9, 0.5, 0.1, 1e-2, 1e-4], dtype=torch.float64).view(-1, 1, 1, 1)


# Conversions


def test_conversions_are_inverses_in_float64():
    clean_images, noise, _ = batch(torch.float64)
    noisy_images = add_noise(clean_images, noise, levels())
    velocity = velocity_of(clean_images, noise, levels())
    for got, expected in (
        (clean_images_from_noise(noise, noisy_images, levels()), clean_images),
        (noise_from_clean_images(clean_images, noisy_images, levels()), noise),
        (clean_images_from_velocity(velocity, noisy_images, levels()), clean_images),
        (noise_from_velocity(velocity, noisy_images, levels()), noise),
    ):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("alphas_cumprod", [0.0, 1.0])
def test_velocity_converts_at_pure_noise_and_at_no_noise(alphas_cumprod):
    clean_images, noise, _ = batch(torch.float64)
    level = torch.full((6, 1, 1, 1), alphas_cumprod, dtype=torch.float64)
    noisy_images, velocity = add_noise(clean_images, noise, level), velocity_of(clean_images, noise, level)
    assert torch.equal(clean_images_from_velocity(velocity, noisy_images, level), clean_images)
    assert torch.equal(noise_from_velocity(velocity, noisy_images, level), noise)


def test_noisy_images_are_those_of_diffusers():
    clean_images, noise, timesteps = batch()
    level = SCHEDULER.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    torch.testing.assert_close(
        add_noise(clean_images, noise, level), SCHEDULER.add_noise(clean_images, noise, timesteps), rtol=0, atol=1e-6
    )


def test_targets_are_those_of_diffusers():
    clean_images, noise, timesteps = batch()
    level = SCHEDULER.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    assert torch.equal(target_of("epsilon", clean_images, noise, level), noise)
    assert torch.equal(target_of("sample", clean_images, noise, level), clean_images)
    torch.testing.assert_close(
        target_of("v_prediction", clean_images, noise, level),
        SCHEDULER.get_velocity(clean_images, noise, timesteps),
        rtol=0,
        atol=1e-6,
    )


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_a_target_gives_back_its_clean_images(prediction_type):
    clean_images, noise, _ = batch(torch.float64)
    target, noisy_images = (
        target_of(prediction_type, clean_images, noise, levels()),
        add_noise(clean_images, noise, levels()),
    )
    got = clean_images_of(prediction_type, target, noisy_images, levels())
    torch.testing.assert_close(got, clean_images, rtol=0, atol=1e-10)


# Loss


class Tiny(torch.nn.Module):
    """A network that sees all it is given, and keeps it."""

    def __init__(self, dtype: torch.dtype = torch.float32, channels: int = 3):
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, channels, 3, padding=1)
        self.labels = torch.nn.Embedding(4, channels)
        self.dtype = dtype

    def forward(self, noisy_images, timesteps, class_labels):
        self.seen = noisy_images, timesteps, class_labels
        output = self.convolution(noisy_images) * (1 + timesteps.view(-1, 1, 1, 1) / 1000)
        if class_labels is not None:
            output = output + self.labels(class_labels)[:, :, None, None]
        return output.to(self.dtype)


def loss_of(model, prediction_type: str = "v_prediction", class_labels=None, **options):
    clean_images, noise, timesteps = batch()
    alphas_cumprod = SCHEDULER.alphas_cumprod
    return diffusion_loss(
        model,
        clean_images,
        noise,
        timesteps,
        class_labels,
        alphas_cumprod=alphas_cumprod,
        prediction_type=prediction_type,
        **options,
    )


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize(
    ("loss", "reference"), [("l2", F.mse_loss), ("l1", F.l1_loss), ("smooth_l1", F.smooth_l1_loss), ("huber", F.huber_loss)]
)
def test_losses_are_those_of_torch(prediction_type, loss, reference):
    clean_images, noise, timesteps = batch()
    model = Tiny()
    result = loss_of(model, prediction_type, loss=loss)
    target = {
        "epsilon": noise,
        "sample": clean_images,
        "v_prediction": SCHEDULER.get_velocity(clean_images, noise, timesteps),
    }[prediction_type]
    output = model(SCHEDULER.add_noise(clean_images, noise, timesteps), timesteps, None)
    torch.testing.assert_close(result.loss, reference(output, target))
    each = torch.stack([reference(output[row], target[row]) for row in range(6)])
    torch.testing.assert_close(result.sample_losses, each)


def test_every_loss_has_a_test():
    assert set(LOSSES) == {"l2", "l1", "smooth_l1", "huber"}


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_a_perfect_prediction_has_no_loss(prediction_type):
    clean_images, noise, timesteps = batch()
    target = target_of(prediction_type, clean_images, noise, SCHEDULER.alphas_cumprod[timesteps].view(-1, 1, 1, 1))
    assert loss_of(lambda *_: target, prediction_type, snr_gamma=5.0).loss == 0


def test_the_model_is_given_timesteps_and_labels():
    model, class_labels = Tiny(), torch.tensor([0, 1, 2, 3, 0, 1])
    loss_of(model, class_labels=class_labels)
    assert torch.equal(model.seen[1], batch()[2]) and torch.equal(model.seen[2], class_labels)


def test_noising_and_loss_are_float32_whatever_the_model_returns():
    model = Tiny(torch.bfloat16)
    result = loss_of(model, snr_gamma=5.0)
    assert {model.seen[0].dtype, result.loss.dtype, result.sample_losses.dtype} == {torch.float32}
    assert result.loss.shape == () and result.sample_losses.shape == (6,)
    result = loss_of(lambda *_: torch.zeros(6, 3, 4, 4, dtype=torch.bfloat16), "epsilon")
    torch.testing.assert_close(result.loss, batch()[1].square().mean())


def test_the_loss_has_the_gradient_of_its_formula():
    clean_images, noise, timesteps = batch()
    output = normal(6, 3, 4, 4, seed=3).requires_grad_()
    loss_of(lambda *_: output, "epsilon", snr_gamma=5.0).loss.backward()
    weights = min_snr_weights("epsilon", SCHEDULER.alphas_cumprod[timesteps], 5.0).view(-1, 1, 1, 1)
    torch.testing.assert_close(output.grad, 2 * weights * (output.detach() - noise) / output.numel())


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_the_loss_reaches_every_weight(prediction_type):
    model = Tiny()
    loss_of(model, prediction_type, torch.tensor([0, 1, 2, 3, 0, 1])).loss.backward()
    assert all((parameter.grad != 0).any() for parameter in model.parameters())


def test_weights_change_the_loss_and_not_the_losses_of_the_samples():
    model = Tiny()
    plain, weighted = loss_of(model, "sample"), loss_of(model, "sample", snr_gamma=5.0)
    weights = min_snr_weights("sample", SCHEDULER.alphas_cumprod[batch()[2]], 5.0)
    assert torch.equal(plain.sample_losses, weighted.sample_losses)
    torch.testing.assert_close(weighted.loss, (weights * plain.sample_losses).mean())
    torch.testing.assert_close(plain.loss, plain.sample_losses.mean())


def test_the_plain_loss_is_its_formula_bit_for_bit():
    clean_images, noise, timesteps = batch()
    model, level = Tiny(), SCHEDULER.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    result = loss_of(model, "epsilon")
    output = model(level.sqrt() * clean_images + (1 - level).sqrt() * noise, timesteps, None)
    assert torch.equal(result.loss, F.mse_loss(output, noise, reduction="none").mean(dim=(1, 2, 3)).mean())
    assert result.vlb is None
    assert torch.equal(result.loss, loss_of(model, "epsilon", variance_type="fixed_large").loss)


# The variational bound


def bound_of(output: torch.Tensor, prediction_type: str, variance_type: str) -> torch.Tensor:
    """T times each term of the bound, put together from its parts."""
    clean_images, noise, timesteps = batch()
    level = SCHEDULER.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    noisy_images, posterior = add_noise(clean_images, noise, level), posterior_of(SCHEDULER.alphas_cumprod)
    terms = vlb_terms(
        posterior,
        clean_images,
        noisy_images,
        timesteps,
        pred_original_sample=clean_images_of(prediction_type, output[:, :3], noisy_images, level),
        log_variance=model_log_variance(posterior, variance_type, timesteps, output[:, 3:]),
    )
    return 1000 * terms


def random_output(variance_type: str) -> torch.Tensor:
    return normal(6, 6 if variance_type == "learned_range" else 3, 4, 4, seed=3).requires_grad_()


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_a_learned_variance_adds_a_thousandth_of_the_bound(prediction_type):
    output = random_output("learned_range")
    options = dict(loss="l1", snr_gamma=5.0)
    hybrid = loss_of(lambda *_: output, prediction_type, variance_type="learned_range", **options)
    simple = loss_of(lambda *_: output[:, :3], prediction_type, **options)
    bound = bound_of(output, prediction_type, "learned_range")
    assert torch.equal(hybrid.sample_losses, simple.sample_losses)
    torch.testing.assert_close(hybrid.vlb, bound)
    torch.testing.assert_close(hybrid.loss, simple.loss + 0.001 * bound.mean())


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_the_hybrid_bound_trains_the_variance_alone(prediction_type):
    output = random_output("learned_range")
    hybrid = loss_of(lambda *_: output, prediction_type, variance_type="learned_range")
    (of_bound,) = torch.autograd.grad(hybrid.vlb.sum(), output, retain_graph=True)
    assert (of_bound[:, :3] == 0).all() and (of_bound[:, 3:] != 0).any(dim=(1, 2, 3)).all()
    (of_loss,) = torch.autograd.grad(hybrid.loss, output)
    (of_simple,) = torch.autograd.grad(loss_of(lambda *_: output[:, :3], prediction_type).loss, output)
    assert torch.equal(of_loss[:, :3], of_simple[:, :3])


@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large", "learned_range"])
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_the_bound_is_a_loss_of_its_own(prediction_type, variance_type):
    output = random_output(variance_type)
    result = loss_of(lambda *_: output, prediction_type, variance_type=variance_type, loss_weighting="vlb")
    torch.testing.assert_close(result.vlb, bound_of(output, prediction_type, variance_type))
    assert torch.equal(result.loss, result.vlb.mean())
    assert torch.equal(result.sample_losses, loss_of(lambda *_: output[:, :3], prediction_type).sample_losses)
    result.loss.backward()
    assert output.grad.isfinite().all() and (output.grad[:, :3] != 0).any(dim=(1, 2, 3)).all()
    if variance_type == "learned_range":
        assert (output.grad[:, 3:] != 0).any(dim=(1, 2, 3)).all()


@pytest.mark.parametrize("prediction_type", ["sample", "v_prediction"])
@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large", "learned_range"])
def test_the_bound_is_finite_where_the_last_step_is_pure_noise(prediction_type, variance_type):
    alphas_cumprod = DDPMScheduler(beta_schedule="linear", rescale_betas_zero_snr=True).alphas_cumprod
    output, timesteps = random_output(variance_type), torch.tensor([0, 1, 2, 500, 998, 999])
    result = diffusion_loss(
        lambda *_: output, *batch()[:2], timesteps, None, alphas_cumprod=alphas_cumprod, prediction_type=prediction_type,
        variance_type=variance_type, loss_weighting="vlb",
    )  # fmt: skip
    result.loss.backward()
    assert alphas_cumprod[999] == 0 and result.vlb.isfinite().all() and output.grad.isfinite().all()


def test_the_bound_of_bfloat16_outputs_is_float32():
    model = Tiny(torch.bfloat16, channels=6)
    result = loss_of(model, variance_type="learned_range", loss_weighting="vlb")
    assert {result.loss.dtype, result.vlb.dtype} == {torch.float32} and result.vlb.shape == (6,)
    result.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


def test_the_bound_falls_when_it_is_trained():
    torch.manual_seed(0)
    model = Tiny(channels=6)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    bounds = []
    for _ in range(40):
        result = loss_of(model, "epsilon", variance_type="learned_range", loss_weighting="vlb")
        optimizer.zero_grad()
        result.loss.backward()
        optimizer.step()
        bounds.append(result.loss.item())
    assert all(math.isfinite(bound) for bound in bounds) and bounds[-1] < 0.5 * bounds[0]


@pytest.mark.parametrize(("channels", "variance_type"), [(6, "fixed_small"), (3, "learned_range")])
def test_a_model_with_another_number_of_channels_is_a_programming_error(channels, variance_type):
    with pytest.raises(AssertionError, match=f"{channels} channels with {variance_type}"):
        loss_of(Tiny(channels=channels), variance_type=variance_type)


# Min-SNR weights


@pytest.mark.parametrize("gamma", [0.5, 5.0])
def test_min_snr_weights_are_the_quotients_where_those_are_defined(gamma):
    alphas_cumprod = torch.linspace(1e-4, 1 - 1e-4, 1001, dtype=torch.float64)
    snr = alphas_cumprod / (1 - alphas_cumprod)
    clipped = snr.clamp(max=gamma)
    for prediction_type, expected in {
        "sample": clipped,
        "epsilon": clipped / snr,
        "v_prediction": clipped / (snr + 1),
    }.items():
        got = min_snr_weights(prediction_type, alphas_cumprod, gamma)
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("prediction_type", "at_snr_0", "at_infinite_snr"), [("sample", 0, 5), ("epsilon", 1, 0), ("v_prediction", 0, 0)]
)
def test_min_snr_weights_are_finite_at_both_ends(prediction_type, at_snr_0, at_infinite_snr):
    weights = min_snr_weights(prediction_type, torch.tensor([0.0, 1.0]), 5.0)
    assert weights.tolist() == [at_snr_0, at_infinite_snr]


# Timesteps


@pytest.mark.parametrize(("count", "steps"), [(1, 2), (7, 1000), (5000, 10)])
def test_timesteps_are_one_a_sample_and_in_range(count, steps):
    timesteps = stratified_timesteps(count, steps, torch.Generator().manual_seed(0))
    assert timesteps.shape == (count,) and timesteps.dtype == torch.int64
    assert timesteps.min() >= 0 and timesteps.max() < steps


def test_timesteps_are_a_function_of_the_generator():
    draws = [stratified_timesteps(64, 1000, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize("seed", range(5))
def test_stratified_timesteps_are_one_in_each_stratum(seed):
    generator = torch.Generator().manual_seed(seed)
    strata = stratified_timesteps(50, 1000, generator) // 20
    assert torch.equal(strata.sort().values, torch.arange(50))
    assert not torch.equal(strata, torch.arange(50))
    counts = stratified_timesteps(3000, 1000, generator).bincount(minlength=1000)
    assert (counts == 3).all()


@pytest.mark.parametrize("position", [0, 4])
def test_each_sample_has_uniform_timesteps(position):
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([stratified_timesteps(5, 8, generator) for _ in range(4000)])[:, position]
    chi_squared = ((draws.bincount(minlength=8) - 500) ** 2 / 500).sum()
    assert chi_squared < 24.3  # 99.9 % of the distribution with 7 degrees of freedom


@pytest.mark.parametrize("method", METHODS)
def test_timesteps_at_positions_are_in_range_at_both_ends_of_the_uniform_numbers(method):
    for uniform in (torch.zeros(3, dtype=torch.float64), torch.full((3,), 1 - 2**-53, dtype=torch.float64)):
        timesteps = timesteps_at(range(4, 7), 7, 10, method, uniform, torch.Generator().manual_seed(0))
        assert timesteps.shape == (3,) and timesteps.dtype == torch.int64
        assert timesteps.min() >= 0 and timesteps.max() < 10


def test_uniform_timesteps_are_those_of_the_uniform_numbers():
    uniform = torch.tensor([0.0, 0.25, 0.999], dtype=torch.float64)
    assert timesteps_at(range(3), 3, 100, "uniform", uniform, torch.Generator()).tolist() == [0, 25, 99]


# Labels


@pytest.mark.parametrize(("probability", "expected"), [(0.0, 0), (1.0, 1), (0.1, 0.1), (0.5, 0.5)])
def test_labels_are_dropped_sample_by_sample_at_the_given_rate(probability, expected):
    class_labels = torch.arange(10).repeat(2000)
    uniform = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    labels = drop_labels(class_labels, uniform, probability, null_label=10)
    dropped = labels == 10
    assert labels.dtype == torch.int64
    assert torch.equal(labels[~dropped], class_labels[~dropped])
    assert torch.equal(dropped, uniform < probability)
    assert abs(dropped.double().mean() - expected) < 0.01
