"""The loss and the bound of held-out digits: their value, what they depend on, and what is refused."""

import math
from dataclasses import replace

import pytest
import torch
from accelerate import PartialState
from diffusers import DDPMScheduler, EDMEulerScheduler

from hf_ddpm import heldout_metrics as held_out
from hf_ddpm.data.batches import to_model_range
from hf_ddpm.data.table import ImageTable, load_images
from hf_ddpm.diffusion.objective import diffusion_loss, stratified_timesteps
from hf_ddpm.diffusion.randomness import seeded_generator
from hf_ddpm.heldout_metrics import bits_per_dim, simple_loss
from hf_ddpm.pipeline import CFGDDPMPipeline
from hf_ddpm.schedulers import build_scheduler
from hf_ddpm.training.preview import held_out_loss

T = 12
NAMES = {digit: str(digit) for digit in range(10)}


@pytest.fixture(scope="module")
def digits() -> ImageTable:
    return load_images("digits", "test", image_size=8)


@pytest.fixture(scope="module")
def tiny_pipeline(tiny_pipeline):
    def build(*, names="0123456789", outputs: int = 1, size: int = 8, **options) -> CFGDDPMPipeline:
        options = {"prediction_type": "v_prediction", "beta_schedule": "squaredcos_cap_v2", **options}
        return tiny_pipeline(DDPMScheduler(T, **options), names=names, out_channels=outputs, sample_size=size)

    return build


@pytest.fixture(scope="module")
def pipeline(tiny_pipeline) -> CFGDDPMPipeline:
    return tiny_pipeline()


def train_a_little(pipeline: CFGDDPMPipeline, images: ImageTable, steps: int = 20) -> None:
    unet, generator = pipeline.unet, torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=5e-3)
    for _ in range(steps):
        rows = torch.randint(len(images), (32,), generator=generator)
        noise, timesteps = torch.randn(32, 1, 8, 8, generator=generator), torch.randint(T, (32,), generator=generator)
        loss = diffusion_loss(
            lambda noisy, timesteps, labels: unet(noisy, timesteps, class_labels=labels).sample,
            to_model_range(images.images(rows)),
            noise,
            timesteps,
            images.class_labels[rows],
            alphas_cumprod=pipeline.scheduler.alphas_cumprod,
            prediction_type="v_prediction",
        ).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def part_of(images: ImageTable, rows) -> ImageTable:
    rows = list(rows)
    return replace(images, pixels=images.pixels.select(rows), class_labels=images.class_labels[rows])


def assert_close(found, expected, rtol: float) -> None:
    torch.testing.assert_close(found.curve, expected.curve, rtol=rtol, atol=0, equal_nan=True)
    for name in ("total", "prior", "variational", "decoder"):
        assert getattr(found, name).mean == pytest.approx(getattr(expected, name).mean, rel=rtol)
        assert getattr(found, name).stderr == pytest.approx(getattr(expected, name).stderr, rel=10 * rtol)


# Values


def test_training_takes_bits_and_loss_away(tiny_pipeline, digits):
    pipeline = tiny_pipeline()
    held_out_digits, others = part_of(digits, range(24)), part_of(digits, range(24, 360))
    before, loss_before = (
        bits_per_dim(pipeline, held_out_digits, num_images=24),
        simple_loss(pipeline, held_out_digits, num_images=24),
    )
    train_a_little(pipeline, others)
    after, loss_after = (
        bits_per_dim(pipeline, held_out_digits, num_images=24),
        simple_loss(pipeline, held_out_digits, num_images=24),
    )
    assert after.total.mean + 3 * after.total.stderr < before.total.mean < math.inf
    assert after.prior == before.prior, "no model changes it"
    assert loss_after.mean < 0.7 * loss_before.mean


def test_the_parts_add_up(pipeline, digits):
    bits = bits_per_dim(pipeline, digits, num_images=6)
    assert bits.total.mean == pytest.approx(bits.prior.mean + bits.variational.mean + bits.decoder.mean, rel=1e-12)
    assert bits.curve.shape == (T,) and bits.curve.dtype == torch.float64
    assert bits.curve[0] == bits.decoder.mean and bits.curve[1:].sum().item() == pytest.approx(bits.variational.mean)
    assert 0 < bits.prior.mean < bits.total.mean and min(bits.total.stderr, bits.decoder.stderr) > 0


def test_images_are_spread_over_the_table(pipeline, digits):
    # floor(i N / n): half of the images of a table of twice as many are those at its even positions.
    even = part_of(digits, range(0, 8, 2))
    first = part_of(digits, range(8))
    prior = bits_per_dim(pipeline, first, num_images=4, timesteps_per_image=1).prior
    assert prior == bits_per_dim(pipeline, even, num_images=4, timesteps_per_image=1).prior
    assert prior != bits_per_dim(pipeline, first, num_images=8, timesteps_per_image=1).prior


@pytest.mark.parametrize("timesteps_per_image", [None, 3])
def test_neither_batch_size_nor_processes_change_the_bound(pipeline, digits, timesteps_per_image):
    options = dict(num_images=10, timesteps_per_image=timesteps_per_image)
    whole = bits_per_dim(pipeline, digits, **options)
    assert_close(bits_per_dim(pipeline, digits, batch_size=3, **options), whole, 1e-5)
    assert_close(bits_per_dim(pipeline, digits, processes=PartialState(cpu=True), **options), whole, 1e-12)


def test_the_noise_of_an_image_does_not_depend_on_the_others(pipeline, digits):
    # The images of n = N / 2 are among those of n = N, with the noise and the timesteps of their positions.
    table = part_of(digits, range(6))
    rows = torch.arange(6)
    every = held_out._bits_of(pipeline, table, rows, 4, seed=5)
    half = held_out._bits_of(pipeline, table, rows[::2], 4, seed=5)
    assert torch.equal(half.timesteps, every.timesteps[::2])
    torch.testing.assert_close(half.total, every.total[::2], rtol=1e-5, atol=0)
    assert bits_per_dim(pipeline, table, num_images=3, timesteps_per_image=4, seed=5).total.mean == pytest.approx(
        half.total.mean().item()
    )


def test_every_image_and_timestep_has_noise_of_its_own(tiny_pipeline, digits):
    pipeline, inputs = tiny_pipeline(names=None), []
    pipeline.unet.register_forward_pre_hook(lambda unet, args: inputs.append(args[0]))
    same = part_of(digits, [0] * 4)
    bits_per_dim(pipeline, same, num_images=4)
    level = pipeline.scheduler.alphas_cumprod.view(-1, 1, 1, 1, 1)  # the decoder is called first
    noise = (torch.stack(inputs) - level.sqrt() * to_model_range(same.images(torch.arange(4)))) / (1 - level).sqrt()
    correlation = noise.reshape(4 * T, 64).corrcoef() - torch.eye(4 * T)
    assert correlation.abs().max() < 0.7 and abs(noise.mean()) < 0.05 and abs(noise.std() - 1) < 0.05


def test_the_seed_alone_is_chance(pipeline, digits):
    def total(seed: int) -> float:
        return bits_per_dim(pipeline, digits, num_images=4, timesteps_per_image=2, seed=seed).total.mean

    torch.manual_seed(1)
    first, state = total(0), torch.get_rng_state()
    assert first == total(0) != total(1)
    assert torch.equal(state, torch.get_rng_state())


def test_an_estimate_is_near_the_bound_and_knows_what_it_has_not_seen(pipeline, digits):
    exact = bits_per_dim(pipeline, digits, num_images=40)
    estimate = bits_per_dim(pipeline, digits, num_images=40, timesteps_per_image=4)
    error = estimate.total.mean - exact.total.mean
    assert error != 0 and abs(error) < 4 * math.hypot(estimate.total.stderr, exact.total.stderr)
    assert (estimate.prior, estimate.decoder) == (exact.prior, exact.decoder)
    one = bits_per_dim(pipeline, digits, num_images=1, timesteps_per_image=4)
    assert one.curve.isnan().sum() == T - 1 - 4 and math.isnan(one.total.stderr)


def test_labels_reach_a_conditional_model_alone(tiny_pipeline, digits):
    wrong = replace(digits, class_labels=(digits.class_labels + 1) % 10)
    for conditional in (True, False):
        pipeline = tiny_pipeline() if conditional else tiny_pipeline(names=None)
        results = [
            (simple_loss(pipeline, table, num_images=5).mean, bits_per_dim(pipeline, table, num_images=5).total.mean)
            for table in (digits, wrong)
        ]
        differs = [first != second for first, second in zip(*results, strict=True)]
        assert differs == [conditional] * 2


@pytest.mark.parametrize("outputs", [1, 2])
def test_bfloat16_is_near_float32(tiny_pipeline, digits, outputs):
    pipeline = tiny_pipeline(outputs=outputs, variance_type=["fixed_large", "learned_range"][outputs - 1])
    exact = bits_per_dim(pipeline, digits, num_images=6), simple_loss(pipeline, digits, num_images=6)
    pipeline.unet.to(torch.bfloat16)
    rounded = bits_per_dim(pipeline, digits, num_images=6), simple_loss(pipeline, digits, num_images=6)
    for found, expected in ((rounded[0].total.mean, exact[0].total.mean), (rounded[1].mean, exact[1].mean)):
        assert found == pytest.approx(expected, rel=0.02) and found != expected
    assert rounded[0].prior == exact[0].prior


# The loss


@pytest.mark.parametrize("loss", ["l2", "huber"])
def test_the_loss_is_that_of_the_same_draws_every_time(pipeline, digits, loss):
    # What training has always logged: the draws of one generator for all images, in batches of 128.
    generator = seeded_generator("step", 3, 0)
    all_timesteps = stratified_timesteps(200, T, generator)
    noise = torch.randn(200, 1, 8, 8, generator=generator)
    with torch.no_grad():
        expected = torch.cat(
            [
                diffusion_loss(
                    lambda noisy, timesteps, labels: pipeline.unet(noisy, timesteps, class_labels=labels).sample,
                    to_model_range(digits.images(rows)),
                    noise[rows],
                    all_timesteps[rows],
                    digits.class_labels[rows],
                    alphas_cumprod=pipeline.scheduler.alphas_cumprod,
                    prediction_type="v_prediction",
                    loss=loss,
                ).sample_losses
                for rows in torch.arange(200).split(128)
            ]
        )
    found = simple_loss(pipeline, digits, num_images=200, seed=3, loss=loss)
    assert found.mean == expected.mean().item()
    assert found.stderr == pytest.approx(expected.std().item() / math.sqrt(200))


def test_training_logs_the_loss_of_at_most_512_images(pipeline, digits):
    assert held_out_loss(pipeline, digits, loss="l2") == simple_loss(pipeline, digits, num_images=len(digits)).mean
    one = part_of(digits, [0])
    assert math.isfinite(held_out_loss(pipeline, one, loss="l2"))
    many = part_of(digits, [row % len(digits) for row in range(600)])
    assert held_out_loss(pipeline, many, loss="l2") == simple_loss(pipeline, many, num_images=512).mean


def test_images_may_be_spread_over_the_table(pipeline, digits):
    chosen = part_of(digits, [row * len(digits) // 7 for row in range(7)])
    assert simple_loss(pipeline, digits, num_images=7, spread=True) == simple_loss(pipeline, chosen, num_images=7)
    assert simple_loss(pipeline, digits, num_images=7, spread=True) != simple_loss(pipeline, digits, num_images=7)


def test_a_scheduler_by_name_changes_nothing(pipeline, digits):
    switched = CFGDDPMPipeline(pipeline.unet, build_scheduler("dpmsolver++", pipeline.scheduler.config), NAMES, 10)
    assert simple_loss(switched, digits, num_images=5) == simple_loss(pipeline, digits, num_images=5)
    assert_close(bits_per_dim(switched, digits, num_images=5), bits_per_dim(pipeline, digits, num_images=5), 1e-5)


# Refusals


@pytest.mark.parametrize("measure", [simple_loss, bits_per_dim])
@pytest.mark.parametrize(
    ("changes", "options", "words"),
    [
        (dict(size=16), {}, "images.image_size is 8: the model takes 16 x 16 pixels"),
        ({}, dict(num_images=0), "num_images is 0: give at least 1"),
        ({}, dict(num_images=361), "num_images is 361: there are only 360"),
        ({}, dict(num_images=5, seed=-1), "seed is -1: give a number from 0"),
        (dict(names=["cat"]), {}, "images have the classes 0, 1, .*trained on cat, give their images"),
    ],
)
def test_what_does_not_belong_together_is_refused(tiny_pipeline, digits, measure, changes, options, words):
    with pytest.raises(ValueError, match=words) as caught:
        measure(tiny_pipeline(**changes), digits, **{"num_images": 5, **options})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("measure", [simple_loss, bits_per_dim])
def test_other_channels_classes_and_schedulers_are_refused(pipeline, digits, measure):
    def refused(table: ImageTable, words: str, pipeline: CFGDDPMPipeline = pipeline) -> None:
        with pytest.raises(ValueError, match=words):
            measure(pipeline, table, num_images=3)

    refused(load_images("digits", "test", image_size=8, channels=3), "images.channels is 3: the model takes 1")
    refused(replace(digits, class_names=None, class_labels=None), "images have no labels")
    refused(replace(digits, class_names=list("9012345678")), "in this order")
    nameless = CFGDDPMPipeline(pipeline.unet, pipeline.scheduler, None, 10)
    refused(replace(digits, class_names=list("012")), "have 3 classes: the model was trained on 10", nameless)
    edm = CFGDDPMPipeline(pipeline.unet, EDMEulerScheduler(), NAMES, 10)
    refused(digits, "scheduler is 'EDMEulerScheduler': it has no betas", edm)


@pytest.mark.parametrize(
    ("changes", "options", "words"),
    [
        ({}, dict(timesteps_per_image=0), "timesteps_per_image is 0"),
        ({}, dict(timesteps_per_image=T), f"timesteps_per_image is {T}: give a number from 1 to {T - 1}"),
        ({}, dict(batch_size=0), "batch_size is 0"),
        (dict(variance_type="fixed_large_log"), {}, "variance_type is 'fixed_large_log': the bound is defined for"),
        (dict(variance_type="learned_range"), {}, "variance_type is 'learned_range': it needs 2 output channels"),
        (dict(outputs=2), {}, "variance_type is 'fixed_small': it needs 1 output channels, the model has 2"),
        (dict(beta_schedule="linear", beta_start=0.0, beta_end=0.0), {}, "alphas_cumprod"),
        (dict(prediction_type="epsilon", rescale_betas_zero_snr=True), {}, "prediction_type is 'epsilon'"),
    ],
)
def test_a_bound_that_is_not_defined_is_refused(tiny_pipeline, digits, changes, options, words):
    with pytest.raises(ValueError, match=words):
        bits_per_dim(tiny_pipeline(**changes), digits, num_images=3, **options)


def test_images_of_other_values_than_the_models_are_refused(tiny_pipeline):
    plain, table = tiny_pipeline(), load_images("digits", "test", image_size=8)
    values = {"pixel_type": "uint16", "value_range": (0, 4095)}
    pipeline = CFGDDPMPipeline(plain.unet, plain.scheduler, **plain.facts, **values)
    with pytest.raises(ValueError, match="images.pixel_type is 'uint8': the model has uint16, give that"):
        simple_loss(pipeline, table, num_images=2)
