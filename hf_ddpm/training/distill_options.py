"""Options of hf-ddpm distill."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import ClassVar, Literal

from hf_ddpm.config import (
    BaseMonitorConfig,
    HubConfig,
    LoggingConfig,
    LRSchedule,
    OptimConfig,
)
from hf_ddpm.data.options import RandomCropOptions, SplitsConfig, TrainingDataConfig
from hf_ddpm.run_folder import RunFolder
from hf_ddpm.training.options import EMAOptions, MemoryFormatOptions, RunConfig

MAX_INFERENCE_STEPS = 64
OWN_OF_A_RUN = ("batch_size", "max_images", "on_bad_image", "max_bad_images")
"""Options of data that are not taken over from the run of the teacher."""


@dataclass(kw_only=True)
class DistillDataConfig(RandomCropOptions, TrainingDataConfig, SplitsConfig):
    """Images to distill on. Size, channels and classes are those of the teacher."""

    source: str | None = None  # type: ignore[assignment]  # it is filled in
    """As in hf-ddpm train; None = the training data of the teacher, read from the config.yaml of its run, with its splits,
    columns, flips and crops."""
    test_split: str | None = None
    """Held-out split, which evaluations take; None = none."""


@dataclass(kw_only=True)
class DistillOptimConfig(OptimConfig):
    """The optimizer and its learning rate."""

    learning_rate: float = 1e-4
    """Peak learning rate."""
    lr_scheduler: LRSchedule = "constant"


@dataclass(kw_only=True)
class DistillConfig(RunConfig, EMAOptions, MemoryFormatOptions):
    """Distill a trained diffusion model into one that samples in a few steps, with guidance built in.

    There is no option to compile the networks, of which several are called in each step in different ways.
    """

    program: ClassVar[str] = "distill"
    main_options: ClassVar[tuple[str, ...]] = (
        "output_dir", "teacher", "method", "guidance_scale", "num_inference_steps", "data.source", "data.batch_size",
        "max_train_steps", "num_train_epochs", "optim.learning_rate", "mixed_precision", "resume",
        "logging.sample_every_steps", "hub.push_to_hub", "hub.repo_id",
    )  # fmt: skip
    teacher: str
    """The model to distill: folder of a pipeline (`pipeline/` of a run, or one of its checkpoints), or its id on the Hub. It
    predicts v or the clean image."""
    method: Literal["consistency", "progressive"] = "consistency"
    """`consistency` = from every noise level to the image at once (Geng et al. 2024, Luo et al. 2023): samples in any small
    number of steps. `progressive` = one step for two of the model before, again and again (Salimans & Ho 2022): samples in
    the given number alone."""
    guidance_scale: float | None = None
    """s in u + s (c - u) that is built in to the new model, which takes no other; None = 1.5, or no guidance if the teacher
    has no null label."""
    num_inference_steps: int = 4
    """Steps that the new model takes by default."""
    data: DistillDataConfig = field(default_factory=DistillDataConfig)
    optim: DistillOptimConfig = field(default_factory=DistillOptimConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    hub: HubConfig = field(default_factory=HubConfig)
    evaluation: BaseMonitorConfig = field(default_factory=BaseMonitorConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.teacher != "", "teacher", "name a saved pipeline")
        steps_fit = 1 <= self.num_inference_steps <= MAX_INFERENCE_STEPS
        self.require(steps_fit, "num_inference_steps", f"give 1 to {MAX_INFERENCE_STEPS} steps")
        if self.data.source is None:
            self.data = data_of_teacher(self.data, self.teacher)


def data_of_teacher(data: DistillDataConfig, teacher: str) -> DistillDataConfig:
    """Options of the data that the teacher was trained on, with the given ones in their place; a `ValueError` = unknown."""
    run = RunFolder.of(teacher)
    if run is None:
        raise ValueError("--data.source is None: the teacher belongs to no run that says what it was trained on, give it")
    trained = run.read_options().get("data")
    if not isinstance(trained, dict):
        raise ValueError(f"--data.source is None: {run.config} does not say what the teacher was trained on, give it")
    names = {option.name for option in fields(DistillDataConfig)}.difference(OWN_OF_A_RUN)
    taken = {name: trained[name] for name in names & trained.keys() if trained[name] is not None}
    given = {option.name: getattr(data, option.name) for option in fields(data) if data.is_given(option.name)}
    return DistillDataConfig(**{**taken, **{name: value for name, value in given.items() if name != "source"}})
