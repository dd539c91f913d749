"""train_scripts/sample.py: the files that it writes, and its one-line refusals."""

import os
import signal
import threading
import time
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image
from torch_fidelity.utils import glob_samples_paths

import hf_ddpm.sampling as sampling
from hf_ddpm.data.sources import open_source
from hf_ddpm.pipeline import CFGDDPMPipeline
from hf_ddpm.runtime.lock import OutputLock


@pytest.fixture
def main(load_script):
    return load_script("sample").main


@pytest.fixture(scope="module")
def save_model(tiny_pipeline):
    def save(folder: Path, **options) -> str:
        tiny_pipeline(**options).save_pretrained(folder)
        return str(folder)

    return save


@pytest.fixture(scope="module")
def model(save_model, tmp_path_factory) -> str:
    return save_model(tmp_path_factory.mktemp("model"), names=("cat", "dog", "great dane"))


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def options(model: str, output_dir: Path, *more: str) -> list[str]:
    return [
        "--model",
        model,
        "--output_dir",
        str(output_dir),
        "--num_inference_steps",
        "2",
        "--device",
        "cpu",
        *more,
    ]


def test_png_files_and_a_grid_with_a_row_a_class(main, model, tmp_path, capsys):
    folder = tmp_path / "new" / "images"
    main(options(model, folder, "--per_class", "2", "--seed", "10"))
    assert names_in(folder) == [
        "00000_label-cat_seed-10.png",
        "00001_label-cat_seed-11.png",
        "00002_label-dog_seed-12.png",
        "00003_label-dog_seed-13.png",
        "00004_label-great-dane_seed-14.png",
        "00005_label-great-dane_seed-15.png",
        "metadata.jsonl",
    ]
    with Image.open(tmp_path / "new" / "images-grid.png") as grid:
        assert grid.height == 2 + 3 * 34
        assert grid.width > 2 + 2 * 34
    assert capsys.readouterr().out.splitlines()[-1] == f"6 images: {folder}, grid: {folder}-grid.png"


def test_npz_with_the_requested_labels(main, model, tmp_path):
    more = [
        "--class_labels",
        "dog",
        "0",
        "--num_images",
        "5",
        "--format",
        "npz",
        "--scheduler",
        "dpmsolver++",
    ]
    main(options(model, tmp_path / "a", *more, "--batch_size", "2"))
    main(options(model, tmp_path / "b", *more, "--batch_size", "5"))
    assert names_in(tmp_path / "a") == ["samples.npz"]
    with np.load(tmp_path / "a" / "samples.npz") as a, np.load(tmp_path / "b" / "samples.npz") as b:
        assert a["class_labels"].tolist() == [1, 0, 1, 0, 1]
        assert a["seeds"].tolist() == [0, 1, 2, 3, 4]
        assert abs(a["images"].astype(int) - b["images"]).max() <= 1


def test_the_default_scale_is_guided_where_the_model_can_be(main, model, tmp_path):
    def images(name: str, *more: str) -> np.ndarray:
        main(options(model, tmp_path / name, "--num_images", "2", "--format", "npz", *more))
        with np.load(tmp_path / name / "samples.npz") as saved:
            return saved["images"].astype(int)

    default = images("default")
    assert abs(default - images("1.5", "--guidance_scale", "1.5")).max() == 0
    assert abs(default - images("1", "--guidance_scale", "1")).max() > 1


def test_models_that_cannot_be_guided(save_model, main, tmp_path):
    unconditional = save_model(tmp_path / "unconditional", names=None)
    main(options(unconditional, tmp_path / "a", "--num_images", "2"))
    assert names_in(tmp_path / "a") == ["00000_seed-0.png", "00001_seed-1.png"]
    without_null = save_model(tmp_path / "without_null", null=False)
    main(options(without_null, tmp_path / "b", "--per_class", "1"))
    assert len(names_in(tmp_path / "b")) == 4


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--num_images", "-3"], "--num_images is -3: give at least 1"),
        (["--per_class", "0"], "--per_class is 0"),
        (["--num_inference_steps", "0"], "--num_inference_steps is 0"),
        (["--batch_size", "0"], "--batch_size is 0"),
        (["--seed", "-1"], "--seed is -1"),
        (["--eta", "2"], "--eta is 2.0"),
        (["--guidance_interval", "0.8", "0.2"], "--guidance_interval is (0.8, 0.2): give [low, high]"),
        (["--format", "gif"], "--format"),
        (["--no_such_option", "1"], "no_such_option"),
        (["--num_images", "2", "--scheduler", "ddimm"], "scheduler is 'ddimm': give one of ddpm, ddim"),
        (["--num_images", "2", "--model", "./no/such/folder"], "model is './no/such/folder'"),
        (["--num_images", "2", "--device", "tpu9"], "device is 'tpu9'"),
        (["--num_images", "2", "--guidance_scale", ".nan"], "guidance_scale is nan"),
        (["--num_images", "2", "--num_inference_steps", "5000"], "num_inference_steps is 5000"),
        (["--class_labels", "[dog, 9]"], "class_labels is 9: "),
        (["--class_labels", "[dgo]"], "class_labels is 'dgo': no such name, nearest: dog"),
        (["--num_images", "2", "--per_class", "2"], "--num_images is 2"),
        ([], "--num_images is None"),
    ],
)
def test_mistakes_are_one_line_before_the_folder_is_made(main, model, tmp_path, capsys, more, message):
    with pytest.raises(SystemExit) as caught:
        main(options(model, tmp_path / "images", *more))
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "images").exists()


def test_a_folder_that_is_not_empty_is_refused(main, model, tmp_path, capsys):
    (tmp_path / "old.png").touch()
    with pytest.raises(SystemExit) as caught:
        main(options(model, tmp_path, "--num_images", "1"))
    assert caught.value.code == 2
    assert f"--output_dir is '{tmp_path}': give a new or an empty folder" in capsys.readouterr().err
    assert names_in(tmp_path) == ["old.png"]


def test_other_programs_read_the_samples_and_nothing_else(main, model, tmp_path):
    """torch-fidelity and `imagefolder`, which gets the classes too; --data.source reads the folder as a data set."""
    folder = tmp_path / "images"
    main(options(model, folder, "--class_labels", "great dane", "0", "--num_images", "5"))
    samples = sorted(folder.glob("0*.png"))
    for deep in (False, True):
        found = glob_samples_paths(str(folder), deep, "png,jpg,jpeg", "jpg,jpeg", verbose=False)
        assert sorted(found) == [str(path) for path in samples]
    rows = datasets.load_dataset("imagefolder", data_dir=str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows["label"][:] == ["great dane", "cat", "great dane", "cat", "great dane"]
    opened = open_source(str(folder), "train")
    assert (len(opened.dataset), opened.class_names) == (5, ["cat", "great dane"])
    for path, row in zip(samples, rows, strict=True):
        with Image.open(path) as image:
            np.testing.assert_array_equal(np.asarray(image), np.asarray(row["image"].convert("L")))


def test_samples_without_a_class_are_read_too(main, save_model, tmp_path):
    folder = tmp_path / "images"
    main(options(save_model(tmp_path / "model", names=None), folder, "--num_images", "3"))
    rows = datasets.load_dataset("imagefolder", data_dir=str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(rows) == 3 and rows.column_names == ["image"]


@pytest.mark.parametrize("output_dir", ["images", "./images/", "nested/images"])
def test_a_grid_is_never_replaced(main, model, tmp_path, monkeypatch, capsys, output_dir):
    monkeypatch.chdir(tmp_path)
    grid = Path(output_dir).with_name("images-grid.png")
    grid.parent.mkdir(exist_ok=True)
    grid.touch()
    with pytest.raises(SystemExit) as caught:
        main(options(model, output_dir, "--num_images", "1"))
    assert caught.value.code == 2 and f"the file of its grid exists, {grid}" in capsys.readouterr().err
    assert grid.stat().st_size == 0 and not Path(output_dir).exists()


def test_the_grid_of_the_current_folder_is_beside_it(main, model, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    main(options(model, ".", "--num_images", "1"))
    assert names_in(tmp_path) == ["here", "here-grid.png"] and "00000_label-cat_seed-0.png" in names_in(tmp_path / "here")


@pytest.mark.usefixtures("listening_to_ctrl_c")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_batch_and_keeps_what_is_finished(main, model, tmp_path, capsys, number, code):
    folder = tmp_path / "images"

    def send_when_images_come():
        while not list(folder.glob("*.png")):
            time.sleep(0.01)
        signal.raise_signal(number)

    threading.Thread(target=send_when_images_come, daemon=True).start()
    with pytest.raises(SystemExit) as caught:
        main(options(model, folder, "--num_images", "1000", "--batch_size", "2"))
    assert caught.value.code == code
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    names = names_in(folder)
    assert f"stopped: {len(names)} of 1000 images are in {folder}" in errors.splitlines()[-1]
    assert len(names) % 2 == 0 and not (tmp_path / "images-grid.png").exists()
    for name in names:
        with Image.open(folder / name) as image:
            image.load()


@pytest.mark.usefixtures("listening_to_ctrl_c")
def test_an_npz_is_whole_or_not_there(main, model, tmp_path, capsys, monkeypatch):
    pipeline_call = CFGDDPMPipeline.__call__

    def signalled(*args, **kwargs):
        signal.raise_signal(signal.SIGINT)
        return pipeline_call(*args, **kwargs)

    monkeypatch.setattr(CFGDDPMPipeline, "__call__", signalled)
    with pytest.raises(SystemExit) as caught:
        main(options(model, tmp_path / "new", "--num_images", "3", "--batch_size", "2", "--format", "npz"))
    assert caught.value.code == 130
    assert "stopped: 0 of 3 images are in" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "new").exists()


def test_a_folder_that_another_program_writes_is_refused(main, model, tmp_path, capsys):
    with OutputLock(tmp_path / "images") as lock:
        lock.take()
        with pytest.raises(SystemExit) as stopped:
            main(options(model, tmp_path / "images", "--num_images", "1"))
        assert stopped.value.code == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert f": --output_dir is '{tmp_path / 'images'}': process {os.getpid()} on " in line
    main(options(model, tmp_path / "images", "--num_images", "1"))  # what a killed program may leave is no content
    assert len(names_in(tmp_path / "images")) == 2


def test_a_folder_that_was_filled_while_this_one_started_is_refused(main, model, tmp_path, capsys, monkeypatch):
    load = sampling.load_pipeline

    def overtaken(*args, **kwargs):
        monkeypatch.setattr(sampling, "load_pipeline", load)
        main(options(model, tmp_path / "images", "--num_images", "1"))
        return load(*args, **kwargs)

    monkeypatch.setattr(sampling, "load_pipeline", overtaken)
    with pytest.raises(SystemExit) as stopped:
        main(options(model, tmp_path / "images", "--num_images", "1", "--seed", "5"))
    assert stopped.value.code == 2 and "there are files in it by now" in capsys.readouterr().err
    assert names_in(tmp_path / "images") == ["00000_label-cat_seed-0.png", "metadata.jsonl"]


def test_samples_are_guided_as_the_options_say(main, model, save_model, tmp_path):
    weak = save_model(tmp_path / "weak", names=("cat", "dog", "great dane"), seed=1)

    def sampled(name: str, *more: str) -> np.ndarray:
        scale = ("--num_images", "2", "--guidance_scale", "3", "--format", "npz")
        main(options(model, tmp_path / name, *scale, *more))
        return np.load(tmp_path / name / "samples.npz")["images"]

    plain = sampled("plain")
    assert np.array_equal(sampled("cfg", "--guide", weak, "--guidance", "cfg"), plain)
    assert np.array_equal(sampled("everywhere", "--guidance_interval", "0", "1"), plain)
    for name, more in (
        ("guide", ("--guide", weak)),
        ("apg", ("--guidance", "apg")),
        ("interval", ("--guidance_interval", "0.9", "1")),
    ):
        assert not np.array_equal(sampled(name, *more), plain), name
