"""Open the splits that options name, without torch: `open_sources(config.data)`, or `open_early(config.data)` before it."""

from __future__ import annotations

from typing import Any

from hf_ddpm.data.options import DecodeOptions
from hf_ddpm.data.sources import ImageSource, Splits, open_source

_early: dict[str, list[ImageSource]] = {}
"""What `open_early` opened, by its options, until it is used."""


def open_early(data: DecodeOptions) -> None:
    """Open the splits for the next `open_sources` of these options, so that a mistake is found before torch is imported."""
    _early.clear()
    _early[repr(data)] = _open_all(data)


def open_sources(data: DecodeOptions, splits: Splits | None = None) -> list[ImageSource]:
    """Open the train split and, if one is named, the held-out split, which must have the same classes.

    `splits` are given by a program, by their names; None = they are those of the source.
    """
    return _early.pop(repr(data), None) or _open_all(data, splits)


def check_classes(data: DecodeOptions, train: Any, test: Any = None) -> None:
    """Raise a `ValueError` if the held-out split (None = there is none) has other classes than the train split, or all
    numbers of the train split are the same."""
    low, high = train.condition_range or (0, 1)
    if low == high:
        [column] = train.class_names
        raise ValueError(f"label_column is {column!r}, which is {low:g} in all images: name another, or none")
    if test is not None and test.class_names != train.class_names:
        raise ValueError(f"test_split is {test.split!r}: its classes are not those of {data.train_split!r}")


def _open_all(data: DecodeOptions, splits: Splits | None = None) -> list[ImageSource]:
    assert data.source is not None, "options without a source have got that of their model by now"
    options: dict[str, Any] = {**data.column_options(), "splits": splits}
    sources = [open_source(data.source, data.train_split, max_images=data.max_images, **options)]
    test_split = getattr(data, "test_split", None)
    if test_split is not None:
        sources.append(open_source(data.source, test_split, **options))
    check_classes(data, *sources)
    return sources
