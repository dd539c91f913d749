"""Option groups check themselves, and every refusal names the option as the command line writes it."""

import math
import re
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import pytest
import torch

from hf_ddpm.config import (
    CheckpointConfig,
    EMAConfig,
    LoggingConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    ScheduleConfig,
)
from hf_ddpm.data.options import DataConfig
from hf_ddpm.evaluation.options import EvaluationConfig, ReferenceDataConfig
from hf_ddpm.experiments.options import SweepConfig, SweepGrid
from hf_ddpm.figures.forward import ForwardConfig
from hf_ddpm.figures.options import FigureDataConfig
from hf_ddpm.figures.registry import FIGURES
from hf_ddpm.training.options import GANConfig, JudgeConfig, RunConfig, TrainConfig

PROGRAMS = [TrainConfig, GANConfig, JudgeConfig, EvaluationConfig, SweepConfig, *(config for config, _ in FIGURES.values())]

NAN, INFINITY = math.nan, math.inf
IMPOSSIBLE = {
    DataConfig: {"batch_size": [0, -1], "image_size": [0, -8], "labels": [[]]},
    ScheduleConfig: {"num_train_timesteps": [-1, 0, 1, 100_001], "beta_start": [1e-4], "beta_end": [0.02]},
    ObjectiveConfig: {"class_dropout_prob": [-0.1, 1.1, NAN], "snr_gamma": [-1.0, 0.0, NAN, INFINITY, 5.0]},
    OptimConfig: {
        "learning_rate": [0.0, -1e-3, NAN, INFINITY],
        "betas": [(0.9, 1.0), (-0.1, 0.9), (NAN, 0.9)],
        "weight_decay": [-0.1, NAN, INFINITY],
        "lr_warmup_steps": [-1],
        "max_grad_norm": [0.0, -1.0, NAN],
        "gradient_accumulation_steps": [0, -1],
    },
    EMAConfig: {"decay": [-0.1, 1.0, NAN], "inv_gamma": [0.0, -1.0], "power": [0.0, NAN]},
    CheckpointConfig: {"every_steps": [0, -1], "keep": [-1, 0, 1], "keep_every_steps": [0]},
    LoggingConfig: {"every_steps": [0, -1], "sample_every_steps": [0]},
}
PREFIXES = {
    DataConfig: "data",
    ScheduleConfig: "schedule",
    ObjectiveConfig: "objective",
    OptimConfig: "optim",
    EMAConfig: "ema",
    CheckpointConfig: "checkpoint",
    LoggingConfig: "logging",
}


def run_config(**options) -> RunConfig:
    return RunConfig(**{"output_dir": "runs/a", "max_train_steps": 1} | options)


def train_config(**options) -> TrainConfig:
    return TrainConfig(**{"output_dir": "runs/a", "max_train_steps": 1} | options)


@pytest.mark.parametrize("group", [*PREFIXES, ModelConfig])
def test_defaults_are_possible(group):
    group()


@pytest.mark.parametrize(
    ("group", "name", "value"),
    [(group, name, value) for group, names in IMPOSSIBLE.items() for name, values in names.items() for value in values],
)
def test_impossible_values_are_refused_by_name(group, name, value):
    with pytest.raises(ValueError) as refused:
        group(**{name: value})
    assert str(refused.value).startswith(f"--{PREFIXES[group]}.{name} is {value!r}: ")


@pytest.mark.parametrize(
    ("group", "options"),
    [
        (ObjectiveConfig, {"class_dropout_prob": 0.0}),
        (ObjectiveConfig, {"class_dropout_prob": 1.0}),
        (OptimConfig, {"max_grad_norm": None, "betas": (0.0, 0.0)}),
        (EMAConfig, {"decay": None}),
        (EMAConfig, {"decay": 0.0}),
        (CheckpointConfig, {"every_steps": None, "keep_every_steps": 1}),
        (ScheduleConfig, {"beta_schedule": "linear", "beta_start": 0.01, "beta_end": 0.01}),
    ],
)
def test_values_at_the_edge_are_possible(group, options):
    group(**options)


# Types


@pytest.mark.parametrize(
    ("group", "options", "message"),
    [
        (OptimConfig, {"optimizer": "sgd"}, "--optim.optimizer is 'sgd': expected one of 'adam', 'adamw'"),
        (DataConfig, {"batch_size": "8"}, "--data.batch_size is '8': expected int"),
        (DataConfig, {"batch_size": True}, "--data.batch_size is True: expected int"),
        (DataConfig, {"batch_size": 8.0}, "--data.batch_size is 8.0: expected int"),
        (DataConfig, {"channels": 2.5}, "--data.channels is 2.5: expected int or null"),
        (DataConfig, {"channels": True}, "--data.channels is True: expected int or null"),
        (DataConfig, {"streaming": 1}, "--data.streaming is 1: expected bool"),
        (DataConfig, {"labels": "cat"}, "--data.labels is 'cat': expected list of str or int or null"),
        (DataConfig, {"labels": ["cat", 1.5]}, "--data.labels is ['cat', 1.5]: expected list of str or int or null"),
        (OptimConfig, {"betas": (0.9,)}, "--optim.betas is (0.9,): expected tuple of float, float"),
        (OptimConfig, {"learning_rate": False}, "--optim.learning_rate is False: expected float"),
        (ModelConfig, {"overrides": [1]}, "--model.overrides is [1]: expected dict or null"),
        (LoggingConfig, {"trackers": ["bogus"]}, "--logging.trackers is ['bogus']: expected list of one of 'tensorboard', "),
        (
            run_config,
            {"mixed_precision": "fp8"},
            "--mixed_precision is 'fp8': expected one of 'auto', 'fp32', 'bf16', 'fp16'",
        ),
        (train_config, {"optim": {"betas": (0, 0)}}, "--optim is {'betas': (0, 0)}: expected OptimConfig"),
        (train_config, {"data": ReferenceDataConfig()}, "--data is ReferenceDataConfig("),
    ],
)
def test_values_of_another_type_are_refused_in_python_too(group, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        group(**options)


def test_an_int_matches_float_a_list_a_tuple_and_a_str_a_path():
    OptimConfig(learning_rate=1, betas=[0, 0.5], lr_scheduler="multistep", lr_milestones=(1, 2), lr_gamma=1)
    EvaluationConfig(model="m", features="inception", output="results.json", inception_weights=Path("weights"))


def groups(config_class: type) -> Iterator[type]:
    """A program's options and their groups."""
    yield config_class
    for kind in get_type_hints(config_class).values():
        if is_dataclass(kind):
            yield from groups(kind)


@pytest.mark.parametrize(
    "group", dict.fromkeys(group for program in PROGRAMS for group in groups(program)), ids=lambda group: group.__name__
)
def test_every_group_checks_its_types_and_removes_no_option(group):
    required = {option.name: object() for option in fields(group) if option.default is option.default_factory is MISSING}
    first = fields(group)[0].name
    with pytest.raises(ValueError, match=f"{first} is <object"):
        group(**required | {first: object()})
    for base in filter(is_dataclass, group.__mro__):
        assert {option.name for option in fields(base)} <= {option.name for option in fields(group)}


# Schedule


def test_cosine_is_an_alias():
    assert ScheduleConfig(beta_schedule="cosine") == ScheduleConfig(beta_schedule="squaredcos_cap_v2")


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, NAN])
@pytest.mark.parametrize("name", ["beta_start", "beta_end"])
def test_betas_are_variances(name, value):
    with pytest.raises(ValueError, match=f"--schedule.{name} is"):
        ScheduleConfig(beta_schedule="linear", **{name: value})


def test_betas_increase():
    with pytest.raises(ValueError, match="--schedule.beta_end is 0.01"):
        ScheduleConfig(beta_schedule="linear", beta_start=0.02, beta_end=0.01)


def test_beta_range_has_the_defaults_of_ho_et_al():
    assert ScheduleConfig(beta_schedule="linear").beta_range == (1e-4, 0.02)
    assert ScheduleConfig(beta_schedule="linear", beta_end=0.5).beta_range == (1e-4, 0.5)


# Pairs


def test_min_snr_requires_its_gamma_and_gamma_requires_min_snr():
    ObjectiveConfig(loss_weighting="min_snr", snr_gamma=5.0)
    with pytest.raises(ValueError, match="--objective.snr_gamma is None: min_snr needs it"):
        ObjectiveConfig(loss_weighting="min_snr")
    with pytest.raises(ValueError, match="--objective.snr_gamma is 5.0: add --objective.loss_weighting min_snr"):
        ObjectiveConfig(snr_gamma=5.0)


@pytest.mark.parametrize("missing", ["lr_milestones", "lr_gamma"])
def test_multistep_needs_milestones_and_gamma(missing):
    options = {"lr_milestones": [2, 4], "lr_gamma": 0.1}
    OptimConfig(lr_scheduler="multistep", **options)
    with pytest.raises(ValueError, match=f"--optim.{missing} is None: multistep needs it"):
        OptimConfig(lr_scheduler="multistep", **options | {missing: None})
    with pytest.raises(ValueError, match=f"--optim.{missing} is .*add --optim.lr_scheduler multistep"):
        OptimConfig(**{missing: options[missing]})


@pytest.mark.parametrize("milestones", [[], [0], [-1, 2], [2, 2], [4, 2]])
def test_milestones_increase_from_above_0(milestones):
    with pytest.raises(ValueError, match="--optim.lr_milestones is"):
        OptimConfig(lr_scheduler="multistep", lr_milestones=milestones, lr_gamma=0.1)


# The run


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_train_steps": None}, "neither is given"),
        ({"max_train_steps": 1, "num_train_epochs": 1}, "both are given"),
    ],
)
def test_a_run_has_one_length(options, words):
    with pytest.raises(ValueError, match=f"--max_train_steps or --num_train_epochs.*{words}"):
        run_config(**options)


@pytest.mark.parametrize(
    ("name", "value"),
    [("output_dir", ""), ("seed", -1), ("seed", 2**32), ("max_train_steps", 0), ("max_train_steps", -1), ("num_threads", 0)],
)
def test_impossible_runs_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"--{name} is "):
        run_config(**{name: value})


@pytest.mark.parametrize("seed", [-1, 2**32, 7 + 2**32])
def test_seeds_are_those_that_torch_tells_apart_in_every_program(seed, tmp_path, load_script):
    measured = {"model": "runs/a/pipeline", "features": "inception", "data": ReferenceDataConfig(source="digits")}
    programs = [
        lambda: run_config(seed=seed),
        lambda: EvaluationConfig(**measured, output=tmp_path / "eval.json", seed=seed),
        lambda: SweepGrid(train_seed=[0, seed]),
        lambda: ForwardConfig(output=tmp_path / "forward", data=FigureDataConfig(source="digits"), seed=seed),
        lambda: load_script("sample").SampleConfig(model="runs/a/pipeline", output_dir=str(tmp_path / "images"), seed=seed),
    ]
    for program in programs:
        with pytest.raises(ValueError, match=rf"seed is {seed}: give (a whole number from )?0 to 4294967295"):
            program()


def test_epochs_are_positive():
    with pytest.raises(ValueError, match="--num_train_epochs is 0"):
        run_config(max_train_steps=None, num_train_epochs=0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="fp16 is possible on CUDA")
def test_fp16_needs_cuda():
    with pytest.raises(ValueError, match="--mixed_precision is 'fp16'"):
        run_config(mixed_precision="fp16")


# Across groups


def test_epsilon_and_zero_terminal_snr_exclude_each_other():
    zero_terminal = ScheduleConfig(rescale_zero_terminal_snr=True)
    train_config(schedule=zero_terminal, objective=ObjectiveConfig(prediction_type="sample"))
    with pytest.raises(ValueError, match="--objective.prediction_type is 'epsilon'"):
        train_config(schedule=zero_terminal, objective=ObjectiveConfig(prediction_type="epsilon"))


def test_the_model_is_checked_with_the_data():
    train_config(data=DataConfig(image_size=6))
    with pytest.raises(ValueError, match="^image_size is 7"):
        train_config(data=DataConfig(image_size=7))
    with pytest.raises(ValueError, match="^preset is 'digits9', neither"):
        train_config(model=ModelConfig(preset="digits9"))


@pytest.mark.parametrize(
    ("asked", "conditional", "probability"), [(None, True, 0.1), (0.0, True, 0.0), (0.3, True, 0.3), (None, False, 0.0)]
)
def test_class_dropout_depends_on_whether_the_model_is_conditional(asked, conditional, probability):
    config = train_config(objective=ObjectiveConfig(class_dropout_prob=asked))
    assert config.resolve_class_dropout(conditional) == probability


def test_class_dropout_without_classes_is_refused():
    objective = ObjectiveConfig(class_dropout_prob=0.2)
    with pytest.raises(ValueError, match="--objective.class_dropout_prob is 0.2"):
        train_config(objective=objective).resolve_class_dropout(conditional=False)
    with pytest.raises(ValueError, match="--objective.class_dropout_prob is 0.2"):
        train_config(objective=objective, data=DataConfig(class_conditional=False))


def test_a_zero_null_embedding_needs_a_null_label():
    model = ModelConfig(null_embedding="zero")
    assert train_config(model=model).resolve_class_dropout(conditional=True) == 0.1
    with pytest.raises(ValueError, match="--model.null_embedding is 'zero'"):
        train_config(model=model, data=DataConfig(class_conditional=False))
    config = train_config(model=model, objective=ObjectiveConfig(class_dropout_prob=0.0))
    with pytest.raises(ValueError, match="--model.null_embedding is 'zero'"):
        config.resolve_class_dropout(conditional=True)
