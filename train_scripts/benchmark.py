"""Time training steps of one network in several variants, in turn: images per second and ratios.

    python train_scripts/benchmark.py --preset cifar32-small --batch_size 32

The first row is how train.py runs it; the ratios are medians over rounds, each with one step of every
variant, so that they are valid on a machine whose speed drifts.
"""

import statistics
import time
from dataclasses import dataclass
from typing import Literal

from hf_ddpm.cli import parse_config, user_errors
from hf_ddpm.config import require


@dataclass(kw_only=True)
class BenchmarkConfig:
    """Time training steps of one network in several variants."""

    preset: str = "mnist28"
    """Network, see train.py --model.preset."""
    batch_size: int = 64
    """Images per step."""
    mixed_precision: Literal["fp32", "bf16"] = "bf16"
    """Precision of the network's forward and backward pass."""
    rounds: int = 7
    """Timed steps of each variant, after 2 that are not timed."""

    def __post_init__(self):
        require(self.batch_size > 0, "batch_size", self.batch_size, "give at least 1 image")
        require(self.rounds > 0, "rounds", self.rounds, "give at least 1 round")


def main(args: list[str] | None = None) -> None:
    config = parse_config(BenchmarkConfig, args, about=__doc__)
    with user_errors():
        import torch

        from hf_ddpm.training.cpu_bf16 import speed_up, use_float32_attention

        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        variants = {
            "as trained": lambda network: speed_up(network, device, config.mixed_precision),
            "contiguous": use_float32_attention,
            "channels_last": lambda network: use_float32_attention(network.to(memory_format=torch.channels_last)),
            "attention under autocast": lambda network: None,
        }
        steps = {name: build_step(config, prepare, device) for name, prepare in variants.items()}
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(2 + config.rounds):
            for name, step in steps.items():
                started = time.perf_counter()
                step()
                seconds[name].append(time.perf_counter() - started)
        threads = torch.get_num_threads()
        print(f"{config.preset}, batch {config.batch_size}, {config.mixed_precision}, {device}, {threads} threads")
        for name, values in seconds.items():
            images = config.batch_size / statistics.median(values[2:])
            ratio = statistics.median(a / b for a, b in zip(seconds["as trained"][2:], values[2:], strict=True))
            print(f"{name:26s} {images:8.1f} images/s   {ratio:.2f} x as trained")


def build_step(config: BenchmarkConfig, prepare, device):
    """A function that takes one training step on random images."""
    import torch

    from hf_ddpm.models.unet import build_unet, unet_arguments

    arguments = unet_arguments(config.preset)
    network = build_unet(arguments).to(device)
    prepare(network)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    size, channels = arguments["sample_size"], arguments["in_channels"]
    images = torch.randn(config.batch_size, channels, size, size, device=device)
    timesteps = torch.randint(0, 1000, (config.batch_size,), device=device)

    def step() -> float:
        with torch.autocast(device.type, torch.bfloat16, enabled=config.mixed_precision == "bf16"):
            output = network(images, timesteps).sample
        loss = (output.float() - images).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


if __name__ == "__main__":
    main()
