"""Read a folder of image files: class folders, split folders, and a metadata file that names the label of each image.

pets/cat/0.png  pets/dog/0.png                            classes cat and dog, split "train"
pets/train/cat/0.png  pets/test/dog/1.png                 the same with two splits
pets/0.png  pets/1.png  pets/metadata.csv                 file_name,label in the metadata: the labels are read there
"""

# load_dataset("imagefolder") is not enough: it takes the class from the innermost folder and the split from words in file
# names, drops classes that no image of a split has, and renames the split val.

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets
import pyarrow

from hf_ddpm.data.columns import LABEL_COLUMN_NAMES
from hf_ddpm.data.find_files import FoundFiles
from hf_ddpm.data.labels import class_names_of, classes_among, plain_label, sorted_classes
from hf_ddpm.data.metadata import read_metadata

SPLIT_NAMES = {"train", "training", "test", "testing", "val", "valid", "validation", "eval", "evaluation", "dev"}
# A folder of this name holds the images of all classes, so that the folders beside it are not classes.
IMAGES_NAMES = {"image", "images", "img", "imgs", "jpegimages", "photos", "pictures"}

# Image file -> its folders below the folder of its split, and its name.
Places = dict[Path, tuple[str, ...]]


def read_image_folder(found: FoundFiles, source: str) -> dict[str, datasets.Dataset]:
    """The splits of a folder, by name, with their images in the order of the paths; `source` is its name in messages.

    - Splits: the top folders, if all those with images are named like splits; otherwise all images are "train".
    - Classes: the top folders of a split, whatever is below them; ids follow the sorted names of all splits, integers as
      numbers. A single folder is not a class.
    - `metadata.csv` or `metadata.jsonl`, anywhere: one row per image, `file_name` relative to the metadata file. All
      columns are kept; a column `label` or `labels` replaces class folders and becomes a ClassLabel.

    A split has the column `image`, and `label` or the columns of the metadata. A `ValueError`: the folders are ambiguous,
    one that would be a class holds no image, or the metadata do not match the images.
    """
    metadata = read_metadata(found.metadata, found.images, source)
    has_labels = any(name in metadata.column_names for name in LABEL_COLUMN_NAMES)
    splits, roots = _divide(found, source, classes_are_folders=not has_labels)
    class_names = [] if has_labels else _class_names(splits)
    if class_names:
        for path in found.folders:
            if path.parent in roots:
                _check_class_folder(path, class_names, found, source)
    return {split: _build(places, class_names, metadata) for split, places in splits.items()}


def _divide(found: FoundFiles, source: str, *, classes_are_folders: bool) -> tuple[dict[str, Places], list[Path]]:
    """Divide the images among splits, and find the folders whose subfolders would be classes."""
    folder = found.root

    def enter(roots: list[Path], wrapper: str) -> list[Path]:
        """Enter the only folder with images in each root; the folders beside it would have been classes."""
        if classes_are_folders and wrapper.lower() not in IMAGES_NAMES:
            for path in found.folders:
                if path.parent in roots and path.name != wrapper:
                    _check_class_folder(path, [], found, source)
        return [root / wrapper for root in roots]

    places: Places = {path: path.relative_to(folder).parts for path in found.images}
    while (wrapper := _only_folder([places])) and wrapper.lower() not in SPLIT_NAMES:
        places, [folder] = _enter(places), enter([folder], wrapper)
    tops = {parts[0] if len(parts) > 1 else "" for parts in places.values()}
    named = {top for top in tops if top.lower() in SPLIT_NAMES}
    if named != tops:
        if len(named) > 1 or (named and classes_are_folders and _is_divided(places, *named)):
            others = ", ".join(sorted(repr(top) if top else "images" for top in tops - named)[:5])
            folders = f"split {'folder' if len(named) == 1 else 'folders'} {', '.join(sorted(named))}"
            raise ValueError(
                f"source is {source!r}, which holds the {folders} beside {others}: "
                "move the others out, or rename the folders if they are classes"
            )
        return {"train": places}, [folder]
    splits = {top: _enter({p: parts for p, parts in places.items() if parts[0] == top}) for top in sorted(tops)}
    roots = [folder / top for top in splits]
    while wrapper := _only_folder(list(splits.values())):
        splits = {split: _enter(places) for split, places in splits.items()}
        roots = enter(roots, wrapper)
    return splits, roots


def _is_divided(places: Places, top: str) -> bool:
    """Whether the images in one of the top folders lie in several folders, as those of a split with classes."""
    return len({parts[1] for parts in places.values() if parts[0] == top and len(parts) > 2}) > 1


def _check_class_folder(path: Path, class_names: list[str], found: FoundFiles, source: str) -> None:
    """Refuse a class folder without an image that is read, unless it is empty and the class has images in another split."""
    if path in found.folders_with_images or found.is_written(path):
        return
    contents = found.contents(path)
    if contents:
        raise ValueError(
            f"source is {source!r}, whose class folder {str(path)!r} holds no image in a format that is read, only "
            f"{contents}: convert them, or remove the folder"
        )
    if path.name not in class_names:
        raise ValueError(f"source is {source!r}, whose class folder {str(path)!r} holds no image: fill or remove it")


def _only_folder(splits: list[Places]) -> str | None:
    """The one folder that contains all images of all splits; None = there are several or none."""
    tops = _tops(splits)
    return tops.pop() if len(tops) == 1 else None


def _tops(splits: Iterable[Places]) -> set[str | None]:
    """The folders that contain the images of some splits; None = an image lies in none."""
    return {parts[0] if len(parts) > 1 else None for places in splits for parts in places.values()}


def _enter(places: Places) -> Places:
    return {path: parts[1:] for path, parts in places.items()}


def _class_names(splits: dict[str, Places]) -> list[str]:
    """Sorted names of the folders among which the images are divided; a folder for the images of all classes is not one."""
    tops = _tops(splits.values())
    is_divided = any(len(_tops([places])) > 1 for places in splits.values())
    if not is_divided and (None in tops or all(top.lower() in IMAGES_NAMES for top in tops if top)):
        return []
    return sorted_classes(top for top in tops if top is not None)


def _build(places: Places, class_names: list[str], metadata: pyarrow.Table) -> datasets.Dataset:
    """The dataset of one split; an image outside all class folders has the label None."""
    features = datasets.Features({"image": datasets.Image()})
    # A name that is not UTF-8 becomes one that does not exist, so that its image counts as one that cannot be decoded.
    columns: dict[str, list[Any]] = {"image": [os.fsencode(path).decode(errors="backslashreplace") for path in places]}
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
    present = [label for value in all_values if (label := plain_label(value)) is not None]
    if not present or class_names_of(feature) or not all(isinstance(label, str | int) for label in present):
        return values, feature
    known = classes_among(present)
    ids = {value: class_id for class_id, value in enumerate(known)}
    labels = [plain_label(value) for value in values]
    return [ids.get(label, label) for label in labels], datasets.ClassLabel(names=[str(value) for value in known])
