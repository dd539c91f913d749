r"""Measure a model at every point of a grid of options: one JSON file per point, tables and figures.

Recipes are trained first and compared on a page, comparison.md, whose facts are in comparison.json.

    python train_scripts/sweep.py --model runs/digits/pipeline --features judge:runs/judge_digits \
        --grid.guidance_scale 1 1.5 2 3 --output_dir runs/digits/results/w
    python train_scripts/sweep.py ... --grid.scheduler ddim dpmsolver++ --grid.num_inference_steps 5 10
    python train_scripts/sweep.py ... --grid.checkpoint all noise
    python train_scripts/sweep.py --grid.recipe train_scripts/recipes/digits.yaml \
        --grid.train_seed 0 1 2 --features judge:runs/judge_digits --output_dir runs/seeds
    python train_scripts/sweep.py --features judge:runs/judge_digits --output_dir runs/equal_time \
        --grid.recipe train_scripts/recipes/digits.yaml train_scripts/recipes/gan_digits.yaml \
        --train_minutes 3
    torchrun --nproc_per_node 2 train_scripts/sweep.py ...     # the processes share the images

An interrupted sweep is continued by the same command.
"""

from __future__ import annotations

import sys

from hf_ddpm.cli import parse_config, user_errors
from hf_ddpm.experiments.options import SweepConfig
from hf_ddpm.first_checks import check_measurement
from hf_ddpm.runtime.libraries import load_libraries


def main(args: list[str] | None = None) -> None:
    config = parse_config(SweepConfig, args, about=__doc__)
    trainings = config.trainings()
    with user_errors(SweepConfig):
        schedulers, source = config.grid.scheduler or [config.sampling.scheduler], config.data.source
        check_measurement(model=config.model, features=config.features, schedulers=schedulers, source=source)
        load_libraries()
        from accelerate import PartialState

        from hf_ddpm.evaluation.report import command_line
        from hf_ddpm.experiments.comparison import write_report
        from hf_ddpm.experiments.sweep import sweep

        rows = sweep(config, trainings)
        if PartialState().is_main_process:
            paths = write_report(config, rows, command=command_line(sys.argv, PartialState().num_processes))
            print(next(path for path in paths if path.name == "sweep.md").read_text(encoding="utf-8"))
            print(f"results: {config.output_dir}/: {', '.join(['cells', *(path.name for path in paths)])}")


if __name__ == "__main__":
    main()
