"""Train on images of your own program: a torch Dataset of float tensors, here discs whose class is their corner.

    python own_dataset.py          # or: torchrun --nproc_per_node 2 own_dataset.py, accelerate launch own_dataset.py

A second argument is the number of steps.
"""

import sys

import torch
from torch.utils.data import Dataset

from hf_ddpm import DataConfig, ModelConfig, TrainConfig, train


class Discs(Dataset):
    """Bright discs of 8 x 8 pixels, floats from 0 to 1, and the number of the corner that they are in."""

    classes = ("top left", "top right", "bottom left", "bottom right")

    def __init__(self, count: int, seed: int):
        generator = torch.Generator().manual_seed(seed)  # the same images in every process, and when the run is continued
        self.places = 1.5 + torch.rand(count, 2, generator=generator)
        self.corners = torch.randint(4, (count,), generator=generator)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        corner = int(self.corners[index])
        y, x = self.places[index] + 3 * torch.tensor([corner // 2, corner % 2])
        rows, columns = torch.arange(8)[:, None], torch.arange(8)[None]
        distance = ((rows - y) ** 2 + (columns - x) ** 2).sqrt()
        return (2.5 - distance).clamp(0, 1)[None], corner  # (channels, height, width), and the label


def main(steps: int = 500) -> None:
    config = TrainConfig(
        output_dir="runs/own_dataset",
        max_train_steps=steps,
        resume="auto",
        data=DataConfig(value_range=(0, 1), test_split="test"),  # the values that are black and white
        model=ModelConfig(preset="digits8"),
    )
    train(config, dataset={"train": Discs(2000, seed=0), "test": Discs(200, seed=1)})
    # A datasets.Dataset or DatasetDict will do as well: train(config, dataset=datasets.load_dataset("ylecun/mnist"))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
