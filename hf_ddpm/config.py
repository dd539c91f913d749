"""Option groups shared by several programs: keyword-only dataclasses that check their values.

The string under a field is its help text; it states the unit and the meaning of `None`. A value that cannot work raises a
`ValueError` with the option as written on the command line, the value and the remedy.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, Self, Union, get_args, get_origin, get_type_hints

Architecture = Literal["unet", "class_map_unet", "conv_denoiser", "tiny_unet"]
BetaSchedule = Literal["linear", "scaled_linear", "squaredcos_cap_v2", "cosine", "sigmoid"]
LRSchedule = Literal["constant", "linear", "cosine", "multistep"]
LossName = Literal["l2", "l1", "smooth_l1", "huber"]
LossWeighting = Literal["simple", "min_snr", "vlb"]
Optimizer = Literal["adam", "adamw"]
PredictionType = Literal["epsilon", "sample", "v_prediction"]
TimestepSampling = Literal["uniform", "stratified", "per_batch"]
VarianceType = Literal["fixed_small", "fixed_large", "learned_range"]

MAX_SEED = 2**32 - 1
"""Largest seed of a program: torch uses no more than 32 bits of the seed of a CPU generator."""
GIVEN_IN_PYTHON = "given in Python"
"""Value of `data.source` and `model.preset` for an object that a program gives to `hf_ddpm.training.loop.train`."""
DEFAULT_GUIDANCE_SCALE = 1.5
"""Default s in u + s (c - u) of the programs, for models with a null label."""


def require_view_channels(channels: list[int] | None) -> None:
    """Refuse what are not the three or the one channel to show; None = the default ones."""
    fits = channels is None or (len(channels) in (1, 3) and min(channels) >= 0)
    require(fits, "view_channels", channels, "give three channels, counted from 0, as red, green and blue, or one in gray")


def require_seeds(option: str, *seeds: int) -> None:
    """Raise `ValueError` unless an option gives seeds, whole numbers from 0 to `MAX_SEED`."""
    for seed in seeds:
        require(0 <= seed <= MAX_SEED, option, seed, f"give a whole number from 0 to {MAX_SEED}")


def require(ok: bool, option: str, value: Any, remedy: str) -> None:
    """Raise `ValueError` "--option is value: remedy" unless `ok`."""
    if not ok:
        raise ValueError(f"--{option} is {value!r}: {remedy}")


@dataclass(kw_only=True)
class BaseConfig:
    """A group of options whose values are checked against their annotations, also when it is built in Python.

    A subclass calls `super().__post_init__()` before its own checks. `group` is the prefix of its options on the command
    line, as in `class DataConfig(BaseConfig, group="data")`; subclasses inherit it.

    Options compose: a class adds options to those of its bases and never removes any. Bases are listed from last to first,
    because a dataclass takes the fields of its last base first; this is the order in --help, --print_config and config.yaml.
    """

    _prefix: ClassVar[str] = ""

    def __new__(cls, *_: Any, **options: Any) -> Self:
        self = super().__new__(cls)
        vars(self)["_given"] = frozenset(options)
        return self

    def __init_subclass__(cls, group: str = "") -> None:
        super().__init_subclass__()
        cls._prefix = f"{group}." if group else cls._prefix

    def __post_init__(self) -> None:
        config_class: Any = type(self)
        for option, kind in _option_types(config_class).items():
            value = getattr(self, option)
            if not _is_of(value, kind):
                raise ValueError(f"--{self._prefix}{option} is {value!r}: expected {name_of(kind)}")

    def is_given(self, option: str) -> bool:
        """Whether an option was named when the group was built; else it has its default, or what follows from others."""
        return option in vars(self)["_given"]

    def require(self, ok: bool, option: str, remedy: str) -> None:
        """Raise `ValueError` "--group.option is value: remedy" unless `ok`."""
        require(ok, self._prefix + option, getattr(self, option), remedy)

    def require_positive(self, option: str, unit: str) -> None:
        """Raise `ValueError` unless an option is None or a finite number above 0."""
        value = getattr(self, option)
        self.require(value is None or 0 < value < math.inf, option, f"give a number of {unit} above 0")


@functools.cache
def _option_types(config_class: Any) -> dict[str, Any]:
    hints = get_type_hints(config_class)
    return {option.name: hints[option.name] for option in fields(config_class)}


def _is_of(value: Any, kind: Any) -> bool:
    """Whether a value matches an annotation. An int also matches float, a list a tuple, and a str a Path."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in arguments)
    if origin in (Union, UnionType):
        return any(_is_of(value, other) for other in arguments)
    if origin in (list, tuple):
        if not isinstance(value, list | tuple):
            return False
        kinds = arguments if origin is tuple else arguments * len(value)
        return len(value) == len(kinds) and all(map(_is_of, value, kinds))
    if origin is dict:
        return isinstance(value, dict)
    if isinstance(value, bool):
        return kind in (bool, Any)
    return kind is Any or isinstance(value, {float: (int, float), Path: (str, Path)}.get(kind, kind))


def name_of(kind: Any) -> str:
    """An annotation in words, such as "int or null" or "one of 'adam', 'adamw'"."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return f"one of {', '.join(map(repr, arguments))}"
    if origin in (Union, UnionType):
        return " or ".join(map(name_of, arguments))
    if origin in (list, tuple):
        return f"{origin.__name__} of {', '.join(map(name_of, arguments))}"
    return "null" if kind is NoneType else kind.__name__


@dataclass(kw_only=True)
class ModelConfig(BaseConfig, group="model"):
    """The denoising network."""

    architecture: Architecture = "unet"
    """`unet` = UNet2DModel. `class_map_unet` = UNet2DModel with the class as a map at the input of its residual blocks
    (`overrides.class_map_stages`: any of down, mid, up). `conv_denoiser` = convolutions and transposed convolutions without
    skip connections. `tiny_unet` = no attention, with timestep and class at its input only. The last two use only some
    arguments of the preset, such as size, channels and widths."""
    preset: str | None = None
    """digits8, mnist28, mnist32, unet-2xud-half, unet-2xud, unet-3xblocks, cifar32-small, cifar32, tiny-imagenet64, cars128,
    or a folder or Hub id with the config.json of a UNet2DModel (no weights); None = that of init_from, or digits8 for
    digits."""
    init_from: str | None = None
    """Start from the weights of a trained model: a folder or Hub id. It is a pipeline of this package, a DDPMPipeline or
    DDIMPipeline, or a UNet2DModel. Its network, schedule and prediction type apply where no option gives another, and
    classes keep their embeddings by name; None = start from random weights."""
    overrides: dict[str, Any] | None = None
    """Arguments of UNet2DModel (or of the chosen architecture) that replace those of the preset; None = none."""
    null_embedding: Literal["learned", "zero"] = "learned"
    """Embedding of the null label: trained like the others, or always zero."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: saves memory, costs time."""


@dataclass(kw_only=True)
class BaseScheduleConfig(BaseConfig, group="schedule"):
    """The betas of the forward process."""

    beta_schedule: BetaSchedule = "squaredcos_cap_v2"
    """Growth of beta over t; `cosine` is an alias of squaredcos_cap_v2."""
    num_train_timesteps: int = 1000
    """Number of timesteps, T."""
    beta_start: float | None = None
    """beta at t = 0; None = 1e-4. Not used by the cosine schedule."""
    beta_end: float | None = None
    """beta at t = T - 1; None = 0.02. Not used by the cosine schedule."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta_schedule == "cosine":
            self.beta_schedule = "squaredcos_cap_v2"
        self.require(2 <= self.num_train_timesteps <= 100_000, "num_train_timesteps", "give 2 to 100000 timesteps")
        for name in ("beta_start", "beta_end"):
            value = getattr(self, name)
            if value is not None:
                self.require(0 < value < 1, name, "give a variance between 0 and 1")
                cosine = self.beta_schedule == "squaredcos_cap_v2"
                self.require(not cosine, name, "leave it out, the cosine schedule does not use it")
        start, end = self.beta_range
        require(start <= end, "schedule.beta_end", end, f"give at least beta_start ({start})")

    @property
    def beta_range(self) -> tuple[float, float]:
        """beta at the first and at the last timestep, with the defaults of Ho et al. 2020 filled in."""
        start = 1e-4 if self.beta_start is None else self.beta_start
        return start, 0.02 if self.beta_end is None else self.beta_end


@dataclass(kw_only=True)
class ScheduleConfig(BaseScheduleConfig):
    """The forward process q(x_t | x_0)."""

    variance_type: VarianceType = "fixed_small"
    """Variance of the reverse process in DDPM sampling: that of the posterior, beta, or learned between the two (twice the
    output channels and the hybrid loss of Nichol & Dhariwal 2021)."""
    rescale_zero_terminal_snr: bool = False
    """Rescale the betas so that the last timestep is pure noise (Lin et al. 2023)."""


@dataclass(kw_only=True)
class ObjectiveConfig(BaseConfig, group="objective"):
    """What the network predicts, and its loss."""

    prediction_type: PredictionType = "v_prediction"
    """The noise, the clean image, or the velocity v of Salimans & Ho 2022."""
    loss: LossName = "l2"
    """Distance between prediction and target. smooth_l1 (beta = 1) and huber (delta = 1) are the same function."""
    loss_weighting: LossWeighting = "simple"
    """Weight of a timestep: `simple` = the same for all, `min_snr` = min-SNR-gamma (Hang et al. 2023), `vlb` = the
    variational bound of Ho et al. 2020 (eq. 5), in bits per dimension."""
    snr_gamma: float | None = None
    """gamma of min_snr; None = not min_snr."""
    class_dropout_prob: float | None = None
    """Probability of training a sample with the null label; None = 0.1 for a conditional model, 0 = no null label."""
    timestep_sampling: TimestepSampling = "stratified"
    """Timesteps of the total batch: `uniform` = independent, one per sample; `stratified` = one from each of as many equal
    strata as there are samples; `per_batch` = the same for all samples, for comparison only: each step then trains a single
    noise level."""

    def __post_init__(self) -> None:
        super().__post_init__()
        probability = self.class_dropout_prob
        possible = probability is None or 0 <= probability <= 1
        self.require(possible, "class_dropout_prob", "give a probability between 0 and 1")
        self.require_positive("snr_gamma", "SNR units")
        if self.loss_weighting == "min_snr":
            self.require(self.snr_gamma is not None, "snr_gamma", "min_snr needs it, usually 5")
        else:
            self.require(self.snr_gamma is None, "snr_gamma", "add --objective.loss_weighting min_snr")
        if self.loss_weighting == "vlb":
            self.require(self.loss == "l2", "loss", "vlb has its own distance, use l2 with it")


@dataclass(kw_only=True)
class BaseOptimConfig(BaseConfig, group="optim"):
    """The optimizer and its learning rate."""

    optimizer: Optimizer = "adamw"
    """Adam, or AdamW with decoupled weight decay."""
    learning_rate: float = 1e-3
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay rates of the two moments of Adam."""
    weight_decay: float = 0.0
    """Weight decay; with adam an L2 penalty."""
    lr_scheduler: LRSchedule = "cosine"
    """Learning rate after warm-up: constant, decaying to 0 over the run (linear, cosine), or multiplied at milestones."""
    lr_warmup_steps: int = 0
    """Optimizer steps over which the learning rate grows from 0."""
    lr_milestones: list[int] | None = None
    """multistep: times of the changes, in the unit of the run's length (epochs or steps); None = not multistep."""
    lr_gamma: float | None = None
    """multistep: factor at each milestone; None = not multistep."""
    max_grad_norm: float | None = 1.0
    """Maximum global norm of the gradient, which is scaled down to it; None = off."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("learning_rate", "learning rate")
        self.require_positive("max_grad_norm", "gradient norm")
        self.require(0 <= self.weight_decay < math.inf, "weight_decay", "give 0 or more")
        self.require(self.lr_warmup_steps >= 0, "lr_warmup_steps", "give 0 or more steps")
        self.require(all(0 <= beta < 1 for beta in self.betas), "betas", "give two numbers from 0 to below 1")
        multistep = self.lr_scheduler == "multistep"
        remedy = "multistep needs it" if multistep else "add --optim.lr_scheduler multistep"
        for name in ("lr_milestones", "lr_gamma"):
            self.require((getattr(self, name) is not None) == multistep, name, remedy)
        self.require_positive("lr_gamma", "factor")
        milestones = self.lr_milestones
        if milestones is not None:
            rising = len(milestones) > 0 and all(a < b for a, b in itertools.pairwise([0, *milestones]))
            self.require(rising, "lr_milestones", "give increasing numbers above 0")

    @property
    def micro_steps(self) -> int:
        """Micro-steps per optimizer step."""
        return 1


@dataclass(kw_only=True)
class OptimConfig(BaseOptimConfig):
    """The optimizer and its learning rate."""

    gradient_accumulation_steps: int = 1
    """Micro-steps per optimizer step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("gradient_accumulation_steps", "micro-steps")

    @property
    def micro_steps(self) -> int:
        return self.gradient_accumulation_steps


@dataclass(kw_only=True)
class BaseEMAConfig(BaseConfig, group="ema"):
    """Moving average of the weights, used for sampling."""

    decay: float | None = 0.999
    """Maximum decay per step; None = no average, the trained weights themselves are saved."""
    inv_gamma: float = 1.0
    """Warm-up: the decay after n steps is 1 - (1 + n / inv_gamma) ** -power, at most `decay`."""
    power: float = 0.75
    """Warm-up exponent, see inv_gamma."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.decay is None or 0 <= self.decay < 1, "decay", "give 0 to below 1, or null for none")
        self.require_positive("inv_gamma", "steps")
        self.require_positive("power", "exponent")


@dataclass(kw_only=True)
class EMAConfig(BaseEMAConfig):
    """Moving average of the weights, used for sampling, and snapshots from which others are made after the training."""

    snapshot_every_steps: int | None = None
    """Optimizer steps between snapshots of two further averages, from which hf-ddpm average makes one of any length later on
    (Karras et al. 2024); None = no snapshots."""
    max_snapshots: int | None = None
    """Number of snapshots to keep: when there are more, every second one is removed, and from then on half as many are
    taken; None = 32. Only with snapshot_every_steps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("snapshot_every_steps", "steps")
        self.require(self.max_snapshots is None or self.max_snapshots >= 8, "max_snapshots", "give at least 8")
        has_snapshots = self.snapshot_every_steps is not None or self.max_snapshots is None
        self.require(has_snapshots, "max_snapshots", "add --ema.snapshot_every_steps, or leave it out")

    def snapshot_distance(self, step: int) -> int | None:
        """Steps between the snapshots that are kept until a step: `snapshot_every_steps`, doubled until they are few enough.

        None = there are none.
        """
        distance = self.snapshot_every_steps
        while distance is not None and math.ceil(step / distance) > (self.max_snapshots or 32):
            distance *= 2
        return distance


@dataclass(kw_only=True)
class CheckpointConfig(BaseConfig, group="checkpoint"):
    """When checkpoints are saved and removed."""

    every_steps: int | None = 1000
    """Optimizer steps between checkpoints; None = one at the end only."""
    keep: int = 2
    """Number of newest checkpoints to keep, at least 2."""
    keep_every_steps: int | None = None
    """Checkpoints at multiples of this number of steps are never removed; None = all may be."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("every_steps", "steps")
        self.require_positive("keep_every_steps", "steps")
        self.require(self.keep >= 2, "keep", "keep at least 2, so that one always loads")


@dataclass(kw_only=True)
class LogIntervalOptions(BaseConfig, group="logging"):
    """How often metrics are logged."""

    every_steps: int = 50
    """Optimizer steps between lines of metrics.jsonl."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("every_steps", "steps")


@dataclass(kw_only=True)
class SampleGridOptions(LogIntervalOptions):
    """How often sample grids are saved."""

    sample_every_steps: int | None = 1000
    """Optimizer steps between sample grids (and held-out losses); None = no grids."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("sample_every_steps", "steps")


@dataclass(kw_only=True)
class BaseLoggingConfig(LogIntervalOptions):
    """What is logged during training."""

    trackers: list[Literal["tensorboard", "trackio", "wandb"]] = field(default_factory=list)
    """Trackers that receive the metrics of metrics.jsonl and the grids of samples; each needs its package (pip install
    "hf_ddpm[track]")."""


@dataclass(kw_only=True)
class LoggingConfig(BaseLoggingConfig, SampleGridOptions):
    """What is logged during training."""


@dataclass(kw_only=True)
class BaseMonitorConfig(BaseConfig, group="evaluation"):
    """Evaluation during training, as by hf-ddpm evaluate; the metrics are logged in metrics.jsonl."""

    every_steps: int | None = None
    """Optimizer steps between evaluations, with one more at the end; None = no evaluation."""
    features: str | None = None
    """`judge:FOLDER`, `inception`, `dinov2`, or `dinov2:` with a Hub id or a folder; None = no evaluation."""
    min_judge_accuracy: float | None = 0.98
    """Minimum accuracy of the judge on its test images; a judge below it is refused. None = accept any."""
    num_images: int = 500
    """Images to generate each time, always from the same seeds."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("every_steps", "steps")
        on = self.every_steps is not None
        remedy = "give features, such as judge:FOLDER" if on else "add --evaluation.every_steps, or leave it out"
        self.require((self.features is not None) == on, "features", remedy)
        self.require(self.num_images >= 6, "num_images", "give at least 6 images")


@dataclass(kw_only=True)
class MonitorConfig(BaseMonitorConfig):
    """Evaluation during training, as by hf-ddpm evaluate; the metrics are logged in metrics.jsonl."""

    scheduler: str = "dpmsolver++"
    """Name of a scheduler, see hf-ddpm sample."""
    num_inference_steps: int = 20
    """Denoising steps."""
    guidance_scale: float | None = None
    """s in u + s (c - u), 1 = no guidance; None = 1.5, or 1 for a model without a null label."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("num_inference_steps", "steps")


@dataclass(kw_only=True)
class HubConfig(BaseConfig, group="hub"):
    """Publishing the trained pipeline with its model card."""

    push_to_hub: bool = False
    """Upload the pipeline folder, in one commit, at the end of training."""
    repo_id: str | None = None
    """Repository on the Hub, NAME or OWNER/NAME, created if it does not exist; None = no upload."""
    private: bool | None = None
    """Whether a new repository is private; None = as the account is set."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.push_to_hub:
            self.require(bool(self.repo_id), "repo_id", "name the repository to push to, as OWNER/NAME")
        else:
            for name in ("repo_id", "private"):
                self.require(getattr(self, name) is None, name, "add --hub.push_to_hub, or leave it out")
