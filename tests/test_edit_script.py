"""train_scripts/edit.py: the files that it writes, and its one-line refusals."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hf_ddpm.data.own_outputs import find_samples
from hf_ddpm.editing.options import EDITS


@pytest.fixture
def main(load_script):
    return load_script("edit").main


@pytest.fixture(scope="module")
def place(tiny_pipeline, tmp_path_factory) -> Path:
    """A folder with a model, images and masks."""
    folder = tmp_path_factory.mktemp("place")
    tiny_pipeline(names=("cat", "dog", "great dane")).save_pretrained(folder / "model")
    tiny_pipeline(names=None).save_pretrained(folder / "unconditional")
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    (folder / "empty").mkdir()
    for name in ("b c", "a"):
        Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(folder / "images" / f"{name}.png")
    Image.open(folder / "images" / "a.png").convert("RGB").save(folder / "gray-as-rgb.png")
    Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(folder / "colour.png")
    Image.new("L", (30, 20), 200).save(folder / "large.png")
    Image.fromarray(np.where(np.arange(64).reshape(8, 8) % 8 >= 4, 255, 0).astype(np.uint8)).save(folder / "mask.png")
    Image.new("L", (8, 8)).save(folder / "black.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    return folder


def command(place: Path, output: Path, edit: str, *more: str) -> list[str]:
    given = {
        "image_to_image": [f"--images={place / 'images'}"],
        "inpaint": [f"--images={place / 'images'}", f"--mask={place / 'mask.png'}", "--jump_length=1", "--jump_n_sample=2"],
        "interpolate": ["--num_images=3"],
    }[edit]
    common = [f"--model={place / 'model'}", f"--output_dir={output}", "--num_inference_steps=4", "--device=cpu"]
    own = {option.partition("=")[0] for option in more}
    return [edit, *(option for option in (*common, *given) if option.partition("=")[0] not in own), *more]


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_inpainting_keeps_known_pixels_and_writes_a_grid(main, place, tmp_path, capsys):
    main(command(place, tmp_path / "a", "inpaint", "--per_image=2", "--class_labels", "dog", "0", "--seed=5"))
    assert capsys.readouterr().out == f"4 images: {tmp_path / 'a'}, grid: {tmp_path / 'a'}-grid.png\n"
    names = ["00000_of-a_seed-5.png", "00001_of-a_seed-6.png", "00002_of-b-c_seed-7.png", "00003_of-b-c_seed-8.png"]
    assert names_in(tmp_path / "a") == names
    for name, original in zip(names, ("a", "a", "b c", "b c"), strict=True):
        found, given = pixels(tmp_path / "a" / name), pixels(place / "images" / f"{original}.png")
        assert np.array_equal(found[:, :4], given[:, :4]) and (found[:, 4:] != given[:, 4:]).mean() > 0.8
    grid = pixels(tmp_path / "a-grid.png")
    assert grid.shape == (2 + 2 * 34, 2 + 4 * 34, 3)
    assert (grid[2:34, 52:68] == 127).all(), "the masked half of the second picture"
    files = [tmp_path / "a" / name for name in names]
    assert find_samples([*files, place / "images" / "a.png"], []) == files


def test_edits_of_a_model_do_not_depend_on_the_batch_size(main, place, tmp_path):
    for name, size in (("a", 1), ("b", 3)):
        more = [f"--batch_size={size}", "--per_image=2", "--strength=0.8", "--class_labels=cat", "--guidance_scale=2"]
        main(command(place, tmp_path / name, "image_to_image", *more))
    pairs = zip(sorted((tmp_path / "a").iterdir()), sorted((tmp_path / "b").iterdir()), strict=True)
    assert all(abs(pixels(a).astype(int) - pixels(b)).max() <= 1 for a, b in pairs)


def test_the_ends_of_an_interpolation_are_those_of_sample_py(main, load_script, place, tmp_path):
    main(command(place, tmp_path / "a", "interpolate", "--class_labels", "great dane", "--seed=3", "--last_seed=8"))
    assert names_in(tmp_path / "a") == ["00000_weight-0.000.png", "00001_weight-0.500.png", "00002_weight-1.000.png"]
    for seed, found in ((3, "00000_weight-0.000.png"), (8, "00002_weight-1.000.png")):
        sampling = [f"--model={place / 'model'}", f"--output_dir={tmp_path / str(seed)}", f"--seed={seed}", "--device=cpu"]
        load_script("sample").main([*sampling, "--class_labels=2", "--scheduler=ddim", "--num_inference_steps=4"])
        (expected,) = (tmp_path / str(seed)).glob("*.png")
        assert abs(pixels(tmp_path / "a" / found).astype(int) - pixels(expected)).max() <= 1


def test_interpolation_between_images_of_an_unconditional_model(main, place, tmp_path):
    images = ["--images", str(place / "images" / "a.png"), str(place / "gray-as-rgb.png")]
    more = [f"--model={place / 'unconditional'}", "--strength=1"]
    main(command(place, tmp_path / "a", "interpolate", *images, *more))
    first, _, last = (pixels(tmp_path / "a" / name) for name in names_in(tmp_path / "a"))
    assert np.array_equal(first, last), "both images have the same pixels"


def test_fit_converts_as_training_does(main, place, tmp_path):
    images = ["--images", str(place / "large.png"), str(place / "colour.png"), "--fit", "--strength=0.3"]
    main(command(place, tmp_path / "a", "image_to_image", *images))
    assert len(names_in(tmp_path / "a")) == 2


@pytest.mark.parametrize("args", [[], ["inpain"], ["--model=x"]])
def test_an_unknown_edit_is_answered_with_the_known_ones(main, capsys, args):
    with pytest.raises(SystemExit) as caught:
        main(args)
    (line,) = capsys.readouterr().err.splitlines()
    assert caught.value.code == 2 and f"give one of {', '.join(EDITS)}" in line


def test_help_lists_the_edits(main, capsys):
    main(["--help"])
    shown = capsys.readouterr().out
    assert all(f"\n  {name} " in shown for name in EDITS)


@pytest.mark.parametrize(
    ("edit", "more", "message"),
    [
        ("image_to_image", ["--strength=0"], "--strength is 0.0: give a number above 0, at most 1"),
        ("image_to_image", ["--strength=0.0001"], "--strength is 0.0001: the last step begins at 0.25"),
        ("image_to_image", ["--images={place}/large.png"], "it has 30 x 20 pixels, the model's images 8 x 8, give"),
        ("image_to_image", ["--images={place}/colour.png"], "it has colours, the model's images are gray"),
        ("image_to_image", ["--images={place}/broken.png"], "broken.png': it cannot be decoded"),
        ("image_to_image", ["--images={place}/nothing.png"], "nothing.png': no such file or folder exists"),
        ("image_to_image", ["--images={place}/empty"], "there is no image file in this folder"),
        ("image_to_image", ["--guidance_scale=2"], "--guidance_scale is 2.0: guidance leads towards a class"),
        ("image_to_image", ["--class_labels=cta"], "class_labels is 'cta': no such name, nearest: cat"),
        ("image_to_image", ["--class_labels", "0", "1", "2"], "give one for all images, or 2, one per image"),
        ("image_to_image", ["--per_image=0"], "--per_image is 0"),
        ("image_to_image", ["--model={place}/unconditional", "--class_labels=0"], "the model is unconditional"),
        ("image_to_image", ["--model={place}/nowhere"], "nowhere': no such folder exists"),
        ("image_to_image", ["--scheduler=ddimm"], "scheduler is 'ddimm'"),
        ("image_to_image", ["--device=tpu9"], "device is 'tpu9'"),
        ("image_to_image", ["--output_dir={place}"], "give a new or an empty folder"),
        ("inpaint", ["--scheduler=euler"], "--scheduler is 'euler': steps can be repeated with ddpm and ddim only"),
        ("inpaint", ["--mask={place}/nothing.png"], "nothing.png': no such file exists"),
        ("inpaint", ["--mask={place}/black.png"], "it is black everywhere, make white what is to be repainted"),
        ("inpaint", ["--mask={place}/large.png"], "it has 30 x 20 pixels, the model's images 8 x 8, give mask that fit"),
        ("inpaint", ["--jump_length=4"], "--jump_length is 4: give less than the 4 steps"),
        ("interpolate", ["--scheduler=ddpm"], "scheduler is 'DDPMScheduler': it adds noise to its steps"),
        ("interpolate", ["--eta=0.5"], "--eta is 0.5: samples are interpolated without noise"),
        ("interpolate", ["--strength=0.5"], "--strength is 0.5: add --images, or leave it out"),
        ("interpolate", ["--images={place}/images/a.png"], "give two image files"),
        ("interpolate", ["--num_images=1"], "--num_images is 1: give at least 2"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_mistakes_are_one_line_before_the_folder_is_made(main, place, tmp_path, capsys, edit, more, message):
    arguments = [option.format(place=place) for option in more]
    with pytest.raises(SystemExit) as caught:
        main(command(place, tmp_path / "out", edit, *arguments))
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "out").exists()


def test_several_processes_are_refused(main, place, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(SystemExit):
        main(command(place, tmp_path / "out", "inpaint"))
    assert "images are edited in one process: leave the launcher out" in capsys.readouterr().err
