"""Checkpoint directories: complete or absent, never half-written, and never a pickle.

A checkpoint is written under a temporary name, with `manifest.json` last, and flushed to the disk; then one rename publishes
it (`publish_directory`). Old checkpoints are removed after that, renamed first. So whatever has the name of a checkpoint is
whole, and the one that a run was resumed from stays until a later one is.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Container
from pathlib import Path

from safetensors import SafetensorError, safe_open

from hf_ddpm.run_folder import PREFIX, STATE, RunFolder, find_name_fault
from hf_ddpm.runtime.files import is_file_within, remove, sha256_of
from hf_ddpm.runtime.folders import put_back
from hf_ddpm.runtime.lock import file_in_the_way, is_free
from hf_ddpm.runtime.reading import read_json

MANIFEST = "manifest.json"
UNET_WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
# Files needed to resume any run, and a diffusion run.
TRAINING_FILES = (STATE, "training/model.safetensors", "training/optimizer.safetensors")
REQUIRED = (*TRAINING_FILES, UNET_WEIGHTS)

logger = logging.getLogger(__name__)


class DamagedCheckpoint(ValueError):
    """A checkpoint that cannot be continued; `--resume auto` takes the one before it."""

    def __init__(self, path: Path, fault: str) -> None:
        super().__init__(f"checkpoint {path}: {fault}")


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


def drop_checkpoints_after(folder: RunFolder, step: int, *, but: int | None = None) -> list[Path]:
    """Remove the checkpoints of steps that are repeated and what a killed run left; return the removed checkpoints.

    That of the step `but`, which has been repeated, stays; None = there is none.
    """
    dropped = [path for saved_step, path in folder.checkpoints().items() if saved_step > step and saved_step != but]
    for path in reversed(dropped):
        _remove(path)
    _remove_leftovers(folder)
    return dropped


def verify_checkpoint(path: Path, required: tuple[str, ...] = REQUIRED) -> None:
    """Check required files, manifest, safetensors format and name, ignoring unlisted files.

    A `DamagedCheckpoint` names the bad file. Only regular files within the checkpoint are opened.
    """
    try:
        if not is_file_within(path, MANIFEST):
            raise ValueError
        listed = read_json(path / MANIFEST)["files"].items()
        files = {name: (expected["size"], expected["sha256"]) for name, expected in listed}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise DamagedCheckpoint(path, f"{MANIFEST} is missing or damaged") from None
    for name in required:
        if name not in files:
            raise DamagedCheckpoint(path, f"{name} is missing, in {MANIFEST} too")
    for name, (size, sha256) in files.items():
        try:
            fault = _find_fault(path, name, size, sha256)
        except OSError as error:
            fault = f"cannot be read, {error.strerror}"
        if fault is not None:
            raise DamagedCheckpoint(path, f"{name} {fault}")
    if (fault := find_name_fault(path)) is not None:
        raise DamagedCheckpoint(path, fault)


def _find_fault(checkpoint: Path, name: str, size: int, sha256: str) -> str | None:
    file = checkpoint / name
    if not is_file_within(checkpoint, name):
        return "is no regular file in this folder" if os.path.lexists(file) else "is missing"
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


def choose_checkpoint(
    folder: RunFolder, resume: str, required: tuple[str, ...] = REQUIRED, damaged: Container[Path] = ()
) -> Path | None:
    """Find the checkpoint that `--resume` names, and verify it; None = start from the beginning.

    `resume` is `none`, `auto` (the newest whole checkpoint, if any was ever saved), `latest` or the path of a checkpoint.
    `damaged` are checkpoints that `auto` passes over.
    `ValueError`: `none` with a folder that is not empty, `latest` without a checkpoint, a damaged one (with `auto`: all
    are), or one of another run although this run has its own.
    """
    check_start(folder, resume)
    if resume == "none":
        return None
    if resume == "auto":
        return _newest_whole_checkpoint(folder, required, damaged)
    if resume == "latest":
        newest = folder.last_checkpoint()
        assert newest is not None, "check_start demands it"
        return _checked(newest, resume, required)
    own = {checkpoint.resolve(): checkpoint for checkpoint in folder.checkpoints().values()}
    if own and Path(resume).resolve() not in own:  # the run would remove its own checkpoints of later steps
        remedy = "name another --output_dir or one of these"
        raise ValueError(f"--resume is {resume!r}: {folder.path} has checkpoints of its own, {remedy}")
    return _checked(own.get(Path(resume).resolve(), Path(resume)), resume, required)


def check_start(folder: RunFolder, resume: str) -> None:
    """Refuse what no look into a checkpoint is needed for: a folder in use, or nothing to resume from."""
    path = folder.path
    if (blocker := file_in_the_way(path)) is not None:
        raise ValueError(f"--output_dir is {str(path)!r}: {blocker} is a file, name a folder")
    if resume == "none":
        if not is_free(path):
            remedy = "continue its run with --resume auto or name a new folder"
            raise ValueError(f"--output_dir is {str(path)!r}: not empty, {remedy}")
        return
    _check_place(folder)
    for replaced in folder.checkpoint(0).parent.glob(f".{PREFIX}*.replaced"):
        put_back(replaced.with_name(replaced.stem.removeprefix(".")))
    if resume == "latest":
        if folder.last_checkpoint() is None:
            raise ValueError(f"--resume is 'latest': {path} has no checkpoint, start with --resume auto or none")
    elif resume != "auto" and not Path(resume).is_dir():
        raise ValueError(f"--resume is {resume!r}: no such checkpoint folder; also possible: none, auto, latest")
    elif resume != "auto" and (last := RunFolder(Path(resume)).last_checkpoint()) is not None:
        raise ValueError(f"--resume is {resume!r}: this is a run directory, give one of its checkpoints, such as {last}")


def _check_place(folder: RunFolder) -> None:
    """Refuse a run folder whose checkpoints, pictures or snapshots are, by a link, those of another run."""
    for link in (folder.checkpoint(0).parent, folder.sample_grid(0).parent, folder.snapshot(0).parent):
        owner = RunFolder(link.resolve().parent)
        if link.is_symlink() and owner.config.is_file() and owner.path != folder.path.resolve():
            what = f"by a link its {link.name} are those of {owner.path}, remove it"
            raise ValueError(f"--output_dir is {str(folder.path)!r}: {what}")


def _newest_whole_checkpoint(folder: RunFolder, required: tuple[str, ...], damaged: Container[Path]) -> Path | None:
    checkpoints = list(folder.checkpoints().values())
    for path in reversed(checkpoints):
        if path in damaged:
            continue
        try:
            verify_checkpoint(path, required)
        except DamagedCheckpoint as error:
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
    except DamagedCheckpoint as error:
        raise ValueError(f"--resume is {resume!r}: {error}; --resume auto takes the newest whole one") from None
    return path


def _remove(path: Path) -> None:
    """Remove a checkpoint: rename it first, as its files go one by one. Of a link the target stays."""
    removed = path.parent / f".{path.name}.removed"
    remove(removed)
    path.rename(removed)
    remove(removed)


def _remove_leftovers(folder: RunFolder) -> None:
    """Remove what a killed process was writing, replacing or removing."""
    for leftover in folder.checkpoint(0).parent.glob(f".{PREFIX}*"):
        with contextlib.suppress(OSError):
            remove(leftover)
