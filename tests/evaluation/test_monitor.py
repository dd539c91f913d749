"""Evaluation during training does not change the training."""

import json

import pytest

from hf_ddpm.cli import parse_config
from hf_ddpm.evaluation.monitor import Monitor
from hf_ddpm.training.options import TrainConfig


@pytest.fixture
def run_training(load_script, tiny_options, tmp_path):
    def run(name: str, *more: str) -> list[dict]:
        options = [*tiny_options, "--max_train_steps=3", "--optim.lr_scheduler=constant"]
        load_script("train").main([*options, f"--output_dir={tmp_path / name}", *more])
        return [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]

    return run


@pytest.fixture
def monitored(tiny_judge):
    options = {"every_steps": 2, "features": f"judge:{tiny_judge}", "num_images": 10, "num_inference_steps": 2}
    return [f"--evaluation.{name}={value}" for name, value in options.items()] + ["--evaluation.min_judge_accuracy=null"]


def test_metrics_are_logged_and_training_stays_the_same(run_training, monitored, tmp_path):
    plain, measured = run_training("plain"), run_training("measured", *monitored)
    logged = [line for line in measured if "fd_judge" in line]
    assert [line["step"] for line in logged] == [2, 3]
    assert logged[0]["fd_judge"] != logged[1]["fd_judge"] and {"precision", "recall", "class_accuracy"} <= logged[0].keys()
    trained = [line for line in measured if "loss" in line]
    assert [line["loss"] for line in trained] == [line["loss"] for line in plain if "loss" in line]
    # An interrupted run logs the same.
    run_training("stopped", *monitored, "--max_train_steps=2")
    assert run_training("stopped", *monitored, "--resume=auto")[-1] == measured[-1]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["every_steps=2"], "--evaluation.features is None: give features, such as"),
        (["features=inception"], "add --evaluation.every_steps"),
        (["every_steps=2", "features=judge:x", "num_images=3"], "at least 6 images"),
        (["every_steps=2", "features=judge:x", "num_inference_steps=5000"], "the schedule has 1000 timesteps"),
    ],
)
def test_impossible_options_are_refused(tiny_options, capsys, more, message):
    more = [f"--evaluation.{option}" for option in more]
    with pytest.raises(SystemExit):
        parse_config(TrainConfig, [*tiny_options, "--max_train_steps=3", "--output_dir=x", *more])
    assert message in capsys.readouterr().err


def test_a_stream_cannot_be_the_reference(tiny_options, monitored, capsys):
    with pytest.raises(SystemExit):
        parse_config(TrainConfig, [*tiny_options, *monitored, "--data.streaming", "--max_train_steps=3", "--output_dir=x"])
    assert "leave out --data.streaming" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--evaluation.features=judge:nowhere"], "no such folder"),
        (["--evaluation.scheduler=fast"], "scheduler is 'fast'"),
        (["--evaluation.min_judge_accuracy=0.99"], "less than min_judge_accuracy"),
    ],
)
def test_wrong_options_are_refused_before_training(tiny_options, monitored, more, message):
    given = {option.split("=")[0] for option in more}
    options = [option for option in monitored if option.split("=")[0] not in given]
    config = parse_config(TrainConfig, [*tiny_options, "--max_train_steps=3", "--output_dir=x", *options, *more])
    with pytest.raises(ValueError, match=message):
        Monitor(config.evaluation, config.data)
