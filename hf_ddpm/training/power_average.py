"""Moving averages from which one of any length is made after the training (Karras et al. 2024, section 3).

A step t has a weight proportional to t ** gamma in such an average, so that its length grows with the training: sigma_rel is
the standard deviation of the steps as a fraction of their number. `PowerAverages` follows the weights with two lengths,
`write_snapshot` keeps both now and then, and `hf_ddpm.training.posthoc_average` combines what was kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from hf_ddpm.run_folder import PREFIX, RunFolder
from hf_ddpm.runtime.files import write_whole

TRACKED = (0.05, 0.1)
"""sigma_rel of the averages that are kept while training: those of the paper."""
LONGEST = 1 / math.sqrt(12)
"""sigma_rel of the mean of all steps, in which gamma is 0."""


def gamma_of(sigma_rel: float) -> float:
    """The exponent gamma of a length sigma_rel in (0, LONGEST)."""
    # Karras et al. 2024, algorithm 2: sigma_rel = (gamma + 1)^(1/2) (gamma + 2)^-1 (gamma + 3)^(-1/2).
    return float(np.roots([1, 7, 16 - sigma_rel**-2, 12 - sigma_rel**-2]).real.max())


class PowerAverages:
    """Running averages of the weights, one for each length."""

    def __init__(self, weights: Mapping[str, Tensor], lengths: Sequence[float] = TRACKED) -> None:
        """`weights` are by name, and `lengths` in units of sigma_rel."""
        self._gammas = {length: gamma_of(length) for length in lengths}
        self._averages = {length: {name: it.detach().clone() for name, it in weights.items()} for length in lengths}

    @torch.no_grad()
    def update(self, weights: Mapping[str, Tensor], step: int) -> None:
        """Let the averages follow the weights of an optimizer step, counted from 1."""
        for length, average in self._averages.items():
            # Karras et al. 2024, section 3.1: beta(t) = (1 - 1 / t)^(gamma + 1).
            beta = (1 - 1 / step) ** (self._gammas[length] + 1)
            torch._foreach_lerp_(list(average.values()), [weights[name] for name in average], 1 - beta)

    def tensors(self) -> dict[str, Tensor]:
        """The averages themselves, float32 on their device, under the names of `tensor_name`."""
        return {
            tensor_name(length, name): tensor
            for length, average in self._averages.items()
            for name, tensor in average.items()
        }


def tensor_name(length: float, weight: str) -> str:
    """Name of the average of a weight in a file."""
    return f"{length}/{weight}"


def write_snapshot(averages: PowerAverages, folder: RunFolder, step: int, distance: int) -> None:
    """Keep the averages of an optimizer step in float32; remove those of later steps, and those not at `distance` steps.

    Float16 would have half the size, and an error up to 200 times as large (`tests/benchmarks/posthoc_average.py`).

    What is there then is a function of the step, so that a run that was killed and resumed has the same snapshots.
    """
    tensors = {name: it.cpu().contiguous() for name, it in averages.tensors().items()}
    write_whole(folder.snapshot(step), save(tensors))
    for kept, path in folder.snapshots().items():
        if kept > step or (kept < step and kept % distance):
            path.unlink()
    for leftover in folder.snapshot(step).parent.glob(f".{PREFIX}*"):  # of a killed process
        leftover.unlink()
