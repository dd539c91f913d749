"""Settle what images are decoded to, from what was seen of them and what was asked for: `settle_pixels([scan(source)])`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from hf_ddpm.data.decode import MAX_16_BIT
from hf_ddpm.data.deep_files import COLOUR_DEPTHS
from hf_ddpm.data.scan import Scan, check_value_range
from hf_ddpm.image_shape import PixelType, ValueRange

ALL_LEVELS = 255
"""A range of whole numbers that is not wider keeps all of them in 8 bits."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """What images are decoded to."""

    channels: int
    pixel_type: PixelType
    value_range: ValueRange | None
    """As an argument of `decode_image`; given for other types than uint8."""

    @property
    def model_range(self) -> ValueRange | None:
        """The values that are -1 and 1 in the model; None = 0 and 255, those of uint8."""
        return None if self.pixel_type == "uint8" else self.value_range


def settle_pixels(
    scans: Sequence[Scan],
    source: str,
    split: str,
    *,
    channels: int | None,
    pixel_type: PixelType | None,
    value_range: ValueRange | None,
    are_all: bool = True,
) -> Pixels:
    """What the images of some splits are decoded to; a `ValueError` if they do not fit the options, or one another.

    Args:
        scans: what was seen of the images of each split.
        source, split: for messages.
        channels: as all images must have; None = as they have. Without transparency, 1 and 3 fit each other.
        pixel_type: None = uint8 if any image has plain 8 bits or opacity, or if that is enough for all values of the range,
            else uint16 for whole numbers from 0 to 65535, else float32.
        value_range: see `check_value_range`.
        are_all: whether there are no other images.
    """
    check_value_range(scans, value_range, source, split, are_all=are_all, keeps_bits=pixel_type != "uint8")
    kinds = {kind for each in scans for kind in each.ranges}
    where = f"split {split!r} of `source` {source!r}"
    has_range_of_format = kinds <= {"integers", "reduced"} and (kinds or not are_all)
    full_range = value_range or ((0, MAX_16_BIT) if has_range_of_format else None)
    enough = _enough_for(scans, full_range)
    if pixel_type is None:
        has_plain = any(each.num_plain for each in scans)
        has_opacity = any(kind == "reduced" and count in (2, 4) for each in scans for kind, count in each.channels_of_kinds)
        pixel_type = enough if kinds and not has_plain and not (has_opacity and channels in (None, 1, 3)) else "uint8"
        if kinds and pixel_type != enough:
            reason = "others have 8" if has_plain else "have opacity, which is laid over white"
            remedy = f"give `pixel_type` {enough} to keep all bits" + ("" if has_plain else ", with opacity as a channel")
            logger.warning("images of %s have more than 8 bits, but %s: they are reduced to 8, %s", where, reason, remedy)
    elif pixel_type != "uint8":
        if not kinds and are_all:
            raise ValueError(f"pixel_type is {pixel_type!r}, but all images of {where} have plain 8 bits: leave it out")
        if full_range is None:
            raise ValueError(
                f"value_range is None: with `pixel_type` {pixel_type}, give the range from black to white of {where}"
            )
        if pixel_type == "uint16" and enough == "float32":
            raise ValueError(
                f"pixel_type is 'uint16', but values of {where} are not whole numbers, or their range is not within "
                f"0..{MAX_16_BIT}: give float32"
            )
    channels = _settle_channels(scans, channels, pixel_type, where)
    value_range = value_range if pixel_type == "uint8" else full_range
    return Pixels(channels=channels, pixel_type=pixel_type, value_range=value_range)


def _enough_for(scans: Sequence[Scan], value_range: ValueRange | None) -> PixelType:
    """The smallest type that keeps all values of a range; None = that of 8 bits."""
    if value_range is None:
        return "uint8"
    low, high = value_range
    if any(dtype.startswith("float") for each in scans for dtype in each.dtypes) or low < 0 or high > MAX_16_BIT:
        return "float32"
    return "uint8" if high - low <= ALL_LEVELS else "uint16"


def _settle_channels(scans: Sequence[Scan], channels: int | None, pixel_type: PixelType, where: str) -> int:
    """The number of channels, given or found."""
    as_stored = pixel_type != "uint8" or channels not in (None, 1, 3)
    arrays = {count for each in scans for kind, count in each.channels_of_kinds if kind == "array"}
    if not as_stored and arrays <= {*COLOUR_DEPTHS}:
        return channels or max(each.channels for each in scans)
    stored = {pair for each in scans for pair in each.stored_channels}
    found = sorted({count for count, _ in stored})
    listed = " and ".join(map(str, found))
    if channels is None:
        if not found or set(found) <= {1, 3}:
            return max(found, default=1)
        if len(found) > 1:
            raise ValueError(f"channels is None, but images of {where} have {listed} channels: give them the same number")
        return found[0]
    wrong = [count for count, pages in stored if channels not in (count, pages) and (count, channels) != (1, 3)]
    if wrong:
        converted = ", or `pixel_type` uint8" if channels in (1, 3) and arrays <= {*COLOUR_DEPTHS} else ""
        raise ValueError(
            f"channels is {channels}, but images of {where} have {listed} channels: give what all of them have{converted}"
        )
    return channels
