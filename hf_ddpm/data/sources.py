"""Find the images and the labels of a dataset: the embedded digits, a local folder or a Hub repository.

source = open_source("digits", "train", labels=["3", 7])
"""

from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import PIL.Image

from hf_ddpm.data.labels import settle_labels

DIGITS_TEST_IMAGES = 360
FORMAT_NAMES = ("arrow", "csv", "imagefolder", "json", "parquet", "text", "webdataset")
LABEL_COLUMN_NAMES = ("label", "labels")
LABEL_DTYPES = (
    "string",
    "large_string",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
)


@dataclass(frozen=True, kw_only=True)
class ImageSource:
    """A map-style dataset whose image and label columns are known.

    Attributes:
        dataset: images undecoded (`Image(decode=False)`); labels, if any, int64 in [0, num_classes).
        name: the source as the user gave it.
        split: the split as the user gave it.
        image_column: name of the image column.
        label_column: name of the label column, None = no labels.
        class_names: name of each class in the order of the labels, None = no labels.
        kept_rows: for each row of `dataset` its row in the split; None = the whole split.
    """

    dataset: datasets.Dataset
    name: str
    split: str
    image_column: str
    label_column: str | None
    class_names: list[str] | None
    kept_rows: list[int] | None = None


def open_source(
    source: str,
    split: str,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    labels: list[str | int] | None = None,
    class_conditional: bool | None = None,
) -> ImageSource:
    """Open one split of a dataset, find its columns and check its labels.

    Args:
        source: "digits" (the 8 x 8 digits of scikit-learn), a local folder (saved dataset, parquet files or
            images) or a Hub id. A local folder called digits is given as "./digits".
        split: name of the split. A saved dataset that names no split is "train".
        image_column: column of the images, None = the only column of type Image.
        label_column: column of the labels (ClassLabel, integers or strings), None = the only column of type
            ClassLabel, else the column called "label" or "labels".
        labels: classes to keep, in this order, renumbered from 0; a token is matched with the class names
            first, then with the ids. None = all.
        class_conditional: True = labels are required, False = labels serve to keep `labels` and are then
            dropped, None = labels are used when there are any.

    Returns:
        The opened source.

    Raises:
        ValueError: an option is wrong, or the data cannot be read, has no image or has a wrong label.
    """
    dataset = _pick_split(_open_splits(source), source, split)
    image_column = _find_image_column(dataset, image_column)
    dataset = dataset.cast_column(image_column, datasets.Image(decode=False))
    class_names, kept_rows = None, None
    if class_conditional is False and labels is None:
        if label_column is not None:
            raise ValueError(
                f"--data.label_column {label_column!r} has no use with --data.class_conditional false: drop one of them"
            )
    else:
        label_column = _find_label_column(dataset, label_column)
        if label_column is None:
            _require_no_labels(dataset, labels, class_conditional)
        else:
            dataset, class_names, kept_rows = settle_labels(dataset, label_column, labels, split)
    return ImageSource(
        dataset=dataset,
        name=source,
        split=split,
        image_column=image_column,
        label_column=None if class_conditional is False else label_column,
        class_names=None if class_conditional is False else class_names,
        kept_rows=kept_rows,
    )


def _open_splits(source: str) -> dict[str, datasets.Dataset]:
    """Return every split of a source by name."""
    if source == "digits":
        return _digits_splits()
    folder = Path(source).expanduser()
    if source and folder.is_dir():
        return _folder_splits(folder, source)
    if source and folder.exists():
        raise ValueError(f"--data.source {source!r} is a file: give the folder that holds it")
    # load_dataset("imagefolder") and its like would read the files of the current folder.
    if not source or source.startswith((".", "/", "~")) or source.count("/") > 1 or source in FORMAT_NAMES:
        raise ValueError(f"--data.source {source!r} is no existing folder: give a folder, a Hub id or 'digits'")
    try:
        return datasets.load_dataset(source)
    except Exception as error:
        raise ValueError(
            f"--data.source {source!r} is no local folder and could not be read from the Hub "
            f"({_in_short(error)}): check the name and the network, or give a local folder"
        ) from error


def _digits_splits() -> dict[str, datasets.Dataset]:
    """Return the 1,797 digits of scikit-learn, 8 x 8 in 17 gray levels, in a fixed stratified split."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    pixels = np.rint(digits.images / 16 * 255).astype(np.uint8)
    train_rows, test_rows = train_test_split(
        np.arange(len(pixels)), test_size=DIGITS_TEST_IMAGES, stratify=digits.target, random_state=0
    )
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=[str(digit) for digit in range(10)])}
    )
    return {
        split: datasets.Dataset.from_dict(
            {"image": [PIL.Image.fromarray(image) for image in pixels[rows]], "label": digits.target[rows]},
            features=features,
        )
        for split, rows in (("train", train_rows), ("test", test_rows))
    }


def _folder_splits(folder: Path, source: str) -> dict[str, datasets.Dataset]:
    """Return every split of a local folder, without the network."""
    is_saved = (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()
    for saved_split in (folder, *sorted(folder.iterdir())) if is_saved else ():
        if (saved_split / "state.json").is_file() and not any(saved_split.glob("*.arrow")):
            raise ValueError(f"--data.source {source!r} has no rows in {saved_split.name!r}: give another")
    try:
        saved = (datasets.load_from_disk if is_saved else datasets.load_dataset)(str(folder))
    except (datasets.data_files.EmptyDatasetError, datasets.exceptions.DataFilesNotFoundError) as error:
        raise ValueError(
            f"--data.source {source!r} holds nothing to read: give a saved dataset, parquet files or images"
        ) from error
    except Exception as error:
        broken = _truncated_parquet_file(folder)
        reason = f"the parquet file {str(broken)!r} is truncated" if broken else _in_short(error)
        raise ValueError(f"--data.source {source!r} could not be read: {reason}") from error
    if isinstance(saved, datasets.Dataset):
        return {str(saved.split or "train"): saved}
    return saved


def _truncated_parquet_file(folder: Path) -> Path | None:
    """Return the first parquet file that does not begin and end with the format's four magic bytes."""
    for path in sorted(folder.rglob("*.parquet")):
        with path.open("rb") as file:
            head = file.read(4)
            file.seek(max(0, path.stat().st_size - 4))
            if (head, file.read(4)) != (b"PAR1", b"PAR1"):
                return path
    return None


def _in_short(error: BaseException) -> str:
    """Return the class and the first words of the error that started it all, on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words if len(words) <= 200 else words[:200] + ' ...'}"


def _pick_split(splits: dict[str, datasets.Dataset], source: str, split: str) -> datasets.Dataset:
    """Return one split, not empty and in datasets' plain format."""
    if split not in splits:
        names = ", ".join(map(str, splits))
        raise ValueError(
            f"split {split!r} of --data.source {source!r} does not exist: name one with --data.train_split or "
            f"--data.test_split, there is {names}"
        )
    if len(splits[split]) == 0:
        raise ValueError(f"split {split!r} of --data.source {source!r} has no rows: choose another split or source")
    return splits[split].with_format(None)


def _find_image_column(dataset: datasets.Dataset, image_column: str | None) -> str:
    """Return the named image column, or the only one."""
    candidates = [name for name, feature in dataset.features.items() if isinstance(feature, datasets.Image)]
    if image_column is not None:
        _require_column(dataset, image_column, "--data.image_column")
        if image_column not in candidates:
            raise ValueError(
                f"--data.image_column {image_column!r} is of type {_type_name(dataset, image_column)}: "
                "expected datasets.Image (see Dataset.cast_column)"
            )
        return image_column
    if not candidates:
        columns = ", ".join(f"{name} ({_type_name(dataset, name)})" for name in dataset.column_names)
        raise ValueError(f"--data.source has no column of type datasets.Image, only {columns}: use another source")
    if len(candidates) > 1:
        raise ValueError(f"the images could be in {' or '.join(candidates)}: name one with --data.image_column")
    return candidates[0]


def _find_label_column(dataset: datasets.Dataset, label_column: str | None) -> str | None:
    """Return the named label column, or the only one, or None when there is none."""
    if label_column is not None:
        _require_column(dataset, label_column, "--data.label_column")
        if not _can_be_labels(dataset, label_column):
            raise ValueError(
                f"--data.label_column {label_column!r} is of type {_type_name(dataset, label_column)}: "
                "expected ClassLabel, integers or strings"
            )
        return label_column
    candidates = [name for name, feature in dataset.features.items() if isinstance(feature, datasets.ClassLabel)]
    candidates = candidates or [name for name in LABEL_COLUMN_NAMES if name in dataset.features]
    if len(candidates) > 1:
        raise ValueError(f"the labels could be in {' or '.join(candidates)}: name one with --data.label_column")
    if candidates and not _can_be_labels(dataset, candidates[0]):
        raise ValueError(
            f"the column {candidates[0]!r} is of type {_type_name(dataset, candidates[0])}, not ClassLabel, "
            "integers or strings: give --data.label_column or --data.class_conditional false"
        )
    return candidates[0] if candidates else None


def _require_column(dataset: datasets.Dataset, column: str, option: str) -> None:
    """Refuse a column that does not exist."""
    if column not in dataset.features:
        raise ValueError(f"{option} {column!r} does not exist: the columns are {', '.join(dataset.column_names)}")


def _can_be_labels(dataset: datasets.Dataset, column: str) -> bool:
    """Tell whether the type of a column is one that labels can have."""
    feature = dataset.features[column]
    return isinstance(feature, datasets.ClassLabel) or getattr(feature, "dtype", None) in LABEL_DTYPES


def _type_name(dataset: datasets.Dataset, column: str) -> str:
    """Return the type of a column in the words of the datasets library."""
    feature = dataset.features[column]
    return feature.dtype if isinstance(feature, datasets.Value) else type(feature).__name__


def _require_no_labels(dataset: datasets.Dataset, labels: list[str | int] | None, class_conditional: bool | None) -> None:
    """Refuse options that need labels where there is no label column."""
    if labels is not None or class_conditional:
        option = "--data.class_conditional true" if labels is None else "--data.labels"
        raise ValueError(
            f"{option} needs labels, but no column is a ClassLabel or called label among "
            f"{', '.join(dataset.column_names)}: name one with --data.label_column"
        )
