"""What programs check before they import torch, which takes seconds: `check_model("runs/digits/pipeline")`.

Every check is made again where its value is used. A `ValueError` says what is wrong.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path
from unicodedata import normalize

from hf_ddpm.commandline.commands import as_typed
from hf_ddpm.commandline.names import nearest
from hf_ddpm.config import GIVEN_IN_PYTHON
from hf_ddpm.run_folder import RunFolder
from hf_ddpm.runtime.folders import put_back
from hf_ddpm.runtime.lock import is_free
from hf_ddpm.runtime.reading import read_json

SCHEDULER_NAMES = (
    "ddpm", "ddim", "dpmsolver++", "dpmsolver++_single", "deis", "unipc", "euler", "euler_ancestral", "heun", "kdpm2",
    "kdpm2_ancestral", "lms", "pndm", "dpmsolver_sde",
)  # fmt: skip
"""The keys of `hf_ddpm.schedulers.SCHEDULERS`."""
FORMAT_NAMES = ("arrow", "csv", "imagefolder", "json", "parquet", "text", "webdataset")
FEATURES = "give inception, dinov2, dinov2:HUB_ID_OR_FOLDER or judge:FOLDER"


def check_model(model: str, argument: str = "model") -> None:
    """Refuse a model that is neither the folder of a pipeline nor an id on the Hub; the message names the argument."""
    folder = Path(model)
    put_back(folder)
    if not folder.is_dir():
        # A Hub id has one slash, and the part before it is not a local folder.
        if model.count("/") != 1 or model[0] in "./~" or folder.parent.is_dir():
            raise ValueError(f"{argument} is {model!r}: no such folder exists")
    elif not (folder / "model_index.json").is_file():
        run = RunFolder(folder)
        models = [run.pipeline, *reversed(run.checkpoints().values())]
        found = [path for path in models if (path / "model_index.json").is_file()]
        remedy = f"this is a run directory, give {found[0]}" if found else "the folder has no model_index.json"
        raise ValueError(f"{argument} is {model!r}: {remedy}")


def check_class_labels(model: str, class_labels: Iterable[str | int]) -> None:
    """Refuse a class that a local pipeline does not have; what its model_index.json does not say is checked later."""
    try:
        index = read_json(Path(model) / "model_index.json")
        if index.get("unet", ["", ""])[1] == "ConditionUNet":  # sets of labels, or numbers
            return
        names = index["id2label"]
        known = [*map(str, names.values()), *names]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return
    for label in class_labels:
        if normalize("NFC", str(label)) not in (normalize("NFC", name) for name in known):
            near = " or ".join(nearest(str(label), known)) or ", ".join(known[:10])
            kind = "id" if isinstance(label, int) else "name"
            raise ValueError(f"class_labels is {label!r}: no such {kind}, nearest: {near}")


def grid_beside(folder: Path) -> Path:
    """File of the grid of a folder of images, which is beside it."""
    folder = folder.resolve() if folder.name in ("", "..") else folder
    return folder.with_name(f"{folder.name}-grid.png")


def check_free(folder: Path) -> None:
    """Refuse a folder for images that has files in it, or whose grid exists."""
    if not is_free(folder):
        raise ValueError(f"output_dir is {str(folder)!r}: give a new or an empty folder")
    if (grid := grid_beside(folder)).exists():
        raise ValueError(
            f"output_dir is {str(folder)!r}: the file of its grid exists, {grid}: remove it, or give another folder"
        )


def check_scheduler(name: str) -> None:
    """Refuse a scheduler with an unknown name, or without the library that it needs."""
    if name not in SCHEDULER_NAMES:
        near = " or ".join(nearest(name, SCHEDULER_NAMES))
        hint = f"; did you mean {near}?" if near else ""
        raise ValueError(f"scheduler is {name!r}: give one of {', '.join(SCHEDULER_NAMES)}{hint}")
    if name == "dpmsolver_sde" and importlib.util.find_spec("torchsde") is None:
        raise ValueError(f"scheduler is {name!r}: its noise comes from torchsde, pip install torchsde or give another")


def needs_scipy(model: str, scheduler: str | None) -> bool:
    """Whether sampling may need scipy: for the scheduler lms, or for a saved one that is not of the kinds trained here."""
    try:
        index = read_json(Path(model) / "model_index.json")
        saved = index["generator" if "generator" in index else "scheduler"][1]
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return True
    return scheduler == "lms" or saved not in ("DDPMScheduler", "DCGANGenerator")


def check_source(source: str) -> None:
    """Refuse data that is neither digits, a folder, nor an id on the Hub."""
    if source == "digits" or (source and Path(source).expanduser().exists()):
        return
    if source == GIVEN_IN_PYTHON:
        raise ValueError(f"source is {source!r}: only the program that gave these images has them, name them as a folder")
    # load_dataset("imagefolder") and the like would read the files of the current folder.
    if not source or source.startswith((".", "/", "~")) or source.count("/") > 1 or source in FORMAT_NAMES:
        raise ValueError(f"source is {source!r}, which is not an existing folder: give a folder, a Hub id or 'digits'")


def check_features(features: str) -> None:
    """Refuse features with an unknown name, or of a judge that does not exist."""
    kind, _, place = features.partition(":")
    if features not in ("inception", "dinov2") and not (kind in ("dinov2", "judge") and place):
        raise ValueError(f"features is {features!r}: {FEATURES}")
    if kind != "judge":
        return
    put_back(Path(place))
    if not Path(place).is_dir():
        raise ValueError(f"judge {place!r}: no such folder, give one written by {as_typed('hf-ddpm judge')}")


def check_measurement(*, model: str | None, features: str, schedulers: Iterable[str | None], source: str | None) -> None:
    """Refuse a measurement of what does not exist; None = not named."""
    if model is not None:
        check_model(model)
    check_features(features)
    for name in filter(None, schedulers):
        check_scheduler(name)
    if source is not None:
        check_source(source)


def check_trackers(trackers: Sequence[str]) -> None:
    """Refuse a tracker whose package is not installed."""
    for tracker in trackers:
        if importlib.util.find_spec(tracker) is None:
            raise ValueError(f'--logging.trackers: {tracker} is not installed, pip install "hf_ddpm[track]" or {tracker}')
