"""Curves: what is plotted, and that lines differ without their color."""

import math

import pytest

from hf_ddpm.figures.curves import Level, plot_curves


def curves(panel) -> dict[str, tuple[list, list]]:
    """The points of each line with errors, by its label."""
    return {bars.get_label(): tuple(map(list, bars.lines[0].get_data())) for bars in panel.containers}


def across(panel) -> dict[str, float]:
    """Height of each line across a panel."""
    inside = {id(line) for bars in panel.containers for line in (bars.lines[0], *bars.lines[1])}
    return {line.get_label(): line.get_ydata()[0] for line in panel.lines if id(line) not in inside}


def test_points_stand_in_the_order_of_x_on_a_line_for_each_series():
    rows = [{"s": s, "kind": kind, "m": s * 10, "m_stderr": 0.5} for kind in ("a", "b") for s in (3.0, 1.0, 2.0)]
    rows += [{"s": None, "kind": "a", "m": 9.0}, {"s": 4.0, "kind": "c", "m": math.nan}, {"s": 4.0, "kind": "a", "m": None}]
    figure = plot_curves(rows, x="s", metrics=["m"], series=["kind"], levels={"m": [Level(label="real", value=5.0)]})
    (panel,) = figure.axes
    assert curves(panel) == {kind: ([1.0, 2.0, 3.0], [10.0, 20.0, 30.0]) for kind in ("a", "b")}
    assert across(panel) == {"real": 5.0}
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("s", "m")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b", "real"]
    (segments,) = panel.containers[0].lines[2]
    assert segments.get_segments()[0][:, 1].tolist() == [9.5, 10.5]


def test_a_line_is_named_by_its_options():
    row = {"calls": 4, "m": 1.0, "scheduler": "ddim", "guidance_interval": (0.2, 0.7), "num_images": 1000}
    figure = plot_curves([row], x="calls", metrics=["m"], series=["scheduler", "guidance_interval", "num_images"])
    assert [*curves(figure.axes[0])] == ["ddim, guided t / T = 0.2 to 0.7, n = 1,000"]


@pytest.mark.parametrize(("length", "columns"), [(10, 3), (40, 2), (200, 1)])
def test_the_names_of_lines_fit_into_the_width(length, columns):
    rows = [{"x": x, "kind": f"{number:0{length}}", "m": x} for number in range(4) for x in (1, 2)]
    figure = plot_curves(rows, x="x", metrics=["m"], series=["kind"])
    assert figure.legends[0]._ncols == columns


def test_lines_differ_without_their_color():
    rows = [{"x": x, "kind": kind, "m": x + kind} for kind in range(36) for x in (1, 2)]
    figure = plot_curves(rows, x="x", metrics=["m"], series=["kind"])
    lines = [bars.lines[0] for bars in figure.axes[0].containers]
    looks = {(line.get_marker(), str(line._unscaled_dash_pattern)) for line in lines}
    assert len(looks) == len(lines) == 36
    assert [text.get_text() for text in figure.legends[0].get_texts()][-1] == "and 24 more"


def test_scales():
    def panel(values: list[float], **options):
        rows = [{"n": 10**i, "m": value} for i, value in enumerate(values)]
        return plot_curves(rows, x="n", metrics=["m"], **options).axes[0]

    assert panel([1.0, 2.0]).get_yscale() == "linear"
    assert panel([1.0, 200.0]).get_yscale() == "log"
    assert panel([-1.0, 200.0]).get_yscale() == "linear"
    noise = {"m": [Level(label="noise", value=100.0)]}
    assert panel([1.0, 2.0], levels=noise).get_yscale() == "log"
    assert (panel([1.0, 2.0], log_x=True).get_xscale(), panel([1.0, 2.0]).get_xscale()) == ("log", "linear")
    assert [label.get_text() for label in panel([1.0] * 4, log_x=True).get_xticklabels()] == ["1", "10", "100", "1,000"]
    close = plot_curves([{"n": n, "m": 1.0} for n in (1, 2, 399, 400)], x="n", metrics=["m"]).axes[0]
    assert list(close.get_xticks()) == [1, 399]


@pytest.mark.parametrize(("rows", "metrics"), [([], ["m"]), ([{"x": None, "m": 1.0}], ["m"]), ([{"x": 1, "m": 1.0}], [])])
def test_nothing_to_plot_is_refused(rows, metrics):
    with pytest.raises(ValueError, match="nothing to plot over 'x'"):
        plot_curves(rows, x="x", metrics=metrics)
