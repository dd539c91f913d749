"""One program at a time writes an output: `with OutputLock(folder, processes) as lock: lock.take()`.

The lock is the operating system's and ends with the process: a kill -9 leaves files behind, but none that is locked. On a
shared disk it holds between machines if the file system has such locks (NFS 4, Lustre with `flock`).
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from hf_ddpm.runtime.files import write_whole

if TYPE_CHECKING:
    from accelerate import Accelerator, PartialState

LOCK, HOLDER = ".lock", ".lock-holder"
# Long enough to try again if the holder removes the file between our opening and locking it.
TIMEOUT, POLL_INTERVAL = 0.1, 0.02  # seconds
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""Errors of a file system that has no locks."""

logger = logging.getLogger(__name__)


def is_free(folder: Path) -> bool:
    """Whether a folder is new, or empty but for a lock."""
    if not folder.exists():
        return True
    return folder.is_dir() and {entry.name for entry in folder.iterdir()} <= {LOCK, HOLDER}


def file_in_the_way(folder: Path) -> Path | None:
    """The file for which a folder cannot be created: its own path, or that of a parent; None = there is no such file."""
    existing = next((path for path in (folder, *folder.parents) if path.exists()), None)
    return None if existing is None or existing.is_dir() else existing


class OutputLock:
    """The right to write an output, held by the main process from `take` until the end of the `with`."""

    def __init__(
        self,
        output: Path,
        processes: Accelerator | PartialState | None = None,
        *,
        option: str = "output_dir",
        file_name: str | None = None,
    ) -> None:
        """Lock a folder, or with `file_name` the files of this name beside `output`.

        `processes` None = this process is alone. `option` is the argument that gave `output`.
        """
        self._output, self._option, self._processes = output, option, processes
        folder, prefix = (output, "") if file_name is None else (output.parent, f".{file_name}")
        self._path, self._holder = folder / f"{prefix}{LOCK}", folder / f"{prefix}{HOLDER}"
        self._lock = FileLock(self._path, timeout=TIMEOUT, poll_interval=POLL_INTERVAL)
        self._created: list[Path] = []

    def __enter__(self) -> OutputLock:
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock.is_locked:
            with contextlib.suppress(OSError):
                self._holder.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # Windows removes no open file
                self._path.unlink()
            self._lock.release()
        for folder in self._created:  # unless something was written there
            with contextlib.suppress(OSError):
                folder.rmdir()

    def take(self, check: Callable[[], None] | None = None) -> None:
        """Take the lock, creating the folder; all processes call it.

        A `ValueError` in all of them names another holder, or is what `check` raises in the main process with the lock held.
        """
        refusal = None
        if (self._processes is None or self._processes.is_main_process) and not self._lock.is_locked:
            try:
                self._acquire()
                if check is not None:
                    check()
            except (ValueError, OSError) as error:  # the other processes must not wait in vain
                refusal = str(error)
        refusals = [refusal]
        if self._processes is not None:
            from hf_ddpm.runtime.distributed import gather  # imports torch, for which a mistake should not wait

            refusals = gather(refusals, self._processes)
        for message in filter(None, refusals):
            raise ValueError(message)

    def _acquire(self) -> None:
        folder = self._path.parent
        try:
            self._created = [parent for parent in (folder, *folder.parents) if not parent.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            if self._path.is_symlink():
                raise self._refusal(f"its lock {self._path} is a symbolic link, remove it")
            self._lock.acquire()
        except Timeout:
            raise self._refusal(f"{_describe(self._holder)} is writing there, name another") from None
        except PermissionError as error:
            if not self._path.exists():
                raise self._refusal(f"{error.strerror}, name another") from None
            remedy = f"if none of their programs is writing there, remove {self._path}; or name another"
            raise self._refusal(f"the lock {self._path} belongs to {_owner(self._path)}: {remedy}") from None
        except OSError as error:
            if (blocker := file_in_the_way(folder)) is not None:
                raise self._refusal(f"{blocker} is a file, name another") from None
            if error.errno not in NO_LOCKS:
                raise self._refusal(f"{self._path} cannot be locked, {error.strerror}: name another") from None
            logger.warning("%s cannot be locked (%s): start no second program there", self._path, error.strerror)
        else:
            with contextlib.suppress(OSError):
                write_whole(self._holder, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))

    def _refusal(self, reason: str) -> ValueError:
        return ValueError(f"{self._option} is {str(self._output)!r}: {reason}")


def _owner(path: Path) -> str:
    try:
        return path.owner()
    except KeyError:
        return "another user"


def _describe(holder: Path) -> str:
    try:
        values = json.loads(holder.read_text(encoding="utf-8"))
        return f"process {values['pid']} on {values['host']}"
    except (OSError, ValueError, KeyError, TypeError):  # it has just been taken
        return "another program"
