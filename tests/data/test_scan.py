"""What all images say before one is decoded: their colours, sizes and ranges of values."""

import io
from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import pytest
import torch

from hf_ddpm.data import scan as scanning
from hf_ddpm.data.load_splits import load_splits
from hf_ddpm.data.open_stream import FIRST_IMAGES, open_stream
from hf_ddpm.data.options import DataConfig
from hf_ddpm.data.scan import scan
from hf_ddpm.data.sources import open_source
from hf_ddpm.data.table import load_images
from hf_ddpm.figures.options import FigureDataConfig
from hf_ddpm.figures.real_images import read_images

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (6, 6), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (6, 6, 3), dtype=np.uint8)
TWELVE_BITS = RNG.integers(0, 4096, (6, 6)).astype(np.uint16)
TWELVE_BITS[0, :2] = 0, 4095
FLOATS = (TWELVE_BITS / 4095).astype(np.float32)


def write(folder: Path, images: list, suffix: str = ".png") -> str:
    folder.mkdir(parents=True, exist_ok=True)
    for row, image in enumerate(images):
        image = image if isinstance(image, PIL.Image.Image) else PIL.Image.fromarray(image)
        image.save(folder / f"{row:03}{suffix}")
    return str(folder)


def pixels(source: str, **options) -> np.ndarray:
    """(N, C, H, W) of a table, and the same of a stream."""
    table = load_images(source, "train", image_size=6, **options)
    images = table.images(torch.arange(len(table)))
    head = open_stream(source, "train", image_size=6, **options).head(len(table))
    assert torch.equal(head.images(torch.arange(len(table))), images)
    return images.numpy()


def refusal(source: str, read=load_images, **options) -> str:
    with pytest.raises(ValueError) as refused:
        read(source, "train", image_size=6, **options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


# Colour


@pytest.mark.parametrize("place", [0, 1, -1])
def test_one_image_in_colour_makes_all_rgb(tmp_path, place):
    images = [GRAY] * 4
    images[place] = COLOUR
    read = pixels(write(tmp_path / "data", images))
    assert read.shape == (4, 3, 6, 6)
    assert np.array_equal(read[place], COLOUR.transpose(2, 0, 1))
    assert np.array_equal(read[place - 1], np.stack([GRAY] * 3))


@pytest.mark.parametrize(
    ("image", "suffix", "channels"),
    [
        (PIL.Image.fromarray(GRAY), ".png", 1),
        (PIL.Image.fromarray(GRAY).convert("1"), ".png", 1),
        (PIL.Image.fromarray(GRAY).convert("LA"), ".png", 1),
        (PIL.Image.fromarray(GRAY.astype(np.uint16) * 257), ".png", 1),
        (PIL.Image.fromarray(GRAY).convert("RGB"), ".png", 3),  # by its mode, as a colour image of gray things is
        (PIL.Image.fromarray(COLOUR).convert("P"), ".png", 3),
        (PIL.Image.fromarray(COLOUR).convert("RGBA"), ".png", 3),
        (PIL.Image.fromarray(COLOUR).convert("CMYK"), ".jpg", 3),
    ],
    ids=lambda value: getattr(value, "mode", None),
)
def test_what_counts_as_colour(tmp_path, image, suffix, channels):
    write(tmp_path / "data", [GRAY])
    image.save(tmp_path / "data" / f"other{suffix}")
    table = load_images(str(tmp_path / "data"), "train", image_size=6)
    assert table.channels == channels
    assert (table.originals.num_gray, table.originals.num_colour) == ((2, 0) if channels == 1 else (1, 1))


def test_sizes_and_colours_of_the_originals(tmp_path):
    source = write(tmp_path / "data", [GRAY, np.zeros((30, 40), np.uint8), np.zeros((2, 90, 3), np.uint8)])
    (tmp_path / "data" / "bad.png").write_bytes(b"not an image")
    table = load_images(source, "train", image_size=6, on_bad_image="skip")
    assert table.originals.smallest == (6, 6) and table.originals.largest == (40, 30)
    assert (table.originals.num_gray, table.originals.num_colour) == (2, 1)
    assert [(left.what, left.count) for left in table.left_out] == [("images of split 'train'", 1)]


def test_gray_can_be_asked_for(tmp_path):
    assert pixels(write(tmp_path / "data", [COLOUR, GRAY]), channels=1).shape == (2, 1, 6, 6)


def test_images_are_looked_at_once(tmp_path, monkeypatch):
    source = write(tmp_path / "data", [GRAY, COLOUR])
    before = scan(open_source(source, "train"))
    monkeypatch.setattr(scanning, "inspect_image", None)
    assert scan(open_source(source, "train")) == before


def test_a_held_out_split_in_colour_is_refused_beside_a_gray_one(tmp_path):
    write(tmp_path / "data" / "train", [GRAY, GRAY])
    source = write(tmp_path / "data" / "test", [GRAY, COLOUR])
    config = {"source": str(Path(source).parent), "test_split": "test"}
    with pytest.raises(ValueError, match="test_split is 'test', which has images in colour, while 'train' has none"):
        load_splits(DataConfig(**config), image_size=6)
    for channels in (1, 3):
        train, test = load_splits(DataConfig(**config), image_size=6, channels=channels)
        assert train.channels == test.channels == channels
    train = open_stream(config["source"], "train", image_size=6)
    test = open_stream(config["source"], "test", image_size=6, channels=train.channels, settled=train.settled)
    with pytest.raises(ValueError, match=r"channels is None, .* a later image has: give 3, or 1"):
        test.head(2)


def write_rows(folder: Path, images: list) -> str:
    folder.mkdir()
    files = [io.BytesIO() for _ in images]
    for file, image in zip(files, images, strict=True):
        PIL.Image.fromarray(image).save(file, "png")
    rows = [{"bytes": file.getvalue(), "path": None} for file in files]
    features = datasets.Features({"image": datasets.Image()})
    datasets.Dataset.from_dict({"image": rows}, features=features).to_parquet(folder / "train.parquet")
    return str(folder)


def test_a_stream_that_was_gray_names_the_option_for_colour(tmp_path):
    source = write_rows(tmp_path / "data", [GRAY] * FIRST_IMAGES + [COLOUR])
    for skip in ({}, {"on_bad_image": "skip"}):
        reader = open_stream(source, "train", image_size=6, **skip).reader(seed=0, batch_size=FIRST_IMAGES + 1)
        with pytest.raises(ValueError, match="channels is None, and the beginning of split 'train' .*: give 3, or 1"):
            reader.read(0, 0)
    for channels in (1, 3):
        stream = open_stream(source, "train", image_size=6, channels=channels)
        assert stream.head(200).channels == channels
    assert load_images(source, "train", image_size=6).channels == 3


def test_a_figure_of_real_images_is_in_colour_if_one_is(tmp_path):
    source = write(tmp_path / "data", [GRAY, COLOUR])
    assert read_images(FigureDataConfig(source=source), count=2).images.shape == (2, 6, 6, 3)
    assert read_images(FigureDataConfig(source=source), count=1).images.shape == (1, 6, 6, 1)


# Range


@pytest.mark.parametrize(
    ("values", "suffix", "value_range"),
    [
        (TWELVE_BITS, ".png", (0, 4095)),
        (TWELVE_BITS, ".tiff", (0, 4095)),
        (TWELVE_BITS // 4, ".tiff", (0, 1023)),
        (TWELVE_BITS.astype(np.int32) - 1000, ".tiff", (-1000, 3095)),
        (FLOATS, ".tiff", (0, 1)),
        (FLOATS * 100, ".tiff", (0, 100)),
    ],
)
def test_images_are_scaled_by_the_range_that_is_named(tmp_path, values, suffix, value_range):
    """One range for all images: the second one, which is darker, stays darker."""
    darker = np.minimum(values, values.min() + (values.max() - values.min()) / 2).astype(values.dtype)
    source = write(tmp_path / "data", [values, darker], suffix)
    low, high = value_range
    expected = [np.rint((image.astype(np.float64) - low) / (high - low) * 255) for image in (values, darker)]
    rounded = pixels(source, value_range=value_range, pixel_type="uint8")[:, 0]
    assert np.abs(rounded - np.stack(expected)).max() <= (values.dtype == np.float32)
    figure = read_images(FigureDataConfig(source=source, value_range=value_range), count=2)
    assert np.array_equal(figure.images[..., 0], rounded)
    exact = pixels(source, value_range=value_range)[:, 0]
    assert np.array_equal(exact, np.stack([values, darker])), "without an option all bits are kept"


@pytest.mark.parametrize("read", [load_images, open_stream])
@pytest.mark.parametrize(
    ("values", "words"),
    [
        (TWELVE_BITS, "are 0 to 4095: give the range from black to white, such as [0, 4095]"),
        (TWELVE_BITS // 4, "are 0 to 1023: give the range from black to white, such as [0, 1023]"),
        (FLOATS, "are 0 to 1: give the range from black to white, such as [0, 1]"),
        (TWELVE_BITS.astype(np.int32) - 1000, "such as [-1000, 3095]"),
        (TWELVE_BITS.astype(np.int32) * 100, "such as [0, 524287]"),
    ],
)
def test_a_range_that_is_not_that_of_the_format_must_be_named(tmp_path, values, words, read):
    source = write(tmp_path / "data", [values // 2 if values.dtype != np.float32 else values, values], ".tiff")
    message = refusal(source, read)
    assert "value_range is None, but values of more than 8 bits in split 'train'" in message and words in message


def test_a_figure_needs_the_range_too(tmp_path):
    source = write(tmp_path / "data", [TWELVE_BITS], ".tiff")
    with pytest.raises(ValueError, match="value_range is None"):
        read_images(FigureDataConfig(source=source), count=1)


def test_sixteen_bits_need_no_range(tmp_path, private_datasets_cache):
    """The same pixels under the same name in the cache as before there was an option."""
    bright = TWELVE_BITS.astype(np.uint16) * 16
    source = write(tmp_path / "data", [TWELVE_BITS, bright])
    read = pixels(source, pixel_type="uint8")
    assert np.array_equal(read[:, 0], np.stack([(image.astype(int) + 128) // 257 for image in (TWELVE_BITS, bright)]))
    assert np.array_equal(pixels(source, value_range=(0, 65535), pixel_type="uint8"), read)
    for options in ({}, {"value_range": (0, 65535)}, {"pixel_type": "uint16"}):
        assert np.array_equal(pixels(source, **options)[:, 0], np.stack([TWELVE_BITS, bright]))


@pytest.mark.parametrize("read", [load_images, open_stream])
def test_a_range_that_does_not_hold_all_values_is_refused(tmp_path, read):
    source = write(tmp_path / "data", [TWELVE_BITS // 4, TWELVE_BITS])
    assert "value_range is [0, 1023], but values" in refusal(source, read, value_range=(0, 1023))
    assert "are 0 to 4095" in refusal(source, read, value_range=(0, 1023), on_bad_image="skip")
    assert "value_range is [5, 5]" in refusal(source, read, value_range=(5, 5))


def test_a_range_without_use_is_refused(tmp_path):
    source = write(tmp_path / "data", [GRAY, COLOUR])
    assert "value_range is [0, 15], but all images have plain 8 bits" in refusal(source, value_range=(0, 15))
    with pytest.raises(ValueError, match=r"--data.value_range is \(4095.0, 0.0\)"):
        DataConfig(value_range=(4095, 0))


def test_images_of_8_bits_keep_theirs(tmp_path):
    read = pixels(write(tmp_path / "data", [TWELVE_BITS, GRAY]), value_range=(0, 4095))
    assert np.array_equal(read[1, 0], GRAY) and read[0].max() == 255


def test_both_splits_have_one_range(tmp_path):
    """The held-out images alone would not say that they are of 16 bits, and must not be refused."""
    write(tmp_path / "data" / "train", [TWELVE_BITS * 16])
    write(tmp_path / "data" / "test", [TWELVE_BITS])
    config = DataConfig(source=str(tmp_path / "data"), test_split="test")
    _, test = load_splits(config, image_size=6)
    assert test.images(torch.tensor([0])).numpy().max() == 4095 and test.value_range == (0, 65535)
    write(tmp_path / "data" / "train", [TWELVE_BITS])
    with pytest.raises(ValueError, match="in split 'train and test' .* are 0 to 4095"):
        load_splits(config, image_size=6)


def test_a_later_image_of_more_bits_in_a_stream_needs_the_range(tmp_path):
    source = write_rows(tmp_path / "data", [GRAY] * FIRST_IMAGES + [TWELVE_BITS])
    with pytest.raises(ValueError, match="a later one has values from 0 to 4095: give the range"):
        open_stream(source, "train", image_size=6).head(FIRST_IMAGES + 1)
    options = {"image_size": 6, "value_range": (0, 4095), "pixel_type": "uint8"}
    assert len(open_stream(source, "train", **options).head(FIRST_IMAGES + 1)) == FIRST_IMAGES + 1


def png_of_16_bit_colour(values: np.ndarray) -> bytes:
    """(H, W, 3) uint16 as PNG, which Pillow reads but does not write."""
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_colour_of_12_bits_in_16_cannot_be_rounded(tmp_path):
    """Pillow reads the upper 8 bits only, so no range helps; another library reads all."""
    (tmp_path / "data").mkdir()
    file = tmp_path / "data" / "0.png"
    file.write_bytes(png_of_16_bit_colour(np.stack([TWELVE_BITS] * 3, axis=-1)))
    for value_range in (None, (0, 4095)):
        message = refusal(str(file.parent), value_range=value_range, pixel_type="uint8")
        assert "give [0, 65535], or `pixel_type` uint16 and their range to keep all bits" in message
    pytest.importorskip("imagecodecs")
    assert np.array_equal(pixels(str(file.parent), value_range=(0, 4095))[0], np.stack([TWELVE_BITS] * 3))
    file.write_bytes(png_of_16_bit_colour(np.stack([TWELVE_BITS * 16] * 3, axis=-1)))
    assert pixels(str(file.parent), pixel_type="uint8").shape == (1, 3, 6, 6)
    assert np.array_equal(pixels(str(file.parent))[0], np.stack([TWELVE_BITS * 16] * 3))
