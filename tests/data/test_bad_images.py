"""Images that cannot be decoded: an error that names them, or left out up to a limit and counted."""

import io
from pathlib import Path

import datasets
import PIL.Image
import pytest
import torch

from hf_ddpm.cli import parse_config
from hf_ddpm.data.open_stream import open_stream
from hf_ddpm.data.table import load_images
from hf_ddpm.training.loop import train
from hf_ddpm.training.options import TrainConfig

BAD = (0, 4, 5, 9)


def png(value: int) -> bytes:
    """A gray image of 4 x 4 pixels of one value."""
    file = io.BytesIO()
    PIL.Image.new("L", (4, 4), value).save(file, format="png")
    return file.getvalue()


def write_data(folder: Path, bad=BAD, count: int = 12) -> str:
    """Image i is of the gray value i and of class i % 3; a bad one lacks its second half, image 4 is missing altogether."""
    rows = [{"bytes": png(row), "path": None} for row in range(count)]
    for row in bad:
        rows[row] = None if row == 4 else {"bytes": rows[row]["bytes"][:40], "path": f"cats/{row}.png"}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])})
    data = datasets.Dataset.from_dict({"image": rows, "label": [row % 3 for row in range(count)]}, features=features)
    folder.mkdir()
    data.to_parquet(folder / "train.parquet")
    return str(folder)


def values(images: torch.Tensor) -> list[int]:
    return images[:, 0, 0, 0].tolist()


def refusal(call) -> str:
    with pytest.raises(ValueError) as refused:
        call()
    message = str(refused.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("read", [load_images, open_stream])
def test_by_default_the_first_one_is_an_error(tmp_path, read):
    source = write_data(tmp_path / "data", bad=(0,))
    assert "(file 'cats/0.png') cannot be decoded" in refusal(lambda: read(source, "train", image_size=4, channels=1))
    assert "cannot be decoded" in refusal(lambda: read(source, "train", image_size=4))


@pytest.mark.parametrize("channels", [1, None])
def test_left_out_of_a_table_with_their_labels(tmp_path, caplog, channels):
    source = write_data(tmp_path / "data")
    options = {"image_size": 4, "channels": channels, "on_bad_image": "skip"}
    for _ in range(2):  # decoded, then from the cache
        table = load_images(source, "train", **options)
        kept = [row for row in range(12) if row not in BAD]
        assert values(table.images(torch.arange(len(table)))) == kept
        assert table.class_labels.tolist() == [row % 3 for row in kept]
        warnings = [record.getMessage() for record in caplog.records]
        caplog.clear()
        assert len(warnings) == 3
        assert "row 0 of split 'train'" in warnings[0]
        assert "row 4" in warnings[1] and "further ones are not shown" in warnings[2]


def test_rows_are_those_of_the_split(tmp_path, caplog):
    source = write_data(tmp_path / "data", bad=(5,))
    table = load_images(source, "train", image_size=4, labels=["c"], on_bad_image="skip")
    assert values(table.images(torch.arange(len(table)))) == [2, 8, 11]
    assert "row 5 of" in caplog.text


def test_data_without_a_bad_image_are_the_same_either_way(tmp_path):
    source = write_data(tmp_path / "data", bad=())
    with_skip = load_images(source, "train", image_size=4, on_bad_image="skip")
    assert with_skip.fingerprint == load_images(source, "train", image_size=4).fingerprint


@pytest.mark.parametrize("limit", [1, 3])
def test_one_more_than_the_limit_is_an_error(tmp_path, limit):
    source = write_data(tmp_path / "data")
    options = {"image_size": 4, "channels": 1, "on_bad_image": "skip"}
    assert len(load_images(source, "train", **options, max_bad_images=4)) == 8
    message = refusal(lambda: load_images(source, "train", **options, max_bad_images=limit))
    assert f"row {BAD[limit]} of" in message and f"max_bad_images is {limit}" in message

    stream = open_stream(source, "train", **options, max_bad_images=limit)
    assert f"max_bad_images is {limit}" in refusal(lambda: stream.reader(seed=0, batch_size=12).read(0, 0))


@pytest.mark.parametrize("read", [load_images, open_stream])
def test_nothing_but_bad_images_is_refused(tmp_path, read):
    source = write_data(tmp_path / "data", bad=range(12))
    message = refusal(lambda: read(source, "train", image_size=4, on_bad_image="skip"))
    assert "no image" in message or "no rows" in message


def read_all(stream, batch_size: int, batches: int, start: int = 0) -> list[tuple[int, int]]:
    reader = stream.reader(seed=3, batch_size=batch_size)
    read = [reader.read(start + index * batch_size, 0) for index in range(batches)]
    return [pair for batch in read for pair in zip(values(batch.images), batch.class_labels.tolist(), strict=True)]


def test_in_a_stream_the_next_one_takes_the_place(tmp_path):
    """What is read depends on the position alone: on the batch size as little as on where the reading began."""
    stream = open_stream(write_data(tmp_path / "data"), "train", image_size=4, shuffle_buffer=5, on_bad_image="skip")
    whole = read_all(stream, 12, 3)
    assert {value for value, _ in whole} == set(range(12)) - set(BAD)
    assert all(label == value % 3 for value, label in whole)
    assert read_all(stream, 4, 9) == whole and read_all(stream, 1, 36) == whole
    for start in range(0, 33, 5):
        assert read_all(stream, 1, 3, start) == whole[start : start + 3]


def test_each_is_counted_once_in_all_epochs(tmp_path):
    stream = open_stream(write_data(tmp_path / "data"), "train", image_size=4, on_bad_image="skip", max_bad_images=4)
    assert len(read_all(stream, 12, 5)) == 60
    assert values(stream.head(20).images(torch.arange(8))) == [row for row in range(12) if row not in BAD]


def test_a_process_whose_part_is_bad_says_so(tmp_path):
    stream = open_stream(write_data(tmp_path / "data", bad=(1, 3, 5), count=6), "train", image_size=4, on_bad_image="skip")
    reader = stream.reader(seed=0, batch_size=2, num_processes=2, process_index=1)
    assert "start fewer processes" in refusal(lambda: reader.read(0, 0))


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"on_bad_image": "drop"}, "on_bad_image is 'drop'"),
        ({"max_bad_images": 3}, "max_bad_images is 3"),
        ({"on_bad_image": "skip", "max_bad_images": 0}, "max_bad_images is 0"),
    ],
)
@pytest.mark.parametrize("read", [load_images, open_stream])
def test_impossible_options_are_refused(read, options, name):
    assert name in refusal(lambda: read("digits", "train", image_size=8, **options))


@pytest.mark.parametrize("streaming", [False, True])
def test_a_run_leaves_them_out(tmp_path, tiny_options, caplog, streaming):
    source = write_data(tmp_path / "data")
    options = [f"--data.source={source}", "--data.image_size=4", f"--data.streaming={streaming}", "--max_train_steps=2"]
    options = [*tiny_options, *options]
    config = parse_config(TrainConfig, [*options, "--data.on_bad_image=skip", f"--output_dir={tmp_path / 'run'}"])
    assert (train(config) / "model_index.json").is_file()
    assert "left out, as `on_bad_image` is skip" in caplog.text
    assert "cannot be decoded" in refusal(
        lambda: train(parse_config(TrainConfig, [*options, f"--output_dir={tmp_path / 'other'}"]))
    )
    assert not (tmp_path / "other").exists()
