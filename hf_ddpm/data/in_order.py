"""Apply a function to images in order, in threads if they are large: `list(InOrder()(decode, images, pixels))`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Value = TypeVar("Value")
Result = TypeVar("Result")

# Pillow lets other threads run while it unpacks an image, but not while Python opens it: with smaller images than these,
# threads mostly wait for one another, and two are slower than one.
PIXELS_FOR_THREADS = 128 * 128


class InOrder:
    """Applies functions to blocks of images, in as many threads as torch has in the thread that makes this."""

    def __init__(self) -> None:
        self._num_threads = torch.get_num_threads()
        self._pool: ThreadPoolExecutor | None = None

    def __call__(self, function: Callable[[Value], Result], images: Sequence[Value], pixels: float) -> Iterator[Result]:
        """Results in the order of the images; an error is raised where its result is due, and the rest is dropped.

        Args:
            function: safe to call in several threads.
            images: one block of them; all are held in memory.
            pixels: how many pixels an image has before it is decoded, on average.
        """
        if self._num_threads == 1 or pixels < PIXELS_FOR_THREADS:
            return map(function, images)
        self._pool = self._pool or ThreadPoolExecutor(self._num_threads, thread_name_prefix="decode")
        return self._pool.map(function, images)
