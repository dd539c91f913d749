"""A folder of edited images, PNG files, and a grid beside it: `edit_to_folder(config)`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hf_ddpm.data.batches import to_unit_range
from hf_ddpm.diffusion.randomness import image_generator
from hf_ddpm.editing.inputs import find_images, read_images, read_mask
from hf_ddpm.editing.options import EditConfig, ImagesConfig, ImageToImageConfig, InpaintConfig, InterpolateConfig
from hf_ddpm.editing_pipeline import CFGDDPMEditingPipeline
from hf_ddpm.figures.grids import MAX_COLUMNS, image_grid
from hf_ddpm.figures.samples import load_editing_pipeline
from hf_ddpm.figures.view import chosen_channels, to_view
from hf_ddpm.first_checks import check_free
from hf_ddpm.image_shape import PIL_IMAGES
from hf_ddpm.pipeline import Condition, require
from hf_ddpm.runtime.files import write_whole
from hf_ddpm.runtime.lock import OutputLock
from hf_ddpm.runtime.pictures import save_image
from hf_ddpm.runtime.progress import Progress
from hf_ddpm.runtime.signals import Stopped, stop_requests
from hf_ddpm.sampling import default_guidance_scale, image_shape_of, pixel_options, resolve_labels, values_of
from hf_ddpm.text import file_safe

MAX_ROWS = 32
"""Images whose edits are shown in the grid."""
HIDDEN = 127
"""Gray in which the grid shows what is repainted."""
Pixels = np.ndarray[Any, Any]


def edit_to_folder(config: EditConfig) -> int:
    """Edit images into a new or empty folder, and write the grid; return their number.

    A signal stops after a batch, keeps the files so far and raises `Stopped`. A `ValueError` names a wrong option.
    """
    scheduler, folder = config.scheduler, Path(config.output_dir)
    if isinstance(config, InterpolateConfig) and config.images is None:
        scheduler = scheduler or "ddim"
    pipeline = load_editing_pipeline(config.model, scheduler=scheduler, device=config.device)
    if isinstance(config, InterpolateConfig):
        names, batches, rows = _interpolation(pipeline, config)
    else:
        assert isinstance(config, ImagesConfig)
        names, batches, rows = _edits_of_images(pipeline, config)
    channels = image_shape_of(pipeline)[0]
    suffix = ".png" if (pipeline.pixel_type, channels) in PIL_IMAGES else ".npy"
    chosen_channels(channels, config.view_channels)
    with OutputLock(folder) as lock, stop_requests("editing ends after this batch") as stop:
        lock.take(partial(check_free, folder))
        edits: list[Pixels] = []
        with Progress("edits", len(names), "image") as bar:
            for batch in batches:
                for image in batch:
                    save_image(image, folder / (names[len(edits)] + suffix))
                    edits.append(image)
                bar.advance(len(batch))
                if stop.signal_number:
                    raise Stopped(stop.signal_number, f"stopped: {len(edits)} of {len(names)} images are in {folder}")
        shown, columns = rows([*to_view(np.stack(edits), pipeline.value_range, config.view_channels)])
        write_whole(config.grid, image_grid(np.stack(shown), columns=columns).save)
    return len(names)


Plan = tuple[list[str], Iterator[Pixels], Callable[[list[Pixels]], tuple[list[Pixels], int]]]
"""Names of the files without suffix, batches of edits, and what the grid shows, given the view of the edits, with the number
of images per row."""


def _edits_of_images(pipeline: CFGDDPMEditingPipeline, config: ImagesConfig) -> Plan:
    paths, shape = find_images(config.images), image_shape_of(pipeline)
    images = read_images(paths, fit=config.fit, **_kind(pipeline))
    shown_images = to_view(images, pipeline.value_range, config.view_channels)
    before = [[image] for image in shown_images]
    more: dict[str, Any] = {}
    mask: Pixels | None = None
    edit: Callable[..., Any] = pipeline.image_to_image
    if isinstance(config, InpaintConfig):
        mask = read_mask(Path(config.mask), size=shape[1:], fit=config.fit)
        before = [[image, np.where(mask[:, :, None], np.uint8(HIDDEN), image)] for image in shown_images]
        more = {"mask": mask, "jump_length": config.jump_length, "jump_n_sample": config.jump_n_sample}
        edit = pipeline.inpaint
    elif isinstance(config, ImageToImageConfig):
        more = {"strength": config.strength}
    count = config.per_image
    labels = _labels(pipeline, config)
    if labels is not None:
        fits = len(labels) in (1, len(images))
        remedy = f"give one for all images, or {len(images)}, one per image"
        require(fits, "class_labels", config.class_labels, remedy)
        labels = [label for label in labels * (len(images) // len(labels)) for _ in range(count)]
    total = len(images) * count
    seeds = range(config.seed, config.seed + total)

    def batches() -> Iterator[Pixels]:
        for start in range(0, total, config.batch_size):
            part = range(start, min(start + config.batch_size, total))
            options = {**more, **_sampling_options(pipeline, config)}
            options |= {} if labels is None else {"class_labels": [labels[i] for i in part]}
            generators = [image_generator(seeds[i]) for i in part]
            given = images[[i // count for i in part]]
            edited = edit(
                to_unit_range(given, pipeline.value_range), generator=generators, output_type="np", **options
            ).images
            values = values_of(pipeline, edited, "the edits")
            # Floats would come back with another rounding.
            yield values if mask is None else np.where(mask[:, :, None], values, given)

    def rows(edits: list[Pixels]) -> tuple[list[Pixels], int]:
        shown = min(count, MAX_COLUMNS - len(before[0]))
        of_image = [[*before[i], *edits[i * count : i * count + shown]] for i in range(min(len(images), MAX_ROWS))]
        return sum(of_image, []), len(of_image[0])

    names = [f"{i:05d}_of-{file_safe(paths[i // count].stem)}_seed-{seeds[i]}" for i in range(total)]
    return names, batches(), rows


def _interpolation(pipeline: CFGDDPMEditingPipeline, config: InterpolateConfig) -> Plan:
    labels, options = _labels(pipeline, config), _sampling_options(pipeline, config)
    options |= {} if labels is None else {"class_labels": labels[0]}
    ends: list[Pixels] = []
    if config.images is not None:
        ends = [*read_images(find_images(config.images), fit=config.fit, **_kind(pipeline))]
        require(len(ends) == 2, "images", config.images, "give two image files")

    def batches() -> Iterator[Pixels]:
        if ends:
            strength, generator = 0.5 if config.strength is None else config.strength, image_generator(config.seed)
            more = {"strength": strength, "generator": generator, "output_type": "np", **options}
            first, last = to_unit_range(np.stack(ends), pipeline.value_range)
            found = pipeline.interpolate_images(first, last, config.num_images, **more)
        else:
            last_seed = config.seed + 1 if config.last_seed is None else config.last_seed
            generators = [image_generator(seed) for seed in (config.seed, last_seed)]
            found = pipeline.interpolate(config.num_images, generators, output_type="np", **options)
        yield values_of(pipeline, found.images, "the edits")  # type: ignore[union-attr]

    def rows(edits: list[Pixels]) -> tuple[list[Pixels], int]:
        shown = [*to_view(np.stack(ends), pipeline.value_range, config.view_channels)] if ends else []
        row = [*shown[:1], *edits, *shown[1:]]
        return row, min(len(row), MAX_COLUMNS)

    names = [f"{i:05d}_weight-{i / (config.num_images - 1):.3f}" for i in range(config.num_images)]
    return names, batches(), rows


def _kind(pipeline: CFGDDPMEditingPipeline) -> dict[str, Any]:
    """The images of a model, as arguments of `read_images`."""
    return {"shape": image_shape_of(pipeline), **pixel_options(pipeline)}


def _labels(pipeline: CFGDDPMEditingPipeline, config: EditConfig) -> list[Condition | None] | None:
    """The conditions that the options mean; None = none."""
    return None if config.class_labels is None else resolve_labels(pipeline, config.class_labels, None, None)


def _sampling_options(pipeline: CFGDDPMEditingPipeline, config: EditConfig) -> dict[str, Any]:
    scale = default_guidance_scale(pipeline) if config.guidance_scale is None else config.guidance_scale
    options = {"num_inference_steps": config.num_inference_steps, "guidance_scale": scale, "eta": config.eta}
    return {name: value for name, value in options.items() if value is not None}
