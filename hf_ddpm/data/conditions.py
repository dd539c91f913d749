"""Read what images are conditioned on where that is not one class: `condition_reader(features, "labels", ...)`.

It becomes a vector: of a set of labels with one true or false per label, of a number with the number alone.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import datasets

from hf_ddpm.data.columns import FLOATS, INTEGERS, LABEL_COLUMN_NAMES, element_type, require_column, type_name
from hf_ddpm.data.labels import class_ids_of, class_names_of, classes_among, label_problem, plain_label
from hf_ddpm.data.options import Condition
from hf_ddpm.data.undecoded import path_of

Range = tuple[float, float]
NUMBERS = (*INTEGERS, *FLOATS)


class BadCondition(ValueError):
    """A value in the data that is not a condition; says which and why."""

    def __init__(self, value: Any, column: str, problem: str) -> None:
        super().__init__(f"{value} {problem}")
        self.value, self.column, self.problem = value, column, problem

    def describe(self, place: str, path: str | None) -> str:
        """The value at this place of the data, of an image with this path, and what to do, on one line."""
        file = f" (file {path!r})" if path else ""
        return f"label {self.value} at {place}{file} {self.problem}: fix the column {self.column!r}, or choose another"


@dataclass(frozen=True, kw_only=True)
class ConditionReader(ABC):
    """Reads the vectors of a dataset."""

    columns: tuple[str, ...]
    """Columns that are read."""
    names: list[str]
    """Name of each entry of a vector."""
    entry: datasets.Value = field(default_factory=lambda: datasets.Value("bool"))
    """Type of the entries."""

    @abstractmethod
    def vector(self, example: Mapping[str, Any]) -> list[Any]:
        """The vector of a row, given its columns by name; a `BadCondition` if it has none."""


@dataclass(frozen=True, kw_only=True)
class ListReader(ConditionReader):
    """Labels from a column of lists of labels, or of single labels."""

    places: dict[Any, int | None]
    """Label in the data -> its entry; None = it is not used."""
    num_classes: int | None
    """Labels that the type of the column names; None = it does not."""

    def vector(self, example: Mapping[str, Any]) -> list[bool]:
        [column] = self.columns
        value, vector = example[column], [False] * len(self.names)
        if value is None:
            raise BadCondition(value, column, "is missing, and an image without labels has an empty list")
        labels = [plain_label(label) for label in (value if isinstance(value, list) else [value])]
        for label in labels:
            if isinstance(label, list) or label not in self.places:
                raise BadCondition(label, column, label_problem(label, self.num_classes))
            if labels.count(label) > 1:
                raise BadCondition(value, column, f"has {label!r} twice, and a list holds each label that an image has once")
            place = self.places[label]
            if place is not None:
                vector[place] = True
        return vector


@dataclass(frozen=True, kw_only=True)
class AttributeReader(ConditionReader):
    """Labels from one column each."""

    def vector(self, example: Mapping[str, Any]) -> list[bool]:
        for column in self.columns:
            value = example[column]
            if value not in (1, 0, -1):  # true and false are 1 and 0
                missing = value is None or value != value
                raise BadCondition(value, column, "is missing" if missing else "is neither 0 (or -1) nor 1")
        return [example[column] == 1 for column in self.columns]


@dataclass(frozen=True, kw_only=True)
class NumberReader(ConditionReader):
    """A number from a column of numbers."""

    condition_range: Range | None
    """The lowest and highest that are allowed; None = all."""

    def vector(self, example: Mapping[str, Any]) -> list[float]:
        [column] = self.columns
        value = example[column]
        if value is None or not math.isfinite(value):
            raise BadCondition(value, column, "is missing" if value is None or value != value else "is not finite")
        if self.condition_range is not None and not is_within(value, self.condition_range):
            low, high = self.condition_range
            raise BadCondition(value, column, f"is outside condition_range, {low:g} to {high:g}")
        return [float(value)]


def condition_reader(
    dataset: datasets.Dataset | datasets.IterableDataset,
    condition: Condition,
    *,
    label_column: str | None,
    labels: list[str | int] | None,
    attribute_columns: list[str] | None,
    condition_range: Range | None,
) -> ConditionReader:
    """What reads the conditions of a dataset; for the options see `open_source`. A `ValueError` says what is wrong.

    A stream must know the labels without reading them, and needs a range.
    """
    features, streaming = dataset.features, isinstance(dataset, datasets.IterableDataset)
    if condition == "number":
        column = _number_column(features, label_column)
        if streaming and condition_range is None:
            raise ValueError(
                "condition_range is None: a stream is not read before the training, give the range of its numbers"
            )
        entry = datasets.Value("float64")
        return NumberReader(columns=(column,), names=[column], entry=entry, condition_range=condition_range)
    if attribute_columns is not None:
        for column in attribute_columns:
            require_column(features, column, "attribute_columns")
            kind = type_name(features, column)
            if kind not in ("bool", *NUMBERS):
                raise ValueError(f"attribute_columns is {column!r}, of type {kind}: expected true and false, or 0 and 1")
        return AttributeReader(columns=tuple(attribute_columns), names=list(attribute_columns))
    column = _list_column(features, label_column)
    declared = class_names_of(features[column])
    if declared is not None:
        known: list[Any] = list(range(len(declared)))
    elif streaming:
        raise ValueError(
            f"the column {column!r} is of type {type_name(features, column)}, and its labels are known at the end of the "
            "stream only: leave out `streaming`, or cast it to lists of ClassLabel"
        )
    else:
        known = classes_among(plain_label(label) for value in dataset[column][:] for label in _listed(value))
    all_names = declared or [str(label) for label in known]
    wanted = list(range(len(known))) if labels is None else class_ids_of(labels, all_names)
    entries = {class_id: entry for entry, class_id in enumerate(wanted)}
    return ListReader(
        columns=(column,),
        names=[all_names[class_id] for class_id in wanted],
        places={label: entries.get(class_id) for class_id, label in enumerate(known)},
        num_classes=None if declared is None else len(declared),
    )


def encode_conditions(
    dataset: datasets.Dataset, reader: ConditionReader, split: str, image_column: str
) -> tuple[datasets.Dataset, str]:
    """Replace the columns of the conditions by one of vectors; return the dataset and the name of that column.

    A value that cannot be a condition is a `ValueError`. `split` and `image_column`, undecoded, are for its message.
    """
    vectors = []
    for row, values in enumerate(zip(*(dataset[column][:] for column in reader.columns), strict=True)):
        try:
            vectors.append(reader.vector(dict(zip(reader.columns, values, strict=True))))
        except BadCondition as error:
            path = path_of(dataset[row][image_column])
            raise ValueError(error.describe(f"row {row} of split {split!r}", path)) from None
    column, kind = reader.columns[0], datasets.List(reader.entry, length=len(reader.names))
    return dataset.remove_columns(list(reader.columns)).add_column(column, vectors, feature=kind), column


def range_of(numbers: Iterable[float]) -> Range:
    """The lowest and the highest of numbers."""
    numbers = list(numbers)
    return min(numbers), max(numbers)


def is_within(number: float, limits: Range) -> bool:
    """Whether a number lies in a range, but for the rounding of float32."""
    rounding = 1e-6 * max(map(abs, limits))
    return limits[0] - rounding <= number <= limits[1] + rounding


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _number_column(features: datasets.Features, label_column: str | None) -> str:
    column = label_column or next((name for name in LABEL_COLUMN_NAMES if name in features), None)
    numeric = [name for name in features if type_name(features, name) in NUMBERS]
    if column is None:
        hint = f", such as {' or '.join(numeric)}" if numeric else ""
        raise ValueError(f"condition is 'number', but which column? Name it with `label_column`{hint}")
    require_column(features, column, "label_column")
    if column not in numeric:
        remedy = "name a column of numbers, or leave out `condition`"
        raise ValueError(f"label_column is {column!r}, of type {type_name(features, column)}: {remedy}")
    return column


def _list_column(features: datasets.Features, label_column: str | None) -> str:
    lists = [name for name in features if isinstance(element_type(features[name]), datasets.ClassLabel)]
    candidates = lists or [name for name in LABEL_COLUMN_NAMES if name in features]
    if label_column is None and len(candidates) != 1:
        which = f"the labels could be in {' or '.join(candidates)}" if candidates else "no column is a list of ClassLabel"
        raise ValueError(f"condition is 'labels', but {which}: name one with `label_column`, or give `attribute_columns`")
    column = label_column or candidates[0]
    require_column(features, column, "label_column")
    feature = element_type(features[column]) or features[column]
    is_label = isinstance(feature, datasets.ClassLabel) or (
        isinstance(feature, datasets.Value) and feature.dtype in ("string", "large_string", *NUMBERS)
    )
    if not is_label:
        remedy = "expected lists of ClassLabel, integers or strings, or give columns of 0 and 1 as `attribute_columns`"
        raise ValueError(f"label_column is {column!r}, of type {type_name(features, column)}: {remedy}")
    return column
