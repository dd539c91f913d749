"""Bound the requests that huggingface_hub makes: `with bounded_requests(): load_dataset("OWNER/NAME")`.

Its own timeouts end when any byte comes, so an answer that comes byte by byte would be awaited for ever.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any


class HubTooSlow(OSError):
    """The Hub did not refuse, but took too long."""


@contextlib.contextmanager
def bounded_requests(
    *, timeout: float = 60.0, total: float | None = None, window: float | None = 60.0, least_bytes: int = 10_000
) -> Iterator[None]:
    """Within this part, requests of the shared client of huggingface_hub end; a `HubTooSlow` says that one was ended.

    A connection that was there before can only be ended once an answer has begun.

    Args:
        timeout: most seconds to connect, and between two pieces of an answer.
        total: seconds after which every request is ended; None = any number.
        window: seconds in which `least_bytes` of each answer, or the rest of it, must come; None = any number.
    """
    from huggingface_hub import get_session

    watch = _Watch(timeout, total, window, least_bytes)
    session = get_session()
    hooks = session.event_hooks
    session.event_hooks = {"request": [*hooks["request"], watch.before], "response": [*hooks["response"], watch.after]}
    thread = threading.Thread(target=watch.run, daemon=True)
    thread.start()
    try:
        yield
    except Exception:
        if watch.fault is not None:
            raise HubTooSlow(watch.fault) from None  # whatever the client or its callers made of a closed connection
        raise
    finally:
        session.event_hooks = hooks
        watch.over.set()
        thread.join()


class _Watch:
    """Knows the connections and the answers that have not come, and ends them all when one takes too long."""

    def __init__(self, timeout: float, total: float | None, window: float | None, least_bytes: int) -> None:
        self.timeout, self.total, self.window, self.least_bytes = timeout, total, window, least_bytes
        self.started = time.monotonic()
        self.fault: str | None = None
        self.over = threading.Event()
        self.sockets: list[socket.socket] = []
        self.waiting: dict[int, float] = {}
        """By thread: when it made the request whose answer has not begun."""
        self.answers: dict[int, tuple[Any, float, int]] = {}
        """Answers that have begun by their id, and when how many bytes of them had come."""

    def before(self, request: Any) -> None:
        """Hook of the client before a request."""
        if self.fault is not None:
            raise HubTooSlow(self.fault)
        given = request.extensions.get("timeout") or {}
        kinds = ("connect", "read", "write", "pool")
        request.extensions["timeout"] = {kind: min(given.get(kind) or self.timeout, self.timeout) for kind in kinds}
        request.extensions["trace"] = self.trace
        self.waiting[threading.get_ident()] = time.monotonic()

    def after(self, response: Any) -> None:
        """Hook of the client when the head of an answer is there."""
        self.waiting.pop(threading.get_ident(), None)
        self.answers[id(response)] = (response, time.monotonic(), 0)
        if (stream := response.extensions.get("network_stream")) is not None:
            self.sockets.append(stream.get_extra_info("socket"))

    def trace(self, event: str, info: dict[str, Any]) -> None:
        """Called with each step of a request: note every new connection."""
        if event.endswith((".connect_tcp.complete", ".start_tls.complete")):
            self.sockets.append(info["return_value"].get_extra_info("socket"))
            if self.fault is not None:
                self._end_all()

    def run(self) -> None:
        """Check several times a window until the end of the part."""
        period = min(limit / 10 for limit in (self.total, self.window, 10.0) if limit is not None)
        while not self.over.wait(period) and self.fault is None:
            now = time.monotonic()
            if self.total is not None and now - self.started > self.total:
                self.fault = f"the Hub took longer than {self.total:.3g} seconds"
            elif self.window is not None and self._is_stuck(now, self.window):
                self.fault = f"the Hub sent less than {self.least_bytes:,} bytes in {self.window:g} seconds"
        if self.fault is not None:
            self._end_all()

    def _is_stuck(self, now: float, window: float) -> bool:
        for key, (response, _, before) in list(self.answers.items()):
            if response.is_closed:
                del self.answers[key]
            elif response.num_bytes_downloaded - before >= self.least_bytes:
                self.answers[key] = (response, now, response.num_bytes_downloaded)
        return any(now - since > window for since in [*self.waiting.values(), *(it[1] for it in self.answers.values())])

    def _end_all(self) -> None:
        for connection in self.sockets:
            with contextlib.suppress(OSError):  # closed already
                connection.shutdown(socket.SHUT_RDWR)
