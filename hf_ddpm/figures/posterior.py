"""Figure `posterior`: one step of the forward process, and the way back by the model and by the true posterior."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_ddpm.figures.blocks import ImageBlock, plain, plot_blocks
from hf_ddpm.figures.options import ModelDataConfig, ViewOptions
from hf_ddpm.figures.style import save_figure
from hf_ddpm.figures.view import to_view

if TYPE_CHECKING:
    from torch import Tensor

    from hf_ddpm.figures.process import StepBack

NOISING_SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)  # of T
TILE = 84  # pixels; larger than elsewhere, to see the noise


@dataclass(kw_only=True)
class PosteriorConfig(ViewOptions):
    """One step of the forward process, and the way back by the model and by the true posterior, side by side."""

    model: str
    """Folder of a pipeline (`pipeline/` of a run, or one of its checkpoints), or a Hub id."""
    timesteps: list[int] | None = None
    """t of the steps from x_{t-1} to x_t, from 1 to T; None = 5 of them, 50 to 950 of T = 1000."""
    num_images: int = 1
    """Number of images, as in `forward`; one row of blocks per image."""
    amplification: float | None = None
    """Factor of the signed differences; None = for each the factor that makes it fill the gray scale."""
    seed: int = 0
    """Seed of the first image's noise; the next ones have seed + 1, seed + 2, ..."""
    device: str | None = None
    """cpu, cuda, cuda:1, mps, ...; None = cuda if there is one, else cpu."""
    data: ModelDataConfig = field(default_factory=ModelDataConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        factor = self.amplification
        self.require(factor is None or 0 < factor < float("inf"), "amplification", "give a number above 0")


def plot_posterior(config: PosteriorConfig) -> list[Path]:
    """Plot a step forward, and back by the model and by the true posterior; return the paths of the files."""
    from hf_ddpm.figures.process import step_back
    from hf_ddpm.figures.real_images import data_of_model, process_title, read_images
    from hf_ddpm.figures.samples import load_diffusion_pipeline, real_conditions

    pipeline = load_diffusion_pipeline(config.model, device=config.device)
    data = data_of_model(config.data, config.model)
    real = read_images(data, count=config.num_images, pipeline=pipeline)
    conditions = real_conditions(pipeline, real)
    labels = None if conditions is None else pipeline.prepare_labels(conditions, 1, pipeline.device)
    total = len(pipeline.scheduler.alphas_cumprod)
    noising_steps = config.timesteps or sorted({max(1, round(share * total)) for share in NOISING_SHARES})
    seeds = range(config.seed, config.seed + config.num_images)
    steps = [step_back(pipeline, real.in_model_range(), labels, t, seeds=seeds) for t in noising_steps]
    blocks = []
    for i in range(config.num_images):
        name = "" if real.names is None else f"{plain(real.names[i])}, "
        blocks += _blocks_of_image(steps, i, [f"{name}t = {t}" for t in noising_steps], config)
    title = process_title(data, pipeline.scheduler.config.beta_schedule, total)
    return save_figure(plot_blocks(blocks, columns=4, tile=TILE, title=title), config.output)


def _blocks_of_image(
    steps: Sequence[StepBack], image: int, names: Sequence[str], config: PosteriorConfig
) -> list[ImageBlock]:
    """The four blocks of one image, one row per step: forward, model, true posterior, and their differences."""
    from hf_ddpm.figures.process import to_pixels

    def to_images(rows: list[list[Tensor]]) -> np.ndarray[Any, Any]:
        return to_view(np.stack([[to_pixels(tensor) for tensor in row] for row in rows]), channels=config.view_channels)

    def tensors(*fields: str) -> list[list[Tensor]]:
        return [[getattr(step, field)[image] for field in fields] for step in steps]

    tables = [
        (r"forward $q(x_t\,|\,x_{t-1})$", tensors("previous", "noisy"), ["$x_{t-1}$", "$x_t$"]),
        (r"model $p_\theta(x_{t-1}\,|\,x_t)$", tensors("model_mean", "model_sample"), ["mean", "sample"]),
        (r"posterior $q(x_{t-1}\,|\,x_t, x_0)$", tensors("true_mean", "true_sample"), ["mean", "sample"]),
    ]
    blocks: list[ImageBlock] = []
    for title, rows, columns in tables:
        images = to_images(rows)
        row_names, captions = None if blocks else names, [["", ""]] * len(steps)  # as tall as those of the differences
        blocks.append(ImageBlock(images=images, title=title, row_names=row_names, column_names=columns, captions=captions))
    differences = []
    for previous, noisy, model_mean, true_mean in tensors("previous", "noisy", "model_mean", "true_mean"):
        row = (noisy - previous, model_mean - noisy, true_mean - noisy, model_mean - true_mean)
        differences.append([amplified(difference, config.amplification) for difference in row])
    columns = ["$x_t - x_{t-1}$", r"model mean $-\ x_t$", r"true mean $-\ x_t$", "model $-$ true mean"]
    images = to_images([[difference for difference, _ in row] for row in differences])
    captions = [[f"× {factor:g}" for _, factor in row] for row in differences]
    title = "signed differences, middle gray = none"
    return [*blocks, ImageBlock(images=images, title=title, column_names=columns, captions=captions)]


def amplified(difference: Tensor, factor: float | None) -> tuple[Tensor, float]:
    """A signed difference, (C, H, W) float32, times a factor, and the factor; None = the largest of 1, 2, 5, 10, 20, ... (or
    0.5, 0.2, ...) that keeps 99 % of the values in [-1, 1], and 1 where there is no difference."""
    if factor is None:
        largest = float(difference.abs().flatten().quantile(0.99))
        steps = [digit * 10.0**power for power in range(-2, 7) for digit in (1, 2, 5)]
        factor = max((step for step in steps if step * largest <= 1), default=steps[0]) if largest > 0 else 1.0
    return factor * difference, factor
