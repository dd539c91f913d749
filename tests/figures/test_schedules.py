"""Variance schedules as curves: the values of each panel, and lines that differ without their color."""

import numpy as np
import pytest
from diffusers import DDPMScheduler

from hf_ddpm.figures.schedules import plot_schedule_curves


def lines(panel) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {line.get_label(): line.get_data() for line in panel.lines}


def test_panels_show_beta_alpha_bar_and_log_snr():
    scheduler = DDPMScheduler(num_train_timesteps=100)
    beta, level, snr = plot_schedule_curves({"linear": scheduler.alphas_cumprod}).axes
    for panel in (beta, level, snr):
        np.testing.assert_array_equal(lines(panel)["linear"][0], np.arange(1, 101))
        assert panel.get_xlabel() == "t"
    alphas_cumprod = scheduler.alphas_cumprod.double().numpy()
    np.testing.assert_allclose(lines(beta)["linear"][1], scheduler.betas, rtol=1e-3)
    np.testing.assert_array_equal(lines(level)["linear"][1], alphas_cumprod)
    np.testing.assert_allclose(lines(snr)["linear"][1], np.log(alphas_cumprod / (1 - alphas_cumprod)))


def test_several_lengths_share_an_axis():
    schedules = {str(total): DDPMScheduler(num_train_timesteps=total).alphas_cumprod for total in (50, 200)}
    panel = plot_schedule_curves(schedules).axes[1]
    assert panel.get_xlabel() == "t / T"
    assert [x[-1] for x, _ in lines(panel).values()] == [1, 1]


def test_lines_differ_without_their_color():
    schedules = {str(i): DDPMScheduler(num_train_timesteps=20 + i).alphas_cumprod for i in range(36)}
    figure = plot_schedule_curves(schedules)
    looks = {(line.get_marker(), str(line._unscaled_dash_pattern)) for line in figure.axes[0].lines}
    assert len(looks) == 36
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(schedules)


def test_log_snr_leaves_out_a_timestep_without_signal():
    levels = DDPMScheduler(rescale_betas_zero_snr=True).alphas_cumprod
    (_, values) = lines(plot_schedule_curves({"zero": levels}).axes[2])["zero"]
    assert np.isnan(values[-1]) and np.isfinite(values[:-1]).all()
    assert values[-2] == pytest.approx(float((levels[-2] / (1 - levels[-2])).log()), rel=1e-4)
