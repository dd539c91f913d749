"""Decoding once, reading at random, and naming the image that cannot be decoded."""

import os
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import pytest
import torch

from hf_ddpm.data import decode
from hf_ddpm.data import table as cache
from hf_ddpm.data.table import ImageTable, load_images


def random_arrays(count: int, shape: tuple[int, ...] = (6, 6), seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, shape, dtype=np.uint8) for _ in range(count)]


def make_dataset(arrays: list[np.ndarray], names: tuple[str, ...] = ("a", "b")) -> datasets.Dataset:
    """Images with labels 0, 1, 0, 1, ..."""
    columns = {
        "image": [PIL.Image.fromarray(array) for array in arrays],
        "label": [row % len(names) for row in range(len(arrays))],
    }
    dataset = datasets.Dataset.from_dict(columns)
    return dataset.cast_column("image", datasets.Image()).cast_column("label", datasets.ClassLabel(names=list(names)))


def save(folder: Path, arrays: list[np.ndarray], **kwargs) -> str:
    make_dataset(arrays, **kwargs).save_to_disk(str(folder))
    return str(folder)


def write_images(folder: Path, arrays: list[np.ndarray]) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    for row, array in enumerate(arrays):
        PIL.Image.fromarray(array).save(folder / f"{row:03}.png")
    return str(folder)


def everything(table: ImageTable) -> torch.Tensor:
    return table.images(torch.arange(len(table)))


def expected_images(arrays: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack([np.atleast_3d(array).transpose(2, 0, 1) for array in arrays]))


def refusal(*args, **kwargs) -> str:
    with pytest.raises(ValueError) as caught:
        load_images(*args, **kwargs)
    message = str(caught.value)
    assert type(caught.value) is ValueError and "\n" not in message
    return message


# Pixels


def test_digits():
    table = load_images("digits", "train", image_size=8)
    assert (len(table), table.channels, table.image_size, len(table.class_names)) == (1437, 1, (8, 8), 10)
    images = table.images(torch.tensor([5, 0, 5]))
    assert images.shape == (3, 1, 8, 8) and images.dtype == torch.uint8
    assert torch.equal(images[0], images[2]) and not torch.equal(images[0], images[1])
    assert table.class_labels.dtype == torch.int64 and table.class_labels.shape == (1437,)


@pytest.mark.parametrize("shape", [(6, 6), (6, 6, 3)])
def test_pixels_and_labels_survive(tmp_path, shape):
    arrays = random_arrays(5, shape)
    table = load_images(save(tmp_path / "data", arrays), "train", image_size=6)
    assert table.channels == (1 if len(shape) == 2 else 3)
    assert torch.equal(everything(table), expected_images(arrays))
    assert table.class_labels.tolist() == [0, 1, 0, 1, 0] and table.class_names == ["a", "b"]


def test_any_order_of_reading(tmp_path):
    count = 2 * cache.DECODING_BATCH + 7
    arrays = random_arrays(count, (4, 4))
    table = load_images(save(tmp_path / "data", arrays), "train", image_size=4)
    assert table.pixels.data.column("pixels").num_chunks > 1
    indices = torch.randint(0, count, (3 * count,), generator=torch.Generator().manual_seed(0))
    assert torch.equal(table.images(indices), expected_images(arrays)[indices])
    assert table.images(indices[:0]).shape == (0, 1, 4, 4)


def test_rows_of_a_subset_stay_with_their_labels(tmp_path):
    arrays = random_arrays(9)
    folder = save(tmp_path / "data", arrays, names=("a", "b", "c"))
    table = load_images(folder, "train", image_size=6, labels=["c", "a"])
    assert torch.equal(everything(table), expected_images(arrays)[[0, 2, 3, 5, 6, 8]])
    assert table.class_labels.tolist() == [1, 0, 1, 0, 1, 0] and table.class_names == ["c", "a"]
    table = load_images(folder, "train", image_size=6, labels=["c"], class_conditional=False)
    assert torch.equal(everything(table), expected_images(arrays)[[2, 5, 8]])
    assert table.class_labels is None and table.class_names is None


@pytest.mark.parametrize("labels", [None, ["c", "a"]])
@pytest.mark.parametrize("max_images", [1, 2, 5, 6, 8, 9, 100])
def test_max_images_are_evenly_spread(tmp_path, labels, max_images):
    arrays = random_arrays(9)
    folder = save(tmp_path / "data", arrays, names=("a", "b", "c"))
    kept = [row for row in range(9) if labels is None or row % 3 != 1]
    count = min(max_images, len(kept))
    rows = [kept[i * len(kept) // count] for i in range(count)]
    table = load_images(folder, "train", image_size=6, labels=labels, max_images=max_images)
    assert table.num_images == len(table) == count
    assert torch.equal(everything(table), expected_images(arrays)[rows])
    assert [table.class_names[label] for label in table.class_labels] == ["abc"[row % 3] for row in rows]


def test_max_images_keep_the_classes_of_a_sorted_folder(tmp_path):
    for name in "abcd":
        write_images(tmp_path / "data" / name, random_arrays(10))
    table = load_images(str(tmp_path / "data"), "train", image_size=6, max_images=8)
    assert torch.bincount(table.class_labels).tolist() == [2, 2, 2, 2]
    assert "max_images is 0" in refusal(str(tmp_path / "data"), "train", image_size=6, max_images=0)


def test_broken_image_is_named_by_its_row_in_the_split_with_max_images(tmp_path):
    folder = write_images(tmp_path / "data", random_arrays(10))
    (Path(folder) / "006.png").write_bytes(b"this is no image")
    assert "row 6 of split 'train'" in refusal(folder, "train", image_size=6, max_images=5)
    assert len(load_images(folder, "train", image_size=6, max_images=2)) == 2


def test_mixed_modes_and_sizes_in_one_folder(tmp_path):
    gray, colour = random_arrays(1, (6, 9))[0], random_arrays(1, (12, 6, 4))[0]
    colour[..., 3] = 255
    folder = write_images(tmp_path / "data", [colour, gray, gray > 99, gray.astype(np.uint16) * 257])
    images = everything(load_images(folder, "train", image_size=6))
    middle = gray[:, 1:7]
    expected = [colour[3:9, :, :3]] + [np.dstack([each] * 3) for each in (middle, (middle > 99) * np.uint8(255), middle)]
    assert torch.equal(images, expected_images(expected))


def test_channels_can_be_chosen(tmp_path):
    gray, colour = random_arrays(2), random_arrays(2, (6, 6, 3))
    folder = save(tmp_path / "mixed", gray + colour)
    table = load_images(folder, "train", image_size=6, channels=3)
    assert torch.equal(everything(table)[:2], expected_images(gray).expand(-1, 3, -1, -1))
    assert torch.equal(everything(table)[2:], expected_images(colour))
    table = load_images(folder, "train", image_size=6, channels=1)
    luminance = [np.asarray(PIL.Image.fromarray(array).convert("L")) for array in colour]
    assert torch.equal(everything(table), expected_images(gray + luminance))


@pytest.mark.parametrize(("width", "height"), [(16, 8), (8, 16), (9, 8), (8, 13), (8, 8)])
def test_non_square_images_of_the_right_size_are_only_cropped(tmp_path, width, height):
    array = random_arrays(1, (height, width))[0]
    table = load_images(write_images(tmp_path / "data", [array]), "train", image_size=8)
    left, top = (width - 8) // 2, (height - 8) // 2
    assert torch.equal(everything(table), expected_images([array[top : top + 8, left : left + 8]]))


@pytest.mark.parametrize(("width", "height"), [(32, 16), (16, 32), (16, 16), (4, 8)])
def test_resizing_equals_a_resized_whole_image_cropped(tmp_path, width, height):
    image = PIL.Image.fromarray(random_arrays(1, (height, width, 3))[0])
    scale = 8 / min(width, height)
    whole = image.resize((round(width * scale), round(height * scale)), PIL.Image.Resampling.BICUBIC)
    left, top = (whole.width - 8) // 2, (whole.height - 8) // 2
    reference = np.asarray(whole.crop((left, top, left + 8, top + 8)))
    table = load_images(write_images(tmp_path / "data", [np.asarray(image)]), "train", image_size=8)
    difference = everything(table).int() - expected_images([reference]).int()
    assert difference.abs().max() <= 1


def test_long_strips_are_not_blown_up(tmp_path):
    table = load_images(write_images(tmp_path / "data", random_arrays(1, (1, 20_000))), "train", image_size=64)
    assert everything(table).shape == (1, 1, 64, 64)


def test_orientation_of_a_camera_is_applied(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    array = random_arrays(1)[0]
    exif = PIL.Image.Exif()
    exif[decode.ORIENTATION_TAG] = 3  # turned by 180 degrees
    PIL.Image.fromarray(array).save(folder / "0.png", exif=exif)
    table = load_images(str(folder), "train", image_size=6)
    assert torch.equal(everything(table), expected_images([array[::-1, ::-1].copy()]))


@pytest.mark.parametrize(
    ("options", "name"),
    [({"image_size": 0}, "image_size is 0"), ({"image_size": 8, "channels": 4}, "channels is 4")],
)
def test_impossible_sizes_are_refused(options, name):
    assert name in refusal("digits", "test", **options)


# Cache


def cached_files(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "hf_ddpm_pixels").glob("*")}


def test_decoded_once(tmp_path, private_datasets_cache, monkeypatch):
    folder = save(tmp_path / "data", random_arrays(5))
    before = {path: path.stat().st_mtime_ns for path in Path(folder).rglob("*")}
    first = load_images(folder, "train", image_size=6)
    files = cached_files(private_datasets_cache)
    assert len(files) == 1
    monkeypatch.setattr(cache, "decode_image", None)
    assert torch.equal(everything(load_images(folder, "train", image_size=6)), everything(first))
    assert cached_files(private_datasets_cache) == files
    assert {path: path.stat().st_mtime_ns for path in Path(folder).rglob("*")} == before


def test_another_process_reuses_the_cache(tmp_path, private_datasets_cache):
    folder = write_images(tmp_path / "data", random_arrays(5))
    program = (
        "import sys; from hf_ddpm.data.table import load_images; "
        "print(load_images(sys.argv[1], 'train', image_size=4).fingerprint)"
    )
    root = str(Path(cache.__file__).parents[2])
    run = subprocess.run(
        [sys.executable, "-c", program, folder],
        env=os.environ | {"HF_DATASETS_CACHE": str(private_datasets_cache), "PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=True,
    )
    files = cached_files(private_datasets_cache)
    assert len(files) == 1
    assert load_images(folder, "train", image_size=4).fingerprint == run.stdout.strip()
    assert cached_files(private_datasets_cache) == files


def test_cache_depends_on_all_that_pixels_depend_on(tmp_path, private_datasets_cache, monkeypatch):
    folder = save(tmp_path / "data", random_arrays(5))
    variants = [
        {"image_size": 6},
        {"image_size": 4},
        {"image_size": 6, "channels": 3},
        {"image_size": 6, "labels": ["a"]},
    ]
    for count, options in enumerate(variants, start=1):
        load_images(folder, "train", **options)
        assert len(cached_files(private_datasets_cache)) == count
    monkeypatch.setattr(cache, "DECODER_VERSION", cache.DECODER_VERSION + 1)
    load_images(folder, "train", **variants[0])
    assert len(cached_files(private_datasets_cache)) == len(variants) + 1


def test_digits_need_no_cache_file(private_datasets_cache):
    load_images("digits", "test", image_size=8)
    assert cached_files(private_datasets_cache) == {}


@pytest.mark.parametrize("write", [save, write_images])
def test_changed_data_are_decoded_again(tmp_path, write):
    arrays = random_arrays(4)
    folder = tmp_path / "data"
    assert torch.equal(everything(load_images(write(folder, arrays), "train", image_size=6)), expected_images(arrays))
    arrays[2] = 255 - arrays[2]
    assert torch.equal(everything(load_images(write(folder, arrays), "train", image_size=6)), expected_images(arrays))


# Fingerprint


def test_fingerprint_depends_on_the_content_alone(tmp_path):
    arrays = random_arrays(4)
    saved = load_images(save(tmp_path / "saved", arrays), "train", image_size=6)
    copied = load_images(save(tmp_path / "copied", arrays), "train", image_size=6)
    (tmp_path / "parquet").mkdir()
    make_dataset(arrays).to_parquet(str(tmp_path / "parquet" / "train.parquet"))
    parquet = load_images(str(tmp_path / "parquet"), "train", image_size=6)
    assert len(saved.fingerprint) == 64
    assert saved.fingerprint == copied.fingerprint == parquet.fingerprint


def test_classes_are_numbered_in_another_order(tmp_path):
    source = save(tmp_path / "saved", random_arrays(5), names=("a", "b", "c"))
    table = load_images(source, "train", image_size=6)
    other = table.in_class_order(["c", "a", "b"])
    assert (other.class_names, other.class_labels.tolist()) == (["c", "a", "b"], [1, 2, 0, 1, 2])
    assert other.fingerprint == load_images(source, "train", image_size=6, labels=["c", "a", "b"]).fingerprint
    assert table.in_class_order(["a", "b", "c"]) is table and other.in_class_order(["a", "b", "c"]).class_names == [
        "a",
        "b",
        "c",
    ]


def test_fingerprint_sees_every_change(tmp_path):
    arrays = random_arrays(4)
    changed = [array.copy() for array in arrays]
    changed[3][5, 5] ^= 1
    folder = save(tmp_path / "data", arrays)
    tables = [
        load_images(folder, "train", image_size=6),
        load_images(folder, "train", image_size=6, class_conditional=False),
        load_images(folder, "train", image_size=6, labels=["b", "a"]),
        load_images(folder, "train", image_size=6, channels=3),
        load_images(folder, "train", image_size=5),
        load_images(save(tmp_path / "changed", changed), "train", image_size=6),
        load_images(save(tmp_path / "named", arrays, names=("a", "c")), "train", image_size=6),
        load_images(save(tmp_path / "shorter", arrays[:3]), "train", image_size=6),
    ]
    assert len({table.fingerprint for table in tables}) == len(tables)


# Broken images


def test_corrupt_image_file_is_named(tmp_path):
    folder = write_images(tmp_path / "data", random_arrays(4))
    broken = Path(folder) / "002.png"
    broken.write_bytes(b"this is no image")
    message = refusal(folder, "train", image_size=6)
    assert "row 2 of split 'train'" in message and str(broken) in message and f"`source` {folder!r}" in message


@pytest.mark.parametrize("row", [0, 3])
@pytest.mark.parametrize("channels", [None, 1])
def test_truncated_image_is_named(tmp_path, row, channels):
    folder = write_images(tmp_path / "data", random_arrays(4, (32, 32)))
    broken = Path(folder) / f"{row:03}.png"
    broken.write_bytes(broken.read_bytes()[:-200])
    assert f"row {row} of split 'train'" in refusal(folder, "train", image_size=6, channels=channels)


def test_image_inside_a_file_is_named_by_its_row_in_the_split(tmp_path):
    records = make_dataset(random_arrays(6)).cast_column("image", datasets.Image(decode=False))[:]
    records["image"][3] = {"bytes": b"GIF89a", "path": None}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    datasets.Dataset.from_dict(records, features=features).save_to_disk(str(tmp_path / "data"))
    for labels in (None, ["b"]):
        assert "row 3 of split 'train'" in refusal(str(tmp_path / "data"), "train", image_size=6, labels=labels)
    load_images(str(tmp_path / "data"), "train", image_size=6, labels=["a"])


@pytest.mark.parametrize("row", [0, 1])
def test_missing_image_is_named(tmp_path, row):
    images = [PIL.Image.fromarray(array) for array in random_arrays(3)]
    images[row] = None
    dataset = datasets.Dataset.from_dict({"image": images}).cast_column("image", datasets.Image())
    dataset.save_to_disk(str(tmp_path / "data"))
    message = refusal(str(tmp_path / "data"), "train", image_size=6)
    assert f"row {row} of split 'train'" in message and "no image" in message


@pytest.mark.parametrize("limit", [600, 300])
def test_suspiciously_large_image_is_refused(tmp_path, monkeypatch, limit):
    """Pillow alone would warn above its limit and raise above twice the limit."""
    folder = write_images(tmp_path / "data", random_arrays(1) + random_arrays(1, (30, 30)))
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", limit)
    message = refusal(folder, "train", image_size=6)
    assert "row 1 of split 'train'" in message and "DecompressionBomb" in message


def test_broken_image_leaves_no_cache_file(tmp_path, private_datasets_cache):
    folder = write_images(tmp_path / "data", random_arrays(4))
    (Path(folder) / "002.png").write_bytes(b"")
    refusal(folder, "train", image_size=6)
    assert cached_files(private_datasets_cache) == {}
