"""Option groups that several programs share: keyword-only dataclasses that check themselves.

Every field says its unit and what `None` means. A value that cannot work raises a `ValueError` that names the option as it
is written on the command line, the value got and the remedy.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

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


@dataclass(kw_only=True)
class BaseConfig:
    """A group of options, whose values are checked against their annotations: from Python as on the command line.

    A subclass names its `group`, the prefix of its options on the command line, and calls `super().__post_init__()` before
    its own checks. Options compose: a class adds its options to those of its bases, and a program's group lists the bases
    that it is made of from last to first, as dataclasses take the fields of the last base first.
    """

    _prefix: ClassVar[str] = ""

    def __init_subclass__(cls, group: str = "") -> None:
        super().__init_subclass__()
        cls._prefix = f"{group}." if group else cls._prefix

    def __post_init__(self) -> None:
        config_class: Any = type(self)
        for option, kind in _option_types(config_class).items():
            self.require(_is_of(getattr(self, option), kind), option, f"expected {_name_of(kind)}")

    def require(self, ok: bool, option: str, remedy: str) -> None:
        """Raise `ValueError` with the full name of an option, its value and the remedy unless `ok`."""
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
    """Whether a value suits an annotation; an int is a float, too, and a str a path."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in arguments)
    if origin in (Union, UnionType):
        return any(_is_of(value, other) for other in arguments)
    if origin in (list, tuple):
        kinds = arguments if origin is tuple else arguments * len(value) if isinstance(value, list | tuple) else ()
        return isinstance(value, list | tuple) and len(value) == len(kinds) and all(map(_is_of, value, kinds))
    if kind is Any or origin is dict:
        return kind is Any or isinstance(value, dict)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, {float: (int, float), Path: (str, Path)}.get(kind, kind))


def _name_of(kind: Any) -> str:
    """An annotation in words: `int or null`, `one of 'adam', 'adamw'`."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return f"one of {', '.join(map(repr, arguments))}"
    if origin in (Union, UnionType):
        return " or ".join(map(_name_of, arguments))
    if origin in (list, tuple):
        return f"{origin.__name__} of {', '.join(map(_name_of, arguments))}"
    return "null" if kind is NoneType else kind.__name__


@dataclass(kw_only=True)
class ModelConfig(BaseConfig, group="model"):
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
class BaseScheduleConfig(BaseConfig, group="schedule"):
    """How beta grows."""

    beta_schedule: BetaSchedule = "squaredcos_cap_v2"
    """How beta grows with t; `cosine` is an alias of squaredcos_cap_v2."""
    num_train_timesteps: int = 1000
    """T, the number of timesteps."""
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
    """Variance of the reverse process when sampling with DDPM: the posterior's, beta, or learnt between the two by twice
    the output channels and the hybrid loss of Nichol & Dhariwal 2021."""
    rescale_zero_terminal_snr: bool = False
    """Rescale the betas so that the last timestep is pure noise (Lin et al. 2023)."""


@dataclass(kw_only=True)
class ObjectiveConfig(BaseConfig, group="objective"):
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

    def __post_init__(self) -> None:
        super().__post_init__()
        probability = self.class_dropout_prob
        possible = probability is None or 0 <= probability <= 1
        self.require(possible, "class_dropout_prob", "give a probability between 0 and 1")
        self.require_positive("snr_gamma", "SNR units")
        if self.loss_weighting == "min_snr":
            self.require(self.snr_gamma is not None, "snr_gamma", "min_snr needs it, 5 is usual")
        else:
            self.require(self.snr_gamma is None, "snr_gamma", "add --objective.loss_weighting min_snr")
        if self.loss_weighting == "vlb":
            self.require(self.loss == "l2", "loss", "the bound has its own distance, take l2 with vlb")


@dataclass(kw_only=True)
class BaseOptimConfig(BaseConfig, group="optim"):
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
            self.require(rising, "lr_milestones", "give rising numbers above 0")

    @property
    def micro_steps(self) -> int:
        """Micro-steps of an optimizer step."""
        return 1


@dataclass(kw_only=True)
class OptimConfig(BaseOptimConfig):
    """The optimizer and its learning rate."""

    gradient_accumulation_steps: int = 1
    """Micro-steps whose gradients are summed into one optimizer step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("gradient_accumulation_steps", "micro-steps")

    @property
    def micro_steps(self) -> int:
        return self.gradient_accumulation_steps


@dataclass(kw_only=True)
class EMAConfig(BaseConfig, group="ema"):
    """Moving average of the weights, with which samples are drawn."""

    decay: float | None = 0.999
    """Largest decay a step; None = no average, the trained weights themselves are saved."""
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
class CheckpointConfig(BaseConfig, group="checkpoint"):
    """When the state of the run is saved."""

    every_steps: int | None = 1000
    """Optimizer steps between checkpoints; None = only the one at the end."""
    keep: int = 2
    """How many of the newest checkpoints stay, at least 2."""
    keep_every_steps: int | None = None
    """Checkpoints at multiples of this many steps stay for good; None = none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("every_steps", "steps")
        self.require_positive("keep_every_steps", "steps")
        self.require(self.keep >= 2, "keep", "keep at least 2, so that one always loads")


@dataclass(kw_only=True)
class LogIntervalOptions(BaseConfig, group="logging"):
    """How often a run is reported on."""

    every_steps: int = 50
    """Optimizer steps between lines of metrics.jsonl."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("every_steps", "steps")


@dataclass(kw_only=True)
class SampleGridOptions(LogIntervalOptions):
    """How often samples are shown."""

    sample_every_steps: int | None = 1000
    """Optimizer steps between grids of samples (and held-out losses); None = none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("sample_every_steps", "steps")


@dataclass(kw_only=True)
class BaseLoggingConfig(LogIntervalOptions):
    """What is reported while a run goes on."""

    trackers: list[Literal["tensorboard", "trackio", "wandb"]] = field(default_factory=list)
    """Trackers that get the same numbers as metrics.jsonl; each needs its package (pip install "hf_ddpm[track]")."""


@dataclass(kw_only=True)
class LoggingConfig(BaseLoggingConfig, SampleGridOptions):
    """What is reported while a run goes on."""


@dataclass(kw_only=True)
class MonitorConfig(BaseConfig, group="evaluation"):
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

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("every_steps", "steps")
        on = self.every_steps is not None
        remedy = "say what is measured with, as judge:FOLDER" if on else "add --evaluation.every_steps, or leave it out"
        self.require((self.features is not None) == on, "features", remedy)
        self.require(self.num_images >= 6, "num_images", "give at least 6 images")
        self.require_positive("num_inference_steps", "steps")


@dataclass(kw_only=True)
class HubConfig(BaseConfig, group="hub"):
    """Publishing of the trained pipeline with its model card."""

    push_to_hub: bool = False
    """Upload the pipeline folder, in one commit, when training has ended."""
    repo_id: str | None = None
    """Repository on the Hub, as NAME or OWNER/NAME, made if it is not there; None = no push."""
    private: bool | None = None
    """Whether a repository that is made is private; None = as the account's default is."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.push_to_hub:
            self.require(bool(self.repo_id), "repo_id", "say where to push, as OWNER/NAME")
        else:
            for name in ("repo_id", "private"):
                self.require(getattr(self, name) is None, name, "add --hub.push_to_hub, or leave it out")
