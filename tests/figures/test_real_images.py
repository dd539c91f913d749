"""Which real images are read, and with which names."""

import numpy as np
import pytest
import yaml
from PIL import Image

from hf_ddpm.data.table import load_images
from hf_ddpm.figures.options import FigureDataConfig
from hf_ddpm.figures.real_images import data_of_model, read_images

DIGITS = FigureDataConfig(source="digits")


@pytest.fixture
def folder(tmp_path) -> str:
    """Images of 6 x 9 pixels: four cats, two dogs, no birds; value = 10 * number within the class."""
    for name, count in (("cat", 4), ("dog", 2)):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (9, 6), (10 * i, 0, 0)).save(tmp_path / "pets" / name / f"{i}.png")
    return str(tmp_path / "pets")


def test_images_are_those_that_training_reads():
    table = load_images("digits", "test", image_size=8)
    shown = read_images(FigureDataConfig(source="digits", split="test"), count=10)
    assert shown.names == [str(i) for i in range(10)] and shown.labels == list(range(10)) and shown.num_classes == 10
    first = [int((table.class_labels == label).nonzero()[0]) for label in range(10)]
    np.testing.assert_array_equal(shown.images[..., 0], table.images(np.array(first))[:, 0])


def test_classes_are_rows_or_take_turns(folder):
    data = FigureDataConfig(source=folder)
    rows = read_images(data, per_class=2)
    assert rows.names == ["cat", "cat", "dog", "dog"] and rows.images.shape == (4, 6, 6, 3)
    assert rows.images[:, 0, 0, 0].tolist() == [0, 10, 0, 10]
    turns = read_images(data, count=6)  # until a class has no more
    assert turns.names == ["cat", "dog", "cat", "dog", "cat", "cat"]
    assert read_images(data, per_class=1, max_classes=1).names == ["cat"]
    chosen = read_images(FigureDataConfig(source=folder, labels=["dog"], channels=1, image_size=4), count=1)
    assert chosen.names == ["dog"] and chosen.images.shape == (1, 4, 4, 1)


def test_images_without_classes_are_the_first_ones(tmp_path):
    (tmp_path / "plain").mkdir()
    for i in range(4):
        Image.new("L", (5, 5), 10 * i).save(tmp_path / "plain" / f"{i}.png")
    shown = read_images(FigureDataConfig(source=str(tmp_path / "plain")), per_class=2)
    assert shown.names is None and shown.images[:, 0, 0, 0].tolist() == [0, 10, 20, 30]


def test_mistakes(folder, tmp_path):
    data = FigureDataConfig(source=folder)
    with pytest.raises(ValueError, match="has 2 images of class 'dog', 3 are needed"):
        read_images(data, per_class=3)
    with pytest.raises(ValueError, match="has 6 images, 7 are needed"):
        read_images(data, count=7)
    with pytest.raises(ValueError, match="split"):
        read_images(FigureDataConfig(source="digits", split="valid"), count=1)
    (tmp_path / "pets" / "cat" / "0.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="`source` .* cannot be decoded"):
        read_images(data, count=1)


def test_the_data_of_a_model_is_that_of_its_run(tmp_path):
    run, checkpoint = tmp_path / "run", tmp_path / "run" / "checkpoints" / "step-00000001"
    for model in (run / "pipeline", checkpoint):
        model.mkdir(parents=True)
    trained = {"source": "somewhere", "train_split": "valid", "labels": ["a"], "image_column": None, "batch_size": 8}
    trained["value_range"] = [0.0, 4095.0]
    (run / "config.yaml").write_text(yaml.safe_dump({"data": trained}))
    for model in (run / "pipeline", checkpoint):
        data = data_of_model(FigureDataConfig(), str(model))
        assert (data.source, data.split, data.labels) == ("somewhere", "valid", ["a"])
        assert data.value_range == (0, 4095)
    assert data_of_model(FigureDataConfig(split="test", labels=["b"]), str(checkpoint)).split == "test"
    assert data_of_model(FigureDataConfig(split="test", labels=["b"]), str(checkpoint)).labels == ["b"]
    assert data_of_model(DIGITS, str(checkpoint)) == DIGITS
    with pytest.raises(ValueError, match="source is None"):
        data_of_model(FigureDataConfig(), str(tmp_path))
    for damaged in ("data: [", "", "seed: 0", "data: 3"):
        (run / "config.yaml").write_text(damaged)
        with pytest.raises(ValueError, match="config.yaml is damaged, name the data with `source`"):
            data_of_model(FigureDataConfig(), str(checkpoint))
