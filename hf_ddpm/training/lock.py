"""One run at a time in a run folder: `RunLock(run_dir, accelerator)`.

The lock is the operating system's, on a file that says who holds it, and ends with the process: none is left behind by a
kill -9. On a shared disk it holds between machines where the file system has such locks (NFS 4, Lustre with `flock`).
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from pathlib import Path
from typing import TextIO

from accelerate import Accelerator

from hf_ddpm.runtime.distributed import gather

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = ".lock"


class RunLock:
    """The right to write in a run folder, held by the first process for all of the run, until the end of the `with`."""

    def __init__(self, run_dir: Path, accelerator: Accelerator):
        self._path, self._accelerator = run_dir / LOCK, accelerator
        self._file: TextIO | None = None

    def __enter__(self) -> RunLock:
        return self

    def __exit__(self, *_) -> None:
        if self._file is not None:
            self._path.unlink(missing_ok=True)
            self._file.close()

    def take(self) -> None:
        """Take the lock, making the folder; every process has to call it. Nothing happens where it is held already.

        Raises:
            ValueError: in every process, when another run holds it; names that one's process and machine.
        """
        refusal = None
        if self._accelerator.is_main_process and self._file is None:
            refusal = self._try()
        for message in gather([refusal], self._accelerator):
            if message is not None:
                raise ValueError(message)

    def _try(self) -> str | None:
        """Take the lock, or say who holds it."""
        if fcntl is None:
            print("warning: no file locks on this system: nothing keeps a second run out of the folder", file=sys.stderr)
            return None
        self._path.parent.mkdir(parents=True, exist_ok=True)
        while self._file is None:
            with contextlib.ExitStack() as closing:
                try:
                    file = closing.enter_context(self._path.open("a+", encoding="utf-8"))
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    folder = str(self._path.parent)
                    return f"--output_dir is {folder!r}: {_holder(file)} is writing there, name another folder"
                except OSError as error:
                    print(f"warning: {self._path} cannot be locked ({error.strerror}): start no second run", file=sys.stderr)
                    return None
                if self._is_there(file):  # else its holder removed it before our locking: that lock keeps nobody out
                    self._file = file
                    closing.pop_all()
        self._file.truncate(0)
        json.dump({"pid": os.getpid(), "host": socket.gethostname()}, self._file)
        self._file.flush()
        return None

    def _is_there(self, file: TextIO) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(file.fileno()), self._path.stat())
        return False


def _holder(file: TextIO) -> str:
    file.seek(0)
    try:
        holder = json.load(file)
        return f"process {holder['pid']} on {holder['host']}"
    except (ValueError, KeyError, TypeError):  # it has just been taken
        return "another run"
