"""GIFs: order, duration and colors of the frames."""

import numpy as np
import pytest
from PIL import Image, ImageSequence

from hf_ddpm.figures.animation import CAPTION_HEIGHT, save_gif


def frames(count: int, mode: str = "RGB") -> list[Image.Image]:
    rng = np.random.default_rng(0)
    shape = (20, 90) if mode == "L" else (20, 90, 3)
    return [Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)) for _ in range(count)]


def test_frames_have_their_duration_and_repeat(tmp_path):
    pictures = frames(4, "L")
    save_gif(pictures, [f"t = {i}" for i in range(4)], tmp_path / "new" / "a.gif", milliseconds=120, hold=10, num_colors=256)
    with Image.open(tmp_path / "new" / "a.gif") as gif:
        assert gif.n_frames == 4 and gif.info["loop"] == 0 and gif.size == (90, 20 + CAPTION_HEIGHT)
        shown = [(frame.info["duration"], np.asarray(frame.convert("RGB"))) for frame in ImageSequence.Iterator(gif)]
    assert [duration for duration, _ in shown] == [120, 120, 120, 1200]
    for picture, (_, pixels) in zip(pictures, shown, strict=True):
        np.testing.assert_array_equal(pixels[:20], np.asarray(picture.convert("RGB")))
        assert (pixels[20:] < 100).any()


def test_fewer_grays_are_near_and_smaller(tmp_path):
    for num_colors in (256, 8):
        save_gif(frames(3, "L"), ["a", "b", "c"], tmp_path / f"{num_colors}.gif", milliseconds=50, num_colors=num_colors)
    with Image.open(tmp_path / "8.gif") as gif:
        error = np.asarray(gif.convert("RGB"))[:20].astype(int) - np.asarray(frames(1, "L")[0].convert("RGB"))
    assert abs(error).max() <= 255 / 7 / 2 + 1
    assert (tmp_path / "8.gif").stat().st_size < 0.6 * (tmp_path / "256.gif").stat().st_size


def test_colors_are_kept_and_files_are_the_same_every_time(tmp_path):
    flat = [Image.new("RGB", (60, 20), colour) for colour in ((255, 0, 0), (0, 160, 0), (0, 0, 255))]
    for name in ("a", "b"):
        save_gif(flat, ["1", "2", "3"], tmp_path / f"{name}.gif", milliseconds=50)
    assert (tmp_path / "a.gif").read_bytes() == (tmp_path / "b.gif").read_bytes()
    with Image.open(tmp_path / "a.gif") as gif:
        colours = [np.asarray(frame.convert("RGB"))[5, 5].astype(int) for frame in ImageSequence.Iterator(gif)]
    for colour, expected in zip(colours, ((255, 0, 0), (0, 160, 0), (0, 0, 255)), strict=True):
        assert abs(colour - expected).max() <= 8


def test_equal_pictures_stay_apart_by_their_captions(tmp_path):
    save_gif([frames(1)[0]] * 3, ["step 1", "step 2", "step 3"], tmp_path / "a.gif", milliseconds=50)
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == 3


def test_all_frames_have_the_width_of_the_longest_caption(tmp_path):
    captions = ["step 1", "step 20", "step 12,000"]
    save_gif([Image.new("RGB", (20, 20), "red")] * 3, captions, tmp_path / "a.gif", milliseconds=50)
    with Image.open(tmp_path / "a.gif") as gif:
        shown = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(gif)]
    assert len({frame.shape for frame in shown}) == 1 and shown[0].shape[1] > 20
    assert all((frame[:20, 20:] > 240).all() and (frame[:, -3:] > 240).all() for frame in shown)


def test_pictures_of_several_sizes_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"the pictures have the sizes \[\(4, 4\), \(5, 4\)\]"):
        save_gif([Image.new("L", (5, 4)), Image.new("L", (4, 4))], ["a", "b"], tmp_path / "a.gif", milliseconds=50)
