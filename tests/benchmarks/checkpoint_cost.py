"""Cost of checkpoints: seconds per save, compared with seconds of training between two saves.

    python tests/benchmarks/checkpoint_cost.py --config train_scripts/recipes/mnist_cpu.yaml

Steps and saves alternate in one run, so that their ratio holds on a machine whose speed drifts. Options of train.py may
follow, such as --data.source FOLDER.
"""

import dataclasses
import statistics
import sys
import tempfile
from pathlib import Path

import torch
from measuring import print_machine, timed_calls

import hf_ddpm.training.engine as engine
import hf_ddpm.training.loop as loop
from hf_ddpm.cli import parse_config, user_errors
from hf_ddpm.config import CheckpointConfig
from hf_ddpm.markdown import counted
from hf_ddpm.training.options import TrainConfig

SAVES, STEPS_BETWEEN = 7, 5


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        config = parse_config(TrainConfig, [*sys.argv[1:], f"--output_dir={folder}/run"])
        intervals = {"of the recipe": config.checkpoint.every_steps, "by default": CheckpointConfig().every_steps}
        config = dataclasses.replace(
            config,
            max_train_steps=SAVES * STEPS_BETWEEN,
            num_train_epochs=None,
            checkpoint=dataclasses.replace(config.checkpoint, every_steps=STEPS_BETWEEN),
            logging=dataclasses.replace(config.logging, sample_every_steps=None),
            data=dataclasses.replace(config.data, test_split=None, max_images=1000),
        )
        with user_errors(), timed_calls(loop, "train_step") as steps, timed_calls(engine, "save_checkpoint") as saves:
            loop.train(config)
        size = sum(file.stat().st_size for file in _newest(Path(folder)).rglob("*") if file.is_file())
    step, save = (statistics.median(seconds for _, seconds in taken[1:]) for taken in (steps, saves))
    print_machine(counted(torch.get_num_threads(), "thread"))
    print(f"step {step:.3f} s, save {save:.3f} s of {size / 1e6:.1f} MB (medians)")
    for name, interval in intervals.items():
        print(f"every {interval} steps, {name}: {100 * save / (interval * step):.3f} % of the training")


def _newest(folder: Path) -> Path:
    return sorted((folder / "run" / "checkpoints").iterdir())[-1]


if __name__ == "__main__":
    main()
