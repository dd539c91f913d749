"""A name that is no option is answered with the option that was meant."""

import re

import pytest

from hf_ddpm.commandline.names import NOT_HERE, SAME_AS, explain_unknown
from hf_ddpm.commandline.options import options_of
from hf_ddpm.evaluation.options import EvaluationConfig
from hf_ddpm.experiments.options import SweepConfig
from hf_ddpm.training.options import GANConfig, JudgeConfig, TrainConfig

TRAIN = list(options_of(TrainConfig))


@pytest.fixture
def mistake(refusal_of):
    return lambda *args, config_class=TrainConfig: refusal_of(config_class, *args)


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("train_data_dir", "--data.source"), ("dataset_name", "--data.source"), ("resolution", "--data.image_size"),
        ("train_batch_size", "--data.batch_size"), ("learning_rate", "--optim.learning_rate"),
        ("num_epochs", "--num_train_epochs"), ("use_ema", "--ema.decay null switches it off"),
        ("push_to_hub", "--hub.push_to_hub"), ("lr", "--optim.learning_rate"), ("random_flip", "--data.horizontal_flip"),
        ("hub_model_id", "--hub.repo_id"), ("prediction_type", "--objective.prediction_type"),
        ("gradient_accumulation_steps", "--optim.gradient_accumulation_steps"), ("ema_power", "--ema.power"),
        ("checkpointing_steps", "--checkpoint.every_steps"), ("resume_from_checkpoint", "--resume"),
        ("ddpm_beta_schedule", "--schedule.beta_schedule"), ("adam_beta1", "--optim.betas"),
        ("logger", "--logging.trackers"),
        ("ddpm_num_inference_steps", "--evaluation.num_inference_steps"), ("center_crop", "leave it out"),
        ("overwrite_output_dir", "name another --output_dir"), ("hub_token", "hf auth login"),
    ],
)  # fmt: skip
def test_names_of_the_example_of_diffusers_are_translated(mistake, name, option):
    message = mistake("--output_dir=a", f"--{name}", "1")
    assert f"unknown option --{name}, " in message and option in message


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("output-dir", "here it is --output_dir"),
        ("data.batchsize", "here it is --data.batch_size"),
        ("batch-size", "here it is --data.batch_size"),
        ("batch_size", "here it is --data.batch_size"),
        ("data.learning_rate", "here it is --optim.learning_rate"),
        ("DATA.SOURCE", "here it is --data.source"),
        ("outputdir", "here it is --output_dir"),
        ("ouput_dir", "did you mean --output_dir?"),
        ("data.sorce", "did you mean --data.source?"),
        ("warmup_steps", "did you mean --optim.lr_warmup_steps?"),
        ("epochs", "here it is --num_train_epochs"),
        ("mixed_precison", "did you mean --mixed_precision?"),
        ("zzz", "--help all lists the options"),
    ],
)
def test_names_that_are_nearly_right(mistake, name, answer):
    assert f"unknown option --{name}, {answer}" in mistake("--output_dir=a", f"--{name}=1")


def test_several_unknown_options_are_answered_at_once(mistake):
    message = mistake("--output_dir=a", "--lr", "1e-4", "--bs=8", "--zzz")
    assert all(words in message for words in ("--lr, here", "--bs, here it is --data.batch_size", "--zzz, --help all"))


def test_one_dash_is_explained_too(mistake):
    assert "unknown option --lr, here it is --optim.learning_rate" in mistake("-lr", "1")


def test_every_option_that_has_this_name_is_named():
    options = list(options_of(EvaluationConfig))
    assert explain_unknown("batch_size", options) == "here it is --sampling.batch_size"
    assert explain_unknown("every_steps", TRAIN).count("--") == 3


@pytest.mark.parametrize(
    "text", ["lr: 1\n", "optim:\n  lr: 1\n", "data:\n  batchsize: 4\n", "train_batch_size: 3\nresolution: 8\n"]
)
def test_keys_of_a_recipe_are_answered_in_the_same_way(mistake, tmp_path, text):
    (tmp_path / "a.yaml").write_text(f"program: train\n{text}")
    message = mistake("--config", str(tmp_path / "a.yaml"), "--output_dir=a")
    expected = {"lr": "optim.learning_rate", "batchsize": "data.batch_size", "resolution": "data.image_size"}
    for key, option in expected.items():
        if key in text:
            assert f"{key}, here it is {option}" in message and "a.yaml: unknown option" in message


def test_every_translation_leads_to_an_option_of_some_program(load_script):
    classes = [TrainConfig, GANConfig, JudgeConfig, EvaluationConfig, SweepConfig, load_script("sample").SampleConfig]
    classes.append(load_script("push_to_hub").PushConfig)
    known = {name for config_class in classes for name in options_of(config_class)}
    assert {option for options in SAME_AS.values() for option in options} <= known
    assert {option for text in NOT_HERE.values() for option in re.findall(r"`([a-z_]+\.?[a-z_]+)`", text)} <= known


def test_names_are_translated_for_programs_that_have_the_option(load_script):
    sample = list(options_of(load_script("sample").SampleConfig))
    assert explain_unknown("labels", sample) == "did you mean --class_labels?"
    assert explain_unknown("steps", sample) == "here it is --num_inference_steps"
    assert explain_unknown("cfg_scale", sample) == "here it is --guidance_scale"
    assert explain_unknown("use_ema", sample) == "--help all lists the options"
    assert explain_unknown("lr", list(options_of(GANConfig))) == "here it is --optim.learning_rate"


def test_values_of_free_text_are_answered_too(mistake):
    message = mistake("--output_dir=a", "--max_train_steps=1", "--model.preset=mnist")
    assert "did you mean mnist28 or mnist32?" in message
