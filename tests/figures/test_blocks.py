"""Blocks of images: each pixel where it belongs, names that are safe, files that are the same every time."""

import numpy as np
import pytest
from PIL import Image

from hf_ddpm.figures.blocks import GAP, MARGIN, ImageBlock, plain, plot_blocks
from hf_ddpm.figures.style import save_figure


def some_images(rows: int, columns: int, *, size: int = 8, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (rows, columns, size, size, channels), dtype=np.uint8)


def png_of(figure, folder) -> np.ndarray:
    with Image.open(save_figure(figure, folder / "figure")[0]) as picture:
        return np.array(picture.convert("RGB"))


@pytest.mark.parametrize(("size", "channels", "scale"), [(8, 1, 7), (28, 3, 2), (60, 3, 1)])
def test_every_pixel_is_a_square_of_the_same_size(tmp_path, size, channels, scale):
    images = some_images(2, 3, size=size, channels=channels)
    picture, tile = png_of(plot_blocks([ImageBlock(images=images)]), tmp_path), size * scale
    assert picture.shape == (2 * MARGIN + 2 * tile + GAP, 2 * MARGIN + 3 * tile + 2 * GAP, 3)
    for row, column in np.ndindex(2, 3):
        top, left = MARGIN + row * (tile + GAP), MARGIN + column * (tile + GAP)
        shown = picture[top : top + tile, left : left + tile]
        np.testing.assert_array_equal(
            shown, np.broadcast_to(images[row, column], (size, size, 3)).repeat(scale, 0).repeat(scale, 1)
        )
        picture[top : top + tile, left : left + tile] = 255
    assert (picture == 255).all()


def test_blocks_keep_clear_of_each_other_and_of_their_names(tmp_path):
    black = np.zeros((2, 2, 8, 8, 1), np.uint8)
    names = {"row_names": ["a cat", "$x_t$"], "column_names": ["t = 1000, or so", "two\nlines"], "title": "a title"}
    block = ImageBlock(images=black, captions=[["× 10", "× 2"]] * 2, **names)
    picture = png_of(plot_blocks([block, block, block], columns=2, title="all of them"), tmp_path)
    assert (picture.min(axis=2) < 10).sum() >= 3 * 4 * 56 * 56
    # Nothing runs over the edge, and the tiles are whole: 4 of 56 x 56 in each of three blocks.
    edge = np.concatenate([picture[0].ravel(), picture[-1].ravel(), picture[:, 0].ravel(), picture[:, -1].ravel()])
    assert (edge == 255).all()
    dark = picture.max(axis=2) == 0
    runs = [sum(len(run) >= 56 for run in "".join("#" if pixel else " " for pixel in line).split(" ")) for line in dark]
    assert {count for count in runs if count} == {2, 4} and runs.count(4) == runs.count(2) == 2 * 56


def test_images_of_blocks_below_each_other_begin_at_one_place(tmp_path):
    black = np.zeros((1, 1, 8, 8, 1), np.uint8)
    blocks = [ImageBlock(images=black, row_names=[name]) for name in ("i", "a longer name")]
    dark = png_of(plot_blocks(blocks), tmp_path).max(axis=2) == 0
    (columns,) = {tuple(np.flatnonzero(line)[-56:]) for line in dark if line.sum() >= 56}
    assert columns == tuple(range(columns[0], columns[0] + 56))


def test_long_names_leave_the_margin_free(tmp_path):
    block = ImageBlock(images=np.zeros((1, 1, 8, 8, 1), np.uint8), row_names=["aquarium fish, long tailed"])
    picture = png_of(plot_blocks([block], title="a title that is wider than all of the images below it, by far"), tmp_path)
    dark = np.flatnonzero((picture < 255).any(axis=(0, 2)))
    assert dark[0] >= MARGIN - 2 and dark[-1] < picture.shape[1] - MARGIN + 2


def test_files_are_the_same_every_time(tmp_path):
    block = ImageBlock(images=some_images(1, 2, channels=3), column_names=["$x_0$", "b"])
    first, second = (save_figure(plot_blocks([block], title="a"), tmp_path / name) for name in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert first[1].read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("name", ["US$ and $ again", "$", r"\frac", "a_b^c", "x" * 500, "line\nbreak", ""])
def test_a_name_of_any_kind_is_shown_as_it_is(tmp_path, name):
    figure = plot_blocks([ImageBlock(images=some_images(1, 1), row_names=[plain(name)], title=plain(name))])
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == [plain(name)] * 2 and "\n" not in texts[0]
    assert png_of(figure, tmp_path).shape[1] < 700


@pytest.mark.parametrize(
    ("images", "names", "message"),
    [
        (np.zeros((1, 1, 8, 8, 2), np.uint8), {}, "shape"),
        (np.zeros((1, 0, 8, 8, 1), np.uint8), {}, "shape"),
        (np.zeros((1, 8, 8, 1), np.uint8), {}, "shape"),
        (np.zeros((1, 1, 8, 8, 1), np.float32), {}, "float32"),
        (some_images(2, 1), {"row_names": ["a"]}, "row_names has 1 entries: give 2"),
        (some_images(2, 1), {"column_names": ["a", "b"]}, "column_names has 2 entries: give 1"),
        (some_images(2, 1), {"captions": [["a"]]}, "captions has 1 entries: give 2"),
    ],
)
def test_refusals(images, names, message):
    with pytest.raises(ValueError, match=message):
        ImageBlock(images=images, **names)
