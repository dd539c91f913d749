"""Images that cannot be decoded: the first one is an error, or up to a limit they are left out and counted."""

from __future__ import annotations

import sys
from typing import Any

from hf_ddpm.data.decode import UndecodableImage

MAX_BAD_IMAGES = 100
SHOWN = 3


class BadImages:
    """What is done about the images of one split that cannot be decoded."""

    def __init__(self, source: str, split: str, limit: int | None) -> None:
        """
        Args:
            source, split: as the user gave them.
            limit: images that may be left out; None = not one.
        """
        self.source, self.split, self.limit = source, split, limit
        self._known: set[int] = set()

    @property
    def are_left_out(self) -> bool:
        """Whether such images are left out, up to the limit."""
        return self.limit is not None

    def leave_out(self, record: dict[str, Any] | None, error: UndecodableImage, row: int | None = None) -> None:
        """Count an image, once however often it comes, and show the first few on stderr.

        Args:
            record: the undecoded image.
            error: what is wrong with it.
            row: its row in the split, None = not known.

        Raises:
            ValueError: it is one more than the limit; names it.
        """
        image = hash((row, *(record or {}).values()))
        if image in self._known:
            return
        self._known.add(image)
        count = len(self._known)
        what = error.describe(self.source, self.split, row)
        if self.limit is None:
            raise ValueError(what) from error.__cause__
        if count > self.limit:
            raise ValueError(
                f"{what}; --data.max_bad_images is {self.limit} and this is one more: mend the data or raise it"
            ) from error.__cause__
        if count <= SHOWN:
            more = "" if count < SHOWN else "; further ones are not shown"
            fault = what.rsplit(":", 1)[0]
            print(f"warning: {fault}: it is left out, as --data.on_bad_image is skip{more}", file=sys.stderr)


def settle_bad_images(on_bad_image: str, max_bad_images: int | None) -> int | None:
    """The limit that the options `on_bad_image` and `max_bad_images` stand for.

    Returns:
        Images that may be left out; None = not one.

    Raises:
        ValueError: the options do not go together.
    """
    if on_bad_image not in ("error", "skip"):
        raise ValueError(f"--data.on_bad_image is {on_bad_image!r}: give error or skip")
    if max_bad_images is not None and on_bad_image == "error":
        raise ValueError(f"--data.max_bad_images is {max_bad_images}: add --data.on_bad_image skip, or leave it out")
    if max_bad_images is not None and max_bad_images < 1:
        raise ValueError(f"--data.max_bad_images is {max_bad_images}: give at least 1 image")
    if on_bad_image == "error":
        return None
    return MAX_BAD_IMAGES if max_bad_images is None else max_bad_images
