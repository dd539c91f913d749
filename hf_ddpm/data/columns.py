"""Choose the image column and the label column of a dataset by the types of its columns."""

from __future__ import annotations

import datasets

LABEL_COLUMN_NAMES = ("label", "labels")
LABEL_DTYPES = ("string", "large_string", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


def choose_columns(
    features: datasets.Features,
    image_column: str | None,
    label_column: str | None,
    labels: list[str | int] | None,
    class_conditional: bool | None,
) -> tuple[str, str | None]:
    """The image column and the label column (None = there are no labels, or none are requested) of a dataset.

    For the options see `open_source`; a column that is missing, ambiguous or of the wrong type is a `ValueError`.
    """
    image_column = _find_image_column(features, image_column)
    if class_conditional is False and labels is None:
        if label_column is not None:
            raise ValueError(
                f"label_column is {label_column!r}, which has no use where `class_conditional` is False: drop one of them"
            )
        return image_column, None
    label_column = _find_label_column(features, label_column)
    if label_column is None and (labels is not None or class_conditional):
        wish = "class_conditional is True" if labels is None else f"labels is {labels!r}"
        raise ValueError(
            f"{wish}, but no column is a ClassLabel or called label among {', '.join(features)}: "
            "name one with `label_column`"
        )
    return image_column, label_column


def type_name(features: datasets.Features, column: str) -> str:
    """Name of a column's type in the datasets library."""
    feature = features[column]
    return feature.dtype if isinstance(feature, datasets.Value) else type(feature).__name__


def _find_image_column(features: datasets.Features, image_column: str | None) -> str:
    """The given image column, or the only one."""
    candidates = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    if image_column is not None:
        _require_column(features, image_column, "image_column")
        if image_column not in candidates:
            raise ValueError(
                f"image_column is {image_column!r}, of type {type_name(features, image_column)}: "
                "expected datasets.Image (see Dataset.cast_column)"
            )
        return image_column
    if not candidates:
        columns = ", ".join(f"{name} ({type_name(features, name)})" for name in features)
        raise ValueError(f"`source` has no column of type datasets.Image, only {columns}: use another source")
    if len(candidates) > 1:
        raise ValueError(f"the images could be in {' or '.join(candidates)}: name one with `image_column`")
    return candidates[0]


def _find_label_column(features: datasets.Features, label_column: str | None) -> str | None:
    """The given label column, or the only one; None = there is none."""
    class_label_columns = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]

    def can_be_labels(column: str) -> bool:
        return column in class_label_columns or getattr(features[column], "dtype", None) in LABEL_DTYPES

    if label_column is not None:
        _require_column(features, label_column, "label_column")
        if not can_be_labels(label_column):
            raise ValueError(
                f"label_column is {label_column!r}, of type {type_name(features, label_column)}: "
                "expected ClassLabel, integers or strings"
            )
        return label_column
    candidates = class_label_columns or [name for name in LABEL_COLUMN_NAMES if name in features]
    if len(candidates) > 1:
        raise ValueError(f"the labels could be in {' or '.join(candidates)}: name one with `label_column`")
    if candidates and not can_be_labels(candidates[0]):
        raise ValueError(
            f"the column {candidates[0]!r} is of type {type_name(features, candidates[0])}, not ClassLabel, "
            "integers or strings: give `label_column`, or set `class_conditional` to false"
        )
    return candidates[0] if candidates else None


def _require_column(features: datasets.Features, column: str, argument: str) -> None:
    """Raise a `ValueError` if a column does not exist."""
    if column not in features:
        raise ValueError(f"{argument} is {column!r}, which does not exist: the columns are {', '.join(features)}")
