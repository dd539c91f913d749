"""Write a whole file or nothing, and name a file that cannot be written: `write_whole(path, text)`."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path


def write_whole(path: Path, content: str | Callable[[Path], object]) -> None:
    """Write a file under a temporary name beside it, then rename it; its folder is created if necessary.

    `content` is text (UTF-8) or a function that writes the file it is given. An `OSError`, if the disk is full or the like,
    is one line with the path, and `path` is as it was.
    """
    # Pillow needs the suffix, and another process may be writing the same file into a cache.
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial{path.suffix}")
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            if callable(content):
                content(partial)
            else:
                partial.write_text(content, encoding="utf-8")
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


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
