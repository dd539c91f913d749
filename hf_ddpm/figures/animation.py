"""GIFs of pictures with a line of text below: `save_gif(frames, captions, path, milliseconds=100)`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from hf_ddpm.runtime.files import write_whole

Frames = Sequence[Image.Image]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
FONT_SIZE, CAPTION_HEIGHT, PADDING = 14, 24, 6  # pixels
GRAYS, COLORS = 16, 64  # of an animation; with more grays noise makes a large file


def save_gif(
    frames: Frames, captions: Sequence[str], path: Path, *, milliseconds: int, hold: int = 5, num_colors: int | None = None
) -> None:
    """Write an animation that repeats forever, the same bytes every time.

    Args:
        frames: pictures of one size, at least one; otherwise a ValueError is raised.
        captions: text below each picture, different from that of the next.
        milliseconds: duration of a frame, which GIF rounds to hundredths of a second.
        hold: duration of the last frame, in durations of the others.
        num_colors: grays of gray pictures, or colors common to all frames, 2 to 256; None = 16 grays or 64 colors.
    """
    sizes = {frame.size for frame in frames}
    if len(sizes) != 1:
        raise ValueError(f"the pictures have the sizes {sorted(sizes)}: give pictures of one size")
    font = ImageFont.load_default(size=FONT_SIZE)
    # One width for all: a GIF with frames of several sizes grows while it plays, and keeps what was beside them.
    width = max(frames[0].width, *(round(font.getlength(text)) + 2 * PADDING for text in captions))
    captioned = [_with_caption(frame, text, font, width) for frame, text in zip(frames, captions, strict=True)]
    is_gray = all(len({channel.tobytes() for channel in frame.split()}) == 1 for frame in captioned)
    in_few_colors = _in_grays if is_gray else _in_common_colors
    first, *others = in_few_colors(captioned, num_colors or (GRAYS if is_gray else COLORS))
    durations = [milliseconds] * len(others) + [hold * milliseconds]

    def write(partial: Path) -> None:
        first.save(partial, save_all=True, append_images=others, duration=durations, loop=0, optimize=False, disposal=1)

    write_whole(path, write)


def _with_caption(frame: Image.Image, text: str, font: Font, width: int) -> Image.Image:
    picture = Image.new("RGB", (width, frame.height + CAPTION_HEIGHT), "white")
    picture.paste(frame.convert("RGB"), (0, 0))
    middle = frame.height + CAPTION_HEIGHT / 2
    ImageDraw.Draw(picture).text((PADDING, middle), text, fill="black", font=font, anchor="lm")
    return picture


def _in_grays(frames: Frames, num_colors: int) -> list[Image.Image]:
    """Gray frames with evenly spaced grays, each value replaced by the nearest."""
    grays = [round(255 * i / (num_colors - 1)) for i in range(num_colors)]
    nearest = [round(value * (num_colors - 1) / 255) for value in range(256)]
    indexed = [Image.frombytes("P", frame.size, frame.convert("L").point(nearest).tobytes()) for frame in frames]
    for frame in indexed:
        frame.putpalette([value for gray in grays for value in (gray, gray, gray)])
    return indexed


def _in_common_colors(frames: Frames, num_colors: int) -> list[Image.Image]:
    """Frames in the most frequent colors of four of them, evenly spread."""
    few = [frames[round(i * (len(frames) - 1) / 3)] for i in range(4)]
    together = Image.new("RGB", (few[0].width, sum(frame.height for frame in few)))
    for i, frame in enumerate(few):
        together.paste(frame, (0, i * frame.height))
    palette = together.quantize(num_colors, method=Image.Quantize.MEDIANCUT)
    return [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
