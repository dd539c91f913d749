"""Text of strangers, made safe to show: `one_line(name)`, and `cleaned_output()` for all that a program prints.

Names and messages come from files and servers of others, too. Control characters in them could move the cursor of a
terminal, fill its clipboard, or reverse the order in which a line is read.
"""

from __future__ import annotations

import contextlib
import re
import sys
import unicodedata
from collections.abc import Iterator
from typing import Any

# Colours and moves of the cursor: ECMA-48, 5.4.
_SEQUENCE = re.compile(r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]")
# Control characters but tab and newline, marks of direction, invisible characters, and bytes of a name that is not UTF-8.
# The joiners U+200C and U+200D stay: Persian and emoji need them.
_CONTROL = re.compile(
    "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u061c\\u200b\\u200e\\u200f\\u2028-\\u202e\\u2060-\\u206f\\ufeff\\ud800-\\udfff"
    "\\U000e0000-\\U000e007f]"
)
_BAR_MOVES = re.compile(r"(?:[\r\n]|\x1b\[[0-9]*[A-K])*")
"""What progress bars write, apart from their text, to move between lines."""


def printable(text: str) -> str:
    r"""Text of any number of lines without sequences for a terminal; other control characters become visible, as `\x1b`."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), _SEQUENCE.sub("", text))


def one_line(text: object, most: int | None = None) -> str:
    """`printable` text on one line; of more than `most` characters (None = any number) the middle is left out."""
    line = printable(" ".join(str(text).split()))
    if most is not None and len(line) > most:
        line = f"{line[: most // 2]} ... {line[len(line) - most // 2 :]}"
    return line


def composed(text: str) -> str:
    """Text with one character for each letter and its accent, as keyboards write it; files of macOS may have two."""
    return unicodedata.normalize("NFC", text)


def file_safe(name: str) -> str:
    """A name as part of the name of a file: letters, digits, `_` and `-`, at most 64."""
    return re.sub(r"[^\w-]+", "-", name)[:64]


@contextlib.contextmanager
def cleaned_output() -> Iterator[None]:
    """Within this part everything printed on stdout and stderr, by other packages too, is `printable`."""
    streams: list[Any] = [_CleanedStream(stream) for stream in (sys.stdout, sys.stderr)]
    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        yield


class _CleanedStream:
    """A text stream that cleans what is written; it is like the stream below in everything else."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        if not _BAR_MOVES.fullmatch(text):
            start = "\r" if text.startswith("\r") else ""
            cleaned = start + printable(text.removeprefix("\r"))
            # As Python does on stderr, rather than fail on characters that the terminal lacks.
            encoding = getattr(self._stream, "encoding", None) or "utf-8"
            self._stream.write(cleaned.encode(encoding, "backslashreplace").decode(encoding))
        else:
            self._stream.write(text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
