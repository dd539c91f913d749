"""Import torch and diffusers without what programs do not use: `load_libraries()`, then the other imports."""

from __future__ import annotations

import contextlib
import gc
import importlib
import sys
from collections.abc import Iterator
from typing import cast

from hf_ddpm.runtime.progress import Progress

DIFFUSERS = ("diffusers.models.unets.unet_2d", "diffusers.pipelines.pipeline_utils")
"""Modules that import all of diffusers that the programs use."""
UNUSED = ("transformers", "torchvision")
"""Packages that diffusers imports where they are installed, for pipelines of other kinds than those here."""


def load_libraries(*also_unused: str) -> None:
    """Import torch and diffusers, but for what this program has no use for, and say so if it takes long.

    Diffusers then works as it does where `UNUSED` and the packages `also_unused` are not installed. Later imports of these
    packages are as usual. Does nothing if diffusers is imported already.
    """
    if DIFFUSERS[-1] in sys.modules:
        return
    with Progress("loading torch and diffusers"), few_collections():
        importlib.import_module("torch")  # with everything that it finds
        with _hidden(*UNUSED, *also_unused):
            for module in DIFFUSERS:
                importlib.import_module(module)
    gc.freeze()  # thousands of modules, which neither later collections nor the last one need to look through


@contextlib.contextmanager
def few_collections() -> Iterator[None]:
    """Keep the garbage collector from running while modules are imported: a quarter of the time, and nothing is garbage."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextlib.contextmanager
def _hidden(*packages: str) -> Iterator[None]:
    """Let packages that are not imported yet look as if they were not installed."""
    hidden = [name for name in packages if name not in sys.modules]
    # None: `find_spec` finds nothing, and an import raises ModuleNotFoundError.
    cast("dict[str, None]", sys.modules).update(dict.fromkeys(hidden))
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
