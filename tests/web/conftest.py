"""A tiny model as a web site, exported once, and the engine that its page needs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from browsing import lack, open_browser, serve

from hf_ddpm.web.engine import engine_files
from hf_ddpm.web.site import export_site


@pytest.fixture(scope="session")
def engine_dir(tmp_path_factory) -> Path:
    """Folder like that of the npm package onnxruntime-web."""
    folder = tmp_path_factory.mktemp("npm") / "package"
    (folder / "dist").mkdir(parents=True)
    try:
        files = engine_files()
    except OSError as error:
        lack(f"no onnxruntime-web: {error}")
    for file in files.values():
        shutil.copy(file, folder / "dist")
    (folder / "package.json").write_text('{"version": "1.30.0"}')
    return folder


@pytest.fixture(scope="session")
def pipeline(tiny_pipeline):
    """A model of three classes, one of them with a name that needs quotes."""
    return tiny_pipeline(names=("cat", "great dane", "<b>frog</b>"))


@pytest.fixture(scope="session")
def site(pipeline, engine_dir, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("web")
    pipeline.save_pretrained(folder / "model")
    export_site(pipeline, folder / "site", model=str(folder / "model"), title="Three pets", engine_dir=engine_dir)
    return folder / "site"


@pytest.fixture(scope="session")
def browser():
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="session")
def address(site):
    with serve(site) as served:
        yield served
