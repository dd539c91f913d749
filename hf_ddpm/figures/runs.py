"""What a run folder holds of its training, by optimizer step: checkpoints, and the grids of samples it has saved."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hf_ddpm.config import require


def checkpoint_folders(run: Path, steps: Sequence[int] | None = None) -> dict[int, Path]:
    """The checkpoints of a run, oldest first.

    Args:
        run: run folder.
        steps: those that are meant; None = all.

    Returns:
        Folder of a pipeline by optimizer step.

    Raises:
        ValueError: there is no such run, or none of these checkpoints.
    """
    _check_run(run)
    found = {_step(path): path for path in (run / "checkpoints").glob("step-*") if (path / "model_index.json").is_file()}
    return _chosen(run, found, steps, "checkpoint")


def saved_grids(run: Path, steps: Sequence[int] | None = None) -> dict[int, Path]:
    """The pictures of samples that a run has saved, with the same seeds and labels every time.

    Args:
        run: run folder.
        steps: those that are meant; None = all.

    Returns:
        PNG file by optimizer step, oldest first.

    Raises:
        ValueError: there is no such run, or none of these pictures.
    """
    _check_run(run)
    found = {_step(path): path for path in (run / "samples").glob("step-*.png")}
    return _chosen(run, found, steps, "picture in samples")


def _check_run(run: Path) -> None:
    require(run.is_dir(), "run", str(run), "there is no such folder")
    is_run = any((run / name).is_dir() for name in ("checkpoints", "samples"))
    require(is_run, "run", str(run), "this is no run folder, it holds neither checkpoints nor samples")


def _step(path: Path) -> int | None:
    number = path.stem.removeprefix("step-")
    return int(number) if number.isdecimal() else None


def _chosen(run: Path, found: dict[int | None, Path], steps: Sequence[int] | None, what: str) -> dict[int, Path]:
    found = {step: found[step] for step in sorted(found.keys() - {None})}
    require(len(found) > 0, "run", str(run), f"it holds no {what}")
    if steps is None:
        return found
    for step in steps:
        require(step in found, "checkpoints", step, f"{run} holds no such {what}, give some of {', '.join(map(str, found))}")
    return {step: found[step] for step in sorted(set(steps))}
