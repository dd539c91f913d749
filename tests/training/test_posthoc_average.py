"""Averages of any length from snapshots: profiles, running averages, snapshots, and the command."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors.torch import load_file

from hf_ddpm.cli import parse_config
from hf_ddpm.config import EMAConfig
from hf_ddpm.run_folder import RunFolder
from hf_ddpm.sampling import load_pipeline
from hf_ddpm.training.loop import train
from hf_ddpm.training.options import TrainConfig
from hf_ddpm.training.posthoc_average import average_of_run, combine, load_average
from hf_ddpm.training.power_average import LONGEST, TRACKED, PowerAverages, gamma_of, tensor_name, write_snapshot

STEPS = 64


def weights_of_steps(steps: int, sigma_rel: float) -> torch.Tensor:
    """The weight of each step in an average: the integral of t ** gamma over it, (steps,) float64."""
    edges = (torch.arange(steps + 1, dtype=torch.float64) / steps) ** (gamma_of(sigma_rel) + 1)
    return edges.diff()


@pytest.mark.parametrize("sigma_rel", [0.02, 0.05, 0.1, 0.2, 0.28])
def test_gamma_gives_a_profile_of_this_length(sigma_rel):
    times, weights = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000, weights_of_steps(100_000, sigma_rel)
    mean = weights @ times
    assert (weights @ (times - mean) ** 2).sqrt().item() == pytest.approx(sigma_rel, rel=1e-4)
    assert gamma_of(LONGEST) == pytest.approx(0, abs=1e-6)


@pytest.fixture(scope="module")
def walk() -> torch.Tensor:
    """The weights of a network after each step: a random walk, (STEPS, 1000) float64."""
    return torch.randn(STEPS, 1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64).cumsum(0)


def test_running_averages_weigh_the_steps_as_their_profile(walk):
    averages = PowerAverages({"a": torch.full((1000,), 7.0)})
    for step, weights in enumerate(walk.float(), start=1):
        averages.update({"a": weights}, step)
    for length in TRACKED:
        expected = weights_of_steps(STEPS, length) @ walk
        torch.testing.assert_close(averages.tensors()[tensor_name(length, "a")].double(), expected, rtol=1e-5, atol=1e-5)


def test_combining_is_least_squares_and_sums_to_one():
    steps = list(range(4, STEPS + 1, 4))
    grid = 100 * STEPS
    profiles = np.zeros((grid, 2 * len(steps)))  # each snapshot and length as a column
    for column, (step, length) in enumerate((step, length) for step in steps for length in TRACKED):
        profiles[: 100 * step, column] = weights_of_steps(100 * step, length)
    for sigma_rel in (0.04, 0.075, 0.2):
        combined, wanted = combine(steps, STEPS, sigma_rel), weights_of_steps(grid, sigma_rel).numpy()
        best, *_ = np.linalg.lstsq(profiles, wanted, rcond=None)
        errors = [
            np.linalg.norm(profiles @ factors - wanted) / np.linalg.norm(wanted)
            for factors in (combined.factors.ravel(), best)
        ]
        assert combined.factors.sum() == pytest.approx(1, abs=1e-12)
        assert combined.error == pytest.approx(errors[0], rel=0.02)
        assert errors[1] <= errors[0] <= errors[1] + 0.02, "the condition on the sum costs little"
    for number, length in enumerate(TRACKED):
        factors = combine(steps, STEPS, length).factors
        assert factors[-1, number] == pytest.approx(1) and abs(factors).sum() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("sigma_rel", [0.05, 0.075, 0.1, 0.15])
def test_what_was_not_tracked_is_near_what_would_have_been(walk, tmp_path, sigma_rel):
    averages, direct = PowerAverages({"weight": walk[0].float()}), PowerAverages({"weight": walk[0].float()}, [sigma_rel])
    run = RunFolder(tmp_path)
    for step, weights in enumerate(walk.float(), start=1):
        averages.update({"weight": weights}, step)
        direct.update({"weight": weights}, step)
        if step % 2 == 0:
            write_snapshot(averages, run, step, distance=2)
    network = torch.nn.Linear(1000, 1)
    network.weight = torch.nn.Parameter(torch.zeros(1000))
    del network.bias
    load_average(network, run.snapshots(), combine(list(run.snapshots()), STEPS, sigma_rel))
    [expected] = direct.tensors().values()
    spread = (walk[-1] - expected).norm()
    assert (network.weight - expected).norm() < (1e-6 if sigma_rel in TRACKED else 0.01) * spread


def test_the_number_of_snapshots_is_bounded_and_follows_from_the_step(tmp_path):
    ema, run, averages = (
        EMAConfig(snapshot_every_steps=3, max_snapshots=8),
        RunFolder(tmp_path),
        PowerAverages({"a": torch.ones(1)}),
    )
    (tmp_path / "snapshots").mkdir()
    (tmp_path / "snapshots" / ".step-00000003.safetensors.7.partial.safetensors").touch()  # of a killed process
    for step in range(1, 131):
        distance = ema.snapshot_distance(step)
        assert distance is not None
        if step % distance == 0 or step == 130:
            write_snapshot(averages, run, step, distance)
        assert len(run.snapshots()) <= 8
    assert list(run.snapshots()) == [24, 48, 72, 96, 120, 130]
    write_snapshot(averages, run, 49, 12)  # a run that continues from an earlier checkpoint
    assert list(run.snapshots()) == [24, 48, 49]
    assert len(list((tmp_path / "snapshots").iterdir())) == 3
    assert TrainConfig(output_dir="x", max_train_steps=1, ema=EMAConfig()).ema.snapshot_distance(10) is None


@pytest.fixture(scope="module")
def run(new_run, tiny_options) -> Path:
    """A run of 16 steps with a snapshot of each."""
    return new_run(*tiny_options, "--max_train_steps=16", "--ema.snapshot_every_steps=1")


def test_snapshots_change_nothing_else(run, new_run, tiny_options):
    plain = new_run(*tiny_options, "--max_train_steps=16")
    models = [load_file(folder / "pipeline/unet/diffusion_pytorch_model.safetensors") for folder in (run, plain)]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0].keys() | models[1].keys())
    assert not (plain / "snapshots").exists()
    assert not list(plain.rglob("power_averages.safetensors"))


def test_the_command_writes_a_pipeline(run, tmp_path, load_script, capsys):
    average = load_script("average").main
    average([str(run), "--sigma_rel", "0.1"])
    folder = RunFolder(run).average(0.1)
    assert f"pipeline: {folder}" in capsys.readouterr().out
    record = json.loads((folder / "average.json").read_text())
    assert (record["sigma_rel"], record["step"], record["snapshots"], record["error"]) == (0.1, 16, [*range(1, 17)], 0)
    saved = load_file(run / "checkpoints/step-00000016/training/power_averages.safetensors")
    for name, weight in load_pipeline(str(folder)).unet.named_parameters():
        torch.testing.assert_close(weight.detach(), saved[tensor_name(0.1, name)], rtol=1e-6, atol=1e-9)
    average([f"--run={run}", "--sigma_rel=0.07", "--step=12"])
    assert json.loads((run / "averages/sigma_rel-0.07_step-12/average.json").read_text())["step"] == 12
    average([str(run), "--sigma_rel=0.07", f"--output_dir={tmp_path / 'a'}"])
    assert json.loads((tmp_path / "a/average.json").read_text())["step"] == 16
    assert RunFolder.of(folder) == RunFolder(run), "so that its data are found"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sigma_rel=0.004"], "--sigma_rel is 0.004: 16 snapshots give lengths from 0.025 to 0.255, give one of these"),
        (["--sigma_rel=0.3"], "--sigma_rel is 0.3: give a number above 0, below 0.2887"),
        (["--sigma_rel=nan"], "--sigma_rel is nan: give a number above 0"),
        (["--sigma_rel=0.1", "--step=17"], "--step is 17: there are snapshots at 1, 2, 3"),
        (["--sigma_rel=0.1", "--output_dir={run}"], "--output_dir is '{run}': give a new or an empty folder"),
    ],
)
def test_what_is_not_possible_is_one_line(run, load_script, capsys, options, message):
    assert message.format(run=run) in refusal(load_script, capsys, run, *(option.format(run=run) for option in options))


def test_a_run_without_snapshots_is_refused(run, load_script, capsys):
    for folder, message in (
        (run / "pipeline", "pipeline has no snapshots of averages: train with --ema.snapshot_every_steps"),
        (run / "x", "no such folder"),
    ):
        assert message in refusal(load_script, capsys, folder, "--sigma_rel=0.1")


def refusal(load_script, capsys, *arguments) -> str:
    """The line with which the command refuses."""
    with pytest.raises(SystemExit) as stopped:
        load_script("average").main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert (stopped.value.code, out, err.count("\n")) == (2, "", 1)
    return err


@pytest.mark.parametrize("content", [b"{", safetensors.torch.save({"0.05/a": torch.ones(1)})])
def test_a_damaged_snapshot_is_named(run, tmp_path, load_script, capsys, content):
    folder = RunFolder(shutil.copytree(run, tmp_path / "run"))
    folder.snapshot(16).write_bytes(content)
    shutil.rmtree(folder.average(0.1), ignore_errors=True)
    assert f"{folder.snapshot(16)} is damaged, remove it" in refusal(load_script, capsys, folder.path, "--sigma_rel=0.1")
    assert not folder.average(0.1).exists()
    folder.snapshot(16).unlink()
    load_script("average").main([str(folder.path), "--sigma_rel=0.1"])


def test_an_average_is_made_once_for_the_newest_snapshot(run, tmp_path):
    folder = RunFolder(shutil.copytree(run, tmp_path / "run"))
    newest = folder.snapshot(16).rename(tmp_path / "newest")
    path = average_of_run(folder, 0.07)
    made = (path / "average.json").stat().st_mtime_ns
    assert average_of_run(folder, 0.07) == path and (path / "average.json").stat().st_mtime_ns == made
    newest.rename(folder.snapshot(16))
    average_of_run(folder, 0.07)
    assert json.loads((path / "average.json").read_text())["step"] == 16


def test_averages_cannot_begin_in_the_middle(tiny_run, tiny_options, tmp_path):
    start = tiny_run / "checkpoints/step-00000002"
    options = [*tiny_options, "--max_train_steps=4", f"--output_dir={tmp_path / 'new'}", f"--resume={start}"]
    with pytest.raises(
        ValueError, match=r"--resume: .*step-00000002 was saved by a run without snapshots of averages: leave"
    ):
        train(parse_config(TrainConfig, [*options, "--ema.snapshot_every_steps=1"]))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"snapshot_every_steps": 0}, "give a number of steps above 0"),
        ({"max_snapshots": 9}, "--ema.max_snapshots is 9: add --ema.snapshot_every_steps, or leave it out"),
        ({"snapshot_every_steps": 1, "max_snapshots": 7}, "give at least 8"),
    ],
)
def test_options_that_cannot_work(options, message):
    with pytest.raises(ValueError, match=message):
        EMAConfig(**options)
