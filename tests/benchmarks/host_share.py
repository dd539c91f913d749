"""Share of a training step in which the network does not compute: waiting for the batch, and bookkeeping.

python tests/benchmarks/host_share.py --preset cifar32-small --batch_size 32

A thread prepares the next batch while the network computes; how long that takes is in the last row.
"""

import argparse
import contextlib
import itertools
import statistics
import tempfile
from unittest.mock import patch

from accelerate import Accelerator
from measuring import digits_options, print_machine, print_table, timed_calls

from hf_ddpm.cli import parse_config, user_errors
from hf_ddpm.markdown import counted
from hf_ddpm.runtime.threads import available_threads
from hf_ddpm.training import loop, update
from hf_ddpm.training.options import TrainConfig
from hf_ddpm.training.prefetch import Prefetch
from hf_ddpm.training.state import GeneratorState

FIRST = 2
"""Steps that warm up."""
PLACES = (
    (loop, "train_step"), (Prefetch, "take"), (loop.DiffusionRun, "prepare_batch"),
    (loop, "micro_batch_loss"), (Accelerator, "backward"), (update, "update_weights"), (GeneratorState, "update_average"),
)  # fmt: skip
"""The functions that are timed: a step, waiting, preparing; the others are what network, optimizer and average compute."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="cifar32-small", help="network, see train.py --model.preset")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=15, help="that are timed")
    parser.add_argument("--mixed_precision", default="fp32")
    parser.add_argument("--num_threads", type=int, default=available_threads(), help="default: all cores")
    arguments = parser.parse_args()

    with user_errors(TrainConfig), tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as running:
        options = [
            *digits_options(arguments.preset, arguments.batch_size), f"--output_dir={folder}/run",
            f"--max_train_steps={FIRST + arguments.steps + 1}", "--logging.sample_every_steps=null",
            f"--mixed_precision={arguments.mixed_precision}", f"--num_threads={arguments.num_threads}",
        ]  # fmt: skip
        config = parse_config(TrainConfig, options)
        steps, waiting, preparing, *computing = (running.enter_context(timed_calls(*place)) for place in PLACES)
        running.enter_context(patch.object(loop, "preview"))  # the pictures at the end, which take minutes
        loop.train(config)

    print_machine(
        arguments.preset, f"batch {arguments.batch_size}", config.mixed_precision, counted(arguments.num_threads, "thread"),
        f"medians of {arguments.steps} steps",
    )  # fmt: skip
    starts = [started for started, _ in steps]
    whole = [after - before for before, after in itertools.pairwise(starts)]
    network = [sum(parts) for parts in zip(*map(seconds_of, computing), strict=True)]
    parts = {
        "waiting for the batch": seconds_of(waiting),
        "bookkeeping": [a - b - c for a, b, c in zip(whole, network, seconds_of(waiting), strict=False)],
        "host, both of these": [a - b for a, b in zip(whole, network, strict=False)],
        "network, optimizer and moving average": network,
        "whole step": whole,
        "preparing a batch, in a thread meanwhile": seconds_of(preparing),
    }
    rows = []
    for name, seconds in parts.items():
        timed = list(zip(seconds, whole, strict=False))[FIRST:]
        share = statistics.median(part / step for part, step in timed)
        rows.append([name, f"{1000 * statistics.median(part for part, _ in timed):.2f}", f"{share:.2%}"])
    print_table(["part of a step", "ms", "share"], rows)


def seconds_of(calls: list[tuple[float, float]]) -> list[float]:
    """The seconds that each call took."""
    return [seconds for _, seconds in calls]


if __name__ == "__main__":
    main()
