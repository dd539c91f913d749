"""Publish a whole folder or nothing: `publish_directory(path, write)`, and `put_back(path)` after a death in the middle."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Collection
from pathlib import Path

from safetensors import SafetensorError

from hf_ddpm.runtime.additions import keep_additions
from hf_ddpm.runtime.files import remove


def publish_directory(path: Path, write: Callable[[Path], None], *, keep_but: Collection[str] | None = None) -> None:
    """Let `write` fill an empty temporary directory, then rename it to `path`: a whole directory or nothing.

    What the directory at `path` has besides stays, except these names, `keep_but`; None = nothing stays.
    Raises `OSError` if the disk is full or the like, in one line with the path and the bytes; `path` is as it was.
    """
    partial = path.parent / f".{path.name}.partial"
    put_back(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove(partial)
        partial.mkdir()
        write(partial)
        # What the umask allows: safetensors creates files that only their owner can read.
        file_mode = partial.stat().st_mode & 0o666
        for written in (*partial.rglob("*"), partial):
            if written.is_file():
                written.chmod(file_mode)
            _flush(written)
        if keep_but is not None:
            keep_additions(path, partial, keep_but)
        _replace(path, partial)
    except BaseException as error:
        size = _size_of(partial)
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, (OSError, SafetensorError)):
            raise OSError(_write_failure(path, size, error)) from error
        raise
    _flush(path.parent)
    with contextlib.suppress(OSError):
        remove(_set_aside(path))


def put_back(path: Path) -> None:
    """Give a directory its name back if a process died after it had set it aside for a new one."""
    if os.path.lexists(_set_aside(path)) and not os.path.lexists(path):
        with contextlib.suppress(OSError):  # another process has just done so, or the folder above is read-only
            _set_aside(path).rename(path)


def _replace(path: Path, partial: Path) -> None:
    """Rename `partial` to `path`, setting aside what has this name; that is put back if it fails."""
    try:
        while True:
            if os.path.lexists(path):
                remove(_set_aside(path))
                path.rename(_set_aside(path))
            try:
                partial.rename(path)
                break
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # a reader has just put the old one back
                    raise
    except BaseException:
        put_back(path)
        raise


def _set_aside(path: Path) -> Path:
    return path.parent / f".{path.name}.replaced"


def _flush(path: Path) -> None:
    """Force the content of a file or directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_failure(path: Path, size: int, error: Exception) -> str:
    """The message about a directory that could not be written, after `size` bytes of it."""
    folder = next(parent for parent in path.absolute().parents if parent.is_dir())
    alike = path.parent.glob(f"{path.name.rstrip('0123456789')}*")  # checkpoints of other steps, or what is there already
    needed = max([size, *map(_size_of, alike)])
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())
    return (
        f"{path} cannot be written, {reason}: it takes at least {needed:,} bytes and {shutil.disk_usage(folder).free:,} are "
        "free. What was saved before is still there: fix this and continue with --resume auto"
    )


def _size_of(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
