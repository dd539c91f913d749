"""What a run takes is measured before it starts, and nothing is written into its folder."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from hf_ddpm.cli import parse_config, take_flag
from hf_ddpm.training import estimate, gan, judge
from hf_ddpm.training.estimate import Compiling, estimate_training, free_space, kept_checkpoints, size_text, with_few_images
from hf_ddpm.training.options import GANConfig, JudgeConfig, TrainConfig

BASE = ["--data.source=digits", "--output_dir=runs/a"]


@pytest.fixture(autouse=True)
def few_steps(monkeypatch) -> None:
    monkeypatch.setattr(estimate, "MOST", 3)


@pytest.fixture
def rows_of(load_script, capsys):
    """The rows that a program prints."""

    def run(program: str, *options: str) -> dict[str, str]:
        capsys.readouterr()
        load_script(program).main([*options, "--estimate"])
        lines = capsys.readouterr().out.splitlines()
        return dict(re.split(r" {2,}", line, maxsplit=1) for line in lines if "  " in line)

    return run


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_new_run_is_estimated_and_not_begun(rows_of, tiny_options, tmp_path):
    options = [*tiny_options, "--data.test_split=test", "--num_train_epochs=2", "--checkpoint.every_steps=100"]
    rows = rows_of("train", *options, "--mixed_precision=fp32", f"--output_dir={tmp_path / 'run'}")
    assert rows["steps"] == "360"  # 2 x 1437 images, 8 each
    assert rows["settings"] == "fp32, contiguous, 1 thread"
    assert re.match(r"[\d.e-]+ s, [\d.e+]+ images/s at 8 images \(median of 3, ", rows["step"])
    assert rows["decoded images"].startswith("115 kB")  # 1437 + 360 images of 64 bytes
    assert "2 checkpoints" in rows["run folder"]
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_counts_the_steps_that_are_left(rows_of, tiny_run):
    before = contents(tiny_run)
    rows = rows_of("train", f"--config={tiny_run / 'config.yaml'}", "--max_train_steps=7", "--resume=auto")
    assert rows["steps"] == "5 left of 7"
    assert contents(tiny_run) == before


def test_another_run_in_the_folder_is_refused(load_script, tiny_run, capsys):
    with pytest.raises(SystemExit) as stopped:
        load_script("train").main(
            [f"--config={tiny_run / 'config.yaml'}", "--max_train_steps=7", "--resume=auto", "--seed=1", "--estimate"]
        )
    assert stopped.value.code == 2
    assert "the checkpoint is of another run, seed was 0 and is 1" in capsys.readouterr().err.splitlines()[-1]


def test_the_size_of_a_checkpoint_is_that_of_its_files(tiny_run, rows_of):
    checkpoint = tiny_run / "checkpoints" / "step-00000002"
    tensors = sum(path.stat().st_size for path in checkpoint.rglob("*.safetensors"))
    rows = rows_of("train", f"--config={tiny_run / 'config.yaml'}", "--max_train_steps=7", "--resume=auto")
    value, unit = rows["checkpoint"].split()
    assert float(value) * {"kB": 1e3, "MB": 1e6}[unit] == pytest.approx(tensors, rel=0.15)  # names and shapes beside them


def test_a_stream_is_estimated(rows_of, tiny_options, some_digits, tmp_path):
    options = [*tiny_options[1:], some_digits, "--data.streaming", "--max_train_steps=5", f"--output_dir={tmp_path / 'run'}"]
    rows = rows_of("train", *options)
    assert rows["steps"] == "5" and rows["decoded images"] == "none, as images are streamed"
    assert "shuffle buffer" in rows["not counted"]


@pytest.mark.parametrize(
    ("config_class", "build_task", "options"),
    [
        (GANConfig, gan.training_task, ["--data.image_size=8"]),
        (JudgeConfig, judge.training_task, ["--data.image_size=8", "--data.test_split=test"]),
    ],
)
def test_the_other_programs_are_estimated(config_class, build_task, options, tmp_path, capsys):
    options = [*options, "--data.source=digits", "--data.batch_size=4", "--max_train_steps=5", "--num_threads=1"]
    config = parse_config(config_class, [*options, f"--output_dir={tmp_path / 'run'}", "--mixed_precision=fp32"])
    estimate_training(config, build_task)
    assert re.search(r"^steps +5$", capsys.readouterr().out, flags=re.MULTILINE)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("every", "keep", "keep_every", "total", "count"),
    [(None, 2, None, 100, 1), (30, 2, None, 100, 2), (30, 2, 60, 100, 3), (10, 2, 50, 100, 3), (200, 2, None, 100, 1)],
)
def test_kept_checkpoints(every, keep, keep_every, total, count):
    options = [f"--checkpoint.every_steps={every}", f"--checkpoint.keep={keep}"]
    options += [f"--checkpoint.keep_every_steps={keep_every}", f"--max_train_steps={total}"]
    options = [option.replace("None", "null") for option in options]
    assert kept_checkpoints(parse_config(TrainConfig, BASE + options), total) == count


def test_whether_compiling_pays():
    compiling = Compiling(seconds=60, plain_step=0.3, step=0.2)
    assert compiling.describe(10_000).endswith("then 1.50 x as fast: pays after 600 steps")
    assert compiling.describe(500).endswith("pays after 600 steps, more than there are: leave it out")
    assert Compiling(seconds=60, plain_step=0.2, step=0.2).describe(10_000).endswith("never pays, leave it out")


def test_few_images_are_read_and_the_rest_stays():
    config = parse_config(TrainConfig, [*BASE, "--max_train_steps=5", "--data.batch_size=4", "--compile=full"])
    few = with_few_images(config, 2)
    assert (few.data.max_images, few.compile) == (32, "none")
    assert (config.data.max_images, config.compile) == (None, "full")


@pytest.mark.parametrize(("num_bytes", "text"), [(999, "999 bytes"), (8_430_000, "8.43 MB"), (2.5e12, "2.5 TB")])
def test_sizes(num_bytes, text):
    assert size_text(num_bytes) == text


def test_free_space_is_that_of_the_nearest_folder(tmp_path):
    assert free_space(tmp_path / "a" / "b") > 0


def test_the_flag_takes_no_value(capsys):
    assert take_flag("estimate", ["--seed", "3", "--estimate"]) == (True, ["--seed", "3"])
    assert take_flag("estimate", ["--seed", "3"]) == (False, ["--seed", "3"])
    with pytest.raises(SystemExit):
        take_flag("estimate", ["--estimate=true"])
    assert "--estimate takes no value" in capsys.readouterr().err


@pytest.mark.slow
def test_what_compiling_costs_is_measured(rows_of, tiny_options, tmp_path):
    torch._dynamo.reset()
    rows = rows_of("train", *tiny_options, "--max_train_steps=5", "--compile=regional", f"--output_dir={tmp_path / 'run'}")
    assert " in the first step, then " in rows["compile"]
