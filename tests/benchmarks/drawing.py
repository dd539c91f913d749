"""Time in which one process draws the noise, timesteps, label drops and flips of a step, by the number of processes.

python tests/benchmarks/drawing.py --processes 1 8 64 512

The other processes are simulated: each draws only its own part of the total batch.
"""

import argparse
import math
import statistics
from collections.abc import Callable

import torch
from measuring import print_machine, print_table

from hf_ddpm.runtime.probe import time_in_turn
from hf_ddpm.training.step_randomness import StepRandomness, sample_step_randomness


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 8, 64, 512])
    parser.add_argument("--batch_size", type=int, default=32, help="images of each process")
    parser.add_argument("--image_shape", type=int, nargs=3, default=[3, 32, 32], help="channels, height and width")
    parser.add_argument("--rounds", type=int, default=50)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # as in the thread that draws

    shape = tuple(arguments.image_shape)
    print_machine(f"images of {' x '.join(map(str, shape))}, {arguments.batch_size} of each process")
    draws = {count: drawing(count, arguments.batch_size, shape) for count in arguments.processes}
    timings = time_in_turn(draws, seconds=math.inf, rounds=arguments.rounds)
    rows = []
    for count, ratio in timings.relative().items():
        rows.append(
            [
                str(count),
                f"{count * arguments.batch_size:,}",
                f"{1000 * statistics.median(timings.seconds[count]):.2f}",
                f"{ratio:.2f}",
            ]
        )
    print_table(["processes", "total batch", "ms per step of one process", "ratio"], rows)


def drawing(processes: int, batch_size: int, image_shape: tuple[int, ...]) -> Callable[[], StepRandomness]:
    """A function that draws for the process in the middle."""
    first, total = processes // 2 * batch_size, processes * batch_size

    def draw() -> StepRandomness:
        return sample_step_randomness(
            0,
            0,
            range(first, first + batch_size),
            total_batch_size=total,
            image_shape=image_shape,
            num_train_timesteps=1000,
            timestep_sampling="stratified",
        )

    return draw


if __name__ == "__main__":
    main()
