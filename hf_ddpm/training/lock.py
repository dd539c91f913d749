"""One run at a time in a run folder: `RunLock(folder, accelerator)`.

The lock is the operating system's and ends with the process: a kill -9 leaves files behind, but none that is locked. On a
shared disk it holds between machines if the file system has such locks (NFS 4, Lustre with `flock`).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
from pathlib import Path

from accelerate import Accelerator
from filelock import FileLock, Timeout

from hf_ddpm.run_folder import RunFolder
from hf_ddpm.runtime.distributed import gather

LOCK, HOLDER = ".lock", ".lock-holder.json"
# Long enough to try again if the holder removes the file between our opening and locking it.
TIMEOUT, POLL_INTERVAL = 0.1, 0.02  # seconds

logger = logging.getLogger(__name__)


class RunLock:
    """The right to write in a run folder, held by the main process for all of the run, until the end of the `with`."""

    def __init__(self, folder: RunFolder, accelerator: Accelerator) -> None:
        self._path, self._holder = folder.path / LOCK, folder.path / HOLDER
        self._accelerator = accelerator
        self._lock = FileLock(self._path, timeout=TIMEOUT, poll_interval=POLL_INTERVAL)

    def __enter__(self) -> RunLock:
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock.is_locked:
            self._holder.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # Windows removes no open file
                self._path.unlink()
            self._lock.release()

    def take(self) -> None:
        """Take the lock, creating the folder; all processes call it. A `ValueError` in all names another holder."""
        refusal = self._try() if self._accelerator.is_main_process and not self._lock.is_locked else None
        for message in gather([refusal], self._accelerator):
            if message is not None:
                raise ValueError(message)

    def _try(self) -> str | None:
        """Take the lock, or say who holds it."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire()
        except Timeout:
            folder = str(self._path.parent)
            return f"--output_dir is {folder!r}: {_describe(self._holder)} is writing there, name another folder"
        except OSError as error:
            logger.warning("%s cannot be locked (%s): start no second run", self._path, error.strerror)
        else:
            self._holder.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}), encoding="utf-8")
        return None


def _describe(holder: Path) -> str:
    try:
        values = json.loads(holder.read_text(encoding="utf-8"))
        return f"process {values['pid']} on {values['host']}"
    except (OSError, ValueError, KeyError, TypeError):  # it has just been taken
        return "another run"
