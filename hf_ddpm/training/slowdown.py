"""Notice that the steps of a run have become slow, and say what would help."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from accelerate import PartialState

from hf_ddpm.markdown import counted
from hf_ddpm.runtime.probe import choose
from hf_ddpm.runtime.threads import available_threads
from hf_ddpm.training.tuning import Trial, Tuning, compare_thread_counts

WARM_UP, WINDOW = 3, 20
"""Steps that are not counted, in which kernels are chosen, and steps whose median is compared."""
MUCH = 2.0
"""How many times as long as at the start steps take when a warning is due."""
GAIN = 1.3
"""How many times as fast another number of threads has to be in order to be recommended."""


class StepWatch:
    """Compares the steps of a run with its first ones."""

    def __init__(self) -> None:
        self._seconds: list[float] = []
        self._at_start: float | None = None

    def add(self, seconds: float) -> float | None:
        """Note a step; how many times as long as at the start steps take by now if that is much for the first time, else
        None."""
        self._seconds.append(seconds)
        if self._at_start is None:
            if len(self._seconds) == WARM_UP + WINDOW:
                self._at_start = statistics.median(self._seconds[WARM_UP:])
                self._seconds = []
            return None
        if len(self._seconds) < WINDOW:
            return None
        times, self._seconds = statistics.median(self._seconds) / self._at_start, []
        if times < MUCH:
            return None
        self._at_start = float("inf")  # one warning is enough
        return times


def describe_slowdown(
    times: float, tuning: Tuning, build_trial: Callable[[torch.device], Trial], processes: PartialState
) -> str:
    """Say how much slower steps are than at the start and, by timing some again, whether another number of threads helps.

    Several processes would have to measure at the same time, so that for them it is left open.
    """
    slower = f"steps take {times:.1f} times as long as at the start"
    most, now = available_threads(), tuning.num_threads
    if processes.device.type != "cpu" or now == most == 1:
        return f"{slower}: other programs may be using the machine"
    if processes.num_processes > 1:
        may_help = "" if now == 1 else "; fewer threads suffer less, --num_threads 1 when the run is resumed may help"
        return f"{slower}: other programs may be using the machine{may_help}"
    way = (tuning.mixed_precision, tuning.memory_format)
    with torch.random.fork_rng(devices=[]):
        relative = compare_thread_counts(build_trial(processes.device), way, max(most, now))
    best = choose(relative)
    gain = relative.get(now, max(relative.values())) / relative[best]  # so few that they were not timed are slower still
    if best == now or gain < GAIN:
        return f"{slower}: other programs may be using the machine; another number of threads would not help"
    remedy = f"stop the run and add --resume auto --num_threads {best}"
    return f"{slower}, and with {counted(best, 'thread')} would now be {gain:.1f} times as fast: {remedy}"
