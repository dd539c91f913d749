"""Compare the options of a checkpoint with those of the run that resumes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hf_ddpm.data.stream import ImageStream
from hf_ddpm.data.table import ImageTable

# Another network, forward process or data set: the saved weights and moments would not fit.
_FATAL = ("model.", "schedule.", "objective.prediction_type", "null_label", "data.image_size", "seed")
_FATAL_EXCEPT = ("model.gradient_checkpointing",)
_ALLOWED = (
    "output_dir",
    "resume",
    "max_train_steps",
    "num_train_epochs",
    "logging.",
    "evaluation.",
    "checkpoint.",
    "data.source",
    "data.test_split",
    "data.on_bad_image",
    "data.max_bad_images",
    "data.channels",  # a change of the pixels changes the fingerprint
    "data.value_range",
    "data.labels",  # other classes, too
    "data.streaming",  # a stream has another fingerprint
    "hub.",
    "min_accuracy",
)

# Options that checkpoints of earlier versions do not have, with what those versions did.
_EARLIER = {"model.architecture": "unet"}


def check_changes(
    saved: dict[str, Any], current: dict[str, Any], earlier_reading: Callable[[], list[str]] = list
) -> list[str]:
    """Warnings about a run that would not continue exactly; a `ValueError` lists differences that make it another model.

    `earlier_reading` is called if the data differ, see `describe_earlier_reading`.
    """
    before, now = _flatten(saved), _flatten(current)
    before = {name: did for name, did in _EARLIER.items() if name in now} | before
    changed = [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]
    fatal = [name for name in changed if _matches(name, (*_FATAL, "data_fingerprint")) and name not in _FATAL_EXCEPT]
    if fatal:
        listed = "; ".join(f"{name} was {before.get(name)!r} and is {now.get(name)!r}" for name in fatal)
        remedy = "undo that or name a new --output_dir"
        if "data_fingerprint" in fatal and (differences := earlier_reading()):
            remedy += f" (earlier versions {', and '.join(differences)})"
        raise ValueError(f"--resume: the checkpoint is of another run, {listed}: {remedy}")
    warned = [name for name in changed if not _matches(name, _ALLOWED)]
    return [f"{name} was {before.get(name)!r} and is now {now.get(name)!r}" for name in warned]


def describe_earlier_reading(saved: dict[str, Any], channels: int | None, images: ImageTable | ImageStream) -> list[str]:
    """How earlier versions read these images where it differs, with the options that read them so again.

    `saved` is the identity in the checkpoint, and `channels` an option of the run.
    """
    differences, originals = [], images.originals
    if originals is not None and originals.num_gray and originals.num_colour and channels is None:
        differences.append("took the channels of the first image: if that is gray, add --data.channels 1")
    if isinstance(images, ImageTable) and images.class_names is not None:
        names = sorted(images.class_names)
        if images.in_class_order(names).fingerprint == saved["data_fingerprint"]:
            differences.append(f"sorted numbers as text: add --data.labels '[{', '.join(names)}]'")
    return differences


def describe_other_processes(before: int, now: int, streaming: bool) -> str:
    """Say what stays exact when a run continues with another number of processes."""
    order = (
        "each process continues near its part of the stream, so that some images of the epoch are seen twice or not at all"
    )
    if not streaming:
        order = "each image of the epoch is still seen once, with the same noise and timestep if the total batch is the same"
    return f"{now} processes instead of {before}: {order}; sums are rounded differently, and dropout masks are others"


def _matches(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or (prefix.endswith(".") and name.startswith(prefix)) for prefix in prefixes)


def _flatten(options: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, dict) and value:
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = list(value) if isinstance(value, tuple) else value
    return flat
