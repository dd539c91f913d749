"""A distilled pipeline samples right without being asked, and refuses what it has not learned."""

import numpy as np
import pytest
import torch
from diffusers import LCMScheduler

from hf_ddpm.editing_pipeline import CFGDDPMEditingPipeline
from hf_ddpm.evaluation.options import SamplingConfig
from hf_ddpm.pipeline import CFGDDPMPipeline
from hf_ddpm.sampling import default_guidance_scale, load_pipeline
from hf_ddpm.schedulers import build_few_step_scheduler

TRAINED = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction", "num_train_timesteps": 1000}


@pytest.fixture
def student(tiny_unet) -> CFGDDPMPipeline:
    pipeline = CFGDDPMPipeline(
        tiny_unet(3),
        build_few_step_scheduler("consistency", TRAINED),
        dict(enumerate(("cat", "dog", "frog"))),
        default_num_inference_steps=4,
        built_in_guidance_scale=1.5,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sampled(pipeline: CFGDDPMPipeline, **options) -> np.ndarray:
    generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
    return pipeline(class_labels=["cat", 2], generator=generators, output_type="np", **options).images


@pytest.mark.parametrize(
    "options",
    [
        {"num_inference_steps": 4}, {"guidance_scale": 1.5}, {"guidance_scale": 0.5, "use_original_formulation": True},
    ],
)  # fmt: skip
def test_what_is_built_in_may_be_said(student, options):
    assert np.array_equal(sampled(student, **options), sampled(student))
    assert (student.num_timesteps, student.guidance_scale) == (4, 1.5)
    assert student.scheduler.timesteps.tolist() == [999, 749, 499, 249]


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"guidance_scale": 2.0}, "guidance_scale"), ({"guidance_scale": 1.0}, "guidance_scale"),
        ({"guidance": "cfg"}, "guidance"), ({"guidance_interval": (0, 0.5)}, "guidance_interval"),
        ({"guidance_rescale": 0.5}, "guidance_rescale"),
    ],
)  # fmt: skip
def test_another_guidance_is_refused(student, options, name):
    with pytest.raises(ValueError, match=f"{name} is .*: the model was distilled with guidance of s = 1.5 built in"):
        sampled(student, **options)


def test_another_scheduler_is_refused(student, tmp_path):
    student.save_pretrained(tmp_path)
    switched = load_pipeline(str(tmp_path), scheduler="dpmsolver++", device="cpu")
    with pytest.raises(ValueError, match="scheduler is 'DPMSolver.*: the model was distilled for LCMScheduler alone"):
        sampled(switched)


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_another_number_of_steps_is_possible(student, count):
    assert sampled(student, num_inference_steps=count).shape == (2, 8, 8, 1) and student.num_timesteps == count


def test_programs_take_what_the_model_says(student, tiny_pipeline, tmp_path):
    student.save_pretrained(tmp_path)
    loaded = load_pipeline(str(tmp_path), device="cpu")
    loaded.set_progress_bar_config(disable=True)
    assert np.array_equal(sampled(loaded), sampled(student))
    sampling = SamplingConfig()
    assert (sampling.steps_for(loaded), sampling.scale_for(loaded), default_guidance_scale(loaded)) == (4, 1.5, 1.5)
    plain = tiny_pipeline()
    assert (sampling.steps_for(plain), sampling.scale_for(plain), plain.is_distilled) == (50, 1.5, False)
    assert SamplingConfig(num_inference_steps=2, guidance_scale=1).steps_for(loaded) == 2


def test_the_pipeline_of_edits_keeps_what_is_built_in(student, tmp_path):
    CFGDDPMEditingPipeline.from_pipe(student).save_pretrained(tmp_path)
    loaded = CFGDDPMPipeline.from_pretrained(tmp_path)
    assert (loaded.default_steps, loaded.built_in_guidance_scale) == (4, 1.5)
    with pytest.raises(ValueError, match="it adds noise to its steps, the model was distilled for it"):
        CFGDDPMEditingPipeline.from_pipe(student).interpolate(2, class_labels="cat")


def test_a_guide_is_refused(student, tiny_unet):
    with pytest.raises(ValueError, match="guide is 'UNet2DModel': a distilled model cannot be guided"):
        student.set_guide(tiny_unet(3, seed=1))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"default_num_inference_steps": 0}, "default_num_inference_steps is 0"),
        ({"default_num_inference_steps": 1001}, "default_num_inference_steps is 1001"),
        ({"built_in_guidance_scale": 1.5}, "built_in_guidance_scale is 1.5: a distilled model without a null label"),
        ({"null_label": 2, "default_num_inference_steps": 4, "built_in_guidance_scale": 1.5}, "without a null label"),
        ({"default_num_inference_steps": 4, "built_in_guidance_scale": float("nan")}, "built_in_guidance_scale is nan"),
    ],
)
def test_a_damaged_model_is_refused(tiny_unet, wrong, message):
    with pytest.raises(ValueError, match=message):
        CFGDDPMPipeline(tiny_unet(3), LCMScheduler(), **wrong)


def test_the_scheduler_has_the_betas_of_the_teacher():
    for betas in ({"beta_schedule": "sigmoid"}, {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}):
        scheduler = build_few_step_scheduler("consistency", {**TRAINED, **betas, "variance_type": "fixed_small"})
        teacher = build_few_step_scheduler("progressive", {**TRAINED, **betas})
        assert torch.allclose(scheduler.alphas_cumprod, teacher.alphas_cumprod)
