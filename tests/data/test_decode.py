"""Every mode that an image file can have becomes the right 8-bit pixels, or is refused with a reason."""

import io

import numpy as np
import PIL.Image
import pytest

from hf_ddpm.data.decode import ORIENTATION_TAG, UndecodableImage, decode_image, inspect_image

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (6, 6), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (6, 6, 3), dtype=np.uint8)
ALPHA = RNG.integers(0, 256, (6, 6), dtype=np.uint8)


def encode(image: PIL.Image.Image, kind: str = "png", **options) -> dict:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return {"bytes": file.getvalue(), "path": None}


def reopen(record: dict) -> PIL.Image.Image:
    return PIL.Image.open(io.BytesIO(record["bytes"]))


def decode(record: dict, channels: int = 3, image_size: int = 6) -> np.ndarray:
    """(H, W) for gray, (H, W, 3) for RGB, as int."""
    pixels = np.frombuffer(decode_image(record, image_size=image_size, channels=channels), dtype=np.uint8)
    return pixels.reshape(channels, image_size, image_size).transpose(1, 2, 0).squeeze().astype(int)


def refusal(record: dict | None) -> str:
    with pytest.raises(UndecodableImage) as caught:
        decode_image(record, image_size=6, channels=1)
    assert "\n" not in caught.value.reason
    return caught.value.reason


def over_white(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    opacity = alpha[..., None] / 255 if pixels.ndim == 3 else alpha / 255
    return pixels * opacity + 255 * (1 - opacity)


@pytest.mark.parametrize("kind", ["png", "webp", "tiff"])
def test_transparency_is_composited_over_white(kind):
    options = {"lossless": True, "exact": True} if kind == "webp" else {}
    record = encode(PIL.Image.fromarray(np.dstack([COLOUR, ALPHA])), kind, **options)
    assert not inspect_image(record).is_gray
    assert np.abs(decode(record) - over_white(COLOUR, ALPHA)).max() <= 1


def test_transparent_gray_stays_gray():
    record = encode(PIL.Image.merge("LA", [PIL.Image.fromarray(GRAY), PIL.Image.fromarray(ALPHA)]))
    assert inspect_image(record).is_gray
    assert np.abs(decode(record, channels=1) - over_white(GRAY, ALPHA)).max() <= 1
    opaque = encode(PIL.Image.merge("LA", [PIL.Image.fromarray(GRAY), PIL.Image.new("L", (6, 6), 255)]))
    assert np.array_equal(decode(opaque, channels=1), GRAY)


def test_colours_hidden_by_transparency_do_not_bleed_into_smaller_images():
    pixels = np.zeros((8, 8, 4), dtype=np.uint8)
    pixels[:, ::2] = (255, 255, 255, 255)
    assert decode(encode(PIL.Image.fromarray(pixels)), image_size=4).min() == 255


@pytest.mark.parametrize("transparency", [None, 2, bytes([255, 255, 0, 128])])
def test_palettes(transparency):
    colours = np.array([[250, 10, 20], [0, 200, 90], [7, 8, 9], [100, 100, 255]], dtype=np.uint8)
    places = np.arange(36).reshape(6, 6) % 4
    image = PIL.Image.fromarray(places.astype(np.uint8), mode=None).convert("P")
    image.putpalette(colours.flatten().tolist())
    image.putdata(places.flatten().tolist())
    record = encode(image, **({} if transparency is None else {"transparency": transparency}))
    assert reopen(record).mode == "P" and not inspect_image(record).is_gray
    alpha = np.array([255, 255, 255, 255] if transparency is None else [255, 255, 0, 255 if transparency == 2 else 128])
    expected = over_white(colours[places], alpha[places])
    assert np.abs(decode(record) - expected).max() <= 1
    assert np.abs(decode(record, channels=1) - expected @ [0.299, 0.587, 0.114]).max() <= 1.5


@pytest.mark.parametrize(("mode", "key"), [("L", 0), ("RGB", (1, 2, 3))])
def test_a_colour_that_is_called_transparent_is_white(mode, key):
    image = PIL.Image.new(mode, (6, 6), key)
    image.putpixel((2, 3), 77 if mode == "L" else (77, 77, 77))
    expected = np.full((6, 6), 255)
    expected[3, 2] = 77
    assert np.array_equal(decode(encode(image, transparency=key), channels=1), expected)


def test_one_bit():
    bits = GRAY > 127
    record = encode(PIL.Image.fromarray(bits))
    assert reopen(record).mode == "1" and inspect_image(record).is_gray
    assert np.array_equal(decode(record, channels=1), bits * 255)


WIDE = np.concatenate([np.array([0, 128, 129, 257, 65535, 65406]), RNG.integers(0, 65536, 30)]).reshape(6, 6)


def pgm(values: np.ndarray) -> dict:
    return {"bytes": b"P5 6 6 65535\n" + values.astype(">u2").tobytes(), "path": None}


@pytest.mark.parametrize(
    ("record", "mode"),
    [
        (encode(PIL.Image.fromarray(WIDE.astype(np.uint16))), "I;16"),
        (encode(PIL.Image.fromarray(WIDE.astype(np.uint16)), "tiff"), "I;16"),
        (encode(PIL.Image.fromarray(WIDE.astype(">u2")), "tiff"), "I;16B"),
        (encode(PIL.Image.fromarray(WIDE.astype(np.int32)), "tiff"), "I"),
        (pgm(WIDE), "I"),
    ],
)
def test_16_bit_gray_is_scaled(record, mode):
    assert reopen(record).mode == mode and inspect_image(record).is_gray
    expected = np.rint(WIDE / 257)
    assert np.array_equal(decode(record, channels=1), expected)
    assert np.array_equal(decode(record, channels=3), expected[..., None].repeat(3, axis=2))


def test_16_bit_gray_turned_and_transparent():
    exif = PIL.Image.Exif()
    exif[ORIENTATION_TAG] = 3  # turned by 180 degrees
    record = encode(PIL.Image.fromarray(WIDE.astype(np.uint16)), exif=exif)
    assert np.array_equal(decode(record, channels=1), np.rint(WIDE / 257)[::-1, ::-1])
    record = encode(PIL.Image.fromarray(WIDE.astype(np.uint16)), transparency=257)
    assert np.array_equal(decode(record, channels=1), np.rint(np.where(WIDE == 257, 65535, WIDE) / 257))


@pytest.mark.parametrize("kind", ["jpeg", "tiff"])
def test_cmyk(kind):
    """Ink on white paper: nothing, all black, and one of each; JPEG stores it inverted, as Adobe does."""
    inks = np.zeros((6, 6, 4), dtype=np.uint8)
    inks[1, :, 3], inks[2, :, 0], inks[3, :, 1], inks[4, :, 2] = 255, 255, 255, 255
    image = PIL.Image.fromarray(inks, mode="CMYK") if kind == "tiff" else PIL.Image.frombytes("CMYK", (6, 6), inks.tobytes())
    record = encode(image, kind, **({"quality": 100, "subsampling": 0} if kind == "jpeg" else {}))
    assert reopen(record).mode == "CMYK" and not inspect_image(record).is_gray
    expected = np.array([[255] * 3, [0] * 3, [0, 255, 255], [255, 0, 255], [255, 255, 0], [255] * 3])
    assert np.abs(decode(record) - expected[:, None]).max() <= 3


def test_first_frame_of_an_animation():
    frames = [PIL.Image.new("RGB", (6, 6), colour) for colour in ("red", "blue")]
    record = encode(frames[0], "gif", save_all=True, append_images=frames[1:])
    assert decode(record)[0, 0].tolist() == [255, 0, 0]


def test_pixels_without_a_known_range_are_refused():
    floats = encode(PIL.Image.fromarray(np.ones((6, 6), dtype=np.float32)), "tiff")
    assert "mode F" in refusal(floats) and "name it with `value_range`" in refusal(floats)
    for value in (-1, 65536):
        wide = encode(PIL.Image.fromarray(np.full((6, 6), value, dtype=np.int32)), "tiff")
        assert f"from {value} to {value}" in refusal(wide)


@pytest.mark.parametrize("record", [None, {"bytes": None, "path": None}, {"bytes": b"", "path": "a.png"}])
def test_files_that_are_not_images_are_refused_with_their_path(record):
    refusal(record)
    with pytest.raises(UndecodableImage) as caught:
        inspect_image(record)
    assert caught.value.path == (record or {}).get("path")
