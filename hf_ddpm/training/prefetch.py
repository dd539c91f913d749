"""Prepare the next batch of a run in a thread while the network computes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

import torch

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Place:
    """The place of a micro-batch in a run."""

    step: int
    """Optimizer steps before its own."""
    micro_step: int
    """Micro-steps of its step before its own."""
    images_seen: int
    """Images of all processes in the steps before its own."""


class Prefetch(Generic[Batch]):
    """Batches in the order of their places, one prepared ahead, all of them by one thread, which lives until `close`.

    Torch's own operations on large tensors would start as many threads in it as those that compute the network: what it does
    with pixels it does in NumPy.
    """

    def __init__(
        self, prepare: Callable[[Place], Batch], following: Callable[[Place], Place | None], device: torch.device
    ) -> None:
        """`prepare` makes the batch of a place; `following` is the place after it, None = the run ends there."""
        self._prepare, self._following = prepare, following
        # A new thread would pin memory for the first device.
        use_device = partial(torch.cuda.set_device, torch.cuda.current_device()) if device.type == "cuda" else None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prefetch", initializer=use_device)
        self._ahead: tuple[Place, Future[Batch]] | None = None

    def take(self, place: Place) -> Batch:
        """The batch of a place, and begin with the one after it; what `prepare` raises for this place is raised here."""
        ahead, self._ahead = self._ahead, None
        future = ahead[1] if ahead is not None and ahead[0] == place else self._thread.submit(self._prepare, place)
        batch = future.result()
        following = self._following(place)
        if following is not None:
            self._ahead = following, self._thread.submit(self._prepare, following)
        return batch

    def close(self) -> None:
        """End the thread, once it has done what it has begun."""
        self._thread.shutdown(cancel_futures=True)
