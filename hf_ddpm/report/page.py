"""One HTML file about a run, with everything in it: `write_report(RunFolder("runs/digits"), Path("report.html"))`."""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, StrictUndefined

from hf_ddpm.commandline.commands import as_typed
from hf_ddpm.doctor.examine import Examination, examine
from hf_ddpm.figures.curves import plot_curves
from hf_ddpm.figures.losses import LOSSES, plot_loss_curves
from hf_ddpm.hub.facts import RunFacts, check_picture, read_run
from hf_ddpm.markdown import mean_with_error, number, value_text, without_paths
from hf_ddpm.results import Results
from hf_ddpm.run_folder import RunFolder
from hf_ddpm.runtime.files import write_whole
from hf_ddpm.text import one_line, printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARK = "<!-- hf-ddpm report -->"
"""The start of every report, by which one is known."""
MAX_GRIDS = 40
"""Sample grids in a page, which holds them as they are."""
MAX_SMOOTHING = 20
"""Logged values in the moving mean of the losses, of which there are at least five times as many."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Grid:
    """A picture of samples."""

    step: int
    url: str
    """The picture itself, as a data URL."""


@dataclass(frozen=True)
class MeasuredModel:
    """Results of one evaluation."""

    name: str
    results: Results

    @property
    def rows(self) -> list[tuple[str, str, str, str]]:
        """Name, mean with its standard error, that of real images and that of noise, for each metric."""
        floor, ceiling = self.results.floor, self.results.ceiling
        return [
            (name, mean_with_error(value.mean, value.stderr), number(floor.get(name)), number(ceiling.get(name)))
            for name, value in self.results.metrics.items()
        ]

    @property
    def how(self) -> str:
        """How the samples were made and what they were compared with."""
        protocol = self.results.protocol
        seeds, images = len(protocol.get("seeds") or ()), protocol.get("num_images")
        steps = f"{protocol['num_inference_steps']} steps of {protocol['scheduler']}, " if protocol.get("scheduler") else ""
        scale = f"s = {protocol['guidance_scale']:g}, " if protocol.get("guidance_scale") is not None else ""
        reference = f"against the {protocol.get('reference_split')} split, {protocol.get('features')}"
        return f"{seeds} seeds of {value_text(images)} images, {steps}{scale}{reference}"


def check_output(output: Path) -> None:
    """Refuse a file that is there and is not a report."""
    if output.is_dir():
        raise ValueError(f"output is {str(output)!r}: it is a folder, give a file such as {output / 'report.html'}")
    if output.exists() and not output.read_bytes().startswith(MARK.encode()):
        raise ValueError(f"output is {str(output)!r}: the file exists and is not a report, give another")


def write_report(run: RunFolder, output: Path) -> None:
    """Write the report of a run; an older report is replaced.

    A `ValueError` of one line: there is no run, its options are damaged, or the file is something else.
    """
    check_output(output)
    examination = examine(run)
    write_whole(output, render_report(run.path.resolve().name, read_run(run, left_out_of="the report"), examination, run))


def render_report(title: str, facts: RunFacts, examination: Examination, run: RunFolder) -> str:
    """The text of the page; everything that a stranger may have written is escaped."""
    template = resources.files("hf_ddpm.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"as_typed": as_typed, "number": number, "value_text": value_text, "without_paths": without_paths}
    grids = read_grids(run)
    names = {
        "mark": MARK, "title": title, "run": facts, "examination": examination, "curves": curves_of(facts.log),
        "grids": grids, "left_out_grids": len(run.sample_grids()) - len(grids),
        "measured": [MeasuredModel(name, results) for name, results in facts.results.items()],
    }  # fmt: skip
    return printable(environment.from_string(template).render(names))


def read_grids(run: RunFolder) -> list[Grid]:
    """The sample grids, oldest first; of more than `MAX_GRIDS` the last one and others evenly spread."""
    found = list(run.sample_grids().items())
    count = min(len(found), MAX_GRIDS)
    chosen = [found[(index + 1) * len(found) // count - 1] for index in range(count)]
    grids = []
    for step, path in chosen:
        try:
            content = check_picture(path, run.path).read_bytes()
        except (OSError, ValueError) as error:
            logger.warning("left out of the report: %s", one_line(error))
            continue
        grids.append(Grid(step, f"data:image/png;base64,{base64.b64encode(content).decode()}"))
    return grids


def curves_of(log: list[dict[str, float]]) -> dict[str, str]:
    """Pictures of the logged numbers over the training steps, SVG as data URLs, by what they show."""
    curves = {}
    losses = [row for row in log if any(name in row for name in LOSSES)]
    if losses:
        smoothing = min(MAX_SMOOTHING, len(losses) // 5)
        curves["Training loss"] = _as_url(plot_loss_curves({"run": losses}, smoothing=smoothing if smoothing > 1 else None))
    logged = dict.fromkeys(name for row in log for name in row)
    measured = [name for name in logged if name not in (*LOSSES, *_NOT_MEASURED)]
    if measured:
        rows: list[Mapping[str, Any]] = [row for row in log if any(name in row for name in measured)]
        curves["Measured while training"] = _as_url(plot_curves(rows, x="step", metrics=measured))
    return curves


_NOT_MEASURED = ("step", "images_seen", "epoch", "lr", "grad_norm", "images_per_second")


def _as_url(figure: Figure) -> str:
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}"
