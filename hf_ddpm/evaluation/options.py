"""Options of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from hf_ddpm.config import BaseConfig, require, require_seeds
from hf_ddpm.data.options import ConditionedSplitsConfig

MAX_IMAGES = 1_000_000
"""Maximum number of images per seed: seed k of an evaluation uses the image seeds from k times this number."""


@dataclass(kw_only=True)
class ReferenceDataConfig(ConditionedSplitsConfig):
    """The real images that samples are compared with."""

    test_split: str | None = "test"
    """Held-out split, for the score of real images and the held-out losses; None = neither of them."""


@dataclass(kw_only=True)
class SamplingConfig(BaseConfig, group="sampling"):
    """How samples are generated."""

    scheduler: str | None = None
    """Name of a scheduler, see hf-ddpm sample; None = the one saved with the model."""
    num_inference_steps: int | None = None
    """Denoising steps; None = those saved with the model, or 50."""
    guidance_scale: float | None = None
    """s in u + s (c - u), 1 = no guidance (w = s - 1); None = that saved with the model, or 1.5, or 1 for a model without a
    null label or a guide."""
    guidance: Literal["cfg", "apg", "cfg_zero_star", "autoguidance"] | None = None
    """How the output is guided, see hf-ddpm sample; None = as saved with the model, or autoguidance if there is a guide,
    else cfg."""
    guidance_interval: tuple[float, float] | None = None
    """As [low, high], guidance acts where low <= t / T < high, elsewhere the network alone; None = as saved with the model,
    or everywhere, which is [0, 1]."""
    guide: str | None = None
    """Folder or Hub id of a worse model to guide away from, such as an earlier checkpoint; None = the one saved with the
    model, if there is one."""
    eta: float = 0.0
    """Noise of the scheduler ddim, from 0 to 1."""
    dtype: Literal["auto", "float32", "bfloat16"] = "float32"
    """Precision of the network; `auto` = bfloat16 if calls timed at the start say that it is faster. An image of a seed is
    the same on every machine, but for rounding, in float32 alone."""
    batch_size: int = 100
    """Images per batch; does not change the images."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for option in ("num_inference_steps", "batch_size"):
            value = getattr(self, option)
            self.require(value is None or value >= 1, option, "give at least 1")
        self.require(0 <= self.eta <= 1, "eta", "give a number from 0 to 1")
        if self.guidance_interval is not None:
            low, high = self.guidance_interval
            self.require(0 <= low <= high <= 1, "guidance_interval", "give [low, high] with 0 <= low <= high <= 1")

    def steps_for(self, pipeline: Any) -> int:
        """Denoising steps of a diffusion pipeline."""
        return pipeline.default_steps if self.num_inference_steps is None else self.num_inference_steps

    def scale_for(self, pipeline: Any) -> float:
        """The guidance scale s of a pipeline; 1 = no guidance."""
        from hf_ddpm.sampling import default_guidance_scale  # imports torch

        scale = default_guidance_scale(pipeline) if self.guidance_scale is None else self.guidance_scale
        return 1.0 if scale is None else scale


@dataclass(kw_only=True)
class MeasurementConfig(BaseConfig):
    """With which features samples are compared with real images, and how many."""

    features: str
    """`judge:FOLDER` (from hf-ddpm judge), `inception`, `dinov2`, or `dinov2:` with a Hub id or a folder."""
    num_images: int = 1000
    """Images per seed."""
    num_seeds: int = 3
    """Number of sampling seeds; metrics are mean ± standard error over them."""
    seed: int = 0
    """First sampling seed."""
    class_prior: Literal["balanced", "train"] = "balanced"
    """Classes of the samples: equally many of each, or in the proportions of the train split, as sets of labels and numbers
    always are."""
    reference_split: Literal["train", "test"] = "train"
    """Split with which samples are compared; the other one gives the score of real images."""
    inception_weights: Path | None = None
    """File with the weights of Inception; None = the published file, downloaded on first use. Only for inception."""
    min_judge_accuracy: float | None = 0.98
    """Minimum accuracy of the judge on its test images; a judge below it is refused. None = accept any."""
    max_features: int = 10_000
    """Maximum number of features kept for the metrics that compare all pairs; moments use all images."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(2 <= self.num_images <= MAX_IMAGES, "num_images", f"give 2 to {MAX_IMAGES}")
        self.require(1 <= self.num_seeds <= 1000, "num_seeds", "give 1 to 1000")
        require_seeds("seed", self.seed)
        self.require(self.max_features >= 2, "max_features", "give at least 2")
        accuracy = self.min_judge_accuracy
        self.require(accuracy is None or 0 <= accuracy <= 1, "min_judge_accuracy", "give a number from 0 to 1")


@dataclass(kw_only=True)
class ProtocolConfig(MeasurementConfig):
    """What is measured, with which features and on how many images."""

    reference_statistics: Path | None = None
    """File with the features of the real images, saved by an earlier evaluation; None = from the cache, or computed."""
    bits_per_dim_images: int | None = None
    """Number of held-out images for bits per dimension, which takes long; None = not measured."""
    bits_per_dim_timesteps: int | None = 20
    """Timesteps per image from which bits per dimension are estimated; None = all timesteps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for option in ("bits_per_dim_images", "bits_per_dim_timesteps"):
            value = getattr(self, option)
            self.require(value is None or value >= 1, option, "give at least 1")


@dataclass(kw_only=True)
class EvaluationConfig(ProtocolConfig):
    """Measure samples of a saved pipeline."""

    main_options: ClassVar[tuple[str, ...]] = (
        "model", "output", "features", "num_images", "num_seeds", "data.source", "sampling.scheduler",
        "sampling.num_inference_steps", "sampling.guidance_scale", "bits_per_dim_images", "device", "num_threads",
    )  # fmt: skip
    model: str
    """Folder of a pipeline (`pipeline/` of a run, or one of its checkpoints), or its id on the Hub."""
    output: Path
    """New file for the results, such as runs/digits/results/eval.json; saved with a table (.md) and a figure (.png)."""
    device: str | None = None
    """cpu, cuda, cuda:1, mps, ...; None = cuda if there is one, else cpu."""
    num_threads: int | None = None
    """CPU threads per process; None = as many as are worth it, which the first calls of the network show."""
    data: ReferenceDataConfig = field(default_factory=ReferenceDataConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("num_threads", "threads")
        output = Path(self.output)
        require(output.suffix == ".json", "output", str(output), "give a file name that ends with .json")
        require(not output.exists(), "output", str(output), "the file exists, give another one or remove it")
