"""CPU threads of this process: how many it may use, and how many are worth it while a network computes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import torch

from hf_ddpm.runtime.probe import Rotation, choose

ROUNDS = 3
"""Calls of a network with each number of threads, after a first one, before the number is chosen."""


def available_threads() -> int:
    """This process's share of the cores that the processes of a launcher on this machine may use, at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def thread_counts(most: int) -> list[int]:
    """Numbers of threads to try: powers of two up to `most`, and `most`. Fewer come first, as others slow them less."""
    return sorted({2**power for power in range(most.bit_length())} | {most})


def choose_threads_in_use(network: torch.nn.Module, clock: Callable[[], float] = time.perf_counter) -> None:
    """Let the next calls of a network try numbers of threads in turn, and keep the best of them afterwards.

    That costs no time of its own. Results are rounded differently with another number of threads.
    """
    counts = thread_counts(available_threads())
    if len(counts) == 1 or next(network.parameters()).device.type != "cpu":
        return
    rotation, started = Rotation(counts, ROUNDS), 0.0

    def before(*_: object) -> None:
        nonlocal started
        torch.set_num_threads(rotation.turn)
        started = clock()

    def after(*_: object) -> None:
        rotation.add(clock() - started)
        if rotation.done:
            for hook in hooks:
                hook.remove()
            torch.set_num_threads(choose(rotation.timings().relative()))

    hooks = [network.register_forward_pre_hook(before), network.register_forward_hook(after)]
