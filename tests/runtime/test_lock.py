"""One program at a time writes an output; who else holds it, or why it cannot be had, is one line."""

import errno
import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from hf_ddpm.runtime.lock import HOLDER, LOCK, OutputLock, file_in_the_way, is_free

ALONE = SimpleNamespace(is_main_process=True, num_processes=1)


def test_a_lock_on_a_file_that_was_removed_does_not_count(tmp_path, monkeypatch):
    flock, calls = fcntl.flock, []

    def overtaken(file, how):
        if not calls:
            (tmp_path / LOCK).unlink()  # its holder ends between our opening and our locking
        calls.append(how)
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", overtaken)
    with OutputLock(tmp_path, ALONE) as lock:
        lock.take()
        lock.take()
        with pytest.raises(ValueError, match=f"process {os.getpid()} on"), OutputLock(tmp_path, ALONE) as other:
            other.take()
        assert (tmp_path / LOCK).exists(), "who is refused leaves the lock where it is"
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_locks_is_said(tmp_path, monkeypatch, caplog):
    def unable(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unable)
    with OutputLock(tmp_path) as lock:
        lock.take()
    assert "cannot be locked (No locks available)" in caplog.text


def test_an_error_of_the_disk_is_no_reason_to_run_without_a_lock(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(ValueError, match="cannot be locked, Input/output error: name another"), OutputLock(tmp_path) as lock:
        lock.take()


@pytest.mark.parametrize("name", [LOCK, HOLDER])
def test_nothing_is_written_through_a_link(tmp_path, name):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to("../mine")
    with OutputLock(tmp_path / "run") as lock:
        if name == LOCK:
            with pytest.raises(ValueError, match=r"\.lock is a symbolic link, remove it"):
                lock.take()
        else:
            lock.take()
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_folder_behind_a_link_is_the_same_folder(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to("disk")
    with OutputLock(tmp_path / "disk") as lock:
        lock.take()
        with pytest.raises(ValueError, match=f"process {os.getpid()} on"), OutputLock(tmp_path / "run") as other:
            other.take()


def as_nobody(do) -> str:
    """What a function returns in a process of another user."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.setuid(65534)
        try:
            os.write(writing, do().encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("state", ["held", "left by a killed program", "in a folder of root"])
def test_the_lock_of_another_user_is_refused_with_the_remedy(state):
    def attempt() -> str:
        try:
            with OutputLock(folder) as lock:
                lock.take()
                return "locked"
        except ValueError as error:
            return str(error)

    folder = Path(tempfile.mkdtemp(dir="/tmp"))  # pytest's own folders are closed to other users
    try:
        folder.chmod(0o755 if state == "in a folder of root" else 0o777)
        if state == "in a folder of root":
            assert as_nobody(attempt) == f"output_dir is {str(folder)!r}: Permission denied, name another"
            return
        with OutputLock(folder) as lock:
            lock.take()
            (folder / LOCK).chmod(0o644)
            if state != "held":
                shutil.copy(folder / LOCK, folder / "left")
                lock.__exit__()
                (folder / "left").rename(folder / LOCK)
            refusal = as_nobody(attempt)
        remedy = f"if none of their programs is writing there, remove {folder / LOCK}; or name another"
        assert refusal == f"output_dir is {str(folder)!r}: the lock {folder / LOCK} belongs to root: {remedy}"
    finally:
        shutil.rmtree(folder)


def test_files_beside_each_other_have_locks_of_their_own(tmp_path):
    locks = [OutputLock(tmp_path / f"{name}.json", option="output", file_name=name) for name in ("a", "b", "a")]
    with locks[0], locks[1], locks[2]:
        locks[0].take()
        locks[1].take()
        with pytest.raises(ValueError, match=r"^output is '.*a\.json': process \d+ on .* is writing there, name another$"):
            locks[2].take()
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_found_under_the_lock_leaves_no_folder(tmp_path):
    def refuse() -> None:
        raise ValueError("a mistake")

    with pytest.raises(ValueError, match="a mistake"), OutputLock(tmp_path / "new" / "folder") as lock:
        lock.take(refuse)
    assert list(tmp_path.iterdir()) == []
    with OutputLock(tmp_path / "new" / "folder") as lock:
        lock.take()
        assert is_free(tmp_path / "new" / "folder")
        (tmp_path / "new" / "folder" / "image.png").write_text("")
        assert not is_free(tmp_path / "new" / "folder")
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["image.png"]


def test_a_file_in_the_place_of_the_folder_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file is a file, name another"), OutputLock(tmp_path / "file") as lock:
        lock.take()


@pytest.mark.parametrize("below", ["", "new", "new/deeper"])
@pytest.mark.parametrize("file_name", [None, "eval"])
def test_a_file_in_place_of_a_folder_is_named(tmp_path, below, file_name):
    file = tmp_path / "notes"
    file.write_text("precious")
    output = file / below / "eval.json" if file_name else file / below
    with pytest.raises(ValueError, match=f"output_dir is .*: {file} is a file, name another"):
        OutputLock(output, file_name=file_name).take()
    assert file.read_text() == "precious"
    assert file_in_the_way(file / below) == file and file_in_the_way(tmp_path / "new" / "deeper") is None
