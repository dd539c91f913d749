"""A folder of generated images alone, one file each or one npz: `sample_to_folder(pipeline, labels, folder, ...)`.

The grid is a file elsewhere, so that programs which read every image of a folder read the samples. A metadata.jsonl names
the class of each file, as `load_dataset("imagefolder", data_dir=folder)` and `--data.source` read it.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from accelerate import PartialState

from hf_ddpm.figures.grids import grid_positions, image_grid
from hf_ddpm.figures.view import chosen_channels, to_view
from hf_ddpm.image_shape import PIL_IMAGES
from hf_ddpm.markdown import counted
from hf_ddpm.pipeline import Condition, require
from hf_ddpm.runtime.distributed import any_process_stopped, gather, shard
from hf_ddpm.runtime.files import write_whole
from hf_ddpm.runtime.lock import OutputLock, is_free
from hf_ddpm.runtime.pictures import save_image
from hf_ddpm.runtime.signals import Stopped, stop_requests
from hf_ddpm.sampling import ImagePipeline, RandomNumbers, SampleBatch, condition_name, generate, image_shape_of
from hf_ddpm.text import file_safe

FileFormat = Literal["png", "npy", "npz"]


def sample_to_folder(
    pipeline: ImagePipeline,
    class_labels: Sequence[Condition | None],
    folder: Path,
    *,
    processes: PartialState,
    seed: int = 0,
    batch_size: int = 64,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    eta: float | None = None,
    guidance: str | None = None,
    guidance_interval: tuple[float, float] | None = None,
    rng: RandomNumbers = "torch",
    file_format: FileFormat | None = None,
    grid: Path | None = None,
    row_length: int | None = None,
    view_channels: Sequence[int] | None = None,
) -> None:
    """Generate one image for each label into a new or empty folder; for other options see `generate`.

    Every process must call it and generates its share. A signal in any process stops all after a batch, keeps the files so
    far and raises `Stopped`.

    Args:
        file_format: see `choose_format`; samples.npz is written by the first process at the end.
        grid: file of a picture of the images in a grid, outside the folder; None = no grid.
        row_length: images per row of the grid, all of one class, which names the row; None = a square without names.
        view_channels: those that the grid shows, see `to_view`.
    """
    file_format = choose_format(pipeline, file_format)
    chosen_channels(image_shape_of(pipeline)[0], view_channels)
    labels = list(class_labels)
    mine = shard(len(labels), processes)
    batches = generate(
        pipeline,
        class_labels=labels[mine],
        seed=seed + mine.start,
        batch_size=batch_size,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        eta=eta,
        guidance=guidance,
        guidance_interval=guidance_interval,
        rng=rng,
        progress=True,
    )
    with OutputLock(folder, processes) as lock, stop_requests("sampling ends after this batch") as stop:
        lock.take(partial(_check_free, folder))
        options: dict[str, Any] = {"id2label": pipeline.id2label, "suffix": f".{file_format}"}
        if file_format != "npz":
            batches = save_images(batches, folder, first_position=mine.start, **options)
        done: list[SampleBatch] = []
        largest_share = math.ceil(len(labels) / processes.num_processes)
        for _ in range(math.ceil(largest_share / batch_size)):  # in every process equally often
            done += itertools.islice(batches, 1)
            if signal_number := any_process_stopped(stop, processes):
                del batches  # and their progress bar
                count = sum(len(batch.images) for batch in done) if file_format != "npz" else 0
                raise Stopped(signal_number, f"stopped: {count} of {len(labels[mine])} images are in {folder}")
        everything = gather([*done, *batches], processes)  # none are left, but this finishes the bar
        if processes.is_main_process:
            if file_format == "npz":
                save_npz(everything, folder, num_labels=pipeline.num_classes)
            elif labels[0] is not None:
                save_metadata(everything, folder, **options)
            if grid is not None:
                names = (
                    None
                    if row_length is None
                    else [condition_name(label, pipeline.id2label) for label in labels[::row_length]]
                )
                positions, columns = grid_positions(len(labels), row_length)
                values = np.concatenate([batch.images for batch in everything])[positions]
                images = to_view(values, pipeline.value_range, view_channels)
                write_whole(grid, image_grid(images, columns=columns, row_names=names).save)


def choose_format(pipeline: ImagePipeline, given: FileFormat | None) -> FileFormat:
    """The format of samples, None = PNG if it can hold them, else npy; a `ValueError` for PNG if it cannot.

    `png`: one PNG file per image, `npy`: one array (H, W, C) per image, `npz`: one samples.npz.
    """
    pixel_type, channels = pipeline.pixel_type, image_shape_of(pipeline)[0]
    fits = (pixel_type, channels) in PIL_IMAGES
    kind = f"{counted(channels, 'channel')} of {pixel_type}"
    require(fits or given != "png", "format", given, f"the images have {kind}, which PNG cannot hold, give npy or npz")
    return given or ("png" if fits else "npy")


def save_images(
    batches: Iterable[SampleBatch],
    folder: Path,
    *,
    first_position: int = 0,
    id2label: Mapping[int, str] | None = None,
    suffix: str = ".png",
) -> Iterator[SampleBatch]:
    """Write each batch as files such as `00012_label-7_seed-12.png`, see `save_image`, and pass it on.

    The first number is the image's, counted from `first_position`; `id2label` has class names for the files, None = ids.
    """
    position = first_position
    for batch in batches:
        for image, label, seed in zip(batch.images, batch.class_labels, batch.seeds, strict=True):
            save_image(image, folder / (_file_name(position, label, seed, id2label) + suffix))
            position += 1
        yield batch


def save_metadata(
    batches: Sequence[SampleBatch], folder: Path, *, id2label: Mapping[int, str] | None = None, suffix: str = ".png"
) -> None:
    """Write metadata.jsonl: the `file_name` of each image that `save_images` writes, and its `label`, a class name, a list
    of label names or a number."""
    lines: list[str] = []
    for batch in batches:
        for label, seed in zip(batch.class_labels, batch.seeds, strict=True):
            file_name = _file_name(len(lines), label, seed, id2label) + suffix
            names = [condition_name(each, id2label) for each in (label if isinstance(label, list) else [label])]
            value = names if isinstance(label, list) else label if isinstance(label, float) else names[0]
            lines.append(json.dumps({"file_name": file_name, "label": value}) + "\n")
    write_whole(folder / "metadata.jsonl", "".join(lines))


def save_npz(batches: Sequence[SampleBatch], folder: Path, *, num_labels: int | None = None) -> None:
    """Write samples.npz: `images` (N, H, W, C) as they are, `class_labels` and `seeds` (N,) int64.

    The labels are (N,) int64 (-1 = none), numbers (N,) float64, and sets of labels (N, num_labels) bool.
    """
    labels: list[Any] = [-1 if label is None else label for batch in batches for label in batch.class_labels]
    if isinstance(labels[0], list):
        labels = [[each in label for each in range(num_labels or 0)] for label in labels]
    seeds = np.array([seed for batch in batches for seed in batch.seeds], dtype=np.int64)
    images = np.concatenate([batch.images for batch in batches])
    arrays: dict[str, Any] = {"images": images, "class_labels": np.array(labels), "seeds": seeds}
    write_whole(folder / "samples.npz", lambda path: np.savez_compressed(path, **arrays))


def _check_free(folder: Path) -> None:
    if not is_free(folder):
        raise ValueError(f"output_dir is {str(folder)!r}: there are files in it by now, give a new or an empty folder")


def _file_name(position: int, label: Condition | None, seed: int, id2label: Mapping[int, str] | None) -> str:
    name = "" if label is None else f"_label-{file_safe(condition_name(label, id2label))}"
    return f"{position:05d}{name}_seed-{seed}"
