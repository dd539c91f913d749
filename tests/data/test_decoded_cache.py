"""A file of decoded pixels is whole, or it is made again."""

import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import pytest
import torch

from hf_ddpm.data import decoded_cache, table
from hf_ddpm.data.table import load_images

SIZE = 8
IMAGES = np.random.default_rng(0).integers(0, 256, (600, SIZE, SIZE), dtype=np.uint8)


@pytest.fixture
def source(tmp_path) -> str:
    """More images than are written at once."""
    features = datasets.Features({"image": datasets.Image()})
    dataset = datasets.Dataset.from_dict({"image": [PIL.Image.fromarray(image) for image in IMAGES]}, features=features)
    dataset.save_to_disk(tmp_path / "data")
    return str(tmp_path / "data")


@pytest.fixture
def pixel_file(source, private_datasets_cache) -> Path:
    load_images(source, "train", image_size=SIZE)
    (file,) = (private_datasets_cache / "hf_ddpm_pixels").iterdir()
    return file


def check(source: str, **options) -> None:
    read = load_images(source, "train", image_size=SIZE, **options)
    assert torch.equal(read.images(torch.arange(len(read)))[:, 0], torch.from_numpy(IMAGES))


def cut(file: Path, size: int) -> None:
    file.write_bytes(file.read_bytes()[:size])


def of_other_rows(file: Path) -> None:
    """A whole file, but of fewer images."""
    whole = datasets.Dataset.from_file(str(file))
    rows = [whole[row]["pixels"] for row in range(10)]
    datasets.Dataset.from_dict({"pixels": rows}, features=whole.features).save_to_disk(file.with_suffix(""))
    shutil.move(next(file.with_suffix("").glob("*.arrow")), file)
    shutil.rmtree(file.with_suffix(""))


def of_other_lengths(file: Path) -> None:
    """A whole file, but one of its images has other pixels."""
    whole = datasets.Dataset.from_file(str(file))
    rows = [whole[row]["pixels"] for row in range(len(whole))]
    rows[300] = rows[300][:-1]
    datasets.Dataset.from_dict({"pixels": rows}, features=whole.features).save_to_disk(file.with_suffix(""))
    shutil.move(next(file.with_suffix("").glob("*.arrow")), file)
    shutil.rmtree(file.with_suffix(""))


def a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def beyond_its_end(file: Path) -> None:
    """The first images are said to lie behind the end of the file."""
    starts = np.arange(257, dtype="<i4") * SIZE**2
    content = file.read_bytes()
    assert starts.tobytes() in content
    file.write_bytes(content.replace(starts.tobytes(), (starts + 10**7).tobytes(), 1))


DAMAGE = {
    "emptied": lambda file: file.write_bytes(b""),
    "cut by a byte": lambda file: cut(file, file.stat().st_size - 20),
    "cut in the middle": lambda file: cut(file, file.stat().st_size // 2),
    "cut in its head": lambda file: cut(file, 30),
    "zeros": lambda file: file.write_bytes(bytes(file.stat().st_size)),
    "text": lambda file: file.write_text("garbage\n" * 5000),
    "beyond its end": beyond_its_end,
    "of other rows": of_other_rows,
    "of other lengths": of_other_lengths,
}


@pytest.mark.parametrize("damage", list(DAMAGE))
def test_a_damaged_file_is_made_again(source, pixel_file, caplog, damage):
    before = pixel_file.read_bytes()
    DAMAGE[damage](pixel_file)
    check(source)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert f"the cache file {pixel_file} is damaged (" in warning and "is made again" in warning and "\n" not in warning
    assert pixel_file.read_bytes() == before
    caplog.clear()
    check(source)
    assert not caplog.records and len(list(pixel_file.parent.iterdir())) == 1


@pytest.mark.parametrize("damage", ["emptied", "cut in the middle", "text"])
def test_so_are_the_facts_about_the_images(source, pixel_file, caplog, damage):
    (facts,) = (pixel_file.parents[1] / "hf_ddpm_facts").iterdir()
    DAMAGE[damage](facts)
    check(source)
    assert f"the cache file {facts} is damaged" in caplog.text
    assert load_images(source, "train", image_size=SIZE).originals.num_gray == len(IMAGES)


def test_a_file_that_cannot_be_replaced_is_named(source, pixel_file):
    a_folder(pixel_file)
    with pytest.raises(
        OSError, match=f"^{pixel_file} cannot be written, Is a directory: .* bytes are free; .*DATASETS_CACHE"
    ):
        check(source)


@pytest.mark.parametrize("damage", ["emptied", "cut in the middle", "text"])
def test_so_is_the_copy_of_the_datasets_library(source, tmp_path, private_datasets_cache, caplog, damage):
    (tmp_path / "parquet").mkdir()
    datasets.load_from_disk(source).to_parquet(tmp_path / "parquet" / "train.parquet")
    check(str(tmp_path / "parquet"))
    (copy,) = private_datasets_cache.rglob("*train.arrow")
    DAMAGE[damage](copy)
    check(str(tmp_path / "parquet"))
    assert f"the copy of `source` {str(tmp_path / 'parquet')!r} in {private_datasets_cache} is damaged (" in caplog.text


def test_files_of_earlier_versions_are_read(source, pixel_file, monkeypatch):
    """As `Dataset.map` writes them."""
    whole = datasets.Dataset.from_file(str(pixel_file))
    pixels = [whole[row]["pixels"] for row in range(len(whole))]
    pixel_file.unlink()
    rows = datasets.Dataset.from_dict({"row": list(range(len(pixels)))})
    rows.map(
        lambda batch: {"pixels": [pixels[row] for row in batch["row"]]},
        batched=True,
        remove_columns=["row"],
        features=datasets.Features({"pixels": datasets.Value("binary")}),
        cache_file_name=str(pixel_file),
    )
    monkeypatch.setattr(table, "decode_image", None)
    check(source)


@pytest.fixture
def full_disk():
    """From now on no file may have more than 30 kB."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, before[1]))
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before)
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("on_bad_image", ["error", "skip"])
def test_a_full_disk_is_one_line_and_leaves_nothing(source, private_datasets_cache, full_disk, on_bad_image):
    with pytest.raises(
        OSError, match=r"\.arrow cannot be written, File too large: .* bytes are free; .*HF_DATASETS_CACHE"
    ) as full:
        check(source, on_bad_image=on_bad_image)
    assert str(private_datasets_cache) in str(full.value) and "\n" not in str(full.value)
    assert list((private_datasets_cache / "hf_ddpm_pixels").iterdir()) == []
    full_disk()
    check(source, on_bad_image=on_bad_image)


def test_a_cache_folder_that_cannot_be_made_is_named(source, private_datasets_cache):
    private_datasets_cache.write_text("a file")
    with pytest.raises(OSError, match=r"cannot be written, (Not a directory|File exists): .*HF_DATASETS_CACHE"):
        check(source)


def test_what_a_killed_process_leaves_is_removed_later(source, private_datasets_cache):
    program = (
        "import os, sys, signal; from hf_ddpm.data import table; decode = table.decode_image; seen = []\n"
        "def dying(value, **options):\n"
        "    seen.append(1)\n"
        "    return decode(value, **options) if len(seen) < 500 else os.kill(os.getpid(), signal.SIGKILL)\n"
        "table.decode_image = dying; table.load_images(sys.argv[1], 'train', image_size=8)"
    )
    root = str(Path(table.__file__).parents[2])
    environment = os.environ | {"HF_DATASETS_CACHE": str(private_datasets_cache), "PYTHONPATH": root}
    died = subprocess.run([sys.executable, "-c", program, source], env=environment, capture_output=True, check=False)
    assert died.returncode == -signal.SIGKILL
    folder = private_datasets_cache / "hf_ddpm_pixels"
    (left,) = folder.iterdir()
    check(source)
    assert left.exists()  # it might be written by another process
    long_ago = time.time() - 2 * decoded_cache.STALE
    os.utime(left, (long_ago, long_ago))
    check(source, on_bad_image="skip")
    assert not left.exists() and len(list(folder.iterdir())) == 2


def test_an_interruption_leaves_nothing(source, private_datasets_cache, monkeypatch):
    decode, seen = table.decode_image, []

    def interrupted(value, **options):
        seen.append(value)
        if len(seen) == 400:
            raise KeyboardInterrupt
        return decode(value, **options)

    monkeypatch.setattr(table, "decode_image", interrupted)
    with pytest.raises(KeyboardInterrupt):
        check(source)
    assert list((private_datasets_cache / "hf_ddpm_pixels").iterdir()) == []
