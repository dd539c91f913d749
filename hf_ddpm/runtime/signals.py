"""Stop a long job cleanly on SIGINT (Ctrl-C), SIGTERM or SIGHUP (the terminal is closed).

with stop_requests("stopping after this step") as stop:
    for step in range(steps):
        take_step(step)
        if stop.requested:
            save()
            raise Stopped(stop.signal_number, "saved; continue with --resume auto")
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

# A launcher may pass on a signal that its processes have received already: within this time it is one request, not two.
SAME_REQUEST_SECONDS = 1.0

# Signals that end a program; Windows has no SIGHUP.
ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class Stopped(KeyboardInterrupt):
    """A signal ended the work before it was done (the message says what was kept); deliberately not an `Exception`."""

    def __init__(self, signal_number: int, message: str = "") -> None:
        super().__init__(message)
        self.signal_number = signal_number


class StopRequest:
    """Whether a signal has come, to be polled; `signal_number` None = none has come."""

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._asked_at = 0.0
        self._raises = False

    @property
    def requested(self) -> bool:
        """Whether the work should end as soon as it can."""
        return self.signal_number is not None

    @contextlib.contextmanager
    def raising(self) -> Iterator[None]:
        """Within this part a signal raises `Stopped` at once; one that has come before raises it at the beginning."""
        self._raises = True
        try:
            if self.signal_number is not None:
                raise Stopped(self.signal_number)
            yield
        finally:
            self._raises = False


@contextlib.contextmanager
def stop_requests(promise: str) -> Iterator[StopRequest]:
    """Turn the first SIGINT, SIGTERM or SIGHUP into a request that the work polls; a second one ends the program at once.

    `promise` says on stderr what will happen. `Stopped` is raised at the end if the work did not act on a request. Python
    handles no signal while it waits in a collective whose peers are gone. Outside the main thread nothing is ever requested,
    and a signal that is ignored from the start (SIGINT in a shell's background job, SIGHUP under nohup) stays ignored.
    """
    stop = StopRequest()
    _raise_caught()

    def handle(signal_number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if stop.requested:
            if now - stop._asked_at > SAME_REQUEST_SECONDS:
                os._exit(128 + signal_number)
            return
        stop.signal_number, stop._asked_at = signal_number, now
        line = f"\n{signal.Signals(signal_number).name}: {promise}; a second one ends the program at once\n"
        with contextlib.suppress(OSError):
            os.write(2, line.encode())  # print may be interrupted while it writes, and must not be called within itself
        if stop._raises:
            raise Stopped(signal_number)

    with _handlers(handle, signal.SIGINT, *ENDING):
        yield stop
    if stop.signal_number is not None:
        raise Stopped(stop.signal_number)


@contextlib.contextmanager
def ending_signals_raise() -> Iterator[None]:
    """Let SIGINT, SIGTERM and SIGHUP raise `Stopped` at once.

    Other packages may catch it, and Python itself prints and drops what is raised within a callback, as while a module is
    imported. Therefore a dropped one is raised again, and one that was caught is raised by `stop_requests`, or at the end,
    also in place of an error to which it led.
    """

    def handle(signal_number: int, _frame: FrameType | None) -> None:
        _raised.append(signal_number)
        raise Stopped(signal_number)

    _raised.clear()
    try:
        with _handlers(handle, signal.SIGINT, *ENDING), _dropped_interrupts_return():
            yield
        _raise_caught()
    except Exception:
        _raise_caught()
        raise
    finally:
        _raised.clear()


_raised: list[int] = []
"""Signals that have raised `Stopped` within `ending_signals_raise`."""


def _raise_caught() -> None:
    if _raised:
        raise Stopped(_raised[-1])


@contextlib.contextmanager
def _dropped_interrupts_return() -> Iterator[None]:
    """Raise a signal again whose exception Python would print and drop, as soon as the callback has returned."""
    before = sys.unraisablehook

    def hook(dropped: Any) -> None:
        if not isinstance(dropped.exc_value, KeyboardInterrupt):
            before(dropped)
            return
        again = threading.Timer(0.05, _thread.interrupt_main, [getattr(dropped.exc_value, "signal_number", signal.SIGINT)])
        again.daemon = True
        with contextlib.suppress(RuntimeError):  # Python is about to end
            again.start()

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


@contextlib.contextmanager
def _handlers(handle: Callable[[int, FrameType | None], None], *signal_numbers: int) -> Iterator[None]:
    """Handle these signals, except ignored ones, and restore the previous handlers at the end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in signal_numbers}
    before = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    try:
        for number in before:
            signal.signal(number, handle)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
