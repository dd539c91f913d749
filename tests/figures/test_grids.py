"""Where each image is in a grid, and the names of its rows."""

import numpy as np
import pytest

from hf_ddpm.figures.grids import grid_positions, image_grid


def numbered(count: int, channels: int = 1, size: int = 4) -> np.ndarray:
    """Images of one value each: 0, 1, 2, ..."""
    values = np.arange(count, dtype=np.uint8)[:, None, None, None]
    return np.broadcast_to(values, (count, size, size, channels)).copy()


def test_tiles_lie_row_by_row_on_white():
    grid = np.asarray(image_grid(numbered(5), columns=3, scale=1))
    assert grid.shape == (2 + 2 * 6, 2 + 3 * 6, 3)
    for i in range(5):
        top, left = 2 + i // 3 * 6, 2 + i % 3 * 6
        assert (grid[top : top + 4, left : left + 4] == i).all()
    assert (grid[8:, 14:] == 255).all()
    assert (grid[:2] == 255).all()
    assert (grid[:, :2] == 255).all()
    assert (grid[6:8] == 255).all()


def test_colors_are_kept():
    image = np.random.default_rng(0).integers(0, 256, (1, 6, 5, 3), dtype=np.uint8)
    grid = np.asarray(image_grid(image, columns=1, scale=1))
    np.testing.assert_array_equal(grid[2:8, 2:7], image[0])


@pytest.mark.parametrize(("size", "tile"), [(8, 32), (28, 56), (32, 32), (64, 64), (5, 35)])
def test_tiny_images_are_enlarged_to_about_32_pixels(size, tile):
    assert image_grid(numbered(1, size=size), columns=1).size == (tile + 4, tile + 4)


def test_enlarging_repeats_pixels():
    image = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 1), dtype=np.uint8)
    grid = np.asarray(image_grid(image, columns=1, scale=3))[2:26, 2:26, 0]
    np.testing.assert_array_equal(grid, image[0, :, :, 0].repeat(3, axis=0).repeat(3, axis=1))


def test_row_names_stand_on_the_left_of_their_rows():
    images = numbered(4) + 200
    plain = np.asarray(image_grid(images, columns=2))
    named = np.asarray(image_grid(images, columns=2, row_names=["cat", ""]))
    margin = named.shape[1] - plain.shape[1]
    assert margin > 10
    np.testing.assert_array_equal(named[:, margin:], plain)
    assert (named[:34, :margin] < 128).any()
    assert (named[36:, :margin] == 255).all()


def test_longer_names_take_more_room():
    short, long = (image_grid(numbered(1), columns=1, row_names=[name]) for name in ("i", "i" * 40))
    assert long.width > short.width
    assert long.height == short.height


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (np.zeros((8, 8, 1), np.uint8), {}, "shape"),
        (np.zeros((1, 8, 8, 2), np.uint8), {}, "shape"),
        (np.zeros((0, 8, 8, 1), np.uint8), {}, "shape"),
        (np.zeros((1, 8, 8, 1), np.float32), {}, "float32: give uint8"),
        (numbered(2), {"columns": 0}, "columns is 0"),
        (numbered(2), {"scale": 0}, "scale is 0"),
        (
            numbered(2),
            {"columns": 1, "row_names": ["a"]},
            "row_names has 1 names: give one for each of 2 rows",
        ),
    ],
)
def test_refusals(images, options, message):
    with pytest.raises(ValueError, match=message):
        image_grid(images, **{"columns": 2, **options})


def test_grid_positions_are_a_square_of_all_that_fits():
    assert grid_positions(7, None) == (list(range(7)), 3)
    assert grid_positions(1, None) == ([0], 1)
    assert grid_positions(300, None) == (list(range(256)), 16)


def test_grid_positions_are_the_beginning_of_each_row():
    assert grid_positions(60, 20) == ([i for i in range(60) if i % 20 < 16], 16)
    assert grid_positions(4, 2) == ([0, 1, 2, 3], 2)
    assert grid_positions(20_000, 1) == (list(range(20_000)), 1)
