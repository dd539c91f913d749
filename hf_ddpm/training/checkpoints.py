"""Checkpoint directories: complete or absent, never half, and never a pickle.

A checkpoint is written under a temporary name, `manifest.json` (size and sha256 of every other file) last; all of it is
flushed to the disk, and one rename publishes it. Only then are old checkpoints removed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

MANIFEST = "manifest.json"
_PREFIX = "step-"


def checkpoint_path(run_dir: Path, step: int) -> Path:
    """Where the checkpoint of an optimizer step lies."""
    return run_dir / "checkpoints" / f"{_PREFIX}{step:08d}"


def checkpoint_step(path: Path) -> int:
    """The optimizer step of a checkpoint directory."""
    return int(path.name.removeprefix(_PREFIX))


def publish_directory(path: Path, write: Callable[[Path], None]) -> None:
    """Write a directory whole: `write` fills a temporary one, which then takes the place of `path` by a rename.

    Args:
        path: the directory to publish; one that is there already is replaced.
        write: fills the empty directory it is given.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.parent / f".{path.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    write(partial)
    for written in (*partial.rglob("*"), partial):
        _flush(written)
    replaced = path.parent / f".{path.name}.replaced"
    shutil.rmtree(replaced, ignore_errors=True)
    if path.exists():
        path.rename(replaced)
    partial.rename(path)
    _flush(path.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def write_manifest(directory: Path) -> None:
    """Write `manifest.json`, the size and sha256 of every other file of a directory that is complete but for it."""
    files = {
        file.relative_to(directory).as_posix(): {"size": file.stat().st_size, "sha256": sha256_of(file)}
        for file in sorted(directory.rglob("*"))
        if file.is_file()
    }
    (directory / MANIFEST).write_text(json.dumps({"files": files}, indent=1) + "\n", encoding="utf-8")


def prune_checkpoints(run_dir: Path, keep: int, keep_every_steps: int | None) -> None:
    """Remove all but the newest `keep` checkpoints and those at multiples of `keep_every_steps` (None = no such)."""
    for path in find_checkpoints(run_dir)[:-keep]:
        if keep_every_steps is None or checkpoint_step(path) % keep_every_steps:
            shutil.rmtree(path)
    for leftover in (run_dir / "checkpoints").glob(f".{_PREFIX}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def drop_checkpoints_after(run_dir: Path, step: int) -> list[Path]:
    """Remove the checkpoints of steps that will be done again, and return their paths."""
    dropped = [path for path in find_checkpoints(run_dir) if checkpoint_step(path) > step]
    for path in dropped:
        shutil.rmtree(path)
    return dropped


def find_checkpoints(run_dir: Path) -> list[Path]:
    """Published checkpoints of a run, oldest first."""
    found = (run_dir / "checkpoints").glob(f"{_PREFIX}*")
    return sorted((path for path in found if path.name.removeprefix(_PREFIX).isdigit()), key=checkpoint_step)


def verify_checkpoint(path: Path) -> None:
    """Compare every file with the manifest.

    Raises:
        ValueError: names the file that is missing, cut or changed.
    """
    manifest = path / MANIFEST
    try:
        listed = json.loads(manifest.read_text(encoding="utf-8"))["files"].items()
        files = {name: (expected["size"], expected["sha256"]) for name, expected in listed}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"checkpoint {path}: {MANIFEST} is missing or damaged") from None
    for name, (size, sha256) in files.items():
        file = path / name
        if not file.is_file():
            raise ValueError(f"checkpoint {path}: {name} is missing")
        if file.stat().st_size != size:
            raise ValueError(f"checkpoint {path}: {name} has {file.stat().st_size} bytes instead of {size}")
        if sha256_of(file) != sha256:
            raise ValueError(f"checkpoint {path}: the content of {name} has changed since it was saved")


def choose_checkpoint(run_dir: Path, resume: str) -> Path | None:
    """Find the checkpoint that `--resume` asks for, whole and unchanged.

    Args:
        run_dir: the run folder.
        resume: `none`, `auto` (the newest that is whole, else None), `latest` or the path of a checkpoint.

    Returns:
        The checkpoint to continue from; None = start from the beginning.

    Raises:
        ValueError: `none` with a folder that is not empty, `latest` with nothing to resume, a checkpoint that is damaged.
    """
    if run_dir.exists() and not run_dir.is_dir():
        raise ValueError(f"--output_dir is {str(run_dir)!r}: that is a file, name a folder")
    if resume == "none":
        if run_dir.exists() and any(run_dir.iterdir()):
            raise ValueError(
                f"--output_dir is {str(run_dir)!r}: not empty, continue its run with --resume auto or name a new folder"
            )
        return None
    if resume == "auto":
        return _newest_whole_checkpoint(run_dir)
    if resume == "latest":
        checkpoints = find_checkpoints(run_dir)
        if not checkpoints:
            raise ValueError(f"--resume is 'latest': {run_dir} has no checkpoint, start with --resume auto or none")
        verify_checkpoint(checkpoints[-1])
        return checkpoints[-1]
    if not Path(resume).is_dir():
        raise ValueError(f"--resume is {resume!r}: no such checkpoint folder; also possible: none, auto, latest")
    verify_checkpoint(Path(resume))
    return Path(resume)


def _newest_whole_checkpoint(run_dir: Path) -> Path | None:
    for path in reversed(find_checkpoints(run_dir)):
        try:
            verify_checkpoint(path)
        except ValueError as error:
            print(f"warning: {error}; trying the checkpoint before it", file=sys.stderr)
        else:
            return path
    return None


def sha256_of(file: Path) -> str:
    """Hex digest of a file's content."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _flush(path: Path) -> None:
    """Force a file's or directory's content to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
