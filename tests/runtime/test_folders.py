"""Folders are published whole, and whatever happens in between, one is there."""

import os
import shutil

import pytest

from hf_ddpm.models.judge import load_judge
from hf_ddpm.runtime.folders import publish_directory, put_back
from hf_ddpm.sampling import load_pipeline


def write(text: str):
    return lambda directory: (directory / "file").write_text(text)


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()], ids=["disk", "Ctrl-C"])
def test_a_failure_between_the_renames_puts_the_old_one_back(tmp_path, monkeypatch, error):
    path, rename = tmp_path / "pipeline", os.rename
    publish_directory(path, write("old"))

    def fail(source, target):
        if os.fspath(source).endswith(".partial"):
            raise error
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", fail)
        with pytest.raises(type(error)):
            publish_directory(path, write("new"))
    assert (path / "file").read_text() == "old" and [entry.name for entry in tmp_path.iterdir()] == ["pipeline"]
    publish_directory(path, write("new"))
    assert (path / "file").read_text() == "new" and [entry.name for entry in tmp_path.iterdir()] == ["pipeline"]


def test_a_reader_that_puts_the_old_one_back_does_not_stop_the_new_one(tmp_path, monkeypatch):
    path, rename = tmp_path / "pipeline", os.rename
    publish_directory(path, write("old"))
    read = []

    def interrupted(source, target):
        if os.fspath(source).endswith(".partial") and not read:
            read.append(put_back(path))
            assert (path / "file").read_text() == "old"
        rename(source, target)

    monkeypatch.setattr(os, "rename", interrupted)
    publish_directory(path, write("new"))
    assert (path / "file").read_text() == "new" and [entry.name for entry in tmp_path.iterdir()] == ["pipeline"]


def die_between_the_renames(path) -> None:
    path.rename(path.parent / f".{path.name}.replaced")


def test_who_reads_a_pipeline_puts_it_back(tiny_pipeline, tmp_path):
    tiny_pipeline().save_pretrained(tmp_path / "pipeline")
    die_between_the_renames(tmp_path / "pipeline")
    load_pipeline(str(tmp_path / "pipeline"), device="cpu")
    assert [entry.name for entry in tmp_path.iterdir()] == ["pipeline"]


@pytest.mark.parametrize("given", ["run", "run/judge"])
def test_who_reads_a_judge_puts_it_back(tiny_judge, tmp_path, given):
    shutil.copytree(tiny_judge, tmp_path / "run" / "judge")
    die_between_the_renames(tmp_path / "run" / "judge")
    assert load_judge(tmp_path / given).record.source == "digits"


def test_what_is_there_is_not_replaced_by_what_was_set_aside(tmp_path):
    publish_directory(tmp_path / "pipeline", write("old"))
    die_between_the_renames(tmp_path / "pipeline")
    write("new")(tmp_path / ".pipeline.replaced")
    publish_directory(tmp_path / "pipeline", write("newest"))
    assert (tmp_path / "pipeline" / "file").read_text() == "newest"
    for name in ("no such folder", "", "\0", "owner/model"):
        put_back(tmp_path / name)


@pytest.mark.parametrize("target", ["elsewhere", "dangling"])
@pytest.mark.parametrize("link", ["pipeline", ".pipeline.partial", ".pipeline.replaced"])
def test_a_link_is_replaced_and_its_target_stays(tmp_path, link, target):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / link).symlink_to(f"../{target}")
    publish_directory(tmp_path / "run" / "pipeline", write("new"))
    assert (tmp_path / "elsewhere" / "file").read_text() == "mine" and not (tmp_path / "dangling").exists()
    assert [entry.name for entry in (tmp_path / "run").iterdir()] == ["pipeline"]
    assert not (tmp_path / "run" / "pipeline").is_symlink()
    assert (tmp_path / "run" / "pipeline" / "file").read_text() == "new"
