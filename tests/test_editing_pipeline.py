"""hf_ddpm/editing_pipeline.py: what is known of edits, with tiny networks and with the exact score of a Gaussian.

The pixels of the Gaussian are N(0.2, 0.4^2); each one of the left half has the correlation 0.8 with the one on its right,
half a width away, and no other.
"""

import ast
import importlib.util
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    PNDMScheduler,
    RePaintScheduler,
)
from hidden_package import HIDE_PACKAGE
from known_mean import KnownMean
from PIL import Image

import hf_ddpm.editing_pipeline
from hf_ddpm.editing_pipeline import CFGDDPMEditingPipeline, repaint_path, slerp
from hf_ddpm.pipeline import CFGDDPMPipeline
from hf_ddpm.schedulers import SCHEDULERS, build_scheduler

NAMES = [name for name in SCHEDULERS if name != "dpmsolver_sde"]
NOISY = ["ddpm", "euler_ancestral", "kdpm2_ancestral"]
SIZE, MEAN, SPREAD, CORRELATION = 16, 0.2, 0.4, 0.8
VARIANCES = SPREAD**2 * (1 + CORRELATION), SPREAD**2 * (1 - CORRELATION)
"""Of the sum and the difference of a pair, divided by the root of 2."""


class GaussianNetwork(KnownMean):
    """For pairs of pixels, one in the left half and one in the right half."""

    def mean(self, x, alpha, sigma):
        left, right = (x - alpha * MEAN).chunk(2, dim=3)
        # Sum and difference of a pair are independent.
        total, difference = (
            alpha * variance / (alpha**2 * variance + sigma**2) * value
            for value, variance in zip((left + right, left - right), VARIANCES, strict=True)
        )
        return MEAN + torch.cat([total + difference, total - difference], dim=3) / 2


class GaussianPipeline(CFGDDPMEditingPipeline):
    """Its images are not limited to [-1, 1]."""

    def prepare_images(self, images):
        return images


def gaussian_pipeline(name: str, beta_schedule: str = "linear") -> GaussianPipeline:
    trained = {"beta_schedule": beta_schedule, "prediction_type": "v_prediction"}
    pipeline = GaussianPipeline(GaussianNetwork(trained, sample_size=SIZE), DDPMScheduler(**trained))
    pipeline.scheduler = build_scheduler(name, pipeline.trained_config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def gaussian_images(count: int) -> torch.Tensor:
    left, other = torch.randn(2, count, 1, SIZE, SIZE // 2, generator=torch.Generator().manual_seed(1)).unbind()
    right = CORRELATION * left + (1 - CORRELATION**2) ** 0.5 * other
    return MEAN + SPREAD * torch.cat([left, right], dim=3)


@pytest.fixture
def editing(tiny_pipeline):
    """Build a silent editing pipeline around a tiny network."""

    def build(scheduler=None, **options) -> CFGDDPMEditingPipeline:
        pipeline = CFGDDPMEditingPipeline.from_pipe(tiny_pipeline(scheduler, **options))
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    return build


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def pixels(count: int, channels: int = 1) -> torch.Tensor:
    values = torch.randint(256, (count, channels, 8, 8), generator=torch.Generator().manual_seed(3))
    return values.to(torch.uint8)


RIGHT_HALF = torch.arange(8).ge(4).expand(8, 8)
FEW = {"num_inference_steps": 4, "output_type": "pt"}


# Image to image


@pytest.mark.parametrize("name", NAMES)
def test_edits_have_the_distribution_of_the_data_at_every_strength(name):
    pipeline, images = gaussian_pipeline(name), gaussian_images(8)
    options = {"num_inference_steps": 40, "output_type": "latent"}
    # What 40 steps make of noise alone, which is what they make of edits.
    expected = pipeline(num_images_per_prompt=8, generator=generators(*range(8)), **options).images.std()
    kept = []
    for strength in (0.1, 0.5, 0.8):
        edits = pipeline.image_to_image(images, strength, generator=generators(*range(8)), **options).images
        assert float(edits.mean()) == pytest.approx(MEAN, abs=0.04)
        # Long noisy steps lose some of the spread, and an edit takes fewer of them.
        assert 0.94 * float(expected) < float(edits.std()) < 1.06 * max(float(expected), SPREAD), strength
        kept.append(float(((edits - MEAN) * (images - MEAN)).mean()) / SPREAD**2)
    assert kept[0] > 0.6 > kept[1] > kept[2] > -0.1 and kept[2] < 0.1


@pytest.mark.parametrize("name", [name for name in NAMES if name not in (*NOISY, "ddim", "euler")])
def test_an_edit_without_noise_in_its_steps_is_the_solution_of_the_differential_equation(name):
    pipeline, images = gaussian_pipeline(name), gaussian_images(2)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    options = {"num_inference_steps": 50, "output_type": "latent", "latents": noise}
    edits = pipeline.image_to_image(images, 0.3, **options).images
    signal = pipeline.scheduler.alphas_cumprod[299].double()
    noisy = signal.sqrt() * (images - MEAN) + (1 - signal).sqrt() * noise
    left, right = noisy.chunk(2, dim=3)
    # x_t of a Gaussian of this variance is x_0 times a number.
    total, difference = (
        value * (variance / (signal * variance + 1 - signal)).sqrt()
        for value, variance in zip((left + right, left - right), VARIANCES, strict=True)
    )
    exact = MEAN + torch.cat([total + difference, total - difference], dim=3) / 2
    # The first step of those in log sigma is a little below t = 300.
    assert float((edits - exact).abs().mean()) < 0.08 * SPREAD


@pytest.mark.parametrize("name", NAMES)
def test_full_strength_is_a_sample_and_the_least_one_nearly_the_image(editing, name):
    pipeline, images = editing(DDPMScheduler(prediction_type="v_prediction")), pixels(2)
    pipeline.scheduler = build_scheduler(name, pipeline.scheduler.config)
    options = {**FEW, "class_labels": ["cat", "dog"], "guidance_scale": 2.0, "num_inference_steps": 6}
    edited = pipeline.image_to_image(images, 1, generator=generators(4, 5), **options).images
    assert torch.equal(edited, pipeline(generator=generators(4, 5), **options).images)
    edited = pipeline.image_to_image(images, 0.002, **{**options, "num_inference_steps": 1000}).images
    assert float((edited - images / 255).abs().mean()) < 0.03


@pytest.mark.parametrize(
    ("name", "calls"), [("ddim", 4), ("ddpm", 4), ("euler", 4), ("kdpm2", 7), ("pndm", 5), ("unipc", 4)]
)
def test_the_steps_are_the_last_ones_of_the_scheduler(editing, name, calls):
    pipeline, seen = editing(), []
    pipeline.scheduler = build_scheduler(name, pipeline.scheduler.config)
    see = {"callback_on_step_end": lambda _, index, t, tensors: seen.append(float(t)) or tensors}
    pipeline.image_to_image(pixels(1), 0.5, **{**FEW, **see, "num_inference_steps": 8})
    assert seen[0] == pytest.approx(499) and len(seen) == calls


# Inpainting


@pytest.mark.parametrize("scheduler", [DDPMScheduler(), DDIMScheduler(), DDPMScheduler(variance_type="learned_range")])
@pytest.mark.parametrize("form", ["pil", "uint8 array", "tensor"])
def test_known_pixels_are_exactly_those_that_were_given(editing, scheduler, form):
    learned = scheduler.config.get("variance_type") == "learned_range"
    pipeline = editing(scheduler, **({"channels": 3, "out_channels": 6} if learned else {"channels": 3}))
    images = torch.arange(256).repeat(3)[: 2 * 3 * 8 * 8].view(2, 3, 8, 8).to(torch.uint8)
    arrays = images.permute(0, 2, 3, 1).numpy()
    given = {"pil": [Image.fromarray(array) for array in arrays], "uint8 array": arrays, "tensor": images / 255}[form]
    mask = Image.fromarray(RIGHT_HALF.numpy().astype(np.uint8) * 255) if form == "pil" else RIGHT_HALF
    options = {"class_labels": "cat", "guidance_scale": 2.0, "num_images_per_prompt": 2, "num_inference_steps": 5}
    painted = np.stack([np.asarray(image) for image in pipeline.inpaint(given, mask, 2, 2, **options).images])
    expected = np.repeat(arrays, 2, axis=0)
    assert np.array_equal(painted[:, :, :4], expected[:, :, :4])
    assert (painted[:, :, 4:] != expected[:, :, 4:]).mean() > 0.9
    assert (painted[0] != painted[1]).any()


def test_each_image_may_have_its_own_mask(editing):
    images, masks = pixels(2), torch.stack([RIGHT_HALF, ~RIGHT_HALF])[:, None]
    options = {**FEW, "class_labels": ["cat", "dog"], "num_images_per_prompt": 2}
    painted = editing().inpaint(images, masks, 1, 2, **options).images.mul(255).round()
    same = painted == images.repeat_interleave(2, dim=0)
    assert same[:2, ..., :4].all() and same[2:, ..., 4:].all() and same.float().mean() < 0.6


def of_right_given_left(images: torch.Tensor) -> tuple[float, float, float]:
    """Slope, spread around it and mean of a right pixel given its left one, in units of the spread."""
    left, right = ((images - MEAN) / SPREAD).double().chunk(2, dim=3)
    slope = float((left * right).mean() / (left**2).mean())
    return slope, float((right - slope * left).std()), float((right - slope * left).mean())


@pytest.mark.parametrize("beta_schedule", ["linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("name", ["ddpm", "ddim"])
def test_repeated_steps_bring_in_what_the_known_pixels_say(name, beta_schedule):
    pipeline, images = gaussian_pipeline(name, beta_schedule), gaussian_images(8)
    options = {"num_inference_steps": 100, "eta": float(name == "ddim"), "output_type": "latent"}

    def painted(jump_n_sample: int) -> tuple[float, float, float]:
        generator, mask = torch.Generator().manual_seed(0), torch.arange(SIZE).ge(SIZE // 2).expand(SIZE, SIZE)
        found = pipeline.inpaint(images, mask, 10, jump_n_sample, generator=generator, **options).images
        assert torch.equal(found[..., : SIZE // 2], images[..., : SIZE // 2])
        return of_right_given_left(found)

    once, often = painted(1), painted(20)
    # The steps know the known pixels with the noise of the unknown ones only, so a slope a little too small remains.
    assert once[0] + 0.08 < often[0] < CORRELATION + 0.05 and often[0] > 0.72 * CORRELATION
    assert often[1] == pytest.approx((1 - CORRELATION**2) ** 0.5, abs=0.08) and abs(often[2]) < 0.1


def test_inpainting_has_the_distribution_of_that_of_diffusers():
    pipeline, images = gaussian_pipeline("ddim"), gaussian_images(16)
    # Its timesteps are those, and its noise is that of eta = 1.
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, timestep_spacing="leading")
    mask, generator = torch.arange(SIZE).ge(SIZE // 2).expand(SIZE, SIZE), torch.Generator().manual_seed(0)
    options = {"num_inference_steps": 50, "eta": 1.0, "generator": generator, "output_type": "latent"}
    found = of_right_given_left(pipeline.inpaint(images, mask, 5, 8, **options).images)

    scheduler = RePaintScheduler(eta=1.0, clip_sample=False)
    scheduler.set_timesteps(50, 5, 8)
    x, last = torch.randn(images.shape, generator=generator), 1000
    for t in scheduler.timesteps:
        if t > last:
            x = scheduler.undo_step(x, last, generator)
        else:
            (v,) = pipeline.unet(x, t.expand(16), return_dict=False)
            signal = scheduler.alphas_cumprod[t]
            noise = signal.sqrt() * v + (1 - signal).sqrt() * x
            x = scheduler.step(noise, t, x, images, (~mask).float(), generator).prev_sample
        last = t
    # 2048 pairs: standard errors of 0.013, 0.01 and 0.013. It jumps back by the betas of one step later, a little too far.
    np.testing.assert_array_less(np.abs(np.subtract(found, of_right_given_left(x))), (0.06, 0.1, 0.06))


def test_the_path_of_repaint_is_that_of_diffusers():
    for arguments in [(250, 10, 10), (50, 10, 3), (12, 5, 2), (7, 3, 1), (10, 1, 4)]:
        scheduler = RePaintScheduler(num_train_timesteps=1000)
        scheduler.set_timesteps(*arguments)
        expected = (scheduler.timesteps // (1000 // arguments[0])).tolist()
        path = repaint_path(*arguments)
        # There, a jump back is one entry for each step, and a step is the entry that it ends with.
        single = [path[0]]
        for state in path[1:]:
            single += [state] if state < single[-1] else range(single[-1] + 1, state + 1)
        assert single[1:] == expected


# Interpolation


def test_slerp_ends_at_its_ends_and_keeps_the_norm():
    first, last = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(slerp(first, last, 0.0), first) and torch.equal(slerp(first, last, 1.0), last)
    middle = slerp(first, last, 0.5)
    assert float(middle.norm()) == pytest.approx(float(first.norm() + last.norm()) / 2, rel=1e-3)
    torch.testing.assert_close(slerp(last, first, 0.5), middle)
    assert torch.equal(slerp(first, first, 0.3), first)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in NOISY])
def test_the_ends_of_an_interpolation_are_the_samples_of_its_seeds(editing, name):
    pipeline = editing(DDPMScheduler(prediction_type="v_prediction"))
    pipeline.scheduler = build_scheduler(name, pipeline.scheduler.config)
    options = {**FEW, "guidance_scale": 2.0}
    between = pipeline.interpolate(5, generators(3, 9), class_labels="dog", **options).images
    samples = pipeline(["dog", "dog"], generator=generators(3, 9), **options).images
    torch.testing.assert_close(between[[0, -1]], samples, rtol=0, atol=1e-5)
    assert all((between[i] - between[i + 1]).abs().max() > 1e-4 for i in range(4))


@pytest.mark.parametrize("scheduler", [DDPMScheduler(), DDIMScheduler()])
def test_the_ends_between_two_images_are_their_edits_with_the_same_noise(editing, scheduler):
    pipeline, (first, last) = editing(scheduler), pixels(2).split(1)
    generator = torch.Generator().manual_seed(2)
    between = pipeline.interpolate_images(first, last, 3, 0.5, generator, class_labels=1, **FEW).images
    for image, found in ((first, between[0]), (last, between[2])):
        edited = pipeline.image_to_image(image, 0.5, class_labels=1, generator=generators(2), **FEW).images[0]
        torch.testing.assert_close(found, edited, rtol=0, atol=1e-5)
    mean = pipeline.image_to_image((first / 255 + last / 255) / 2, class_labels=1, generator=generators(2), **FEW).images[0]
    torch.testing.assert_close(between[1], mean, rtol=0, atol=1e-5)
    torch.manual_seed(0)
    assert len({image.numpy().tobytes() for image in pipeline.interpolate_images(first, last, 3, **FEW).images}) == 3


# All edits


@pytest.mark.parametrize("edit", ["image_to_image", "inpaint"])
def test_an_edit_does_not_depend_on_its_batch(editing, edit):
    pipeline, images = editing(DDPMScheduler(prediction_type="v_prediction")), pixels(3)
    more = {"strength": 0.8} if edit == "image_to_image" else {"mask": RIGHT_HALF, "jump_length": 1, "jump_n_sample": 2}

    def edits(*positions: int) -> torch.Tensor:
        labels = [[0, 1, 2][i] for i in positions]
        options = {**FEW, **more, "class_labels": labels, "guidance_scale": 2.0, "generator": generators(*positions)}
        return getattr(pipeline, edit)(images[list(positions)], **options).images

    torch.testing.assert_close(edits(0, 1, 2), torch.cat([edits(0), edits(1, 2)]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("options", [{"names": None}, {"null": False}])
def test_models_without_classes_and_without_a_null_label_edit(editing, options):
    pipeline = editing(DDIMScheduler(), **options)
    labels = {} if options == {"names": None} else {"class_labels": 0}
    assert len(pipeline.image_to_image(pixels(2), **labels, num_images_per_prompt=2, **FEW).images) == 4
    assert len(pipeline.inpaint(pixels(2), RIGHT_HALF, 1, 2, **labels, **FEW).images) == 2
    assert len(pipeline.interpolate(3, **labels, **FEW).images) == 3
    (images,) = pipeline.interpolate_images(*pixels(2), 3, **labels, return_dict=False, num_inference_steps=4)
    assert [image.mode for image in images] == ["L"] * 3
    assert pipeline(num_images_per_prompt=2, **FEW).images.shape[0] == 2 if not labels else True


def test_a_failed_edit_does_not_change_the_next_call(editing):
    pipeline = editing()
    with pytest.raises(ValueError, match="num_inference_steps is 0"):
        pipeline.image_to_image(pixels(1), 0.5, num_inference_steps=0)
    expected = editing()(generator=generators(0), **FEW).images
    assert torch.equal(pipeline(generator=generators(0), **FEW).images, expected)


RGB = Image.new("RGB", (8, 8))


@pytest.mark.parametrize(
    ("edit", "options", "message"),
    [
        ("image_to_image", {"strength": 1.5}, "strength is 1.5: give a number from 0 to 1"),
        ("image_to_image", {"strength": 5e-4}, "strength is 0.0005: the last step begins at 0.001"),
        ("image_to_image", {"images": pixels(1, 3)}, r"images.shape is \(1, 3, 8, 8\): must be \(B, 1, 8, 8\)"),
        ("image_to_image", {"images": RGB}, r"images.mode is 'RGB': must be L, use convert\('L'\)"),
        ("image_to_image", {"images": pixels(1).float()}, "the range of images is .*: give uint8, or floats in"),
        ("image_to_image", {"images": -torch.ones(1, 1, 8, 8)}, r"the range of images is \(-1.0, -1.0\): give uint8"),
        ("image_to_image", {"images": "a.png"}, r"type\(images\) is 'str': give PIL images, an array"),
        ("image_to_image", {"images": []}, r"images is \[\]: give one or more"),
        ("image_to_image", {"class_labels": [0, 1, 2]}, r"class_labels is \[0, 1, 2\]: give one for all images, or 2, one"),
        ("image_to_image", {"class_labels": "cta"}, "class_labels is 'cta': no such name, nearest: cat"),
        ("image_to_image", {"num_images_per_prompt": 0}, "num_images_per_prompt is 0: give at least 1"),
        ("image_to_image", {"generator": generators(1)}, r"len\(generator\) is 1: give 2, one per image"),
        ("image_to_image", {"generator": 7}, r"generator is 7: give torch.Generator\(\).manual_seed\(7\)"),
        ("image_to_image", {"batch_size": 4}, "batch_size is 4: give 2, the number of images, or leave it out"),
        ("interpolate_images", {"generator": 7}, "generator is 7: give torch.Generator"),
        ("inpaint", {"mask": ~RIGHT_HALF & RIGHT_HALF}, r"mask.max\(\) is 0.0: make white what is to be repainted"),
        ("inpaint", {"mask": RIGHT_HALF[:4]}, r"mask.shape is \(1, 1, 4, 8\): must be \(1, 1, 8, 8\), or \(2, ..."),
        ("inpaint", {"mask": RIGHT_HALF.expand(3, 1, 8, 8)}, r"mask.shape is \(3, 1, 8, 8\): must be"),
        ("inpaint", {"jump_length": 4}, "jump_length is 4: give less than the 4 steps, or set jump_n_sample to 1"),
        ("inpaint", {"jump_n_sample": 0}, "jump_n_sample is 0: give at least 1"),
        ("interpolate", {}, "scheduler is 'DDPMScheduler': it adds noise to its steps, set a deterministic one"),
        ("interpolate", {"num_images": 1}, "num_images is 1: give at least 2"),
        ("interpolate_images", {"generator": generators(1)}, "generator is a list of 1: give one, all images have"),
        ("interpolate_images", {"last": pixels(2)}, r"len\(last\) is 2: give one image"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)  # fmt: skip
def test_mistakes(editing, edit, options, message):
    needed = {
        "image_to_image": {"images": pixels(2)},
        "inpaint": {"images": pixels(2), "mask": RIGHT_HALF, "jump_length": 1, "jump_n_sample": 2},
        "interpolate": {},
        "interpolate_images": {"first": pixels(1), "last": pixels(1)},
    }[edit]
    with pytest.raises(ValueError, match=message):
        getattr(editing(), edit)(**{**needed, **FEW, **options})


def test_schedulers_that_cannot_edit_are_refused(editing):
    pipeline = editing()
    pipeline.scheduler = build_scheduler("euler", pipeline.scheduler.config)
    with pytest.raises(ValueError, match="scheduler is 'EulerDiscreteScheduler': steps can be repeated with DDPM and DDIM"):
        pipeline.inpaint(pixels(1), RIGHT_HALF, **FEW)
    pipeline.scheduler = PNDMScheduler.from_config(pipeline.trained_config, skip_prk_steps=False)
    with pytest.raises(ValueError, match="scheduler is 'PNDMScheduler': its first steps are of Runge-Kutta"):
        pipeline.image_to_image(pixels(1), 0.5, **FEW)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.trained_config)
    with pytest.raises(ValueError, match=r"eta is 0.5: samples are interpolated without noise in the steps, leave it at 0"):
        pipeline.interpolate(3, eta=0.5, **FEW)
    with pytest.raises(ValueError, match=r"len\(generator\) is 3: give 2, of the first and the last image"):
        pipeline.interpolate(3, generators(1, 2, 3), **FEW)


# Saved models


def test_a_saved_model_is_the_same_for_both_pipelines(editing, tiny_pipeline, tmp_path):
    plain, pipeline = tiny_pipeline(), editing()
    plain.save_pretrained(tmp_path / "a")
    loaded = CFGDDPMEditingPipeline.from_pretrained(tmp_path / "a")
    loaded.save_pretrained(tmp_path / "b")
    files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file()]
    files.remove(Path("unet/config.json"))  # which says where the network was loaded from
    assert len(files) == 5
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)
    assert json.loads((tmp_path / "b" / "model_index.json").read_text())["_class_name"] == ["pipeline", "CFGDDPMPipeline"]
    assert type(CFGDDPMPipeline.from_pretrained(tmp_path / "b")) is CFGDDPMPipeline
    shared = CFGDDPMEditingPipeline.from_pipe(plain)
    for other in (loaded, shared):
        edits = [one.image_to_image(pixels(1), generator=generators(0), **FEW).images for one in (other, pipeline)]
        torch.testing.assert_close(*edits, rtol=0, atol=1e-6)


WITHOUT_THE_PACKAGE = (
    HIDE_PACKAGE
    + """
import numpy as np, torch
from diffusers import DiffusionPipeline

torch.set_num_threads(1)
folder = sys.argv[1]
pipeline = DiffusionPipeline.from_pretrained(folder, custom_pipeline="editing_pipeline", trust_remote_code=True)
image, mask = torch.full((1, 1, 8, 8), 0.25), torch.eye(8)
generator = torch.Generator().manual_seed(0)
edited = pipeline.inpaint(image, mask, 1, 2, num_inference_steps=3, generator=generator, output_type="np").images
np.save(folder + ".npy", edited)
pipeline.save_pretrained(folder + "-again")
assert type(DiffusionPipeline.from_pretrained(folder + "-again", trust_remote_code=True)).__name__ == "CFGDDPMPipeline"
pipeline = DiffusionPipeline.from_pretrained(folder + "-again", custom_pipeline=folder, trust_remote_code=True)
assert type(pipeline).__name__ == "CFGDDPMPipeline"
"""
)


def test_a_saved_model_edits_without_the_package(editing, tmp_path):
    pipeline, folder = editing(), tmp_path / "model"
    pipeline.save_pretrained(folder)
    environment = {**os.environ, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-I", "-c", WITHOUT_THE_PACKAGE, folder]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    arguments = {"num_inference_steps": 3, "generator": torch.Generator().manual_seed(0), "output_type": "np"}
    expected = pipeline.inpaint(torch.full((1, 1, 8, 8), 0.25), torch.eye(8), 1, 2, **arguments).images
    np.testing.assert_allclose(np.load(f"{folder}.npy"), expected, rtol=0, atol=1e-5)
    for file in ("pipeline.py", "editing_pipeline.py", "model_index.json"):
        assert (tmp_path / "model-again" / file).read_bytes() == (folder / file).read_bytes()


def test_the_file_finds_its_neighbour_where_the_name_of_the_repository_has_a_dot(monkeypatch):
    package = "diffusers_modules.local.ada--pets-v1.0.0123abc"
    for name in ("editing_pipeline", "pipeline"):
        monkeypatch.setitem(sys.modules, f"{package}.{name}", None)  # removed after the test
    spec = importlib.util.spec_from_file_location(f"{package}.editing_pipeline", hf_ddpm.editing_pipeline.__file__)
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.CFGDDPMEditingPipeline.__mro__[1].__module__ == f"{package}.pipeline"


def test_diffusers_finds_one_pipeline_in_the_file():
    members = dict(inspect.getmembers(hf_ddpm.editing_pipeline, inspect.isclass))
    assert [name for name, value in members.items() if issubclass(value, DiffusionPipeline)] == ["CFGDDPMEditingPipeline"]
    tree = ast.parse(Path(hf_ddpm.editing_pipeline.__file__).read_text(encoding="utf-8"))
    relative = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level}
    assert relative == {None, "pipeline"}
