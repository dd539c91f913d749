"""Every figure by its name: written as PNG and as PDF, animations as GIF, the same bytes every time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hf_ddpm.figures.checkpoints import CheckpointsConfig, TrainingGifConfig, plot_checkpoints, plot_training_gif
from hf_ddpm.figures.edits import InpaintingConfig, StrengthsConfig, plot_inpainting, plot_strengths
from hf_ddpm.figures.forward import ForwardConfig, plot_forward
from hf_ddpm.figures.guided import GuidedConfig, plot_guided
from hf_ddpm.figures.interpolation import InterpolationConfig, plot_interpolation
from hf_ddpm.figures.losses import LossesConfig, plot_losses
from hf_ddpm.figures.options import FigureConfig
from hf_ddpm.figures.posterior import PosteriorConfig, plot_posterior
from hf_ddpm.figures.real import RealConfig, plot_real
from hf_ddpm.figures.reverse import ReverseConfig, ReverseGifConfig, plot_reverse, plot_reverse_gif
from hf_ddpm.figures.schedules import SchedulesConfig, plot_schedules
from hf_ddpm.runtime.lock import OutputLock

FIGURES: dict[str, tuple[type[FigureConfig], Callable[[Any], list[Path]]]] = {
    "forward": (ForwardConfig, plot_forward),
    "reverse": (ReverseConfig, plot_reverse),
    "posterior": (PosteriorConfig, plot_posterior),
    "reverse_gif": (ReverseGifConfig, plot_reverse_gif),
    "training_gif": (TrainingGifConfig, plot_training_gif),
    "schedules": (SchedulesConfig, plot_schedules),
    "losses": (LossesConfig, plot_losses),
    "guided": (GuidedConfig, plot_guided),
    "real": (RealConfig, plot_real),
    "checkpoints": (CheckpointsConfig, plot_checkpoints),
    "inpainting": (InpaintingConfig, plot_inpainting),
    "strengths": (StrengthsConfig, plot_strengths),
    "interpolation": (InterpolationConfig, plot_interpolation),
}
"""Options and plot function of each figure, by its name on the command line."""


def plot_figure(config: FigureConfig) -> list[Path]:
    """Plot the figure of these options, and return the paths of its files; a ValueError names an option that cannot work."""
    output = Path(config.output)
    with OutputLock(output, option="output", file_name=output.name) as lock:
        lock.take()
        return dict(FIGURES.values())[type(config)](config)
