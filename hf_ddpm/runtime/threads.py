"""CPU threads of this process: how many it may use, and how many are worth it while a network computes."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hf_ddpm.runtime.probe import choose, time_in_turn

ROUNDS = 3
"""Calls of a network in use with each number of threads, after a first one, which is not counted."""
MUCH = 1.4
"""Where this many times as long is taken, still fewer threads are not tried."""


def available_threads() -> int:
    """This process's share of the cores that the processes of a launcher on this machine may use, at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def thread_counts(most: int) -> list[int]:
    """Numbers of threads to try: powers of two up to `most`, and `most`. Fewer come first, as others slow them less."""
    return sorted({2**power for power in range(most.bit_length())} | {most})


def compare_threads(
    step: Callable[[], object], most: int, *, seconds: float, clock: Callable[[], float] = time.perf_counter
) -> dict[int, float]:
    """How many times as long as with `most` threads a step takes with fewer, the fewest first.

    Half as many are tried again and again until that is much slower. Each comparison takes about `seconds`; with one thread,
    on a machine of many cores, a single step could take longer than all of them.
    """
    before = torch.get_num_threads()

    def with_threads(count: int) -> None:
        torch.set_num_threads(count)
        step()

    more, *fewer = reversed(thread_counts(most))
    relative = {more: 1.0}
    for count in fewer:
        candidates = {it: partial(with_threads, it) for it in (more, count)}
        relative[count] = relative[more] * time_in_turn(candidates, seconds=seconds, clock=clock).relative()[count]
        if relative[count] > MUCH * min(relative.values()):
            break
        more = count
    torch.set_num_threads(before)
    return dict(sorted(relative.items()))


def choose_threads_in_use(network: torch.nn.Module, clock: Callable[[], float] = time.perf_counter) -> None:
    """Let the next calls of a network use fewer and fewer threads until that is much slower, then the best number.

    That costs no time of its own. Results are rounded differently with another number of threads. The first argument of the
    network is a batch.
    """
    left = thread_counts(available_threads())
    if len(left) == 1 or next(network.parameters()).device.type != "cpu":
        return
    seconds: dict[int, list[float]] = {}
    started = 0.0
    torch.set_num_threads(left[-1])

    def before(*_: Any) -> None:
        nonlocal started
        started = clock()

    def after(_: torch.nn.Module, arguments: tuple[Tensor, ...], __: Any) -> None:
        values = seconds.setdefault(left[-1], [])
        values.append((clock() - started) / len(arguments[0]))
        if len(values) <= ROUNDS:
            return
        medians = {count: statistics.median(seconds[count][1:]) for count in sorted(seconds)}
        is_much_slower = medians[left.pop()] > MUCH * min(medians.values())
        torch.set_num_threads(choose(medians) if is_much_slower or not left else left[-1])
        if is_much_slower or not left:
            for hook in hooks:
                hook.remove()

    hooks = [network.register_forward_pre_hook(before), network.register_forward_hook(after)]
