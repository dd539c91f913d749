"""Losses: which rows are read, how they are plotted, and that lines differ without their color."""

import json

import pytest

from hf_ddpm.figures.losses import moving_mean, plot_loss_curves, read_losses

DIFFUSION = [{"step": 50, "loss": 0.5}, {"step": 50, "test_loss": 0.4}, {"step": 100, "loss": 0.3, "lr": 0.1}]
GAN = [{"step": 10, "d_loss": 1.2, "g_loss": 0.8}, {"step": 20, "d_loss": 1.0, "g_loss": 1.5}]
JUDGE = [{"step": 5, "loss": 2.0}, {"step": 5, "test_accuracy": 0.5}]


@pytest.fixture
def run(tmp_path):
    def write(rows: list[dict], tail: str = ""):
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)
        return tmp_path

    return write


def drawn(panel) -> list[tuple[list, list]]:
    return [tuple(map(list, line.get_data())) for line in panel.lines]


def names(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize(("rows", "count"), [(DIFFUSION, 2), (GAN, 2), (JUDGE, 1), ([], 0)])
def test_rows_with_a_training_loss_are_read(run, rows, count):
    found = read_losses(run(rows))
    assert found == [row for row in rows if {"loss", "d_loss"} & row.keys()] and len(found) == count


def test_a_step_comes_once_and_in_its_order(run):
    rows = read_losses(run([{"step": 2, "loss": 3.0}, {"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]))
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 2.0), (2, 1.0)]


@pytest.mark.parametrize(
    ("damaged", "count"),
    [('{"step": 150, "lo', 2), ('{"step": 150, "lo\n{"step": 200, "loss": 1}\n', 3), ('{"step": 9, "loss": "1"}\n\n', 2)],
)
def test_a_line_that_is_not_of_the_run_is_left_out_and_said(run, caplog, damaged, count):
    assert len(read_losses(run(DIFFUSION, damaged))) == count
    assert [message.partition("metrics.jsonl: ")[2] for message in caplog.messages] == [
        "left out line 4, not a step with its numbers"
    ]


def test_a_folder_without_a_log_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is not a run folder"):
        read_losses(tmp_path / "nothing")


def test_a_moving_mean():
    values = [4.0, 2.0, 6.0, 0.0]
    assert moving_mean(values, 1) == values
    assert moving_mean(values, 2) == moving_mean(values, 3) == moving_mean(values, 99) == [4.0, 4.0, 8 / 3, 0.0]
    line = [3.0 * step for step in range(9)]
    assert moving_mean(line, 5) == pytest.approx(line)  # a slope is not moved aside
    assert moving_mean([], 2) == []


def test_each_kind_of_loss_has_a_panel_and_each_run_a_line():
    figure = plot_loss_curves({"digits": DIFFUSION, "gan": GAN, "other": DIFFUSION[:1]})
    loss, d_loss, g_loss = figure.axes
    assert [panel.get_ylabel() for panel in figure.axes] == ["training loss", "discriminator loss", "generator loss"]
    assert drawn(loss) == [([50, 100], [0.5, 0.3]), ([50], [0.5])]
    assert drawn(d_loss) == [([10, 20], [1.2, 1.0])] and drawn(g_loss) == [([10, 20], [0.8, 1.5])]
    assert names(figure) == ["digits", "gan", "other"]
    assert d_loss.lines[0].get_marker() == figure.legends[0].legend_handles[1].get_marker() != loss.lines[0].get_marker()


def test_values_stand_faint_under_their_moving_mean():
    three = [*DIFFUSION, {"step": 150, "loss": 0.1}]
    figure = plot_loss_curves({"digits": three}, smoothing=3, log_y=True, title="all")
    (panel,) = figure.axes
    raw, smooth = panel.lines
    assert drawn(panel) == [([50, 100, 150], [0.5, 0.3, 0.1]), ([50, 100, 150], [0.5, pytest.approx(0.3), 0.1])]
    assert raw.get_alpha() < 0.5 and smooth.get_alpha() is None and raw.get_zorder() < smooth.get_zorder()
    assert panel.get_yscale() == "log" and figure.get_suptitle() == "all"


def test_lines_differ_without_their_color():
    figure = plot_loss_curves({f"a run with quite a long name {number}": JUDGE for number in range(36)})
    looks = {
        (line.get_marker(), str(line._unscaled_dash_pattern), line.get_markerfacecolor() == "white")
        for line in figure.axes[0].lines
    }
    assert len(looks) == 36
    assert names(figure)[-1] == "and 24 more"


@pytest.mark.parametrize(
    ("runs", "options", "message"),
    [
        ({}, {}, "nothing to plot"),
        ({"a": []}, {}, "nothing to plot"),
        ({"a": DIFFUSION}, {"smoothing": 0}, "smoothing is 0: give"),
        ({"a": [{"step": 1, "loss": -0.1}]}, {"log_y": True}, "log_y is True"),
    ],
)
def test_what_cannot_be_plotted_is_refused(runs, options, message):
    with pytest.raises(ValueError, match=message):
        plot_loss_curves(runs, **options)


def test_names_are_shown_as_they_are():
    figure = plot_loss_curves(dict.fromkeys(("a$x^$", "_old", r"\frac"), JUDGE))
    figure.draw_without_rendering()  # a name that is read as mathematics fails
    assert names(figure) == [r"a\$x^\$", "_old", r"\frac"]


def test_long_names_fit():
    figure = plot_loss_curves({f"{number}" + "n" * 80: JUDGE for number in range(12)})
    figure.draw_without_rendering()  # a layout that collapses warns
    legend = figure.legends[0].get_window_extent()
    assert legend.x0 >= 0 and legend.x1 <= figure.bbox.width
