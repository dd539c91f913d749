"""CFGDDPMPipeline: guidance, randomness, refusals, saving, and the copy of its file that goes to the Hub."""

import ast
import inspect
import json
import sys
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    UNet2DModel,
)

import hf_ddpm.pipeline
from hf_ddpm.pipeline import CFGDDPMPipeline, guided_output
from hf_ddpm.sampling import load_pipeline

NAMES = {0: "cat", 1: "dog", 2: "frog"}
NULL = 3
SCHEDULERS = {
    "ddpm": DDPMScheduler(timestep_spacing="trailing"),
    "ddim": DDIMScheduler(timestep_spacing="trailing"),
    "dpmsolver++": DPMSolverMultistepScheduler(timestep_spacing="trailing"),
}
OTHER_SCHEDULERS = [
    "DEISMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
]


@pytest.fixture(scope="module")
def tiny_pipeline(tiny_pipeline):
    def build(scheduler: str = "ddim", **options) -> CFGDDPMPipeline:
        return tiny_pipeline(SCHEDULERS[scheduler], **options)

    return build


def with_scheduler(pipeline: CFGDDPMPipeline, scheduler) -> CFGDDPMPipeline:
    """The same network as that of a model that was trained with this scheduler."""
    made = CFGDDPMPipeline.from_pipe(pipeline, scheduler=scheduler)
    made.set_progress_bar_config(disable=True)
    return made


def generators(count: int, first: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(first + i) for i in range(count)]


def latents_of(pipeline, labels=(0, 1, 2), steps: int = 4, **options) -> torch.Tensor:
    labels = None if labels is None else list(labels)
    count = options.get("num_images_per_prompt", 1) * (1 if labels is None else len(labels))
    options = {"generator": generators(count), **options}
    return pipeline(labels, num_inference_steps=steps, output_type="latent", **options).images


def batch_sizes(pipeline) -> list[int]:
    """Record the batch size of every call of the network from now on."""
    sizes = []
    pipeline.unet.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    return sizes


def plain_loop(pipeline, label: int | None, latents: torch.Tensor, steps: int, rng) -> torch.Tensor:
    """Sample as diffusers' documentation does it: one network, one scheduler, no guidance."""
    scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config)
    scheduler.set_timesteps(steps)
    labels = None if label is None else torch.full((len(latents),), label)
    options = {"use_clipped_model_output": True} if isinstance(scheduler, DDIMScheduler) else {}
    latents = latents * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        with torch.no_grad():
            model_output = pipeline.unet(scheduler.scale_model_input(latents, t), t, class_labels=labels).sample
        latents = scheduler.step(model_output, t, latents, generator=rng, **options).prev_sample
    return latents


# Guidance


def test_guided_output_is_the_formula_of_the_paper():
    cond, uncond = torch.randn(2, 5, 3, 8, 8, dtype=torch.float64)
    for w in (-1, 0, 0.5, 3):
        expected = (1 + w) * cond - w * uncond
        torch.testing.assert_close(guided_output(cond, uncond, w + 1), expected)


def test_full_rescale_restores_the_standard_deviation_of_the_conditional_output():
    cond, uncond = torch.randn(2, 5, 3, 8, 8, dtype=torch.float64)
    plain, half, full = (guided_output(cond, uncond, 4.0, rescale) for rescale in (0.0, 0.5, 1.0))
    torch.testing.assert_close(full.std(dim=(1, 2, 3)), cond.std(dim=(1, 2, 3)))
    torch.testing.assert_close(half, (plain + full) / 2)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize(("scale", "label"), [(1.0, 2), (0.0, NULL)])
def test_scale_one_and_zero_are_plain_sampling_with_one_call_a_step(tiny_pipeline, scheduler, scale, label):
    pipeline = tiny_pipeline(scheduler)
    noise = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(5))
    expected = plain_loop(pipeline, label, noise, 5, torch.Generator().manual_seed(6))
    sizes = batch_sizes(pipeline)
    rng = torch.Generator().manual_seed(6)
    images = latents_of(pipeline, (2, 2), steps=5, guidance_scale=scale, latents=noise, generator=rng)
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-5)
    assert sizes == [2] * 5


def test_other_scales_call_the_network_once_with_twice_the_images(tiny_pipeline):
    pipeline = tiny_pipeline()
    sizes = batch_sizes(pipeline)
    latents_of(pipeline, guidance_scale=2.0)
    assert sizes == [6] * 4


@pytest.mark.parametrize("w", [-1.0, 0.0, 0.5, 2.0])
def test_original_formulation_is_scale_minus_one(tiny_pipeline, w):
    pipeline = tiny_pipeline()
    ours = latents_of(pipeline, guidance_scale=w + 1)
    theirs = latents_of(pipeline, guidance_scale=w, use_original_formulation=True)
    assert torch.equal(ours, theirs)


def test_guidance_is_linear_extrapolation_in_the_first_step(tiny_pipeline):
    pipeline = tiny_pipeline("ddpm")
    pipeline.scheduler = DDIMScheduler(timestep_spacing="trailing", clip_sample=False)
    at = {scale: latents_of(pipeline, steps=1, guidance_scale=scale).double() for scale in (0.0, 1.0, 3.0)}
    torch.testing.assert_close(at[3.0], at[0.0] + 3 * (at[1.0] - at[0.0]), rtol=1e-4, atol=1e-2)


def test_guidance_interval(tiny_pipeline):
    pipeline = tiny_pipeline()
    everywhere, nowhere = latents_of(pipeline, guidance_scale=3.0), latents_of(pipeline)
    for interval, expected in (((0, 1), everywhere), ((0.5, 0.5), nowhere), ((1, 1), nowhere)):
        images = latents_of(pipeline, guidance_scale=3.0, guidance_interval=interval)
        torch.testing.assert_close(images, expected, rtol=0, atol=1e-5)
    sizes = batch_sizes(pipeline)
    # Timesteps 999, 749, 499, 249 of 1000.
    latents_of(pipeline, guidance_scale=3.0, guidance_interval=(0.499, 0.749))
    assert sizes == [3, 3, 6, 3]


def test_guidance_rescale_changes_the_images(tiny_pipeline):
    pipeline = tiny_pipeline()
    plain = latents_of(pipeline, guidance_scale=3.0)
    assert not torch.allclose(plain, latents_of(pipeline, guidance_scale=3.0, guidance_rescale=0.7), atol=1e-2)


def test_without_labels_the_null_label_is_sampled_at_any_scale_for_one_call_a_step(tiny_pipeline):
    pipeline = tiny_pipeline()
    expected = latents_of(pipeline, (0, 1), guidance_scale=0.0)
    sizes = batch_sizes(pipeline)
    for scale in (1.0, 0.0, 4.0):
        images = latents_of(pipeline, None, num_images_per_prompt=2, guidance_scale=scale)
        torch.testing.assert_close(images, expected, rtol=0, atol=1e-5)
    assert sizes == [2] * 12


def test_unconditional_model(tiny_pipeline):
    pipeline = tiny_pipeline("ddpm", names=None)
    assert (pipeline.is_conditional, pipeline.num_classes, pipeline.null_label) == (False, None, None)
    noise = torch.randn(2, 1, 8, 8)
    expected = plain_loop(pipeline, None, noise, 4, torch.Generator().manual_seed(1))
    options = {"latents": noise, "generator": torch.Generator().manual_seed(1)}
    images = latents_of(pipeline, None, num_images_per_prompt=2, **options)
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-5)


def test_model_without_null_label_samples_its_classes(tiny_pipeline):
    pipeline = tiny_pipeline(null=False)
    assert pipeline.num_classes == 3
    assert latents_of(pipeline, ("cat", 2)).shape == (2, 1, 8, 8)


# Randomness and schedulers


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_does_not_depend_on_its_batch(tiny_pipeline, scheduler, channels):
    pipeline = tiny_pipeline(scheduler, channels=channels)
    # Random weights give an epsilon so wrong that x_0 = (x_t - sigma epsilon) / alpha runs into the hundreds,
    # and rounding errors with it: v keeps it small.
    options = {"prediction_type": "v_prediction"}
    pipeline = with_scheduler(pipeline, type(pipeline.scheduler).from_config(pipeline.scheduler.config, **options))
    labels = [0, 1, 2, 0, 1, 2, 0, 1]

    def sample(batch_size):
        parts = []
        for start in range(0, 8, batch_size):
            part = labels[start : start + batch_size]
            options = {"guidance_scale": 2.0, "num_inference_steps": 5, "output_type": "np"}
            parts.append(pipeline(part, generator=generators(len(part), start), **options).images)
        return np.concatenate(parts)

    one, three, eight = sample(1), sample(3), sample(8)
    assert one.shape == (8, 8, 8, channels)
    np.testing.assert_allclose(one, eight, rtol=0, atol=1e-5)
    np.testing.assert_allclose(three, eight, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", OTHER_SCHEDULERS)
def test_the_other_schedulers_run(tiny_pipeline, name):
    pipeline = tiny_pipeline()
    pipeline = with_scheduler(pipeline, getattr(diffusers, name).from_config(pipeline.scheduler.config))
    images = latents_of(pipeline, steps=6, guidance_scale=2.0, generator=torch.Generator().manual_seed(0))
    assert images.isfinite().all()


def test_latents_are_the_first_noise(tiny_pipeline):
    pipeline = tiny_pipeline()
    noise = torch.cat([torch.randn(1, 1, 8, 8, generator=rng) for rng in generators(3)])
    assert torch.equal(latents_of(pipeline, latents=noise), latents_of(pipeline))


def test_the_first_noise_is_scaled_to_the_scheduler(tiny_pipeline):
    pipeline = tiny_pipeline()
    pipeline.scheduler = diffusers.EulerDiscreteScheduler(timestep_spacing="trailing")
    pipeline.scheduler.set_timesteps(4)
    noise = torch.randn(1, 1, 8, 8)
    prepared = pipeline.prepare_latents(1, None, noise, torch.device("cpu"))
    assert pipeline.scheduler.init_noise_sigma > 20
    torch.testing.assert_close(prepared, noise * pipeline.scheduler.init_noise_sigma)


def test_eta_draws_noise_from_the_generators(tiny_pipeline):
    pipeline = tiny_pipeline()
    noisy = latents_of(pipeline, eta=1.0)
    assert not torch.allclose(noisy, latents_of(pipeline), atol=1e-2)
    pipeline.unet.double()  # so that the kernel of another batch size leaves no trace
    torch.testing.assert_close(latents_of(pipeline, eta=1.0)[:1], latents_of(pipeline, (0,), eta=1.0), rtol=0, atol=1e-6)


def test_ddim_recomputes_epsilon_only_where_it_clips(tiny_pipeline):
    pipeline = tiny_pipeline()
    assert pipeline.prepare_step_options(None, 0.0)["use_clipped_model_output"] is True
    pipeline.scheduler = DDIMScheduler(clip_sample=False)
    assert "use_clipped_model_output" not in pipeline.prepare_step_options(None, 0.0)


def test_the_scheduler_computes_in_float32_when_the_network_does_not(tiny_pipeline):
    pipeline = tiny_pipeline()
    # An error of epsilon grows 150-fold in the first step, an error of v does not.
    options = {"prediction_type": "v_prediction"}
    pipeline = with_scheduler(pipeline, type(pipeline.scheduler).from_config(pipeline.scheduler.config, **options))
    reference = latents_of(pipeline, guidance_scale=2.0)
    pipeline.unet.to(torch.bfloat16)
    images = latents_of(pipeline, guidance_scale=2.0)
    assert images.dtype == torch.float32
    torch.testing.assert_close(images, reference, rtol=0, atol=0.1)
    assert not torch.equal(images, images.bfloat16().float())


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_learned_variance(tiny_pipeline, scheduler):
    trained = DDPMScheduler(timestep_spacing="trailing", variance_type="learned_range")
    pipeline = tiny_pipeline(out_channels=2)
    pipeline.scheduler = type(SCHEDULERS[scheduler]).from_config(trained.config)
    images = latents_of(pipeline, guidance_scale=2.0)
    assert images.shape == (3, 1, 8, 8)
    assert images.isfinite().all()


# Arguments and output


def test_labels_may_be_names_ids_tensors_and_arrays(tiny_pipeline):
    pipeline = tiny_pipeline()
    forms = [
        ["cat", 1, "frog"],
        torch.arange(3),
        np.arange(3),
        (np.int64(0), torch.tensor(1), "frog"),
        range(3),
    ]
    assert all(pipeline.get_label_ids(labels) == [0, 1, 2] for labels in forms)
    assert pipeline.get_label_ids("dog") == pipeline.get_label_ids(1) == [1]


def test_images_of_one_label_are_adjacent(tiny_pipeline):
    pipeline = tiny_pipeline()
    pairs = latents_of(pipeline, (0, 2), num_images_per_prompt=2)
    assert torch.equal(pairs, latents_of(pipeline, (0, 0, 2, 2)))


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_output_types(tiny_pipeline, channels, mode):
    pipeline = tiny_pipeline(channels=channels)

    def sample(output_type):
        return pipeline([0, 1], 1, num_inference_steps=2, generator=generators(2), output_type=output_type).images

    latent, pt, array, pil = (sample(output_type) for output_type in ("latent", "pt", "np", "pil"))
    assert latent.shape == pt.shape == (2, channels, 8, 8)
    torch.testing.assert_close(pt, (latent / 2 + 0.5).clamp(0, 1))
    np.testing.assert_array_equal(array, pt.permute(0, 2, 3, 1).numpy())
    assert array.dtype == np.float32
    assert [(image.mode, image.size) for image in pil] == [(mode, (8, 8))] * 2
    np.testing.assert_array_equal(np.asarray(pil[0]), (array[0] * 255).round().astype(np.uint8).squeeze())


def test_return_dict_false_returns_a_tuple(tiny_pipeline):
    result = tiny_pipeline()(0, num_inference_steps=1, return_dict=False, output_type="pt")
    assert isinstance(result, tuple)
    assert [images.shape for images in result] == [(1, 1, 8, 8)]


def test_callback_sees_each_step_and_may_change_the_latents(tiny_pipeline):
    pipeline = tiny_pipeline()
    seen = []

    def watch(pipe, step_index, t, tensors):
        seen.append((pipe is pipeline, step_index, int(t), tuple(tensors["latents"].shape)))

    assert torch.equal(latents_of(pipeline, callback_on_step_end=watch), latents_of(pipeline))
    assert seen == [(True, i, t, (3, 1, 8, 8)) for i, t in enumerate((999, 749, 499, 249))]

    def erase(pipe, step_index, t, tensors):
        return {"latents": torch.zeros_like(tensors["latents"])}

    assert not latents_of(pipeline, callback_on_step_end=erase).any()


def test_the_documented_number_of_steps_is_the_default(tiny_pipeline):
    assert inspect.signature(CFGDDPMPipeline.__call__).parameters["num_inference_steps"].default is None
    assert f"None = {tiny_pipeline().default_steps}, or the few" in CFGDDPMPipeline.__call__.__doc__


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_labels": 99}, "class_labels is 99: .* ids from 0 to 2"),
        ({"class_labels": -1}, "class_labels is -1: .* ids from 0 to 2"),
        ({"class_labels": NULL}, "class_labels is 3: .* ids from 0 to 2"),
        ({"class_labels": 1.0}, "class_labels is 1.0: "),
        ({"class_labels": torch.ones(2)}, "class_labels is 1.0: "),
        ({"class_labels": [0, True]}, "class_labels is True: "),
        ({"class_labels": np.array([False])}, "class_labels is False: "),
        ({"class_labels": [0, None]}, "class_labels is None: "),
        ({"class_labels": [[0, 1]]}, r"class_labels is \[0, 1\]: "),
        ({"class_labels": []}, r"class_labels is \[\]: "),
        ({"class_labels": "dgo"}, "class_labels is 'dgo': no such name, nearest: dog"),
        ({"guidance_scale": "2"}, "guidance_scale is '2'"),
        ({"guidance_scale": float("nan")}, "guidance_scale is nan"),
        ({"guidance_scale": None, "use_original_formulation": True}, "guidance_scale is None"),
        ({"guidance_interval": 0.5}, "guidance_interval is 0.5"),
        ({"guidance_interval": (0.7, 0.2)}, r"guidance_interval\[1\] is 0.2: .* from 0.7 to 1"),
        ({"guidance_interval": (-0.1, 0.2)}, r"guidance_interval\[0\] is -0.1"),
        ({"guidance_rescale": 1.5}, "guidance_rescale is 1.5: .* from 0 to 1"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt is 0: give at least 1"),
        ({"batch_size": 0}, "batch_size is 0: give at least 1"),
        ({"batch_size": 2.0}, "batch_size is 2.0: give an integer"),
        ({"batch_size": 2}, "batch_size is 2: give 1, the number of labels, or leave it out"),
        (
            {"class_labels": [0, 1], "batch_size": 4, "num_images_per_prompt": 2},
            "batch_size is 4: give 2, the number of labels",
        ),
        ({"num_inference_steps": 0}, "num_inference_steps is 0"),
        ({"num_inference_steps": 1001}, "num_inference_steps is 1001: .* from 1 to 1000"),
        ({"num_inference_steps": 2.5}, "num_inference_steps is 2.5: give an integer"),
        ({"eta": -0.1}, "eta is -0.1"),
        ({"generator": generators(2)}, r"len\(generator\) is 2: give 1"),
        ({"generator": 7}, r"generator is 7: give torch.Generator\(\).manual_seed\(7\)"),
        ({"generator": "7"}, r"generator is '7': give torch.Generator\(\).manual_seed\(0\)"),
        ({"generator": [3]}, r"generator\[0\] is 3: give torch.Generator\(\).manual_seed\(3\)"),
        ({"generator": [None]}, r"generator\[0\] is None"),
        ({"generator": tuple(generators(1))}, "generator is .*: give torch.Generator"),
        ({"latents": torch.zeros(2, 1, 8, 8)}, "latents.shape is .*: must be"),
        ({"output_type": "jpg"}, "output_type is 'jpg'"),
        ({"callback_on_step_end_tensor_inputs": ["noise"]}, "'latents' is the only one"),
    ],
)
def test_refusals(tiny_pipeline, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        tiny_pipeline()(**{"class_labels": 0, "num_inference_steps": 2, **options})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ({"names": None}, {"class_labels": 1}, "class_labels is 1: the model is unconditional"),
        ({"names": None}, {"guidance_scale": 2.0}, "guidance_scale is 2.0: the model is unconditional"),
        ({"null": False}, {}, "class_labels is None: the model has no null label"),
        ({"null": False}, {"class_labels": 1, "guidance_scale": 2.0}, "has no null label"),
        ({"null": False}, {"class_labels": 1, "guidance_scale": 0}, "has no null label"),
        (
            {"null": False},
            {"class_labels": 1, "guidance_scale": 0.5, "use_original_formulation": True},
            "guidance_scale is 1.5: the model has no null label",
        ),
        ({"scheduler": "ddpm"}, {"class_labels": 1, "eta": 0.5}, "eta is 0.5: DDPMScheduler takes none"),
    ],
)
def test_refusals_that_depend_on_the_model(tiny_pipeline, model, options, message):
    with pytest.raises(ValueError, match=message):
        tiny_pipeline(**model)(num_inference_steps=2, **options)


@pytest.mark.parametrize(
    ("num_class_embeds", "id2label", "null_label", "message"),
    [
        (None, NAMES, None, "id2label is .*: the model is unconditional"),
        (None, None, 3, "null_label is 3: the model is unconditional"),
        (4, NAMES, 2, "null_label is 2: must be the last"),
        (4, {0: "cat", 3: "none"}, 3, "id2label is .*: must name ids from 0 to 2"),
    ],
)
def test_labels_must_belong_to_the_network(tiny_unet, num_class_embeds, id2label, null_label, message):
    unet = tiny_unet(num_class_embeds)
    with pytest.raises(ValueError, match=message):
        CFGDDPMPipeline(unet, SCHEDULERS["ddim"], id2label, null_label)


def test_a_name_that_two_classes_bear_must_be_given_as_id(tiny_unet):
    pipeline = CFGDDPMPipeline(tiny_unet(), SCHEDULERS["ddim"], {0: "crane", 1: "crane"}, NULL)
    with pytest.raises(ValueError, match=r"the classes \[0, 1\] share this name"):
        pipeline.get_label_ids("crane")


def test_an_accent_in_a_name_may_be_encoded_in_two_ways(tiny_unet):
    pipeline = CFGDDPMPipeline(tiny_unet(), SCHEDULERS["ddim"], {0: "e\u0301", 1: "e"}, NULL)
    assert pipeline.get_label_ids(["\u00e9", "e\u0301", "e"]) == [0, 0, 1]
    both = CFGDDPMPipeline(tiny_unet(), SCHEDULERS["ddim"], {0: "e\u0301", 1: "\u00e9"}, NULL)
    assert both.get_label_ids(["\u00e9", "e\u0301"]) == [1, 0]


def test_names_of_strangers_do_not_reach_the_terminal_as_they_are(tiny_unet):
    pipeline = CFGDDPMPipeline(tiny_unet(num_class_embeds=2), SCHEDULERS["ddim"], {0: "c\x1b[31mat", 1: "d\nog"})
    with pytest.raises(ValueError, match="class_labels is 'fish'") as refused:
        pipeline("fish")
    assert r"c\x1b[31mat" in str(refused.value) and str(refused.value).isprintable()


def test_names_need_id2label(tiny_unet):
    pipeline = CFGDDPMPipeline(tiny_unet(), SCHEDULERS["ddim"], None, NULL)
    with pytest.raises(ValueError, match="the classes have no names, give ids from 0 to 2"):
        pipeline.get_label_ids("cat")


# What diffusers asks of every pipeline


def test_the_call_has_the_optional_arguments_of_every_pipeline():
    parameters = inspect.signature(CFGDDPMPipeline.__call__).parameters
    names = {"num_inference_steps", "num_images_per_prompt", "generator", "latents", "output_type", "return_dict"}
    names |= {"guidance_scale", "callback_on_step_end", "callback_on_step_end_tensor_inputs"}
    assert all(parameters[name].default is not inspect.Parameter.empty for name in names)


@pytest.mark.parametrize("labels", [["cat"], ["cat", 2]])
@pytest.mark.parametrize("per_label", [1, 2])
def test_num_images_per_prompt(tiny_pipeline, labels, per_label):
    assert len(tiny_pipeline()(labels, per_label, num_inference_steps=1, output_type="np").images) == len(labels) * per_label


def test_the_tuple_holds_the_images_of_the_dataclass(tiny_pipeline):
    pipeline = tiny_pipeline()
    options = {"num_inference_steps": 2, "output_type": "np"}
    (first,) = pipeline(0, generator=generators(1), return_dict=False, **options)
    np.testing.assert_array_equal(first, pipeline(0, generator=generators(1), **options)[0])


def test_a_callback_gets_what_it_asks_for_and_may_return_it(tiny_pipeline):
    pipeline = tiny_pipeline()

    def erase_at_the_end(pipe, step_index, t, tensors):
        if step_index == pipe.num_timesteps - 1:
            tensors["latents"] = torch.zeros_like(tensors["latents"])
        return tensors

    inputs = pipeline._callback_tensor_inputs
    options = {"callback_on_step_end": erase_at_the_end, "callback_on_step_end_tensor_inputs": inputs}
    assert not latents_of(pipeline, **options).any()
    seen = []
    nothing = {"callback_on_step_end": lambda pipe, i, t, tensors: seen.append(tensors)}
    latents_of(pipeline, callback_on_step_end_tensor_inputs=[], **nothing)
    assert seen == [{}] * 4


def test_a_callback_may_change_the_guidance(tiny_pipeline):
    pipeline = tiny_pipeline()

    def more(pipe, step_index, t, tensors):
        pipe._guidance_scale += 1.0

    changed = latents_of(pipeline, guidance_scale=2.0, callback_on_step_end=more)
    assert pipeline.guidance_scale == 2.0 + pipeline.num_timesteps
    assert not torch.allclose(changed, latents_of(pipeline, guidance_scale=2.0), atol=1e-2)
    assert pipeline.guidance_scale == 2.0
    pipeline = with_scheduler(pipeline, diffusers.HeunDiscreteScheduler())
    latents_of(pipeline)
    assert pipeline.num_timesteps == 7


@pytest.mark.parametrize("options", [{}, {"names": None}, {"null": False}])
def test_a_second_pipeline_has_the_same_parts_and_labels(tiny_pipeline, options):
    pipeline = tiny_pipeline(**options)
    assert pipeline.components == {"unet": pipeline.unet, "scheduler": pipeline.scheduler}
    labels = [0, 1] if pipeline.is_conditional else None
    options = {"labels": labels, "num_images_per_prompt": 1 if labels else 2, "generator": None}
    options["latents"] = torch.randn(2, 1, 8, 8)
    second = CFGDDPMPipeline.from_pipe(pipeline)
    assert (second.id2label, second.null_label) == (pipeline.id2label, pipeline.null_label)
    assert second.unet is pipeline.unet
    assert torch.equal(latents_of(second, **options), latents_of(pipeline, **options))


@pytest.mark.parametrize("options", [{"names": None}, {}], ids=["unconditional", "null label"])
def test_batch_size_is_the_number_of_images_without_labels(tiny_pipeline, options):
    pipeline = tiny_pipeline(**options)
    images = latents_of(pipeline, None, num_images_per_prompt=6)
    for batch_size, per_prompt in ((6, 1), (3, 2)):
        counts = {"batch_size": batch_size, "num_images_per_prompt": per_prompt, "generator": generators(6)}
        assert torch.equal(latents_of(pipeline, None, **counts), images)


def test_batch_size_may_repeat_the_number_of_labels(tiny_pipeline):
    pipeline = tiny_pipeline()
    options = {"num_images_per_prompt": 2, "generator": generators(6)}
    assert torch.equal(latents_of(pipeline, batch_size=3, **options), latents_of(pipeline, num_images_per_prompt=2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_device_and_dtype_are_those_of_the_network(tiny_pipeline, dtype, tmp_path):
    pipeline = tiny_pipeline().to("cpu", dtype)
    assert pipeline.unet.dtype == pipeline.dtype == dtype
    assert pipeline.device == torch.device("cpu")
    pipeline.save_pretrained(tmp_path, variant="other")
    loaded = CFGDDPMPipeline.from_pretrained(tmp_path, variant="other", dtype={"unet": dtype, "default": torch.float16})
    assert loaded.unet.dtype == dtype
    assert torch.equal(latents_of(loaded, guidance_scale=2.0), latents_of(pipeline, guidance_scale=2.0))


def test_the_hooks_of_offloading_are_renewed_after_each_call(tiny_pipeline):
    pipeline = tiny_pipeline()
    expected = latents_of(pipeline)
    # Without an accelerator the network stays where it is, but hooks are set and renewed all the same.
    pipeline.enable_model_cpu_offload(device="cpu")
    for _ in range(2):
        before = pipeline._all_hooks
        assert torch.equal(latents_of(pipeline), expected)
        assert len(pipeline._all_hooks) == 1
        assert pipeline._all_hooks[0] is not before[0]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("offload", ["enable_model_cpu_offload", "enable_sequential_cpu_offload"])
def test_offloading_does_not_change_the_images(tiny_pipeline, offload):
    expected = latents_of(tiny_pipeline().to("cuda")).cpu()
    pipeline = tiny_pipeline()
    getattr(pipeline, offload)()
    for _ in range(2):
        torch.testing.assert_close(latents_of(pipeline).cpu(), expected, rtol=0, atol=1e-4)
    assert {weight.device.type for weight in pipeline.unet.parameters()} <= {"cpu", "meta"}


def test_an_unconditional_model_is_one_of_diffusers_too(tiny_pipeline, tmp_path, capfd):
    pipeline = tiny_pipeline("ddpm", names=None)
    pipeline.save_pretrained(tmp_path)
    read = (
        UNet2DModel.from_pretrained(tmp_path, subfolder="unet"),
        DDPMScheduler.from_pretrained(tmp_path, subfolder="scheduler"),
    )
    assert "ignored" not in capfd.readouterr().err
    options = {"batch_size": 2, "num_inference_steps": 4, "output_type": "np"}
    rng = torch.Generator()
    images = pipeline(generator=rng.manual_seed(0), **options).images
    for theirs in (DDPMPipeline(*read), DDPMPipeline(**pipeline.components), DDPMPipeline.from_pipe(pipeline)):
        expected = theirs(generator=rng.manual_seed(0), **options).images
        np.testing.assert_allclose(images, expected, rtol=0, atol=1e-6)
    assert not CFGDDPMPipeline.from_pretrained(tmp_path).is_conditional


# Saving


def test_save_and_load_keeps_everything(tiny_unet, tmp_path, capfd):
    names = {label: f"class {label}" for label in range(12)}
    unet = tiny_unet(13, channels=3)
    saved = CFGDDPMPipeline(unet, SCHEDULERS["dpmsolver++"], names, 12)
    saved.save_pretrained(tmp_path)
    loaded = CFGDDPMPipeline.from_pretrained(tmp_path)
    assert "Expected types" not in capfd.readouterr().err
    assert list(loaded.id2label.items()) == list(names.items())
    assert (loaded.null_label, loaded.num_classes) == (12, 12)
    assert loaded.get_label_ids("class 10") == [10]
    options = {"guidance_scale": 2.0, "labels": ("class 10", 2)}
    assert torch.equal(latents_of(saved, **options), latents_of(loaded, **options))

    loaded.save_pretrained(tmp_path / "again")
    assert list(CFGDDPMPipeline.from_pretrained(tmp_path / "again").id2label.items()) == list(names.items())


@pytest.mark.parametrize("named", [["pipeline", "CFGDDPMPipeline"], "CFGDDPMPipeline"], ids=["new", "old"])
def test_no_code_of_a_folder_is_run_whichever_way_its_class_is_named(tiny_pipeline, named, tmp_path):
    tiny_pipeline().save_pretrained(tmp_path)
    path = tmp_path / "model_index.json"
    assert json.loads(path.read_text())["_class_name"] == ["pipeline", "CFGDDPMPipeline"]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"_class_name": named}))
    (tmp_path / "pipeline.py").write_text("raise SystemExit('run')")
    for loaded in (CFGDDPMPipeline.from_pretrained(tmp_path), load_pipeline(str(tmp_path), device="cpu")):
        assert type(loaded) is CFGDDPMPipeline and loaded.id2label == NAMES


def test_a_class_of_a_users_own_is_saved_as_the_one_that_travels(tiny_pipeline, tmp_path):
    class Mine(CFGDDPMPipeline):
        pass

    Mine.from_pipe(tiny_pipeline()).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "model_index.json").read_text())["_class_name"] == ["pipeline", "CFGDDPMPipeline"]
    assert type(Mine.from_pretrained(tmp_path)) is Mine


def test_a_variant_is_saved_and_loaded_by_its_name(tiny_pipeline, tmp_path):
    pipeline = tiny_pipeline()
    expected = latents_of(pipeline)
    pipeline.save_pretrained(tmp_path)
    CFGDDPMPipeline.from_pipe(pipeline, dtype=torch.float16).save_pretrained(tmp_path, variant="fp16")
    plain, variant = (tmp_path / "unet" / f"diffusion_pytorch_model.{name}safetensors" for name in ("", "fp16."))
    assert variant.stat().st_size < 0.6 * plain.stat().st_size
    assert CFGDDPMPipeline.from_pretrained(tmp_path, variant="fp16", dtype=torch.float16).unet.dtype == torch.float16
    plain.unlink()
    loaded = CFGDDPMPipeline.from_pretrained(tmp_path, variant="fp16")
    torch.testing.assert_close(latents_of(loaded), expected, rtol=0, atol=0.02)
    assert load_pipeline(str(tmp_path), device="cpu", variant="fp16").unet.dtype == torch.float32
    for name in (None, "int8"):
        with pytest.raises(ValueError, match="cannot be loaded") as refused:
            load_pipeline(str(tmp_path), device="cpu", variant=name)
        assert "\n" not in str(refused.value)


def test_from_pipe_shares_the_network_in_its_dtype(tiny_pipeline):
    pipeline = tiny_pipeline().to(torch.bfloat16)
    assert CFGDDPMPipeline.from_pipe(pipeline).unet.dtype == torch.bfloat16
    pipeline = tiny_pipeline()
    other = CFGDDPMPipeline.from_pipe(pipeline, scheduler=SCHEDULERS["dpmsolver++"])
    assert other.unet is pipeline.unet
    assert (other.id2label, other.null_label) == (NAMES, NULL)


def test_saved_files_are_safe_and_hold_the_code(tiny_pipeline, tmp_path):
    pipeline = tiny_pipeline(names=None)
    pipeline.save_pretrained(tmp_path)
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert files == [
        "editing_pipeline.py",
        "model_index.json",
        "pipeline.py",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    ]
    assert (tmp_path / "pipeline.py").read_bytes() == Path(hf_ddpm.pipeline.__file__).read_bytes()
    with pytest.raises(ValueError, match="safe_serialization is False"):
        pipeline.save_pretrained(tmp_path, safe_serialization=False)


def test_the_file_stands_on_its_own():
    tree = ast.parse(Path(hf_ddpm.pipeline.__file__).read_text())
    roots = {node.module.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    roots |= {name.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    assert roots - set(sys.stdlib_module_names) == {"torch", "diffusers"}
    classes = [value for value in vars(hf_ddpm.pipeline).values() if inspect.isclass(value)]
    here = [value for value in classes if value.__module__ == hf_ddpm.pipeline.__name__]
    assert [value for value in here if issubclass(value, DiffusionPipeline)] == [CFGDDPMPipeline]
