"""Options of the diffusion classifier."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from hf_ddpm.config import BaseConfig, require, require_seeds
from hf_ddpm.evaluation.options import ReferenceDataConfig


@dataclass(kw_only=True)
class ClassifierConfig(BaseConfig):
    """Classify real images with a diffusion model."""

    main_options: ClassVar[tuple[str, ...]] = (
        "model", "output", "num_images", "split", "data.source", "trials", "keep", "seed", "device", "num_threads",
    )  # fmt: skip
    model: str
    """Folder of a class-conditional pipeline (`pipeline/` of a run, or one of its checkpoints), or its id on the Hub."""
    output: Path
    """New file for the results, such as runs/digits/results/classifier.json; a table (.md) and a picture of doubted images
    (.png) are saved beside it."""
    split: Literal["test", "train"] = "test"
    """Which images: held-out ones, or those of the training, to find wrong labels among them."""
    num_images: int | None = 500
    """Number of images, evenly spread over the split; None, or more than it has = all."""
    trials: list[int] = field(default_factory=lambda: [4, 16, 64])
    """Noisy versions of an image, up to the end of each stage. After a stage, classes with large errors are given up."""
    keep: list[int] | None = None
    """Classes that stay after each stage but the last; None = half of them, at least 2."""
    seed: int = 0
    """Seed of noise and timesteps."""
    batch_size: int = 128
    """Images in a call of the network; does not change the results."""
    device: str | None = None
    """cpu, cuda, cuda:1, mps, ...; None = cuda if there is one, else cpu."""
    num_threads: int | None = None
    """CPU threads per process; None = as many as are worth it, which the first calls of the network show."""
    data: ReferenceDataConfig = field(default_factory=ReferenceDataConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("num_images", "images")
        self.require_positive("batch_size", "images")
        self.require_positive("num_threads", "threads")
        require_seeds("seed", self.seed)
        rising = len(self.trials) > 0 and all(a < b for a, b in itertools.pairwise([0, *self.trials]))
        self.require(rising, "trials", "give increasing numbers above 0")
        if self.keep is not None:
            stages = len(self.trials) - 1
            remedy = f"--trials has {stages + 1} stages, give a number for each but the last"
            self.require(len(self.keep) == stages, "keep", remedy)
            falling = all(a >= b >= 2 for a, b in itertools.pairwise([math.inf, *self.keep]))
            self.require(falling, "keep", "give numbers of at least 2 that do not grow")
        output = Path(self.output)
        require(output.suffix == ".json", "output", str(output), "give a file name that ends with .json")
        require(not output.exists(), "output", str(output), "the file exists, give another one or remove it")

    def classes_after(self, stage: int, classes: int) -> int:
        """How many of `classes` stay after a stage, counted from 0."""
        return min(classes, self.keep[stage] if self.keep is not None else max(2, -(-classes // 2)))
