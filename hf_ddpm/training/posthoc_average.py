"""Make an average of the weights of any length after the training: `write_average(RunFolder("runs/a"), 0.08, folder)`.

The snapshots that `hf_ddpm.training.power_average` keeps are combined so that each training step has nearly the weight that
it has in the wanted average (Karras et al. 2024, section 3.2, algorithm 3 and appendix C).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from hf_ddpm.pipeline import require
from hf_ddpm.run_folder import RunFolder
from hf_ddpm.runtime.files import remove
from hf_ddpm.runtime.folders import publish_directory
from hf_ddpm.runtime.lock import OutputLock, is_free
from hf_ddpm.runtime.progress import Progress
from hf_ddpm.runtime.reading import read_json
from hf_ddpm.sampling import load_pipeline, network_of
from hf_ddpm.text import one_line
from hf_ddpm.training.power_average import LONGEST, TRACKED, gamma_of, tensor_name

RECORD = "average.json"
"""File beside an averaged pipeline, `AverageRecord` as JSON."""
MAX_ERROR = 0.1
"""Largest error of an average that is made."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Combination:
    """How snapshots are combined."""

    factors: Array
    """(N, 2) float64: of each snapshot and each length in TRACKED; their sum is 1."""
    error: float
    """Root mean square of the error of the weights of the training steps, as a fraction of that of these weights."""


@dataclass(frozen=True, kw_only=True)
class AverageRecord:
    """What an averaged pipeline is."""

    sigma_rel: float
    """Length."""
    step: int
    """Optimizer step at which the average ends."""
    snapshots: list[int]
    """Optimizer steps of the snapshots that it is made from."""
    error: float
    """See `Combination`."""


def combine(steps: Sequence[int], step: int, sigma_rel: float) -> Combination:
    """Combine the snapshots of these optimizer steps, the last one at `step`, to an average of a length in (0, LONGEST)."""
    times = np.repeat(np.array(steps, np.float64), len(TRACKED))
    gammas = np.tile([gamma_of(length) for length in TRACKED], len(steps))
    wanted = gamma_of(sigma_rel)
    among = _profile_product(times[:, None], gammas[:, None], times, gammas)
    with_wanted, own = _profile_product(times, gammas, step, wanted), float(_profile_product(step, wanted, step, wanted))
    # Least squares of profiles (algorithm 3), on the condition that the factors sum to 1, as the network must not shrink
    # with the error. `own` gives the condition the scale of the other rows.
    ones = np.full((len(times), 1), own)
    system = np.block([[among, ones], [ones.T, np.zeros((1, 1))]])
    factors = np.linalg.solve(system, np.append(with_wanted, own))[:-1]
    squared = factors @ among @ factors - 2 * factors @ with_wanted + own
    return Combination(factors=factors.reshape(-1, len(TRACKED)), error=float(np.sqrt(max(0.0, squared) / own)))


def _profile_product(t_a: Any, gamma_a: Any, t_b: Any, gamma_b: Any) -> Array:
    """Inner products of profiles: the integral of p_a(t) p_b(t), where p(t) is proportional to t ** gamma up to its end."""
    ratio, exponent, end = t_a / t_b, np.where(t_a < t_b, gamma_b, -gamma_a), np.maximum(t_a, t_b)
    return (gamma_a + 1) * (gamma_b + 1) * ratio**exponent / ((gamma_a + gamma_b + 1) * end)


def choose_snapshots(run: RunFolder, sigma_rel: float, step: int | None = None) -> tuple[dict[int, Path], Combination]:
    """The snapshots, by optimizer step, for an average of this length, and how they are combined.

    `step` is that of the snapshot at which the average ends; None = the newest. A `ValueError` says what is not possible.
    """
    there = run.snapshots()
    if not there:
        raise ValueError(f"{run.path} has no snapshots of averages: train with --ema.snapshot_every_steps to keep them")
    require(step is None or step in there, "step", step, f"there are snapshots at {', '.join(map(str, there))}")
    end = max(there) if step is None else step
    used = {at: path for at, path in there.items() if at <= end}
    require(
        0 < sigma_rel < LONGEST,
        "sigma_rel",
        sigma_rel,
        f"give a number above 0, below {LONGEST:.4f} (the mean of all steps)",
    )
    combination = combine(list(used), end, sigma_rel)
    if combination.error > MAX_ERROR:
        possible = [
            length for length in np.arange(0.005, LONGEST, 0.005) if combine(list(used), end, length).error <= MAX_ERROR
        ]
        few = f"{len(used)} snapshots give lengths from {min(possible):.3g} to {max(possible):.3g}"
        remedy = f"{few}, give one of these, or train with more snapshots"
        raise ValueError(f"sigma_rel is {sigma_rel!r}: {remedy}")
    return used, combination


def write_average(run: RunFolder, sigma_rel: float, folder: Path, step: int | None = None) -> AverageRecord:
    """Publish a pipeline whose weights are the average of this length in a new or empty folder; see `choose_snapshots`."""
    snapshots, combination = choose_snapshots(run, sigma_rel, step)
    record = AverageRecord(
        sigma_rel=sigma_rel, step=max(snapshots), snapshots=list(snapshots), error=round(combination.error, 6)
    )
    with OutputLock(folder, option="output_dir", file_name=folder.name) as lock:
        lock.take(partial(_check_free, folder))
        pipeline = load_pipeline(str(_trained_model(run)), device="cpu")
        with Progress("averaging"):
            load_average(network_of(pipeline), snapshots, combination)

        def write(partial_folder: Path) -> None:
            pipeline.save_pretrained(partial_folder)
            (partial_folder / RECORD).write_text(json.dumps(asdict(record), indent=1) + "\n", encoding="utf-8")

        publish_directory(folder, write)
    return record


def average_of_run(run: RunFolder, sigma_rel: float) -> Path:
    """The folder of the average of this length up to the newest snapshot of a run, made unless it is there already."""
    folder = run.average(sigma_rel)
    snapshots, _ = choose_snapshots(run, sigma_rel)
    if (folder / RECORD).is_file():
        record = read_json(folder / RECORD)
        if isinstance(record, dict) and (record.get("sigma_rel"), record.get("step")) == (sigma_rel, max(snapshots)):
            return folder
        remove(folder)  # of an earlier state of the run
    write_average(run, sigma_rel, folder)
    return folder


def load_average(network: torch.nn.Module, snapshots: dict[int, Path], combination: Combination) -> None:
    """Give a network the combined weights; what it has besides weights stays. A `ValueError` names a damaged snapshot.

    The sum is in float64, and one snapshot at a time is in memory.
    """
    weights = dict(network.named_parameters())
    sums = {name: torch.zeros_like(weight, dtype=torch.float64) for name, weight in weights.items()}
    for path, factors in zip(snapshots.values(), combination.factors.tolist(), strict=True):
        tensors = _read_snapshot(path, weights)
        for length, factor in zip(TRACKED, factors, strict=True):
            for name, total in sums.items():
                total.add_(tensors[tensor_name(length, name)].double(), alpha=factor)
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(sums[name])


def _read_snapshot(path: Path, weights: dict[str, torch.nn.Parameter]) -> dict[str, Tensor]:
    """The tensors of a snapshot of a network with these weights."""
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is damaged, remove it: {one_line(error, 200)}") from error
    for length in TRACKED:
        for name, weight in weights.items():
            tensor = tensors.get(tensor_name(length, name))
            if tensor is None or tensor.shape != weight.shape or not torch.isfinite(tensor).all():
                raise ValueError(f"{path} is damaged, remove it: {name} is not one of this network, or not finite")
    return tensors


def _trained_model(run: RunFolder) -> Path:
    """A model of the run, which gives everything but the weights."""
    model = run.pipeline if run.pipeline.is_dir() else run.last_checkpoint()
    if model is None:
        raise ValueError(f"{run.path} has neither a pipeline nor a checkpoint yet: wait for one")
    return model


def _check_free(folder: Path) -> None:
    require(is_free(folder), "output_dir", str(folder), "give a new or an empty folder")
