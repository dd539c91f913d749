"""What the training of a GAN can be told: the options of a run that a GAN can use, and its own few."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from hf_ddpm.config import DataConfig, EMAConfig, OptimConfig, RunConfig, require

SIZES = (8, 16, 28, 32, 64)
"""Pixels of the images that `hf_ddpm.dcgan_pipeline.STAGES` knows, which is not read here: it would load torch."""
LARGEST = {"latent_dim": 1024, "generator_width": 512, "discriminator_width": 512, "label_channels": 1024}

# An option of a base class that is a ClassVar here is none any more: neither the command line nor a recipe knows it.


@dataclass(kw_only=True)
class GANDataConfig(DataConfig):
    """Which images a GAN learns, and how they are read."""

    image_size: int | None = None
    """Height and width in pixels, by resizing and centre crop: 8, 16, 28, 32 or 64; a GAN needs it."""
    test_split: ClassVar[None] = None  # it has no loss that says anything of held-out images
    streaming: ClassVar[bool] = False
    shuffle_buffer: ClassVar[None] = None

    def __post_init__(self):
        super().__post_init__()
        require(self.batch_size > 1, "data.batch_size", self.batch_size, "the batch norm compares images, give 2 or more")


@dataclass(kw_only=True)
class GANModelConfig:
    """The two networks, those of Radford et al. 2016."""

    latent_dim: int = 128
    """Size of the latent vector z (nz)."""
    generator_width: int = 64
    """Channels of the generator's last hidden map (ngf); each map before it has twice as many."""
    discriminator_width: int = 64
    """Channels of the discriminator's first hidden map (ndf); each map after it has twice as many."""
    label_channels: int = 16
    """Channels of the label embedding in each of the two networks; without classes not used."""
    wide_early: bool = False
    """Keep more channels early: each hidden map of the generator after the first has twice as many."""

    def __post_init__(self):
        for name, most in LARGEST.items():
            value = getattr(self, name)
            require(1 <= value <= most, f"model.{name}", value, f"give 1 to {most}")


@dataclass(kw_only=True)
class GANObjectiveConfig:
    """How the discriminator is made less sure of itself."""

    real_target: float = 1.0
    """Probability of being real that the discriminator is to give real images; 0.9 = smoothed."""
    fake_target: float = 0.0
    """Probability of being real that the discriminator is to give generated images; 0.1 = smoothed."""
    input_noise: float = 0.0
    """Standard deviation of the normal noise on what the discriminator sees, whose pixels are in [-1, 1]; 0 = none."""

    def __post_init__(self):
        for name, low, high in (("real_target", 0.5, 1), ("fake_target", 0, 0.5), ("input_noise", 0, 10)):
            value = getattr(self, name)
            require(low <= value <= high, f"objective.{name}", value, f"give a number from {low} to {high}")
        apart = self.fake_target < self.real_target
        require(apart, "objective.fake_target", self.fake_target, "real and generated images need different targets")


@dataclass(kw_only=True)
class GANOptimConfig(OptimConfig):
    """The optimizers of the two networks and their learning rate, which are alike."""

    optimizer: Literal["adam", "adamw"] = "adam"
    """Adam, or AdamW with decoupled weight decay."""
    learning_rate: float = 2e-4
    """Peak learning rate."""
    betas: tuple[float, float] = (0.5, 0.999)
    """Decay of the two moments of Adam."""
    lr_scheduler: Literal["constant", "linear", "cosine", "multistep"] = "constant"
    """Learning rate after warm-up: constant, decaying to 0 at the end of the run, or multiplied at milestones."""
    max_grad_norm: float | None = None
    """The gradient of each network is scaled down to this norm; None = off."""
    gradient_accumulation_steps: ClassVar[int] = 1  # the batch norm would see the parts and not the batch


@dataclass(kw_only=True)
class GANEMAConfig(EMAConfig):
    """Moving average of the generator's weights, with which samples are drawn."""

    decay: float | None = None
    """Largest decay a step; None = no average, the trained weights themselves are saved."""


@dataclass(kw_only=True)
class GANConfig(RunConfig):
    """Train a DCGAN and save it as a DCGANPipeline."""

    mixed_precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the networks' forward and backward pass."""
    data: GANDataConfig = field(default_factory=GANDataConfig)
    model: GANModelConfig = field(default_factory=GANModelConfig)
    objective: GANObjectiveConfig = field(default_factory=GANObjectiveConfig)
    optim: GANOptimConfig = field(default_factory=GANOptimConfig)
    ema: GANEMAConfig = field(default_factory=GANEMAConfig)
    compile: ClassVar[bool] = False  # two networks in turn, each with and without a gradient
    hub: ClassVar[None] = None  # the model card tells of diffusion models

    def __post_init__(self):
        super().__post_init__()
        size, remedy = self.data.image_size, f"a DCGAN draws {', '.join(map(str, SIZES))} pixels, give one of them"
        require(size in SIZES, "data.image_size", size, remedy)
