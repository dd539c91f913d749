"""Check the labels of a dataset, keep the requested classes and number them from 0."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from hf_ddpm.data.description import LeftOut
from hf_ddpm.data.undecoded import path_of
from hf_ddpm.text import composed

WORD_AND_NUMBER = re.compile(r"([^\W\d_]{2,})[\W_]*\d+")


def encode_labels(
    dataset: datasets.Dataset, column: str, labels: list[str | int] | None, split: str, image_column: str
) -> tuple[datasets.Dataset, list[str], np.ndarray[Any, Any] | None]:
    """Check the labels, keep the classes in `labels` (None = all) and number them from 0 in this order.

    Args:
        dataset: one whole split.
        column: its label column.
        labels: classes to keep; a `ValueError` if they do not fit, or if a label of the data is missing or out of range.
        split, image_column: name of the split and its image column, undecoded, for messages.

    Returns:
        The dataset, the class names, and for each row of the dataset its row in the split (None = the whole split).
    """
    class_ids, class_names = _read_labels(dataset, column, split, image_column)
    if labels is None:
        if isinstance(dataset.features[column], datasets.ClassLabel):
            return dataset, class_names, None
        return _replace_labels(dataset, column, class_ids), class_names, None
    wanted = class_ids_of(labels, class_names)
    present = set(class_ids)
    empty = [class_names[class_id] for class_id in wanted if class_id not in present]
    if empty:
        raise ValueError(f"labels is {labels!r}, but {empty[0]!r} has no image in split {split!r}: leave it out")
    new_ids = {class_id: new_id for new_id, class_id in enumerate(wanted)}
    kept_rows = np.flatnonzero([class_id in new_ids for class_id in class_ids])
    dataset = _replace_labels(dataset, column, [new_ids.get(class_id, -1) for class_id in class_ids])
    return dataset.select(kept_rows), [class_names[class_id] for class_id in wanted], kept_rows


def _replace_labels(dataset: datasets.Dataset, column: str, class_ids: list[int]) -> datasets.Dataset:
    """Replace the label column by these class ids, int64."""
    ids = np.array(class_ids, dtype=np.int64)
    return dataset.remove_columns(column).add_column(column, ids, feature=datasets.Value("int64"))


def plain_label(value: Any) -> Any:
    """A label as an integer (a bool is one) or text: also if it is a whole float, or alone in a list.

    Other values, such as 0.5 or a list of two, are returned as they are: they are not labels.
    """
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def label_problem(value: Any, num_classes: int | None) -> str:
    """Why a `plain_label` is not a class; `num_classes` is that of a column whose type names its classes, else None."""
    if value is None or value != value:
        return "is missing"
    if value == "":
        return "is an empty text"
    if isinstance(value, list):
        return f"is a list of {len(value)}, and an image has one class"
    if isinstance(value, float):
        return "is not a whole number"
    return "is negative, which marks an image without a class" if num_classes is None else f"is outside 0..{num_classes - 1}"


def class_names_of(feature: Any) -> list[str] | None:
    """The class names that follow from the type of a column, or of the lists in it; None = they depend on its values."""
    feature = getattr(feature, "feature", feature)
    if isinstance(feature, datasets.Value) and feature.dtype == "bool":
        return ["False", "True"]
    return list(feature.names) if isinstance(feature, datasets.ClassLabel) else None


def classes_among(values: Iterable[Any]) -> list[Any]:
    """The distinct classes among plain labels, in order; missing, empty and negative labels mean no class."""
    return sorted_classes({value for value in values if value != "" and (isinstance(value, str) or _is_id(value))})


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and value >= 0


def _read_labels(dataset: datasets.Dataset, column: str, split: str, image_column: str) -> tuple[list[int], list[str]]:
    """Class id of each row in [0, num_classes), and the class names: sorted values where the column is not a ClassLabel."""
    values = [plain_label(value) for value in dataset[column][:]]
    class_names = class_names_of(dataset.features[column])
    num_classes = None if class_names is None else len(class_names)
    known = classes_among(values) if num_classes is None else range(num_classes)
    class_ids = {value: class_id for class_id, value in enumerate(known)}
    for row, value in enumerate(values):
        if isinstance(value, list) or value not in class_ids:
            path, place = path_of(dataset[row][image_column]), f"row {row} of split {split!r}"
            raise ValueError(describe_label(value, column, place, path, label_problem(value, num_classes)))
    return [class_ids[value] for value in values], class_names or [str(value) for value in known]


def sorted_classes(values: Iterable[Any]) -> list[Any]:
    """Integers, or names that are all integers, in the order of numbers; other names in that of their characters."""
    classes = list(values)
    if all(isinstance(value, str) and value.isascii() and value.isdecimal() for value in classes):
        return sorted(classes, key=lambda name: (len(name.lstrip("0")), name.lstrip("0"), name))
    return sorted(classes)


def words_left_out(paths: Iterable[str | None]) -> tuple[LeftOut, ...]:
    """Words that look like classes in the names of image files without labels, such as cat_01.png and dog_01.png."""
    stems = [Path(path).stem for path in paths if path]
    found = [match[1] for stem in stems if (match := WORD_AND_NUMBER.fullmatch(stem))]
    words = sorted(set(found))
    if not 1 < len(words) < len(found) or len(found) < len(stems):
        return ()
    what = f"words in file names ({first_ten(words)})"
    return (LeftOut(what, len(words), "they are not classes: use a folder for each class, or a metadata file"),)


def describe_label(value: Any, column: str, place: str, path: str | None, problem: str) -> str:
    """Which label is wrong and why, on one line."""
    file = f" (file {path!r})" if path else ""
    return (
        f"label {value if value != '' else repr(value)} at {place}{file} {problem}: "
        f"fix the column {column!r}, give another `label_column`, or set `class_conditional` to false"
    )


def class_ids_of(labels: list[str | int], names: list[str]) -> list[int]:
    """Class id of each token of `labels`, which is looked up among the class names first, then among the ids."""
    if not labels:
        raise ValueError("labels is []: name at least one class, or leave it out to keep all")
    wanted = [_class_id(token, names, labels) for token in labels]
    for class_id in wanted:
        if wanted.count(class_id) > 1:
            raise ValueError(f"labels is {labels!r}, with class {names[class_id]!r} (id {class_id}) twice: name it once")
    return wanted


def _class_id(token: str | int, names: list[str], labels: list[str | int]) -> int:
    """Class id of one token of `labels`."""
    if str(token) in names:
        return names.index(str(token))
    same = [class_id for class_id, name in enumerate(names) if composed(name) == composed(str(token))]
    if len(same) == 1:
        return same[0]
    if not str(token).removeprefix("-").isdecimal():
        nearest = difflib.get_close_matches(str(token), names, n=3)
        hint = f"did you mean {' or '.join(nearest)}?" if nearest else f"the names are {first_ten(names)}"
        reason = f"{token!r} is neither a class name nor an id in 0..{len(names) - 1}"
        raise ValueError(f"labels is {labels!r}, but {reason}: {hint}")
    class_id = int(token)
    if not 0 <= class_id < len(names):
        reason = f"{token!r} is outside 0..{len(names) - 1}"
        raise ValueError(f"labels is {labels!r}, but {reason}: the names are {first_ten(names)}")
    return class_id


def first_ten(names: list[str]) -> str:
    """The first ten names as text."""
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
