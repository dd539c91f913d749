"""Read a folder of image files: class folders, split folders, and a metadata file that names the label of each image.

pets/cat/0.png  pets/dog/0.png                            classes cat and dog, split "train"
pets/train/cat/0.png  pets/test/dog/1.png                 the same with two splits
pets/0.png  pets/1.png  pets/metadata.csv                 file_name,label in the metadata: the labels are read there
"""

# load_dataset("imagefolder") is not enough: it takes the class from the innermost folder and the split from words in file
# names, drops classes that no image of a split has, and renames the split val.

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.csv
import pyarrow.json

from hf_ddpm.data.columns import LABEL_COLUMN_NAMES

IMAGE_SUFFIXES = {
    ".avif", ".bmp", ".dib", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm",
    ".tga", ".tif", ".tiff", ".webp",
}  # fmt: skip
METADATA_NAMES = ("metadata.csv", "metadata.jsonl")
SPLIT_NAMES = {"train", "training", "test", "testing", "val", "valid", "validation", "eval", "evaluation", "dev"}

# Image file -> its folders below the folder of its split, and its name.
Places = dict[Path, tuple[str, ...]]


def read_image_folder(folder: Path, source: str) -> dict[str, datasets.Dataset] | None:
    """List the images of a folder in the order of their paths; `source` is its name in messages.

    - Splits: the top folders, if all those with images are named like splits; otherwise all images are "train".
    - Classes: the top folders of a split, whatever is below them; ids follow the sorted names of all splits. A single
      folder is not a class.
    - `metadata.csv` or `metadata.jsonl`, anywhere: one row per image, `file_name` relative to the metadata file. All
      columns are kept; a column `label` or `labels` replaces class folders and becomes a ClassLabel.
    - Names that begin with a dot or with "__", and files without an image suffix, are ignored.

    The splits, by name, have the column `image`, and `label` or the columns of the metadata; None = the folder has no image
    files, or also has parquet or arrow files. Ambiguous folders or metadata that do not match the images: a `ValueError`.
    """
    folder = folder.resolve()
    files, folders = _walk(folder)
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    if not images or any(path.suffix in (".parquet", ".arrow") for path in files):
        return None
    splits, roots = _divide(folder, images, source)
    metadata = _read_metadata([path for path in files if path.name in METADATA_NAMES], images, source)
    class_names = _class_names(splits)
    if any(name in metadata.column_names for name in LABEL_COLUMN_NAMES):
        class_names = []
    for path in folders:
        is_class = class_names and path.parent in roots and path.name not in class_names
        if is_class and not any(image.is_relative_to(path) for image in images):
            raise ValueError(f"source is {source!r}, whose class folder {str(path)!r} holds no image: fill or remove it")
    return {split: _build(places, class_names, metadata) for split, places in splits.items()}


def _walk(folder: Path) -> tuple[list[Path], list[Path]]:
    """All visible files in the order of their paths, and all visible folders."""
    files, folders = [], []
    for parent, subfolders, names in os.walk(folder):
        subfolders[:] = [name for name in subfolders if not name.startswith((".", "__"))]
        folders += [Path(parent, name) for name in subfolders]
        files += [Path(parent, name) for name in names if not name.startswith((".", "__"))]
    return sorted(files, key=lambda path: path.as_posix()), folders


def _divide(folder: Path, images: list[Path], source: str) -> tuple[dict[str, Places], list[Path]]:
    """Divide the images among splits, and find the folders whose subfolders would be classes."""
    places: Places = {path: path.relative_to(folder).parts for path in images}
    while (wrapper := _only_folder([places])) and wrapper.lower() not in SPLIT_NAMES:
        places, folder = _enter(places), folder / wrapper
    tops = {parts[0] if len(parts) > 1 else "" for parts in places.values()}
    named = {top for top in tops if top.lower() in SPLIT_NAMES}
    if named != tops:
        if len(named) > 1:
            others = ", ".join(sorted(repr(top) if top else "images" for top in tops - named)[:5])
            raise ValueError(
                f"source is {source!r}, which holds the split folders {', '.join(sorted(named))} beside {others}: "
                "move the others out, or rename the folders if they are classes"
            )
        return {"train": places}, [folder]
    splits = {top: _enter({p: parts for p, parts in places.items() if parts[0] == top}) for top in sorted(tops)}
    roots = [folder / top for top in splits]
    while wrapper := _only_folder(list(splits.values())):
        splits = {split: _enter(places) for split, places in splits.items()}
        roots = [root / wrapper for root in roots]
    return splits, roots


def _only_folder(splits: list[Places]) -> str | None:
    """The one folder that contains all images of all splits; None = there are several or none."""
    tops = {parts[0] if len(parts) > 1 else None for places in splits for parts in places.values()}
    return tops.pop() if len(tops) == 1 else None


def _enter(places: Places) -> Places:
    return {path: parts[1:] for path, parts in places.items()}


def _class_names(splits: dict[str, Places]) -> list[str]:
    """Sorted names of the folders among which some split divides its images."""
    names: set[str] = set()
    for places in splits.values():
        tops = {parts[0] if len(parts) > 1 else None for parts in places.values()}
        if len(tops) > 1:
            names |= {top for top in tops if top is not None}
    return sorted(names)


def _build(places: Places, class_names: list[str], metadata: pyarrow.Table) -> datasets.Dataset:
    """The dataset of one split; an image outside all class folders has the label None."""
    features = datasets.Features({"image": datasets.Image()})
    columns: dict[str, list[Any]] = {"image": [str(path) for path in places]}
    if class_names:
        ids = {name: class_id for class_id, name in enumerate(class_names)}
        features["label"] = datasets.ClassLabel(names=class_names)
        columns["label"] = [ids.get(parts[0]) if len(parts) > 1 else None for parts in places.values()]
    if metadata.num_columns:
        rows = {path: row for row, path in enumerate(metadata["image"].to_pylist())}
        table = metadata.drop_columns("image").take([rows[path] for path in columns["image"]])
        features |= datasets.Features.from_arrow_schema(table.schema)
        columns |= table.to_pydict()
        for name in LABEL_COLUMN_NAMES:
            if name in table.column_names:
                columns[name], features[name] = _to_class_ids(columns[name], metadata[name].to_pylist(), features[name])
    return datasets.Dataset.from_dict(columns, features=features)


def _to_class_ids(
    values: list[Any], all_values: list[Any], feature: datasets.Value
) -> tuple[list[Any], datasets.Value | datasets.ClassLabel]:
    """Number strings or integers by their order among those of all splits; missing and negative labels mean no class."""
    present = {value for value in all_values if value is not None}
    if not present or not all(type(value) in (str, int) for value in present):
        return values, feature
    known = sorted(value for value in present if isinstance(value, str) or value >= 0)
    ids = {value: class_id for class_id, value in enumerate(known)}
    return [ids.get(value, value) for value in values], datasets.ClassLabel(names=[str(value) for value in known])


def _read_metadata(files: list[Path], images: list[Path], source: str) -> pyarrow.Table:
    """All metadata files as one table, whose column `image` is the path of each image; without columns if there are none."""
    if not files:
        return pyarrow.table({})
    tables = [_read_metadata_file(path, source) for path in files]
    listed: dict[str, str] = {}
    known = {str(path) for path in images}
    for file, table in zip(files, tables, strict=True):
        for row, path in enumerate(table["image"].to_pylist()):
            place = f"row {row} of {str(file)!r} of `source` {source!r}"
            if path is None:
                raise ValueError(f"{place} has no file_name: name its image, or remove the row")
            if path not in known:
                raise ValueError(f"{place} names {path!r}, which is not an image file: fix or remove the row")
            if path in listed:
                raise ValueError(f"{place} names {path!r}, as row {listed[path]} does: remove one of them")
            listed[path] = f"{row} of {file.name}"
    for path in images:
        if str(path) not in listed:
            raise ValueError(f"source is {source!r}, but {str(path)!r} has no row in {files[0].name}: add or remove it")
    try:
        return pyarrow.concat_tables(tables, promote_options="default")
    except pyarrow.ArrowException as error:
        names = ", ".join(map(str, files))
        raise ValueError(f"source is {source!r}, but the columns of {names} differ in type: make them alike") from error


def _read_metadata_file(file: Path, source: str) -> pyarrow.Table:
    """Read a metadata file; an empty CSV field is a missing value."""
    try:
        if file.suffix == ".csv":
            options = pyarrow.csv.ConvertOptions(
                null_values=[""], strings_can_be_null=True, column_types={"file_name": pyarrow.string()}
            )
            table = pyarrow.csv.read_csv(file, convert_options=options)
        else:
            table = pyarrow.json.read_json(file)
    except (pyarrow.ArrowException, UnicodeError) as error:
        words = " ".join(str(error).split())
        raise ValueError(f"source is {source!r}, but {str(file)!r} cannot be read ({words}): fix the file") from error
    if any(pyarrow.types.is_binary(field.type) for field in table.schema):
        raise ValueError(f"source is {source!r}, but {str(file)!r} is not in UTF-8: save it as UTF-8")
    if len(set(table.column_names)) < table.num_columns:
        raise ValueError(f"source is {source!r}, but {str(file)!r} has two columns of one name: rename one")
    if "file_name" not in table.column_names or table["file_name"].type != pyarrow.string():
        raise ValueError(
            f"source is {source!r}, but {str(file)!r} has no text column file_name: name the image of each row in it"
        )
    if "image" in table.column_names:
        raise ValueError(f"source is {source!r}, but {str(file)!r} has a column called image: rename it")
    names = table["file_name"].to_pylist()
    paths = [None if name is None else os.path.normpath(file.parent / name) for name in names]
    return table.drop_columns("file_name").append_column("image", pyarrow.array(paths, pyarrow.string()))
