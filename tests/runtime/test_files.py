"""Files are whole or as they were, and a failure names the file."""

import os
import resource
import signal

import pytest
from accelerate import Accelerator
from PIL import Image

from hf_ddpm.run_folder import RunFolder
from hf_ddpm.runtime.files import append, is_file_within, naming, remove, write_whole
from hf_ddpm.training.tracking import RunLog


@pytest.fixture
def full_disk():
    """Call it: from then on a file may have no more than so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that the write fails and does not kill
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "new" / "file.txt"
    for text in ("before\n", "after ü\n"):
        write_whole(path, text)
        assert path.read_text(encoding="utf-8") == text
    write_whole(tmp_path / "new" / "image.png", Image.new("L", (3, 2)).save)
    with Image.open(tmp_path / "new" / "image.png") as image:
        assert image.size == (3, 2)
    assert sorted(file.name for file in path.parent.iterdir()) == ["file.txt", "image.png"]


def test_on_a_full_disk_the_old_file_stays(tmp_path, full_disk):
    path = tmp_path / "file.txt"
    write_whole(path, "before")
    full_disk(100)
    with pytest.raises(OSError) as stopped:
        write_whole(path, "x" * 1000)
    message = str(stopped.value)
    assert message.startswith(f"{path} cannot be written, File too large: ") and "bytes are free" in message
    assert path.read_text() == "before" and len(list(tmp_path.iterdir())) == 1


def test_other_errors_pass_unchanged(tmp_path):
    with pytest.raises(KeyError, match="3"), naming(tmp_path):
        raise KeyError(3)


def test_a_log_that_cannot_grow_is_named(tmp_path, full_disk):
    log = RunLog(Accelerator(cpu=True), RunFolder(tmp_path), total_steps=4, start_step=0)
    log.write(1, {"loss": 0.5})
    full_disk((tmp_path / "metrics.jsonl").stat().st_size)
    with pytest.raises(OSError) as stopped:
        log.write(2, {"loss": 0.25})
    assert str(stopped.value).startswith(f"{tmp_path / 'metrics.jsonl'} cannot be written, ")
    full_disk(resource.RLIM_INFINITY)
    log.close()


# Links


@pytest.mark.parametrize("target", ["mine", "dangling"])
def test_a_link_in_the_place_of_a_file_is_replaced(tmp_path, target):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "link").symlink_to(target)
    write_whole(tmp_path / "link", b"new")
    assert (tmp_path / "mine").read_text() == "mine" and not (tmp_path / "dangling").exists()
    assert not (tmp_path / "link").is_symlink() and (tmp_path / "link").read_text() == "new"


def test_the_temporary_file_is_not_written_through_a_link(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / f".file.txt.{os.getpid()}.partial.txt").symlink_to("mine")
    write_whole(tmp_path / "file.txt", "new")
    assert (tmp_path / "mine").read_text() == "mine" and (tmp_path / "file.txt").read_text() == "new"


def test_a_link_above_a_file_is_followed(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to("disk")
    write_whole(tmp_path / "run" / "samples" / "grid.json", "{}")
    append(tmp_path / "run" / "metrics.jsonl", "a\n")
    append(tmp_path / "run" / "metrics.jsonl", "b\n")
    assert (tmp_path / "disk" / "samples" / "grid.json").read_text() == "{}"
    assert (tmp_path / "disk" / "metrics.jsonl").read_text() == "a\nb\n"


@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe", "folder"])
def test_nothing_is_appended_to_what_is_not_a_file(tmp_path, kind):
    path = tmp_path / "metrics.jsonl"
    (tmp_path / "mine").write_text("mine")
    if "link" in kind:
        path.symlink_to("nothing" if kind == "dangling link" else "mine")
    else:
        os.mkfifo(path) if kind == "pipe" else path.mkdir()
    what = "a symbolic link" if "link" in kind else "not a file"
    with pytest.raises(ValueError, match=f"metrics.jsonl is {what}: remove it"):
        append(path, "line")
    assert (tmp_path / "mine").read_text() == "mine" and not (tmp_path / "nothing").exists()


def test_of_a_link_only_the_link_is_removed(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    for name in ("link", "dangling"):
        (tmp_path / name).symlink_to("mine" if name == "link" else "nothing")
        remove(tmp_path / name)
    remove(tmp_path / "missing")
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "file"]
    remove(tmp_path / "mine")
    assert list(tmp_path.iterdir()) == []


def test_names_within_a_folder(tmp_path):
    folder = tmp_path / "checkpoint"
    (folder / "training").mkdir(parents=True)
    for file in (folder / "a", folder / "training" / "b", tmp_path / "outside"):
        file.write_text("")
    (folder / "link").symlink_to("a")
    (folder / "folder").symlink_to("training")
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "pipe")
    (tmp_path / "linked").symlink_to("checkpoint")
    for name in ("a", "training/b"):
        assert is_file_within(folder, name) and is_file_within(tmp_path / "linked", name)
    outside = ("../outside", "training/../a", str(folder / "a"), "/proc/kmsg")
    for name in (*outside, "link", "folder/b", "loop", "pipe", "training", "missing", "a/b", "", ".", "\0"):
        assert not is_file_within(folder, name), name
