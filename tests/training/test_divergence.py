"""A run whose numbers break stops before the step, keeps its checkpoints and says which samples it was at."""

import json

import pytest
import torch

from hf_ddpm.cli import parse_config
from hf_ddpm.data.batches import IndexStream
from hf_ddpm.data.table import load_images
from hf_ddpm.run_folder import RunFolder
from hf_ddpm.training.checkpoints import choose_checkpoint
from hf_ddpm.training.loop import train
from hf_ddpm.training.options import TrainConfig
from hf_ddpm.training.step_randomness import sample_step_randomness


def test_the_batch_that_broke_a_run_is_listed(tiny_options, tmp_path):
    folder = tmp_path / "run"
    options = [
        *tiny_options,
        "--max_train_steps=10",
        "--optim.learning_rate=1e30",
        "--optim.gradient_accumulation_steps=2",
        "--checkpoint.every_steps=1",
        f"--output_dir={folder}",
    ]
    with pytest.raises(FloatingPointError, match="the step was not applied") as stopped:
        train(parse_config(TrainConfig, options))
    (file,) = folder.glob("diverged-step-*.json")
    assert str(file) in str(stopped.value)
    listed = json.loads(file.read_text())
    step = listed["step"]
    assert step >= 1, "the first step is sound, the weights after it are not"
    assert not torch.tensor(float(listed["loss"])).isfinite()
    assert [entry["micro_step"] for entry in listed["micro_steps"]] == [0, 1]
    num_images = len(load_images("digits", "train", image_size=8))
    rows = IndexStream(num_images, seed=0).indices(step * 16, 16).tolist()
    assert [row for entry in listed["micro_steps"] for row in entry["sample_ids"]] == rows
    shape = {"total_batch_size": 16, "image_shape": (1, 8, 8), "num_train_timesteps": 1000}
    sampled = sample_step_randomness(0, step, range(16), **shape, timestep_sampling="stratified").timesteps.tolist()
    assert [t for entry in listed["micro_steps"] for t in entry["timesteps"]] == sampled
    assert choose_checkpoint(RunFolder(folder), "latest").name == f"step-{step:08d}", "the last one before it, and whole"


def test_a_run_that_diverges_keeps_its_last_checkpoint_only(tiny_options, tmp_path):
    """The weights just before are no good place to continue from."""
    options = [*tiny_options, "--max_train_steps=10", "--optim.learning_rate=1e30", f"--output_dir={tmp_path / 'run'}"]
    with pytest.raises(FloatingPointError, match="the step was not applied"):
        train(parse_config(TrainConfig, options))
    assert RunFolder(tmp_path / "run").checkpoints() == {}


@pytest.mark.parametrize("option", ["--checkpoint.every_steps=1000", "--max_train_steps=2"], ids=["last step", "before it"])
def test_a_preview_that_is_not_finite_loses_no_step(load_script, tiny_options, tmp_path, capsys, option):
    """The last step has ruined the weights, which nothing notices before the samples."""
    folder = tmp_path / "run"
    options = [*tiny_options, "--max_train_steps=1", "--optim.learning_rate=1e30", "--optim.lr_warmup_steps=0"]
    options += ["--logging.sample_every_steps=1", "--ema.decay=null", f"--output_dir={folder}", option]
    with pytest.raises(SystemExit) as stopped:
        load_script("train").main(options)
    assert stopped.value.code == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.endswith("are not finite: the model has diverged")
    assert choose_checkpoint(RunFolder(folder), "latest").name == "step-00000001"
