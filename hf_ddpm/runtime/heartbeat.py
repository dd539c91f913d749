"""Notice that a process of a group does not answer any more, say so, and end instead of waiting for it for hours.

A thread of each process tells the launcher's store every few seconds that the process is alive. It does so during long work
too, which may take hours, and stops if the process is stopped, or its machine is lost.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

from torch.distributed import TCPStore

INTERVAL = 5.0  # seconds between two signs of life
NOTICE = 60.0  # seconds of silence after which a process is named
PATIENCE = 600.0  # seconds of silence after which the others end; HF_DDPM_PATIENCE in the environment is another number
CONNECTION = timedelta(seconds=5)  # that connecting to the store may take
ENDED = "ended"

logger = logging.getLogger(__name__)

_last_acts: list[Callable[[], object]] = []
_heartbeat: Heartbeat | None = None


def watch_processes() -> None:
    """Begin to watch the processes of the launcher, once per program, before they are joined; nothing for a single one."""
    global _heartbeat
    world_size, address = int(os.environ.get("WORLD_SIZE", "1")), os.environ.get("MASTER_ADDR")
    patience = _patience()
    if _heartbeat is None and world_size > 1 and address is not None:
        _heartbeat = Heartbeat(int(os.environ["RANK"]), world_size, address, int(os.environ["MASTER_PORT"]), patience)
        _heartbeat.start()
        atexit.register(_heartbeat.stop)


@contextlib.contextmanager
def before_giving_up(act: Callable[[], object]) -> Iterator[None]:
    """Within this part `act` is called, in the thread that watches, before this process gives up waiting for another."""
    _last_acts.append(act)
    try:
        yield
    finally:
        _last_acts.remove(act)


class Heartbeat:
    """The signs of life of one process, and its watch over the others.

    Two threads, as one that asks the store waits for ever if the store belongs to a process that is stopped.
    """

    def __init__(self, rank: int, world_size: int, address: str, port: int, patience: float) -> None:
        self._rank, self._address, self._patience = rank, (address, port), patience
        self._prefix = f"hf_ddpm/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
        self._signs: dict[int, str] = {}  # the last of each other process
        self._silence = dict.fromkeys((peer for peer in range(world_size) if peer != rank), 0.0)  # seconds
        self._named: set[int] = set()
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._talk, self._watch)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Say that this process has ended, so that nobody waits for a sign of it."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(timeout=INTERVAL)

    def _talk(self) -> None:
        """Give signs of life, and read those of the others."""
        beat, store = 0, None
        while True:
            is_last = self._stopping.is_set()
            beat += 1
            try:
                if store is None:
                    store = TCPStore(*self._address, is_master=False, wait_for_workers=False, timeout=CONNECTION)
                sign = ENDED if is_last else f"{beat}, pid {os.getpid()} on {socket.gethostname()}"
                store.set(f"{self._prefix}/{self._rank}", sign)
                for peer in self._silence:
                    if store.check([key := f"{self._prefix}/{peer}"]):
                        self._signs[peer] = store.get(key).decode()
            except RuntimeError:
                store = None  # without it nobody is heard, which is what will be reported
            if is_last:
                return
            self._stopping.wait(INTERVAL)

    def _watch(self) -> None:
        before, signs = time.monotonic(), dict[int, str]()
        while not self._stopping.wait(INTERVAL):
            now = time.monotonic()
            passed, before = min(now - before, 2 * INTERVAL), now  # not the time in which this process was stopped itself
            heard, signs = signs, dict(self._signs)
            for peer in self._silence:
                answers = signs.get(peer) == ENDED or signs.get(peer) != heard.get(peer)
                self._silence[peer] = 0.0 if answers else self._silence[peer] + passed
            self._report()

    def _report(self) -> None:
        silent = {peer: seconds for peer, seconds in self._silence.items() if seconds >= NOTICE}
        for peer in sorted(self._named - silent.keys()):
            logger.info("process %d answers again", peer)
        new, self._named = silent.keys() - self._named, set(silent)
        if any(peer not in silent for peer in range(self._rank)):
            return  # the first process that is alive speaks for all
        for peer in sorted(new):
            logger.warning(
                "waiting for process %d%s: no sign of it for %.0f seconds, this run ends after %.0f (HF_DDPM_PATIENCE)",
                peer, self._where(peer), silent[peer], self._patience,
            )  # fmt: skip
        lost = [peer for peer, seconds in silent.items() if seconds >= self._patience]
        if lost:
            self._give_up(lost[0])

    def _where(self, peer: int) -> str:
        sign = self._signs.get(peer)
        return " (not seen so far)" if sign is None else f" ({sign.partition(', ')[2]})"

    def _give_up(self, peer: int) -> None:
        logger.error("process %d%s does not answer: this process ends", peer, self._where(peer))
        for act in list(_last_acts):
            try:
                act()
            except Exception as error:  # nothing is left to do but to say it
                logger.error("%s", error)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(1)  # the main thread waits in a collective, where no exception reaches it


def _patience() -> float:
    text = os.environ.get("HF_DDPM_PATIENCE", str(PATIENCE))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise ValueError(f"HF_DDPM_PATIENCE is {text!r} in the environment: give seconds above 0")
    return seconds
