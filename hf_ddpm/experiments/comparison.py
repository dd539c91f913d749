"""Compare the recipes of a finished sweep: `write_comparison(config, rows, command=...)` writes a page, its pictures and
`comparison.json`, which holds everything that the page says.
"""

from __future__ import annotations

import io
import itertools
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from hf_ddpm.experiments.comparison_page import AXIS_NAMES, comparison_markdown
from hf_ddpm.experiments.options import SweepConfig, TrainedRun
from hf_ddpm.experiments.tables import AXES, distance_name, metric_names, plain_name
from hf_ddpm.figures.curves import save_figure
from hf_ddpm.figures.losses import LOSSES, plot_losses, read_losses
from hf_ddpm.markdown import without_paths
from hf_ddpm.runtime.files import write_whole
from hf_ddpm.sampling import load_pipeline, network_of

FOLDER, LOSS_CURVES = "comparison", "comparison/losses.png"
MAX_PICTURE = 300_000  # bytes of a sample grid
SMOOTHED_POINTS = 20  # of a loss curve, beyond which it is smoothed


def write_comparison(
    config: SweepConfig, rows: Sequence[dict[str, Any]], *, command: str, figures: Sequence[str] = ()
) -> list[Path]:
    """Write `comparison.md`, `comparison.json` and the pictures of the folder `comparison`.

    Args:
        config: of a finished sweep over recipes.
        rows: what `sweep` returned.
        command: what started it.
        figures: file names of the sweep's own figures, which the page shows too.

    Returns:
        Paths of the page and of the JSON file.

    Raises:
        ValueError: a run folder is damaged.
    """
    folder, runs = Path(config.output_dir), config.runs()
    losses = {run.folder.name: read_losses(run.folder) for run in runs}
    facts = comparison_facts(config, rows, losses, command=command, figures=figures)
    for run, about in zip(runs, facts["runs"], strict=True):
        if about["samples"] is not None:
            picture = small_png(last_samples(run.folder))
            write_whole(folder / about["samples"], lambda path, picture=picture: path.write_bytes(picture))
    values = [row[name] for found in losses.values() for row in found for name in LOSSES if name in row]
    smoothing = max(map(len, losses.values())) // SMOOTHED_POINTS
    curves = plot_losses(losses, smoothing=smoothing if smoothing > 1 else None, log_y=min(values) > 0)
    save_figure(curves, (folder / LOSS_CURVES).with_suffix(""))
    paths = [folder / "comparison.md", folder / "comparison.json"]
    write_whole(paths[1], json.dumps(facts, indent=1) + "\n")
    write_whole(paths[0], comparison_markdown(json.loads(json.dumps(facts))))  # as from the file
    return paths


def comparison_facts(
    config: SweepConfig,
    rows: Sequence[dict[str, Any]],
    losses: Mapping[str, Sequence[dict[str, Any]]],
    *,
    command: str,
    figures: Sequence[str],
) -> dict[str, Any]:
    """Everything that a page about the recipes says, as JSON values, without the folders of this machine.

    Args:
        config, rows, command, figures: see `write_comparison`.
        losses: rows of `read_losses` by the name of each run's folder.

    Returns:
        `runs`, what training each took; `cells`, what was measured; `means` over the training seeds, where there are
        several; and what is the same for all.
    """
    folder = Path(config.output_dir)
    results = [json.loads((folder / "cells" / f"{row['cell']}.json").read_text(encoding="utf-8")) for row in rows]
    cells = [_cell_facts(row, found) for row, found in zip(rows, results, strict=True)]
    protocol = results[0]["protocol"]
    facts = {
        "recipes": list(dict.fromkeys(row["recipe"] for row in rows)),
        "train_seeds": list(dict.fromkeys(row["train_seed"] for row in rows)),
        "train_minutes": config.train_minutes,
        "distance": distance_name(rows),
        "features": protocol["features"],
        "data_source": protocol["data_source"],
        "data_labels": protocol["data_labels"],
        "reference_split": protocol["reference_split"],
        "reference_images": protocol["reference_images"],
        "num_seeds": len(protocol["seeds"]),
        "runs": [_run_facts(run, losses[run.folder.name]) for run in config.runs()],
        "cells": cells,
        "means": means_over_training(cells),
        "notes": list(dict.fromkeys(note for found in results for note in found["notes"])),
        "losses": LOSS_CURVES,
        "figures": list(figures),
        "command": command,
    }
    return without_paths(facts)


def means_over_training(cells: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over the training seeds, of cells that differ in nothing else, with their standard error over these."""
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for cell in cells:
        groups.setdefault(tuple(cell[axis] for axis in AXIS_NAMES if axis != "train_seed"), []).append(cell)
    means = []
    for group in groups.values():
        if len(group) > 1:
            first = group[0]
            axes = {axis: first[axis] for axis in AXIS_NAMES} | {"train_seed": "mean", "num_train_seeds": len(group)}
            names = [name for name in first["metrics"] if all(name in cell["metrics"] for cell in group)]
            metrics = {name: _mean([cell["metrics"][name]["mean"] for cell in group]) for name in names}
            means.append({**axes, "network_calls": first["network_calls"], "metrics": metrics})
    return means


def small_png(path: Path) -> bytes:
    """A picture as PNG of less than 300 kB: as it is, or in 256 colours, or smaller."""
    content = path.read_bytes()
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    while len(content) >= MAX_PICTURE:
        file = io.BytesIO()
        picture.quantize(256).save(file, "PNG", optimize=True)
        content = file.getvalue()
        picture = picture.resize([max(1, side * 4 // 5) for side in picture.size], Image.Resampling.LANCZOS)
    return content


def last_samples(run_dir: Path) -> Path | None:
    """The last grid of samples that a run drew; None = it drew none."""
    return max(run_dir.glob("samples/step-*.png"), default=None)


def _run_facts(run: TrainedRun, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What a model is and what its training took, from its run folder."""
    surroundings = json.loads((run.folder / "environment.json").read_text(encoding="utf-8"))
    network = network_of(load_pipeline(run.model, device="cpu"))
    last = rows[-1]
    # Where the run went on from a checkpoint between two rows, the steps before it are taken to have been as fast.
    seen = itertools.pairwise([0, *(row["images_seen"] for row in rows)])
    speeds = [row["images_per_second"] for row in rows]
    train_images = round(last["images_seen"] / last["epoch"]) if last.get("epoch") else None
    return {
        "name": run.folder.name,
        "recipe": run.recipe.stem,
        "train_seed": run.seed,
        "kind": "GAN" if run.is_gan else "diffusion model",
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "steps": last["step"],
        "images_seen": last["images_seen"],
        "train_images": train_images,
        "images_per_second": statistics.median(speeds),
        "seconds_per_epoch": train_images and train_images / statistics.median(speeds),
        "training_seconds": sum((after - before) / speed for (before, after), speed in zip(seen, speeds, strict=True)),
        "final_losses": {name: last[name] for name in LOSSES if name in last},
        "samples": None if last_samples(run.folder) is None else f"{FOLDER}/{run.folder.name}.png",
        **{name: surroundings[name] for name in ("processor", "gpu", "num_processes", "num_threads")},
    }


def _cell_facts(row: dict[str, Any], results: dict[str, Any]) -> dict[str, Any]:
    bounds = {bound: {plain_name(name): value for name, value in results[bound].items()} for bound in ("floor", "ceiling")}
    return {
        **{name: row[name] for name in ("cell", *(axis for axis in AXES if axis != "checkpoint"))},
        **{name: row[name] for name in ("network_calls", "num_seeds", "floor_num_images")},
        "metrics": {
            name: {part: row[name + suffix] for part, suffix in (("mean", ""), ("stderr", "_stderr"), ("n", "_n"))}
            for name in metric_names([row])
        },
        **bounds,
        "per_class": {
            label: {
                plain_name(name): {part: value[part] for part in ("mean", "stderr", "n", "floor")}
                for name, value in metrics.items()
            }
            for label, metrics in results["per_class"].items()
        },
    }


def _mean(values: Sequence[float]) -> dict[str, float]:
    return {"mean": statistics.fmean(values), "stderr": statistics.stdev(values) / math.sqrt(len(values)), "n": len(values)}
