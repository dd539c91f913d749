"""What of a saved pipeline is published: `pipeline_files(folder)`. Only regular files within the folder are ever read.

- The pipeline: model_index.json, its code, and weights, configs and code of its components.
- Its card: README.md, samples.png, .eval_results/.
- What a user has put beside them: JSON, YAML, code, Markdown, pictures and a LICENSE, but no further folders.

Everything else stays where it is, hidden files and the files of a run or of a checkpoint above all. A link out of the folder
is refused, because its target may be private.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open

from hf_ddpm.hub.card import EVAL_RESULTS
from hf_ddpm.hub.facts import PipelineFacts, read_pipeline
from hf_ddpm.run_folder import RunFolder

TEXTS = {".json", ".md", ".py", ".yaml"}
PUBLISHED = TEXTS | {".gif", ".jpeg", ".jpg", ".png", ".webp", ".safetensors"}
LICENSES = ("LICENSE", "NOTICE")
PICKLED = {".bin", ".ckpt", ".pkl", ".pt", ".pth"}
MAX_LISTED = 10
"""Names of files that are not published in a message."""
_TOKEN = re.compile(rb"\bhf_[A-Za-z0-9]{30,}\b")

logger = logging.getLogger(__name__)


def pipeline_files(folder: Path) -> dict[str, Path]:
    """Find the files that are published, by path in the repository; the log names those that are not.

    A ValueError refuses a folder that is not a saved pipeline, whose weights are not whole or not safetensors, that lacks
    the network's code, or has a link out of it.
    """
    pipeline = read_pipeline(folder)
    found, others = {}, []
    for path in _visible_entries(folder, pipeline):
        name = path.relative_to(folder).as_posix()
        if _is_published(path, folder):
            _check_place(path, folder)
            if not path.is_file():
                raise ValueError(f"--model is {str(folder)!r}: {name} is not a file, remove it")
            found[name] = path
        elif not (path.is_dir() and name in (*pipeline.components, EVAL_RESULTS)):
            others.append(name)
    _check_whole(folder, pipeline, found)
    if others:
        more = f" and {len(others) - MAX_LISTED} more" if len(others) > MAX_LISTED else ""
        logger.info("not published from %s: %s%s", folder, ", ".join(others[:MAX_LISTED]), more)
    return found


def check_tokens(folder: Path, contents: Mapping[str, Path | bytes]) -> None:
    """Raise a `ValueError` if a text to be published, by path in the repository, contains an access token of the Hub."""
    for name, content in contents.items():
        if Path(name).suffix.lower() in TEXTS:
            text = content if isinstance(content, bytes) else content.read_bytes()
            if _TOKEN.search(text):
                raise ValueError(f"--model is {str(folder)!r}: {name} contains an access token of the Hub, remove it")


def _visible_entries(folder: Path, pipeline: PipelineFacts) -> Iterator[Path]:
    """All that is in the folder, in its components and in .eval_results/, without what is hidden."""
    parents = [folder / name for name in (*pipeline.components, EVAL_RESULTS)]
    for parent in parents:
        _check_place(parent, folder)
    for path in (*sorted(folder.iterdir()), *(path for parent in parents for path in sorted(parent.rglob("*")))):
        parts = path.relative_to(folder).parts
        if not any(part.startswith(".") for part in parts if part != EVAL_RESULTS):
            yield path


def _is_published(path: Path, folder: Path) -> bool:
    run = RunFolder(folder)
    if path in (run.config, run.environment, run.data, folder / "manifest.json") or (
        path.is_dir() and not path.is_symlink()
    ):
        return False
    # A link is judged by its name, so that one to something private is refused rather than left out.
    return path.suffix.lower() in PUBLISHED or path.name in LICENSES


def _check_place(path: Path, folder: Path) -> None:
    """Raise a `ValueError` for a link out of the folder or to a hidden file; the Hub's cache consists of links to blobs."""
    root, target = (Path(os.path.realpath(place)) for place in (folder, path))
    blobs = root.parents[1] / "blobs" if root.parent.name == "snapshots" else root
    if target.is_relative_to(root):
        is_private = any(part.startswith(".") for part in target.relative_to(root).parts if part != EVAL_RESULTS)
    else:
        is_private = not target.is_relative_to(blobs)
    if is_private:
        name, remedy = path.relative_to(folder).as_posix(), "put a copy in its place, or remove it"
        raise ValueError(f"--model is {str(folder)!r}: {name} is a link to {target}, which may be private: {remedy}")


def _check_whole(folder: Path, pipeline: PipelineFacts, found: dict[str, Path]) -> None:
    """Raise a `ValueError` unless the weights of every component and the code of its network are among the files."""
    remedy = "load the pipeline and save it again with save_pretrained"
    fault = None
    if pipeline.names_code and "pipeline.py" not in found:
        fault = "the pipeline's code, pipeline.py, is missing"
    if pipeline.network_code is not None and pipeline.network_code not in found:
        fault = f"the network's code, {pipeline.network_code}, is missing"
    for component in pipeline.components:
        names = {name for name in found if name.startswith(f"{component}/")}
        has_weights = any(name.endswith(".safetensors") for name in names)
        if not names or (f"{component}/config.json" in names and not has_weights):
            pickled = any(path.suffix in PICKLED for path in (folder / component).glob("*"))
            fault = f"the weights in {component}/ are {'not safetensors' if pickled else 'missing'}"
    for name, path in found.items():
        if path.suffix == ".safetensors":
            try:
                with safe_open(path, framework="numpy"):
                    pass
            except (SafetensorError, OSError):
                fault = f"{name} is damaged, it is not whole or not in the safetensors format"
    if fault is not None:
        raise ValueError(f"--model is {str(folder)!r}: {fault}: {remedy}")
