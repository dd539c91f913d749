"""Training steps of a network in each precision and memory format, forward and backward, in turn: images per second.

python tests/benchmarks/step_variants.py --preset cifar32-small --batch_size 32
"""

import argparse
import math

import torch
from measuring import images_per_second, print_machine, print_table

from hf_ddpm.cli import user_errors
from hf_ddpm.markdown import counted
from hf_ddpm.models.unet import build_unet, unet_arguments
from hf_ddpm.runtime.distributed import init_distributed
from hf_ddpm.runtime.probe import time_in_turn
from hf_ddpm.training.cpu_bf16 import speed_up
from hf_ddpm.training.tuning import Trial

WAYS = (("fp32", "contiguous"), ("fp32", "channels_last"), ("bf16", "contiguous"), ("bf16", "channels_last"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="mnist28", help="network, see train.py --model.preset")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--num_threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()

    with user_errors():
        measure(arguments)


def measure(arguments: argparse.Namespace) -> None:
    """Time the steps in turn, and print the table."""
    device = init_distributed(arguments.num_threads).device
    size, threads = f"batch {arguments.batch_size}", counted(torch.get_num_threads(), "thread")
    print_machine(arguments.preset, size, str(device), threads)
    trial = build_trial(arguments.preset, arguments.batch_size, device)
    steps = {" ".join(way): trial.step(arguments.batch_size, *way) for way in WAYS}
    if device.type == "cpu":
        plain = build_trial(arguments.preset, arguments.batch_size, device, speed_up_attention=False)
        for memory_format in ("contiguous", "channels_last"):
            name = f"bf16 {memory_format}, attention in bf16 too"
            steps[name] = plain.step(arguments.batch_size, "bf16", memory_format)
    timings = time_in_turn(steps, seconds=math.inf, rounds=arguments.rounds)
    relative = timings.relative()
    rows = [[name, images_per_second(timings, name, arguments.batch_size), f"{1 / relative[name]:.2f}"] for name in steps]
    print_table(["steps in", "images/s", "ratio"], rows)


def build_trial(preset: str, batch_size: int, device: torch.device, *, speed_up_attention: bool = True) -> Trial:
    """The training steps of a network of this preset."""
    network = build_unet(unet_arguments(preset)).to(device)
    if speed_up_attention:
        speed_up(network, device, "bf16")  # which changes nothing in fp32
    channels, size = network.config.in_channels, network.config.sample_size

    def forward(network, images: torch.Tensor) -> torch.Tensor:
        return network(images, torch.full((len(images),), 500, device=device)).sample

    return Trial(network=network, forward=forward, image_shape=(channels, size, size), batch_size=batch_size)


if __name__ == "__main__":
    main()
