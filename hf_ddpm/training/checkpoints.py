"""Checkpoint directories: complete or absent, never half-written, and never a pickle.

A checkpoint is written under a temporary name, with `manifest.json` last, and flushed to the disk; then one rename publishes
it. Old checkpoints are removed after that, renamed first. So whatever has the name of a checkpoint is whole.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError, safe_open

from hf_ddpm.run_folder import PREFIX, RunFolder
from hf_ddpm.runtime.files import sha256_of

MANIFEST = "manifest.json"
UNET_WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
# Files needed to resume any run, and a diffusion run.
TRAINING_FILES = ("training/state.json", "training/model.safetensors", "training/optimizer.safetensors")
REQUIRED = (*TRAINING_FILES, UNET_WEIGHTS)

logger = logging.getLogger(__name__)


def publish_directory(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill an empty temporary directory, then rename it to `path`: a whole directory or nothing.

    Raises `OSError` if the disk is full or the like, in one line with the path and the bytes; `path` is as it was.
    """
    partial, replaced = (path.parent / f".{path.name}.{kind}" for kind in ("partial", "replaced"))
    if replaced.exists() and not path.exists():
        replaced.rename(path)  # an earlier process died between the two renames below
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        write(partial)
        # What the umask allows: safetensors creates files that only their owner can read.
        file_mode = partial.stat().st_mode & 0o666
        for written in (*partial.rglob("*"), partial):
            if written.is_file():
                written.chmod(file_mode)
            _flush(written)
    except BaseException as error:
        size = _size_of(partial)
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, (OSError, SafetensorError)):
            raise OSError(_write_failure(path, size, error)) from error
        raise
    if path.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        path.rename(replaced)
    partial.rename(path)
    _flush(path.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def write_manifest(directory: Path) -> None:
    """Write `manifest.json`, the size and sha256 of every other file, as the last file of a directory."""
    files = {
        file.relative_to(directory).as_posix(): {"size": file.stat().st_size, "sha256": sha256_of(file)}
        for file in sorted(directory.rglob("*"))
        if file.is_file()
    }
    (directory / MANIFEST).write_text(json.dumps({"files": files}, indent=1) + "\n", encoding="utf-8")


def prune_checkpoints(folder: RunFolder, keep: int, keep_every_steps: int | None) -> None:
    """Remove all but the newest `keep` checkpoints and those at multiples of `keep_every_steps` (None = only the newest)."""
    for step, path in list(folder.checkpoints().items())[:-keep]:
        if keep_every_steps is None or step % keep_every_steps:
            _remove(path)
    _remove_leftovers(folder)


def drop_checkpoints_after(folder: RunFolder, step: int) -> list[Path]:
    """Remove the checkpoints of steps that will be repeated and what a killed run left; return the removed checkpoints."""
    dropped = [path for saved_step, path in folder.checkpoints().items() if saved_step > step]
    for path in reversed(dropped):
        _remove(path)
    _remove_leftovers(folder)
    return dropped


def verify_checkpoint(path: Path, required: tuple[str, ...] = REQUIRED) -> None:
    """Check required files, manifest and safetensors format, ignoring unlisted files; a `ValueError` names the bad file."""
    manifest = path / MANIFEST
    try:
        listed = json.loads(manifest.read_text(encoding="utf-8"))["files"].items()
        files = {name: (expected["size"], expected["sha256"]) for name, expected in listed}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError(f"checkpoint {path}: {MANIFEST} is missing or damaged") from None
    for name in required:
        if name not in files:
            raise ValueError(f"checkpoint {path}: {name} is missing, in {MANIFEST} too")
    for name, (size, sha256) in files.items():
        try:
            fault = _find_fault(path / name, size, sha256)
        except OSError as error:
            fault = f"cannot be read, {error.strerror}"
        if fault is not None:
            raise ValueError(f"checkpoint {path}: {name} {fault}")


def _find_fault(file: Path, size: int, sha256: str) -> str | None:
    if not file.is_file():
        return "is missing"
    if file.stat().st_size != size:
        return f"has {file.stat().st_size} bytes instead of {size}"
    if sha256_of(file) != sha256:
        return "has changed since it was saved"
    if file.suffix == ".safetensors":
        try:
            with safe_open(file, framework="numpy"):
                pass
        except SafetensorError:
            return "is not in the safetensors format, and no other is read"
    return None


def choose_checkpoint(folder: RunFolder, resume: str, required: tuple[str, ...] = REQUIRED) -> Path | None:
    """Find the checkpoint that `--resume` names, and verify it; None = start from the beginning.

    `resume` is `none`, `auto` (the newest whole checkpoint, if any was ever saved), `latest` or the path of a checkpoint.
    `ValueError`: `none` with a folder that is not empty, `latest` without a checkpoint, a damaged one (with `auto`: all
    are), or one of another run although this run has its own.
    """
    path = folder.path
    if path.exists() and not path.is_dir():
        raise ValueError(f"--output_dir is {str(path)!r}: that is a file, name a folder")
    if resume == "none":
        if path.exists() and any(path.iterdir()):
            remedy = "continue its run with --resume auto or name a new folder"
            raise ValueError(f"--output_dir is {str(path)!r}: not empty, {remedy}")
        return None
    if resume == "auto":
        return _newest_whole_checkpoint(folder, required)
    if resume == "latest":
        if (newest := folder.last_checkpoint()) is None:
            raise ValueError(f"--resume is 'latest': {path} has no checkpoint, start with --resume auto or none")
        return _checked(newest, resume, required)
    if not Path(resume).is_dir():
        raise ValueError(f"--resume is {resume!r}: no such checkpoint folder; also possible: none, auto, latest")
    own = [checkpoint.resolve() for checkpoint in folder.checkpoints().values()]
    if own and Path(resume).resolve() not in own:  # the run would remove its own checkpoints of later steps
        remedy = "name another --output_dir or one of these"
        raise ValueError(f"--resume is {resume!r}: {path} has checkpoints of its own, {remedy}")
    return _checked(Path(resume), resume, required)


def _newest_whole_checkpoint(folder: RunFolder, required: tuple[str, ...]) -> Path | None:
    checkpoints = list(folder.checkpoints().values())
    for path in reversed(checkpoints):
        try:
            verify_checkpoint(path, required)
        except ValueError as error:
            logger.warning("%s; trying the checkpoint before it", error)
        else:
            return path
    if checkpoints:
        raise ValueError(
            f"--resume is 'auto': {folder.path} has {len(checkpoints)} checkpoints and all are damaged, "
            "restore one or name a new --output_dir"
        )
    return None


def _checked(path: Path, resume: str, required: tuple[str, ...]) -> Path:
    try:
        verify_checkpoint(path, required)
    except ValueError as error:
        raise ValueError(f"--resume is {resume!r}: {error}; --resume auto takes the newest whole one") from None
    return path


def _flush(path: Path) -> None:
    """Force the content of a file or directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    """Remove a checkpoint: rename it first, as its files go one by one."""
    removed = path.parent / f".{path.name}.removed"
    shutil.rmtree(removed, ignore_errors=True)
    path.rename(removed)
    shutil.rmtree(removed)


def _remove_leftovers(folder: RunFolder) -> None:
    """Remove what a killed process was writing, replacing or removing."""
    for leftover in folder.checkpoint(0).parent.glob(f".{PREFIX}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _write_failure(path: Path, size: int, error: Exception) -> str:
    """The message about a directory that could not be written, after `size` bytes of it."""
    folder = next(parent for parent in path.absolute().parents if parent.is_dir())
    needed = max([size, *(_size_of(sibling) for sibling in path.parent.glob(f"{PREFIX}*"))])
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())
    return (
        f"{path} cannot be written, {reason}: it takes at least {needed:,} bytes and {shutil.disk_usage(folder).free:,} are "
        "free. What was saved before is still there: fix this and continue with --resume auto"
    )


def _size_of(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
