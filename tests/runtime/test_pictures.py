"""Only raster formats are opened, in every place that opens pictures."""

import ast
import os
import stat
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import hf_ddpm
from hf_ddpm.data.table import load_images
from hf_ddpm.figures.checkpoints import _read_picture
from hf_ddpm.runtime.pictures import RASTER_FORMATS, open_picture

PACKAGE = Path(hf_ddpm.__file__).parent
SCRIPTS = PACKAGE.parent / "train_scripts"
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n0 0 8 8 rectfill\nshowpage\n%%EOF\n"


@pytest.fixture
def ghostscript(tmp_path, monkeypatch) -> Path:
    """A program called gs, which leaves this file behind when it is started."""
    started, program = tmp_path / "started", tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {started}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)  # Pillow looks for it only once
    return started


def test_postscript_would_start_a_program(tmp_path, ghostscript):
    """What is guarded against: without a list of formats Pillow does it, whatever the file is called."""
    (tmp_path / "0001.png").write_bytes(POSTSCRIPT)
    with pytest.raises(OSError), PIL.Image.open(tmp_path / "0001.png") as image:
        image.load()
    assert ghostscript.exists()


def test_postscript_among_the_data_is_refused(tmp_path, ghostscript):
    folder = tmp_path / "data"
    folder.mkdir()
    PIL.Image.new("L", (8, 8)).save(folder / "0000.png")
    (folder / "0001.png").write_bytes(POSTSCRIPT)
    with pytest.raises(ValueError, match=r"0001\.png.* cannot be decoded .*none of the formats PNG, JPEG"):
        load_images(str(folder), "train", image_size=8)
    assert len(load_images(str(folder), "train", image_size=8, on_bad_image="skip")) == 1
    assert not ghostscript.exists()


def test_postscript_among_the_samples_of_a_run_is_refused(tmp_path, ghostscript):
    (tmp_path / "step-00000001.png").write_bytes(POSTSCRIPT)
    with pytest.raises(ValueError, match="not an image"):
        _read_picture(tmp_path / "step-00000001.png")
    assert not ghostscript.exists()


@pytest.mark.parametrize("kind", RASTER_FORMATS)
def test_every_format_is_read(tmp_path, kind):
    colours = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8))
    colours.save(tmp_path / "image", format=kind)
    with open_picture(tmp_path / "image") as image:
        assert image.size == (8, 8) and image.convert("RGB").getbbox()


@pytest.mark.parametrize("kind", ["EPS", "PDF", "ICNS", "PSD"])
def test_other_formats_are_not(tmp_path, kind):
    heads = {"EPS": POSTSCRIPT, "PDF": b"%PDF-1.4\n", "PSD": b"8BPS" + bytes(60), "ICNS": b"icns" + bytes(60)}
    (tmp_path / "image.png").write_bytes(heads[kind])
    with pytest.raises(PIL.UnidentifiedImageError, match="none of the formats PNG"):
        open_picture(tmp_path / "image.png")


def test_pictures_are_opened_nowhere_else():
    """`Image.open` only with formats, and no decoding by datasets, whose `Image.open` has none."""
    found = []
    for path in sorted([*PACKAGE.rglob("*.py"), *SCRIPTS.glob("*.py")]):
        for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
            name = ast.unparse(call.func)
            opens = name.endswith("Image.open") and "formats" not in [keyword.arg for keyword in call.keywords]
            casts = name.endswith("cast_column") and "decode=False" not in ast.unparse(call)
            if opens or casts or name.endswith(("imread", "decode_example")):
                found.append(f"{path.name}:{call.lineno}: {ast.unparse(call)}")
    assert not found
