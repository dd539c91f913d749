"""Compare the options of a checkpoint with those of the run that resumes it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from hf_ddpm.data.stream import ImageStream
from hf_ddpm.data.table import ImageTable
from hf_ddpm.training.run import Run

# Another network, forward process or data set: the saved weights and moments would not fit.
_FATAL = (
    "model.", "schedule.", "objective.prediction_type", "null_label", "data.image_size", "data.condition",
    "data.condition_range", "seed",
    "method", "guidance_scale", "num_inference_steps", "teacher_sha256",  # of a distillation
    "objects.network", "objects.network_config.",
)  # fmt: skip
_FATAL_EXCEPT = ("model.gradient_checkpointing",)
_ALLOWED = (
    "output_dir",
    "resume",
    "teacher",  # its weights are compared
    "max_train_steps",
    "num_train_epochs",
    "logging.",
    "evaluation.",
    "checkpoint.",
    "ema.snapshot_every_steps",  # for which the checkpoint needs the averages, see `GeneratorState.load`
    "ema.max_snapshots",
    "data.source",
    "data.test_split",
    "data.on_bad_image",
    "data.max_bad_images",
    "data.channels",  # a change of the pixels changes the fingerprint
    "data.value_range",
    "data.pixel_type",
    "data.resize",
    "data.labels",  # other classes, too
    "data.streaming",  # a stream has another fingerprint
    "hub.",
    "objects.dataset",  # its images and labels are those of the fingerprint
    "objects.callbacks",
    "min_accuracy",
    "num_threads",  # the bits depend on their number in the environment
)

# What checkpoints of earlier versions do not record, with what those versions did.
_EARLIER = {"model.architecture": "unet", "randomness_version": 1, "data.vertical_flip": False, "data.condition": "class"}
# Values that checkpoints of earlier versions have, with what they are called now.
_RENAMED = {"compile": {"False": "none", "True": "full"}}


def check_changes(
    saved: dict[str, Any], current: dict[str, Any], earlier_reading: Callable[[], list[str]] = list
) -> list[str]:
    """Warnings about a run that would not continue exactly; a `ValueError` lists differences that make it another model.

    `earlier_reading` is called if the data differ, see `describe_earlier_reading`.
    """
    before, now = _flatten(saved), _flatten(current)
    before = {name: did for name, did in _EARLIER.items() if name in now} | before
    before |= {name: names.get(str(before[name]), before[name]) for name, names in _RENAMED.items() if name in before}
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


def total_batch_of(identity: dict[str, Any]) -> int:
    """Images per optimizer step of the run that saved a checkpoint, of all processes and micro-steps."""
    micro_steps = identity["optim"].get("gradient_accumulation_steps", 1)
    return identity["data"]["batch_size"] * micro_steps * identity["environment"]["num_processes"]


def describe_total_batch(before: int, run: Run) -> str:
    """Say where a run ends that continues with another number of images per optimizer step."""
    end = f"step {run.total_steps}"
    if run.config.num_train_epochs is not None:
        end = f"{run.length}, now at {end}"
    elif run.images.num_images is not None:
        images = run.first_image + (run.total_steps - run.first_step) * run.total_batch_size
        end = f"{end}, now after {images / run.images.num_images:.2f} epochs"
    return f"{run.total_batch_size} images per step instead of {before}: the run still ends at {end}"


def describe_learning_rate(before: Any, now: float, run: Run) -> str | None:
    """Say that the next learning rate is not the one that the checkpoint had in view; None = it is, or it is not known."""
    if not isinstance(before, float) or math.isclose(before, now, rel_tol=1e-3):
        return None
    change, schedule = "rises" if now > before else "falls", run.config.optim.lr_scheduler
    where = f"at step {run.first_step + 1}, as its schedule is now {schedule} over {run.length}"
    return f"the learning rate {change} from {before:.4g} to {now:.4g} {where}"


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
