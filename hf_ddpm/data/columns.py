"""Choose the image column and the label column of a dataset by the types of its columns."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, TypeVar

import datasets

from hf_ddpm.data.decode import UndecodableImage, inspect_image

LABEL_COLUMN_NAMES = ("label", "labels")
OTHER_LABEL_NAMES = (
    "target", "targets", "class", "classes", "class_id", "class_name", "category", "y", "label_id", "label_name",
    "fine_label", "coarse_label",
)  # fmt: skip
"""Names of columns that are labels in many data sets, and something else in others."""
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
FLOATS = ("float16", "float32", "float64")
STRINGS = ("string", "large_string")
BINARY = ("binary", "large_binary")
FIRST_ROWS = 100  # among which a column of bytes must have an image

Source = TypeVar("Source", datasets.Dataset, datasets.IterableDataset)


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which columns of a dataset are used."""

    image: str
    """Name of the image column."""
    label: str | None
    """Name of the label column; None = there are no labels, or none are requested."""
    unused_labels: tuple[str, ...] = ()
    """Columns that look like labels, where no labels are used and nobody has said so."""


def choose_columns(
    dataset: datasets.Dataset | datasets.IterableDataset,
    image_column: str | None,
    label_column: str | None,
    labels: list[str | int] | None,
    class_conditional: bool | None,
    roots: tuple[str, ...] = (),
) -> Columns:
    """The image column and the label column of a dataset.

    For the options see `open_source`, for `roots` see `image_roots`; a column that is missing, ambiguous or of the wrong
    type is a `ValueError`.
    """
    features = dataset.features
    image_column = _find_image_column(dataset, image_column, roots)
    if class_conditional is False and labels is None:
        if label_column is not None:
            raise ValueError(
                f"label_column is {label_column!r}, which has no use where `class_conditional` is False: drop one of them"
            )
        return Columns(image=image_column, label=None)
    label_column = _find_label_column(features, label_column)
    similar = [name for name in features if _looks_like_labels(name) and _can_be_labels(features[name])]
    if label_column is None and (labels is not None or class_conditional):
        wish = "class_conditional is True" if labels is None else f"labels is {labels!r}"
        hint = f", such as {' or '.join(similar)}" if similar else ""
        raise ValueError(
            f"{wish}, but no column is a ClassLabel or called label among {', '.join(features)}: "
            f"name one with `label_column`{hint}"
        )
    return Columns(image=image_column, label=label_column, unused_labels=() if label_column else tuple(similar))


def with_undecoded_images(dataset: Source, image_column: str) -> Source:
    """The dataset with images as `bytes` and `path`; arrays of pixels stay as they are."""
    if _is_array(dataset.features[image_column]):
        return dataset
    return dataset.cast_column(image_column, datasets.Image(decode=False))


def type_name(features: datasets.Features, column: str) -> str:
    """Name of a column's type, in the datasets library if it has one there."""
    return _type_name(features[column])


def _type_name(feature: Any) -> str:
    if isinstance(feature, datasets.Value):
        return feature.dtype
    if isinstance(feature, dict):
        return f"struct of {' and '.join(feature)}"
    inner = element_type(feature)
    return type(feature).__name__ if inner is None else f"list of {_type_name(inner)}"


def _find_image_column(
    dataset: datasets.Dataset | datasets.IterableDataset, image_column: str | None, roots: tuple[str, ...]
) -> str:
    """The given image column, or the only one."""
    features = dataset.features
    if image_column is not None:
        require_column(features, image_column, "image_column")
        feature = features[image_column]
        is_path = isinstance(feature, datasets.Value) and feature.dtype in STRINGS
        if not (isinstance(feature, datasets.Image) or is_path or _is_bytes(feature) or _is_array(feature)):
            raise ValueError(
                f"image_column is {image_column!r}, of type {_type_name(feature)}: name a column of images, bytes or paths "
                "of image files, or of arrays of pixels"
            )
        return image_column
    candidates = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    if not candidates:
        candidates = [name for name, feature in features.items() if _is_bytes(feature)]
        candidates = [name for name in candidates if _holds_images(dataset, name, roots)]
    if not candidates:
        columns = ", ".join(f"{name} ({type_name(features, name)})" for name in features)
        raise ValueError(
            f"`source` has no column of images, only {columns}: use another source, or name a column of paths or of arrays "
            "of pixels with `image_column`"
        )
    if len(candidates) > 1:
        raise ValueError(f"the images could be in {' or '.join(candidates)}: name one with `image_column`")
    return candidates[0]


def _is_bytes(feature: Any) -> bool:
    """Whether values may be the bytes of files, alone or beside a path, as images are stored in parquet files."""
    if isinstance(feature, dict):
        return "bytes" in feature and feature.keys() <= {"bytes", "path"} and _is_bytes(feature["bytes"])
    return isinstance(feature, datasets.Value) and feature.dtype in BINARY


def _is_array(feature: Any) -> bool:
    """Whether values may be pixels: lists of lists of numbers."""
    if isinstance(feature, (datasets.Array2D, datasets.Array3D)):
        return True
    rows = element_type(feature)
    inner = rows and element_type(rows)
    inner = (inner and element_type(inner)) or inner
    return isinstance(inner, datasets.Value) and inner.dtype in ("bool", *INTEGERS, *FLOATS)


def element_type(feature: Any) -> Any:
    """The type of the elements of a list; None = it is not a list."""
    return feature.feature if isinstance(feature, (datasets.List, datasets.LargeList)) else None


def _holds_images(dataset: datasets.Dataset | datasets.IterableDataset, column: str, roots: tuple[str, ...]) -> bool:
    """Whether the first value of a column that is not missing is an image."""
    rows = with_undecoded_images(dataset.select_columns([column]), column)
    value = next((row[column] for row in itertools.islice(rows, FIRST_ROWS) if row[column] is not None), None)
    try:
        inspect_image(value, roots)
    except UndecodableImage:
        return False
    return True


def _find_label_column(features: datasets.Features, label_column: str | None) -> str | None:
    """The given label column, or the only one; None = there is none."""
    if label_column is not None:
        require_column(features, label_column, "label_column")
        if not _can_be_labels(features[label_column]):
            raise ValueError(
                f"label_column is {label_column!r}, of type {type_name(features, label_column)}: "
                "expected ClassLabel, integers, strings or true and false"
            )
        return label_column
    class_label_columns = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    candidates = class_label_columns or [name for name in LABEL_COLUMN_NAMES if name in features]
    if len(candidates) > 1:
        raise ValueError(f"the labels could be in {' or '.join(candidates)}: name one with `label_column`")
    if candidates and not _can_be_labels(features[candidates[0]]):
        raise ValueError(
            f"the column {candidates[0]!r} is of type {type_name(features, candidates[0])}, not ClassLabel, "
            "integers, strings or true and false: give `label_column`, or set `class_conditional` to false"
        )
    return candidates[0] if candidates else None


def _can_be_labels(feature: Any) -> bool:
    """Whether values may be classes, also as lists of one; the values themselves are checked by `encode_labels`."""
    feature = element_type(feature) or feature
    if isinstance(feature, datasets.Value):
        return feature.dtype in ("bool", *STRINGS, *INTEGERS, *FLOATS)
    return isinstance(feature, datasets.ClassLabel)


def _looks_like_labels(column: str) -> bool:
    return column.strip().lower() in (*LABEL_COLUMN_NAMES, *OTHER_LABEL_NAMES)


def require_column(features: datasets.Features, column: str, argument: str) -> None:
    """Raise a `ValueError` if a column does not exist."""
    if column not in features:
        raise ValueError(f"{argument} is {column!r}, which does not exist: the columns are {', '.join(features)}")
