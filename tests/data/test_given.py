"""Images that a program gives: data sets of the datasets library, and torch Datasets of tensors."""

import datasets
import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from hf_ddpm.data.batches import to_model_range
from hf_ddpm.data.given import load_given
from hf_ddpm.data.options import DataConfig
from hf_ddpm.data.sources import open_splits
from hf_ddpm.data.table import load_images

GENERATOR = torch.Generator().manual_seed(0)
EIGHT = torch.arange(256, dtype=torch.uint8).reshape(2, 2, 8, 8)
SIXTEEN = torch.randint(65536, (2, 1, 8, 8), generator=GENERATOR).to(torch.uint16)
FLOATS = torch.rand(2, 3, 8, 8, generator=GENERATOR)


class Pairs(Dataset):
    """Images with labels, and perhaps names of the classes."""

    def __init__(self, labels, classes=None, images=None):
        self.labels, self.images = labels, torch.rand(len(labels), 1, 8, 8) if images is None else images
        if classes is not None:
            self.classes = classes

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.images[index], self.labels[index]


class Items(Dataset):
    """Any items."""

    def __init__(self, *items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        item = self.items[index]
        return item() if callable(item) else item


class Endless(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(())


def train_split(dataset, **options):
    return load_given(dataset, DataConfig(**options), image_size=8, channels=None)[0]


class TestTensors:
    @pytest.mark.parametrize(
        ("images", "value_range"),
        [
            (EIGHT, None),
            (EIGHT, (0, 255)),
            (EIGHT, (0, 300)),
            (SIXTEEN, (0, 65535)),
            (FLOATS, (0, 1)),
            (FLOATS.half(), (-1, 1)),
        ],
        ids=["uint8", "uint8 by name", "uint8 in a range", "uint16", "float32", "float16"],
    )
    def test_no_bit_is_lost(self, images, value_range):
        table = train_split(TensorDataset(images), value_range=value_range)
        assert table.image_shape == tuple(images.shape[1:])
        assert torch.equal(table.images(torch.arange(2)).double(), images.double())
        low, high = value_range or (0, 255)
        scaled = to_model_range(table.images(torch.arange(2)), table.value_range)
        torch.testing.assert_close(scaled.double(), (images.double() - low) / (high - low) * 2 - 1, rtol=0, atol=1e-6)

    def test_bytes_are_those_of_a_data_set_on_the_disk(self):
        digits = load_images("digits", "train", image_size=8)
        images, labels = digits.images(torch.arange(len(digits))), digits.class_labels
        table = train_split(TensorDataset(images, labels))
        assert table.fingerprint == digits.fingerprint
        assert (table.class_names, table.pixel_type) == (digits.class_names, "uint8")

    def test_images_may_lack_a_dimension_and_have_other_sizes(self):
        table, _ = load_given(TensorDataset(EIGHT[0].reshape(2, 16, 4)), DataConfig(), image_size=(16, 4), channels=1)
        assert table.image_shape == (1, 16, 4)

    def test_labels_are_numbers_names_or_named_numbers(self):
        def found(dataset, **options):
            table = train_split(dataset, value_range=(0, 1), **options)
            return table.class_names, None if table.class_labels is None else table.class_labels.tolist()

        numbers = [torch.tensor(2), 0, np.int64(2)]
        assert found(Pairs(numbers)) == (["0", "2"], [1, 0, 1])
        assert found(Pairs(numbers, classes=["cat", "dog", "frog"])) == (["cat", "dog", "frog"], [2, 0, 2])
        assert found(Pairs(numbers, classes=["cat", "dog", "frog"]), labels=["frog"]) == (["frog"], [0, 0])
        assert found(Pairs(["b", "a", "b"])) == (["a", "b"], [1, 0, 1])
        assert found(Pairs(numbers), class_conditional=False) == (None, None)
        assert found(TensorDataset(FLOATS)) == (None, None)

    def test_the_images_of_the_chosen_classes_are_kept(self):
        images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 8, 8)
        dataset = Pairs([0, 1, 0, 1], images=images)
        assert train_split(dataset, value_range=(0, 9), labels=[1]).images(torch.arange(2))[:, 0, 0, 0].tolist() == [1, 3]
        assert train_split(dataset, value_range=(0, 9), max_images=2).images(torch.arange(2))[:, 0, 0, 0].tolist() == [0, 2]

    def test_sets_of_labels_and_numbers_are_conditions_too(self):
        sets = train_split(Pairs([[0, 2], [2], []]), value_range=(0, 1), condition="labels")
        assert (sets.class_names, sets.class_labels.tolist()) == (["0", "2"], [[1, 1], [0, 1], [0, 0]])
        numbers = train_split(Pairs([torch.tensor(0.5), 2.0, 1.0]), value_range=(0, 1), condition="number")
        assert (numbers.condition_range, len(numbers.class_labels)) == ((0.5, 2.0), 3)

    def test_splits_have_names(self):
        splits = {"train": TensorDataset(FLOATS), "small": TensorDataset(FLOATS[:1])}
        train, test = load_given(splits, DataConfig(test_split="small", value_range=(0, 1)), image_size=8, channels=3)
        assert (len(train), len(test)) == (2, 1)
        only = load_given(splits["small"], DataConfig(train_split="any", value_range=(0, 1)), image_size=8, channels=3)
        assert (len(only[0]), only[1]) == (1, None)


class TestDatasets:
    def test_they_are_read_like_those_of_a_folder(self):
        digits = datasets.DatasetDict(open_splits("digits")[0])
        train, test = load_given(digits, DataConfig(test_split="test"), image_size=8, channels=1)
        for table, split in ((train, "train"), (test, "test")):
            assert table.fingerprint == load_images("digits", split, image_size=8).fingerprint
        assert len(train_split(digits["train"], labels=[3], max_images=5)) == 5

    def test_image_files_are_read_wherever_they_are(self, tmp_path):
        image = open_splits("digits")[0]["test"][0]["image"]
        image.save(tmp_path / "a.png")
        dataset = datasets.Dataset.from_dict({"image": [str(tmp_path / "a.png")]}).cast_column("image", datasets.Image())
        assert train_split(dataset).images(torch.arange(1)).numpy().tobytes() == np.asarray(image).tobytes()


PLAIN = TensorDataset(EIGHT[:, :1])
REFUSED = {
    "a class": (object, {}, "is a type, give a datasets.Dataset, or a torch Dataset"),
    "a stream": (Endless(), {}, "split 'train' is a stream"),
    "a stream of datasets": (datasets.IterableDataset.from_generator(lambda: iter(())), {}, "split 'train' is a stream"),
    "a transform": (
        datasets.Dataset.from_dict({"image": [1]}).with_transform(lambda rows: rows), {}, "has a transform, which would not"
    ),
    "no images": (Items(), {}, "has no rows"),
    "a random transform": (Items(lambda: torch.rand(1, 8, 8)), {}, "leave out random transforms"),
    "pictures": (Items("picture"), {}, "item 0 of split 'train' is str, give a tensor"),
    "three things": (Items((EIGHT[0], 1, 2)), {}, "is (Tensor, int, int), give a tensor, or a tensor and its label"),
    "float64": (TensorDataset(FLOATS.double()), {}, "is float64, give uint8, uint16 or float32"),
    "batches": (Items(EIGHT), {}, "has the shape (2, 2, 8, 8), give (channels, height, width)"),
    "two shapes": (Items(EIGHT[0], EIGHT[0, :, :4]), {}, "item 1 of split 'train' is (2, 4, 8) uint8 without a label, and"),
    "some labels": (Items((EIGHT[0], 1), EIGHT[0]), {}, "uint8 without a label, and item 0 is (2, 8, 8) uint8 with a label"),
    "no range": (TensorDataset(FLOATS), {}, "--data.value_range is None: the values of split 'train' are"),
    "too small a range": (PLAIN, {"value_range": (0, 9)}, "give a range that holds them"),
    "not a number": (
        TensorDataset(torch.cat([FLOATS, FLOATS * torch.nan, FLOATS])), {"value_range": (0, 1)},
        "are nan to nan, give finite ones",
    ),
    "another size": (TensorDataset(EIGHT[..., :4]), {}, "the tensors of the dataset are 8 x 4: give `image_size` [8, 4]"),
    "a column": (PLAIN, {"image_column": "x"}, "--data.image_column is 'x': leave it out"),
    "no such split": (PLAIN, {"test_split": "test"}, "it has no split 'test', but 'train'"),
    "no classes": (PLAIN, {"class_conditional": True}, "class_conditional is True, but no column"),
    "a missing label": (Pairs([0, None]), {"value_range": (0, 1)}, "item 1 of split 'train' is (1, 8, 8) float32 without a"),
    "a negative label": (Pairs([0, -1]), {"value_range": (0, 1)}, "label -1 at row 1 of split 'train' is negative"),
    "too few names": (Pairs([0, 2], classes=["a", "b"]), {"value_range": (0, 1)}, "labels of split 'train' cannot be read"),
    "mixed labels": (Pairs([0, "a"]), {"value_range": (0, 1)}, "labels of split 'train' cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_work_is_refused_in_one_line(name):
    dataset, options, message = REFUSED[name]
    with pytest.raises(ValueError) as refused:
        train_split(dataset, **options)
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_another_number_of_channels_than_that_of_the_network_is_refused():
    with pytest.raises(ValueError, match="channels is 3, of the network, but the tensors of the dataset have 1"):
        load_given(PLAIN, DataConfig(), image_size=8, channels=3)
