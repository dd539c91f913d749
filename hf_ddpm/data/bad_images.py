"""Images that cannot be decoded: the first one is an error, or they are left out and counted, up to a limit."""

from __future__ import annotations

import logging

from hf_ddpm.data.decode import UndecodableImage
from hf_ddpm.data.undecoded import Undecoded

MAX_BAD_IMAGES = 100
SHOWN = 3

logger = logging.getLogger(__name__)


class BadImages:
    """Leaves out the images of one split that cannot be decoded, up to `max_bad_images` (None = 100), or none (`error`)."""

    def __init__(self, source: str, split: str, on_bad_image: str, max_bad_images: int | None) -> None:
        if on_bad_image not in ("error", "skip"):
            raise ValueError(f"on_bad_image is {on_bad_image!r}: give error or skip")
        if max_bad_images is not None and on_bad_image == "error":
            raise ValueError(f"max_bad_images is {max_bad_images}: set `on_bad_image` to skip, or leave it out")
        if max_bad_images is not None and max_bad_images < 1:
            raise ValueError(f"max_bad_images is {max_bad_images}: give at least 1 image")
        self.source, self.split = source, split
        self.limit = None if on_bad_image == "error" else max_bad_images or MAX_BAD_IMAGES
        self._known: set[int] = set()

    @property
    def are_left_out(self) -> bool:
        """Whether such images are left out."""
        return self.limit is not None

    def refusal(self, error: UndecodableImage, row: int | None) -> ValueError:
        """The error of an image that is not left out; `row` is its row in the split, None = unknown."""
        return ValueError(f"{error.describe(self.source, self.split, row)}: replace or remove it")

    def leave_out(self, value: Undecoded, error: UndecodableImage, row: int | None = None) -> None:
        """Count an undecoded image, only once however often it is read, and log the first few.

        `row` is its row in the split, None = unknown. A `ValueError` names it if none may be left out, or no more.
        """
        image = hash((row, repr(value)))
        if image in self._known:
            return
        self._known.add(image)
        count = len(self._known)
        if self.limit is None:
            raise self.refusal(error, row) from error.__cause__
        what = error.describe(self.source, self.split, row)
        if count > self.limit:
            raise ValueError(
                f"max_bad_images is {self.limit}, and there is one more: {what}; fix the data or raise the limit"
            ) from error.__cause__
        if count <= SHOWN:
            more = "" if count < SHOWN else "; further ones are not shown"
            logger.warning("%s: left out, as `on_bad_image` is skip%s", what, more)
