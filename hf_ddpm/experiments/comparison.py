"""Report a finished sweep as tables and figures; for recipes, also as a comparison page with pictures and all its facts."""

from __future__ import annotations

import io
import itertools
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from hf_ddpm.experiments.facts import ComparisonFacts, TrainingFacts
from hf_ddpm.experiments.options import SweepConfig, TrainedRun
from hf_ddpm.experiments.page import comparison_page
from hf_ddpm.experiments.sweep_figures import plot_sweep
from hf_ddpm.experiments.tables import (
    SweepRow,
    distance_name,
    means_over_trainings,
    sweep_csv,
    sweep_markdown,
    varying_axes,
)
from hf_ddpm.figures.blocks import plain
from hf_ddpm.figures.losses import LOSSES, plot_loss_curves, read_losses
from hf_ddpm.figures.style import save_figure
from hf_ddpm.results import Results
from hf_ddpm.runtime.files import write_whole
from hf_ddpm.runtime.pictures import open_picture
from hf_ddpm.sampling import load_pipeline, network_of

LoggedSteps = Sequence[Mapping[str, Any]]  # of `read_losses`

FOLDER = "comparison"
LOSS_CURVES = f"{FOLDER}/losses.png"
MAX_PICTURE = 300_000
"""Largest size of a sample grid, in bytes."""
SMOOTHED_POINTS = 20
"""Number of logged values above which a loss curve is smoothed."""


def write_report(config: SweepConfig, rows: Sequence[SweepRow], *, command: str) -> list[Path]:
    """Write `sweep.csv`, `sweep.md`, the figures and, for recipes, a comparison into the folder of a finished sweep.

    `rows` are what `sweep` returned, `command` started it. Returns the paths of all files written, except the pictures of
    the comparison; a ValueError names a damaged run folder.
    """
    folder = Path(config.output_dir)
    paths = [folder / "sweep.csv", folder / "sweep.md"]
    write_whole(paths[0], sweep_csv(rows))
    write_whole(paths[1], sweep_markdown(rows, command=command))
    title = plain(config.model or ", ".join(Path(recipe).stem for recipe in config.grid.recipe or ()), longest=100)
    shown, seeds = rows, len(config.grid.train_seed or ())
    if seeds > 1:
        shown, title = means_over_trainings(rows), f"{title}; means over {seeds} trainings"
    columns = [row.columns() for row in shown]
    figures = plot_sweep(columns, distance=distance_name(rows), varying=varying_axes(shown), title=title)
    paths += [path for name, figure in figures.items() for path in save_figure(figure, folder / name)]
    if config.grid.recipe is not None:
        paths += _write_comparison(config, rows, command, [path.name for path in paths if path.suffix == ".png"])
    return paths


def _write_comparison(config: SweepConfig, rows: Sequence[SweepRow], command: str, figures: Sequence[str]) -> list[Path]:
    """Write `comparison.md`, `comparison.json` and the pictures of the folder `comparison`; see `write_report`."""
    folder, runs = Path(config.output_dir), config.runs()
    losses = {run: read_losses(run.folder.path) for run in runs}
    trainings = [_training_facts(run, losses[run], shown=run.seed == runs[0].seed) for run in runs]
    text = _comparison_facts(config, rows, trainings, command, figures).to_json()
    for run, training in zip(runs, trainings, strict=True):
        grid = run.folder.last_sample_grid()
        if grid is not None and training.samples is not None:
            write_whole(folder / training.samples, small_png(grid))
    paths = [folder / "comparison.md", folder / "comparison.json"]
    write_whole(paths[1], text)
    write_whole(paths[0], comparison_page(ComparisonFacts.from_json(text)))
    means = mean_losses(losses)
    values = [row[name] for found in means.values() for row in found for name in LOSSES if name in row]
    smoothing = max(map(len, means.values())) // SMOOTHED_POINTS
    curves = plot_loss_curves(means, smoothing=smoothing if smoothing > 1 else None, log_y=min(values, default=0) > 0)
    save_figure(curves, (folder / LOSS_CURVES).with_suffix(""))
    return paths


def mean_losses(losses: Mapping[TrainedRun, LoggedSteps]) -> dict[str, LoggedSteps]:
    """Logged losses by the name of a curve: of each recipe the means of its trainings, at the steps that all have logged."""
    recipes: dict[str, list[LoggedSteps]] = {}
    for run, rows in losses.items():
        recipes.setdefault(run.recipe.stem, []).append(rows)
    means: dict[str, LoggedSteps] = {}
    for recipe, trainings in recipes.items():
        by_step = [{row["step"]: row for row in rows} for rows in trainings]
        names = [name for name in LOSSES if name in trainings[0][0]]
        means[recipe if len(trainings) == 1 else f"{recipe}, mean of {len(trainings)}"] = [
            {"step": step} | {name: statistics.fmean(rows[step][name] for rows in by_step) for name in names}
            for step in by_step[0]
            if all(step in rows for rows in by_step)
        ]
    return means


def small_png(path: Path) -> bytes:
    """A picture as PNG of less than 300 kB: unchanged, or with 256 colors, or scaled down."""
    content = path.read_bytes()
    with open_picture(path) as opened:
        picture = opened.convert("RGB")
    while len(content) >= MAX_PICTURE:
        file = io.BytesIO()
        picture.quantize(256).save(file, "PNG", optimize=True)
        content = file.getvalue()
        width, height = (max(1, side * 4 // 5) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    return content


def _comparison_facts(
    config: SweepConfig, rows: Sequence[SweepRow], trainings: list[TrainingFacts], command: str, figures: Sequence[str]
) -> ComparisonFacts:
    results = [Results.read(Path(config.output_dir) / "cells" / f"{row.cell}.json") for row in rows]
    protocol = results[0].protocol
    reference = ("features", "data_source", "data_labels", "reference_split", "reference_images")
    return ComparisonFacts(
        recipes=list(dict.fromkeys(run.recipe for run in trainings)),
        train_seeds=list(dict.fromkeys(run.train_seed for run in trainings)),
        train_minutes=config.train_minutes,
        distance=distance_name(rows),
        **{name: protocol[name] for name in reference},
        num_seeds=len(protocol["seeds"]),
        runs=trainings,
        cells=list(rows),
        notes=list(dict.fromkeys(note for found in results for note in found.notes)),
        losses=LOSS_CURVES,
        figures=list(figures),
        command=command,
    )


def _training_facts(run: TrainedRun, rows: LoggedSteps, *, shown: bool) -> TrainingFacts:
    """A finished training run, with its logged steps of `read_losses`; `shown` = with its sample grid."""
    surroundings = json.loads(run.folder.environment.read_text(encoding="utf-8"))
    network = network_of(load_pipeline(str(run.folder.pipeline), device="cpu"))
    last = rows[-1]
    # If the run was resumed between two rows, the steps before the checkpoint are assumed to be as fast as those after it.
    seen = itertools.pairwise([0, *(row["images_seen"] for row in rows)])
    speeds = [row["images_per_second"] for row in rows]
    speed = statistics.median(speeds)
    train_images = round(last["images_seen"] / last["epoch"]) if last.get("epoch") else None
    return TrainingFacts(
        name=run.name,
        recipe=run.recipe.stem,
        train_seed=run.seed,
        kind="GAN" if run.is_gan else "diffusion model",
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        steps=last["step"],
        images_seen=last["images_seen"],
        train_images=train_images,
        images_per_second=speed,
        seconds_per_epoch=train_images and train_images / speed,
        training_seconds=sum((after - before) / each for (before, after), each in zip(seen, speeds, strict=True)),
        final_losses={name: last[name] for name in LOSSES if name in last},
        samples=f"{FOLDER}/{run.name}.png" if shown and run.folder.last_sample_grid() is not None else None,
        **{name: surroundings[name] for name in ("processor", "gpu", "num_processes", "num_threads")},
    )
