"""Which figures follow from what varies in a sweep, and what they show."""

import itertools

from PIL import Image

from hf_ddpm.experiments.sweep_figures import plot_sweep
from hf_ddpm.figures.style import save_figure


def a_row(**values) -> dict:
    row = {
        "recipe": None, "train_seed": None, "checkpoint": None, "scheduler": "DDPMScheduler", "num_inference_steps": 10,
        "guidance_scale": 1.0, "num_images": 100, "floor_num_images": 100, "network_calls": 10,
        "fd_judge": 3.0, "fd_judge_stderr": 0.1, "fd_judge_floor": 1.0, "precision": 0.9, "precision_stderr": 0.01,
        "precision_floor": 0.95, "recall": 0.5, "recall_stderr": None, "recall_floor": 0.9,
    }  # fmt: skip
    return row | values


def curves(panel) -> dict[str, tuple[list, list]]:
    """The points of each line with errors, by its label."""
    return {bars.get_label(): tuple(map(list, bars.lines[0].get_data())) for bars in panel.containers}


def across(panel) -> dict[str, float]:
    """Height of each line across a panel."""
    inside = {id(line) for bars in panel.containers for line in (bars.lines[0], *bars.lines[1])}
    return {line.get_label(): line.get_ydata()[0] for line in panel.lines if id(line) not in inside}


def figures_of(rows: list[dict], *varying: str) -> dict:
    return plot_sweep(rows, distance="fd_judge", varying=list(varying), title="digits")


def test_a_gan_is_a_line_across_guidance():
    guided = [a_row(recipe="unet", guidance_scale=s, fd_judge=s) for s in (1.0, 2.0)]
    gan = a_row(recipe="gan", guidance_scale=None, scheduler=None, num_inference_steps=None, network_calls=1, fd_judge=7.0)
    panels = figures_of([*guided, gan], "recipe", "guidance_scale")["guidance"].axes
    assert across(panels[0]) == {"real images": 1.0, "gan": 7.0} and across(panels[1])["gan"] == 0.9
    assert list(curves(panels[0])) == ["unet"]


def test_files(tmp_path):
    rows = [a_row(guidance_scale=1 + i / 4, fd_judge=3.0 + i) for i in range(12)]
    figures = [figures_of(rows, "guidance_scale")["guidance"] for _ in range(2)]
    first, second = (save_figure(figure, tmp_path / name) for name, figure in zip("ab", figures, strict=True))
    assert [path.name for path in first] == ["a.png", "a.pdf"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert first[0].stat().st_size < 300_000 and first[1].read_bytes().startswith(b"%PDF")
    with Image.open(first[0]) as image:
        assert image.width > 1000 and len(image.convert("RGB").getcolors(2**20)) > 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pdf", "a.png", "b.pdf", "b.png"]


def test_guidance_trades_each_metric_in_a_panel_of_its_own():
    rows = [a_row(guidance_scale=s, scheduler=name) for s, name in itertools.product((1.0, 2.0), ("ddim", "heun"))]
    figures = figures_of(rows, "scheduler", "guidance_scale")
    assert list(figures) == ["guidance", "network_calls"]
    panels = figures["guidance"].axes
    assert [panel.get_ylabel() for panel in panels] == ["fd_judge", "precision", "recall"]  # nothing knows the classes
    assert {panel.get_xlabel() for panel in panels} == {"guidance scale s  (w = s - 1)"}
    assert [across(panel) for panel in panels] == [{"real images": value} for value in (1.0, 0.95, 0.9)]
    assert [list(curves(panel)) for panel in panels] == [["ddim", "heun"]] * 3


def test_steps_are_plotted_over_their_network_calls():
    rows = [a_row(scheduler="heun", num_inference_steps=n, network_calls=2 * n - 1) for n in (4, 8)]
    rows += [a_row(scheduler="ddim", num_inference_steps=n, network_calls=n) for n in (4, 8)]
    (panel,) = figures_of(rows, "scheduler", "num_inference_steps")["network_calls"].axes
    assert {name: x for name, (x, _) in curves(panel).items()} == {"heun": [7, 15], "ddim": [4, 8]}
    assert panel.get_xlabel() == "network calls a sample" and panel.get_xscale() == "log"


def test_real_images_are_a_curve_over_their_own_number():
    rows = [a_row(num_images=n, floor_num_images=min(n, 360), fd_judge_floor=100 / min(n, 360)) for n in (100, 400, 800)]
    (panel,) = figures_of(rows, "num_images")["num_images"].axes
    assert curves(panel)["samples"][0] == [100, 400, 800]
    assert curves(panel)["real images"] == ([100, 360], [1.0, 100 / 360])
    assert panel.get_xlabel() == "images n"


def test_noise_is_a_line_beside_the_checkpoints():
    rows = [a_row(checkpoint=step, fd_judge=1000 / step) for step in (100, 200)]
    rows.append(a_row(checkpoint="noise", fd_judge=500.0, scheduler=None, guidance_scale=None, network_calls=None))
    figures = figures_of(rows, "checkpoint")
    assert list(figures) == ["checkpoints"]
    (panel,) = figures["checkpoints"].axes
    assert curves(panel) == {"model": ([100, 200], [10.0, 5.0])}
    assert across(panel) == {"real images": 1.0, "noise": 500.0}
    assert (panel.get_xlabel(), panel.get_yscale()) == ("training step", "log")
    assert figures_of(rows[-1:]) == {}
