"""A model that is saved with sampling defaults samples like that wherever nothing else is said."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from hf_ddpm.cli import parse_config
from hf_ddpm.editing_pipeline import CFGDDPMEditingPipeline
from hf_ddpm.evaluation.options import EvaluationConfig, SamplingConfig
from hf_ddpm.evaluation.protocol import generation_options
from hf_ddpm.evaluation.report import describe_samples
from hf_ddpm.figures.options import SamplingOptions
from hf_ddpm.figures.samples import describe_sampling
from hf_ddpm.hub.card import card_files
from hf_ddpm.pipeline import CFGDDPMPipeline
from hf_ddpm.sampling import default_guidance_scale, generate, load_pipeline
from hf_ddpm.schedulers import build_scheduler
from hf_ddpm.training.distill_options import DistillConfig, DistillDataConfig
from hf_ddpm.training.loop import train
from hf_ddpm.training.options import TrainConfig
from hf_ddpm.training.teacher import load_teacher
from hf_ddpm.web.site import model_facts

DEFAULTS = {"num_inference_steps": 4, "guidance_scale": 3.0, "guidance": "apg", "guidance_interval": (0.2, 0.8)}


@pytest.fixture
def tuned(tiny_pipeline) -> CFGDDPMPipeline:
    pipeline = tiny_pipeline()
    pipeline.scheduler = pipeline._trained_with = build_scheduler("dpmsolver++", pipeline.scheduler.config)
    pipeline.set_sampling_defaults(DEFAULTS)
    return pipeline


@pytest.fixture
def folder(tuned, tmp_path) -> str:
    tuned.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def sampled(pipeline: DiffusionPipeline, **options) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
    return pipeline(class_labels=["cat", 2], generator=generators, output_type="np", **options).images


def test_a_call_without_options_is_the_one_with_the_defaults(tiny_pipeline, tuned, folder):
    plain = tiny_pipeline(tuned.scheduler)
    expected = sampled(plain, **DEFAULTS)
    for pipeline in (
        tuned,
        CFGDDPMPipeline.from_pretrained(folder),
        DiffusionPipeline.from_pretrained(folder, trust_remote_code=True),
        CFGDDPMEditingPipeline.from_pipe(tuned),
    ):
        assert np.array_equal(sampled(pipeline), expected), type(pipeline)
        assert pipeline.num_timesteps == 4
    others = {"num_inference_steps": 3, "guidance_scale": 1.5, "guidance_interval": (0, 1), "guidance": "cfg"}
    for name, other in others.items():
        assert not np.array_equal(sampled(tuned, **{name: other}), expected), name
        assert np.array_equal(sampled(tuned, **{name: other}), sampled(plain, **{**DEFAULTS, name: other})), name


def test_the_steps_are_those_of_the_saved_scheduler(tuned, folder):
    assert load_pipeline(folder).default_steps == load_pipeline(folder, scheduler="dpmsolver++").default_steps == 4
    switched = load_pipeline(folder, scheduler="ddim")
    assert switched.default_steps == CFGDDPMEditingPipeline.from_pipe(switched).default_steps == 50
    assert default_guidance_scale(switched) == 3.0


def test_programs_take_and_record_them(folder, tmp_path):
    pipeline = load_pipeline(folder)
    options = generation_options(pipeline, SamplingConfig())
    assert (options["num_inference_steps"], options["guidance_scale"], default_guidance_scale(pipeline)) == (4, 3.0, 3.0)
    pair = [next(generate(pipeline, class_labels=[0, 1], **given)).images for given in (options, {}, {"guidance": "cfg"})]
    assert np.array_equal(pair[0], pair[1]) and not np.array_equal(pair[0], pair[2])
    config = EvaluationConfig(model=folder, features="inception", output=tmp_path / "eval.json")
    assert describe_samples(config, pipeline).items() >= {**DEFAULTS, "guidance_interval": [0.2, 0.8]}.items()
    config.sampling = SamplingConfig(guidance_interval=(0, 1), num_inference_steps=2)
    said = describe_samples(config, pipeline)
    assert (said["guidance_interval"], said["num_inference_steps"], said["guidance"]) == ((0, 1), 2, "apg")
    about = describe_sampling(pipeline, SamplingOptions(output=tmp_path / "figure"), 1, 3.0)
    assert about == "DPMSolverMultistep, 4 steps, s = 3 (w = 2), apg, for 0.2 <= t / T < 0.8, seed 0"
    about = describe_sampling(pipeline, SamplingOptions(output=tmp_path / "figure"), 1, 1.0)
    assert about == "DPMSolverMultistep, 4 steps, s = 1 (w = 0), seed 0"


def test_a_model_without_them_has_nothing_of_them(tiny_pipeline, tuned, tmp_path):
    plain = tiny_pipeline()
    tuned.set_sampling_defaults({})
    for number, pipeline in enumerate((plain, tuned)):
        pipeline.save_pretrained(tmp_path / str(number))
        assert "sampling_defaults" not in json.loads((tmp_path / str(number) / "model_index.json").read_text())
    assert (plain.default_steps, plain.sampling_defaults, default_guidance_scale(plain)) == (50, {}, 1.5)


@pytest.mark.parametrize(
    ("defaults", "message"),
    [
        ([1], "give values of"),
        ({"eta": 1.0}, "give values of"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0: give a number from 1 to 1000"),
        ({"num_inference_steps": 2.5}, "num_inference_steps is 2.5: give an integer"),
        ({"guidance_scale": "3"}, "guidance_scale is '3': give a finite number"),
        ({"guidance_scale": float("nan")}, "guidance_scale is nan"),
        ({"guidance": "magic"}, "guidance is 'magic'"),
        ({"guidance": ["cfg"]}, r"guidance is \['cfg'\]"),
        ({"guidance": "autoguidance"}, "the pipeline has no guide"),
        ({"guidance_interval": [0.5]}, "guidance_interval is .*: give"),
        ({"guidance_interval": [0.5, 0.1]}, "guidance_interval.* is 0.1: give"),
    ],
)
def test_damaged_ones_are_refused(folder, defaults, message):
    index = f"{folder}/model_index.json"
    with open(index, encoding="utf-8") as file:
        content = json.load(file)
    with open(index, "w", encoding="utf-8") as file:
        json.dump({**content, "sampling_defaults": defaults}, file)
    with pytest.raises(ValueError, match=f"cannot be loaded: sampling_defaults.*{message}") as caught:
        load_pipeline(folder)
    assert "\n" not in str(caught.value)


def test_models_that_cannot_be_guided(tiny_pipeline):
    for pipeline in (tiny_pipeline(names=None), tiny_pipeline(null=False)):
        with pytest.raises(ValueError, match="sampling_defaults: guidance_scale is 2: the model"):
            pipeline.set_sampling_defaults({"guidance_scale": 2})
        pipeline.set_sampling_defaults({"num_inference_steps": 7})
        assert pipeline.default_steps == 7


def test_a_guide_that_is_set_is_used(tuned, tiny_unet, folder):
    tuned.set_guide(tiny_unet(4, seed=1))
    assert tuned.sampling_defaults == {name: value for name, value in DEFAULTS.items() if name != "guidance"}
    assert tuned._guidance_of(None) == "autoguidance"
    loaded = CFGDDPMPipeline.from_pretrained(folder, guide=tiny_unet(4, seed=1))
    assert loaded._guidance_of(None) == "autoguidance"
    tuned.set_sampling_defaults({"guidance": "autoguidance"})
    tuned.save_pretrained(folder)
    assert CFGDDPMPipeline.from_pretrained(folder).sampling_defaults == {"guidance": "autoguidance"}


def test_a_teacher_whose_scale_is_for_an_interval_is_asked_for_one(tiny_pipeline, tmp_path):
    teacher = tiny_pipeline()
    teacher.scheduler.register_to_config(prediction_type="v_prediction")
    teacher.set_sampling_defaults({"guidance_scale": 3, "guidance_interval": (0.2, 0.8)})
    teacher.save_pretrained(tmp_path / "teacher")
    options = {"teacher": str(tmp_path / "teacher"), "output_dir": str(tmp_path / "out"), "max_train_steps": 1}
    options["data"] = DistillDataConfig(source="digits")
    with pytest.raises(ValueError, match="guidance_scale is None: that of the teacher is for its own guidance_interval"):
        load_teacher(DistillConfig(**options))
    assert load_teacher(DistillConfig(**options, guidance_scale=2.0)).sampling_defaults["guidance_scale"] == 3
    teacher.set_sampling_defaults({"guidance_scale": 3, "guidance": "cfg"})  # which a student learns
    teacher.save_pretrained(tmp_path / "teacher")
    load_teacher(DistillConfig(**options))


def test_the_card_says_them_and_its_code_leaves_them_out(folder, tmp_path):
    card = card_files(tmp_path / "model")["README.md"].decode()
    row = "| Sampling by default | 4 steps, guidance scale 3, apg, for 0.2 &lt;= t / T &lt; 0.8 | `model\\_index.json` |"
    assert row in card or row.replace("\\", "") in card
    assert 'images = pipeline(class_labels=["cat", 2], generator=generators).images' in card
    assert 'scheduler="ddim"' in card and "num_inference_steps=50" in card


@pytest.mark.parametrize("damaged", ["a", {"guidance_scale": "a"}, {"guidance_interval": [1]}, {"num_inference_steps": [2]}])
def test_a_card_of_damaged_ones_is_refused(folder, damaged, tmp_path):
    index = tmp_path / "model" / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "sampling_defaults": damaged}))
    with pytest.raises(ValueError, match="is damaged: its JSON files are not those of a saved pipeline"):
        card_files(tmp_path / "model")


def test_the_page_begins_with_them(tuned, tiny_pipeline):
    with pytest.raises(ValueError, match="its saved guidance is apg, and the page has cfg alone"):
        model_facts(tuned, "a")
    tuned.set_sampling_defaults({**DEFAULTS, "guidance": "cfg"})
    facts = model_facts(tuned, "a")
    assert facts["guidance_interval"] == [200, 800]
    assert facts["defaults"].items() >= {"sampler": "dpmsolver++", "steps": 4, "guidance": 3.0}.items()
    tuned.scheduler = tuned._trained_with = build_scheduler("ddim", tuned.scheduler.config)
    assert model_facts(tuned, "a")["defaults"]["sampler"] == "ddim"
    tuned.scheduler = tuned._trained_with = build_scheduler("heun", tuned.scheduler.config)
    assert model_facts(tuned, "a")["defaults"].items() >= {"sampler": "dpmsolver++", "steps": 20}.items()
    facts = model_facts(tiny_pipeline(), "a")
    assert (facts["guidance_interval"], facts["defaults"]["steps"]) == (None, 20)


def test_a_longer_run_says_that_they_are_not_taken_over(tiny_run, tiny_options, tmp_path, caplog):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    pipeline = CFGDDPMPipeline.from_pretrained(run / "pipeline")
    pipeline.set_sampling_defaults({"num_inference_steps": 4})
    pipeline.save_pretrained(run / "pipeline")
    train(parse_config(TrainConfig, [*tiny_options, "--max_train_steps=3", f"--output_dir={run}", "--resume=auto"]))
    assert "is published anew, without its sampling defaults (4 steps): to save some, hf-ddpm tune-guidance" in caplog.text
    assert CFGDDPMPipeline.from_pretrained(run / "pipeline").sampling_defaults == {}
