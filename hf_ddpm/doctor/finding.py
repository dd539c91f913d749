"""What a rule answers: a `Finding`, a `Gap` if it cannot tell, or None if what it looked at is in order."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that is wrong with a run."""

    name: str
    """What it is called, in a few words."""
    seen: str
    """What the run shows, in numbers."""
    meaning: str
    """What that means for the model."""
    remedy: str
    """What to do: a command or an option."""


@dataclass(frozen=True, kw_only=True)
class Gap:
    """Something that cannot be told."""

    name: str
    reason: str
    """Why not."""
    remedy: str
    """What would let it be told."""


Answer = Finding | Gap | None
