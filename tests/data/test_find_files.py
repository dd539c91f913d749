"""What lies in a folder of images: links, folders that are not data, and what programs of this package wrote there."""

import os
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from hf_ddpm.data.find_files import find_files
from hf_ddpm.data.sources import open_source
from hf_ddpm.data.table import load_images
from hf_ddpm.run_folder import RunFolder
from hf_ddpm.sample_folder import save_images, save_metadata, save_npz
from hf_ddpm.sampling import SampleBatch


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "pets"


def write(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(np.full((2, 2), 7, dtype=np.uint8)).save(path)
    return folder


def classes(folder: Path, split: str = "train") -> dict[str, int]:
    """The number of images of each class."""
    table = load_images(str(folder), split, image_size=2)
    assert table.class_names is not None, "there are no classes"
    return dict(zip(table.class_names, table.class_labels.bincount(minlength=len(table.class_names)).tolist(), strict=True))


def left_out(folder: Path) -> dict[str, int]:
    return {each.what: each.count for each in open_source(str(folder), "train").left_out}


def refusal(folder: Path, **options) -> str:
    with pytest.raises(ValueError) as caught:
        load_images(str(folder), "train", image_size=2, **options)
    message = str(caught.value)
    assert type(caught.value) is ValueError and "\n" not in message
    return message


# Links


def test_one_of_two_class_folders_is_a_link(folder, tmp_path):
    write(folder, "dog/0.png")
    (folder / "cat").symlink_to(write(tmp_path / "elsewhere", "0.png", "1.png"))
    assert classes(folder) == {"cat": 2, "dog": 1}


def test_all_class_folders_are_links_and_the_source_is_one(folder, tmp_path):
    store = write(tmp_path / "store", "cat/0.png", "dog/0.png")
    folder.mkdir()
    for name in ("cat", "dog"):
        (folder / name).symlink_to(f"../store/{name}")
    (tmp_path / "link").symlink_to(folder)
    assert classes(folder) == classes(tmp_path / "link") == classes(store) == {"cat": 1, "dog": 1}


def test_split_folders_and_files_are_links(folder, tmp_path):
    store = write(tmp_path / "store", "train/cat/0.png", "train/dog/0.png", "one.png")
    write(folder, "test/cat/0.png")
    (folder / "train").symlink_to(store / "train")
    (folder / "test" / "dog").mkdir()
    (folder / "test" / "dog" / "1.png").symlink_to(store / "one.png")
    assert classes(folder) == classes(folder, "test") == {"cat": 1, "dog": 1}


def test_a_link_to_a_folder_above_it_ends_and_is_named(folder):
    write(folder, "cat/0.png", "dog/0.png")
    (folder / "dog" / "up").symlink_to("..")
    assert classes(folder) == {"cat": 1, "dog": 1}
    (loop,) = open_source(str(folder), "train").left_out
    assert (loop.what, loop.count) == ("links", 1) and loop.reason.endswith("such as dog/up")


def test_folders_that_lead_to_each_other_end(folder):
    write(folder, "cat/0.png", "dog/0.png")
    (folder / "cat" / "x").symlink_to("../dog")
    (folder / "dog" / "y").symlink_to("../cat")
    assert classes(folder) == {"cat": 2, "dog": 2}
    assert left_out(folder) == {"links": 2}


@pytest.mark.parametrize("target", ["/nowhere/cat", "cat"])
def test_a_class_folder_that_is_a_link_to_nothing_is_named(folder, target):
    write(folder, "dog/0.png")
    (folder / "cat").symlink_to(target)
    assert f"whose link '{folder / 'cat'}' to '{target}' leads nowhere: fix or remove it" in refusal(folder)


def test_a_folder_that_cannot_be_read_is_named(folder):
    """Root may read every folder, but none whose path is too long for the system."""
    parent = os.open(write(folder, "cat/0.png", "dog/0.png") / "dog", os.O_RDONLY)
    for _ in range(20):
        os.mkdir("x" * 250, dir_fd=parent)
        below = os.open("x" * 250, os.O_RDONLY, dir_fd=parent)
        os.close(parent)
        parent = below
    os.close(parent)
    try:
        message = refusal(folder)
    finally:
        shutil.rmtree(folder)
    assert "xxx' cannot be read (File name too long): allow it, or move it out" in message


def test_a_folder_whose_name_is_not_utf8_is_named(folder):
    write(folder, "cat/0.png", "dog/0.png")
    os.mkdir(os.fsencode(folder) + b"/caf\xe9")
    assert "caf\\udce9' has a name that is not UTF-8: rename it" in refusal(folder)


# What is not data


def test_folders_of_programs_and_systems_are_not_classes(folder):
    hidden = (".ipynb_checkpoints", "__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN")
    write(folder, "cat/0.png", "dog/0.png", *(f"{name}/0.png" for name in hidden), "cat/@eaDir/0.png/thumb.jpg")
    assert classes(folder) == {"cat": 1, "dog": 1}
    assert left_out(folder) == {"hidden files and folders": 6}


def test_files_that_are_not_read_are_counted_by_suffix(folder):
    write(folder, "cat/0.png", "dog/0.png")
    for name in ("cat/1.HEIC", "cat/2.HEIC", "dog/1.heic", "notes.txt", "more.zip", "LICENSE", "a.b c"):
        (folder / name).touch()
    found = {each.what: (each.count, each.reason) for each in open_source(str(folder), "train").left_out}
    unread = "format not read"
    assert found == {
        "files .HEIC": (2, unread), "files without a usual suffix": (2, unread), "files .heic": (1, unread),
        "files .txt": (1, unread), "files .zip": (1, "not unpacked"),
    }  # fmt: skip


def test_images_beside_parquet_files_are_counted(folder, tmp_path):
    write(folder, "assets/0.png", "assets/1.png")
    dataset = open_source(str(folder), "train").dataset
    dataset.select([0]).to_parquet(str(folder / "train.parquet"))
    assert left_out(folder) == {"image files": 2}
    (folder / "train.parquet").rename(folder / "all.parquet")
    assert "where the imagefolder files hide the parquet or arrow files" in refusal(folder)


# What programs of this package wrote


def make_run(path: Path) -> None:
    run = RunFolder(path)
    write(path, "samples/step-00000002.png", "pipeline/samples.png")
    run.config.write_text("data:\n  source: pets\n")
    run.environment.write_text("{}")
    (run.pipeline / "model_index.json").write_text("{}")
    run.checkpoint(2).mkdir(parents=True)


def samples(count: int) -> SampleBatch:
    return SampleBatch(images=np.zeros((count, 2, 2, 1), np.uint8), class_labels=[0] * count, seeds=list(range(count)))


@pytest.mark.parametrize("place", ["runs/a", "a", "cat", "."])
def test_a_run_is_not_data_wherever_it_lies(folder, place):
    """Also where the output folder is a class folder or the data folder itself."""
    write(folder, "cat/0.png", "dog/0.png", "dog/1.png")
    make_run(folder / place)
    assert classes(folder) == {"cat": 1, "dog": 2}
    assert left_out(folder)["run folders"] == 1


def test_a_run_alone_is_not_data(folder):
    make_run(folder)
    assert "holds nothing to read, only run folders: 1, written by this package" in refusal(folder)


def test_a_folder_with_a_config_of_its_own_is_data(folder):
    write(folder, "samples/0.png", "others/0.png")
    (folder / "config.yaml").write_text("{}")
    assert classes(folder) == {"others": 1, "samples": 1}


@pytest.mark.parametrize(
    ("place", "names"), [("model", ["model_index.json"]), ("w", ["sweep.yaml", "cells/a.json"])], ids=["model", "sweep"]
)
def test_saved_models_and_sweeps_are_not_data(folder, place, names):
    write(folder, "cat/0.png", "dog/0.png", f"{place}/samples.png")
    for name in names:
        (folder / place / name).parent.mkdir(exist_ok=True)
        (folder / place / name).write_text("{}")
    assert classes(folder) == {"cat": 1, "dog": 1}


@pytest.mark.parametrize("labelled", [True, False])
def test_samples_beside_images_are_not_data(folder, labelled):
    write(folder, "cat/0.png", "dog/0.png", "images/grid.png")
    list(save_images([samples(2)], folder / "images", id2label={0: "Kätzchen 1"} if labelled else None))
    assert classes(folder) == {"cat": 1, "dog": 1}
    assert left_out(folder) == {"samples and their grids": 3}


def test_the_grid_beside_an_array_of_samples_is_not_data(folder):
    write(folder, "cat/0.png", "dog/0.png", "images/grid.png")
    save_npz([samples(2)], folder / "images")
    assert classes(folder) == {"cat": 1, "dog": 1}


def test_samples_and_their_classes_beside_images_are_not_data(folder):
    write(folder, "cat/0.png", "dog/0.png", "new-grid.png")
    list(save_images([samples(2)], folder / "new", id2label={0: "emu"}))
    save_metadata([samples(2)], folder / "new", id2label={0: "emu"})
    assert classes(folder) == {"cat": 1, "dog": 1}
    assert left_out(folder) == {"samples and their grids": 3}


def test_folders_of_samples_are_data_without_the_grids_beside_them(folder):
    write(folder, "cat-grid.png", "dog-grid.png")
    for name in ("cat", "dog"):
        list(save_images([samples(2)], folder / name, id2label={0: name}))
        save_metadata([samples(2)], folder / name, id2label={0: name})
    assert classes(folder) == {"cat": 2, "dog": 2}


def test_samples_alone_are_data_without_their_grid(folder):
    write(folder, "grid.png")
    list(save_images([samples(3)], folder))
    assert len(find_files(folder, "pets").images) == len(open_source(str(folder), "train").dataset) == 3


# Single images that are there in name only


@pytest.mark.parametrize("kind", ["link", "loop", "pipe", "name"])
def test_a_file_that_is_not_there_is_named_or_skipped_like_a_bad_image(folder, kind, caplog):
    write(folder, "cat/0.png", "dog/0.png", "dog/1.png")
    bad = folder / "cat" / "1.png"
    if kind == "pipe":
        os.mkfifo(bad)
    elif kind == "name":
        shutil.copy(folder / "cat" / "0.png", os.fsencode(folder / "cat") + b"/\xff.png")
    else:
        bad.symlink_to({"link": "/nowhere/1.png", "loop": "1.png"}[kind])
    reasons = {"pipe": "not a regular file", "name": "its name is not UTF-8, rename it"}
    message = refusal(folder)
    assert reasons.get(kind, "which leads nowhere") in message and ".png')" in message
    assert "replace or remove it" in message
    table = load_images(str(folder), "train", image_size=2, on_bad_image="skip")
    assert len(table) == 3 and [each.count for each in table.left_out] == [1]
    assert ".png') cannot be decoded" in caplog.text


# Arrays


def test_arrays_are_images_unless_there_are_image_files(folder):
    for name in ("cat/0.npy", "dog/1.NPY", "dog/2.npy"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with (folder / name).open("wb") as file:
            np.save(file, np.full((2, 2), 200, dtype=np.uint8))
    assert classes(folder) == {"cat": 1, "dog": 2} and left_out(folder) == {}
    (folder / "metadata.csv").write_text("file_name,label\ncat/0.npy,x\ndog/1.NPY,y\ndog/2.npy,y\n")
    assert classes(folder) == {"x": 1, "y": 2}
    (folder / "metadata.csv").unlink()
    np.save(folder / "dog" / "00000_label-dog_seed-0.npy", np.full((2, 2), 200, dtype=np.uint8))
    assert classes(folder) == {"cat": 1, "dog": 2} and left_out(folder) == {"samples and their grids": 1}
    (folder / "dog" / "00000_label-dog_seed-0.npy").unlink()
    write(folder, "cat/0.png", "dog/0.png")
    assert classes(folder) == {"cat": 1, "dog": 1} and left_out(folder) == {"files .npy": 2, "files .NPY": 1}
