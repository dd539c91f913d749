"""Checkpoint directories are complete or absent, damage is found and named, and old ones go."""

import errno
import hashlib
import json
import os
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import hf_ddpm.training.checkpoints as checkpoints
from hf_ddpm.run_folder import STATE, RunFolder
from hf_ddpm.runtime.files import sha256_of
from hf_ddpm.runtime.folders import publish_directory
from hf_ddpm.training.checkpoints import (
    MANIFEST,
    REQUIRED,
    choose_checkpoint,
    drop_checkpoints_after,
    prune_checkpoints,
    verify_checkpoint,
    write_manifest,
)

WEIGHTS = "training/model.safetensors"


def fill(directory: Path, step: int = 0) -> None:
    """What stands for a saved state."""
    for name in REQUIRED:
        (directory / name).parent.mkdir(exist_ok=True)
        if name.endswith(".json"):
            (directory / name).write_text(json.dumps({"step": step}))
        else:
            save_file({"weights": np.arange(99)}, directory / name)
    (directory / "model_index.json").write_text("{}")
    write_manifest(directory)


def publish(run_dir: Path, step: int) -> Path:
    path = RunFolder(run_dir).checkpoint(step)
    publish_directory(path, partial(fill, step=step))
    return path


def steps(run_dir: Path) -> list[int]:
    return list(RunFolder(run_dir).checkpoints())


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)


def empty(file: Path) -> None:
    file.write_bytes(b"")


DAMAGES = [cut, flip, Path.unlink, empty]


# Publishing


def test_a_published_directory_is_whole(tmp_path):
    path = publish(tmp_path, 7)
    assert path == tmp_path / "checkpoints" / "step-00000007"
    verify_checkpoint(path)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert set(json.loads((path / MANIFEST).read_text())["files"]) == {*REQUIRED, "model_index.json"}


def test_all_is_on_the_disk_before_it_gets_its_name_and_the_name_before_anything_else(tmp_path, monkeypatch):
    calls, fsync, rename = [], os.fsync, os.rename

    def noting_fsync(descriptor):
        calls.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def noting_rename(source, target):
        calls.append(f"rename to {Path(target).name}")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(os, "rename", noting_rename)
    path = publish(tmp_path, 7)
    partial = path.parent / ".step-00000007.partial"
    assert calls[-2:] == ["rename to step-00000007", path.parent]
    assert set(calls[:-2]) == {partial, *(partial / written.relative_to(path) for written in path.rglob("*"))}


def test_a_write_that_fails_publishes_nothing_and_the_next_one_succeeds(tmp_path):
    path = RunFolder(tmp_path).checkpoint(7)

    def fail(directory: Path) -> None:
        (directory / "half").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match=f"{path} cannot be written, disk full: it takes at least 4 bytes"):
        publish_directory(path, fail)
    assert list(path.parent.iterdir()) == []
    verify_checkpoint(publish(tmp_path, 7))
    assert not (path / "half").exists() and len(list(path.parent.iterdir())) == 1


def test_a_write_that_fails_leaves_what_was_published_before(tmp_path):
    path = publish(tmp_path, 7)

    def fail(directory: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish_directory(path, fail)
    verify_checkpoint(path)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_publishing_again_replaces_the_whole_directory(tmp_path):
    path = publish(tmp_path, 7)
    publish_directory(path, lambda directory: (directory / "other").write_text("other"))
    assert [file.name for file in path.iterdir()] == ["other"]


def test_a_death_between_the_renames_of_a_replacement_is_put_right(tmp_path):
    path = publish(tmp_path, 7)
    path.rename(path.parent / f".{path.name}.replaced")

    def fail(directory: Path) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        publish_directory(path, fail)
    verify_checkpoint(path)


def test_steps_are_sorted_as_numbers_and_strangers_ignored(tmp_path):
    for step in (900, 1000, 123_456_789):
        publish(tmp_path, step)
    for stranger in ("step-last", "step-²", ".step-00000005.partial", "notes"):
        (tmp_path / "checkpoints" / stranger).mkdir()
    (tmp_path / "checkpoints" / "step-00000006").write_text("a file")
    assert steps(tmp_path) == [900, 1000, 123_456_789]
    assert RunFolder(tmp_path / "elsewhere").checkpoints() == {}


# Damage


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", [WEIGHTS])
def test_a_damaged_file_is_named(tmp_path, damage, name):
    path = publish(tmp_path, 7)
    damage(path / name)
    with pytest.raises(ValueError, match=name):
        verify_checkpoint(path)


@pytest.mark.parametrize("damage", [cut, Path.unlink, empty])
def test_a_damaged_manifest_is_named(tmp_path, damage):
    path = publish(tmp_path, 7)
    content = (path / MANIFEST).read_text().rstrip()
    (path / MANIFEST).write_text(content)
    damage(path / MANIFEST)
    with pytest.raises(ValueError, match=f"{MANIFEST} is missing or damaged"):
        verify_checkpoint(path)


# Choosing


def test_none_wants_a_new_or_empty_folder(tmp_path):
    assert choose_checkpoint(RunFolder(tmp_path), "none") is None
    assert choose_checkpoint(RunFolder(tmp_path / "new"), "none") is None
    publish(tmp_path, 7)
    with pytest.raises(ValueError, match="--output_dir .* not empty.*--resume auto"):
        choose_checkpoint(RunFolder(tmp_path), "none")


@pytest.mark.parametrize("resume", ["none", "auto", "latest"])
def test_a_file_is_no_run_folder(tmp_path, resume):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="--output_dir .* is a file"):
        choose_checkpoint(RunFolder(tmp_path / "file"), resume)


def test_auto_starts_from_scratch_or_takes_the_newest(tmp_path, caplog):
    assert choose_checkpoint(RunFolder(tmp_path), "auto") is None
    assert choose_checkpoint(RunFolder(tmp_path / "new"), "auto") is None
    for step in (5, 10):
        publish(tmp_path, step)
    assert choose_checkpoint(RunFolder(tmp_path), "auto") == RunFolder(tmp_path).checkpoint(10)
    assert not caplog.records


@pytest.mark.parametrize("damage", DAMAGES)
def test_auto_falls_back_to_the_one_before_and_says_so(tmp_path, caplog, damage):
    good, bad = publish(tmp_path, 5), publish(tmp_path, 10)
    damage(bad / WEIGHTS)
    assert choose_checkpoint(RunFolder(tmp_path), "auto") == good
    (warning,) = caplog.messages
    assert str(bad) in warning and WEIGHTS in warning
    flip(good / WEIGHTS)
    with pytest.raises(ValueError, match="--resume is 'auto': .* 2 checkpoints and all are damaged"):
        choose_checkpoint(RunFolder(tmp_path), "auto")


def test_latest_needs_a_whole_checkpoint(tmp_path):
    with pytest.raises(ValueError, match="--resume is 'latest': .* no checkpoint"):
        choose_checkpoint(RunFolder(tmp_path), "latest")
    publish(tmp_path, 5)
    newest = publish(tmp_path, 10)
    assert choose_checkpoint(RunFolder(tmp_path), "latest") == newest
    flip(newest / WEIGHTS)
    with pytest.raises(ValueError, match=f"--resume is 'latest': .*{WEIGHTS} has changed.*--resume auto"):
        choose_checkpoint(RunFolder(tmp_path), "latest")


def test_a_path_is_taken_or_refused_for_what_it_is(tmp_path):
    path = publish(tmp_path, 5)
    publish(tmp_path, 10)
    assert choose_checkpoint(RunFolder(tmp_path), str(path)) == path
    assert choose_checkpoint(RunFolder(tmp_path / "new"), str(path)) == path
    with pytest.raises(ValueError, match="--resume is '.*gone': no such checkpoint folder"):
        choose_checkpoint(RunFolder(tmp_path), str(tmp_path / "gone"))
    with pytest.raises(ValueError, match="this is a run directory, give one of its checkpoints, such as .*step-00000010"):
        choose_checkpoint(RunFolder(tmp_path / "new"), str(tmp_path))
    with pytest.raises(ValueError, match=MANIFEST):
        choose_checkpoint(RunFolder(tmp_path / "new"), str(path.parent))
    flip(path / WEIGHTS)
    with pytest.raises(ValueError, match=WEIGHTS):
        choose_checkpoint(RunFolder(tmp_path), str(path))


def test_a_checkpoint_of_another_run_does_not_endanger_the_own_ones(tmp_path):
    """The run would go on from its step, and remove those of later steps."""
    path = publish(tmp_path / "other", 5)
    publish(tmp_path / "run", 10)
    with pytest.raises(ValueError, match="--resume is .*step-00000005': .* has checkpoints of its own"):
        choose_checkpoint(RunFolder(tmp_path / "run"), str(path))


@pytest.mark.parametrize("name", REQUIRED)
def test_a_manifest_that_forgets_a_file_is_no_excuse(tmp_path, name):
    path = publish(tmp_path, 5)
    (path / name).unlink()
    (path / MANIFEST).unlink()
    write_manifest(path)
    with pytest.raises(ValueError, match=f"{name} is missing"):
        choose_checkpoint(RunFolder(tmp_path), "latest")


def test_a_file_that_the_disk_cannot_read_is_damage(tmp_path, caplog, monkeypatch):
    good, bad = publish(tmp_path, 5), publish(tmp_path, 10)

    def fail(file: Path) -> str:
        if file == bad / "model_index.json":
            raise OSError(errno.EIO, "Input/output error")
        return sha256_of(file)

    monkeypatch.setattr(checkpoints, "sha256_of", fail)
    assert choose_checkpoint(RunFolder(tmp_path), "auto") == good
    assert "model_index.json cannot be read, Input/output error" in caplog.text


# What a manifest may name


def list_in_manifest(path: Path, name: str) -> None:
    manifest = json.loads((path / MANIFEST).read_text())
    manifest["files"][name] = {"size": 0, "sha256": hashlib.sha256().hexdigest()}
    (path / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "name",
    [
        "/proc/kmsg",
        "/dev/zero",
        "../../outside",
        "training/../empty",
        "link",
        "folder/empty",
        "pipe",
        "training",
        "\0",
        "loop",
    ],
)
def test_a_manifest_names_regular_files_of_its_folder_only(tmp_path, name):
    good, bad = publish(tmp_path, 5), publish(tmp_path, 10)
    for file in (tmp_path / "outside", bad / "empty", bad / "training" / "empty"):
        file.write_text("")
    for link, target in {"link": "empty", "folder": "training", "loop": "loop"}.items():
        (bad / link).symlink_to(target)
    os.mkfifo(bad / "pipe")
    list_in_manifest(bad, "empty")
    verify_checkpoint(bad)
    list_in_manifest(bad, name)
    with pytest.raises(ValueError, match=r"(is no regular file in this folder|is missing)$"):
        verify_checkpoint(bad)
    assert choose_checkpoint(RunFolder(tmp_path), "auto") == good


@pytest.mark.parametrize("name", [MANIFEST, WEIGHTS, STATE])
@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_a_pipe_or_link_in_the_place_of_a_file_is_damage(tmp_path, name, kind):
    path = publish(tmp_path / "run", 5)
    (path / name).rename(tmp_path / "moved")
    if kind == "pipe":
        os.mkfifo(path / name)
    else:
        (path / name).symlink_to(tmp_path / "moved")
    with pytest.raises(ValueError, match=f"{name} is (missing or damaged|no regular file)"):
        verify_checkpoint(path)


def test_a_manifest_without_end_is_damage(tmp_path):
    path = publish(tmp_path, 5)
    (path / MANIFEST).write_text("[" * 100_000)
    with pytest.raises(ValueError, match=f"{MANIFEST} is missing or damaged"):
        verify_checkpoint(path)


def test_a_moved_checkpoint_is_still_whole(tmp_path):
    shutil.move(publish(tmp_path / "a", 5), tmp_path / "moved")
    verify_checkpoint(tmp_path / "moved")


# Names


def test_a_name_that_is_not_that_of_its_state_is_damage(tmp_path, caplog):
    """Continued from as step 4 it would be removed as a later step, before there is another."""
    good, step_4 = publish(tmp_path, 2), publish(tmp_path, 4)
    wrong = step_4.rename(RunFolder(tmp_path).checkpoint(6))
    assert choose_checkpoint(RunFolder(tmp_path), "auto") == good
    assert "step-00000006: its name is not that of its state, which is of step 4; trying" in caplog.text
    for resume in ("latest", str(wrong)):
        with pytest.raises(ValueError, match="--resume is .* its name is not that of its state, which is of step 4"):
            choose_checkpoint(RunFolder(tmp_path), resume)
    with pytest.raises(ValueError, match="its name is not that"):
        choose_checkpoint(RunFolder(tmp_path / "new"), str(wrong))


def test_a_copy_may_have_any_other_name(tmp_path):
    best = publish(tmp_path / "run", 5).rename(tmp_path / "best")
    assert choose_checkpoint(RunFolder(tmp_path / "new"), str(best)) == best
    publish(tmp_path / "run", 5)
    (tmp_path / "link").symlink_to("run/checkpoints/step-00000005")
    link = str(tmp_path / "link")
    assert choose_checkpoint(RunFolder(tmp_path / "run"), link) == RunFolder(tmp_path / "run").checkpoint(5)


@pytest.mark.parametrize("state", ["[]", "{}", '{"step": "5"}', '{"step": 5, "step": 5}', "5", "\xff"])
def test_a_state_without_its_step_is_damage(tmp_path, state):
    path = publish(tmp_path, 5)
    (path / STATE).write_bytes(state.encode("latin-1"))
    (path / MANIFEST).unlink()
    write_manifest(path)
    with pytest.raises(ValueError, match="is not the state of a run|its name is not that of its state"):
        verify_checkpoint(path)


def test_a_death_between_the_renames_of_a_checkpoint_is_put_right(tmp_path):
    publish(tmp_path, 5)
    path = publish(tmp_path, 7)
    path.rename(path.parent / f".{path.name}.replaced")
    assert choose_checkpoint(RunFolder(tmp_path), "auto") == path


# Links


def test_a_checkpoint_that_is_a_link_is_not_pruned_into_its_target(tmp_path):
    publish(tmp_path / "run", 5).rename(tmp_path / "kept")
    RunFolder(tmp_path / "run").checkpoint(5).symlink_to(tmp_path / "kept")
    for step in (10, 20):
        publish(tmp_path / "run", step)
    prune_checkpoints(RunFolder(tmp_path / "run"), 2, None)
    assert steps(tmp_path / "run") == [10, 20]
    verify_checkpoint(tmp_path / "kept")


@pytest.mark.parametrize("leftover", [".step-00000020.partial", ".step-00000005.removed"])
def test_a_leftover_that_is_a_link_goes_without_its_target(tmp_path, leftover):
    publish(tmp_path / "other", 5)
    for step in (5, 10):
        publish(tmp_path / "run", step)
    (tmp_path / "run" / "checkpoints" / leftover).symlink_to(RunFolder(tmp_path / "other").checkpoint(5))
    prune_checkpoints(RunFolder(tmp_path / "run"), 1, None)
    assert [file.name for file in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000010"]
    verify_checkpoint(RunFolder(tmp_path / "other").checkpoint(5))


def test_the_checkpoints_of_a_run_may_be_on_another_disk(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(tmp_path / "disk")
    for step in (5, 10, 15):
        publish(tmp_path / "run", step)
    prune_checkpoints(RunFolder(tmp_path / "run"), 2, None)
    assert [file.name for file in sorted((tmp_path / "disk").iterdir())] == ["step-00000010", "step-00000015"]
    assert choose_checkpoint(RunFolder(tmp_path / "run"), "auto") == RunFolder(tmp_path / "run").checkpoint(15)


@pytest.mark.parametrize("name", ["checkpoints", "samples"])
def test_they_may_not_be_those_of_another_run(tmp_path, name):
    publish(tmp_path / "other", 5)
    (tmp_path / "other" / "samples").mkdir()
    (tmp_path / "other" / "config.yaml").write_text("")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(tmp_path / "other" / name)
    with pytest.raises(ValueError, match=f"by a link its {name} are those of .*other, remove it"):
        choose_checkpoint(RunFolder(tmp_path / "run"), "auto")
    (tmp_path / "same").symlink_to("other")
    assert choose_checkpoint(RunFolder(tmp_path / "same"), "auto") == RunFolder(tmp_path / "same").checkpoint(5)


# Pruning


@pytest.mark.parametrize(
    ("keep", "keep_every_steps", "left"),
    [(2, None, [50, 60]), (3, None, [40, 50, 60]), (9, None, [10, 20, 30, 40, 50, 60]), (2, 30, [30, 50, 60])],
)
def test_the_newest_and_the_multiples_stay(tmp_path, keep, keep_every_steps, left):
    for step in range(10, 70, 10):
        publish(tmp_path, step)
    prune_checkpoints(RunFolder(tmp_path), keep, keep_every_steps)
    assert steps(tmp_path) == left


def test_pruning_removes_what_a_killed_run_was_writing(tmp_path):
    publish(tmp_path, 10)
    (tmp_path / "checkpoints" / ".step-00000020.partial").mkdir()
    prune_checkpoints(RunFolder(tmp_path), 2, None)
    assert [file.name for file in (tmp_path / "checkpoints").iterdir()] == ["step-00000010"]


def test_a_resumed_run_removes_what_a_killed_one_left_though_it_saves_nothing(tmp_path):
    publish(tmp_path, 10)
    (tmp_path / "checkpoints" / ".step-00000005.removed").mkdir()
    assert drop_checkpoints_after(RunFolder(tmp_path), 10) == []
    assert [file.name for file in (tmp_path / "checkpoints").iterdir()] == ["step-00000010"]


def test_a_flipped_bit_of_the_manifest_is_damage_and_no_other_error(tmp_path):
    """Only bits that JSON gives no meaning, as in white space, may go unnoticed."""
    path = publish(tmp_path, 1)
    whole = (path / MANIFEST).read_bytes()
    damaged = 0
    for bit in range(0, 8 * len(whole), 7):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        (path / MANIFEST).write_bytes(flipped)
        try:
            verify_checkpoint(path)
        except ValueError:
            damaged += 1
    assert damaged > 0.9 * 8 * len(whole) / 7


# Full disks, and who may read


@pytest.mark.parametrize("call", ["fsync", "mkdir", "chmod"])
def test_a_full_disk_leaves_what_was_published_whatever_fails(tmp_path, monkeypatch, call):
    path = publish(tmp_path, 10)
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}

    def fail(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        for step in (10, 20):
            with pytest.raises(OSError, match="No space left on device") as stopped:
                publish(tmp_path, step)
            message, size = str(stopped.value), sum(map(len, before.values()))
            assert message.startswith(f"{RunFolder(tmp_path).checkpoint(step)} cannot be written, No space left on device: ")
            assert f"at least {size:,} bytes" in message and "\n" not in message
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_files_and_folders_get_the_mode_that_the_umask_allows(tmp_path, umask):
    before = os.umask(umask)
    try:
        publish(tmp_path / "run", 10)
    finally:
        os.umask(before)
    for path in (tmp_path / "run").rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o777 if path.is_dir() else 0o666) & ~umask, path
