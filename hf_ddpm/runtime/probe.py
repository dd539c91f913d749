"""Time several ways to do the same in turn, and choose: `choose(time_in_turn({1: one, 2: other}, seconds=2).relative())`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
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


class Rotation(Generic[Key]):
    """Candidates that take turns: call the one whose `turn` it is and `add` its seconds, until `done`.

    Their first calls warm up: kernels are chosen and memory is allocated. They are counted for candidates that are given up
    after them, see `GIVE_UP`, and for no others.
    """

    def __init__(self, candidates: Iterable[Key], rounds: int) -> None:
        """Take candidates in the order of preference, and how often each is timed after its first call."""
        self._first: dict[Key, float] = {}
        self._kept = self._all = list(candidates)
        self._seconds: dict[Key, list[float]] = {}
        self._rounds, self._queue = rounds, list(self._kept)

    @property
    def turn(self) -> Key:
        """The candidate to call next."""
        return self._queue[0]

    @property
    def between_rounds(self) -> bool:
        """Whether each candidate has been timed equally often."""
        return len(self._queue) == len(self._kept) and bool(self._seconds)

    @property
    def done(self) -> bool:
        """Whether every round has been timed, or one candidate is left."""
        counts = [len(self._seconds.get(key, ())) for key in self._kept]
        return bool(self._first) and (min(counts) >= self._rounds or (len(counts) == 1 and counts[0] > 0))

    def add(self, seconds: float) -> None:
        """Note how long the call of the candidate whose turn it was took."""
        key = self._queue.pop(0)
        if key in self._first:
            self._seconds.setdefault(key, []).append(seconds)
        else:
            self._first[key] = seconds
        if not self._queue:
            quickest = min(self._first.values())
            self._kept = [key for key in self._all if self._first[key] <= max(GIVE_UP * quickest, PATIENCE)]
            self._queue = list(self._kept)

    def timings(self) -> Timings[Key]:
        """What has been timed so far, at least one round."""
        return Timings({key: self._seconds.get(key, [self._first[key]]) for key in self._all})


def time_in_turn(
    candidates: Mapping[Key, Callable[[], object]],
    *,
    seconds: float,
    rounds: int = 9,
    clock: Callable[[], float] = time.perf_counter,
) -> Timings[Key]:
    """Call each candidate in turn and time it.

    Args:
        candidates: what to call, in the order of preference; the first is also called once more before all others.
        seconds: no round begins later than this after the start, but for the first one that is timed.
        rounds: the most rounds that are timed.
        clock: the time in seconds.
    """
    rotation, started = Rotation(candidates, rounds), clock()
    candidates[rotation.turn]()  # what the first call of all does once is no fault of the candidate
    while not rotation.done and not (rotation.between_rounds and clock() - started > seconds):
        before = clock()
        candidates[rotation.turn]()
        rotation.add(clock() - before)
    return rotation.timings()
