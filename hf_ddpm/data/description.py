"""What a run learns from, and what of its data it does not use."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LeftOut:
    """Something in the data that is not used."""

    what: str
    """Such as "files .HEIC"."""
    count: int
    """How many of them there are."""
    reason: str
    """Why, such as "format not read"."""

    def __str__(self) -> str:
        return f"{self.what}: {self.count:,}, {self.reason}"


@dataclass(frozen=True, kw_only=True)
class Originals:
    """The images of a split as they were before they were decoded to one size and number of channels."""

    smallest: tuple[int, int]
    """Width and height of the image with the fewest pixels."""
    largest: tuple[int, int]
    """Width and height of the image with the most pixels."""
    num_gray: int
    """Number of images without colour."""
    num_colour: int
    """Number of the others."""
