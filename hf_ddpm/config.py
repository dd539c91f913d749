"""Option groups that several programs share: keyword-only dataclasses that check themselves.

Every field says its unit and what `None` means. A value that cannot work raises a `ValueError` that names the option as it
is written on the command line, the value got and the remedy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

Architecture = Literal["unet", "class_map_unet", "conv_denoiser", "tiny_unet"]
BetaSchedule = Literal["linear", "scaled_linear", "squaredcos_cap_v2", "cosine", "sigmoid"]
LossName = Literal["l2", "l1", "smooth_l1", "huber"]
LossWeighting = Literal["simple", "min_snr", "vlb"]
PredictionType = Literal["epsilon", "sample", "v_prediction"]
TimestepSampling = Literal["uniform", "stratified", "per_batch"]
VarianceType = Literal["fixed_small", "fixed_large", "learned_range"]

DEFAULT_GUIDANCE_SCALE = 1.5
"""s in u + s (c - u) where a program is given none and the model has a null label."""


def require(ok: bool, option: str, value: Any, remedy: str) -> None:
    """Raise `ValueError` "--option is value: remedy" unless `ok`."""
    if not ok:
        raise ValueError(f"--{option} is {value!r}: {remedy}")


def _require_positive(option: str, value: float | None, unit: str) -> None:
    require(value is None or 0 < value < math.inf, option, value, f"give a number of {unit} above 0")


def _require_probability(option: str, value: float | None) -> None:
    require(value is None or 0 <= value <= 1, option, value, "give a probability between 0 and 1")


@dataclass(kw_only=True)
class DataConfig:
    """Which images a model learns, and how they are read."""

    source: str = "digits"
    """`digits` (embedded, 8 x 8), a local folder (parquet, images or a saved data set) or the id of a Hub data set."""
    train_split: str = "train"
    """Split that is trained on."""
    test_split: str | None = None
    """Held-out split whose loss is logged beside each sample grid; None = no held-out loss."""
    image_column: str | None = None
    """Column of the images; None = the only image column."""
    label_column: str | None = None
    """Column of the class labels; None = the only class label column, if there is one."""
    labels: list[str | int] | None = None
    """Classes to keep, by name or id, renumbered in this order; None = all."""
    class_conditional: bool | None = None
    """Whether the model is told the class; None = yes if there are labels."""
    image_size: int | None = None
    """Height and width in pixels, by resizing and centre crop; None = the size of the model preset."""
    channels: Literal[1, 3] | None = None
    """1 = grayscale, 3 = RGB; None = as the first image is, or as a model given by its config.json demands."""
    max_images: int | None = None
    """Images to train on, evenly spread over the split (of a stream: the first ones); None = all."""
    on_bad_image: Literal["error", "skip"] = "error"
    """An image that cannot be decoded ends the program, or is left out (in a stream: the next one takes its place)."""
    max_bad_images: int | None = None
    """Images of a split that may be left out; None = 100. Only with on_bad_image skip."""
    streaming: bool = False
    """Read the images while training, decoding each as it comes, in place of decoding all of them before."""
    shuffle_buffer: int | None = None
    """Images that a stream is shuffled within; None = 10000. Only with streaming."""
    horizontal_flip: bool = False
    """Mirror each image left to right with probability 0.5."""
    batch_size: int = 128
    """Images a process and micro-step."""

    def __post_init__(self):
        _require_positive("data.batch_size", self.batch_size, "images")
        _require_positive("data.image_size", self.image_size, "pixels")
        _require_positive("data.max_images", self.max_images, "images")
        _require_positive("data.shuffle_buffer", self.shuffle_buffer, "images")
        _require_positive("data.max_bad_images", self.max_bad_images, "images")
        has_cap = self.on_bad_image == "skip" or self.max_bad_images is None
        require(has_cap, "data.max_bad_images", self.max_bad_images, "add --data.on_bad_image skip, or leave it out")
        has_buffer = self.streaming or self.shuffle_buffer is None
        require(has_buffer, "data.shuffle_buffer", self.shuffle_buffer, "add --data.streaming, or leave it out")
        require(self.labels is None or len(self.labels) > 0, "data.labels", self.labels, "name at least one class")


@dataclass(kw_only=True)
class ModelConfig:
    """The denoising network."""

    architecture: Architecture = "unet"
    """`unet` = UNet2DModel. `class_map_unet` = the same, told the class by a map at the input of its residual blocks
    (`overrides.class_map_stages`: any of down, mid, up). `conv_denoiser` = convolutions and transposed ones, no skips.
    `tiny_unet` = no attention, told timestep and class at its input only. The last two take from the preset what they know:
    size, channels, widths and the like."""
    preset: str = "digits8"
    """Name in `hf_ddpm.models.unet.UNET_PRESETS`, or a folder or Hub id with the config.json of a UNet2DModel (architecture
    only, weights are not read)."""
    overrides: dict[str, Any] | None = None
    """Any argument of UNet2DModel (or of the other architecture), over those of the preset; None = none."""
    null_embedding: Literal["learned", "zero"] = "learned"
    """Embedding of the null label: trained like the others, or zero throughout."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""


@dataclass(kw_only=True)
class ScheduleConfig:
    """The forward process q(x_t | x_0)."""

    beta_schedule: BetaSchedule = "squaredcos_cap_v2"
    """How beta grows with t; `cosine` is an alias of squaredcos_cap_v2."""
    num_train_timesteps: int = 1000
    """T, the number of timesteps."""
    beta_start: float | None = None
    """beta at t = 0; None = 1e-4. Not used by the cosine schedule."""
    beta_end: float | None = None
    """beta at t = T - 1; None = 0.02. Not used by the cosine schedule."""
    variance_type: VarianceType = "fixed_small"
    """Variance of the reverse process when sampling with DDPM: the posterior's, beta, or learnt between the two by twice
    the output channels and the hybrid loss of Nichol & Dhariwal 2021."""
    rescale_zero_terminal_snr: bool = False
    """Rescale the betas so that the last timestep is pure noise (Lin et al. 2023)."""

    def __post_init__(self):
        if self.beta_schedule == "cosine":
            self.beta_schedule = "squaredcos_cap_v2"
        steps = self.num_train_timesteps
        require(2 <= steps <= 100_000, "schedule.num_train_timesteps", steps, "give 2 to 100000 timesteps")
        for name in ("beta_start", "beta_end"):
            value = getattr(self, name)
            if value is not None:
                require(0 < value < 1, f"schedule.{name}", value, "give a variance between 0 and 1")
                cosine = self.beta_schedule == "squaredcos_cap_v2"
                require(not cosine, f"schedule.{name}", value, "leave it out, the cosine schedule does not use it")
        start, end = self.beta_range
        require(start <= end, "schedule.beta_end", end, f"give at least beta_start ({start})")

    @property
    def beta_range(self) -> tuple[float, float]:
        """beta at the first and at the last timestep, with the defaults of Ho et al. 2020 filled in."""
        start = 1e-4 if self.beta_start is None else self.beta_start
        return start, 0.02 if self.beta_end is None else self.beta_end


@dataclass(kw_only=True)
class ObjectiveConfig:
    """What the network learns to predict, and how it is scored."""

    prediction_type: PredictionType = "v_prediction"
    """The noise, the clean image, or the velocity of Salimans & Ho 2022."""
    loss: LossName = "l2"
    """Distance of prediction and target. smooth_l1 (beta = 1) and huber (delta = 1) are one function under two names."""
    loss_weighting: LossWeighting = "simple"
    """The same weight for each timestep, min-SNR-gamma (Hang et al. 2023), or the variational bound of Ho et al. 2020
    (eq. 5), in bits per dimension."""
    snr_gamma: float | None = None
    """gamma of min_snr; None = off, as `simple` needs it."""
    class_dropout_prob: float | None = None
    """Probability that a sample is trained with the null label; None = 0.1 for a conditional model. 0 = no null label."""
    timestep_sampling: TimestepSampling = "stratified"
    """One timestep a sample: independent, or one from each of as many equal strata as the total batch has samples.
    per_batch = one for all of the total batch, worse and for comparison only: a step's loss is that of one noise level."""

    def __post_init__(self):
        _require_probability("objective.class_dropout_prob", self.class_dropout_prob)
        _require_positive("objective.snr_gamma", self.snr_gamma, "SNR units")
        if self.loss_weighting == "min_snr":
            require(self.snr_gamma is not None, "objective.snr_gamma", None, "min_snr needs it, 5 is usual")
        else:
            off = self.snr_gamma is None
            require(off, "objective.snr_gamma", self.snr_gamma, "add --objective.loss_weighting min_snr")
        if self.loss_weighting == "vlb":
            require(self.loss == "l2", "objective.loss", self.loss, "the bound has its own distance, take l2 with vlb")


@dataclass(kw_only=True)
class OptimConfig:
    """The optimizer and its learning rate."""

    optimizer: Literal["adam", "adamw"] = "adamw"
    """Adam, or AdamW with decoupled weight decay."""
    learning_rate: float = 1e-3
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay of the two moments of Adam."""
    weight_decay: float = 0.0
    """Weight decay; L2 penalty with adam."""
    lr_scheduler: Literal["constant", "linear", "cosine", "multistep"] = "cosine"
    """Learning rate after warm-up: constant, decaying to 0 at the end of the run, or multiplied at milestones."""
    lr_warmup_steps: int = 0
    """Optimizer steps over which the learning rate grows from 0."""
    lr_milestones: list[int] | None = None
    """multistep: when the rate is multiplied, in the unit of the run's length (epochs or steps); None = not multistep."""
    lr_gamma: float | None = None
    """multistep: the factor at each milestone; None = not multistep."""
    max_grad_norm: float | None = 1.0
    """Gradients are scaled down to this global norm; None = off."""
    gradient_accumulation_steps: int = 1
    """Micro-steps whose gradients are summed into one optimizer step."""

    def __post_init__(self):
        _require_positive("optim.learning_rate", self.learning_rate, "learning rate")
        _require_positive("optim.max_grad_norm", self.max_grad_norm, "gradient norm")
        _require_positive("optim.gradient_accumulation_steps", self.gradient_accumulation_steps, "micro-steps")
        decay, warmup = self.weight_decay, self.lr_warmup_steps
        require(0 <= decay < math.inf, "optim.weight_decay", decay, "give 0 or more")
        require(warmup >= 0, "optim.lr_warmup_steps", warmup, "give 0 or more steps")
        require(all(0 <= b < 1 for b in self.betas), "optim.betas", self.betas, "give two numbers from 0 to below 1")
        multistep = self.lr_scheduler == "multistep"
        for name in ("lr_milestones", "lr_gamma"):
            value = getattr(self, name)
            remedy = "multistep needs it" if multistep else "add --optim.lr_scheduler multistep"
            require((value is not None) == multistep, f"optim.{name}", value, remedy)
        _require_positive("optim.lr_gamma", self.lr_gamma, "factor")
        if multistep:
            rising = all(a < b for a, b in zip([0, *self.lr_milestones], self.lr_milestones, strict=False))
            rising = rising and len(self.lr_milestones) > 0
            require(rising, "optim.lr_milestones", self.lr_milestones, "give rising numbers above 0")


@dataclass(kw_only=True)
class EMAConfig:
    """Moving average of the weights, with which samples are drawn."""

    decay: float | None = 0.999
    """Largest decay a step; None = no average, the trained weights themselves are saved."""
    inv_gamma: float = 1.0
    """Warm-up: the decay after n steps is 1 - (1 + n / inv_gamma) ** -power, at most `decay`."""
    power: float = 0.75
    """Warm-up exponent, see inv_gamma."""

    def __post_init__(self):
        require(self.decay is None or 0 <= self.decay < 1, "ema.decay", self.decay, "give 0 to below 1, or null for none")
        _require_positive("ema.inv_gamma", self.inv_gamma, "steps")
        _require_positive("ema.power", self.power, "exponent")


@dataclass(kw_only=True)
class CheckpointConfig:
    """When the state of the run is saved."""

    every_steps: int | None = 1000
    """Optimizer steps between checkpoints; None = only the one at the end."""
    keep: int = 2
    """How many of the newest checkpoints stay, at least 2."""
    keep_every_steps: int | None = None
    """Checkpoints at multiples of this many steps stay for good; None = none."""

    def __post_init__(self):
        _require_positive("checkpoint.every_steps", self.every_steps, "steps")
        _require_positive("checkpoint.keep_every_steps", self.keep_every_steps, "steps")
        require(self.keep >= 2, "checkpoint.keep", self.keep, "keep at least 2, so that one always loads")


@dataclass(kw_only=True)
class LoggingConfig:
    """What is reported while a run goes on."""

    every_steps: int = 50
    """Optimizer steps between lines of metrics.jsonl."""
    sample_every_steps: int | None = 1000
    """Optimizer steps between grids of samples (and held-out losses); None = none."""
    trackers: list[Literal["tensorboard", "trackio", "wandb"]] = field(default_factory=list)
    """Trackers that get the same numbers as metrics.jsonl; each needs its package (pip install "hf_ddpm[track]")."""

    def __post_init__(self):
        _require_positive("logging.every_steps", self.every_steps, "steps")
        _require_positive("logging.sample_every_steps", self.sample_every_steps, "steps")


@dataclass(kw_only=True)
class MonitorConfig:
    """Measuring samples while training goes on, see evaluate_model.py; what comes out is logged into metrics.jsonl."""

    every_steps: int | None = None
    """Optimizer steps between measurements, and one at the end; None = none."""
    features: str | None = None
    """`judge:FOLDER`, `inception`, `dinov2`, or `dinov2:` with a Hub id or a folder; None = no measurements."""
    min_judge_accuracy: float | None = 0.98
    """A judge that was right on a smaller share of its test images is refused; None = accept any."""
    num_images: int = 500
    """Images that are drawn each time, always with the same seeds."""
    scheduler: str = "dpmsolver++"
    """Name of a sampler, see sample.py."""
    num_inference_steps: int = 20
    """Denoising steps."""
    guidance_scale: float | None = None
    """s in u + s (c - u), 1 = no guidance; None = 1.5, or 1 for a model without a null label."""

    def __post_init__(self):
        _require_positive("evaluation.every_steps", self.every_steps, "steps")
        on, features = self.every_steps is not None, self.features
        remedy = "say what is measured with, as judge:FOLDER" if on else "add --evaluation.every_steps, or leave it out"
        require((features is not None) == on, "evaluation.features", features, remedy)
        require(self.num_images >= 6, "evaluation.num_images", self.num_images, "give at least 6 images")
        _require_positive("evaluation.num_inference_steps", self.num_inference_steps, "steps")


@dataclass(kw_only=True)
class HubConfig:
    """Publishing of the trained pipeline with its model card."""

    push_to_hub: bool = False
    """Upload the pipeline folder, in one commit, when training has ended."""
    repo_id: str | None = None
    """Repository on the Hub, as NAME or OWNER/NAME, made if it is not there; None = no push."""
    private: bool | None = None
    """Whether a repository that is made is private; None = as the account's default is."""

    def __post_init__(self):
        if self.push_to_hub:
            require(bool(self.repo_id), "hub.repo_id", self.repo_id, "say where to push, as OWNER/NAME")
        else:
            for name in ("repo_id", "private"):
                value = getattr(self, name)
                require(value is None, f"hub.{name}", value, "add --hub.push_to_hub, or leave it out")


@dataclass(kw_only=True)
class RunConfig:
    """What every training program is told, whatever it trains."""

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
    compile: bool = False
    """Compile the network with torch.compile: a minute or more at the start, faster steps after it."""
    num_threads: int | None = None
    """CPU threads of a process; None = the machine's cores shared among its processes, whatever a launcher put into
    OMP_NUM_THREADS."""
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    ema: EMAConfig = field(default_factory=EMAConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    hub: HubConfig = field(default_factory=HubConfig)

    def __post_init__(self):
        require(self.output_dir != "", "output_dir", self.output_dir, "name a folder")
        require(0 <= self.seed < 2**32, "seed", self.seed, "give a whole number from 0 to 4294967295")
        _require_positive("max_train_steps", self.max_train_steps, "steps")
        _require_positive("num_train_epochs", self.num_train_epochs, "epochs")
        _require_positive("num_threads", self.num_threads, "threads")
        lengths = {"max_train_steps": self.max_train_steps, "num_train_epochs": self.num_train_epochs}
        given = [name for name, value in lengths.items() if value is not None]
        if len(given) != 1:
            both = f"both are given ({lengths}): set the other to null" if given else "neither is given"
            raise ValueError(f"--max_train_steps or --num_train_epochs, exactly one, says how long to train: {both}")
        epochs, streaming = self.num_train_epochs, self.data.streaming
        remedy = "the length of a stream is not known, give --max_train_steps"
        require(epochs is None or not streaming, "num_train_epochs", epochs, remedy)
        if self.mixed_precision == "fp16":
            import torch

            remedy = "there is no CUDA device here, take bf16 or fp32"
            require(torch.cuda.is_available(), "mixed_precision", self.mixed_precision, remedy)
