r"""Measure a model at every point of a grid of options: one JSON file per point, tables and figures.

Recipes are trained first and compared on a page, comparison.md, whose facts are in comparison.json.

    hf-ddpm sweep --model runs/digits/pipeline --features judge:runs/judge_digits \
        --grid.guidance_scale 1 1.5 2 3 --output_dir runs/digits/results/w
    hf-ddpm sweep ... --grid.scheduler ddim dpmsolver++ --grid.num_inference_steps 5 10
    hf-ddpm sweep ... --grid.checkpoint all noise
    hf-ddpm sweep ... --grid.sigma_rel 0.03 0.05 0.1 0.2
    hf-ddpm sweep --grid.recipe digits --grid.train_seed 0 1 2 \
        --features judge:runs/judge_digits --output_dir runs/seeds
    hf-ddpm sweep --grid.recipe digits gan_digits --train_minutes 3 \
        --features judge:runs/judge_digits --output_dir runs/equal_time
    torchrun --nproc_per_node 2 -m hf_ddpm sweep ...     # the processes share the images

An interrupted sweep is continued by the same command.
"""

from __future__ import annotations

import sys

from hf_ddpm.cli import parse_config, user_errors
from hf_ddpm.commandline.commands import shell_command
from hf_ddpm.experiments.options import SweepConfig
from hf_ddpm.first_checks import check_measurement
from hf_ddpm.runtime.libraries import load_libraries


def main(args: list[str] | None = None) -> None:
    config = parse_config(SweepConfig, args, about=__doc__)
    trainings = config.trainings()
    with user_errors(SweepConfig):
        check_measurement(
            model=config.model,
            features=config.features,
            schedulers=config.grid.scheduler or [config.sampling.scheduler],
            source=config.data.source,
        )
        load_libraries()
        from accelerate import PartialState

        from hf_ddpm.experiments.comparison import write_report
        from hf_ddpm.experiments.sweep import sweep

        rows = sweep(config, trainings)
        if PartialState().is_main_process:
            paths = write_report(config, rows, command=shell_command(sys.argv, PartialState().num_processes))
            print(next(path for path in paths if path.name == "sweep.md").read_text(encoding="utf-8"))
            print(f"results: {config.output_dir}/: {', '.join(['cells', *(path.name for path in paths)])}")
