"""Folders of image files: splits, classes and metadata, and what contradicts itself."""

import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from hf_ddpm.data.labels import sorted_classes
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


@pytest.mark.parametrize(
    ("images", "others", "named"),
    [
        (["dog/0.png"], ["cat/0.HEIC", "cat/1.HEIC"], "cat' holds no image in a format that is read, only 2 files .HEIC"),
        (["dog/0.png", "fox/0.png"], ["cat/0.HEIC"], "cat' holds no image in a format that is read, only 1 file .HEIC"),
        (
            ["dog/0.png"],
            ["cat/a/0.svg", "cat/0.psd"],
            "cat' holds no image in a format that is read, only 1 file .psd, 1 file",
        ),
        (["dog/0.png"], ["cat/"], "cat' holds no image: fill or remove it"),
        (["all/dog/0.png"], ["all/cat/"], "all/cat' holds no image: fill or remove it"),
        (["train/dog/0.png", "test/dog/0.png"], ["train/cat/0.heif", "test/cat/0.heif"], "/cat' holds no image in a format"),
        (
            ["train/dog/0.png", "test/dog/0.png", "test/cat/0.png"],
            ["train/cat/0.heif"],
            "train/cat' holds no image in a format",
        ),
    ],
)
def test_a_class_folder_without_an_image_that_is_read_is_named(folder, images, others, named):
    write(folder, *images)
    for name in others:
        path = folder / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.touch()
    assert "whose class folder" in refusal(folder) and named in refusal(folder)


def test_folders_beside_one_called_images_are_not_classes(folder):
    write(folder, "train/images/0.png", "valid/images/0.png")
    for split in ("train", "valid"):
        (folder / split / "labels").mkdir()
        (folder / split / "labels" / "0.txt").touch()
    assert {split: [name for _, name in rows] for split, rows in read(folder).items()} == {"train": [None], "valid": [None]}


def test_a_folder_without_any_image_that_is_read_says_what_is_in_it(folder):
    for name in ("cat/0.HEIC", "dog/0.HEIC"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).touch()
    assert "holds nothing to read, only files .HEIC: 2, format not read" in refusal(folder)


def test_classes_of_which_each_split_has_another_are_classes(folder):
    source = write(folder, "train/cat/0.png", "test/dog/0.png")
    assert open_source(source, "train").class_names == open_source(source, "test").class_names == ["cat", "dog"]


def test_a_class_that_loses_all_its_images_is_named(folder):
    write(folder, "cat/0.png", "dog/0.png", "dog/1.png")
    (folder / "dog" / "0.png").write_text("text")
    assert len(load_images(str(folder), "train", image_size=2, on_bad_image="skip")) == 2
    (folder / "cat" / "0.png").write_text("text")
    assert "no image of class 'cat' in split 'train' can be decoded" in refusal(folder, on_bad_image="skip")
    assert len(load_images(str(folder), "train", image_size=2, on_bad_image="skip", class_conditional=False)) == 1


@pytest.mark.parametrize("file", ["pets.zip", "data/train.ZIP"])
def test_an_archive_must_be_unpacked(folder, file):
    store = write(folder.with_name("store"), "cat/0.png", "dog/0.png")
    (folder / file).parent.mkdir(parents=True)
    shutil.make_archive(str(folder / file)[:-4], "zip", store)
    (folder / file).with_suffix(".zip").rename(folder / file)
    assert f"holds the archive '{folder / file}' and no images: unpack it" in refusal(folder)
    assert "a file: unpack it, and give the folder" in refusal(folder / file)


@pytest.mark.parametrize(
    ("names", "in_order"),
    [
        (["0", "1", "10", "11", "2"], ["0", "1", "2", "10", "11"]),
        (["007", "10", "7", "8"], ["007", "7", "8", "10"]),
        (["1", "10", "2a"], ["1", "10", "2a"]),
        (["-1", "0", "10", "2"], ["-1", "0", "10", "2"]),
        (["1" * 5000, "2"], ["2", "1" * 5000]),
    ],
)
def test_names_that_are_all_integers_are_numbered_in_their_order(folder, names, in_order):
    assert sorted_classes(reversed(names)) == in_order
    if max(map(len, names)) < 100:
        source = write(folder, *(f"{name}/0.png" for name in names))
        assert open_source(source, "train").class_names == in_order


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


@pytest.mark.parametrize("beside", ["extra/0.png", "top.png", "Images/a/0.png"])
def test_a_split_folder_with_classes_beside_others_is_refused(folder, beside):
    write(folder, "train/a/0.png", "train/b/0.png", beside)
    assert "holds the split folder train beside" in refusal(folder)


@pytest.mark.parametrize("inside", ["train/0.png", "train/steam/0.png"])
def test_a_class_may_be_called_train(folder, inside):
    source = write(folder, inside, "car/0.png")
    assert open_source(source, "train").class_names == ["car", "train"]


def test_an_accent_in_a_class_may_be_encoded_in_two_ways(folder):
    source = write(folder, "e\u0301/0.png", "e/0.png", "b/0.png")
    assert open_source(source, "train", labels=["\u00e9", "b"]).class_names == ["e\u0301", "b"]


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


def test_text_labels_that_are_all_integers_are_sorted_as_numbers(folder):
    write(folder, "0.png", "1.png", "2.png")
    rows = [
        '{"file_name": "0.png", "label": "10"}',
        '{"file_name": "1.png", "label": "2"}',
        '{"file_name": "2.png", "label": "0"}',
    ]
    metadata(folder, "\n".join(rows), "metadata.jsonl")
    assert open_source(str(folder), "train").class_names == ["0", "2", "10"]


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ("[0, 1]", "[1]", "label [0, 1] at row 0 of split 'train'"),
        ("[]", "[1]", "label [] at row 0 of split 'train'"),
        ('{"id": 1}', '{"id": 2}', "the column 'label' is of type struct of id"),
        ("null", "null", "the column 'label' is of type null"),
        ("null", '"cat"', "label None at row 0 of split 'train'"),
        ("0.5", "1", "label 0.5 at row 0 of split 'train'"),
    ],
)
def test_labels_that_are_not_classes_are_refused_and_may_be_ignored(folder, first, second, words):
    write(folder, "0.png", "1.png")
    rows = [f'{{"file_name": "{name}.png", "label": {label}}}' for name, label in enumerate((first, second))]
    metadata(folder, "\n".join(rows), "metadata.jsonl")
    assert words in refusal(folder) and "set `class_conditional` to false" in refusal(folder)
    assert len(load_images(str(folder), "train", image_size=2, class_conditional=False)) == 2


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
        ("file_name;label\n0.png;a\n1.png;b\n", "separates its columns by ';': separate them by commas"),
        ("file_name\tlabel\n0.png\ta\n1.png\tb\n", r"separates its columns by '\t': separate them by commas"),
    ],
)
def test_metadata_that_does_not_fit_is_refused(folder, text, words):
    write(folder, "0.png", "1.png")
    metadata(folder, text)
    assert words in refusal(folder)


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (["01", "1"], ["01", "1"]),
        (["007", "008"], ["007", "008"]),
        (["0", "10"], ["0", "10"]),
        (["0", "00"], ["0", "00"]),
    ],
)
def test_zeros_in_front_of_numbers_are_part_of_the_name(folder, values, names):
    source = write(folder, "0.png", "1.png")
    metadata(folder, "file_name,label\n" + "".join(f"{row}.png,{value}\n" for row, value in enumerate(values)))
    assert open_source(source, "train").class_names == names


def test_zeros_in_front_of_numbers_in_the_metadata_of_one_split(folder):
    source = write(folder, "train/0.png", "train/1.png", "test/0.png")
    metadata(folder / "train", "file_name,label\n0.png,08\n1.png,10\n")
    metadata(folder / "test", "file_name,label\n0.png,10\n")
    train, test = (open_source(source, split) for split in ("train", "test"))
    assert train.class_names == test.class_names == ["08", "10"]
    assert test.dataset["label"][:] == [1]


@pytest.mark.parametrize(("written", "name"), [("A.PNG", "'a.png'"), ("\u00e9.png", r"'e\u0301.png'")])
def test_metadata_with_nearly_the_name_of_an_image(folder, written, name):
    write(folder, "a.png", "e\u0301.png")
    metadata(folder, f"file_name,label\n{written},x\n")
    assert f"write its name as {name}" in refusal(folder)


def test_backslashes_in_metadata_are_named(folder):
    write(folder, "a/0.png", "b/0.png")
    metadata(folder, "file_name,label\na\\0.png,a\nb\\0.png,b\n")
    assert "row 0 of" in refusal(folder) and "separate folders by / instead of \\" in refusal(folder)


def test_numbers_as_file_names_are_refused(folder):
    write(folder, "0.png", "1.png")
    metadata(folder, '{"file_name": 0, "label": 1}\n{"file_name": 1, "label": 1}', "metadata.jsonl")
    assert "has a column file_name of type int64: write the names of the images as text" in refusal(folder)


@pytest.mark.parametrize(
    ("name", "text"), [("csv", "file_name,label\n0.png,a\n"), ("jsonl", '{"file_name": "0.png", "label": "a"}')]
)
def test_the_mark_at_the_start_of_a_text_of_windows_is_not_part_of_it(folder, name, text):
    write(folder, "0.png")
    (folder / f"metadata.{name}").write_text(text, encoding="utf-8-sig")
    assert read(folder) == {"train": [("0.png", "a")]}
    (folder / f"metadata.{name}").write_text(text, encoding="utf-16")
    assert "as UTF-8" in refusal(folder)


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
