"""Signs of life of long work, on stderr: `with Progress("samples", total=100, unit="image") as bar: bar.advance()`.

On a terminal a bar appears after two seconds; elsewhere, as in a log file, a line is written every minute. Short work shows
nothing. A thread shows them, so that they also move while the work is inside one long call.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from types import TracebackType
from typing import Any

from tqdm import tqdm

BAR_AFTER = 2.0
"""Seconds of work after which a terminal shows a bar."""
LINE_EVERY = 60.0
"""Seconds between lines where there is no terminal."""


class Progress:
    """Progress of one piece of work; `close` it, or use it in a `with` statement."""

    def __init__(
        self, what: str, total: int | None = None, unit: str = "step", *, done: int = 0, shown: bool = True
    ) -> None:
        """Start the clock.

        Args:
            what: the work, in a word or two.
            total: number of units; None = only the time is shown.
            unit: what is counted, in the singular.
            done: units that were done earlier.
            shown: whether anything is shown; of several processes only the first one shows it.
        """
        self.what, self.total, self.unit, self.done = what, total, unit, done
        self.note = ""
        """Shown after the numbers."""
        self._first, self._started = done, time.monotonic()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        if shown and os.environ.get("RANK", "0") == "0":
            show = self._show_bar if sys.stderr.isatty() else self._write_lines
            self._thread = threading.Thread(target=show, args=(sys.stderr,), daemon=True)
            self._thread.start()

    def advance(self, count: int = 1) -> None:
        """Count units that are done."""
        self.done += count

    def close(self) -> None:
        """End the work; a bar that was shown remains, if it counts something and stands alone."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __str__(self) -> str:
        """One line, such as "samples: 30 of 100 images after 2 min"."""
        count = "" if self.total is None else f" {self.done:,} of {self.total:,} {self.unit}s"
        note = f", {self.note}" if self.note else ""
        return f"{self.what}:{count} after {(time.monotonic() - self._started) / 60:.0f} min{note}"

    def _write_lines(self, stream: Any) -> None:
        while not self._ended.wait(LINE_EVERY):
            with contextlib.suppress(OSError, ValueError):  # whoever reads them may be gone
                print(self, file=stream, flush=True)

    def _show_bar(self, stream: Any) -> None:
        if self._ended.wait(BAR_AFTER):
            return
        with contextlib.suppress(OSError, ValueError):
            counts = self.total is not None
            bar = tqdm(
                desc=self.what, total=self.total, unit=self.unit, initial=self._first, file=stream, dynamic_ncols=True,
                leave=None if counts else False, bar_format=None if counts else "{desc}: {elapsed}",
            )  # fmt: skip
            bar.start_t -= BAR_AFTER
            is_last = False
            while not is_last:
                is_last = self._ended.wait(1.0)
                bar.n = self.done
                bar.set_postfix_str(self.note, refresh=False)
                bar.refresh()
            bar.close()
