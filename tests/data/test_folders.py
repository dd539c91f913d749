"""Folders of image files: splits, classes and metadata, and what contradicts itself."""

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from hf_ddpm.data.sources import open_source, open_splits
from hf_ddpm.data.table import load_images


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "pets"


def write(folder: Path, *names: str) -> str:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(np.full((2, 2), 7, dtype=np.uint8)).save(path)
    return str(folder)


def read(folder: Path) -> dict[str, list]:
    """For each split the file and the name of the class of each image."""
    found = {}
    for split in open_splits(str(folder))[0]:
        source = open_source(str(folder), split)
        labels = source.dataset[source.label_column][:] if source.label_column else [None] * len(source.dataset)
        paths = [Path(image["path"]).relative_to(folder.resolve()).as_posix() for image in source.dataset["image"]]
        names = [None if label is None else source.class_names[label] for label in labels]
        found[split] = list(zip(paths, names, strict=True))
    return found


def refusal(folder: Path, split: str = "train", **options) -> str:
    with pytest.raises(ValueError) as caught:
        load_images(str(folder), split, image_size=2, **options)
    message = str(caught.value)
    assert type(caught.value) is ValueError and "\n" not in message
    return message


# Layouts

LAYOUTS = {
    "class folders": {"train": {"cat/0.png": "cat", "cat/1.png": "cat", "dog/0.png": "dog"}},
    "one file each": {"train": {"a/0.png": "a", "b/0.png": "b"}},
    "images at the top": {"train": {"0.png": None, "1.png": None}},
    "one folder": {"train": {"images/0.png": None, "images/1.png": None}},
    "splits": {"train": {"train/a/0.png": "a", "train/b/0.png": "b"}, "test": {"test/a/1.png": "a", "test/b/1.png": "b"}},
    "splits without classes": {"train": {"train/0.png": None}, "valid": {"valid/1.png": None}},
    "a split with one class": {"train": {"train/a/0.png": "a", "train/b/0.png": "b"}, "test": {"test/b/1.png": "b"}},
    "a wrapper": {"train": {"all/train/a/0.png": "a", "all/train/b/0.png": "b"}, "val": {"all/val/a/0.png": "a"}},
    "a wrapper below": {"train": {"train/img/a/0.png": "a", "train/img/b/0.png": "b"}, "val": {"val/img/a/0.png": "a"}},
    "folders in classes": {"train": {"a/x/0.png": "a", "a/y/0.png": "a", "b/x/0.png": "b"}},
    "a class called train": {"train": {"bus/0.png": "bus", "train/0.png": "train"}},
    "words in names": {"train": {"a/1.png": "a", "a/test_0.png": "a", "b/train_2.png": "b", "b/val.png": "b"}},
    "unicode and capitals": {"train": {"Kätzchen/ü 1.PNG": "Kätzchen", "犬/2.Jpeg": "犬"}},
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(folder, name):
    layout = LAYOUTS[name]
    write(folder, *(file for files in layout.values() for file in files))
    assert {split: dict(rows) for split, rows in read(folder).items()} == layout


def test_ids_are_those_of_all_splits(folder):
    source = write(folder, "train/a/0.png", "train/c/0.png", "test/b/0.png", "test/c/0.png")
    for split in ("train", "test"):
        assert open_source(source, split).class_names == ["a", "b", "c"]


def test_special_characters_in_the_name_of_the_folder(tmp_path):
    assert open_source(write(tmp_path / "my [best] pets*", "a/0.png", "b/0.png"), "train").class_names == ["a", "b"]


def test_other_and_hidden_files_are_ignored(folder):
    write(folder, "a/0.png", "b/0.png", ".trash/0.png", "__MACOSX/0.png")
    for name in ("a/Thumbs.db", "a/.DS_Store", "a/._0.png", "notes.txt", "README.md", "classes.csv", "info.json", "b/1.txt"):
        (folder / name).write_text("text")
    assert read(folder) == {"train": [("a/0.png", "a"), ("b/0.png", "b")]}


@pytest.mark.parametrize("content", ["this is text", ""])
def test_a_file_that_is_not_an_image_is_named(folder, content):
    write(folder, "a/0.png", "b/0.png")
    (folder / "a" / "a.png").write_text(content)
    message = refusal(folder)
    assert "row 1 of split 'train'" in message and f"'{folder / 'a' / 'a.png'}'" in message


def test_an_empty_class_folder_is_named(folder):
    write(folder, "a/0.png", "b/0.png")
    (folder / "c").mkdir()
    assert f"whose class folder '{folder / 'c'}' holds no image" in refusal(folder)


def test_a_class_may_be_empty_in_one_split(folder):
    write(folder, "train/a/0.png", "train/b/0.png", "test/a/0.png")
    (folder / "test" / "b").mkdir()
    assert open_source(str(folder), "test").class_names == ["a", "b"]


def test_empty_folders_beside_unlabelled_images_do_not_matter(folder):
    source = write(folder, "0.png", "1.png")
    (folder / "notes").mkdir()
    assert open_source(source, "train").class_names is None


def test_images_beside_class_folders_are_named(folder):
    source = write(folder, "a/0.png", "b/0.png", "top.png")
    message = refusal(folder)
    assert "label None at row 2" in message and "top.png" in message and "`class_conditional` to false" in message
    assert len(load_images(source, "train", image_size=2, class_conditional=False)) == 3


def test_split_folders_beside_others_are_refused(folder):
    write(folder, "train/0.png", "test/0.png", "extra/0.png", "top.png")
    message = refusal(folder)
    assert "test, train beside 'extra', images" in message


# Metadata


def metadata(folder: Path, text: str, name: str = "metadata.csv") -> None:
    (folder / name).write_text(text, encoding="utf-8")


def test_string_labels(folder):
    write(folder, "0.png", "1.png", "2.png")
    metadata(folder, "file_name,label\n2.png,cat\n0.png,NA\n1.png,cat\n")
    assert read(folder) == {"train": [("0.png", "NA"), ("1.png", "cat"), ("2.png", "cat")]}


def test_integer_labels_are_sorted_as_numbers(folder):
    write(folder, "007.png", "1.png")
    metadata(folder, '{"file_name": "007.png", "labels": 10}\n{"file_name": "1.png", "labels": 9}\n', "metadata.jsonl")
    source = open_source(str(folder), "train")
    assert source.class_names == ["9", "10"] and source.dataset["labels"][:] == [1, 0]


def test_ids_of_labels_are_those_of_all_splits(folder):
    write(folder, "train/0.png", "train/1.png", "test/0.png")
    metadata(folder / "train", "file_name,label\n0.png,a\n1.png,b\n")
    metadata(folder / "test", "file_name,label\n0.png,c\n")
    assert read(folder) == {"test": [("test/0.png", "c")], "train": [("train/0.png", "a"), ("train/1.png", "b")]}
    assert open_source(str(folder), "test").class_names == ["a", "b", "c"]


def test_other_columns_are_kept(folder):
    write(folder, "0.png", "1.png")
    metadata(folder, "file_name,caption,year\n0.png,a cat,1999\n1.png,a dog,2000\n")
    assert open_source(str(folder), "train").label_column is None
    source = open_source(str(folder), "train", label_column="year")
    assert source.class_names == ["1999", "2000"] and source.dataset["caption"][:] == ["a cat", "a dog"]


def test_class_folders_and_metadata(folder):
    write(folder, "a/0.png", "b/0.png")
    metadata(folder, "file_name,caption\na/0.png,red\nb/0.png,blue\n")
    assert read(folder) == {"train": [("a/0.png", "a"), ("b/0.png", "b")]}
    assert open_source(str(folder), "train").dataset["caption"][:] == ["red", "blue"]
    metadata(folder, "file_name,label\na/0.png,red\nb/0.png,blue\n")
    assert read(folder) == {"train": [("a/0.png", "red"), ("b/0.png", "blue")]}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("file_name,label\n0.png,a\n", "1.png' has no row in metadata.csv"),
        ("file_name,label\n0.png,a\n1.png,b\n2.png,b\n", "2.png', which is not an image file"),
        ("file_name,label\n0.png,a\n0.png,b\n1.png,b\n", "as row 0 of metadata.csv does"),
        ("file_name,label\n0.png,a\n,b\n", "row 1 of"),
        ("file_name,label\n0.png,a\n1.png,\n", "label None at row 1"),
        ("file_name,label\n0.png,3\n1.png,\n", "label None at row 1"),
        ("file_name,label\n0.png,3\n1.png,-1\n", "label -1 at row 1"),
        ("file_name,label\n0.png,0.5\n1.png,1\n", "label 0.5 at row 0"),
        ("name,label\n0.png,a\n1.png,b\n", "has no column file_name, only name, label"),
        ("file_name,image\n0.png,a\n1.png,b\n", "a column called image"),
        ("file_name,label,label\n0.png,a,a\n1.png,b,b\n", "two columns of one name"),
        ("file_name,label\n0.png\n", "cannot be read"),
        ("", "cannot be read"),
    ],
)
def test_metadata_that_does_not_fit_is_refused(folder, text, words):
    write(folder, "0.png", "1.png")
    metadata(folder, text)
    assert words in refusal(folder)


def test_more_metadata_that_does_not_fit(folder):
    write(folder, "a/0.png", "b/0.png")
    (folder / "metadata.csv").write_bytes("file_name,label\na/0.png,é\nb/0.png,b\n".encode("latin-1"))
    assert "not in UTF-8" in refusal(folder)
    metadata(folder, "file_name,label\na/0.png,a\nb/0.png,b\n")
    metadata(folder / "a", "file_name,label\n0.png,1\n")
    assert "row 0 of" in refusal(folder) and "as row 0 of metadata.csv does" in refusal(folder)
    metadata(folder, "file_name,label\nb/0.png,b\n")
    assert "differ in type" in refusal(folder)
    metadata(folder, '{"file_name": "b/0.png",', "metadata.jsonl")
    assert "metadata.jsonl' cannot be read" in refusal(folder)
