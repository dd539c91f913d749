"""Sets of labels and numbers as what images are conditioned on: columns, values, mistakes, tables and streams."""

from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import pytest
import torch

from hf_ddpm.data.describe import describe_data
from hf_ddpm.data.description import DataDescription
from hf_ddpm.data.open_splits import open_sources
from hf_ddpm.data.open_stream import open_stream
from hf_ddpm.data.options import DataConfig
from hf_ddpm.data.sources import ImageSource, open_source
from hf_ddpm.data.table import load_images

NAMES = ["cat", "red", "big"]
SETS = [[0, 1], [], [2], [1]]
BITS = [[True, True, False], [False] * 3, [False, False, True], [False, True, False]]
LISTS = datasets.List(datasets.ClassLabel(names=NAMES))
NUMBERS = [0.25, -1.5, 3.0, 0.1]


@pytest.fixture
def save(tmp_path):
    """Save a data set of four images with more columns, as two splits that are alike; its folder."""

    def run(columns: dict, **features) -> str:
        pixels = [PIL.Image.fromarray(np.full((2, 2), value, dtype=np.uint8)) for value in range(4)]
        dataset = datasets.Dataset.from_dict({"image": pixels, **columns}).cast_column("image", datasets.Image())
        for name, feature in features.items():
            dataset = dataset.cast_column(name, feature)
        datasets.DatasetDict({"train": dataset, "test": dataset}).save_to_disk(tmp_path / "data")
        return str(tmp_path / "data")

    return run


def vectors(source: ImageSource) -> list[list]:
    assert source.label_column is not None
    return source.dataset[source.label_column][:]


def refusal(call, *args, **options) -> str:
    with pytest.raises(ValueError) as caught:
        call(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Sets of labels


@pytest.mark.parametrize(
    ("values", "feature", "names"),
    [
        (SETS, LISTS, NAMES),
        ([[NAMES[label] for label in labels] for labels in SETS], None, ["big", "cat", "red"]),
        (SETS, None, ["0", "1", "2"]),
    ],
)
def test_lists_of_labels(values, feature, names, save):
    source = open_source(save({"tags": values}, **({"tags": feature} if feature else {})), "train", condition="labels",
                         label_column="tags")  # fmt: skip
    assert source.class_names == names
    order = [NAMES.index(name) if name in NAMES else int(name) for name in names]
    assert vectors(source) == [[bits[label] for label in order] for bits in BITS]


def test_a_single_label_is_a_set_of_one(save):
    source = open_source(save({"label": [2, 0, 1, 0]}, label=datasets.ClassLabel(names=NAMES)), "train", condition="labels")
    assert torch.tensor(vectors(source)).int().argmax(1).tolist() == [2, 0, 1, 0]


def test_the_only_column_of_lists_of_classes_is_found(save):
    labels = datasets.ClassLabel(names=["x"])
    source = open_source(save({"tags": SETS, "label": [0] * 4}, tags=LISTS, label=labels), "train", condition="labels")
    assert source.label_column == "tags"


def test_chosen_labels_are_the_only_ones_and_all_images_stay(save):
    folder = save({"tags": SETS}, tags=LISTS)
    source = open_source(folder, "train", condition="labels", labels=["big", "cat"])
    assert source.class_names == ["big", "cat"] and len(source.dataset) == 4
    assert vectors(source) == [[False, True], [False, False], [True, False], [False, False]]
    assert "did you mean big?" in refusal(open_source, folder, "train", condition="labels", labels=["bik"])


@pytest.mark.parametrize(
    ("columns", "feature"),
    [([True, False, True, False], "bool"), ([1, 0, 1, 0], "int64"), ([1, -1, 1, -1], "int8"), ([1.0, 0.0, 1.0, 0.0], None)],
)
def test_columns_of_zeros_and_ones(columns, feature, save):
    features = {"smiling": datasets.Value(feature)} if feature else {}
    folder = save({"smiling": columns, "young": [0, 0, 1, 1]}, **features)
    source = open_source(folder, "train", condition="labels", attribute_columns=["young", "smiling"])
    assert source.class_names == ["young", "smiling"]
    assert vectors(source) == [[False, True], [False, False], [True, True], [True, False]]


# Numbers


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numbers_and_their_range(dtype, save):
    folder = save({"angle": NUMBERS}, angle=datasets.Value(dtype))
    source = open_source(folder, "train", condition="number", label_column="angle")
    assert source.class_names == ["angle"] and source.condition_range == (-1.5, 3.0)
    np.testing.assert_allclose(vectors(source), np.array(NUMBERS)[:, None], rtol=1e-6)
    some = open_source(folder, "train", condition="number", label_column="angle", max_images=2)
    assert some.condition_range == (0.25, 3.0), "of the images that are used"
    declared = open_source(folder, "train", condition="number", label_column="angle", condition_range=(-2.0, 4.0))
    assert declared.condition_range == (-2.0, 4.0)


def test_a_declared_range_holds_for_numbers_in_float32(save):
    folder = save({"angle": [0.1, 0.5, 0.7, 0.9]}, angle=datasets.Value("float32"))
    open_source(folder, "train", condition="number", label_column="angle", condition_range=(0.1, 0.9))


def test_one_and_the_same_number_is_no_condition(save):
    options = {"condition": "number", "label_column": "angle"}
    message = refusal(open_sources, DataConfig(source=save({"angle": [2.5] * 4}), **options))
    assert message == "label_column is 'angle', which is 2.5 in all images: name another, or none"


def test_numbers_are_no_condition_unless_that_is_said(save):
    folder = save({"angle": NUMBERS, "label": [0, 1, 1, 0]}, label=datasets.ClassLabel(names=["a", "b"]))
    assert open_source(folder, "train").class_names == ["a", "b"]
    assert "is not a whole number" in refusal(open_source, folder, "train", label_column="angle")
    assert open_source(save({"angle": NUMBERS}), "train").class_names is None


# Mistakes

MISTAKES = [
    ({"tags": [[0, 1], [0], [1], [0, 0]]}, {"condition": "labels", "label_column": "tags"}, "split 'train' has 0 twice"),
    ({"tags": [[0], None, [1], [0]]}, {"condition": "labels", "label_column": "tags"}, "has an empty list"),
    ({"tags": [["a"], [""], ["b"], []]}, {"condition": "labels", "label_column": "tags"}, "is an empty text"),
    ({"tags": [[True], [False], [], []]}, {"condition": "labels", "label_column": "tags"}, "as `attribute_columns`"),
    ({"angle": NUMBERS}, {"condition": "labels"}, "no column is a list of ClassLabel: name one with `label_column`"),
    ({"tags": SETS}, {"condition": "labels", "label_column": "nil"}, "label_column is 'nil', which does not exist"),
    ({"a": [0, 1, 2, 1]}, {"condition": "labels", "attribute_columns": ["a"]}, "nor 1: fix the column 'a'"),
    ({"a": [0, 1, None, 1]}, {"condition": "labels", "attribute_columns": ["a"]}, "is missing"),
    ({"a": list("abcd")}, {"condition": "labels", "attribute_columns": ["a"]}, "of type string"),
    ({"a": SETS}, {"condition": "labels", "attribute_columns": ["b"]}, "attribute_columns is 'b', which does not exist"),
    ({"angle": NUMBERS}, {"condition": "number"}, "Name it with `label_column`, such as angle"),
    ({"angle": [0.1, None, 1, 2]}, {"condition": "number", "label_column": "angle"}, "row 1 of split 'train' is missing"),
    ({"angle": [0.1, 1, float("nan"), 2]}, {"condition": "number", "label_column": "angle"}, "is missing"),
    ({"angle": [0.1, 1, 2, float("inf")]}, {"condition": "number", "label_column": "angle"}, "is not finite"),
    ({"angle": list("abcd")}, {"condition": "number", "label_column": "angle"}, "of type string: name a column of numbers"),
    ({"angle": NUMBERS}, {"condition": "number", "label_column": "angle", "condition_range": (0.0, 5.0)},
     "label -1.5 at row 1 of split 'train' is outside condition_range, 0 to 5"),
]  # fmt: skip


@pytest.mark.parametrize(("columns", "options", "words"), MISTAKES)
def test_what_is_no_condition_is_refused(columns, options, words, save):
    assert words in refusal(open_source, save(columns), "train", **options)


def test_an_image_still_has_one_class_unless_something_else_is_said(save):
    folder = save({"label": SETS}, label=LISTS)
    assert "is a list of 2, and an image has one class" in refusal(open_source, folder, "train")
    assert open_source(save({"label": [[0], [1], [2], [0]]}, label=LISTS), "train").class_names == NAMES


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"attribute_columns": ["a"]}, "--data.attribute_columns is ['a']: add --data.condition labels"),
        ({"condition": "labels", "attribute_columns": ["a", "a"]}, "name different columns"),
        ({"condition": "labels", "attribute_columns": ["a"], "label_column": "b"}, "leave out --data.label_column"),
        ({"condition_range": (0, 1)}, "add --data.condition number"),
        ({"condition": "number", "condition_range": (1, 1)}, "give the lowest and then the highest number"),
        ({"condition": "number", "labels": ["a"]}, "numbers have no names"),
        ({"condition": "number", "class_conditional": False}, "leave out --data.class_conditional false"),
    ],
)
def test_options_that_do_not_go_together(options, words):
    assert words in refusal(DataConfig, **options)


# Tables and streams

CONDITIONS = {
    "labels": ({"tags": SETS}, {"tags": LISTS}, {"condition": "labels"}),
    "attributes": ({"a": [0, 1, 1, 0], "b": [1, 0, 1, 0]}, {}, {"condition": "labels", "attribute_columns": ["b", "a"]}),
    "number": (
        {"angle": NUMBERS}, {}, {"condition": "number", "label_column": "angle", "condition_range": (-2.0, 4.0)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", list(CONDITIONS))
def test_a_stream_reads_the_same_as_a_table(kind, save):
    columns, features, options = CONDITIONS[kind]
    folder = save(columns, **features)
    table = load_images(folder, "train", image_size=2, **options)
    stream = open_stream(folder, "train", image_size=2, **options)
    assert stream.class_names == table.class_names and stream.condition_range == table.condition_range
    head = stream.head(4)
    torch.testing.assert_close(head.class_labels, table.class_labels, check_dtype=False)
    batches = [each.reader(seed=0, batch_size=4).read(0, 0) for each in (table, stream)]
    by_image = [dict(zip(it.images[:, 0, 0, 0].tolist(), it.class_labels.tolist(), strict=True)) for it in batches]
    assert by_image[0].keys() == by_image[1].keys()
    for image, vector in by_image[0].items():
        assert vector == pytest.approx(by_image[1][image])


def test_a_stream_says_what_it_must_know(save):
    folder = save({"angle": NUMBERS, "tags": [["a"], ["b"], [], ["a", "b"]]})
    options = {"image_size": 2, "condition": "number", "label_column": "angle"}
    assert "give the range of its numbers" in refusal(open_stream, folder, "train", **options)
    options |= {"condition": "labels", "label_column": "tags"}
    assert "leave out `streaming`, or cast it to lists of ClassLabel" in refusal(open_stream, folder, "train", **options)
    options |= {"condition": "number", "label_column": "angle", "condition_range": (0.0, 9.0)}
    stream = open_stream(folder, "train", **options)
    assert "label -1.5 at row 1 of split 'train' is outside condition_range" in refusal(stream.head, 4)


def test_the_fingerprint_tells_conditions_apart(save):
    folder = save({"tags": SETS, "angle": NUMBERS, "turn": [0.2, *NUMBERS[1:]]}, tags=LISTS)
    choices = [
        {"class_conditional": False},
        {"condition": "labels"},
        {"condition": "labels", "labels": NAMES[::-1]},
        {"condition": "number", "label_column": "angle"},
        {"condition": "number", "label_column": "turn"},
    ]
    tables = [load_images(folder, "train", image_size=2, **options) for options in choices]
    assert len({table.fingerprint for table in tables}) == len(choices)
    assert tables[2].in_class_order(NAMES).fingerprint == tables[1].fingerprint


def describe(folder: str, **options) -> DataDescription:
    data = DataConfig(source=folder, **options)
    table = load_images(folder, "train", image_size=2, **data.column_options())
    return describe_data(data, table, None)


def test_the_description_counts_labels_and_says_the_range(save, tmp_path):
    folder = save({"tags": SETS, "angle": NUMBERS}, tags=LISTS)
    labels = describe(folder, condition="labels")
    assert "labels:   3: cat (1), red (2), big (1)" in str(labels).splitlines()
    number = describe(folder, condition="number", label_column="angle")
    assert "number:   angle, from -1.5 to 3" in str(number).splitlines()
    for description in (labels, number):
        Path(tmp_path / "data.json").write_text(description.to_json())
        assert str(DataDescription.read(tmp_path / "data.json")) == str(description)
