"""Figures `checkpoints` and `training_gif`: the same seeds over the training of a run."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image

from hf_ddpm.config import require
from hf_ddpm.figures.animation import require_colors, save_gif
from hf_ddpm.figures.blocks import ImageBlock, in_rows, plot_blocks
from hf_ddpm.figures.grids import image_grid
from hf_ddpm.figures.options import SampleGridConfig
from hf_ddpm.figures.style import save_figure
from hf_ddpm.run_folder import RunFolder

if TYPE_CHECKING:
    from hf_ddpm.sampling import ImagePipeline


@dataclass(kw_only=True)
class CheckpointsConfig(SampleGridConfig):
    """The same seeds at checkpoints of a run: one grid per checkpoint."""

    run: Path
    """Run folder."""
    per_class: int = 4
    """Images per class, one row per class; an unconditional model fills a square."""
    checkpoints: list[int] | None = None
    """Their optimizer steps, as in [200, 600, 1200]; None = all checkpoints that the run has kept."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_some("checkpoints")


@dataclass(kw_only=True)
class TrainingGifConfig(CheckpointsConfig):
    """The same seeds over the training of a run as a GIF, from its saved sample grids or its checkpoints."""

    per_class: int = 8
    """Images per class, one row per class; an unconditional model fills a square."""
    frames: Literal["samples", "checkpoints"] | None = None
    """`samples` = the sample grids that the run has saved; `checkpoints` = new samples of the checkpoints, with the sampling
    options above; None = the saved grids, if there are at least two and no sampling option is given."""
    num_colors: int | None = None
    """Grays or colors of the GIF, fewer make a smaller file; None = 16 grays or 64 colors."""
    milliseconds: int = 500
    """Duration of a frame; the last one stays 5 times as long."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_at_least(20, "milliseconds")
        require_colors(self.num_colors)
        if self.frames == "samples":
            for option, value in self.sampling_options().items():
                raise ValueError(f"--{option} is {value!r}: leave it out, the saved sample grids do not depend on it")

    def sampling_options(self) -> dict[str, Any]:
        """The sampling options that are given, by name."""
        values = {option.name: (getattr(self, option.name), option.default) for option in fields(SampleGridConfig)}
        return {name: value for name, (value, default) in values.items() if name != "output" and value != default}


def plot_checkpoints(config: CheckpointsConfig) -> list[Path]:
    """Plot the same seeds at checkpoints of a run; return the paths of the files."""
    from hf_ddpm.figures.samples import describe_sampling, guidance_scale_of

    folders = _checkpoints(config)
    columns, blocks = min(3, len(folders)), []
    for number, (step, folder) in enumerate(folders.items()):
        pipeline, images, names = _sample(config, folder)
        names = None if number % columns else names
        blocks.append(ImageBlock(images=in_rows(images, config.per_class), title=f"step {step:,}", row_names=names))
    title = describe_sampling(pipeline, config, len(images), guidance_scale_of(pipeline, config))
    return save_figure(plot_blocks(blocks, columns=columns, title=title), config.output)


def plot_training_gif(config: TrainingGifConfig) -> list[Path]:
    """Animate the same seeds over the training of a run; return the path of the file."""
    source, saved = config.frames, RunFolder(config.run).sample_grids()
    if source is None:
        source = "samples" if len(saved) > 1 and not config.sampling_options() else "checkpoints"
    paths = _choose(config, saved, "sample grid") if source == "samples" else _checkpoints(config)
    require(len(paths) > 1, "run", str(config.run), f"an animation needs {source} of two steps or more")
    frames = []
    for path in paths.values():
        if source == "samples":
            frames.append(_read_picture(path))
        else:
            _, images, names = _sample(config, path)
            frames.append(image_grid(images, columns=config.per_class, row_names=names))
    gif = Path(f"{config.output}.gif")
    captions = [f"step {step:,}" for step in paths]
    save_gif(frames, captions, gif, milliseconds=config.milliseconds, hold=5, num_colors=config.num_colors)
    return [gif]


def _checkpoints(config: CheckpointsConfig) -> dict[int, Path]:
    """Checkpoint folders to show, by optimizer step."""
    found = RunFolder(config.run).checkpoints()
    pipelines = {step: folder for step, folder in found.items() if (folder / "model_index.json").is_file()}
    return _choose(config, pipelines, "checkpoint")


def _choose(config: CheckpointsConfig, found: dict[int, Path], what: str) -> dict[int, Path]:
    """The requested ones of the paths that a run has, by optimizer step; `what` says what they are."""
    run = RunFolder(config.run)
    name = str(run.path)
    require(run.path.is_dir(), "run", name, "the folder does not exist")
    is_run = bool(run.checkpoints() or run.sample_grids())
    require(is_run, "run", name, "not a run folder, it has neither checkpoints nor sample grids")
    require(len(found) > 0, "run", name, f"it has no {what}")
    steps = config.checkpoints or list(found)
    known = ", ".join(map(str, found))
    for step in steps:
        require(step in found, "checkpoints", step, f"{name} has no {what} of this step, choose from {known}")
    return {step: found[step] for step in sorted(set(steps))}


def _sample(config: CheckpointsConfig, checkpoint: Path) -> tuple[ImagePipeline, np.ndarray[Any, Any], list[str] | None]:
    """A checkpoint's pipeline, its samples, (N, H, W, C) uint8, and the names of their rows."""
    from hf_ddpm.figures.samples import class_rows, guidance_scale_of, row_names, sample_images
    from hf_ddpm.sampling import load_pipeline

    pipeline = load_pipeline(str(checkpoint), scheduler=config.scheduler, device=config.device)
    labels = class_rows(pipeline, config.class_labels, config.per_class)
    images = sample_images(pipeline, labels, config, guidance_scale=guidance_scale_of(pipeline, config))
    return pipeline, images, row_names(pipeline, labels, config.per_class)


def _read_picture(path: Path) -> Image.Image:
    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except OSError as error:
        raise ValueError(f"{path} is not an image: {error}") from None
