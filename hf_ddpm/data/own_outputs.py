"""Recognize what the programs of this package write, which must not become data where it lies in a folder of images."""

from __future__ import annotations

import re
from pathlib import Path

from hf_ddpm.run_folder import RunFolder

# Names of the files of hf_ddpm.sample_folder and hf_ddpm.editing.edit_folder.
_SAMPLE = re.compile(r"\d{5,}(_(label|of)-[\w-]+)?_(seed-\d+|weight-[\d.]+)\.(png|npy)")
_GRID, _GRID_BESIDE, _ARRAYS = "grid.png", "-grid.png", "samples.npz"
"""A grid is beside its folder, as in images-grid.png; that of earlier versions is in it."""
_RUN = {"config.yaml", "environment.json", "data.json", "metrics.jsonl"}
_RUN |= {"checkpoints", "samples", "pipeline", "judge", "results", "trackers"}


def written_entries(folder: Path, names: set[str]) -> tuple[str, set[str]]:
    """Which of the entries of a folder a training run, a sweep or `save_pretrained` wrote, and what they are together."""
    if "model_index.json" in names:
        return "saved models", names
    if {"sweep.yaml", "cells"} <= names:
        return "sweeps", names
    if "config.yaml" in names and RunFolder(folder).was_started:
        return "run folders", names & _RUN
    return "", set()


def find_samples(images: list[Path], others: list[Path]) -> list[Path]:
    """Images that hf-ddpm sample wrote; where there are no others, only its grids, so that one can train on samples."""
    samples = {path for path in images if _SAMPLE.fullmatch(path.name)}
    folders = {path.parent for path in samples} | {path.parent for path in others if path.name == _ARRAYS}
    beside = {folder.with_name(f"{folder.name}{_GRID_BESIDE}") for folder in folders if folder.name}
    grids = {path for path in images if path in beside or (path.name == _GRID and path.parent in folders)}
    found = grids if len(samples | grids) == len(images) else samples | grids
    return [path for path in images if path in found]
