"""How many MNIST samples a digit classifier reads as the digit that was asked for.

    python tests/benchmarks/mnist_agreement.py --model runs/mnist_cpu/pipeline --source ylecun/mnist

Trains a small convolutional classifier on the real training images, prints its accuracy on the real test images, then
samples the same seeds and labels with each sampler and prints the share of samples that it agrees with.
"""

from __future__ import annotations

import argparse
import time

import torch
import torch.nn.functional as F
from torch import nn

from hf_ddpm.data.cache import ImageTable, load_images
from hf_ddpm.data.loader import IndexStream
from hf_ddpm.sampling import generate, load_pipeline
from hf_ddpm.training.speed import speed_up

SAMPLERS = [("ddim", 50), ("dpmsolver++", 20)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--source", default="ylecun/mnist")
    parser.add_argument("--num_images", type=int, default=1000)
    parser.add_argument("--guidance_scale", type=float, default=1.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bf16", action="store_true", help="run the network under bf16 autocast, as in training")
    options = parser.parse_args()

    train_images, test_images = (load_images(options.source, split, image_size=28) for split in ("train", "test"))
    classifier = train_classifier(train_images)
    accuracy = agreement(classifier, test_images.images(torch.arange(len(test_images))), test_images.class_labels)
    print(f"classifier: {accuracy:.2%} of {len(test_images)} test images")
    labels = [i % 10 for i in range(options.num_images)]
    precision = "bf16" if options.bf16 else "fp32"
    for name, steps in SAMPLERS:
        started = time.perf_counter()
        pipeline = load_pipeline(options.model, scheduler=name)
        speed_up(pipeline.unet, pipeline.device, precision)
        batches = generate(
            pipeline,
            class_labels=labels,
            seed=options.seed,
            batch_size=100,
            num_inference_steps=steps,
            guidance_scale=options.guidance_scale,
            progress=True,
        )
        with torch.autocast(pipeline.device.type, torch.bfloat16, enabled=options.bf16):
            images = torch.cat([torch.from_numpy(batch.images).permute(0, 3, 1, 2) for batch in batches])
        share = agreement(classifier, images, torch.tensor(labels))
        seconds = time.perf_counter() - started
        print(
            f"{name}, {steps} steps, s = {options.guidance_scale}, {precision}, seeds from {options.seed}: "
            f"agrees with {share:.1%} of {len(labels)} samples ({seconds:.0f} s)",
            flush=True,
        )


def train_classifier(images: ImageTable, *, epochs: int = 3, batch_size: int = 128) -> nn.Module:
    """Train on every image, shifted by up to 2 pixels, with a learning rate that decays to 0."""
    torch.manual_seed(0)
    classifier = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64 * 7 * 7, 128), nn.ReLU(), nn.Dropout(0.3), nn.Linear(128, 10),
    )  # fmt: skip
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
    return classifier.eval()


@torch.no_grad()
def agreement(classifier: nn.Module, images: torch.Tensor, class_labels: torch.Tensor) -> float:
    """Share of (N, 1, 28, 28) uint8 images that the classifier gives their label."""
    predicted = torch.cat([classifier(batch / 255).argmax(dim=1) for batch in images.split(1000)])
    return (predicted == class_labels).double().mean().item()


if __name__ == "__main__":
    main()
