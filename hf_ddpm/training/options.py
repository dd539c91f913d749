"""Options of the training programs, and the checks across options that need no data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from hf_ddpm.config import (
    BaseConfig,
    BaseLoggingConfig,
    BaseOptimConfig,
    CheckpointConfig,
    EMAConfig,
    HubConfig,
    LoggingConfig,
    ModelConfig,
    MonitorConfig,
    ObjectiveConfig,
    OptimConfig,
    ScheduleConfig,
    require,
)
from hf_ddpm.data.options import (
    ClassConditionalOptions,
    DataConfig,
    ImageShapeOptions,
    SplitsConfig,
    TrainingDataConfig,
)
from hf_ddpm.models.unet import unet_arguments

SIZES = (8, 16, 28, 32, 64)
"""Pixels of the images that `hf_ddpm.dcgan_pipeline.STAGES` knows, which is not read here: it would load torch."""
LARGEST = {"latent_dim": 1024, "generator_width": 512, "discriminator_width": 512, "label_channels": 1024}


@dataclass(kw_only=True)
class RunOptions(BaseConfig):
    """Where a run is saved, how long it is and how it computes."""

    output_dir: str
    """Run folder; it must be new or empty unless the run is resumed."""
    seed: int = 0
    """Seed of everything random in the run."""
    max_train_steps: int | None = None
    """Length of the run in optimizer steps; None = given in epochs."""
    num_train_epochs: int | None = None
    """Length of the run in passes over the data; None = given in steps."""
    resume: str = "none"
    """`none`, `auto` (newest whole checkpoint, else from the start), `latest` (fails without one) or a checkpoint folder."""
    mixed_precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of the network's forward and backward pass; fp16 needs a CUDA device."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.output_dir != "", "output_dir", "name a folder")
        self.require(0 <= self.seed < 2**32, "seed", "give a whole number from 0 to 4294967295")
        self.require_positive("max_train_steps", "steps")
        self.require_positive("num_train_epochs", "epochs")
        lengths = {"max_train_steps": self.max_train_steps, "num_train_epochs": self.num_train_epochs}
        given = [name for name, value in lengths.items() if value is not None]
        if len(given) != 1:
            both = f"both are given ({lengths}): set the other to null" if given else "neither is given"
            raise ValueError(f"--max_train_steps or --num_train_epochs, exactly one, says how long to train: {both}")
        if self.mixed_precision == "fp16":
            import torch

            self.require(torch.cuda.is_available(), "mixed_precision", "there is no CUDA device here, take bf16 or fp32")


@dataclass(kw_only=True)
class CompileOptions(RunOptions):
    """Whether the network is compiled."""

    compile: bool = False
    """Compile the network with torch.compile: a minute or more at the start, faster steps after it."""


@dataclass(kw_only=True)
class LearningOptions(RunOptions):
    """What a network learns from, and how."""

    num_threads: int | None = None
    """CPU threads of a process; None = the machine's cores shared among its processes, whatever a launcher put into
    OMP_NUM_THREADS."""
    data: TrainingDataConfig = field(default_factory=TrainingDataConfig)
    optim: BaseOptimConfig = field(default_factory=BaseOptimConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("num_threads", "threads")


@dataclass(kw_only=True)
class EMAOptions(LearningOptions):
    """The moving average of the weights."""

    ema: EMAConfig = field(default_factory=EMAConfig)


@dataclass(kw_only=True)
class RunConfig(LearningOptions):
    """What every training program is told, whatever it trains."""

    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    logging: BaseLoggingConfig = field(default_factory=BaseLoggingConfig)


@dataclass(kw_only=True)
class TrainConfig(RunConfig, EMAOptions, CompileOptions):
    """Train a DDPM with classifier-free guidance and save it as a CFGDDPMPipeline."""

    program: ClassVar[str] = "train"
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    hub: HubConfig = field(default_factory=HubConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    evaluation: MonitorConfig = field(default_factory=MonitorConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        streaming = self.data.streaming
        no_epochs = not streaming or self.num_train_epochs is None
        self.require(no_epochs, "num_train_epochs", "the length of a stream is not known, give --max_train_steps")
        zero_terminal = self.schedule.rescale_zero_terminal_snr
        remedy = "with --schedule.rescale_zero_terminal_snr it divides by zero, take v_prediction or sample"
        prediction_type = self.objective.prediction_type
        require(not (zero_terminal and prediction_type == "epsilon"), "objective.prediction_type", prediction_type, remedy)
        self.network_arguments(image_size=self.data.image_size, channels=self.data.channels)
        if self.evaluation.every_steps is not None:
            steps, most = self.evaluation.num_inference_steps, self.schedule.num_train_timesteps
            require(steps <= most, "evaluation.num_inference_steps", steps, f"there are {most} timesteps")
            every_steps = self.evaluation.every_steps
            require(not streaming, "evaluation.every_steps", every_steps, "leave out --data.streaming for it")
        if self.data.class_conditional is False:
            self.resolve_class_dropout(conditional=False)

    def network_arguments(
        self, *, image_size: int | None = None, channels: int | None = None, num_class_embeds: int | None = None
    ) -> dict[str, Any]:
        """Arguments of the network; those given here follow the images, see `unet_arguments`.

        Raises:
            ValueError: the options of the model do not fit together.
        """
        return unet_arguments(
            self.model.preset,
            self.model.overrides,
            image_size=image_size,
            channels=channels,
            num_class_embeds=num_class_embeds,
            learned_variance=self.schedule.variance_type == "learned_range",
            architecture=self.model.architecture,
        )

    def resolve_class_dropout(self, conditional: bool) -> float:
        """Probability of the null label, once it is known whether the data has labels.

        Raises:
            ValueError: an option of the null label was given to a run that has none.
        """
        asked = self.objective.class_dropout_prob
        if not conditional:
            remedy = "the model is not told a class (--data.class_conditional, or no labels), set it to null"
            require(not asked, "objective.class_dropout_prob", asked, remedy)
            architecture = self.model.architecture
            remedy = "the model is not told a class (--data.class_conditional, or no labels), take unet"
            require(architecture != "class_map_unet", "model.architecture", architecture, remedy)
        probability = 0.0 if not conditional else 0.1 if asked is None else asked
        if probability == 0:
            null_embedding = self.model.null_embedding
            remedy = "this run has no null label, as class_dropout_prob is 0 or the model is unconditional"
            require(null_embedding == "learned", "model.null_embedding", null_embedding, remedy)
        return probability


@dataclass(kw_only=True)
class GANDataConfig(TrainingDataConfig, ImageShapeOptions, ClassConditionalOptions):
    """Which images a GAN learns, and how they are read."""

    image_size: int | None = None
    """Height and width in pixels, by resizing and centre crop: 8, 16, 28, 32 or 64; a GAN needs it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.batch_size > 1, "batch_size", "the batch norm compares images, give 2 or more")


@dataclass(kw_only=True)
class GANModelConfig(BaseConfig, group="model"):
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

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, most in LARGEST.items():
            self.require(1 <= getattr(self, name) <= most, name, f"give 1 to {most}")


@dataclass(kw_only=True)
class GANObjectiveConfig(BaseConfig, group="objective"):
    """How the discriminator is made less sure of itself."""

    real_target: float = 1.0
    """Probability of being real that the discriminator is to give real images; 0.9 = smoothed."""
    fake_target: float = 0.0
    """Probability of being real that the discriminator is to give generated images; 0.1 = smoothed."""
    input_noise: float = 0.0
    """Standard deviation of the normal noise on what the discriminator sees, whose pixels are in [-1, 1]; 0 = none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, low, high in (("real_target", 0.5, 1), ("fake_target", 0, 0.5), ("input_noise", 0, 10)):
            self.require(low <= getattr(self, name) <= high, name, f"give a number from {low} to {high}")
        apart = self.fake_target < self.real_target
        self.require(apart, "fake_target", "real and generated images need different targets")


@dataclass(kw_only=True)
class GANOptimConfig(BaseOptimConfig):
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


@dataclass(kw_only=True)
class GANEMAConfig(EMAConfig):
    """Moving average of the generator's weights, with which samples are drawn."""

    decay: float | None = None
    """Largest decay a step; None = no average, the trained weights themselves are saved."""


@dataclass(kw_only=True)
class GANConfig(RunConfig, EMAOptions):
    """Train a DCGAN and save it as a DCGANPipeline."""

    program: ClassVar[str] = "train_gan"
    mixed_precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the networks' forward and backward pass."""
    data: GANDataConfig = field(default_factory=GANDataConfig)
    optim: GANOptimConfig = field(default_factory=GANOptimConfig)
    ema: GANEMAConfig = field(default_factory=GANEMAConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    model: GANModelConfig = field(default_factory=GANModelConfig)
    objective: GANObjectiveConfig = field(default_factory=GANObjectiveConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        size, remedy = self.data.image_size, f"a DCGAN draws {', '.join(map(str, SIZES))} pixels, give one of them"
        require(size in SIZES, "data.image_size", size, remedy)


@dataclass(kw_only=True)
class JudgeDataConfig(TrainingDataConfig, SplitsConfig, ImageShapeOptions):
    """Which images a judge learns, and how they are read."""

    test_split: str | None = None
    """Held-out split that the judge's accuracy is measured on, all of it; a judge needs one."""
    image_size: int | None = None
    """Height and width in pixels of the images that it will judge, by resizing and centre crop; a judge needs it."""
    max_shift: int = 1
    """Pixels that each training image is moved at most, up or down and left or right; what comes in at an edge repeats it.
    0 = none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        several = self.labels is None or len(self.labels) > 1
        self.require(several, "labels", "name at least two classes, as a judge tells them apart")
        self.require(self.max_shift >= 0, "max_shift", "give 0 or more pixels")


@dataclass(kw_only=True)
class JudgeModelConfig(BaseConfig, group="model"):
    """The classifier, a ResNet of two-convolution blocks."""

    widths: list[int] = field(default_factory=lambda: [32, 64, 128])
    """Channels of each stage; each stage but the first halves the image. The last is the number of features."""
    depths: list[int] = field(default_factory=lambda: [1, 1, 1])
    """Blocks of each stage."""


@dataclass(kw_only=True)
class JudgeLoggingConfig(BaseLoggingConfig):
    """What is reported while a run goes on."""

    test_every_steps: int | None = None
    """Optimizer steps between accuracies on the held-out split; None = only at the end."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("test_every_steps", "steps")


@dataclass(kw_only=True)
class JudgeConfig(RunConfig):
    """Train a judge, the classifier whose features and predictions measure samples."""

    program: ClassVar[str] = "train_judge"
    min_accuracy: float | None = None
    """Part of the held-out images, in [0, 1], that the judge should name rightly: one that does not is saved all the same,
    with its accuracy, and a warning is printed. None = no warning."""
    data: JudgeDataConfig = field(default_factory=JudgeDataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    logging: JudgeLoggingConfig = field(default_factory=JudgeLoggingConfig)
    model: JudgeModelConfig = field(default_factory=JudgeModelConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        data, remedy = self.data, "a judge is measured on images that it has not learnt, name a split of them"
        require(data.test_split not in (None, data.train_split), "data.test_split", data.test_split, remedy)
        require(data.image_size is not None, "data.image_size", None, "give the size of the images to judge, in pixels")
        require(data.batch_size > 1, "data.batch_size", data.batch_size, "the batch norm compares images, give 2 or more")
        fits = data.image_size is None or data.max_shift < data.image_size
        require(fits, "data.max_shift", data.max_shift, f"give fewer pixels than the {data.image_size} of an image")
        ok = self.min_accuracy is None or 0 <= self.min_accuracy <= 1
        self.require(ok, "min_accuracy", "give a part between 0 and 1, such as 0.98")
