"""Figure `schedules`: beta, alpha-bar and log-SNR of variance schedules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hf_ddpm.config import BaseScheduleConfig, BetaSchedule
from hf_ddpm.figures.options import FigureConfig
from hf_ddpm.figures.style import INK, PANEL_HEIGHT, STYLES, add_legend, add_title, dress_panel, line_style, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

PANEL_WIDTH = 2.9  # inches
MARKERS = 9  # on a line
SMALLEST_SNR = 1e-12  # below it the logarithm shows rounding only


@dataclass(kw_only=True)
class ForwardScheduleConfig(BaseScheduleConfig):
    """The forward process."""

    rescale_zero_terminal_snr: bool = False
    """Rescale the betas so that the last timestep is pure noise (Lin et al. 2023)."""

    def alphas_cumprod(self) -> Tensor:
        """alpha-bar of each timestep: (T,) float32."""
        from hf_ddpm.diffusion.schedules import build_noise_scheduler

        options = asdict(self) | dict(zip(("beta_start", "beta_end"), self.beta_range, strict=True))
        # The types of the variance and of the prediction are irrelevant here.
        return build_noise_scheduler(**options, variance_type="fixed_small", prediction_type="v_prediction").alphas_cumprod


@dataclass(kw_only=True)
class SchedulesConfig(FigureConfig):
    """Variance schedules: beta, alpha-bar and log-SNR."""

    schedules: list[BetaSchedule] = field(default_factory=lambda: ["linear", "cosine", "sigmoid"])
    """Schedules to compare; `cosine` is an alias of squaredcos_cap_v2."""
    num_train_timesteps: list[int] = field(default_factory=lambda: [1000])
    """T; each schedule is plotted with each of them."""
    beta_start: float | None = None
    """beta at the first timestep; None = 1e-4. The cosine schedule has none."""
    beta_end: float | None = None
    """beta at the last timestep; None = 0.02. The cosine schedule has none."""
    rescale_zero_terminal_snr: bool = False
    """Rescale the betas so that the last timestep is pure noise (Lin et al. 2023)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for option in ("schedules", "num_train_timesteps"):
            self.require(0 < len(getattr(self, option)) <= 6, option, "give 1 to 6")
        self.lines()

    def lines(self) -> list[ForwardScheduleConfig]:
        """The options of each line, checked."""
        betas = {"beta_start": self.beta_start, "beta_end": self.beta_end}
        names: list[BetaSchedule] = ["squaredcos_cap_v2" if name == "cosine" else name for name in self.schedules]
        if set(names) == {"squaredcos_cap_v2"}:
            for option, value in betas.items():
                self.require(value is None, option, "leave it out, the cosine schedule does not use it")
        try:
            return [
                ForwardScheduleConfig(
                    beta_schedule=name,
                    num_train_timesteps=total,
                    rescale_zero_terminal_snr=self.rescale_zero_terminal_snr,
                    **({} if name == "squaredcos_cap_v2" else betas),
                )
                for name in dict.fromkeys(names)
                for total in dict.fromkeys(self.num_train_timesteps)
            ]
        except ValueError as error:
            raise ValueError(str(error).replace("--schedule.", "--", 1)) from None


def plot_schedules(config: SchedulesConfig) -> list[Path]:
    """Plot variance schedules side by side; return the paths of the files."""
    lines = config.lines()
    several = len(set(config.num_train_timesteps)) > 1
    named = {}
    for line in lines:
        length = f", T = {line.num_train_timesteps:,}" if several else ""
        named[schedule_name(line.beta_schedule) + length] = line.alphas_cumprod()
    title = None if several else f"T = {lines[0].num_train_timesteps:,}"
    return save_figure(plot_schedule_curves(named, title=title), config.output)


def plot_schedule_curves(schedules: Mapping[str, Tensor], *, title: str | None = None) -> Figure:
    """Plot beta, alpha-bar and log-SNR of alphas_cumprod, (T,) float by name, over t, or over t / T if they differ in T."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3 * PANEL_WIDTH, PANEL_HEIGHT + 0.3), layout="constrained")
    beta_panel, level_panel, snr_panel = figure.subplots(1, 3)
    one_length = len({len(levels) for levels in schedules.values()}) == 1
    for number, (name, levels) in enumerate(schedules.items()):
        exact = levels.double().numpy()
        previous, steps = np.concatenate([[1.0], exact[:-1]]), np.arange(1, len(exact) + 1)
        x = steps if one_length else steps / len(exact)
        snr = exact / (1 - exact)
        log_snr = np.log(snr, where=snr > SMALLEST_SNR, out=np.full_like(snr, np.nan))
        # Markers at different places keep lines apart that coincide.
        markers = (number * len(x) // (MARKERS * len(STYLES)) % len(x), max(1, len(x) // MARKERS))
        for panel, values in ((beta_panel, 1 - exact / previous), (level_panel, exact), (snr_panel, log_snr)):
            panel.plot(x, values, label=name, **line_style(number), markersize=4, markevery=markers)
    for panel, what in ((beta_panel, r"$\beta_t$"), (level_panel, r"$\bar\alpha_t$"), (snr_panel, "log-SNR (nats)")):
        panel.set_title(what, fontsize=9, color=INK, loc="left")
        dress_panel(panel, x_label="t" if one_length else "t / T")
    # The cosine schedule is cut at 0.999, the others end near 0.02: only a logarithmic scale shows both.
    beta_panel.set_yscale("log")
    add_title(figure, title)
    handles, labels = beta_panel.get_legend_handles_labels()
    add_legend(figure, dict(zip(labels, handles, strict=True)), most=len(labels))
    return figure


def schedule_name(beta_schedule: str) -> str:
    """Name of a schedule in a figure."""
    return "cosine" if beta_schedule == "squaredcos_cap_v2" else beta_schedule
