"""Train recipes for equal times; their steps are timed once, before any training, and kept in the folder of the sweep."""

from __future__ import annotations

import json
import shutil
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

from hf_ddpm.config import HubConfig, require
from hf_ddpm.experiments.options import SweepConfig, Trainings
from hf_ddpm.run_folder import RunFolder
from hf_ddpm.runtime.distributed import broadcast_from_main, init_distributed
from hf_ddpm.runtime.files import write_whole
from hf_ddpm.training.gan import train_gan
from hf_ddpm.training.loop import train
from hf_ddpm.training.options import GANConfig, TrainConfig

STEPS, CALIBRATION = "train_steps.json", "calibration"
"""File with the numbers of steps and folder of the short timed runs, both in the sweep's folder."""
WARM_UP_STEPS, TIMED_STEPS = 5, 20


def train_recipe(options: TrainConfig | GANConfig) -> None:
    """Train with these options, or resume; every process has to call it."""
    if isinstance(options, GANConfig):
        train_gan(options)
    else:
        train(options)


def with_equal_time(config: SweepConfig, trainings: Trainings) -> Trainings:
    """Replace the length of each training by the steps that fit into `config.train_minutes` (None = unchanged trainings).

    Every process has to call it. A ValueError names a recipe with learning-rate milestones, or steps in the folder that are
    damaged or of other minutes; after `Stopped` (see `hf_ddpm.training.loop.train`) finished timings are kept.
    """
    path = Path(config.output_dir) / STEPS
    known = _read(config, path)
    if config.train_minutes is None:
        return trainings
    began = not path.is_file() and any(run.folder.path.is_dir() for run in trainings)
    remedy = f"the sweep in {config.output_dir} was started without it, give another --output_dir"
    require(not began, "train_minutes", config.train_minutes, remedy)
    for run, options in trainings.items():
        milestones = options.optim.lr_milestones
        remedy = f"{run.recipe.name} gives them in the unit of its length, which --train_minutes replaces"
        require(milestones is None, "optim.lr_milestones", milestones, f"{remedy}, choose another lr_scheduler")
    for run, options in trainings.items():
        name = run.recipe.stem
        if name not in known:
            processes = init_distributed(config.num_threads)
            if processes.is_main_process:
                print(f"timing the steps of {name}", flush=True)
            seconds = seconds_per_step(options, Path(config.output_dir) / CALIBRATION)
            known[name] = {"seconds_per_step": seconds, "steps": max(1, int(60 * config.train_minutes / seconds))}
            if processes.is_main_process:
                write_whole(path, json.dumps({"train_minutes": config.train_minutes, "recipes": known}, indent=1) + "\n")
    steps = {run: known[run.recipe.stem]["steps"] for run in trainings}
    return {run: replace(it, num_train_epochs=None, max_train_steps=steps[run]) for run, it in trainings.items()}


def seconds_per_step(options: TrainConfig | GANConfig, folder: Path) -> float:
    """Median seconds of an optimizer step over a short run, whose folder is removed; every process has to call it."""
    processes = init_distributed(options.num_threads)
    broadcast_from_main(lambda: shutil.rmtree(folder, ignore_errors=True), processes)
    short = replace(
        options,
        output_dir=str(folder),
        resume="none",
        num_train_epochs=None,
        max_train_steps=WARM_UP_STEPS + TIMED_STEPS,
        checkpoint=replace(options.checkpoint, every_steps=None),
        logging=replace(options.logging, every_steps=1, sample_every_steps=None, trackers=[]),
    )
    train_recipe(replace(short, hub=HubConfig()) if isinstance(short, TrainConfig) else short)
    processes = init_distributed(options.num_threads)

    def read() -> float:
        rows = [row for row in RunFolder(folder).read_metrics() if "images_per_second" in row]
        images = rows[-1]["images_seen"] - rows[-2]["images_seen"]
        seconds = [images / row["images_per_second"] for row in rows[WARM_UP_STEPS:]]
        shutil.rmtree(folder, ignore_errors=True)
        return statistics.median(seconds)

    return broadcast_from_main(read, processes)


def _read(config: SweepConfig, path: Path) -> dict[str, dict[str, Any]]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        before, known = content["train_minutes"], content["recipes"]
        assert all(isinstance(timed["steps"], int) and timed["steps"] >= 1 for timed in known.values())
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise ValueError(f"--output_dir: {path} is damaged, remove it and the models trained so far") from error
    remedy = f"the sweep in {config.output_dir} was started with {before!r}, give another --output_dir"
    require(before == config.train_minutes, "train_minutes", config.train_minutes, remedy)
    return known
