"""Let no failure of standard output or standard error end a program: `keep_output_from_failing()`.

A pipe whose reader has gone, a full disk behind a redirection, a closed terminal, or a terminal that cannot show a
character: what cannot be written is dropped, and the program continues. Each line is written when it is printed, in a file
or a pipe too, so that a log of both streams is in order.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import Any, TextIO


def keep_output_from_failing() -> None:
    """Replace `sys.stdout` and `sys.stderr` by streams that drop what cannot be written; does so once per program.

    Streams that are not the program's own, such as those of a notebook or a test, stay as they are.
    """
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream, original = getattr(sys, name), getattr(sys, f"__{name}__")
        if stream is None:  # it was closed before the program started
            _occupy(number)
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif stream is original and isinstance(stream, io.TextIOWrapper):
            setattr(sys, name, _lenient(stream))


class _Dropping(io.FileIO):
    """A file that drops what cannot be written."""

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        try:
            written = super().write(data)
        except OSError:
            return size
        return size if written is None else written  # None: a pipe that does not wait, and is full


def _lenient(stream: io.TextIOWrapper) -> TextIO:
    with contextlib.suppress(OSError):
        stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Dropping(stream.fileno(), "wb", closefd=False)),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=True,
        write_through=stream.write_through,
    )


def _occupy(number: int) -> None:
    """Give a file number that is free to the null device, lest a file of the run gets it and with it stray output."""
    try:
        os.fstat(number)
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        if null != number:
            os.dup2(null, number)
            os.close(null)
