"""What a measurement can be told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hf_ddpm.config import BaseConfig, require
from hf_ddpm.data.options import SplitsConfig

MAX_IMAGES = 1_000_000
"""Images of one seed; the seeds of the images of the next one begin there."""


@dataclass(kw_only=True)
class ReferenceDataConfig(SplitsConfig):
    """The real images that samples are compared with."""

    test_split: str | None = "test"
    """Held-out split, for the floor and the losses; None = there is none, and no floor."""


@dataclass(kw_only=True)
class SamplingConfig(BaseConfig, group="sampling"):
    """How the samples that are measured are drawn."""

    scheduler: str | None = None
    """Name of a sampler, see sample.py; None = the scheduler that was saved with the model."""
    num_inference_steps: int = 50
    """Denoising steps."""
    guidance_scale: float | None = None
    """s in u + s (c - u), 1 = no guidance (w = s - 1); None = 1.5, or 1 for a model without a null label."""
    eta: float = 0.0
    """Noise of the scheduler ddim, from 0 to 1."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the network computes in."""
    batch_size: int = 100
    """Images at a time; has no influence on what they look like."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for option in ("num_inference_steps", "batch_size"):
            self.require(getattr(self, option) >= 1, option, "give at least 1")
        self.require(0 <= self.eta <= 1, "eta", "give a number from 0 to 1")

    def scale_for(self, null_label: int | None) -> float:
        """The scale s that a model with this null label (None = it has none) is sampled with."""
        if self.guidance_scale is not None:
            return self.guidance_scale
        return 1.0 if null_label is None else 1.5


@dataclass(kw_only=True)
class ProtocolConfig(BaseConfig):
    """What is measured, on how many images, with which features."""

    features: str
    """`judge:FOLDER` (from train_judge.py), `inception`, `dinov2`, or `dinov2:` with a Hub id or a folder."""
    num_images: int = 1000
    """Images of each seed."""
    num_seeds: int = 3
    """Times that so many images are drawn, each with other noise; the figures are means with their standard error."""
    seed: int = 0
    """First of the seeds."""
    class_prior: Literal["balanced", "train"] = "balanced"
    """As many images of each class, or in the proportions of the train split."""
    reference_split: Literal["train", "test"] = "train"
    """Which of the two splits of the data the samples are compared with; the other gives the floor."""
    inception_weights: Path | None = None
    """File of the Inception network's weights; None = the published one, fetched on first use. Only for inception."""
    min_judge_accuracy: float | None = 0.98
    """A judge that was right on a smaller share of its test images is refused; None = accept any."""
    reference_statistics: Path | None = None
    """File of the references' features, as an earlier measurement kept it; None = looked for in the cache, else computed."""
    max_features: int = 10_000
    """Features that are kept for the metrics which compare each with each; moments are of all."""
    bits_per_dim_images: int | None = None
    """Held-out images whose bits per dimension are computed; None = none, as it takes long."""
    bits_per_dim_timesteps: int | None = 20
    """Timesteps of each of them, of which the rest is estimated; None = all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(2 <= self.num_images <= MAX_IMAGES, "num_images", f"give 2 to {MAX_IMAGES}")
        self.require(1 <= self.num_seeds <= 1000, "num_seeds", "give 1 to 1000")
        self.require(0 <= self.seed < 2**32, "seed", "give a whole number from 0 to 4294967295")
        self.require(self.max_features >= 2, "max_features", "give at least 2")
        accuracy = self.min_judge_accuracy
        self.require(accuracy is None or 0 <= accuracy <= 1, "min_judge_accuracy", "give a share from 0 to 1")
        for option in ("bits_per_dim_images", "bits_per_dim_timesteps"):
            value = getattr(self, option)
            self.require(value is None or value >= 1, option, "give at least 1")


@dataclass(kw_only=True)
class EvaluationConfig(ProtocolConfig):
    """Measure the samples of a saved pipeline."""

    model: str
    """Folder of a pipeline (`pipeline/` of a run, or one of its checkpoints), or its id on the Hub."""
    output: Path
    """New file for the results, as runs/digits/results/eval.json; a table (.md) and a picture (.png) go beside it."""
    device: str | None = None
    """cpu, cuda, cuda:1, mps, ...; None = cuda if there is one, else cpu."""
    num_threads: int | None = None
    """CPU threads of a process; None = the machine's cores shared among its processes."""
    data: ReferenceDataConfig = field(default_factory=ReferenceDataConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        output = Path(self.output)
        require(output.suffix == ".json", "output", str(output), "give a file whose name ends with .json")
        require(not output.exists(), "output", str(output), "it is there already, name another file or remove it")
