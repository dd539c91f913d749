"""Files with more bits or channels than Pillow reads come back exactly, and only through what is safe to open."""

import io
import sys

import numpy as np
import PIL.Image
import pytest

from hf_ddpm.data.decode import UndecodableImage, decode_image, inspect_image
from hf_ddpm.data.deep_files import MissingReader

RNG = np.random.default_rng(0)
FOUR = RNG.integers(0, 65536, (6, 5, 4), dtype=np.uint16)
THREE = np.ascontiguousarray(FOUR[..., :3])


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def tiff(array: np.ndarray, **options) -> bytes:
    tifffile, file = pytest.importorskip("tifffile"), io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


def float_tiff(array: np.ndarray) -> bytes:
    return tiff(array[..., 0]) if array.shape[2] == 1 else tiff(array, planarconfig="contig")


def pages(array: np.ndarray) -> bytes:
    """A TIFF file of one page per channel, as Pillow writes it."""
    file, (first, *others) = io.BytesIO(), map(PIL.Image.fromarray, np.moveaxis(array, -1, 0).copy())
    first.save(file, "tiff", save_all=True, append_images=others)
    return file.getvalue()


def png(array: np.ndarray) -> bytes:
    return bytes(pytest.importorskip("imagecodecs").png_encode(array))


def record(content: bytes) -> dict:
    return {"bytes": content, "path": None}


def decoded(value, channels: int = 4, pixel_type: str = "uint16", **options) -> np.ndarray:
    options = {"value_range": (0, 65535), "image_size": (6, 5), **options}
    content = decode_image(value, channels=channels, pixel_type=pixel_type, **options)
    return np.frombuffer(content, pixel_type).reshape(channels, *options["image_size"]).transpose(1, 2, 0)


FILES = {
    "npy": lambda: npy(FOUR),
    "npy, channels first": lambda: npy(FOUR.transpose(2, 0, 1)),
    "npy, big-endian": lambda: npy(FOUR.astype(">u2")),
    "tiff": lambda: tiff(FOUR, photometric="minisblack", planarconfig="contig"),
    "tiff, big-endian": lambda: tiff(FOUR, photometric="minisblack", planarconfig="contig", byteorder=">"),
    "tiff, plane by plane": lambda: tiff(FOUR.transpose(2, 0, 1), photometric="minisblack", planarconfig="separate"),
    "tiff, compressed": lambda: tiff(FOUR, photometric="minisblack", planarconfig="contig", compression="zlib"),
    "tiff, colour and opacity": lambda: tiff(FOUR, photometric="rgb", extrasamples=["unassalpha"]),
    "tiff, a page each": lambda: pages(FOUR),
    "png, colour and opacity": lambda: png(FOUR),
}


@pytest.mark.parametrize("kind", FILES)
def test_all_16_bits_of_four_channels(kind):
    value = record(FILES[kind]())
    assert np.array_equal(decoded(value), FOUR)
    facts = inspect_image(value)
    assert (facts.width, facts.height, facts.dtype) == (5, 6, facts.dtype and "uint16")
    assert 4 in (facts.channels, facts.num_pages)


@pytest.mark.parametrize("make", [png, lambda array: tiff(array, photometric="rgb")])
def test_all_16_bits_of_colour(make):
    assert np.array_equal(decoded(record(make(THREE)), channels=3), THREE)
    reduced = decode_image(record(make(THREE)), image_size=(6, 5), channels=3)
    assert np.array_equal(np.frombuffer(reduced, np.uint8).reshape(3, 6, 5), THREE.transpose(2, 0, 1) >> 8)


@pytest.mark.parametrize("make", [npy, float_tiff])
@pytest.mark.parametrize("count", [1, 2])
def test_floats_are_kept(make, count):
    values = RNG.normal(size=(6, 5, count)).astype(np.float32)
    options = {"channels": count, "pixel_type": "float32", "value_range": (-9, 9)}
    assert np.array_equal(decoded(record(make(values)), **options), values)
    values[0, 0, 0] = np.nan
    with pytest.raises(UndecodableImage, match="do not fit"):
        decoded(record(npy(values)), **options)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_as_pillow_does(orientation):
    tag = (274, "H", 1, orientation, True)
    shown = PIL.Image.fromarray(THREE.astype(np.uint8))
    shown.getexif()[274] = orientation
    upright = np.asarray(PIL.ImageOps.exif_transpose(shown)).astype(np.uint16)
    deep = record(tiff(THREE & 255, photometric="rgb", extratags=[tag]))
    assert np.array_equal(decoded(deep, channels=3, image_size=upright.shape[:2]), upright)


def test_a_missing_library_is_named_and_its_images_are_not_bad_ones(monkeypatch):
    content = record(FILES["tiff"]())
    monkeypatch.setitem(sys.modules, "tifffile", None)
    for call in (lambda: decoded(content), lambda: inspect_image(content)):
        with pytest.raises(MissingReader, match=r'tifffile, which is not installed: pip install "hf_ddpm\[images\]"'):
            call()
    value = record(npy(FOUR))
    assert np.array_equal(decoded(value), FOUR), "which needs no library"


class Evil:
    def __reduce__(self):
        return print, ("a pickle was run",)


def test_arrays_of_strangers(capsys):
    """A pickle is never run, and a header that promises more than the file holds allocates nothing."""
    file = io.BytesIO()
    np.save(file, np.array([Evil()], dtype=object), allow_pickle=True)
    cut = npy(FOUR)[:-1]
    huge = npy(np.zeros((6, 4), np.uint8)).replace(b"(6, 4)", b"(10**15, 4)"[:6])
    huge = npy(np.zeros((60000, 1), np.uint8))[:200]
    for content in (file.getvalue(), cut, huge, b"\x93NUMPY", b"II*\0 not a TIFF file"):
        with pytest.raises(UndecodableImage):
            decoded(record(content))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("shape", "channels", "expected"),
    [
        ((6, 40, 30), None, (40, 30, 6)),
        ((40, 30, 16), None, (40, 30, 16)),
        ((2, 40, 30), None, (40, 30, 2)),
        ((40, 30, 17), None, None),
        ((8, 8, 3), None, (8, 8, 3)),
        ((6, 8, 8), None, None),
        ((6, 8, 8), 6, (8, 8, 6)),
        ((8, 8, 6), 6, (8, 8, 6)),
        ((6, 8, 6), 6, None),
        ((4, 8, 6), 6, (4, 8, 6)),
    ],
)
def test_which_axis_has_the_channels(shape, channels, expected):
    array = np.zeros(shape)
    if expected is None:
        with pytest.raises(UndecodableImage, match="is not an image: give .* and the number of `channels` if it could be"):
            inspect_image(array, channels=channels)
        return
    facts = inspect_image(array, channels=channels)
    assert (facts.height, facts.width, facts.channels) == expected
