"""Runs that are stopped by a signal, locked out by another one, or started again by the launcher.

Starting a process costs seconds of imports, so one pair of processes does everything that two are needed for.
"""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

import hf_ddpm.training.engine as engine
import hf_ddpm.training.loop as loop
from hf_ddpm.cli import parse_config
from hf_ddpm.run_folder import RunFolder
from hf_ddpm.runtime.lock import LOCK
from hf_ddpm.runtime.signals import Stopped
from hf_ddpm.training.options import TrainConfig
from hf_ddpm.training.state import GeneratorState

ROOT = Path(__file__).parents[2]
STEPS = 6
OPTIONS = [
    f"--max_train_steps={STEPS}",
    "--checkpoint.every_steps=3",
    "--checkpoint.keep=9",
    "--logging.every_steps=3",
    "--logging.sample_every_steps=4",
    "--data.labels=[7]",
    "--data.test_split=test",
    "--model.overrides.dropout=0.1",
]


@pytest.fixture(autouse=True)
def listening_to_ctrl_c():
    """A process that a shell put into the background ignores SIGINT, and so would the test."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def run_training(tiny_options, tmp_path):
    """Train into tmp_path / name and return that folder."""

    def run(name: str, *options: str) -> Path:
        loop.train(parse_config(TrainConfig, [*tiny_options, *OPTIONS, f"--output_dir={tmp_path / name}", *options]))
        return tmp_path / name

    return run


@pytest.fixture
def signal_in(monkeypatch):
    """Send a signal at the end of the n-th call of a function of the loop (or of another owner)."""

    def plant(function: str, call: int, number: int, owner=loop) -> None:
        original, calls = getattr(owner, function), []

        def signalled(*args, **kwargs):
            result = original(*args, **kwargs)
            calls.append(function)
            if len(calls) == call:
                signal.raise_signal(number)
            return result

        monkeypatch.setattr(owner, function, signalled)

    return plant


def outcome(folder: Path) -> tuple:
    """sha256 of every tensor of the last checkpoint, the log without what the clock says, and the pictures."""
    last = folder / "checkpoints" / f"step-{STEPS:08d}"
    hashes = {
        f"{file.relative_to(last)}:{name}": hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
        for file in last.rglob("*.safetensors")
        for name, tensor in load_file(file).items()
    }
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    log = [{name: value for name, value in record.items() if name != "images_per_second"} for record in records]
    return hashes, log, {path.name: path.read_bytes() for path in (folder / "samples").iterdir()}


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def saved_steps(folder: Path) -> list[int]:
    return list(RunFolder(folder).checkpoints())


@pytest.fixture(scope="module")
def shared() -> dict:
    return {}


@pytest.fixture
def whole(run_training, shared) -> tuple:
    """The outcome of a run that was not stopped."""
    if "whole" not in shared:
        shared["whole"] = outcome(run_training("whole"))
    return shared["whole"]


class TestStopping:
    @pytest.mark.parametrize(
        ("step", "number"),
        [(2, signal.SIGTERM), (3, signal.SIGINT), (4, signal.SIGTERM), (STEPS, signal.SIGTERM)],
        ids=["nothing due", "checkpoint due", "preview due", "last step"],
    )
    def test_a_stopped_run_goes_on_bit_for_bit(self, run_training, whole, signal_in, monkeypatch, tmp_path, step, number):
        publish, published = engine.publish_directory, []
        monkeypatch.setattr(
            engine, "publish_directory", lambda path, write: published.append(path.name) or publish(path, write)
        )
        signal_in("train_step", step, number)
        with pytest.raises(Stopped, match=f"saved at step {step}; continue with --resume auto") as stopped:
            run_training("run")
        folder = tmp_path / "run"
        assert stopped.value.signal_number == number
        assert published == [f"step-{saved:08d}" for saved in (3, 6) if saved < step] + [f"step-{step:08d}"]
        assert not (folder / LOCK).exists() and not (folder / "pipeline").exists()
        assert not (folder / "samples" / f"step-{step:08d}.png").exists(), "no preview"
        run_training("run", "--resume=auto")
        assert outcome(folder) == whole

    @pytest.mark.parametrize(
        ("function", "call", "saved"),
        [("save_sample_grid", 1, [3, 4]), ("held_out_loss", 1, [3, 4]), ("held_out_loss", 2, [3, 6])],
        ids=["grid", "held-out loss", "last step"],
    )
    def test_a_signal_in_a_preview_ends_it_and_loses_no_step(
        self, run_training, whole, tmp_path, signal_in, function, call, saved
    ):
        signal_in(function, call, signal.SIGHUP if call == 2 else signal.SIGTERM)
        with pytest.raises(Stopped, match=f"stopped and saved at step {saved[-1]}; continue with --resume auto"):
            run_training("run")
        assert saved_steps(tmp_path / "run") == saved
        assert outcome(run_training("run", "--resume=auto")) == whole

    @pytest.mark.parametrize("error", [OSError("the disk is full"), ZeroDivisionError("a mistake of ours")], ids=type)
    def test_an_error_in_a_preview_loses_no_step(self, run_training, whole, tmp_path, monkeypatch, caplog, error):
        def fail(*args, **kwargs):
            raise error

        with monkeypatch.context() as broken:
            broken.setattr(loop, "held_out_loss", fail)
            with pytest.raises(type(error), match=str(error)):
                run_training("run")
        assert saved_steps(tmp_path / "run") == [3, 4]
        assert "step 4 is saved before the run ends: continue with --resume auto" in caplog.text
        assert outcome(run_training("run", "--resume=auto")) == whole

    def test_an_error_while_a_step_is_computed_loses_none_before_it(self, run_training, whole, tmp_path, monkeypatch):
        """An image that cannot be read, memory that does not suffice, a process that is gone."""
        compute, calls = loop.micro_batch_loss, []

        def fail(*args):
            calls.append(args)
            if len(calls) == 3:
                raise RuntimeError("out of memory")
            return compute(*args)

        with monkeypatch.context() as broken:
            broken.setattr(loop, "micro_batch_loss", fail)
            with pytest.raises(RuntimeError, match="out of memory"):
                run_training("run")
        assert saved_steps(tmp_path / "run") == [2]
        assert outcome(run_training("run", "--resume=auto")) == whole

    def test_a_step_that_is_applied_in_part_is_not_saved(self, run_training, tmp_path, monkeypatch):
        def fail(self):
            raise RuntimeError("out of memory")

        monkeypatch.setattr(GeneratorState, "update_average", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            run_training("run")
        assert saved_steps(tmp_path / "run") == []

    @pytest.mark.parametrize("at", [1, 2], ids=["step 4", "last step"])
    def test_a_run_that_is_killed_in_a_preview_goes_on_bit_for_bit(self, run_training, whole, tmp_path, monkeypatch, at):
        """What is on the disk in the middle of a preview is what a kill -9 leaves."""
        measure, calls = loop.held_out_loss, []

        def copied(*args, **kwargs):
            calls.append(args)
            if len(calls) == at:
                shutil.copytree(tmp_path / "run", tmp_path / "killed")
            return measure(*args, **kwargs)

        with monkeypatch.context() as watched:
            watched.setattr(loop, "held_out_loss", copied)
            run_training("run")
        assert saved_steps(tmp_path / "killed") == ([3] if at == 1 else [3, 6]), "a checkpoint that is due comes first"
        assert outcome(run_training("killed", "--resume=auto")) == whole

    def test_a_preview_that_was_made_is_not_made_again(self, run_training, whole, tmp_path, monkeypatch):
        folder = run_training("run")
        monkeypatch.setattr(loop, "save_sample_grid", None)
        assert outcome(run_training("run", "--resume=auto")) == whole
        assert (folder / "pipeline").is_dir()

    def test_a_measurement_that_is_stopped_is_made_again(self, tiny_options, tmp_path):
        """By a monitor, whose metrics are logged after the held-out loss of the same step."""
        options = [*tiny_options, *OPTIONS, "--evaluation.every_steps=4", "--evaluation.features=inception"]

        def train(name: str, *more: str, stops: bool = False) -> tuple:
            def evaluate(pipeline):
                if stops:
                    signal.raise_signal(signal.SIGINT)
                return {"fid": 1.0}

            loop.train(parse_config(TrainConfig, [*options, f"--output_dir={tmp_path / name}", *more]), evaluate)
            return outcome(tmp_path / name)

        with pytest.raises(Stopped, match="stopped and saved at step 4"):
            train("run", stops=True)
        assert train("run", "--resume=auto") == train("measured")

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
    def test_a_signal_before_the_first_step_writes_nothing(
        self, load_script, tiny_options, tmp_path, signal_in, capsys, number, code
    ):
        signal_in("load_data", 1, number)
        with pytest.raises(SystemExit) as stopped:
            load_script("train").main([*tiny_options, *OPTIONS, f"--output_dir={tmp_path / 'run'}"])
        assert stopped.value.code == code
        assert capsys.readouterr().err.splitlines()[-1].endswith(": interrupted")
        assert not (tmp_path / "run").exists()

    def test_a_signal_while_the_last_checkpoint_is_written_is_not_lost(self, run_training, tmp_path, signal_in):
        signal_in("save", 2, signal.SIGTERM, GeneratorState)
        with pytest.raises(Stopped, match=f"saved at step {STEPS}"):
            run_training("run")
        assert RunFolder(tmp_path / "run").checkpoint(STEPS).exists() and not (tmp_path / "run" / "pipeline").exists()
        assert (run_training("run", "--resume=auto") / "pipeline" / "model_index.json").exists()


def test_a_process_is_stopped_and_locks_out_another_run(run_training, tiny_options, tmp_path):
    folder, length = tmp_path / "run", "--max_train_steps=100000"
    options = [*tiny_options, *OPTIONS, length, f"--output_dir={folder}"]
    options += ["--logging.sample_every_steps=null", "--checkpoint.keep=999999"]
    command = [sys.executable, str(ROOT / "train_scripts" / "train.py"), *options]
    with subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True) as process:
        while not RunFolder(folder).checkpoints() and process.poll() is None:
            time.sleep(0.05)
        before = list(RunFolder(folder).checkpoints().values())
        for resume in ("none", "auto", str(before[0])):
            with pytest.raises(ValueError, match=rf"process {process.pid} on .* is writing there"):
                run_training("run", length, f"--resume={resume}")
        assert before[0].exists() and (folder / LOCK).exists()
        asked = time.monotonic()
        process.send_signal(signal.SIGTERM)
        errors = process.stderr.read()
        assert process.wait() == 143, errors
        assert time.monotonic() - asked < 20
    assert "Traceback" not in errors
    last = saved_steps(folder)[-1]
    assert errors.strip().splitlines()[-1] == f"train.py: stopped and saved at step {last}; continue with --resume auto"
    assert not (folder / LOCK).exists()
    run_training("run", f"--max_train_steps={last}", "--resume=auto")


class TestLock:
    def test_what_a_killed_run_left_locks_nobody_out(self, run_training, tmp_path):
        folder = run_training("run", "--max_train_steps=1")
        (folder / LOCK).write_text(json.dumps({"pid": 1, "host": "gone"}))
        run_training("run", "--max_train_steps=1", "--resume=auto")
        assert not (folder / LOCK).exists()

    def test_two_runs_that_begin_together(self, run_training, tmp_path, monkeypatch):
        """The second one finds the folder free, and is still reading its data when the first one begins."""
        load_data = loop.load_data

        def overtaken(*args):
            monkeypatch.setattr(loop, "load_data", load_data)
            run_training("run")
            return load_data(*args)

        monkeypatch.setattr(loop, "load_data", overtaken)
        with pytest.raises(ValueError, match="another run has written there meanwhile"):
            run_training("run")
        assert saved_steps(tmp_path / "run") == [3, 6]


def test_a_restart_keeps_a_beginning_from_elsewhere(run_training, tmp_path, monkeypatch, capsys):
    elsewhere = f"--resume={run_training('first', '--max_train_steps=3') / 'checkpoints' / 'step-00000003'}"
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    run_training("second", elsewhere, "--max_train_steps=4")
    run_training("second", elsewhere, "--max_train_steps=5")
    resumed = [line.split("checkpoints/")[1] for line in capsys.readouterr().out.splitlines() if line.startswith("resumed")]
    assert resumed == ["step-00000003 at step 3", "step-00000004 at step 4"]
