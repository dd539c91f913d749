"""What images are decoded to: channels and values that are kept exactly in the cache, and mixtures that are refused."""

import re
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import pytest
import torch

from hf_ddpm.data.describe import describe_data
from hf_ddpm.data.load_splits import load_splits
from hf_ddpm.data.open_stream import FIRST_IMAGES, open_stream
from hf_ddpm.data.options import DataConfig
from hf_ddpm.data.table import load_images

RNG = np.random.default_rng(0)
TWELVE_BITS = [RNG.integers(0, 4096, (48, 32, 4), dtype=np.uint16) for _ in range(4)]
SIZE, RANGE = (48, 32), (0, 4095)


def write(folder: Path, arrays: list) -> str:
    """Class folders a and b of .npy files."""
    for row, array in enumerate(arrays):
        place = folder / "ab"[row % 2]
        place.mkdir(parents=True, exist_ok=True)
        np.save(place / f"{row:03}.npy", array)
    return str(folder)


def everything(table) -> np.ndarray:
    return table.images(torch.arange(len(table))).numpy()


def as_images(arrays: list) -> np.ndarray:
    """In the order of the class folders."""
    return np.stack([np.moveaxis(array, -1, 0) for array in arrays[::2] + arrays[1::2]])


def refusal(source: str, read=load_images, **options) -> str:
    with pytest.raises(ValueError) as refused:
        read(source, "train", **{"image_size": SIZE, **options})
    assert type(refused.value) is ValueError and "\n" not in str(refused.value)
    return str(refused.value)


def test_twelve_bits_of_four_channels_come_back_from_the_cache(tmp_path):
    source = write(tmp_path / "data", TWELVE_BITS)
    for _ in range(2):  # decoded, then from the cache
        table = load_images(source, "train", image_size=SIZE, value_range=RANGE)
        assert (table.image_shape, table.pixel_type, table.value_range) == ((4, 48, 32), "uint16", RANGE)
        assert table.class_names == ["a", "b"] and table.class_labels.tolist() == [0, 0, 1, 1]
        assert everything(table).dtype == np.uint16 and np.array_equal(everything(table), as_images(TWELVE_BITS))
    code = (
        "import sys, torch, datasets; datasets.config.HF_DATASETS_CACHE = __import__('pathlib').Path(sys.argv[2])\n"
        "from hf_ddpm.data.table import load_images\n"
        "print(load_images(sys.argv[1], 'train', image_size=(48, 32), value_range=(0, 4095)).fingerprint)"
    )
    cache = str(datasets.config.HF_DATASETS_CACHE)
    other = subprocess.run([sys.executable, "-c", code, source, cache], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == table.fingerprint and "decoding" not in other.stderr, "another process maps the same file"


def test_a_stream_equals_the_table(tmp_path):
    source, options = write(tmp_path / "data", TWELVE_BITS), {"image_size": SIZE, "value_range": RANGE}
    table, stream = load_images(source, "train", **options), open_stream(source, "train", **options)
    head = stream.head(9)
    assert np.array_equal(everything(head), everything(table))
    assert head.image_shape == stream.image_shape == table.image_shape
    assert (head.pixel_type, head.value_range) == (stream.pixel_type, stream.value_range) == ("uint16", RANGE)
    one = table.reader(seed=0, batch_size=4).read(0, 0).images.numpy()
    two = [table.reader(seed=0, batch_size=2, num_processes=2, process_index=i).read(0, 0).images.numpy() for i in (0, 1)]
    assert np.array_equal(np.concatenate(two), one) and one.dtype == np.uint16
    both = [stream.reader(seed=0, batch_size=2, num_processes=2, process_index=i).read(0, 0).images for i in (0, 1)]
    assert both[0].dtype == torch.uint16
    known = {image.tobytes() for image in everything(table)}
    assert {image.numpy().tobytes() for batch in both for image in batch} == known


@pytest.mark.parametrize(
    ("arrays", "options", "pixel_type", "channels"),
    [
        ([array[..., 0] for array in TWELVE_BITS], {}, "uint16", 1),
        ([array[..., :3] for array in TWELVE_BITS], {}, "uint16", 3),
        ([array[..., :2] for array in TWELVE_BITS], {}, "uint16", 2),
        ([array.astype(np.int32) for array in TWELVE_BITS], {}, "uint16", 4),
        ([array.astype(np.int32) - 9 for array in TWELVE_BITS], {"value_range": (-9, 4095)}, "float32", 4),
        ([array / 4095 for array in TWELVE_BITS], {"value_range": (0, 1)}, "float32", 4),
        ([array >> 11 for array in TWELVE_BITS], {"value_range": (0, 1), "channels": 4}, "uint8", 4),
        ([(array >> 4).astype(np.uint8) for array in TWELVE_BITS], {"value_range": None, "channels": 4}, "uint8", 4),
        (TWELVE_BITS, {"pixel_type": "float32"}, "float32", 4),
        (TWELVE_BITS, {"pixel_type": "uint8", "channels": 4}, "uint8", 4),
    ],
)
def test_the_type_keeps_all_values_of_the_range(tmp_path, arrays, options, pixel_type, channels):
    options = {"image_size": SIZE, "value_range": RANGE, **options}
    source = write(tmp_path / "data", arrays)
    table = load_images(source, "train", **options)
    assert (table.pixel_type, table.channels) == (pixel_type, channels)
    low, high = options["value_range"] or (0, 255)
    expected = as_images([np.atleast_3d(array) for array in arrays])
    if pixel_type == "uint8":
        assert table.value_range is None
        expected = np.rint((expected - low) / (high - low) * 255)
    else:
        assert table.value_range == (low, high)
    assert np.array_equal(everything(table), expected.astype(pixel_type))
    assert np.array_equal(everything(open_stream(source, "train", **options).head(4)), everything(table))


def test_images_of_8_bits_among_others_keep_their_shades(tmp_path, caplog):
    """Black and white are the ends of the range, however many bits an image has; by default the others are reduced."""
    gray = RNG.integers(0, 256, (6, 6), dtype=np.uint8)
    (tmp_path / "data").mkdir()
    PIL.Image.fromarray(gray).save(tmp_path / "data" / "0.png")
    PIL.Image.fromarray(gray.astype(np.uint16) * 257).save(tmp_path / "data" / "1.png")
    table = load_images(str(tmp_path / "data"), "train", image_size=6)
    assert table.pixel_type == "uint8" and np.array_equal(everything(table)[:, 0], np.stack([gray, gray]))
    assert "but others have 8: they are reduced to 8, give `pixel_type` uint16 to keep all bits" in caplog.text
    for pixel_type in ("uint16", "float32"):
        table = load_images(str(tmp_path / "data"), "train", image_size=6, pixel_type=pixel_type)
        assert table.value_range == (0, 65535)
        assert np.array_equal(everything(table)[:, 0], np.stack([gray, gray]).astype(pixel_type) * 257)


def test_opacity_of_16_bits_is_laid_over_white_unless_bits_are_to_be_kept(tmp_path, caplog):
    rgba = RNG.integers(0, 65536, (6, 6, 4), dtype=np.uint16)
    (tmp_path / "data").mkdir()
    png = pytest.importorskip("imagecodecs").png_encode(rgba)
    (tmp_path / "data" / "0.png").write_bytes(png)
    table = load_images(str(tmp_path / "data"), "train", image_size=6)
    assert (table.pixel_type, table.channels) == ("uint8", 3)
    assert "give `pixel_type` uint16 to keep all bits, with opacity as a channel" in caplog.text
    for options in ({"channels": 4}, {"pixel_type": "uint16"}):
        table = load_images(str(tmp_path / "data"), "train", image_size=6, **options)
        assert (table.pixel_type, table.channels) == ("uint16", 4)
        assert np.array_equal(everything(table)[0], np.moveaxis(rgba, -1, 0))


def test_opacity_is_a_channel_if_four_are_asked_for(tmp_path):
    rgba = RNG.integers(0, 256, (6, 6, 4), dtype=np.uint8)
    (tmp_path / "data").mkdir()
    PIL.Image.fromarray(rgba).save(tmp_path / "data" / "0.png")
    assert load_images(str(tmp_path / "data"), "train", image_size=6).channels == 3
    table = load_images(str(tmp_path / "data"), "train", image_size=6, channels=4)
    assert table.pixel_type == "uint8" and np.array_equal(everything(table)[0], np.moveaxis(rgba, -1, 0))


SIX = np.zeros((48, 32, 6), np.uint16)


@pytest.mark.parametrize("read", [load_images, open_stream])
@pytest.mark.parametrize(
    ("arrays", "options", "words"),
    [
        ([TWELVE_BITS[0], SIX], {}, "channels is None, but images of split 'train' of `source` .* have 4 and 6 channels"),
        ([TWELVE_BITS[0], SIX], {"channels": 4}, "channels is 4, but images .* have 4 and 6 channels: give what all"),
        (TWELVE_BITS, {"channels": 3}, "channels is 3, but images .* have 4 channels"),
        ([SIX, SIX], {"channels": 3, "pixel_type": "uint8"}, "channels is 3, but images .* have 6 channels"),
        (TWELVE_BITS, {"value_range": None}, r"value_range is None, but values .* such as \[0, 4095\]"),
        ([array / 4095 for array in TWELVE_BITS], {"pixel_type": "uint16"}, "pixel_type is 'uint16', but values .* float32"),
        (TWELVE_BITS, {"pixel_type": "uint16", "value_range": (-1, 5000)}, "is not within 0..65535: give float32"),
        (TWELVE_BITS, {"channels": 17}, "channels is 17: give 1 to 16"),
    ],
)
def test_wrong_mixtures_are_refused(tmp_path, arrays, options, words, read):
    assert re.search(words, refusal(write(tmp_path / "data", arrays), read, **{"value_range": RANGE, **options}))


def test_sixteen_bits_that_are_not_there_are_refused(tmp_path):
    (tmp_path / "data").mkdir()
    PIL.Image.fromarray(np.zeros((6, 6), np.uint8)).save(tmp_path / "data" / "0.png")
    message = refusal(str(tmp_path / "data"), pixel_type="uint16", image_size=6)
    assert "pixel_type is 'uint16', but all images" in message and "have plain 8 bits: leave it out" in message


def test_a_later_image_of_a_stream_with_more_bits_names_the_option(tmp_path):
    """The first images say that 8 bits are enough, and the range is known."""
    images = [np.zeros((6, 6), np.uint8)] * FIRST_IMAGES + [np.full((6, 6), 4095, np.uint16)]
    (tmp_path / "data").mkdir()
    for row, image in enumerate(images):
        PIL.Image.fromarray(image).save(tmp_path / "data" / f"{row:03}.png")
    options = {"image_size": 6, "value_range": RANGE}
    with pytest.raises(ValueError, match="pixel_type is None, and the beginning .* give uint8, uint16 or float32"):
        open_stream(str(tmp_path / "data"), "train", **options).head(200)
    for pixel_type, value in (("uint8", 255), ("uint16", 4095)):
        last = everything(open_stream(str(tmp_path / "data"), "train", **options, pixel_type=pixel_type).head(200))[-1]
        assert last.dtype == pixel_type and (last == value).all()


def test_both_splits_have_one_type(tmp_path):
    write(tmp_path / "data" / "train", TWELVE_BITS)
    write(tmp_path / "data" / "test", [array // 2 for array in TWELVE_BITS])
    config = DataConfig(source=str(tmp_path / "data"), test_split="test", value_range=RANGE)
    train, test = load_splits(config, image_size=SIZE)
    assert (train.pixel_type, train.value_range) == (test.pixel_type, test.value_range) == ("uint16", RANGE)
    images = str(describe_data(config, train, test)).splitlines()[1]
    assert images == "images:   48 x 32 pixels (height x width), 4 channels, uint16 from 0 to 4095"
    write(tmp_path / "data" / "test", [array / 2 for array in TWELVE_BITS])
    assert load_splits(config, image_size=SIZE)[0].pixel_type == "float32"


def test_columns_of_arrays(tmp_path):
    """Array3D and lists, with the channels first or last."""
    last = {"array": TWELVE_BITS, "list": [array.tolist() for array in TWELVE_BITS]}
    feature = datasets.Array3D((48, 32, 4), "uint16")
    rows = datasets.Dataset.from_dict(last).cast_column("array", feature)
    rows = rows.add_column("first", [array.transpose(2, 0, 1).tolist() for array in TWELVE_BITS])
    rows.save_to_disk(str(tmp_path / "data"))
    for column in ("array", "list", "first"):
        options = {"image_column": column, "image_size": SIZE, "value_range": RANGE}
        table = load_images(str(tmp_path / "data"), "train", **options)
        assert table.pixel_type == "uint16"
        assert np.array_equal(everything(table), np.stack([np.moveaxis(array, -1, 0) for array in TWELVE_BITS]))


def test_each_way_of_decoding_has_its_own_place_in_the_cache(tmp_path):
    source = write(tmp_path / "data", [RNG.integers(0, 4096, (20, 30, 4), dtype=np.uint16) for _ in range(2)])
    ways = [{}, {"resize": "pad"}, {"resize": "stretch"}, {"pixel_type": "float32"}, {"image_size": (8, 6)}]
    tables = [load_images(source, "train", **{"image_size": (6, 8), "value_range": RANGE, **way}) for way in ways]
    assert len({table.fingerprint for table in tables}) == len(ways)
    again = [load_images(source, "train", **{"image_size": (6, 8), "value_range": RANGE, **way}) for way in ways]
    assert [table.fingerprint for table in again] == [table.fingerprint for table in tables]
