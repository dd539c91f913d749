"""What `hf_ddpm.doctor.measurements` measures on a model, as the rules read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SampledSet:
    """Samples of one scheduler; those of the classes in turn, from the seeds 0, 1, 2, ..."""

    scheduler: str | None
    """None = a GAN, which takes no steps."""
    num_inference_steps: int | None
    distances: Sequence[float]
    """Of each sample to its nearest training image: the root mean square over pixels in [0, 1]."""
    frechet: float
    """Fréchet distance to the training images in pixels in [0, 1], of images reduced to at most 16 x 16."""


@dataclass(frozen=True, kw_only=True)
class RealSet:
    """Real images that samples are compared with."""

    distances: Sequence[float]
    """Of each to the nearest training image, as for samples."""
    is_held_out: bool
    """Whether they are held out; otherwise they are training images, and the nearest is another one."""


@dataclass(frozen=True, kw_only=True)
class LabelGain:
    """By what fraction the loss is smaller with the right labels than with wrong ones: 0 = labels make no difference."""

    mean: float
    stderr: float
    """Standard error over the images."""
    num_images: int
    is_held_out: bool
    """Whether the images are held out."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """All of it."""

    samples: SampledSet
    """As asked for."""
    preview: SampledSet | None
    """As the pictures in samples/; None = the run does not say how, or it is a GAN or distilled, which sample in one way."""
    real: RealSet
    label_gain: LabelGain | None
    """None = the model has no classes, or one, or is a GAN or distilled."""
