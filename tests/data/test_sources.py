"""Where images and labels are found, and which mistakes are refused."""

import socket
import sys
from pathlib import Path

import datasets
import huggingface_hub
import numpy as np
import PIL.Image
import pytest

from hf_ddpm.data.open_stream import open_stream
from hf_ddpm.data.sources import ImageSource, open_source

COLOURS = ["red", "green", "blue"]


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Keep away from the network."""

    def refuse(*_):
        raise AssertionError("the network was touched")

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def picture(value: int) -> PIL.Image.Image:
    return PIL.Image.fromarray(np.full((4, 4), value, dtype=np.uint8))


def make_dataset(features: dict | None = None, **columns: list) -> datasets.Dataset:
    """A dataset whose image at row i is filled with the value i."""
    count = len(next(iter(columns.values()))) if columns else 3
    dataset = datasets.Dataset.from_dict({"image": [picture(row) for row in range(count)], **columns})
    dataset = dataset.cast_column("image", datasets.Image())
    for name, feature in (features or {}).items():
        dataset = dataset.cast_column(name, feature)
    return dataset


def save(folder: Path, dataset: datasets.Dataset) -> str:
    dataset.save_to_disk(str(folder))
    return str(folder)


def coloured(folder: Path) -> str:
    """Seven images of three classes, saved."""
    labels = [0, 1, 2, 2, 1, 0, 1]
    return save(folder, make_dataset({"label": datasets.ClassLabel(names=COLOURS)}, label=labels))


def read_labels(source: ImageSource) -> list[int]:
    assert source.label_column is not None
    return source.dataset[source.label_column][:]


def shades(source: ImageSource) -> list[int]:
    """The value that fills each image, which is its row in the whole split."""
    decoded = source.dataset.cast_column(source.image_column, datasets.Image())
    return [int(np.asarray(image)[0, 0]) for image in decoded[source.image_column][:]]


def refusal(*args, **kwargs) -> str:
    with pytest.raises(ValueError) as caught:
        open_source(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


# Sources


def test_digits_are_a_fixed_stratified_split():
    train, test = open_source("digits", "train"), open_source("digits", "test")
    assert (len(train.dataset), len(test.dataset)) == (1437, 360)
    assert train.class_names == [str(digit) for digit in range(10)]
    train_counts, test_counts = np.bincount(read_labels(train)), np.bincount(read_labels(test))
    assert np.abs(test_counts - train_counts * 360 / 1437).max() <= 1
    assert train.dataset[:]["image"] == open_source("digits", "train").dataset[:]["image"]


def test_digits_keep_their_seventeen_levels():
    image = open_source("digits", "train").dataset.cast_column("image", datasets.Image())[0]["image"]
    assert image.size == (8, 8) and image.mode == "L"
    levels = {round(value / 16 * 255) for value in range(17)}
    assert set(np.asarray(image).flatten().tolist()) <= levels


def test_image_folder_with_class_folders(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for row in range(3):
            picture(row).save(tmp_path / "pets" / name / f"{row}.png")
    source = open_source(str(tmp_path / "pets"), "train")
    assert (source.image_column, source.label_column, source.class_names) == (
        "image",
        "label",
        ["cat", "dog"],
    )
    assert read_labels(source) == [0, 0, 0, 1, 1, 1]
    assert source.dataset[0]["image"]["path"].endswith("cat/0.png")


def test_image_folder_without_class_folders_has_no_labels(tmp_path):
    (tmp_path / "flat").mkdir()
    for row in range(3):
        picture(row).save(tmp_path / "flat" / f"{row}.png")
    source = open_source(str(tmp_path / "flat"), "train")
    assert source.label_column is None and source.class_names is None and source.kept_rows is None
    message = refusal(str(tmp_path / "flat"), "train", class_conditional=True)
    assert "class_conditional is True, but no column" in message
    assert "labels is ['cat'], but no column" in refusal(str(tmp_path / "flat"), "train", labels=["cat"])


def test_parquet_folder(tmp_path):
    (tmp_path / "shop").mkdir()
    dataset = make_dataset({"label": datasets.ClassLabel(names=COLOURS)}, label=[2, 0, 1])
    dataset.rename_column("image", "img").to_parquet(str(tmp_path / "shop" / "test.parquet"))
    source = open_source(str(tmp_path / "shop"), "test")
    assert (source.image_column, source.class_names, read_labels(source)) == ("img", COLOURS, [2, 0, 1])
    message = refusal(str(tmp_path / "shop"), "val")
    assert "split 'val' of `source`" in message and message.endswith("test")


# The columns and splits of data sets on the Hub that recipes name, and the names of their files.
HUB_SCHEMAS = {
    "cifar100": ("img", {"fine_label": 100, "coarse_label": 20}, "cifar100", {"train": "", "test": ""}),
    "fashion_mnist": ("image", {"label": 10}, "fashion_mnist", {"train": "", "test": ""}),
    "tiny-imagenet": ("image", {"label": 200}, "data", {"train": "-1359597a978bc4fa", "valid": "-70d52db3c749a935"}),
    "stanford_cars": ("image", {"label": 196}, "data", {"train": "", "test": "", "gaussian_noise": ""}),
}


@pytest.mark.parametrize("name", HUB_SCHEMAS)
def test_schemas_of_the_hub(tmp_path, name):
    image_column, label_columns, subfolder, splits = HUB_SCHEMAS[name]
    folder = str(tmp_path / "copy")
    (tmp_path / "copy" / subfolder).mkdir(parents=True)
    features = {column: datasets.ClassLabel(num_classes=count) for column, count in label_columns.items()}
    for row, (split, suffix) in enumerate(splits.items()):
        dataset = make_dataset(features, **{column: [row, 5] for column in label_columns})
        file = tmp_path / "copy" / subfolder / f"{split}-00000-of-00001{suffix}.parquet"
        (dataset if image_column == "image" else dataset.rename_column("image", image_column)).to_parquet(str(file))
    for row, split in enumerate(splits):
        options = {}
        if len(label_columns) > 1:
            assert "fine_label or coarse_label: name one with `label_column`" in refusal(folder, split)
            with pytest.raises(ValueError, match="fine_label or coarse_label: name one with `label_column`"):
                open_stream(folder, split, image_size=4)
            options = {"label_column": "fine_label"}
        source = open_source(folder, split, **options)
        assert source.image_column == image_column and read_labels(source) == [row, 5]
        assert len(source.class_names) == next(iter(label_columns.values()))
        head = open_stream(folder, split, image_size=4, **options).head(9)
        assert head.class_labels.tolist() == [row, 5] and head.class_names == source.class_names


def test_saved_dataset_and_saved_splits(tmp_path):
    dataset = make_dataset({"label": datasets.ClassLabel(names=COLOURS)}, label=[2, 0, 1]).with_format("numpy")
    both = datasets.DatasetDict(train=dataset, val=dataset.select([1]))
    both.save_to_disk(str(tmp_path / "both"))
    assert read_labels(open_source(save(tmp_path / "one", dataset), "train")) == [2, 0, 1]
    assert read_labels(open_source(str(tmp_path / "both"), "val")) == [0]
    assert "choose from train, val" in refusal(str(tmp_path / "both"), "test")
    assert "choose from train" in refusal(str(tmp_path / "one"), "test")


def test_home_and_relative_folders(tmp_path, monkeypatch):
    coloured(tmp_path / "colours")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    names = [open_source(name, "train").class_names for name in ("~/colours", "colours", "./colours")]
    assert names == [COLOURS] * 3


@pytest.mark.parametrize("source", ["./missing", "/missing", "~/missing", "a/b/c", "", "imagefolder", "parquet"])
def test_missing_folder_is_refused(source):
    message = refusal(source, "train")
    assert f"source is {source!r}" in message and "give a folder" in message


def test_unreachable_hub_id_says_what_to_do():
    message = refusal("nobody/no_such_dataset", "train")
    assert "source is 'nobody/no_such_dataset'" in message
    assert "Error" in message and "give a local folder" in message


def test_folders_with_nothing_to_read(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "holds nothing to read" in refusal(str(tmp_path / "empty"), "train")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("hello")
    assert "only text (string)" in refusal(str(tmp_path / "notes"), "train")
    assert ", a file: give the folder" in refusal(str(tmp_path / "notes" / "a.txt"), "train")


def test_split_without_rows(tmp_path):
    full = make_dataset(label=[0, 1])
    empty = full.select([])
    assert "no rows in 'saved'" in refusal(save(tmp_path / "saved", empty), "train")
    datasets.DatasetDict(train=full, test=empty).save_to_disk(str(tmp_path / "splits"))
    assert "no rows in 'test'" in refusal(str(tmp_path / "splits"), "test")
    (tmp_path / "parquet").mkdir()
    empty.to_parquet(str(tmp_path / "parquet" / "train.parquet"))
    assert "no data" in refusal(str(tmp_path / "parquet"), "train")


def test_truncated_parquet_names_the_file(tmp_path):
    (tmp_path / "shop").mkdir()
    for name in ("train-0.parquet", "train-1.parquet"):
        make_dataset(label=[0, 1]).to_parquet(str(tmp_path / "shop" / name))
    path = tmp_path / "shop" / "train-1.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    assert f"'{path}' is truncated" in refusal(str(tmp_path / "shop"), "train")


# Columns


def test_two_image_columns_must_be_named(tmp_path):
    dataset = make_dataset(depth=[picture(9)] * 2).cast_column("depth", datasets.Image())
    folder = save(tmp_path / "pairs", dataset)
    assert "image or depth" in refusal(folder, "train")
    assert shades(open_source(folder, "train", image_column="depth")) == [9, 9]


def test_wrong_image_columns(tmp_path):
    folder = coloured(tmp_path / "colours")
    assert "columns are image, label" in refusal(folder, "train", image_column="img")
    assert "of type ClassLabel" in refusal(folder, "train", image_column="label")
    plain = save(tmp_path / "plain", datasets.Dataset.from_dict({"text": ["a"], "size": [1]}))
    assert "text (string), size (int64)" in refusal(plain, "train")


def test_two_class_label_columns_must_be_named(tmp_path):
    features = {
        "fine": datasets.ClassLabel(names=COLOURS),
        "coarse": datasets.ClassLabel(names=["warm", "cold"]),
    }
    folder = save(tmp_path / "two", make_dataset(features, fine=[0, 1, 2], coarse=[0, 0, 1]))
    message = refusal(folder, "train")
    assert "`label_column`" in message and "fine or coarse" in message
    source = open_source(folder, "train", label_column="coarse")
    assert source.class_names == ["warm", "cold"] and read_labels(source) == [0, 0, 1]
    assert open_source(folder, "train", class_conditional=False).label_column is None


def test_string_labels_become_sorted_classes(tmp_path):
    folder = save(tmp_path / "words", make_dataset(label=["pear", "apple", "pear"], taste=["c", "a", "b"]))
    source = open_source(folder, "train")
    assert source.class_names == ["apple", "pear"] and read_labels(source) == [1, 0, 1]
    assert source.dataset.features["label"] == datasets.Value("int64")
    source = open_source(folder, "train", label_column="taste")
    assert source.class_names == ["a", "b", "c"] and read_labels(source) == [2, 0, 1]


def test_integer_labels_are_sorted_as_numbers_and_renumbered(tmp_path):
    folder = save(tmp_path / "numbers", make_dataset({"labels": datasets.Value("int32")}, labels=[10, 9, 10]))
    source = open_source(folder, "train")
    assert source.class_names == ["9", "10"] and read_labels(source) == [1, 0, 1]
    assert source.dataset.features["labels"] == datasets.Value("int64")


def test_other_integer_columns_are_not_labels(tmp_path):
    source = open_source(save(tmp_path / "sized", make_dataset(size=[1, 2])), "train")
    assert source.label_column is None


def test_wrong_label_columns(tmp_path):
    folder = save(tmp_path / "floats", make_dataset(label=[0.5, 1.0], weight=[0.1, 0.2]))
    assert "label 0.5 at row 0 of split 'train' is not a whole number" in refusal(folder, "train")
    assert "label 0.1 at row 0" in refusal(folder, "train", label_column="weight")
    assert "columns are image, label, weight" in refusal(folder, "train", label_column="class")
    assert open_source(folder, "train", class_conditional=False).label_column is None
    folder = save(tmp_path / "both", make_dataset(label=[0, 1], labels=[0, 1]))
    assert "label or labels" in refusal(folder, "train")


def test_label_column_without_use_is_refused(tmp_path):
    folder = coloured(tmp_path / "colours")
    message = refusal(folder, "train", label_column="label", class_conditional=False)
    assert "label_column is 'label'" in message and "`class_conditional` is False" in message


# Labels


@pytest.mark.parametrize("bad", [7, -1, None])
def test_bad_class_labels_are_found_by_row(tmp_path, bad):
    labels = [0, 1, 2] * 4 + [bad]
    features = {"label": datasets.ClassLabel(names=COLOURS)}
    folder = save(tmp_path / "bad", make_dataset(features, label=labels))
    problem = "is missing" if bad is None else "is outside 0..2"
    assert f"label {bad} at row 12 of split 'train' {problem}" in refusal(folder, "train")
    assert open_source(folder, "train", class_conditional=False).class_names is None


@pytest.mark.parametrize(("labels", "problem"), [(["a", None], "is missing"), ([3, -1], "is negative")])
def test_bad_plain_labels_are_found_by_row(tmp_path, labels, problem):
    folder = save(tmp_path / "bad", make_dataset(label=labels))
    assert f"label {labels[1]} at row 1 of split 'train' {problem}" in refusal(folder, "train")


@pytest.mark.parametrize("labels", [["blue", "red"], [2, 0], ["2", "red"]])
def test_labels_keep_classes_in_the_order_given(tmp_path, labels):
    source = open_source(coloured(tmp_path / "colours"), "train", labels=labels)
    assert source.class_names == ["blue", "red"]
    assert read_labels(source) == [1, 0, 0, 1]
    assert shades(source) == source.kept_rows.tolist() == [0, 2, 3, 5]


def test_all_labels_in_order_change_nothing(tmp_path):
    folder = coloured(tmp_path / "colours")
    everything, plain = open_source(folder, "train", labels=COLOURS), open_source(folder, "train")
    assert read_labels(everything) == read_labels(plain)
    assert everything.class_names == plain.class_names


def test_tokens_are_names_before_ids(tmp_path):
    features = {"label": datasets.ClassLabel(names=["2", "1", "0"])}
    folder = save(tmp_path / "reversed", make_dataset(features, label=[0, 1, 2]))
    source = open_source(folder, "train", labels=[2, "0"])
    assert source.class_names == ["2", "0"] and shades(source) == [0, 2]


def test_subset_without_labels(tmp_path):
    folder = coloured(tmp_path / "colours")
    source = open_source(folder, "train", labels=["green"], class_conditional=False)
    assert source.label_column is None and source.class_names is None
    assert shades(source) == [1, 4, 6]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["gren"], "did you mean green?"),
        (["zzzzz"], "the names are red, green, blue"),
        ([99], "99 is outside 0..2"),
        ([-1], "-1 is outside 0..2"),
        ([None], "None is neither a class name nor an id in 0..2"),
        ([1.0], "1.0 is neither a class name"),
        ([True], "True is neither a class name"),
        (["red", 0], "class 'red' (id 0) twice"),
        ([], "[]: name at least one class"),
    ],
)
def test_wrong_labels_are_refused(tmp_path, labels, words):
    message = refusal(coloured(tmp_path / "colours"), "train", labels=labels)
    assert "labels is" in message and words in message


def test_kept_class_without_images_is_refused(tmp_path):
    features = {"label": datasets.ClassLabel(names=COLOURS)}
    folder = save(tmp_path / "two", make_dataset(features, label=[0, 1]))
    assert "'blue' has no image in split 'train'" in refusal(folder, "train", labels=["red", "blue"])


@pytest.mark.parametrize(("split", "labels"), [("trian", None), ("train", ["11"])])
def test_mistakes_about_the_digits_are_found_without_scikit_learn(monkeypatch, split, labels):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)  # the import fails
    with pytest.raises(ValueError, match="trian|11"):
        open_source("digits", split, labels=labels)
