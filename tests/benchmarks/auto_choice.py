"""What `auto` chooses for a training run, against each choice by hand: images per second, beside busy neighbours or not.

    python tests/benchmarks/auto_choice.py --option num_threads --presets digits8 mnist28 --neighbours 0 1
    python tests/benchmarks/auto_choice.py --option mixed_precision --presets digits8 mnist28 cifar32-small

Each choice is a run of train.py. The runs take turns: all but one are stopped. Those of `auto` begin beside the neighbours,
processes that keep one core each busy. The ratio is to the best choice by hand, the median over rounds.
"""

import argparse
import contextlib
import itertools
import json
import tempfile
from pathlib import Path

from measuring import (
    busy_neighbours,
    digits_options,
    images_per_second,
    our_training,
    print_machine,
    print_table,
    take_turns,
)

from hf_ddpm.cli import user_errors
from hf_ddpm.markdown import counted
from hf_ddpm.run_folder import RunFolder
from hf_ddpm.runtime.progress import Progress
from hf_ddpm.runtime.threads import available_threads, thread_counts

CHOICES = {
    "num_threads": [str(count) for count in thread_counts(available_threads())],
    "mixed_precision": ["fp32", "bf16"],
    "memory_format": ["contiguous", "channels_last"],
}
"""Choices by hand of each option."""
FIXED = {
    "num_threads": ["--mixed_precision=fp32"],
    "mixed_precision": ["--num_threads=1"],
    "memory_format": ["--mixed_precision=bf16", "--num_threads=1"],
}
"""The other options."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--option", default="num_threads", choices=CHOICES)
    parser.add_argument("--presets", nargs="+", default=["digits8", "mnist28"], help="networks, see train.py --model.preset")
    parser.add_argument("--neighbours", type=int, nargs="+", default=[0, 1], help="numbers of busy processes")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3, help="of training per run and round")
    arguments = parser.parse_args()

    print_machine(f"batch {arguments.batch_size}", *FIXED[arguments.option])
    settings, rows = list(itertools.product(arguments.presets, arguments.neighbours)), []
    with user_errors(), Progress("timing", len(settings), "setting") as bar:
        for preset, neighbours in settings:
            rows.append([preset, str(neighbours), *measure(arguments, preset, neighbours)])
            bar.advance()
    by_hand = [counted(int(choice), "thread") if choice.isdigit() else choice for choice in CHOICES[arguments.option]]
    print_table(["network", "neighbours", *by_hand, "auto", "chosen", "auto / best"], rows)


def measure(arguments: argparse.Namespace, preset: str, neighbours: int) -> list[str]:
    """Images per second of each choice and of auto, what auto chose, and the ratio of auto to the best."""
    runs, options = {}, [*digits_options(preset, arguments.batch_size), *FIXED[arguments.option]]
    with tempfile.TemporaryDirectory() as name, busy_neighbours(neighbours), contextlib.ExitStack() as running:
        for choice in ["auto", *CHOICES[arguments.option]]:
            by_hand = [] if choice == "auto" else [f"--{arguments.option}={choice}"]
            runs[choice] = running.enter_context(our_training(Path(name) / choice, [*options, *by_hand]))
        timings = take_turns(runs, rounds=arguments.rounds, seconds=arguments.seconds)
        environment = json.loads(RunFolder(Path(name) / "auto" / "run").environment.read_text(encoding="utf-8"))
    relative = timings.relative()
    fastest = min(CHOICES[arguments.option], key=lambda choice: relative[choice])
    speeds = {choice: images_per_second(timings, choice, arguments.batch_size) for choice in runs}
    auto = speeds.pop("auto")
    return [*speeds.values(), auto, str(environment[arguments.option]), f"{relative[fastest]:.2f}"]


if __name__ == "__main__":
    main()
