r"""Average the weights of a trained run over another length, from the snapshots that the training has kept.

    hf-ddpm train --config digits --ema.snapshot_every_steps 50 --output_dir runs/digits
    hf-ddpm average runs/digits --sigma_rel 0.08
    hf-ddpm average runs/digits --sigma_rel 0.2 --output_dir runs/long_average
    hf-ddpm sweep --model runs/digits/pipeline --grid.sigma_rel 0.03 0.05 0.1 0.2 ...

The result is a saved pipeline, of which average.json says how it was made.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from hf_ddpm.cli import parse_config, user_errors
from hf_ddpm.config import BaseConfig
from hf_ddpm.run_folder import RunFolder
from hf_ddpm.runtime.libraries import load_libraries


@dataclass(kw_only=True)
class AverageConfig(BaseConfig):
    """Average the weights of a run over another length."""

    run: Path
    """Run folder; it may also stand first, without a name."""
    sigma_rel: float
    """Length: standard deviation of the steps, weighted as in the average, as a fraction of all steps (Karras et al. 2024).
    With 0.05 the last tenth of the steps has 85 % of the weight, with 0.1 57 %. Snapshots usually give 0.03 to 0.25."""
    step: int | None = None
    """Optimizer step of the snapshot at which the average ends; None = the newest one."""
    output_dir: Path | None = None
    """New or empty folder for the pipeline; None = RUN/averages/sigma_rel-LENGTH, or sigma_rel-LENGTH_step-STEP."""


def main(args: list[str] | None = None) -> None:
    args = sys.argv[1:] if args is None else args
    if args and not args[0].startswith("-"):
        args = ["--run", *args]
    config = parse_config(AverageConfig, args, about=__doc__)
    with user_errors(AverageConfig):
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError("weights are averaged in one process: leave the launcher out")
        run = RunFolder(config.run)
        if not run.path.is_dir():
            raise ValueError(f"run is {str(run.path)!r}: no such folder exists")
        folder = config.output_dir or run.average(config.sigma_rel, config.step)
        load_libraries()
        from hf_ddpm.training.posthoc_average import write_average

        record = write_average(run, config.sigma_rel, Path(folder), config.step)
        print(f"average:  sigma_rel {record.sigma_rel:g} up to step {record.step}, from {len(record.snapshots)} snapshots")
        print(f"error:    {100 * record.error:.2g} % of the weights of the steps")
        print(f"pipeline: {folder}")
