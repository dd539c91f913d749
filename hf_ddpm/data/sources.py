"""Find the images and the labels of a dataset: `source = open_source("digits", "train", labels=["3", 7])`."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import PIL.Image
import pyarrow
import pyarrow.parquet

from hf_ddpm.data.columns import choose_columns, element_type, with_undecoded_images
from hf_ddpm.data.conditions import Range, condition_reader, encode_conditions, range_of
from hf_ddpm.data.description import LeftOut
from hf_ddpm.data.find_files import ARCHIVE_SUFFIXES, FoundFiles, find_files, is_archive
from hf_ddpm.data.folders import read_image_folder
from hf_ddpm.data.labels import class_ids_of, encode_labels, first_ten, words_left_out
from hf_ddpm.data.options import Condition
from hf_ddpm.data.undecoded import image_roots, path_of
from hf_ddpm.first_checks import check_source
from hf_ddpm.runtime.hub_requests import bounded_requests
from hf_ddpm.runtime.libraries import few_collections

DIGITS_SPLITS = ("train", "test")
DIGITS_TEST_IMAGES = 360
DIGITS_CLASSES = list("0123456789")
TABLE_SUFFIXES = {".arrow", ".parquet"}
# Suffixes of the files that datasets reads, by its name for their format.
READ_SUFFIXES = {
    "arrow": {".arrow"},
    "csv": {".csv", ".tsv"},
    "imagefolder": ARCHIVE_SUFFIXES,
    "json": {".json", ".jsonl"},
    "parquet": {".parquet"},
    "text": {".txt"},
    "webdataset": ARCHIVE_SUFFIXES,
}


Splits = dict[str, datasets.Dataset | datasets.IterableDataset]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ImageSource:
    """A map-style dataset whose image and label columns are known."""

    dataset: datasets.Dataset
    """Images undecoded, see `hf_ddpm.data.undecoded`; labels, if any, int64 in [0, num_classes), or vectors of the length of
    `class_names`, see `hf_ddpm.data.conditions`."""
    name: str
    """The source as the user gave it."""
    split: str
    """Name of the split."""
    image_column: str
    """Name of the image column."""
    label_column: str | None
    """Name of the label column; None = no labels."""
    class_names: list[str] | None
    """Name of each class in the order of the labels; None = no labels."""
    kept_rows: np.ndarray[Any, Any] | None = None
    """(N,) int64: for each row of `dataset` its row in the split; None = the whole split."""
    roots: tuple[str, ...] = ()
    """Folders in which images may lie that are kept as paths, see `image_roots`."""
    left_out: tuple[LeftOut, ...] = ()
    """What was found beside the images and is not used."""
    unused_label_columns: tuple[str, ...] = ()
    """Columns that look like labels and are not used."""
    condition: Condition = "class"
    """What the labels are, see `open_source`."""
    condition_range: Range | None = None
    """The lowest and the highest number, or those that are allowed; None = they are no numbers."""


def open_source(
    source: str,
    split: str,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    labels: list[str | int] | None = None,
    class_conditional: bool | None = None,
    max_images: int | None = None,
    condition: Condition = "class",
    attribute_columns: list[str] | None = None,
    condition_range: tuple[float, float] | None = None,
    splits: Splits | None = None,
) -> ImageSource:
    """Open one split of a dataset, find its columns and check its labels; a `ValueError` says what is wrong.

    Args:
        source: "digits" (the 8 x 8 digits of scikit-learn), a local folder (saved dataset, parquet files, or images as
            described in `hf_ddpm.data.folders`) or a Hub id. A local folder called digits is "./digits".
        split: name of the split. A saved dataset without splits is "train".
        image_column: column of the images, of type Image, bytes or paths of image files, or arrays of pixels; None = the
            only one of type Image, else the only one of bytes that are images.
        label_column: column of the labels (ClassLabel, integers, strings, true and false, whole floats, or lists of one of
            these); None = the only column of type ClassLabel, else the column called "label" or "labels".
        labels: classes to keep, in this order, renumbered from 0; a token is looked up among the class names first, then
            among the ids. None = all.
        class_conditional: True = labels are required, False = labels only serve to choose `labels` and are then dropped,
            None = labels are used if there are any.
        max_images: N, of the n images left by the choice of classes: those at floor(i * n / N), so that images sorted by
            class keep all classes; None, or more than n = all.
        condition: `labels` = `label_column` holds lists of labels, of which `labels` are used, or all; `number` = it holds
            numbers.
        attribute_columns: columns of 0 (or -1) and 1, or true and false, which are labels themselves; None = they are in
            `label_column`.
        condition_range: the lowest and the highest number that are allowed; None = all.
        splits: map-style data sets by the names of their splits, which a program has given; None = open the source.
    """
    check_max_images(max_images)
    if source == "digits":  # a mistake does not wait for scikit-learn
        require_split(DIGITS_SPLITS, source, split)
        if labels is not None and condition != "number":
            class_ids_of(labels, DIGITS_CLASSES)
    splits, left_out = open_splits(source) if splits is None else (splits, ())
    require_split(splits, source, split)
    if len(splits[split]) == 0:
        raise ValueError(no_rows(source, split))
    dataset = splits[split].with_format(None)
    roots = image_roots(source, dataset)
    if condition == "class":
        columns = choose_columns(dataset, image_column, label_column, labels, class_conditional, roots)
    else:
        columns = choose_columns(dataset, image_column, None, None, False, roots)
    image_column = columns.image
    dataset = with_undecoded_images(dataset, image_column)
    class_names, kept_rows, limits = None, None, condition_range
    if condition != "class":
        options: dict[str, Any] = {"label_column": label_column, "labels": labels, "attribute_columns": attribute_columns}
        reader = condition_reader(dataset, condition, condition_range=condition_range, **options)
        dataset, label_column = encode_conditions(dataset, reader, split, image_column)
        class_names = reader.names
    elif (label_column := columns.label) is not None:
        count = len(dataset)
        dataset, class_names, kept_rows = encode_labels(dataset, label_column, labels, split, image_column)
        if len(dataset) < count:
            left_out += (LeftOut(f"images of split {split!r}", count - len(dataset), "of other classes than `labels`"),)
    elif class_conditional is None and not columns.unused_labels:
        some = dataset.select(range(0, len(dataset), max(1, len(dataset) // 200)))
        left_out += words_left_out(map(path_of, some[image_column][:]))
    if max_images is not None and max_images < len(dataset):
        left_out += (LeftOut(f"images of split {split!r}", len(dataset) - max_images, "more than `max_images`"),)
        rows = np.arange(max_images) * len(dataset) // max_images
        dataset, kept_rows = dataset.select(rows), rows if kept_rows is None else kept_rows[rows]
    if condition == "number" and limits is None:
        limits = range_of(number for [number] in dataset[label_column][:])
    return ImageSource(
        dataset=dataset,
        name=source,
        split=split,
        image_column=image_column,
        label_column=None if class_conditional is False else label_column,
        class_names=None if class_conditional is False else class_names,
        kept_rows=kept_rows,
        roots=roots,
        left_out=left_out,
        unused_label_columns=columns.unused_labels,
        condition=condition,
        condition_range=limits,
    )


def check_max_images(max_images: int | None) -> None:
    """Raise a `ValueError` for an impossible number of images."""
    if max_images is not None and max_images < 1:
        raise ValueError(f"max_images is {max_images}: give at least 1 image, or leave it out for all")


def open_splits(source: str, *, streaming: bool = False) -> tuple[Splits, tuple[LeftOut, ...]]:
    """Open every split of a source (see `open_source`), by name, and say what of it is not used.

    `streaming`: read the data during iteration, unless it is a list of files or rows anyway. A `ValueError` if it cannot be
    read.
    """
    if source == "digits":
        return _digits_splits(), ()
    folder = Path(source).expanduser()
    if source and folder.is_dir():
        return _folder_splits(folder, source, streaming)
    if source and folder.exists():
        remedy = "unpack it, and give the folder" if is_archive(folder) else "give the folder that holds it"
        raise ValueError(f"source is {source!r}, a file: {remedy}")
    check_source(source)
    try:
        with bounded_requests():
            return _load(source, streaming), ()
    except Exception as error:
        raise ValueError(
            f"source is {source!r}, which is not a local folder and could not be read from the Hub "
            f"({in_short(error)}): check the name and the network, or give a local folder"
        ) from error


def _load(name: str, streaming: bool) -> Splits:
    """`load_dataset`, which keeps a copy of its own; a damaged copy is made again, from what has been downloaded."""
    try:
        return datasets.load_dataset(name, streaming=streaming)
    except (OSError, pyarrow.ArrowInvalid) as error:
        # Data that cannot be read are a DatasetGenerationError, and everything else of the system has a type of its own.
        if streaming or type(error) not in (OSError, pyarrow.ArrowInvalid):
            raise
        folder = datasets.config.HF_DATASETS_CACHE
        logger.warning("the copy of `source` %r in %s is damaged (%s): it is made again", name, folder, in_short(error))
        return datasets.load_dataset(name, download_mode=datasets.DownloadMode.REUSE_CACHE_IF_EXISTS)


def _digits_splits() -> dict[str, datasets.Dataset]:
    """The 1,797 digits of scikit-learn, 8 x 8 in 17 gray levels, in a fixed stratified split."""
    with few_collections():
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

    digits = load_digits()
    pixels = np.rint(digits.images / 16 * 255).astype(np.uint8)
    train_rows, test_rows = train_test_split(
        np.arange(len(pixels)), test_size=DIGITS_TEST_IMAGES, stratify=digits.target, random_state=0
    )
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=DIGITS_CLASSES)})
    splits = {}
    for split, rows in zip(DIGITS_SPLITS, (train_rows, test_rows), strict=True):
        columns = {"image": [PIL.Image.fromarray(image) for image in pixels[rows]], "label": digits.target[rows]}
        splits[split] = datasets.Dataset.from_dict(columns, features=features)
    return splits


def _folder_splits(folder: Path, source: str, streaming: bool) -> tuple[Splits, tuple[LeftOut, ...]]:
    """Splits of a local folder by name, without network access, and what is not used of it."""
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        return _saved_splits(folder, source), ()
    found = find_files(folder, source)
    tables = [path for path in found.others if path.suffix in TABLE_SUFFIXES]
    if found.images and not tables:
        return read_image_folder(found, source), found.left_out()
    if not found.others:
        raise ValueError(f"source is {source!r}, which {_nothing_to_read(found)}")
    if truncated := next(filter(_is_truncated, tables), None):
        raise ValueError(f"source is {source!r}, which could not be read: the parquet file {str(truncated)!r} is truncated")
    _check_class_names(tables, source)
    try:
        loaded = _load(str(folder), streaming)
    except Exception as error:
        raise ValueError(f"source is {source!r}, which {_why_not_read(found, tables, error)}") from error
    builder = next(iter(loaded.values())).info.builder_name
    if tables and builder not in ("arrow", "parquet"):
        raise ValueError(
            f"source is {source!r}, where the {builder} files hide the parquet or arrow files: move what is not data out"
        )
    left_out = found.left_out(READ_SUFFIXES.get(builder, ()))
    if found.images:
        left_out += (LeftOut("image files", len(found.images), f"read only where the {builder} files name them"),)
    return loaded, left_out


def _saved_splits(folder: Path, source: str) -> Splits:
    """Splits of a folder written by `save_to_disk`."""
    for saved_split in (folder, *sorted(folder.iterdir())):
        if (saved_split / "state.json").is_file() and not any(saved_split.glob("*.arrow")):
            raise ValueError(f"source is {source!r}, which has no rows in {saved_split.name!r}: give another")
    try:
        loaded = datasets.load_from_disk(str(folder))
    except Exception as error:
        raise ValueError(f"source is {source!r}, which could not be read: {in_short(error)}") from error
    return {str(loaded.split or "train"): loaded} if isinstance(loaded, datasets.Dataset) else loaded


def _why_not_read(found: FoundFiles, tables: list[Path], error: Exception) -> str:
    """Why a folder could not be read by datasets, and what to do; `tables` are its parquet and arrow files."""
    archive = next(filter(is_archive, found.others), None)
    if archive is not None and not tables:
        return f"holds the archive {str(archive)!r} and no images: unpack it"
    if not isinstance(error, (datasets.data_files.EmptyDatasetError, datasets.exceptions.DataFilesNotFoundError)):
        return f"could not be read: {in_short(error)}"
    return _nothing_to_read(found)


def _nothing_to_read(found: FoundFiles) -> str:
    beside = "; ".join(map(str, found.left_out()))
    return f"holds nothing to read{beside and ', only '}{beside}: give a saved dataset, parquet files or images"


def _check_class_names(tables: list[Path], source: str) -> None:
    """Refuse parquet files whose classes differ: datasets reads the ids of all of them by the names of the first."""
    known: dict[str, tuple[list[str], Path]] = {}
    for path in tables:
        for column, names in _class_names_in(path).items():
            first_names, first = known.setdefault(column, (names, path))
            if names != first_names:
                raise ValueError(
                    f"source is {source!r}, where the classes of column {column!r} are {first_ten(first_names)} in "
                    f"{str(first)!r}, but {first_ten(names)} in {str(path)!r}: write both with the same ClassLabel"
                )


def _class_names_in(path: Path) -> dict[str, list[str]]:
    """The names of the classes in each column of a parquet file that says them; none if it cannot be read."""
    if path.suffix != ".parquet":
        return {}
    try:
        features = datasets.Features.from_arrow_schema(pyarrow.parquet.read_schema(path))
    except (pyarrow.ArrowException, OSError, ValueError, KeyError, TypeError):
        return {}
    named = {name: element_type(feature) or feature for name, feature in features.items()}
    return {name: list(feature.names) for name, feature in named.items() if isinstance(feature, datasets.ClassLabel)}


def _is_truncated(path: Path) -> bool:
    """Whether a file is a parquet file that does not begin and end with the format's four magic bytes."""
    if path.suffix != ".parquet":
        return False
    with path.open("rb") as file:
        head = file.read(4)
        file.seek(max(0, path.stat().st_size - 4))
        return (head, file.read(4)) != (b"PAR1", b"PAR1")


def in_short(error: BaseException) -> str:
    """Class and first words of the original cause of an error, on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words if len(words) <= 200 else words[:200] + ' ...'}"


def require_split(splits: Iterable[str], source: str, split: str) -> None:
    """Raise a `ValueError` if a split does not exist."""
    if split not in splits:
        raise ValueError(f"split {split!r} of `source` {source!r} does not exist: choose from {', '.join(map(str, splits))}")


def no_rows(source: str, split: str) -> str:
    """Message about an empty split."""
    return f"split {split!r} of `source` {source!r} has no rows: choose another split or source"
