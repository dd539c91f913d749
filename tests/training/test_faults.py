"""What checkpoints survive: a death after any file operation, damage to any file, a full disk.

The whole matrix takes minutes and runs with `-m faults`; a seeded part of it always runs.
"""

import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import hf_ddpm.training.loop as loop
from hf_ddpm.cli import parse_config
from hf_ddpm.run_folder import RunFolder
from hf_ddpm.runtime.folders import publish_directory
from hf_ddpm.training.checkpoints import (
    MANIFEST,
    REQUIRED,
    choose_checkpoint,
    prune_checkpoints,
    verify_checkpoint,
    write_manifest,
)
from hf_ddpm.training.options import TrainConfig
from hf_ddpm.training.state import GeneratorState

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}

# Kills its process after the n-th operation on files. It sees every call of Python to C, those inside shutil among them.
DIE_AFTER = """
import json, os, shutil, signal, sys
from pathlib import Path

OPERATIONS = {"open", "write", "close", "fsync", "mkdir", "chmod", "rename", "unlink", "rmdir", "serialize_file"}

def die_after(count):
    left = [count]
    def count_down(frame, event, function):
        if event == "c_return" and function.__name__ in OPERATIONS:
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
    sys.setprofile(count_down)

def in_a_child(do):
    child = os.fork()
    if child == 0:
        try:
            do()
        except BaseException:
            sys.setprofile(None)
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL), code
    return code == 0
"""

# Does in copies of a run folder what a run does, and dies in the n-th copy after n operations, until one gets through.
SAVE_IN_COPIES = (
    DIE_AFTER
    + """
from hf_ddpm.run_folder import RunFolder
from hf_ddpm.runtime.folders import publish_directory
from hf_ddpm.training.checkpoints import *

folder, keep, keep_every, rewind_to, step = Path(sys.argv[1]), *map(json.loads, sys.argv[2:])

def write(directory):
    for name in (*REQUIRED, "model_index.json"):
        content = (folder / "state" / name).read_bytes()
        (directory / name).parent.mkdir(exist_ok=True)
        with (directory / name).open("wb", buffering=0) as stream:
            stream.write(content[: len(content) // 2])
            stream.write(content[len(content) // 2 :])
    write_manifest(directory)

def save(run, count, rewind_to):
    die_after(count)
    if rewind_to == "auto":
        rewind_to = json.loads((choose_checkpoint(run, "auto") / STATE).read_text())["step"]
    if rewind_to is not None:
        drop_checkpoints_after(run, rewind_to)
    publish_directory(run.checkpoint(step), write)
    prune_checkpoints(run, keep, keep_every)

count, done = 0, False
while not done:
    run_dir = folder / f"run-{count}"
    shutil.copytree(folder / "before", run_dir)
    done = in_a_child(lambda: save(RunFolder(run_dir), count, rewind_to))
    count += 1
"""
)

# Trains, dies while a checkpoint is written, and resumes; a child process for each, so that the imports are made once.
TRAIN_AND_DIE = (
    DIE_AFTER
    + """
import hf_ddpm.training.engine as engine
import hf_ddpm.training.loop as loop
from hf_ddpm.cli import parse_config
from hf_ddpm.training.options import TrainConfig

folder, options, deaths = Path(sys.argv[1]), *map(json.loads, sys.argv[2:])
save_checkpoint = engine.save_checkpoint

def train(name, death=None):
    def save(state, *args, **kwargs):
        if death is not None and state.step == death[0]:
            die_after(death[1])
        save_checkpoint(state, *args, **kwargs)
        sys.setprofile(None)
    engine.save_checkpoint = save
    resume = "none" if death is not None or name == "whole" else "auto"
    loop.train(parse_config(TrainConfig, [*options, f"--output_dir={folder / name}", f"--resume={resume}"]))

assert in_a_child(lambda: train("whole"))
for step, count in deaths:
    name = f"step-{step}-operation-{count}"
    died = not in_a_child(lambda: train(name, (step, count)))
    if not died:
        continue
    shutil.copytree(folder / name, folder / f"{name}-dead")
    assert in_a_child(lambda: train(name))
"""
)


def write_state(directory: Path, step: int, seed: int) -> None:
    """What stands for a saved state of a step: another one for every seed."""
    for name in REQUIRED:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".json"):
            (directory / name).write_text(json.dumps({"step": step}))
        else:
            save_file({"weights": torch.full((9,), float(seed))}, directory / name)
    (directory / "model_index.json").write_text(json.dumps({"seed": seed}))


def save(run_dir: Path, step: int) -> Path:
    def write(directory: Path) -> None:
        write_state(directory, step, seed=step)
        write_manifest(directory)

    publish_directory(RunFolder(run_dir).checkpoint(step), write)
    return RunFolder(run_dir).checkpoint(step)


def content(directory: Path) -> dict[str, bytes]:
    files = (file for file in directory.rglob("*") if file.is_file())
    return {file.relative_to(directory).as_posix(): file.read_bytes() for file in files}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Death while a checkpoint is saved

# name: checkpoints before, leftovers before, (keep, keep_every_steps, rewind_to, step that is saved), what may be chosen
SAVES = {
    "one too many": ([10, 20], [], (2, None, None, 30), {20, 30}),
    "after a rewind": ([10, 20, 30], [], (3, None, 10, 20), {10, 20}),
}
MORE_SAVES = {
    "the first": ([], [], (2, None, None, 10), {None, 10}),
    "the second": ([10], [], (2, None, None, 20), {10, 20}),
    "many too many": ([10, 20, 30, 40, 50], [], (2, 20, None, 60), {50, 60}),
    "after a death": ([10, 20], [".step-00000030.partial", ".step-00000010.removed"], (2, None, None, 30), {20, 30}),
    # Between the two renames there is neither; the old one is put back.
    "the same again": ([10], [], (2, None, None, 10), {10}),
    "after a death in the rewind": ([10, 20, 30], [".step-00000040.removed"], (3, None, 20, 30), {20, 30}),
}


@pytest.mark.parametrize(
    ("before", "leftovers", "call", "choices"),
    [pytest.param(*case, id=name) for name, case in SAVES.items()]
    + [pytest.param(*case, id=name, marks=pytest.mark.faults) for name, case in MORE_SAVES.items()],
)
def test_a_death_after_any_operation_loses_no_checkpoint(tmp_path, capfd, caplog, before, leftovers, call, choices):
    (tmp_path / "before" / "checkpoints").mkdir(parents=True)
    write_state(tmp_path / "state", step=call[-1], seed=99)
    states = [content(save(tmp_path / "before", step)) for step in before]
    for leftover in leftovers:
        (tmp_path / "before" / "checkpoints" / leftover).mkdir()
        (tmp_path / "before" / "checkpoints" / leftover / "half").write_text("half")

    runs = deaths_while_saving(tmp_path, *call)
    chosen = [choose_checkpoint(RunFolder(run), "auto") for run in runs]
    assert not caplog.records, "whatever has the name of a checkpoint is whole"
    assert {path and int(path.name.removeprefix("step-")) for path in chosen} == choices
    states.append(content(chosen[-1]))
    assert {name: states[-1][name] for name in REQUIRED} == {name: content(tmp_path / "state")[name] for name in REQUIRED}
    for path in chosen:
        assert path is None or content(path) in states
    assert len(runs) > 20
    with capfd.disabled():
        print(f"{len(runs)} deaths, one after each file operation of a save; lost runs: 0")
    for run in runs[::12]:
        newest = save(run, 70)
        prune_checkpoints(RunFolder(run), 2, None)
        assert choose_checkpoint(RunFolder(run), "auto") == newest
        assert len(names(run / "checkpoints")) <= 2 and all(name.startswith("step-") for name in names(run / "checkpoints"))


def test_a_death_after_a_resume_under_a_wrong_name_leaves_what_it_resumed_from(tmp_path, caplog):
    """The state of step 4 is called step 6: continued from as such, step 4 would be later than itself, and dropped."""
    (tmp_path / "before" / "checkpoints").mkdir(parents=True)
    write_state(tmp_path / "state", step=5, seed=99)
    for step in (2, 4):
        save(tmp_path / "before", step)
    RunFolder(tmp_path / "before").checkpoint(4).rename(RunFolder(tmp_path / "before").checkpoint(6))
    runs = deaths_while_saving(tmp_path, 2, None, "auto", 5)
    chosen = [choose_checkpoint(RunFolder(run), "auto") for run in runs]
    assert {path and path.name for path in chosen} == {"step-00000002", "step-00000005"}
    assert "step-00000006: its name is not that of its state, which is of step 4" in caplog.text


def deaths_while_saving(folder: Path, *call: int | str | None) -> list[Path]:
    """Copies of folder/before that died in (keep, keep_every_steps, rewind_to, step), in the order of their deaths."""
    command = [sys.executable, "-c", SAVE_IN_COPIES, str(folder), *map(json.dumps, call)]
    subprocess.run(command, check=True, env=ENVIRONMENT, timeout=300)
    return sorted(folder.glob("run-*"), key=lambda path: int(path.name.removeprefix("run-")))


def tensor_hashes(checkpoint: Path) -> dict[str, str]:
    """sha256 of every tensor of model, averaged model and optimizer."""
    return {
        f"{file}:{name}": hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
        for file in REQUIRED
        if file.endswith(".safetensors")
        for name, tensor in load_file(checkpoint / file).items()
    }


@pytest.fixture(scope="module")
def real_options(tiny_options) -> list[str]:
    return [*tiny_options, "--max_train_steps=3", "--checkpoint.every_steps=1", "--model.overrides.dropout=0.1"]


@pytest.fixture(scope="module")
def real_run(new_run, real_options) -> Path:
    """A run folder with the checkpoints of steps 2 and 3."""
    folder = new_run(*real_options)
    assert names(folder / "checkpoints") == ["step-00000002", "step-00000003"]
    return folder


def test_a_run_killed_while_it_saved_ends_bit_for_bit_as_it_would_have(real_run, real_options, tmp_path):
    """The checkpoint of a real run is written once more, file by file, by a process that dies at it."""
    shutil.copytree(real_run, tmp_path / "before", ignore=shutil.ignore_patterns("pipeline", "step-00000003"))
    shutil.copytree(RunFolder(real_run).checkpoint(3), tmp_path / "state")
    half_written = [
        run for run in deaths_while_saving(tmp_path, 2, None, None, 3) if not RunFolder(run).checkpoint(3).exists()
    ]
    for run in random.Random(0).sample(half_written, 2):
        assert ".step-00000003.partial" in names(run / "checkpoints")
        loop.train(parse_config(TrainConfig, [*real_options, f"--output_dir={run}", "--resume=auto"]))
        assert tensor_hashes(RunFolder(run).checkpoint(3)) == tensor_hashes(RunFolder(real_run).checkpoint(3))
        assert names(run / "checkpoints") == ["step-00000002", "step-00000003"]


@pytest.mark.faults
def test_runs_killed_at_any_operation_of_a_save_end_bit_for_bit_as_they_would_have(tmp_path, real_options, capsys):
    deaths = [(1, count) for count in range(0, 120, 9)] + [(3, count) for count in range(4, 220, 9)]
    command = [sys.executable, "-c", TRAIN_AND_DIE, str(tmp_path), json.dumps(real_options), json.dumps(deaths)]
    environment = ENVIRONMENT | {"HF_DATASETS_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    runs = [dead.with_name(dead.name.removesuffix("-dead")) for dead in tmp_path.glob("*-dead")]
    for run in runs:
        assert tensor_hashes(RunFolder(run).checkpoint(3)) == tensor_hashes(RunFolder(tmp_path / "whole").checkpoint(3))
        assert all(name.startswith("step-") for name in names(run / "checkpoints"))
    assert len(runs) > 20
    with capsys.disabled():
        print(f"\n{len(runs)} training runs killed while they saved, resumed bit for bit; lost runs: 0")


# Damage


def cut(file: Path, whole: bytes, position: int) -> None:
    file.write_bytes(whole[:-1])


def flip(file: Path, whole: bytes, position: int) -> None:
    file.write_bytes(whole[:position] + bytes([whole[position] ^ 1 << position % 8]) + whole[position + 1 :])


def delete(file: Path, whole: bytes, position: int) -> None:
    file.unlink()


def empty(file: Path, whole: bytes, position: int) -> None:
    file.write_bytes(b"")


def zero_end(file: Path, whole: bytes, position: int) -> None:
    """What a power cut may leave of a file: its length, without its last block."""
    file.write_bytes(whole[:position] + bytes(len(whole) - position))


DAMAGES = (cut, flip, delete, empty, zero_end)


def says_the_same(manifest: Path, whole: bytes) -> bool:
    """Whether a manifest differs in white space only, which is not damage."""
    try:
        return json.loads(manifest.read_bytes()) == json.loads(whole)
    except (OSError, ValueError):
        return False


def try_damages(run_dir: Path, flips: int, caplog) -> int:
    """Damage every file of the newest checkpoint in every way, a bit of it in `flips` places; the number of cases."""
    before, newest = RunFolder(run_dir).checkpoints().values()
    draw, cases = random.Random(0), 0
    for name, whole in content(newest).items():
        file = newest / name
        if name == "training/preview_made.json":  # a note that does not belong to the checkpoint
            continue
        for damage in DAMAGES:
            for _ in range(flips if damage is flip else 1):
                damage(file, whole, draw.randrange(len(whole)))
                if name == MANIFEST and says_the_same(file, whole) or file.exists() and file.read_bytes() == whole:
                    assert choose_checkpoint(RunFolder(run_dir), "auto") == newest
                else:
                    assert_falls_back(run_dir, newest, before, name, caplog)
                    cases += 1
                file.write_bytes(whole)
    verify_checkpoint(newest)
    return cases


def assert_falls_back(run_dir: Path, damaged: Path, before: Path, name: str, caplog) -> None:
    assert choose_checkpoint(RunFolder(run_dir), "auto") == before
    (warning,) = caplog.messages
    assert warning.startswith(f"checkpoint {damaged}: ")
    caplog.clear()
    for resume in ("latest", str(damaged)):
        with pytest.raises(ValueError, match="^--resume is ") as refused:
            choose_checkpoint(RunFolder(run_dir), resume)
        # A damaged manifest may accuse the file that it describes wrongly.
        assert name in str(refused.value) or name == MANIFEST
        assert "\n" not in str(refused.value) and "--resume auto" in str(refused.value)


def test_damage_to_any_file_is_found_and_the_checkpoint_before_it_taken(real_run, tmp_path, caplog):
    shutil.copytree(real_run, tmp_path / "run")
    files = len(content(RunFolder(real_run).last_checkpoint()))
    assert try_damages(tmp_path / "run", 3, caplog) >= 5 * files


@pytest.mark.faults
def test_damage_to_many_bits_of_any_file(real_run, tmp_path, capsys, caplog):
    shutil.copytree(real_run, tmp_path / "run")
    cases = try_damages(tmp_path / "run", 400, caplog)
    assert cases > 2000
    with capsys.disabled():
        print(f"\n{cases} damaged checkpoints, each found and the one before it taken; lost runs: 0")


def test_a_file_that_the_manifest_does_not_list_is_left_alone(real_run, tmp_path, caplog):
    shutil.copytree(real_run, tmp_path / "run")
    newest = RunFolder(tmp_path / "run").last_checkpoint()
    (newest / ".DS_Store").write_bytes(b"\0")
    (newest / "training" / "notes.txt").write_text("mine")
    assert choose_checkpoint(RunFolder(tmp_path / "run"), "auto") == newest
    assert not caplog.records


# A disk that is full


@pytest.mark.parametrize("size", [0, 100, 5000, 20_000])
def test_a_full_disk_stops_training_and_the_old_checkpoints_stay(tmp_path, tiny_options, monkeypatch, size):
    save_state = GeneratorState.save

    def save_on_a_full_disk(state, *args):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that the write fails and does not kill
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size if state.step == 3 else before[0], before[1]))
            save_state(state, *args)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    monkeypatch.setattr(GeneratorState, "save", save_on_a_full_disk)
    options = [*tiny_options, "--max_train_steps=4", "--checkpoint.every_steps=1", f"--output_dir={tmp_path / 'run'}"]
    with pytest.raises(OSError) as stopped:
        loop.train(parse_config(TrainConfig, options))
    checkpoints = tmp_path / "run" / "checkpoints"
    assert names(checkpoints) == ["step-00000001", "step-00000002"], "and nothing half-written"
    whole = max(sum(map(len, content(checkpoint).values())) for checkpoint in checkpoints.iterdir())
    message = str(stopped.value)
    assert message.startswith(f"{checkpoints / 'step-00000003'} cannot be written, ") and "\n" not in message
    assert f"at least {whole:,} bytes" in message or size == 20_000
    assert choose_checkpoint(RunFolder(tmp_path / "run"), "auto") == checkpoints / "step-00000002"


def test_all_files_of_a_run_have_the_same_mode(real_run):
    modes = {path.stat().st_mode & 0o777 for path in real_run.rglob("*") if path.is_file()}
    assert len(modes) == 1
