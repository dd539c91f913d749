"""Headless Chromium and a web server on this machine, for the tests of the page that `hf-ddpm export-web` writes."""

from __future__ import annotations

import contextlib
import functools
import http.server
import importlib.util
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
REQUIRED = "HF_DDPM_REQUIRE_BROWSER"
"""In the environment: what is missing is a failure."""
WAIT = 120_000
"""Milliseconds for a page to load and to generate: a busy machine is slow."""


def lack(what: str) -> None:
    """Skip the test for want of something, or fail it where it is required."""
    if os.environ.get(REQUIRED):
        pytest.fail(f"{what}, and {REQUIRED} is set")
    pytest.skip(f"{what}: see tests/README.md")


def export(pipeline: Any, folder: Path, **options: Any) -> None:
    """`export_site`; the test is skipped if onnxruntime-web cannot be downloaded."""
    from hf_ddpm.web.site import export_site

    try:
        export_site(pipeline, folder, **options)
    except OSError as error:
        lack(f"no onnxruntime-web: {error}")


@contextlib.contextmanager
def open_browser() -> Iterator[Any]:
    """A browser of playwright; without one the test is skipped."""
    found = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if found is None:
        lack("there is no Chromium")
    if importlib.util.find_spec("playwright") is None:
        lack("playwright is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        # Root, as in a container, cannot have the sandbox of Chromium, and little shared memory.
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[str]:
    """The address at which the files of a folder are served."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def wait_for(page: Any, text: str, place: str = "#status") -> None:
    """Wait until a part of the page has this text; a problem that it says instead fails the test."""
    trouble = page.locator("#problem:not(:empty)")
    page.locator(place, has_text=text).or_(trouble).first.wait_for(timeout=WAIT)
    assert text in page.locator(place).inner_text(), trouble.inner_text()


def pictures_on(page: Any, canvas: str, count: int, height: int, width: int) -> np.ndarray:
    """The first pictures on a canvas of the page, (count, height, width, 3) uint8."""
    read = """canvas => { const {width, height} = canvas;
        return [width, height, Array.from(canvas.getContext("2d").getImageData(0, 0, width, height).data)]; }"""
    wide, high, values = page.locator(canvas).evaluate(read)
    pixels = np.array(values, dtype=np.uint8).reshape(high, wide, 4)[..., :3]
    columns = (wide + 1) // (width + 1)
    corners = [(i // columns * (height + 1), i % columns * (width + 1)) for i in range(count)]
    return np.stack([pixels[top : top + height, left : left + width] for top, left in corners])
