"""Variance schedules as curves: `save_figure(plot_schedules({"linear": scheduler.alphas_cumprod, ...}), stem)`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from hf_ddpm.figures.style import INK, PANEL_HEIGHT, STYLES, dress_panel, line_style

PANEL_WIDTH = 2.9  # inches
MARKERS = 9  # on a line
SMALLEST_SNR = 1e-12  # below it a logarithm would only show rounding


def plot_schedules(schedules: Mapping[str, Tensor], *, title: str | None = None):
    """Draw beta, alpha-bar and log-SNR over the timestep, or over its share of T where schedules differ in T.

    Args:
        schedules: alphas_cumprod, (T,) float, by the name of the line.
        title: above the panels; None = none.

    Returns:
        A matplotlib Figure.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3 * PANEL_WIDTH, PANEL_HEIGHT + 0.3), layout="constrained")
    beta_panel, level_panel, snr_panel = figure.subplots(1, 3)
    one_length = len({len(levels) for levels in schedules.values()}) == 1
    for number, (name, levels) in enumerate(schedules.items()):
        exact = levels.double().numpy()
        previous = np.concatenate([[1.0], exact[:-1]])
        steps = np.arange(1, len(exact) + 1)
        x = steps if one_length else steps / len(exact)
        snr = exact / (1 - exact)
        log_snr = np.log(snr, where=snr > SMALLEST_SNR, out=np.full_like(snr, np.nan))
        for panel, values in ((beta_panel, 1 - exact / previous), (level_panel, exact), (snr_panel, log_snr)):
            _draw_line(panel, x, values, number, name)
    for panel, what in ((beta_panel, r"$\beta_t$"), (level_panel, r"$\bar\alpha_t$"), (snr_panel, "log-SNR (nats)")):
        panel.set_title(what, fontsize=9, color=INK, loc="left")
        dress_panel(panel, x_label="t" if one_length else "t / T")
    # The cosine schedule is cut at 0.999, the others end at some 0.02: only a logarithm shows both.
    beta_panel.set_yscale("log")
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=9, color=INK)
    handles, labels = beta_panel.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=min(3, len(labels)), frameon=False, fontsize=7, labelcolor=INK,
        handlelength=3.2,
    )  # fmt: skip
    return figure


def _draw_line(panel, x: np.ndarray, values: np.ndarray, number: int, name: str) -> None:
    # Lines that lie on each other have their markers at other places.
    first = number * len(x) // (MARKERS * len(STYLES)) % len(x)
    panel.plot(x, values, label=name, **line_style(number), markersize=4, markevery=(first, max(1, len(x) // MARKERS)))
