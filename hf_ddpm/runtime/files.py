"""Write a whole file or nothing, and name a file that cannot be written: `write_whole(path, text)`.

What is behind a symbolic link is never truncated, overwritten or removed:

- A link in the place of a file or of a folder that is published whole (a checkpoint, `pipeline/`, `judge/`) is replaced or
  removed itself, and its target stays. Where content would be appended the link is refused.
- A link above that, such as `runs/`, a run folder or its `checkpoints/`, is where a user wants the files: it is followed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path


def write_whole(path: Path, content: str | bytes | Callable[[Path], object]) -> None:
    """Write a file under a temporary name beside it, then rename it; its folder is created if necessary.

    `content` is text (UTF-8), bytes or a function that writes the file it is given. An `OSError`, if the disk is full or the
    like, is one line with the path, and `path` is as it was.
    """
    # Pillow needs the suffix, and another process may be writing the same file into a cache.
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial{path.suffix}")
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.unlink(missing_ok=True)
            if callable(content):
                content(partial)
            else:
                partial.write_bytes(content.encode() if isinstance(content, str) else content)
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def append(path: Path, text: str) -> None:
    """Append text (UTF-8) to a file, which is created if necessary; for a `ValueError` see `check_appendable`."""
    check_appendable(path)
    # Neither a link nor a pipe without a reader is opened, should one take the place of the file just now.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    with naming(path), open(os.open(path, flags, 0o666), "a", encoding="utf-8") as stream:
        stream.write(text)


def check_appendable(path: Path) -> None:
    """Raise `ValueError` if a path is taken by a symbolic link or anything else that is not a file."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(path.lstat().st_mode):
            what = "a symbolic link" if path.is_symlink() else "not a file"
            raise ValueError(f"{path} is {what}: remove it, nothing is written through it")


def remove(path: Path) -> None:
    """Remove a file, a folder with its contents, or a link (not its target), if it is there."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path)


def is_file_within(folder: Path, name: str) -> bool:
    """Whether a name leads to a regular file in a folder, without a link or `..` on the way."""
    root = os.path.realpath(folder)
    try:
        path = os.path.realpath(file := os.path.join(root, *name.split("/")))
        return path == file and path.startswith(root + os.sep) and stat.S_ISREG(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a null character
        return False


def sha256_of(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn an `OSError` of writing, which does not name the file when a disk is full, into one line that names `path`."""
    try:
        yield
    except OSError as error:
        folder = next(parent for parent in path.absolute().parents if parent.is_dir())
        free = shutil.disk_usage(folder).free
        raise OSError(f"{path} cannot be written, {error.strerror or error}: {free:,} bytes are free") from error
