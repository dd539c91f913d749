"""Images are cropped, padded or stretched alike as pictures of 8 bits and as arrays of any type."""

import numpy as np
import PIL.Image
import pytest

from hf_ddpm.data.resize import fit_array, fit_picture

RNG = np.random.default_rng(0)
MODES = ["crop", "pad", "stretch"]


def picture(height: int, width: int) -> np.ndarray:
    return RNG.integers(0, 256, (height, width), dtype=np.uint8)


def fitted(image: np.ndarray, size: tuple[int, int], mode: str) -> np.ndarray:
    return np.asarray(fit_picture(PIL.Image.fromarray(image), size, mode))


@pytest.mark.parametrize("mode", MODES)
def test_an_image_of_its_size_is_not_changed(mode):
    image = picture(6, 4)
    assert np.array_equal(fitted(image, (6, 4), mode), image)
    floats = RNG.normal(size=(6, 4, 5))
    assert np.array_equal(fit_array(floats, (6, 4), mode, (-9, 9)), floats)


@pytest.mark.parametrize("shape", [(12, 8), (40, 9), (9, 40), (5, 5), (1, 30), (48, 32)])
@pytest.mark.parametrize("mode", MODES)
def test_arrays_are_fitted_as_pictures_are(shape, mode):
    image = picture(*shape) // 2 + 64  # so that nothing is cut between the two passes of Pillow
    array = fit_array(np.stack([image, image], axis=-1).astype(np.uint16) * 257, (12, 8), mode, (0, 65535))
    assert array.shape == (12, 8, 2) and array.dtype == np.uint16
    assert np.abs(array[..., 0] / 257 - fitted(image, (12, 8), mode)).max() < 2.5  # Pillow rounds twice in 8 bits


def test_a_square_is_cropped_as_before_there_were_other_shapes():
    image = PIL.Image.fromarray(picture(13, 22))
    box = (4.5, 0, 17.5, 13)
    expected = image.resize((8, 8), PIL.Image.Resampling.BICUBIC, box=box)
    assert np.array_equal(np.asarray(fit_picture(image, (8, 8), "crop")), np.asarray(expected))
    assert np.array_equal(fitted(np.asarray(image), (13, 13), "crop"), np.asarray(image)[:, 4:17])


@pytest.mark.parametrize(("shape", "crop"), [((48, 40), np.s_[:, 4:36]), ((64, 32), np.s_[8:56])])
def test_what_covers_the_size_already_is_only_cropped(shape, crop):
    image = picture(*shape)
    assert np.array_equal(fitted(image, (48, 32), "crop"), image[crop])


def test_what_fits_in_already_is_only_padded():
    image = picture(6, 4)
    padded = fitted(image, (6, 8), "pad")
    assert np.array_equal(padded[:, 2:6], image) and not padded[:, :2].any() and not padded[:, 6:].any()
    padded = fit_array(np.atleast_3d(image).astype(np.float32), (6, 8), "pad", (-1, 255))
    assert np.array_equal(padded[:, 2:6, 0], image) and (padded[:, [0, 1, 6, 7]] == -1).all(), "black is the lowest value"


def test_pad_keeps_everything_and_stretch_fills():
    image = np.full((20, 40), 200, np.uint8)
    padded = fitted(image, (16, 16), "pad")
    assert (padded[4:12] == 200).all() and not padded[:4].any() and not padded[12:].any()
    assert (fitted(image, (16, 16), "stretch") == 200).all()
    assert fitted(picture(1, 1000), (8, 8), "pad").shape == (8, 8)


def test_resampling_does_not_leave_the_range():
    edges = np.zeros((16, 16, 1), np.float32)
    edges[:, 8:] = 1
    small = fit_array(edges, (6, 6), "crop", (0, 1))
    assert small.min() == 0 and small.max() == 1
