"""Options of the training programs, with the checks across groups that need no data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from hf_ddpm.config import (
    GIVEN_IN_PYTHON,
    BaseConfig,
    BaseEMAConfig,
    BaseLoggingConfig,
    BaseOptimConfig,
    CheckpointConfig,
    EMAConfig,
    HubConfig,
    LoggingConfig,
    LRSchedule,
    ModelConfig,
    MonitorConfig,
    ObjectiveConfig,
    OptimConfig,
    Optimizer,
    ScheduleConfig,
    require,
    require_seeds,
)
from hf_ddpm.data.options import (
    ClassConditionalOptions,
    Condition,
    DataConfig,
    ImageShapeOptions,
    RandomCropOptions,
    SplitsConfig,
    TrainingDataConfig,
)
from hf_ddpm.image_shape import ImageSize, size_pair
from hf_ddpm.models.base_model import BaseModel
from hf_ddpm.models.unet import unet_arguments
from hf_ddpm.training.base_options import find_base_model, take_over

SIZES = (8, 16, 28, 32, 64)
"""Image sizes of a DCGAN in pixels: the keys of `hf_ddpm.dcgan_pipeline.STAGES`, repeated here to avoid loading torch."""
LARGEST = {"latent_dim": 1024, "generator_width": 512, "discriminator_width": 512, "label_channels": 1024}


@dataclass(kw_only=True)
class RunOptions(BaseConfig):
    """Folder, length and precision of a run."""

    output_dir: str
    """Run folder; it must be new or empty unless the run is resumed."""
    seed: int = 0
    """Seed of all randomness in the run."""
    max_train_steps: int | None = None
    """Length of the run in optimizer steps; None = given in epochs."""
    num_train_epochs: int | None = None
    """Length of the run in passes over the data; None = given in steps."""
    resume: str = "none"
    """`none`, `auto` (newest complete checkpoint, or from scratch), `latest` (fails without one) or a checkpoint folder."""
    mixed_precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of the network's forward and backward pass. `auto` = bf16 where it is faster (on a GPU that has it; on a
    CPU, steps are timed at the start), else fp32. fp16 needs a CUDA device."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.output_dir != "", "output_dir", "name a folder")
        require_seeds("seed", self.seed)
        self.require_positive("max_train_steps", "steps")
        self.require_positive("num_train_epochs", "epochs")
        lengths = {"max_train_steps": self.max_train_steps, "num_train_epochs": self.num_train_epochs}
        given = [name for name, value in lengths.items() if value is not None]
        if len(given) != 1:
            neither = "neither is given, and no recipe with --config"
            both = f"both are given ({lengths}), set the other to null" if given else neither
            raise ValueError(f"--max_train_steps or --num_train_epochs, give exactly one of them: {both}")
        if self.mixed_precision == "fp16":
            import torch

            self.require(torch.cuda.is_available(), "mixed_precision", "this machine has no CUDA device, use bf16 or fp32")


@dataclass(kw_only=True)
class CompileOptions(RunOptions):
    """Whether the network is compiled."""

    compile: Literal["none", "regional", "full"] | bool = "none"
    """Compile the network with torch.compile, `regional` block by block or `full` (also true) as a whole: takes a minute or
    more in the first step, then steps may be faster; `none` (also false) = not."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.compile, bool):
            self.compile = "full" if self.compile else "none"


@dataclass(kw_only=True)
class MemoryFormatOptions(RunOptions):
    """How the network keeps its images."""

    memory_format: Literal["auto", "contiguous", "channels_last"] = "auto"
    """Order of an image's values in memory; `auto` = what is faster in steps that are timed at the start, and contiguous for
    fp32 on a CPU."""


@dataclass(kw_only=True)
class LearningOptions(RunOptions):
    """Threads, data and optimizer of a run."""

    num_threads: int | None = None
    """CPU threads per process; None = as many as are worth it in steps that are timed at the start, at most the cores of the
    machine divided among its processes, whatever a launcher set as OMP_NUM_THREADS."""
    data: TrainingDataConfig = field(default_factory=TrainingDataConfig)
    optim: BaseOptimConfig = field(default_factory=BaseOptimConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("num_threads", "threads")


@dataclass(kw_only=True)
class EMAOptions(LearningOptions):
    """The moving average of the weights."""

    ema: BaseEMAConfig = field(default_factory=BaseEMAConfig)


@dataclass(kw_only=True)
class RunConfig(LearningOptions):
    """Options shared by all training programs."""

    flags: ClassVar[dict[str, str]] = {"--estimate": "Print the time and the space that this run takes here, and stop."}
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    logging: BaseLoggingConfig = field(default_factory=BaseLoggingConfig)


@dataclass(kw_only=True)
class TrainConfig(RunConfig, EMAOptions, MemoryFormatOptions, CompileOptions):
    """Train a DDPM with classifier-free guidance and save it as a CFGDDPMPipeline."""

    program: ClassVar[str] = "train"
    main_options: ClassVar[tuple[str, ...]] = (
        "output_dir", "data.source", "data.test_split", "data.image_size", "data.labels", "data.batch_size", "model.preset",
        "model.init_from", "max_train_steps", "num_train_epochs", "optim.learning_rate", "mixed_precision", "resume",
        "logging.sample_every_steps", "hub.push_to_hub", "hub.repo_id",
    )  # fmt: skip
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    ema: EMAConfig = field(default_factory=EMAConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    hub: HubConfig = field(default_factory=HubConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    evaluation: MonitorConfig = field(default_factory=MonitorConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data.condition != "class":
            self._check_condition(self.data.condition)
        self.base = self._find_base()
        if self.model.preset is None and self.base is None:
            remedy = "name a network for these images, such as mnist28 or cifar32-small, or give a recipe with --config"
            self.model.require(self.data.source == "digits", "preset", remedy)
            self.model.preset = "digits8"
        streaming = self.data.streaming
        no_epochs = not streaming or self.num_train_epochs is None
        self.require(no_epochs, "num_train_epochs", "a stream has no known length, give --max_train_steps")
        zero_terminal = self.schedule.rescale_zero_terminal_snr
        remedy = "with --schedule.rescale_zero_terminal_snr it divides by zero, use v_prediction or sample"
        prediction_type = self.objective.prediction_type
        require(not (zero_terminal and prediction_type == "epsilon"), "objective.prediction_type", prediction_type, remedy)
        if self.model.preset != GIVEN_IN_PYTHON:
            arguments = self.network_arguments(image_size=self.data.image_size, channels=self.data.channels)
            self.data.check_crop(arguments["sample_size"])
        if self.evaluation.every_steps is not None:
            steps, most = self.evaluation.num_inference_steps, self.schedule.num_train_timesteps
            require(steps <= most, "evaluation.num_inference_steps", steps, f"the schedule has {most} timesteps")
            every_steps = self.evaluation.every_steps
            require(not streaming, "evaluation.every_steps", every_steps, "leave out --data.streaming for it")
        if self.data.class_conditional is False:
            self.resolve_class_dropout(conditional=False)

    def network_arguments(
        self, *, image_size: ImageSize | None = None, channels: int | None = None, num_class_embeds: int | None = None
    ) -> dict[str, Any]:
        """Arguments of the network; the keyword arguments depend on the images, see `unet_arguments`.

        Raises:
            ValueError: the options of the model contradict each other.
        """
        model = self.model
        options: dict[str, Any] = {
            "preset": model.preset, "overrides": model.overrides, "architecture": self.architecture,
            "learned_variance": self.schedule.variance_type == "learned_range",
        }  # fmt: skip
        options |= {"image_size": image_size, "channels": channels, "num_class_embeds": num_class_embeds}
        return unet_arguments(**options) if self.base is None else self.base.network_arguments(**options)

    def _check_condition(self, condition: Condition) -> None:
        """Refuse options of the model that sets of labels and numbers do not have."""
        only: dict[str, tuple[Any, str]] = {
            "architecture": ("unet", "the network is a unet"),
            "null_embedding": ("learned", "the null embedding is learned"),
            "init_from": (None, "a training starts from random weights"),
        }
        for option, (value, fact) in only.items():
            fits = getattr(self.model, option) == value
            self.model.require(fits, option, f"with --data.condition {condition} {fact}, leave it out")

    @property
    def architecture(self) -> str:
        """Name of the network in `hf_ddpm.models.networks.NETWORKS`."""
        return self.model.architecture if self.data.condition == "class" else "condition_unet"

    def _find_base(self) -> BaseModel | None:
        """The model to start from, after its schedule and prediction type have become those of the run; None = none."""
        if self.model.init_from is None:
            return None
        base = find_base_model(self.model.init_from, self.output_dir, self.resume)
        self.schedule, self.objective = take_over(base, self.schedule, self.objective)
        return base

    def resolve_class_dropout(self, conditional: bool) -> float:
        """Probability of the null label, given whether the model is conditional.

        Raises:
            ValueError: the run has no null label or no classes, but an option needs them.
        """
        requested = self.objective.class_dropout_prob
        if not conditional:
            remedy = "the model is unconditional (--data.class_conditional, or no labels), set it to null"
            require(not requested, "objective.class_dropout_prob", requested, remedy)
            architecture = self.model.architecture
            remedy = "the model is unconditional (--data.class_conditional, or no labels), use unet"
            require(architecture != "class_map_unet", "model.architecture", architecture, remedy)
        probability = 0.0 if not conditional else 0.1 if requested is None else requested
        if probability == 0:
            null_embedding = self.model.null_embedding
            remedy = "this run has no null label, as class_dropout_prob is 0 or the model is unconditional"
            require(null_embedding == "learned", "model.null_embedding", null_embedding, remedy)
        return probability


@dataclass(kw_only=True)
class GANDataConfig(RandomCropOptions, TrainingDataConfig, ImageShapeOptions, ClassConditionalOptions):
    """Images to train a GAN on, without a held-out split: no loss of a GAN is meaningful on held-out images."""

    image_size: int | tuple[int, int] | None = None
    """Height and width in pixels, by resizing and center crop: 8, 16, 28, 32 or 64; required."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.batch_size > 1, "batch_size", "batch norm needs several images, give 2 or more")


@dataclass(kw_only=True)
class GANModelConfig(BaseConfig, group="model"):
    """Generator and discriminator of Radford et al. 2016."""

    latent_dim: int = 128
    """Size of the latent vector z (nz)."""
    generator_width: int = 64
    """Channels of the generator's last hidden layer (ngf); each layer before it has twice as many as the next."""
    discriminator_width: int = 64
    """Channels of the discriminator's first hidden layer (ndf); each layer after it has twice as many as the one before."""
    label_channels: int = 16
    """Channels of the label embedding in each of the two networks; not used without classes."""
    wide_early: bool = False
    """Double the channels of every hidden layer of the generator but the first."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, most in LARGEST.items():
            self.require(1 <= getattr(self, name) <= most, name, f"give 1 to {most}")


@dataclass(kw_only=True)
class GANObjectiveConfig(BaseConfig, group="objective"):
    """Label smoothing and input noise of the discriminator."""

    real_target: float = 1.0
    """Target of the discriminator for real images, a probability; 0.9 = smoothed."""
    fake_target: float = 0.0
    """Target of the discriminator for generated images, a probability; 0.1 = smoothed."""
    input_noise: float = 0.0
    """Standard deviation of the Gaussian noise added to the discriminator's input, pixels in [-1, 1]; 0 = none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, low, high in (("real_target", 0.5, 1), ("fake_target", 0, 0.5), ("input_noise", 0, 10)):
            self.require(low <= getattr(self, name) <= high, name, f"give a number from {low} to {high}")
        apart = self.fake_target < self.real_target
        self.require(apart, "fake_target", "give less than real_target, so that the targets differ")


@dataclass(kw_only=True)
class GANOptimConfig(BaseOptimConfig):
    """The optimizers of the two networks, with the same options.

    Gradients are not accumulated, because batch norm would see the parts of a batch only.
    """

    optimizer: Optimizer = "adam"
    learning_rate: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.999)
    lr_scheduler: LRSchedule = "constant"
    max_grad_norm: float | None = None
    """Maximum norm of the gradient of each network, which is scaled down to it; None = off."""


@dataclass(kw_only=True)
class GANEMAConfig(BaseEMAConfig):
    """Moving average of the generator's weights, used for sampling."""

    decay: float | None = None


@dataclass(kw_only=True)
class GANConfig(RunConfig, EMAOptions):
    """Train a DCGAN and save it as a DCGANPipeline.

    There is no option to compile the networks, which alternate with and without gradients, nor to publish the model, as
    model cards describe diffusion models.
    """

    program: ClassVar[str] = "train_gan"
    main_options: ClassVar[tuple[str, ...]] = (
        "output_dir", "data.source", "data.image_size", "data.labels", "data.batch_size", "max_train_steps",
        "num_train_epochs", "optim.learning_rate", "mixed_precision", "resume", "logging.sample_every_steps",
    )  # fmt: skip
    mixed_precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of the networks' forward and backward pass. `auto` = bf16 where it is faster, see hf-ddpm train."""
    data: GANDataConfig = field(default_factory=GANDataConfig)
    optim: GANOptimConfig = field(default_factory=GANOptimConfig)
    ema: GANEMAConfig = field(default_factory=GANEMAConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    model: GANModelConfig = field(default_factory=GANModelConfig)
    objective: GANObjectiveConfig = field(default_factory=GANObjectiveConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = ", ".join(map(str, SIZES))
        size, remedy = self.data.image_size, f"a DCGAN generates square images of {sizes} pixels, give one of them"
        require(size in SIZES, "data.image_size", size, remedy)
        assert size is not None
        self.data.check_crop(size)


@dataclass(kw_only=True)
class JudgeDataConfig(TrainingDataConfig, SplitsConfig, ImageShapeOptions):
    """Images to train a judge on.

    They are not streamed: the judge's record identifies its data by a fingerprint of all images.
    """

    test_split: str | None = None
    """Held-out split on which the judge's accuracy is measured; required."""
    image_size: int | tuple[int, int] | None = None
    """Height and width in pixels of the images to judge, by resizing and center crop; required."""
    max_shift: int = 1
    """Maximum shift of a training image in each direction, in pixels; the edge is repeated. 0 = none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        several = self.labels is None or len(self.labels) > 1
        self.require(several, "labels", "name at least two classes")
        self.require(self.max_shift >= 0, "max_shift", "give 0 or more pixels")


@dataclass(kw_only=True)
class JudgeModelConfig(BaseConfig, group="model"):
    """The classifier, a ResNet of basic (two-convolution) blocks."""

    widths: list[int] = field(default_factory=lambda: [32, 64, 128])
    """Channels of each stage; every stage but the first halves the image. The last is the number of features."""
    depths: list[int] = field(default_factory=lambda: [1, 1, 1])
    """Blocks of each stage."""


@dataclass(kw_only=True)
class JudgeLoggingConfig(BaseLoggingConfig):
    """What is logged during training."""

    test_every_steps: int | None = None
    """Optimizer steps between measurements of the accuracy on the held-out split; None = only at the end."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("test_every_steps", "steps")


@dataclass(kw_only=True)
class JudgeConfig(RunConfig):
    """Train a judge, a classifier whose features and predictions measure samples.

    It has no moving average, which would not include the statistics of batch norm, and trains too briefly to be compiled.
    """

    program: ClassVar[str] = "train_judge"
    main_options: ClassVar[tuple[str, ...]] = (
        "output_dir", "data.source", "data.test_split", "data.image_size", "data.labels", "data.batch_size",
        "max_train_steps", "num_train_epochs", "optim.learning_rate", "resume",
    )  # fmt: skip
    min_accuracy: float | None = None
    """Accuracy on held-out images, in [0, 1], below which a warning is printed; the judge is saved in any case. None = no
    warning."""
    data: JudgeDataConfig = field(default_factory=JudgeDataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    logging: JudgeLoggingConfig = field(default_factory=JudgeLoggingConfig)
    model: JudgeModelConfig = field(default_factory=JudgeModelConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        data, remedy = self.data, "a judge is measured on held-out images, name their split"
        require(data.test_split not in (None, data.train_split), "data.test_split", data.test_split, remedy)
        require(data.image_size is not None, "data.image_size", None, "give the size of the images to judge, in pixels")
        require(data.batch_size > 1, "data.batch_size", data.batch_size, "batch norm needs several images, give 2 or more")
        fits = data.image_size is None or data.max_shift < min(size_pair(data.image_size))
        require(fits, "data.max_shift", data.max_shift, f"give less than the image size, {data.image_size}")
        ok = self.min_accuracy is None or 0 <= self.min_accuracy <= 1
        self.require(ok, "min_accuracy", "give a number from 0 to 1, such as 0.98")
