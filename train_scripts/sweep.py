"""Measure a model at every point of a grid of options: a JSON file a cell, a table (.csv, .md) and figures (.png, .pdf).

Recipes are trained first, and compared on a page, comparison.md, whose facts are in comparison.json.

    python train_scripts/sweep.py --model runs/digits/pipeline --features judge:runs/judge_digits \
        --grid.guidance_scale '[1, 1.5, 2, 3]' --output_dir runs/digits/results/w
    python train_scripts/sweep.py ... --grid.scheduler '[ddim, dpmsolver++]' --grid.num_inference_steps '[5, 10, 20]'
    python train_scripts/sweep.py ... --grid.checkpoint '[all, noise]'
    python train_scripts/sweep.py --grid.recipe '[train_scripts/recipes/digits.yaml]' --grid.train_seed '[0, 1, 2]' \
        --features judge:runs/judge_digits --output_dir runs/seeds       # trains each model first
    python train_scripts/sweep.py --train_minutes 3 --features judge:runs/judge_digits --output_dir runs/equal_time \
        --grid.recipe '[train_scripts/recipes/digits.yaml, train_scripts/recipes/gan_digits.yaml]'
    torchrun --nproc_per_node 2 train_scripts/sweep.py ...               # the processes share the images

The same command goes on where it was stopped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hf_ddpm.cli import parse_config, user_errors
from hf_ddpm.config import RunConfig
from hf_ddpm.experiments.options import SweepConfig, TrainedRun
from hf_ddpm.training.options import GANConfig, TrainConfig


def main(args: list[str] | None = None) -> None:
    config = parse_config(SweepConfig, args)
    trainings = {run: training_config(run, config.train_overrides or {}) for run in config.runs()}
    with user_errors(SweepConfig):
        from accelerate import PartialState

        from hf_ddpm.experiments.equal_time import Training
        from hf_ddpm.experiments.sweep import sweep
        from hf_ddpm.training.gan import train_gan
        from hf_ddpm.training.loop import train

        rows = sweep(
            config,
            {
                run: Training(options=options, program=train_gan if run.is_gan else train, image_size=image_size(options))
                for run, options in trainings.items()
            },
        )
        if PartialState().is_main_process:
            write_report(config, rows)


def training_config(run: TrainedRun, overrides: dict[str, Any]) -> RunConfig:
    """The options of a run of the sweep, which goes on if it has begun."""
    options = [f"--{name}={value}" for name, value in flatten(overrides)]
    options += [f"--output_dir={run.folder}", f"--seed={run.seed}", "--resume=auto"]
    if run.is_gan:
        return parse_config(GANConfig, ["--config", str(run.recipe), *options])
    options += ["--evaluation.every_steps=null", "--evaluation.features=null"]  # the sweep measures when all is trained
    return parse_config(TrainConfig, ["--config", str(run.recipe), *options])


def image_size(options: RunConfig) -> int:
    """Height and width of the images that a run learns, in pixels."""
    size = options.data.image_size
    return options.network_arguments(image_size=size)["sample_size"] if isinstance(options, TrainConfig) else size


def flatten(options: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested options as they are written on the command line."""
    for name, value in options.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value if isinstance(value, str) else json.dumps(value)


def write_report(config: SweepConfig, rows: list[dict[str, Any]]) -> None:
    """Write the tables and figures of a finished sweep, and say where they are."""
    import sys

    from accelerate import PartialState

    from hf_ddpm.evaluation.report import command_line
    from hf_ddpm.experiments.comparison import write_comparison
    from hf_ddpm.experiments.tables import distance_name, sweep_csv, sweep_markdown, varying_axes
    from hf_ddpm.figures.curves import plot_sweep, save_figure
    from hf_ddpm.runtime.files import write_whole

    folder = Path(config.output_dir)
    command = command_line(sys.argv, PartialState().num_processes)
    report = sweep_markdown(rows, command=command)
    write_whole(folder / "sweep.csv", sweep_csv(rows))
    write_whole(folder / "sweep.md", report)
    title = config.model or ", ".join(Path(recipe).stem for recipe in config.grid.recipe)
    figures = plot_sweep(rows, distance=distance_name(rows), varying=varying_axes(rows), title=title)
    paths = [path for name, figure in figures.items() for path in save_figure(figure, folder / name)]
    if config.grid.recipe is not None:
        pictures = [path.name for path in paths if path.suffix == ".png"]
        paths += write_comparison(config, rows, command=command, figures=pictures)
    print(report)
    print(f"results: {folder}/: {', '.join(['cells', 'sweep.csv', 'sweep.md', *(path.name for path in paths)])}")


if __name__ == "__main__":
    main()
