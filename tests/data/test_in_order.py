"""Decoding in threads: the same images, order and errors as one after the other."""

import os
import signal
import threading
import time
import warnings
from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import pytest
import torch

from hf_ddpm.data import decode, table
from hf_ddpm.data.in_order import PIXELS_FOR_THREADS, InOrder
from hf_ddpm.data.open_stream import open_stream
from hf_ddpm.data.scan import scan
from hf_ddpm.data.sources import open_source
from hf_ddpm.data.table import load_images

SIZE, COUNT = 128, 300
BAD = (40, 7, 290, 41)


@pytest.fixture
def threads():
    """Three of them; the tests have one otherwise."""
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """More images than a block, and large enough for threads; every fourth is gray with 16 bits."""
    folder = tmp_path_factory.mktemp("images")
    for row in range(COUNT):
        pixels = np.full((SIZE, SIZE), 255 - row % 256, dtype=np.uint8)
        PIL.Image.fromarray(pixels if row % 4 else pixels.astype(np.uint16) * 257).save(folder / f"{row:03}.png")
    return folder


@pytest.fixture
def damaged(images, tmp_path) -> Path:
    """The same, but four are cut."""
    folder = tmp_path / "damaged"
    folder.mkdir()
    for file in images.iterdir():
        whole = file.read_bytes()
        (folder / file.name).write_bytes(whole[:60] if int(file.stem) in BAD else whole)
    return folder


def with_threads(number: int, call):
    """What a call returns, or else its error, with an empty cache of its own."""
    torch.set_num_threads(number)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", datasets.config.HF_DATASETS_CACHE / str(number))
        try:
            return call()
        except ValueError as error:
            return str(error)


def name_of_thread(_: int) -> str:
    return threading.current_thread().name


def test_threads_are_for_large_images(threads):
    names = list(InOrder()(name_of_thread, range(9), PIXELS_FOR_THREADS))
    assert all(name.startswith("decode") for name in names)
    assert set(InOrder()(name_of_thread, range(9), PIXELS_FOR_THREADS - 1)) == {threading.current_thread().name}


def test_results_are_in_order_and_so_is_the_error(threads):
    later, called = threading.Event(), []

    def slow_at_first(number: int) -> int:
        called.append(number)
        if number == 5:
            later.wait(10)
        if number == 7:
            later.set()
        if number in (5, 7):
            raise ValueError(number)
        time.sleep(0.001)
        return number

    results = InOrder()(slow_at_first, range(1000), PIXELS_FOR_THREADS)
    assert [next(results) for _ in range(5)] == list(range(5))
    with pytest.raises(ValueError, match="5"):
        next(results)
    time.sleep(0.05)
    count = len(called)
    time.sleep(0.05)
    assert len(called) == count < 1000  # the rest was dropped


def test_a_table_and_a_stream_are_the_same_with_threads(images, threads):
    def everything():
        found = load_images(str(images), "train", image_size=8)
        reader = open_stream(str(images), "train", image_size=8).reader(seed=0, batch_size=90)
        batches = [reader.read(seen, 0).images for seen in (0, 90, 30)]
        return found.images(torch.arange(COUNT)), torch.cat(batches), scan(open_source(str(images), "train"))

    alone, together = with_threads(1, everything), with_threads(3, everything)
    assert alone[0][:, 0, 0, 0].tolist() == [255 - row % 256 for row in range(COUNT)]
    assert torch.equal(alone[0], together[0]) and torch.equal(alone[1], together[1]) and alone[2] == together[2]


@pytest.mark.parametrize("options", [{}, {"on_bad_image": "skip"}, {"on_bad_image": "skip", "max_bad_images": 2}])
def test_bad_images_are_the_same_with_threads(damaged, threads, caplog, options):
    def read_table():
        return load_images(str(damaged), "train", image_size=8, channels=1, **options).fingerprint

    def read_stream():
        reader = open_stream(str(damaged), "train", image_size=8, **options).reader(seed=0, batch_size=100)
        return [reader.read(seen, 0).images.flatten().tolist() for seen in (0, 100, 200)]

    for read in (read_table, read_stream):
        alone, said = with_threads(1, read), caplog.messages[:]
        caplog.clear()
        assert with_threads(3, read) == alone and caplog.messages == said
        caplog.clear()
        assert "max_bad_images" in options or "on_bad_image" in options or "cannot be decoded" in alone


def test_ctrl_c_ends_it_at_once_and_leaves_nothing(
    images, threads, private_datasets_cache, monkeypatch, listening_to_ctrl_c
):
    called = []

    def interrupted(value, **options):
        called.append(value)
        if len(called) == 20:
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        return decode.decode_image(value, **options)

    monkeypatch.setattr(table, "decode_image", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load_images(str(images), "train", image_size=8)
    assert len(called) < 100
    assert list((private_datasets_cache / "hf_ddpm_pixels").iterdir()) == []


def test_decoding_leaves_the_warnings_of_other_threads_alone(images, monkeypatch):
    def open_beside_another_thread(*arguments):
        warnings.simplefilter("ignore", ImportWarning)
        return opened(*arguments)

    opened = decode.open_undecoded
    monkeypatch.setattr(decode, "open_undecoded", open_beside_another_thread)
    decode.inspect_image({"bytes": None, "path": str(images / "001.png")}, (str(images),))
    assert ("ignore", None, ImportWarning, None, 0) in warnings.filters


def test_bombs_are_refused_even_if_warnings_are_ignored(images, monkeypatch):
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", SIZE * SIZE - 1)
    warnings.simplefilter("ignore")
    with pytest.raises(decode.UndecodableImage, match="DecompressionBombWarning"):
        decode.inspect_image({"bytes": None, "path": str(images / "001.png")}, (str(images),))
