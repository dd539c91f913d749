"""Tell a rendered card from one that a user has written or edited: its last line has the digest of the text above."""

from __future__ import annotations

import hashlib
import re

OLD_SEAL = "Rendered by hf_ddpm, and again at each push; delete this line to keep your own changes."
"""Last line of cards of earlier versions."""
SEAL = "Rendered by hf_ddpm, and again as long as nobody changes this text: sha256 {}"
"""Last line of a card; published cards are recognized by it, so it must not change."""
_LINE = re.compile(rf"<!-- (?:{re.escape(OLD_SEAL)}|{SEAL.format('([0-9a-f]{64})')}) -->")


def seal(text: str) -> str:
    """Add the last line to a rendered card; one that is there already is replaced."""
    text = _split(text)[0].strip()
    return f"{text}\n\n<!-- {SEAL.format(_digest(text))} -->\n"


def is_rendered(text: str) -> bool:
    """Whether a README.md is a rendered card that nobody has changed; one of an earlier version counts as such."""
    body, line = _split(text)
    return line is not None and line[1] in (None, _digest(body))


def _split(text: str) -> tuple[str, re.Match[str] | None]:
    """A card without its last line, and that line; None = it has none."""
    found = list(_LINE.finditer(text))[-1:]
    return (text[: found[0].start()] + text[found[0].end() :], found[0]) if found else (text, None)


def _digest(text: str) -> str:
    """Of the visible text, as editors and version control change the ends of lines."""
    return hashlib.sha256("\n".join(line.rstrip() for line in text.strip().splitlines()).encode()).hexdigest()
