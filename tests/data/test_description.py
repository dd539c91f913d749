"""What a run says about its data, and records."""

import json
from dataclasses import replace

import datasets
import numpy as np
import PIL.Image
import pytest

from hf_ddpm.data.describe import describe_data
from hf_ddpm.data.description import ClassCount, DataDescription, LeftOut, Originals
from hf_ddpm.data.load_splits import load_splits
from hf_ddpm.data.open_stream import open_stream
from hf_ddpm.data.options import DataConfig


def picture(height: int, width: int, *, colour: bool = False) -> PIL.Image.Image:
    shape = (height, width, 3) if colour else (height, width)
    return PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


def describe(**options) -> DataDescription:
    data = DataConfig(**{"test_split": None, **options})
    return describe_data(data, *load_splits(data, image_size=8))


def lines(description: DataDescription) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in str(description).replace(":  ", ": ").splitlines())


@pytest.fixture
def pets(tmp_path):
    """Two cats and a dog of several sizes, one of them gray, and what is not read."""
    for name, image in (
        ("cat/0.png", picture(9, 20)),
        ("cat/1.png", picture(8, 8, colour=True)),
        ("dog/0.png", picture(30, 40, colour=True)),
    ):
        (tmp_path / "pets" / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / "pets" / name)
    (tmp_path / "pets" / "dog" / "1.HEIC").touch()
    return str(tmp_path / "pets")


def test_a_folder_is_described_in_one_block(pets):
    said = [line.split() for line in str(describe(source=pets)).splitlines()]
    assert [" ".join(words) for words in said] == [
        f"data: {pets}, split 'train', 3 images",
        "images: from 8 x 8 to 40 x 30 pixels, trained at 8 x 8, RGB: 2 of 3 images have colour",
        "classes: 2: cat (2), dog (1)",
        "left out: files .HEIC: 1, format not read",
    ]


def test_what_options_leave_out_is_counted(pets):
    found = describe(source=pets, labels=["cat"], max_images=1)
    assert found.left_out[-2:] == [
        LeftOut("images of split 'train'", 1, "of other classes than `labels`"),
        LeftOut("images of split 'train'", 1, "more than `max_images`"),
    ]
    assert found.classes == [ClassCount("cat", 1, None)]


def test_why_there_are_no_classes(pets, tmp_path):
    switched_off = describe(source=pets, class_conditional=False)
    assert "unconditional: data.class_conditional is false" in str(switched_off) and switched_off.classes is None
    for name in ("0.png", "1.png"):
        (tmp_path / "flat").mkdir(exist_ok=True)
        picture(8, 8).save(tmp_path / "flat" / name)
    assert "unconditional: no labels found" in str(describe(source=str(tmp_path / "flat")))


@pytest.mark.parametrize("kind", ["parquet", "saved"])
def test_columns_that_may_be_labels_are_named(tmp_path, kind):
    columns = {"image": [picture(8, 8), picture(8, 8)], "target": [0, 1]}
    dataset = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
    if kind == "saved":
        dataset.save_to_disk(str(tmp_path / "pets"))
    else:
        (tmp_path / "pets").mkdir()
        dataset.to_parquet(str(tmp_path / "pets" / "train.parquet"))
    found = describe(source=str(tmp_path / "pets"))
    assert found.unused_label_columns == ["target"] and "name one with --data.label_column" in str(found)
    assert describe(source=str(tmp_path / "pets"), label_column="target").unused_label_columns == []


def test_the_held_out_split_is_described_too(tmp_path):
    found = describe(source="digits", test_split="test")
    assert (found.num_train_images, found.num_test_images) == (1437, 360)
    assert sum(each.num_test_images for each in found.classes) == 360
    assert "split 'train', 1,437 images; held out: split 'test', 360 images" in str(found)
    assert "images:   8 x 8 pixels, grayscale\n" in str(found)


def test_bad_images_of_both_splits_are_counted_apart(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        picture(8, 8).save(tmp_path / split / "0.png")
        (tmp_path / split / "1.png").write_text("text")
    found = describe(source=str(tmp_path), test_split="test", on_bad_image="skip")
    assert [each.what for each in found.left_out] == ["images of split 'train'", "images of split 'test'"]


def test_a_stream_says_what_is_known_of_it(pets):
    stream = open_stream(pets, "train", image_size=8)
    found = describe_data(DataConfig(source=pets, test_split=None, streaming=True), stream, None)
    assert found.classes == [ClassCount("cat", None, None), ClassCount("dog", None, None)]
    assert "2 of 3 images have colour, judged by the first ones" in str(found) and "classes:  2: cat, dog\n" in str(found)
    assert [each.what for each in found.left_out] == ["files .HEIC"]
    unknown = replace(found, num_train_images=None, originals=None)
    assert "an unknown number of images" in str(unknown) and "images:   trained at 8 x 8 pixels, RGB" in str(unknown)


def test_many_classes_are_cut_and_foreign_text_is_cleaned(pets):
    classes = [ClassCount(f"class {number}", number % 3, None) for number in range(100)]
    text = str(replace(describe(source=pets), classes=classes, source="pets\x1b[2J\n"))
    assert "class 9 (0) and 90 more, 30 of them without an image\n" in text
    assert "\x1b" not in text and len(text.splitlines()) == 4


def test_a_recorded_description_reads_back(pets, tmp_path):
    written = describe(source=pets)
    (tmp_path / "data.json").write_text(written.to_json())
    found = DataDescription.read(tmp_path / "data.json")
    assert str(found) == str(written) and found.classes == written.classes and found.left_out == written.left_out
    without = replace(written, originals=None, classes=None, no_classes_because="no labels found")
    (tmp_path / "data.json").write_text(without.to_json())
    assert DataDescription.read(tmp_path / "data.json") == without
    assert isinstance(written.originals, Originals)


@pytest.mark.parametrize(
    "change",
    [{"classes": 3}, {"left_out": [{"what": "x"}]}, {"channels": "RGB"}, {"more": 1}, {"originals": {"smallest": 1}}],
)
def test_a_damaged_record_is_named(pets, tmp_path, change):
    (tmp_path / "data.json").write_text(json.dumps(json.loads(describe(source=pets).to_json()) | change))
    with pytest.raises(ValueError, match="data.json is damaged: it does not describe the data of a run"):
        DataDescription.read(tmp_path / "data.json")


@pytest.mark.parametrize(
    ("names", "shown", "alike"),
    [
        (["e\u0301", "\u00e9"], r"2: 'e\u0301' (1), '\xe9' (1)", r"'\xe9', 'e\u0301' are different classes"),
        (["cat", "cat "], "2: 'cat' (1), 'cat ' (1)", "'cat ', 'cat' are different classes"),
        (["a\nb", "c"], r"2: 'a\nb' (1), c (1)", None),
        (["Cat", "cat"], "2: Cat (1), cat (1)", None),
        (["\u00e9", "e"], "2: e (1), \u00e9 (1)", None),
    ],
)
def test_names_of_classes_are_told_apart(tmp_path, names, shown, alike):
    for name in names:
        (tmp_path / name).mkdir()
        picture(8, 8).save(tmp_path / name / "0.png")
    facts = describe(source=str(tmp_path)).facts
    assert facts["classes"] == shown
    assert facts.get("alike", "").startswith(alike or "") and ("alike" in facts) == bool(alike)


@pytest.mark.parametrize("suffix", ["gif", "tif", "png"])
def test_later_frames_are_left_out(tmp_path, suffix):
    folder = tmp_path / "data"
    folder.mkdir()
    frames = [PIL.Image.fromarray(np.full((8, 8), value, np.uint8)) for value in (10, 90)]
    frames[0].save(folder / f"0.{suffix}", save_all=True, append_images=frames[1:])
    frames[0].save(folder / f"1.{suffix}")
    left = LeftOut("later frames of images of split 'train'", 1, "an image is its first frame")
    assert describe(source=str(folder)).left_out == [left]
    assert open_stream(str(folder), "train", image_size=8).left_out == (left,)


@pytest.mark.parametrize("name", ["labels.csv", "Metadata.CSV", "labels.json"])
def test_a_table_that_is_not_read_says_where_labels_may_be(tmp_path, name):
    picture(8, 8).save(tmp_path / "0.png")
    (tmp_path / name).write_text("file_name,label\n0.png,a\n")
    assert "not read, labels may be in metadata.csv or metadata.jsonl" in describe(source=str(tmp_path)).facts["left out"]


def test_a_split_that_is_trained_on_is_not_held_out(pets):
    assert describe(source=pets, test_split="train").splits.endswith(
        "held out: split 'train', 3 images, which is also trained on"
    )
