"""Images and labels in columns of any type that other programs write."""

import base64
import io
from pathlib import Path

import datasets
import numpy as np
import pandas
import PIL.Image
import pyarrow
import pyarrow.parquet
import pytest
import torch

from hf_ddpm.data.open_stream import open_stream
from hf_ddpm.data.sources import open_source
from hf_ddpm.data.table import load_images

GRAY = [np.random.default_rng(row).integers(0, 256, (6, 6), dtype=np.uint8) for row in range(4)]
COLOUR = [np.random.default_rng(row).integers(0, 256, (6, 6, 3), dtype=np.uint8) for row in range(4)]


def png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(array).save(file, format="png")
    return file.getvalue()


def write(folder: Path, **columns) -> str:
    """As pandas writes it, without the types of the datasets library."""
    folder.mkdir(exist_ok=True)
    pandas.DataFrame(columns).to_parquet(folder / "train.parquet")
    return str(folder)


def check_images(source: str, arrays: list[np.ndarray], **options) -> None:
    """A table and a stream have these images."""
    expected = torch.from_numpy(np.stack([np.atleast_3d(array).transpose(2, 0, 1) for array in arrays]))
    table = load_images(source, "train", image_size=6, **options)
    assert torch.equal(table.images(torch.arange(len(table))), expected)
    stream = open_stream(source, "train", image_size=6, class_conditional=False, **options)
    head = stream.head(len(arrays))
    assert torch.equal(head.images(torch.arange(len(head))), expected)
    stream.reader(seed=0, batch_size=2).read(0, 0)


def refusal(source: str, read=load_images, **options) -> str:
    with pytest.raises(ValueError) as refused:
        read(source, "train", image_size=6, **options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


# Images


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("form", ["struct", "binary", "reversed struct", "bytes only"])
def test_bytes_are_images(tmp_path, form, large):
    rows = {
        "struct": [{"bytes": png(array), "path": f"{row}.png"} for row, array in enumerate(COLOUR)],
        "reversed struct": [{"path": None, "bytes": png(array)} for array in COLOUR],
        "bytes only": [{"bytes": png(array)} for array in COLOUR],
        "binary": [png(array) for array in COLOUR],
    }[form]
    source = write(tmp_path / "data", image=rows, label=[0, 1, 0, 1])
    if large:
        table = pyarrow.parquet.read_table(Path(source) / "train.parquet")
        kind = pyarrow.large_binary() if form == "binary" else pyarrow.struct([("bytes", pyarrow.large_binary())])
        if form in ("binary", "bytes only"):
            table = table.set_column(0, "image", table["image"].cast(kind))
        pyarrow.parquet.write_table(table, Path(source) / "train.parquet")
    check_images(source, COLOUR)


def test_a_set_of_the_datasets_library_survives_pandas(tmp_path):
    images = [PIL.Image.fromarray(array) for array in GRAY]
    dataset = datasets.Dataset.from_dict({"image": images, "label": [3, 1, 3, 1]}).cast_column("image", datasets.Image())
    dataset.to_parquet(tmp_path / "written.parquet")
    (tmp_path / "data").mkdir()
    pandas.read_parquet(tmp_path / "written.parquet").to_parquet(tmp_path / "data" / "train.parquet")
    check_images(str(tmp_path / "data"), GRAY)
    assert open_source(str(tmp_path / "data"), "train").class_names == ["1", "3"]


def test_only_the_column_with_images_is_taken(tmp_path):
    columns = {"thumbnail": [png(array) for array in GRAY], "digest": [b"\0" * 16] * 4}
    check_images(write(tmp_path / "data", **columns), GRAY)
    source = write(tmp_path / "data", **columns, image=[png(array) for array in COLOUR])
    assert "the images could be in thumbnail or image: name one with `image_column`" in refusal(source)
    check_images(source, COLOUR, image_column="image")


@pytest.mark.parametrize("place", ["beside", "below"])
def test_paths_are_read_when_they_are_named(tmp_path, place):
    folder = tmp_path / "data"
    (folder / "pictures").mkdir(parents=True)
    for row, array in enumerate(GRAY):
        PIL.Image.fromarray(array).save(folder / "pictures" / f"{row}.png")
    source = write(folder, file=[f"pictures/{row}.png" for row in range(4)], text=["a", "b", "c", "d"])
    if place == "below":
        (folder / "data").mkdir()
        (folder / "train.parquet").rename(folder / "data" / "train.parquet")
    for read in (load_images, open_stream):
        message = refusal(source, read)
        assert "no column of images, only file (large_string), text (large_string)" in message
        assert "with `image_column`" in message
    check_images(source, GRAY, image_column="file")
    assert "cannot be decoded (FileNotFoundError" in refusal(source, image_column="text")


@pytest.mark.parametrize("arrays", [GRAY, COLOUR, [array.transpose(2, 0, 1) for array in COLOUR]], ids=["HW", "HWC", "CHW"])
@pytest.mark.parametrize("typed", [False, True])
def test_arrays_are_read_when_they_are_named(tmp_path, arrays, typed):
    source = write(tmp_path / "data", pixels=[array.tolist() for array in arrays], label=[0, 1, 0, 1])
    if typed:
        kind = datasets.Array2D if arrays[0].ndim == 2 else datasets.Array3D
        features = datasets.Features({"pixels": kind(arrays[0].shape, "uint8"), "label": datasets.Value("int64")})
        data = datasets.Dataset.from_dict({"pixels": arrays, "label": [0, 1, 0, 1]}, features=features)
        data.to_parquet(tmp_path / "data" / "train.parquet")
    assert "no column of images, only pixels" in refusal(source)
    check_images(source, COLOUR if arrays[0].ndim == 3 else GRAY, image_column="pixels")


@pytest.mark.parametrize(("scale", "value_range"), [(255, (0, 1)), (51, (0, 5)), (0.5, (0, 510))])
def test_arrays_of_other_ranges_need_it(tmp_path, scale, value_range):
    arrays = [np.where(array < 128, 0, 255) / scale for array in GRAY]
    source = write(tmp_path / "data", pixels=[array.tolist() for array in arrays])
    message = refusal(source, image_column="pixels")
    assert "value_range is None, but values of more than 8 bits" in message and f"0 to {255 / scale:g}" in message
    options = {"image_column": "pixels", "value_range": value_range, "pixel_type": "uint8"}
    check_images(source, [np.where(array < 128, 0, 255) for array in GRAY], **options)


@pytest.mark.parametrize("read", [load_images, open_stream])
def test_base64_is_one_line(tmp_path, read):
    image = np.random.default_rng(0).integers(0, 256, (90, 90), dtype=np.uint8)
    source = write(tmp_path / "data", image=[base64.b64encode(png(image)).decode()])
    message = refusal(source, read, image_column="image")
    assert "base64: store the bytes" in message and len(message) < 600


@pytest.mark.parametrize("read", [load_images, open_stream])
def test_columns_that_are_no_images_are_listed_with_their_types(tmp_path, read):
    source = write(tmp_path / "data", code=[b"\0\1"] * 2, flat=[[1, 2, 3]] * 2, label=[0, 1])
    message = refusal(source, read)
    assert "only code (binary), flat (list of int64), label (int64)" in message and "`image_column`" in message
    for column, words in (("label", "of type int64"), ("flat", "of type list of int64")):
        assert f"image_column is {column!r}, {words}: name a column of images" in refusal(source, read, image_column=column)
    assert "cannot be decoded" in refusal(source, read, image_column="code", class_conditional=False)


def test_a_bad_array_is_left_out_like_any_image(tmp_path):
    arrays = [array.tolist() for array in GRAY]
    source = write(tmp_path / "data", pixels=[*arrays, [[1, 2], [3]], None], label=[0, 1, 0, 1, 0, 1])
    assert "row 4 of split 'train'" in refusal(source, image_column="pixels")
    for read in (load_images, open_stream):
        options = {"image_column": "pixels", "on_bad_image": "skip", "class_conditional": False}
        images = read(source, "train", image_size=6, **options)
        assert len(images if read is load_images else images.head(9)) == 4


# Labels


def labelled(folder: Path, labels: list) -> str:
    return write(folder, image=[png(array) for array in GRAY[: len(labels)]], label=labels)


@pytest.mark.parametrize(
    ("labels", "names", "ids"),
    [
        ([True, False, True], ["False", "True"], [1, 0, 1]),
        ([True, True, True], ["False", "True"], [1, 1, 1]),
        ([1.0, 0.0, 1.0], ["0", "1"], [1, 0, 1]),
        ([10.0, 9.0, 9.0], ["9", "10"], [1, 0, 0]),
        ([[7], [3], [7]], ["3", "7"], [1, 0, 1]),
        ([["dog"], ["cat"], ["dog"]], ["cat", "dog"], [1, 0, 1]),
        ([[True], [False], [True]], ["False", "True"], [1, 0, 1]),
    ],
)
def test_labels_of_other_types_are_classes(tmp_path, labels, names, ids):
    source = labelled(tmp_path / "data", labels)
    table = load_images(source, "train", image_size=6)
    assert table.class_names == names and table.class_labels.tolist() == ids
    kept = load_images(source, "train", image_size=6, labels=[names[1]])
    assert kept.class_names == [names[1]] and len(kept) == sum(ids)


def test_lists_of_one_keep_the_names_of_their_type(tmp_path):
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.List(datasets.ClassLabel(names=["a", "b", "c"]))}
    )
    rows = {"image": [{"bytes": png(array), "path": None} for array in GRAY], "label": [[2], [0], [2], [0]]}
    (tmp_path / "data").mkdir()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "data" / "train.parquet")
    source = str(tmp_path / "data")
    table = load_images(source, "train", image_size=6)
    assert table.class_names == ["a", "b", "c"] and table.class_labels.tolist() == [2, 0, 2, 0]
    stream = open_stream(source, "train", image_size=6, labels=["c", "a"])
    assert stream.head(9).class_labels.tolist() == [0, 1, 0, 1]


def test_true_and_false_in_a_stream(tmp_path):
    source = labelled(tmp_path / "data", [True, False, True])
    stream = open_stream(source, "train", image_size=6)
    assert stream.class_names == ["False", "True"] and stream.head(9).class_labels.tolist() == [1, 0, 1]
    assert open_stream(source, "train", image_size=6, labels=["True"]).head(9).class_labels.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([0.0, 0.5, 1.0], "label 0.5 at row 1 of split 'train' is not a whole number"),
        ([0.0, float("nan"), 1.0], "label None at row 1 of split 'train' is missing"),
        ([True, None, False], "label None at row 1 of split 'train' is missing"),
        ([-1.0, 0.0, 1.0], "label -1 at row 0 of split 'train' is negative"),
        ([[0], [0, 1], [1]], "label [0, 1] at row 1 of split 'train' is a list of 2, and an image has one class"),
        ([[0], [], [1]], "label [] at row 1 of split 'train' is a list of 0"),
    ],
)
def test_labels_that_are_no_classes_are_refused(tmp_path, labels, words):
    source = labelled(tmp_path / "data", labels)
    message = refusal(source)
    assert words in message and "set `class_conditional` to false" in message
    assert load_images(source, "train", image_size=6, class_conditional=False).class_names is None


def test_an_empty_text_is_not_a_class(tmp_path):
    source = labelled(tmp_path / "data", ["cat", ""])
    assert "label '' at row 1 of split 'train' is an empty text" in refusal(source)


@pytest.mark.parametrize("files", [("train-0", "train-1"), ("train", "test")])
@pytest.mark.parametrize("read", [load_images, open_stream])
def test_files_whose_classes_differ_are_refused(tmp_path, files, read):
    """datasets would read the ids of the second file by the names of the first."""
    for name, classes in zip(files, (["a", "b"], ["b", "a"]), strict=True):
        types = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=classes)})
        columns = {"image": list(map(PIL.Image.fromarray, GRAY[:2])), "label": [0, 1]}
        datasets.Dataset.from_dict(columns, features=types).to_parquet(str(tmp_path / f"{name}.parquet"))
    message = refusal(str(tmp_path), read)
    assert "the classes of column 'label' are" in message and "a, b in" in message and "b, a in" in message


def test_not_a_number_is_missing(tmp_path):
    source = labelled(tmp_path / "data", [0, 1])
    table = pyarrow.parquet.read_table(Path(source) / "train.parquet")
    numbers = pyarrow.array([float("nan"), 1.0], from_pandas=False)
    pyarrow.parquet.write_table(table.set_column(1, "label", numbers), Path(source) / "train.parquet")
    assert "label nan at row 0 of split 'train' is missing" in refusal(source)


@pytest.mark.parametrize("name", ["target", "class", "category", "y", "fine_label", "Class", "Label", " label"])
def test_columns_that_look_like_labels_are_named(tmp_path, name):
    source = write(tmp_path / "data", image=[png(array) for array in GRAY], **{name: [0, 1, 0, 1]}, weight=[0.5] * 4)
    for read in (load_images, open_stream):
        assert read(source, "train", image_size=6).unused_label_columns == (name,)
        assert read(source, "train", image_size=6, class_conditional=False).unused_label_columns == ()
        assert f"name one with `label_column`, such as {name}" in refusal(source, read, class_conditional=True)
    table = load_images(source, "train", image_size=6, label_column=name)
    assert table.unused_label_columns == () and table.class_names == ["0", "1"]


def test_nothing_is_named_beside_labels(tmp_path):
    source = write(tmp_path / "data", image=[png(array) for array in GRAY], label=[0, 1, 0, 1], target=[0.5] * 4)
    assert load_images(source, "train", image_size=6).unused_label_columns == ()


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["cat_01", "cat_02", "dog_01", "dog_2"], "words in file names (cat, dog)"),
        (["Maine Coon 1", "b-2", "c3", "d"], None),
        (["katze1", "katze2", "hund1", "größe7"], "words in file names (größe, hund, katze)"),
        (["img_1", "img_2", "img_3", "img_4"], None),
        (["aa1", "bb2", "cc3", "dd4"], None),
        (["1", "2", "3", "4"], None),
    ],
)
def test_file_names_that_look_like_labels_are_named(tmp_path, names, words):
    (tmp_path / "data").mkdir()
    for name, array in zip(names, GRAY, strict=True):
        PIL.Image.fromarray(array).save(tmp_path / "data" / f"{name}.png")
    source = str(tmp_path / "data")
    for read in (load_images, open_stream):
        found = [left.what for left in read(source, "train", image_size=6).left_out]
        assert found == ([] if words is None else [words])
        assert read(source, "train", image_size=6, class_conditional=False).left_out == ()


@pytest.mark.parametrize(
    ("column", "names", "ids"),
    [
        ("true\nfalse\ntrue", ["False", "True"], [1, 0, 1]),
        ("2.0\n10.0\n2.0", ["2", "10"], [0, 1, 0]),
    ],
)
def test_labels_of_metadata_files(tmp_path, column, names, ids):
    (tmp_path / "data").mkdir()
    for row in range(3):
        PIL.Image.fromarray(GRAY[row]).save(tmp_path / "data" / f"{row}.png")
    rows = "".join(f"{row}.png,{value}\n" for row, value in enumerate(column.split()))
    (tmp_path / "data" / "metadata.csv").write_text("file_name,label\n" + rows)
    table = load_images(str(tmp_path / "data"), "train", image_size=6)
    assert table.class_names == names and table.class_labels.tolist() == ids
