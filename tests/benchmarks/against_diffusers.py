"""Training by train.py and by diffusers' train_unconditional.py: images per second with the same U-Net, batch and images.

    python tests/benchmarks/against_diffusers.py --script path/to/train_unconditional.py

Both programs are started as a user would start them, and take turns; while one trains, the other is stopped. The ratio is
the median over rounds, so that it holds on a machine whose speed drifts. The script is in the repository of diffusers, in
examples/unconditional_image_generation. It has to be that of the installed version, and needs torchvision and tensorboard.
"""

import argparse
import contextlib
import tempfile
from pathlib import Path

import diffusers
import numpy as np
from measuring import TrainingProgram, images_per_second, our_training, print_machine, print_table, take_turns
from PIL import Image

from hf_ddpm.cli import user_errors
from hf_ddpm.markdown import counted
from hf_ddpm.models.unet import build_unet, unet_arguments
from hf_ddpm.runtime.threads import available_threads

ADDRESS = f"https://raw.githubusercontent.com/huggingface/diffusers/v{diffusers.__version__}"
ADDRESS += "/examples/unconditional_image_generation/train_unconditional.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--script", required=True, type=Path, help="train_unconditional.py of diffusers")
    parser.add_argument("--preset", default="cifar32-small", help="network, see train.py --model.preset, with RGB images")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--mixed_precision", default="fp32", choices=["fp32", "bf16"], help="of both programs")
    parser.add_argument("--num_threads", type=int, default=available_threads(), help="of both programs; default: all cores")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5, help="of training per program and round")
    arguments = parser.parse_args()
    if not arguments.script.is_file():
        parser.error(f"--script is {str(arguments.script)!r}: no such file")

    with user_errors(), tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as running:
        folder, network = Path(name), build_unet(unet_arguments(arguments.preset, channels=3))
        network.save_config(folder / "network")
        size = network.config.sample_size
        print_machine(
            f"{arguments.preset}, {network.num_parameters() / 1e6:.2f} M parameters", f"batch {arguments.batch_size}",
            arguments.mixed_precision, counted(arguments.num_threads, "thread"),
        )  # fmt: skip
        write_images(folder / "images", 200 * arguments.batch_size, size)
        try:
            theirs = running.enter_context(start_theirs(arguments, folder, size))
        except RuntimeError as error:
            parser.error(f"{error}; take that of the installed version: {ADDRESS}")
        programs = {"train_unconditional.py": theirs, "train.py": running.enter_context(start_ours(arguments, folder, size))}
        timings = take_turns(programs, rounds=arguments.rounds, seconds=arguments.seconds)
    relative = timings.relative()
    print_table(
        ["program", "images/s", "ratio"],
        [[name, images_per_second(timings, name, arguments.batch_size), f"{1 / relative[name]:.2f}"] for name in programs],
    )


def write_images(folder: Path, count: int, size: int) -> None:
    """RGB images of noise as PNG files."""
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{number:06}.png", compress_level=1)


def start_ours(arguments: argparse.Namespace, folder: Path, image_size: int) -> TrainingProgram:
    options = {
        "data.source": folder / "images", "data.test_split": "null", "data.image_size": image_size,
        "data.batch_size": arguments.batch_size, "model.preset": folder / "network",
        "mixed_precision": arguments.mixed_precision,
        "num_threads": arguments.num_threads, "objective.prediction_type": "epsilon", "schedule.beta_schedule": "linear",
        "optim.learning_rate": "1e-4",
    }  # fmt: skip
    return our_training(folder / "ours", [f"--{name}={value}" for name, value in options.items()])


def start_theirs(arguments: argparse.Namespace, folder: Path, image_size: int) -> TrainingProgram:
    work = folder / "theirs"
    work.mkdir()
    options = {
        "train_data_dir": folder / "images", "resolution": image_size, "train_batch_size": arguments.batch_size,
        "model_config_name_or_path": folder / "network", "output_dir": work / "run", "cache_dir": work / "cache",
        "mixed_precision": {"fp32": "no"}.get(arguments.mixed_precision, arguments.mixed_precision),
        "num_epochs": 1000, "checkpointing_steps": 10_000_000,
        "ddpm_num_inference_steps": 1, "eval_batch_size": 1,  # of the pictures after the first epoch
    }  # fmt: skip
    command = [str(arguments.script.resolve()), "--use_ema", *(f"--{name}={value}" for name, value in options.items())]
    # Its progress bar writes the number of each step.
    variables = {"OMP_NUM_THREADS": str(arguments.num_threads), "TQDM_MININTERVAL": "0", "HF_HUB_OFFLINE": "1"}
    return TrainingProgram(command, work / "output.txt", work / "output.txt", rb"step=(\d+)", variables)


if __name__ == "__main__":
    main()
