"""Look at all images of a source before they are decoded: `scan(source).channels`."""

# A pass of its own, as the number of channels and the range of the values must be known before the first image is decoded.
# It reads headers, which takes a fraction of the time of decoding (whole images only if they have more than 8 bits), and
# its result is kept: later runs do not look again, whatever size and channels they decode to.

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import datasets
import pyarrow
import pyarrow.compute

from hf_ddpm.data.decode import (
    DEFAULT_RANGES,
    MAX_16_BIT,
    ImageFacts,
    Kind,
    UndecodableImage,
    axis_hint,
    inspect_image,
)
from hf_ddpm.data.decoded_cache import cache_file, read_or_build, stamps_of
from hf_ddpm.data.description import LeftOut, Originals
from hf_ddpm.data.in_order import InOrder
from hf_ddpm.data.sources import ImageSource
from hf_ddpm.image_shape import ValueRange

SCAN_VERSION = 3
SCANNING_BATCH = 256  # images
FEATURES = datasets.Features(
    {
        "width": datasets.Value("int32"),
        "height": datasets.Value("int32"),
        "is_gray": datasets.Value("bool"),
        "channels": datasets.Value("int32"),
        "num_pages": datasets.Value("int32"),
        "has_frames": datasets.Value("bool"),
        "kind": datasets.Value("string"),
        "dtype": datasets.Value("string"),
        "low": datasets.Value("float64"),
        "high": datasets.Value("float64"),
    }
)


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What is known about the images of a split, without those that cannot be read."""

    originals: Originals | None
    """Their sizes and colours; None = no image can be read."""
    ranges: dict[Kind, ValueRange]
    """Lowest and highest value of all images of a kind that is not plain 8 bits."""
    num_plain: int = 0
    """Number of images of plain 8 bits."""
    dtypes: tuple[str, ...] = ()
    """Types of the values of the others."""
    stored_channels: tuple[tuple[int, int], ...] = ()
    """Every number of channels of an image, with the number of its pages, see `ImageFacts`."""
    channels_of_kinds: tuple[tuple[Kind, int], ...] = ()
    """Every number of channels of an image that is not plain 8 bits, with its kind."""
    mean_pixels: float = 0
    """Width times height, on average."""
    num_with_frames: int = 0
    """Number of animations and images of several pages."""

    def left_out(self, split: str, channels: int) -> tuple[LeftOut, ...]:
        """What is not used of the images of a split, of which each has so many channels."""
        what = f"later frames of images of split {split!r}"
        are_channels = channels > 1 and {(1, channels)} == set(self.stored_channels)
        if not self.num_with_frames or are_channels:
            return ()
        return (LeftOut(what, self.num_with_frames, "an image is its first frame"),)

    @property
    def channels(self) -> int:
        """3 (RGB) if any image has colour, else 1 (gray)."""
        return 3 if self.originals and self.originals.num_colour else 1


def scan(source: ImageSource, channels: int | None = None) -> Scan:
    """Look at all images of a source, or read the result of an earlier call from the datasets cache.

    `channels` tells the axes of arrays where their shapes do not, see `axis_hint`.
    """
    records = source.dataset.select_columns([source.image_column])

    def rows() -> Iterator[dict[str, list[Any]]]:
        pixels, in_order, inspect = 0.0, InOrder(), functools.partial(_inspect, roots=source.roots, channels=channels)
        for batch in records.iter(batch_size=SCANNING_BATCH):
            found = list(in_order(inspect, batch[source.image_column], pixels))
            yield {name: [None if facts is None else facts[name] for facts in found] for name in FEATURES}
            # Only images of more than 8 bits were read beyond the header.
            pixels = sum(facts["width"] * facts["height"] for facts in found if facts and facts["kind"]) / len(found)

    stamps = stamps_of(records, source.image_column, source.roots)
    parts = [SCAN_VERSION, records.column_names, records._fingerprint, stamps, axis_hint(channels)]
    place = None if stamps is None else cache_file("facts", parts)
    table = read_or_build(place, FEATURES, len(records), rows, f"looking at {source.split}")
    return _summarize(table.data.table)


def scan_values(values: Sequence[Any], roots: tuple[str, ...], channels: int | None = None) -> Scan:
    """Look at some undecoded images, see `scan`."""
    found = [facts for value in values if (facts := _inspect(value, roots, channels)) is not None]
    return _summarize(pyarrow.Table.from_pylist(found, schema=FEATURES.arrow_schema))


def check_value_range(
    scans: Sequence[Scan],
    value_range: ValueRange | None,
    source: str,
    split: str,
    *,
    are_all: bool = True,
    keeps_bits: bool = False,
) -> None:
    """Raise a `ValueError` if a range does not fit the values of all images, or if they need one and it is None.

    `split` is named in the message; `are_all` says that there are no other images, which may need the range. Without one,
    gray images of 16 bits must use more than half of 0..65535 and arrays more than half of 0..255, or they might be 12 bits
    in 16, or 0 and 1, and would become black. `keeps_bits` says that all bits of images with colour are read.
    """
    ranges: dict[Kind, ValueRange] = {}
    for kind, (low, high) in (pair for each in scans for pair in each.ranges.items()):
        known = ranges.get(kind, (low, high))
        ranges[kind] = min(low, known[0]), max(high, known[1])
    if value_range is not None and not ranges and are_all:
        raise ValueError(f"value_range is {list(value_range)}, but all images have plain 8 bits: leave it out")
    for kind, (low, high) in ranges.items():
        where = f"in split {split!r} of `source` {source!r} are {low:g} to {high:g}"
        if kind == "reduced" and value_range is not None and keeps_bits:
            continue  # only the upper 8 bits have been looked at; decoding finds a value outside the range
        if kind == "reduced" and value_range != (0, MAX_16_BIT) and (value_range is not None or high <= MAX_16_BIT / 2):
            raise ValueError(
                f"value_range is {_written(value_range)}, but values of images with 16 bits and colour or transparency "
                f"{where}: give [0, {MAX_16_BIT}], or `pixel_type` uint16 and their range to keep all bits"
            )
        if value_range is not None and (low < value_range[0] or high > value_range[1]):
            raise ValueError(f"value_range is {_written(value_range)}, but values {where}: give a range that holds them")
        if value_range is None and not _fits_default(kind, low, high):
            raise ValueError(
                f"value_range is None, but values of more than 8 bits {where}: "
                f"give the range from black to white, such as {_suggest(kind, low, high)}"
            )


def _inspect(value: Any, roots: tuple[str, ...], channels: int | None = None) -> dict[str, Any] | None:
    """Facts about an image; None = it cannot be read, which decoding reports."""
    try:
        facts: ImageFacts = inspect_image(value, roots, channels)
    except UndecodableImage:
        return None
    return asdict(facts)


def _summarize(facts: pyarrow.Table) -> Scan:
    facts = facts.filter(pyarrow.compute.is_valid(facts["width"]))
    if len(facts) == 0:
        return Scan(originals=None, ranges={})
    sizes = pyarrow.compute.multiply(facts["width"].cast("int64"), facts["height"].cast("int64")).to_numpy()
    smallest, largest = (facts.slice(int(row), 1).to_pylist()[0] for row in (sizes.argmin(), sizes.argmax()))
    num_gray = pyarrow.compute.sum(facts["is_gray"]).as_py()
    originals = Originals(
        smallest=(smallest["width"], smallest["height"]),
        largest=(largest["width"], largest["height"]),
        num_gray=num_gray,
        num_colour=len(facts) - num_gray,
    )
    kinds = facts.group_by("kind").aggregate([("low", "min"), ("high", "max")]).to_pylist()
    ranges = {row["kind"]: (row["low_min"], row["high_max"]) for row in kinds if row["kind"] is not None}
    num_with_frames = pyarrow.compute.sum(facts["has_frames"]).as_py()
    layouts = facts.group_by(["kind", "dtype", "channels", "num_pages"]).aggregate([([], "count_all")]).to_pylist()
    return Scan(
        originals=originals,
        ranges=ranges,
        num_plain=sum(layout["count_all"] for layout in layouts if layout["kind"] is None),
        dtypes=tuple(sorted({layout["dtype"] for layout in layouts if layout["dtype"] is not None})),
        stored_channels=tuple(sorted({(layout["channels"], layout["num_pages"]) for layout in layouts})),
        channels_of_kinds=tuple(
            sorted({(layout["kind"], layout["channels"]) for layout in layouts if layout["kind"] is not None})
        ),
        mean_pixels=float(sizes.mean()),
        num_with_frames=num_with_frames,
    )


def _fits_default(kind: Kind, low: float, high: float) -> bool:
    if kind not in DEFAULT_RANGES:
        return False
    least, most = DEFAULT_RANGES[kind]
    return least <= low and most / 2 < high <= most


def _suggest(kind: Kind, low: float, high: float) -> str:
    """A likely range of values, as on the command line."""
    if low < 0 or (kind == "floats" and high > 1):
        return f"[{math.floor(low)}, {math.ceil(high)}]"
    return f"[0, {(1 << max(1, math.ceil(high).bit_length())) - 1}]"


def _written(value_range: ValueRange | None) -> str:
    return str(None) if value_range is None else "[" + ", ".join(f"{value:g}" for value in value_range) + "]"
