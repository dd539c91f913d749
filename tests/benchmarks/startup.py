"""Seconds from the start of a program until it has answered, drawn its first image or taken its first training step.

python tests/benchmarks/startup.py
python tests/benchmarks/startup.py --scripts ../other/train_scripts train_scripts      # two source trees in turn
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from measuring import PATIENCE, ROOT, print_machine, print_table

from hf_ddpm.cli import user_errors
from hf_ddpm.markdown import counted

TRAIN = "train --config {recipes}/digits.yaml"
SAMPLE = "sample --model model --output_dir new"
# Name of a row; its command, in a folder with a model and a folder that is not empty; its exit code; the file awaited.
ROWS = (
    ("help", "train --help", 0, None),
    ("help with all options", "train --help all", 0, None),
    ("options", f"{TRAIN} --output_dir new --print_config", 0, None),
    ("an unknown option", f"{TRAIN} --output_dir new --optim.learning_rat 1", 2, None),
    ("a missing folder", f"{TRAIN} --output_dir new --data.source ./missing", 2, None),
    ("an occupied output_dir", f"{TRAIN} --output_dir occupied", 2, None),
    ("an unknown scheduler", f"{SAMPLE} --num_images 1 --scheduler DDIM", 2, None),
    ("an unknown split", f"{TRAIN} --output_dir new --data.train_split trian", 2, None),
    ("an unknown class of the data", f"{TRAIN} --output_dir new --data.labels 11", 2, None),
    ("the first sampled image", f"{SAMPLE} --num_images 1", 0, "new/*.png"),
    ("the first training step", f"{TRAIN} --output_dir new --max_train_steps 2 --logging.every_steps 1"
     " --logging.sample_every_steps null --checkpoint.every_steps null", 0, "new/metrics.jsonl"),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scripts", type=Path, nargs="+", default=[ROOT / "train_scripts"], help="folders of the programs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", help="words in the name of a row; default: all rows")
    arguments = parser.parse_args()
    scripts = [folder.resolve() for folder in arguments.scripts]
    rows = [row for row in ROWS if (arguments.only or "") in row[0]]
    with user_errors(), tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder) / "model")
        print_machine(f"medians of {counted(arguments.rounds, 'run')}")
        for place in scripts:  # compiles the source files, and reads libraries from the disk
            seconds_until(place, ROWS[-2], Path(folder))
        print_table(("seconds until", *map(str, arguments.scripts)), [
            [row[0], *medians(scripts, row, Path(folder), arguments.rounds)] for row in rows
        ])  # fmt: skip


def medians(scripts: list[Path], row: tuple, folder: Path, rounds: int) -> list[str]:
    """Seconds of each source tree for a row; the trees take turns."""
    taken = [[seconds_until(place, row, folder) for place in scripts] for _ in range(rounds)]
    return [f"{statistics.median(seconds):.2f}" for seconds in zip(*taken, strict=True)]


def seconds_until(scripts: Path, row: tuple, folder: Path) -> float:
    """Run the program of a row until it ends; the seconds until its file was there, or until its end."""
    name, command, exit_code, awaited = row
    program, *words = command.format(recipes=scripts / "recipes").split()
    environment = {**os.environ, "PYTHONPATH": str(scripts.parent), "HF_HUB_OFFLINE": "1"}
    environment |= {"HF_DATASETS_CACHE": str(folder / "cache")}
    with tempfile.TemporaryDirectory(dir=folder) as place, tempfile.TemporaryFile("w+") as output:
        (Path(place) / "occupied").mkdir()
        (Path(place) / "occupied" / "notes.txt").touch()
        (Path(place) / "model").symlink_to(folder / "model")
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, scripts / f"{program}.py", *words], cwd=place, env=environment, stdout=output, stderr=output
        )
        is_there = (lambda: has_file(Path(place), awaited)) if awaited else (lambda: process.poll() is not None)
        seconds = wait(is_there, process, started)
        if process.wait(PATIENCE) != exit_code:
            output.seek(0)
            raise ValueError(f"{name}: exit code {process.returncode} of {command}: {output.read()[-300:]}")
    return seconds


def wait(is_there: Callable[[], bool], process: subprocess.Popen, started: float) -> float:
    """Seconds until something is there, or until the end of the process."""
    while not is_there() and process.poll() is None:
        time.sleep(0.005)
    return time.perf_counter() - started


def has_file(place: Path, pattern: str) -> bool:
    """Whether there is a file of this name that is not empty."""
    return any(path.stat().st_size for path in place.glob(pattern))


def save_model(folder: Path) -> None:
    """Save an untrained model of the digits."""
    from diffusers import DDPMScheduler

    from hf_ddpm.models.unet import build_unet, unet_arguments
    from hf_ddpm.pipeline import CFGDDPMPipeline

    unet = build_unet({**unet_arguments("digits8"), "num_class_embeds": 11})
    CFGDDPMPipeline(unet, DDPMScheduler(), {digit: str(digit) for digit in range(10)}, 10).save_pretrained(folder)


if __name__ == "__main__":
    main()
