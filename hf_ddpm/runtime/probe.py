"""Time several ways to do the same in turn, and choose: `choose(time_in_turn({1: one, 2: other}, seconds=2).relative())`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

MARGIN = 1.15
"""A preferred candidate may take this many times as long as the fastest, so that noise does not decide between equals."""
GIVE_UP, PATIENCE = 6.0, 0.25
"""A candidate whose first call takes this many times as long as the quickest one's, and this many seconds, is not called
again."""


@dataclass(frozen=True)
class Timings(Generic[Key]):
    """How long each candidate took, round by round, in the order in which candidates are preferred."""

    seconds: dict[Key, list[float]]
    """Seconds of each round; of a candidate that was given up, those of its first call."""

    def relative(self) -> dict[Key, float]:
        """How many times as long as the first candidate each takes: medians over rounds, as the machine's speed drifts."""
        first = next(iter(self.seconds.values()))
        return {
            key: statistics.median(mine / its for mine, its in zip(values, first, strict=False))
            for key, values in self.seconds.items()
        }


def choose(relative: Mapping[Key, float], margin: float = MARGIN) -> Key:
    """The first candidate that takes at most `margin` times as long as the fastest, given times relative to one."""
    limit = margin * min(relative.values())
    return next(key for key, value in relative.items() if value <= limit)


def time_in_turn(
    candidates: Mapping[Key, Callable[[], object]],
    *,
    seconds: float,
    rounds: int = 9,
    clock: Callable[[], float] = time.perf_counter,
) -> Timings[Key]:
    """Call each candidate in turn and time it.

    The first calls warm up: kernels are chosen and memory is allocated. They count only for candidates that are given up.

    Args:
        candidates: what to call, in the order of preference.
        seconds: no round begins later than this after the start, but for the first one that is timed.
        rounds: the most rounds that are timed.
        clock: the time in seconds.
    """

    def call(key: Key) -> float:
        before = clock()
        candidates[key]()
        return clock() - before

    call(next(iter(candidates)))  # what the very first call does once for all is no fault of this candidate
    started = clock()
    first_calls = {key: call(key) for key in candidates}
    limit = max(GIVE_UP * min(first_calls.values()), PATIENCE)
    timed: dict[Key, list[float]] = {key: [] for key in candidates if first_calls[key] <= limit}
    for number in range(rounds if len(timed) > 1 else 1):
        if number > 0 and clock() - started > seconds:
            break
        for key, values in timed.items():
            values.append(call(key))
    return Timings({key: timed.get(key, [first_calls[key]]) for key in candidates})
