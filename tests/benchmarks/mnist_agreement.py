"""Fraction of MNIST samples that a digit classifier assigns to the requested digit, per scheduler.

    python tests/benchmarks/mnist_agreement.py --model runs/mnist_cpu/pipeline --source ylecun/mnist
    python tests/benchmarks/mnist_agreement.py --model runs/mnist_cpu/pipeline --schedulers dpmsolver++ ddim \
        --guidance_scales 1 1.5 2 3

Trains a small convolutional classifier on the real training images and prints its accuracy on the real test images. Then it
samples the same seeds and labels with each scheduler and guidance scale, and prints a row of a Markdown table for each: the
fraction of samples that the classifier agrees with, and how much they differ from one another.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from measuring import print_machine
from safetensors.torch import load_file, save_file
from torch import nn

from hf_ddpm.data.batches import IndexStream
from hf_ddpm.data.table import ImageTable, load_images
from hf_ddpm.first_checks import check_scheduler
from hf_ddpm.markdown import counted
from hf_ddpm.sampling import generate, load_pipeline
from hf_ddpm.schedulers import SCHEDULERS
from hf_ddpm.training.cpu_bf16 import speed_up

# First order or noisy: these need more steps than the 20 of the others.
STEPS = {"ddpm": 50, "ddim": 50, "euler": 50, "euler_ancestral": 50, "kdpm2_ancestral": 50, "dpmsolver_sde": 50}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--source", default="ylecun/mnist")
    parser.add_argument("--schedulers", nargs="+", help="names; default: all that are installed")
    parser.add_argument(
        "--num_inference_steps", type=int, help="default: 20, or 50 for schedulers of first order or with noise"
    )
    parser.add_argument("--guidance_scales", type=float, nargs="+", default=[1.5], help="s = w + 1")
    parser.add_argument("--num_images", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bf16", action="store_true", help="run the network under bf16 autocast, as in training")
    parser.add_argument("--num_threads", type=int, help="threads of torch; default: chosen by torch")
    parser.add_argument("--classifier", type=Path, help="safetensors file to read the classifier from, or to write it to")
    options = parser.parse_args()
    if options.num_threads is not None:
        torch.set_num_threads(options.num_threads)

    classifier = get_classifier(options.source, options.classifier)
    test_images = load_images(options.source, "test", image_size=28)
    accuracy = agreement(classifier, test_images.images(torch.arange(len(test_images))), test_images.class_labels)
    precision = "bf16" if options.bf16 else "fp32"
    print_machine(counted(torch.get_num_threads(), "thread"))
    print(f"Classifier: correct on {accuracy:.2%} of {len(test_images)} test images. Samples: {precision}, "
          f"{options.num_images} per row, seeds from {options.seed}.\n")  # fmt: skip
    print("| scheduler | steps | network calls | s | w | agreement | standard error | spread | seconds |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for scale in options.guidance_scales:
        for name in options.schedulers or installed_schedulers():
            print_row(options, classifier, name, scale, precision)


def installed_schedulers() -> list[str]:
    names = []
    for name in SCHEDULERS:
        try:
            check_scheduler(name)
        except ValueError as error:
            print(f"left out: {error}")
        else:
            names.append(name)
    return names


def print_row(options: argparse.Namespace, classifier: nn.Module, name: str, scale: float, precision: str) -> None:
    """Sample with one scheduler and guidance scale, and print a row of the table."""
    started = time.perf_counter()
    steps = options.num_inference_steps or STEPS.get(name, 20)
    labels = torch.arange(options.num_images) % 10
    pipeline = load_pipeline(options.model, scheduler=name)
    speed_up(pipeline.unet, pipeline.device, precision)
    with torch.autocast(pipeline.device.type, torch.bfloat16, enabled=options.bf16):
        batches = generate(
            pipeline,
            class_labels=labels.tolist(),
            seed=options.seed,
            batch_size=100,
            num_inference_steps=steps,
            guidance_scale=scale,
        )
        images = torch.from_numpy(np.concatenate([batch.images for batch in batches])).permute(0, 3, 1, 2)
    share = agreement(classifier, images, labels)
    error = math.sqrt(share * (1 - share) / len(labels))
    pixels = images.double() / 255
    # Root mean squared distance of a sample to the mean sample of its class.
    distances = [(part - part.mean(dim=0)).square().sum(dim=(1, 2, 3)) for part in (pixels[labels == i] for i in range(10))]
    spread = torch.cat(distances).mean().sqrt().item()
    measured = f"{share:.1%} | {error:.1%} | {spread:.2f} | {time.perf_counter() - started:.0f}"
    print(f"| {name} | {steps} | {pipeline.num_timesteps} | {scale:g} | {scale - 1:g} | {measured} |", flush=True)


def get_classifier(source: str, path: Path | None) -> nn.Module:
    """Read the classifier from `path` if it exists, else train it and write it there."""
    torch.manual_seed(0)
    classifier = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64 * 7 * 7, 128), nn.ReLU(), nn.Dropout(0.3), nn.Linear(128, 10),
    )  # fmt: skip
    if path is not None and path.is_file():
        classifier.load_state_dict(load_file(path))
    else:
        train_classifier(classifier, load_images(source, "train", image_size=28))
        if path is not None:
            save_file(classifier.state_dict(), path)
    return classifier.eval()


def train_classifier(classifier: nn.Module, images: ImageTable, *, epochs: int = 3, batch_size: int = 128) -> None:
    """Train on every image, shifted by up to 2 pixels, with a learning rate that decays to 0."""
    steps = epochs * len(images) // batch_size
    optimizer = torch.optim.Adam(classifier.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
    stream = IndexStream(len(images), seed=0)
    for step in range(steps):
        indices = stream.indices(step * batch_size, batch_size)
        shift = torch.randint(-2, 3, (2,)).tolist()
        pixels = torch.roll(images.images(indices), shift, dims=(2, 3))
        loss = F.cross_entropy(classifier(pixels / 255), images.class_labels[indices])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def agreement(classifier: nn.Module, images: torch.Tensor, class_labels: torch.Tensor) -> float:
    """Fraction of (N, 1, 28, 28) uint8 images that the classifier assigns to their label."""
    predicted = torch.cat([classifier(batch / 255).argmax(dim=1) for batch in images.split(1000)])
    return (predicted == class_labels).double().mean().item()


if __name__ == "__main__":
    main()
