"""Checkpoints that were edited, with a manifest to match: whatever is in them is checked before anything is taken."""

import copy
import errno
import json
import os
import shutil
from pathlib import Path

import datasets
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file

import hf_ddpm.training.checkpoints as checkpoints
import hf_ddpm.training.loop as loop
from hf_ddpm.cli import parse_config
from hf_ddpm.run_folder import STATE, RunFolder
from hf_ddpm.runtime.distributed import init_distributed
from hf_ddpm.runtime.lock import OutputLock
from hf_ddpm.training.checkpoints import (
    MANIFEST,
    REQUIRED,
    TRAINING_FILES,
    DamagedCheckpoint,
    verify_checkpoint,
    write_manifest,
)
from hf_ddpm.training.gan import GANState, train_gan, training_task
from hf_ddpm.training.options import GANConfig, TrainConfig
from hf_ddpm.training.state import MOMENTS, WEIGHTS, GeneratorState
from hf_ddpm.training.task import set_up

RECIPES = Path(__file__).parents[2] / "train_scripts" / "recipes"
AVERAGED = REQUIRED[-1]


@pytest.fixture(scope="module")
def options(tiny_options) -> list[str]:
    return [*tiny_options, "--data.labels=[7]", "--max_train_steps=2", "--checkpoint.every_steps=1"]


@pytest.fixture(scope="module")
def run(new_run, options) -> Path:
    """A run folder with the checkpoints of steps 1 and 2."""
    return new_run(*options)


@pytest.fixture(scope="module")
def fresh(run, options) -> GeneratorState:
    """A state of step 0 of the same network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", run.parent / "cache")
        config = parse_config(TrainConfig, [*options, f"--output_dir={run}"])
        return set_up(config, loop.training_task(config), init_distributed())[1]


@pytest.fixture
def checkpoint(run, tmp_path) -> Path:
    """A copy of the last checkpoint, under a free name."""
    return shutil.copytree(RunFolder(run).last_checkpoint(), tmp_path / "checkpoint")


def seal(checkpoint: Path) -> None:
    """Write the manifest of what is there, and see that nothing else is wrong."""
    (checkpoint / MANIFEST).unlink()
    write_manifest(checkpoint)
    verify_checkpoint(checkpoint, TRAINING_FILES)


def edit_state(checkpoint: Path, **values) -> None:
    saved = json.loads((checkpoint / STATE).read_text())
    saved.update(values)
    (checkpoint / STATE).write_text(json.dumps({name: value for name, value in saved.items() if value is not ...}))
    seal(checkpoint)


def edit_tensors(file: Path, **tensors) -> None:
    """Replace tensors by what a function makes of them; ... = remove."""
    found = load_file(file)
    for name, change in tensors.items():
        value = found.pop(name, None)
        if change is not ...:
            found[name] = change(value)
    save_file(found, file)


def refusal(state, checkpoint: Path) -> str:
    before = {name: tensor.clone() for name, tensor in state.network.state_dict().items()}
    with pytest.raises(DamagedCheckpoint) as refused:
        state.load(checkpoint, Accelerator(cpu=True))
    assert all(torch.equal(tensor, before[name]) for name, tensor in state.network.state_dict().items()), "nothing is taken"
    assert state.step == 0 and not state.optimizer.state_dict()["state"]
    message = str(refused.value)
    assert message.startswith(f"checkpoint {checkpoint}: ") and "\n" not in message and len(message) < 500
    return message


VALUES = [
    ("step", "2"), ("step", -2), ("step", 2.0), ("step", True), ("step", None), ("step", 10**30),
    ("images_seen", "16"), ("images_seen", -1), ("images_seen", ...),
    ("window_loss", float("nan")), ("window_loss", "0"), ("window_steps", 0.5), ("window_steps", ...),
    ("scaler", "garbage"), ("scaler", {"scale": "big"}), ("scaler", ...),
    ("ema_step", "1"), ("ema_step", -1), ("ema_step", ...),
    ("identity", None), ("identity", []), ("identity", {}), ("identity", {"environment": {"num_processes": "1"}}),
    ("identity", ...),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), VALUES)
def test_a_value_of_another_kind_is_named(fresh, checkpoint, name, value):
    edit_state(checkpoint, **{name: value})
    message = refusal(fresh, checkpoint)
    assert STATE in message and name in message


FIRST = "conv_in.weight"


@pytest.mark.parametrize("file", [WEIGHTS, AVERAGED])
@pytest.mark.parametrize(
    ("change", "named"),
    [
        (..., "is missing instead of"),
        (lambda tensor: tensor[:1].clone(), "is (1, "),
        (lambda tensor: tensor.half(), "float16 instead of"),
        (lambda tensor: tensor.fill_(float("nan")), "is not a number"),
        (lambda tensor: tensor.fill_(float("inf")), "is not finite"),
    ],
    ids=["missing", "shape", "type", "nan", "infinite"],
)
def test_weights_of_another_network_are_named(fresh, checkpoint, file, change, named):
    edit_tensors(checkpoint / file, **{FIRST: change})
    seal(checkpoint)
    message = refusal(fresh, checkpoint)
    assert f"{file}: " in message and FIRST in message and named in message


@pytest.mark.parametrize(
    "tensors",
    [
        {"0.exp_avg": ...},
        {"0.exp_avg": ..., "0.exp_avg_sq": ..., "0.step": ...},
        {"0.exp_avg": lambda tensor: tensor[:1].clone()},
        {"0.exp_avg_sq": lambda tensor: tensor.double()},
        {"0.exp_avg_sq": lambda tensor: tensor.fill_(float("nan"))},
        {"0.step": lambda tensor: torch.ones(2)},
        {"0.momentum": lambda _: torch.zeros(2)},
        {"9999.exp_avg": lambda _: torch.zeros(2)},
        {"exp_avg": lambda _: torch.zeros(2)},
        {"-1.exp_avg": lambda _: torch.zeros(2)},
    ],
    ids=["one", "all of one", "shape", "type", "nan", "step", "unknown", "beyond", "without a number", "negative"],
)
def test_moments_that_are_missing_or_of_other_weights_are_named(fresh, checkpoint, tensors):
    edit_tensors(checkpoint / MOMENTS, **tensors)
    seal(checkpoint)
    message = refusal(fresh, checkpoint)
    assert f"{MOMENTS}: its tensors are not those of this network" in message or "is not a number" in message


def test_no_moments_at_all_are_not_taken_for_those_of_a_new_optimizer(fresh, checkpoint):
    save_file({}, checkpoint / MOMENTS)
    seal(checkpoint)
    assert "is missing instead of" in refusal(fresh, checkpoint)


def test_a_weight_that_was_never_trained_has_no_moments(fresh, checkpoint):
    """It has received no gradient, and so it is as the seed made it."""
    edit_tensors(checkpoint / WEIGHTS, **{FIRST: lambda _: fresh.network.state_dict()[FIRST].clone()})
    position = [name for name, _ in fresh.network.named_parameters()].index(FIRST)
    edit_tensors(checkpoint / MOMENTS, **{f"{position}.{name}": ... for name in ("step", "exp_avg", "exp_avg_sq")})
    seal(checkpoint)
    state = copy.deepcopy(fresh)
    state.load(checkpoint, Accelerator(cpu=True))
    assert state.step == 2 and position not in state.optimizer.state_dict()["state"]


def test_a_gan_says_so_too(tmp_path):
    small = ["--data.image_size=8", "--data.batch_size=4", "--model.generator_width=4", "--model.discriminator_width=4"]
    length = [
        "--data.source=digits",
        "--max_train_steps=1",
        "--num_threads=1",
        "--mixed_precision=fp32",
        f"--output_dir={tmp_path / 'gan'}",
    ]
    config = parse_config(GANConfig, [*small, *length])
    train_gan(config)
    state: GANState = set_up(config, training_task(config), init_distributed())[1]
    checkpoint = RunFolder(tmp_path / "gan").last_checkpoint()
    edit_state(checkpoint, window={"g_loss": "1"})
    assert "window is" in refusal(state, checkpoint)


def test_auto_takes_the_checkpoint_before_and_a_path_is_refused(run, options, tmp_path, caplog, load_script, capsys):
    shutil.copytree(run, tmp_path / "run")
    first, last = RunFolder(tmp_path / "run").checkpoints().values()
    save_file({}, last / MOMENTS)
    seal(last)
    arguments = [*options, f"--output_dir={tmp_path / 'run'}"]
    for resume in ("latest", str(last)):
        with pytest.raises(SystemExit) as stopped:
            load_script("train").main([*arguments, f"--resume={resume}"])
        assert stopped.value.code == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert f"--resume is {resume!r}: checkpoint {last}: {MOMENTS}: " in line and "--resume auto takes" in line
    loop.train(parse_config(TrainConfig, [*arguments, "--resume=auto"]))
    assert f"checkpoint {last}: {MOMENTS}: " in caplog.text and "trying the checkpoint before it" in caplog.text
    assert f"resumed from {first} at step 1" in capsys.readouterr().out
    assert list(RunFolder(tmp_path / "run").checkpoints()) == [1, 2]
    whole, again = (load_file(RunFolder(folder).checkpoint(2) / WEIGHTS) for folder in (run, tmp_path / "run"))
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    for path in RunFolder(tmp_path / "run").checkpoints().values():
        edit_state(path, window_steps="many")
    with pytest.raises(ValueError, match="--resume is 'auto': .* has 2 checkpoints and all are damaged"):
        loop.train(parse_config(TrainConfig, [*arguments, "--resume=auto"]))


def test_what_was_passed_over_is_not_kept_instead_of_a_whole_checkpoint(run, options, tmp_path, load_script):
    copy = RunFolder(shutil.copytree(run, tmp_path / "run"))
    (copy.checkpoint(2) / WEIGHTS).unlink()
    more = ["--max_train_steps=4", "--checkpoint.every_steps=4", "--checkpoint.keep=2", "--resume=auto"]
    load_script("train").main([*options, *more, f"--output_dir={copy.path}"])
    assert list(copy.checkpoints()) == [1, 4]
    for path in copy.checkpoints().values():
        verify_checkpoint(path)


def test_a_log_that_is_a_link_is_refused_before_anything_is_written(run, options, tmp_path, capsys, load_script):
    shutil.copytree(run, tmp_path / "run", symlinks=True)
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "run" / "metrics.jsonl").unlink()
    (tmp_path / "run" / "metrics.jsonl").symlink_to("../mine")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit) as stopped:
        load_script("train").main([*options, "--max_train_steps=3", "--resume=auto", f"--output_dir={tmp_path / 'run'}"])
    assert stopped.value.code == 2 and "metrics.jsonl is a symbolic link: remove it" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("program", "recipe"), [("train", "digits"), ("train_gan", "gan_digits"), ("train_judge", "judge_digits")]
)
def test_no_training_begins_where_another_program_writes(tmp_path, load_script, capsys, program, recipe):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("")
    with OutputLock(tmp_path / "run") as lock:
        lock.take()
        with pytest.raises(SystemExit) as stopped:
            options = [f"--config={RECIPES / recipe}.yaml", "--resume=auto", f"--output_dir={tmp_path / 'run'}"]
            load_script(program).main([*options, "--num_threads=1"])
    assert stopped.value.code == 2
    assert f"--output_dir is '{tmp_path / 'run'}': process {os.getpid()} on " in capsys.readouterr().err


def test_a_checkpoint_that_cannot_be_read_just_now_stays_until_another_is_saved(run, options, tmp_path, monkeypatch, capsys):
    """A shared disk may be out of reach for a moment: a run that dies before it has saved anything must not cost a step."""
    folder, read = RunFolder(tmp_path / "run"), checkpoints.sha256_of
    shutil.copytree(run, folder.path)
    first, last = folder.checkpoints().values()

    def fail(file: Path) -> str:
        if last in file.parents:
            raise OSError(errno.EIO, "Input/output error")
        return read(file)

    def die(*_) -> None:
        raise KeyboardInterrupt

    again = parse_config(TrainConfig, [*options, "--resume=auto", f"--output_dir={folder.path}"])
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "sha256_of", fail)
        patch.setattr(loop, "train_step", die)
        with pytest.raises(KeyboardInterrupt):
            loop.train(again)
    assert f"resumed from {first} at step 1" in capsys.readouterr().out
    assert list(folder.checkpoints().values()) == [first, last]
    loop.train(again)
    assert f"resumed from {last} at step 2" in capsys.readouterr().out
    shutil.move(last, folder.checkpoint(9))  # not of step 9, which is found; the run is shorter, and saves an earlier one
    loop.train(again)
    assert f"removed {folder.checkpoint(9)}: the run continues from step 2" in capsys.readouterr().out
    assert list(folder.checkpoints()) == [1, 2]
