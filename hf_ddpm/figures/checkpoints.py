"""Figures `checkpoints` and `training_gif`: the same seeds over the training of a run."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from hf_ddpm.config import require
from hf_ddpm.figures.animation import save_gif
from hf_ddpm.figures.blocks import ImageBlock, in_rows, plot_blocks
from hf_ddpm.figures.grids import image_grid
from hf_ddpm.figures.options import SampleGridConfig
from hf_ddpm.figures.style import save_figure
from hf_ddpm.run_folder import RunFolder, find_name_fault
from hf_ddpm.runtime.pictures import open_picture


@dataclass(kw_only=True)
class CheckpointsConfig(SampleGridConfig):
    """The same seeds at checkpoints of a run: one grid per checkpoint."""

    run: Path
    """Run folder."""
    per_class: int = 4
    checkpoints: list[int] | None = None
    """Their optimizer steps, as in [200, 600, 1200]; None = all checkpoints that the run has kept."""


@dataclass(kw_only=True)
class TrainingGifConfig(CheckpointsConfig):
    """The same seeds over the training of a run as a GIF, from its saved sample grids or its checkpoints."""

    per_class: int = 8
    frames: Literal["samples", "checkpoints"] | None = None
    """`samples` = the sample grids that the run has saved; `checkpoints` = new samples of the checkpoints, with the sampling
    options above; None = the saved grids, if there are at least two and no sampling option is given."""
    num_colors: int | None = None
    """Grays or colors of the GIF, fewer make a smaller file; None = 16 grays or 64 colors."""
    milliseconds: int = 500
    """Duration of a frame; the last one stays 5 times as long."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frames == "samples":
            for option, value in self.sampling_options().items():
                raise ValueError(f"--{option} is {value!r}: leave it out, the saved sample grids do not depend on it")

    def sampling_options(self) -> dict[str, Any]:
        """The sampling options that are given, by name."""
        values = {option.name: (getattr(self, option.name), option.default) for option in fields(SampleGridConfig)}
        return {name: value for name, (value, default) in values.items() if name != "output" and value != default}


def plot_checkpoints(config: CheckpointsConfig) -> list[Path]:
    """Plot the same seeds at checkpoints of a run; return the paths of the files."""
    folders = _paths(config, "checkpoints")
    columns, blocks = min(3, len(folders)), []
    for number, (step, folder) in enumerate(folders.items()):
        images, names, title = _sample(config, folder)
        names = None if number % columns else names
        blocks.append(ImageBlock(images=in_rows(images, config.per_class), title=f"step {step:,}", row_names=names))
    return save_figure(plot_blocks(blocks, columns=columns, title=title), config.output)


def plot_training_gif(config: TrainingGifConfig) -> list[Path]:
    """Animate the same seeds over the training of a run; return the path of the file."""
    source = config.frames
    if source is None:
        several = len(RunFolder(config.run).sample_grids()) > 1
        source = "samples" if several and not config.sampling_options() else "checkpoints"
    paths = _paths(config, source)
    require(len(paths) > 1, "run", str(config.run), f"an animation needs {source} of two steps or more")
    frames = []
    for path in paths.values():
        if source == "samples":
            frames.append(_read_picture(path))
        else:
            images, names, _ = _sample(config, path)
            frames.append(image_grid(images, columns=config.per_class, row_names=names))
    captions, gif = [f"step {step:,}" for step in paths], Path(f"{config.output}.gif")
    save_gif(frames, captions, gif, milliseconds=config.milliseconds, hold=5, num_colors=config.num_colors)
    return [gif]


def _paths(config: CheckpointsConfig, source: Literal["samples", "checkpoints"]) -> dict[int, Path]:
    """The saved sample grids or the checkpoint folders to show, by optimizer step."""
    run, name = RunFolder(config.run), str(config.run)
    checkpoints, grids = run.checkpoints(), run.sample_grids()
    require(run.path.is_dir(), "run", name, "the folder does not exist")
    require(bool(checkpoints or grids), "run", name, "not a run folder, it has neither checkpoints nor sample grids")
    pipelines = {step: folder for step, folder in checkpoints.items() if (folder / "model_index.json").is_file()}
    found, what = (grids, "sample grid") if source == "samples" else (pipelines, "checkpoint")
    require(len(found) > 0, "run", name, f"it has no {what}")
    remedy = f"{name} has no {what} of this step, choose from {', '.join(map(str, found))}"
    steps = config.checkpoints or found
    for step in steps:
        require(step in found, "checkpoints", step, remedy)
        if (fault := find_name_fault(found[step])) is not None:
            raise ValueError(f"checkpoint {found[step]}: {fault}")
    return {step: found[step] for step in sorted(set(steps))}


def _sample(config: CheckpointsConfig, checkpoint: Path) -> tuple[np.ndarray[Any, Any], list[str] | None, str]:
    """Samples of a checkpoint, (N, H, W, C) uint8, the names of their rows, and how they were generated."""
    from hf_ddpm.figures import samples
    from hf_ddpm.sampling import load_pipeline

    pipeline = load_pipeline(str(checkpoint), scheduler=config.scheduler, device=config.device)
    labels = samples.class_rows(pipeline, config.class_labels, config.per_class)
    scale = samples.guidance_scale_of(pipeline, config)
    images = samples.sample_images(pipeline, labels, config, guidance_scale=scale)
    names = samples.row_names(pipeline, labels, config.per_class)
    return images, names, samples.describe_sampling(pipeline, config, len(labels), scale)


def _read_picture(path: Path) -> Image.Image:
    try:
        with open_picture(path) as picture:
            return picture.convert("RGB")
    except OSError as error:
        raise ValueError(f"{path} is not an image: {error}") from None
