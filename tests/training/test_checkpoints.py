"""Checkpoint directories are complete or absent, damage is found and named, and old ones go."""

import json
import shutil
from pathlib import Path

import pytest

from hf_ddpm.training.checkpoints import (
    MANIFEST,
    checkpoint_path,
    checkpoint_step,
    choose_checkpoint,
    find_checkpoints,
    prune_checkpoints,
    publish_directory,
    verify_checkpoint,
    write_manifest,
)

WEIGHTS = "training/model.safetensors"


def fill(directory: Path) -> None:
    """What stands for a saved state."""
    (directory / "training").mkdir()
    (directory / WEIGHTS).write_bytes(bytes(range(256)))
    (directory / "model_index.json").write_text("{}")
    write_manifest(directory)


def publish(run_dir: Path, step: int) -> Path:
    path = checkpoint_path(run_dir, step)
    publish_directory(path, fill)
    return path


def steps(run_dir: Path) -> list[int]:
    return [checkpoint_step(path) for path in find_checkpoints(run_dir)]


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
    assert set(json.loads((path / MANIFEST).read_text())["files"]) == {WEIGHTS, "model_index.json"}


def test_a_write_that_fails_publishes_nothing_and_the_next_one_succeeds(tmp_path):
    path = checkpoint_path(tmp_path, 7)

    def fail(directory: Path) -> None:
        (directory / "half").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        publish_directory(path, fail)
    assert not path.exists() and find_checkpoints(tmp_path) == []
    verify_checkpoint(publish(tmp_path, 7))
    assert not (path / "half").exists() and len(list(path.parent.iterdir())) == 1


def test_a_write_that_fails_leaves_what_was_published_before(tmp_path):
    path = publish(tmp_path, 7)

    def fail(directory: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish_directory(path, fail)
    verify_checkpoint(path)


def test_publishing_again_replaces_the_whole_directory(tmp_path):
    path = publish(tmp_path, 7)
    publish_directory(path, lambda directory: (directory / "other").write_text("other"))
    assert [file.name for file in path.iterdir()] == ["other"]


def test_steps_are_sorted_as_numbers_and_strangers_ignored(tmp_path):
    for step in (900, 1000, 123_456_789):
        publish(tmp_path, step)
    for stranger in ("step-last", ".step-00000005.partial", "notes"):
        (tmp_path / "checkpoints" / stranger).mkdir()
    assert steps(tmp_path) == [900, 1000, 123_456_789]
    assert find_checkpoints(tmp_path / "elsewhere") == []


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
    assert choose_checkpoint(tmp_path, "none") is None
    assert choose_checkpoint(tmp_path / "new", "none") is None
    publish(tmp_path, 7)
    with pytest.raises(ValueError, match="--output_dir .* not empty.*--resume auto"):
        choose_checkpoint(tmp_path, "none")


@pytest.mark.parametrize("resume", ["none", "auto", "latest"])
def test_a_file_is_no_run_folder(tmp_path, resume):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="--output_dir .* is a file"):
        choose_checkpoint(tmp_path / "file", resume)


def test_auto_starts_afresh_or_takes_the_newest(tmp_path, capsys):
    assert choose_checkpoint(tmp_path, "auto") is None
    assert choose_checkpoint(tmp_path / "new", "auto") is None
    for step in (5, 10):
        publish(tmp_path, step)
    assert choose_checkpoint(tmp_path, "auto") == checkpoint_path(tmp_path, 10)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("damage", DAMAGES)
def test_auto_falls_back_to_the_one_before_and_says_so(tmp_path, capsys, damage):
    good, bad = publish(tmp_path, 5), publish(tmp_path, 10)
    damage(bad / WEIGHTS)
    assert choose_checkpoint(tmp_path, "auto") == good
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith("warning: ") and str(bad) in warning and WEIGHTS in warning
    flip(good / WEIGHTS)
    assert choose_checkpoint(tmp_path, "auto") is None


def test_latest_needs_a_whole_checkpoint(tmp_path):
    with pytest.raises(ValueError, match="--resume is 'latest': .* no checkpoint"):
        choose_checkpoint(tmp_path, "latest")
    publish(tmp_path, 5)
    newest = publish(tmp_path, 10)
    assert choose_checkpoint(tmp_path, "latest") == newest
    flip(newest / WEIGHTS)
    with pytest.raises(ValueError, match=WEIGHTS):
        choose_checkpoint(tmp_path, "latest")


def test_a_path_is_taken_or_refused_for_what_it_is(tmp_path):
    path = publish(tmp_path, 5)
    publish(tmp_path, 10)
    assert choose_checkpoint(tmp_path, str(path)) == path
    assert choose_checkpoint(tmp_path / "new", str(path)) == path
    with pytest.raises(ValueError, match="--resume is '.*gone': no such checkpoint folder"):
        choose_checkpoint(tmp_path, str(tmp_path / "gone"))
    with pytest.raises(ValueError, match=MANIFEST):
        choose_checkpoint(tmp_path, str(tmp_path))
    flip(path / WEIGHTS)
    with pytest.raises(ValueError, match=WEIGHTS):
        choose_checkpoint(tmp_path, str(path))


def test_a_moved_checkpoint_is_still_whole(tmp_path):
    shutil.move(publish(tmp_path / "a", 5), tmp_path / "moved")
    verify_checkpoint(tmp_path / "moved")


# Pruning


@pytest.mark.parametrize(
    ("keep", "keep_every_steps", "left"),
    [(2, None, [50, 60]), (3, None, [40, 50, 60]), (9, None, [10, 20, 30, 40, 50, 60]), (2, 30, [30, 50, 60])],
)
def test_the_newest_and_the_multiples_stay(tmp_path, keep, keep_every_steps, left):
    for step in range(10, 70, 10):
        publish(tmp_path, step)
    prune_checkpoints(tmp_path, keep, keep_every_steps)
    assert steps(tmp_path) == left


def test_pruning_removes_what_a_killed_run_was_writing(tmp_path):
    publish(tmp_path, 10)
    (tmp_path / "checkpoints" / ".step-00000020.partial").mkdir()
    prune_checkpoints(tmp_path, 2, None)
    assert [file.name for file in (tmp_path / "checkpoints").iterdir()] == ["step-00000010"]


def test_a_flipped_bit_of_the_manifest_is_damage_and_no_other_error(tmp_path):
    """Only bits that JSON gives no meaning, as in white space, may go unnoticed."""
    directory = tmp_path / "step-00000001"
    publish_directory(directory, write_one_file)
    manifest = directory / "manifest.json"
    whole = manifest.read_bytes()
    damaged = 0
    for bit in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        manifest.write_bytes(flipped)
        try:
            verify_checkpoint(directory)
        except ValueError:
            damaged += 1
    assert damaged > 0.9 * 8 * len(whole)


def write_one_file(directory):
    (directory / "weights").write_bytes(b"0123")
    write_manifest(directory)
