"""What is shown of images with any number of channels and bits."""

import numpy as np
import pytest

from hf_ddpm.figures.view import to_view


@pytest.mark.parametrize(
    "count, channels, shown",
    [
        (1, None, [0]),
        (2, None, [0]),
        (3, None, [0, 1, 2]),
        (5, None, [0, 1, 2]),
        (5, [4, 0, 2], [4, 0, 2]),
        (5, [3], [3]),
        (3, [1], [1]),
        (1, [0], [0]),
        (1, [0, 0, 0], [0, 0, 0]),
    ],
)
def test_channels(count, channels, shown):
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 6, count), dtype=np.uint8)
    np.testing.assert_array_equal(to_view(images, channels=channels), images[..., shown])


def test_a_channel_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match=r"view_channels is \[0, 4, 1\]: the images have 4, give 0 to 3"):
        to_view(np.zeros((1, 2, 2, 4), np.uint8), channels=[0, 4, 1])


@pytest.mark.parametrize("dtype, value_range", [("uint16", (100, 4095)), ("float32", (-1.5, 2.25))])
def test_the_range_becomes_black_to_white(dtype, value_range):
    low, high = value_range
    values = np.array([low, (low + high) / 2, high]).astype(dtype).reshape(1, 1, 3, 1)
    assert to_view(values, value_range).flatten().tolist() == pytest.approx([0, 127.5, 255], abs=0.5)
