"""What a user has put into a folder stays when the folder is published anew."""

import os
from pathlib import Path

import pytest

from hf_ddpm.runtime import additions
from hf_ddpm.runtime.additions import keep_additions


@pytest.fixture(params=["links", "copies"])
def folders(tmp_path, request, monkeypatch) -> tuple[Path, Path]:
    if request.param == "copies":  # as on a file system without hard links

        def refuse(*paths, **options):
            raise PermissionError

        monkeypatch.setattr(additions.os, "link", refuse)
    for name in ("old", "new"):
        (tmp_path / name / "unet").mkdir(parents=True)
        (tmp_path / name / "model_index.json").write_text(name)
    return tmp_path / "old", tmp_path / "new"


def test_files_folders_and_links_that_the_new_one_lacks_are_kept(folders):
    old, new = folders
    (old / "images" / "more").mkdir(parents=True)
    (old / "images" / "more" / "a.png").write_text("picture")
    (old / ".env").write_text("private")
    (old / ".env").chmod(0o600)
    (old / "link").symlink_to("/nowhere")
    (old / "unet" / "shard.safetensors").write_text("of the old weights")
    (old / "README.md").write_text("old card")
    keep_additions(old, new, replaced=("README.md",))
    assert sorted(path.name for path in new.iterdir()) == [".env", "images", "link", "model_index.json", "unet"]
    assert (new / "model_index.json").read_text() == "new"
    assert (new / "images" / "more" / "a.png").read_text() == "picture"
    assert (new / ".env").stat().st_mode & 0o777 == 0o600
    assert os.readlink(new / "link") == "/nowhere"
    assert list((new / "unet").iterdir()) == []


def test_nothing_is_kept_of_what_is_not_there(tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "file").write_text("")
    for old in ("nothing", "file"):
        keep_additions(tmp_path / old, tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_pipe_is_kept_without_opening_it(tmp_path):
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    os.mkfifo(tmp_path / "old" / "pipe")
    keep_additions(tmp_path / "old", tmp_path / "new")
    assert (tmp_path / "new" / "pipe").is_fifo()
