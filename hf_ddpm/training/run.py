"""What stays the same while a network is trained, `Run`, and how long the training is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from hf_ddpm.data.stream import ImageStream, StreamReader
from hf_ddpm.data.table import ImageTable, TableReader
from hf_ddpm.run_folder import RunFolder
from hf_ddpm.runtime.environment import describe_environment
from hf_ddpm.runtime.signals import StopRequest
from hf_ddpm.training.optim import build_lr_scheduler
from hf_ddpm.training.options import RunConfig
from hf_ddpm.training.prefetch import Place, Prefetch
from hf_ddpm.training.step_randomness import RANDOMNESS_VERSION
from hf_ddpm.training.tuning import Tuning

ConfigType = TypeVar("ConfigType", bound=RunConfig)
Images = ImageTable | ImageStream
Data = tuple[Images, ImageTable | None]
"""The images to train on and the held-out ones; None = no split was named."""
OBJECTS = ("dataset", "network", "loss", "callbacks")
"""What a user may give in Python beside the options."""


@dataclass
class Run(ABC, Generic[ConfigType]):
    """What stays the same while a network is trained."""

    config: ConfigType
    """Every option of the run."""
    accelerator: Accelerator
    """Device, precision and processes."""
    images: Images
    """The images to train on."""
    test_images: ImageTable | None
    """Held-out images; None = no split was named."""
    tuning: Tuning
    """Precision, memory format and threads."""
    num_images: int | None = field(init=False)
    """Images of an epoch; None = not known, as they are streamed."""
    folder: RunFolder = field(init=False)
    """Where everything is written."""
    micro_steps: int = field(init=False)
    """Micro-steps per optimizer step."""
    batch_size: int = field(init=False)
    """Images per process and micro-step."""
    total_batch_size: int = field(init=False)
    """Images per optimizer step, of all processes and micro-steps."""
    first_step: int = field(init=False)
    """Optimizer steps of the checkpoint from which the run continues; 0 = it is new."""
    first_image: int = field(init=False)
    """Images of these steps."""
    total_steps: int = field(init=False)
    """The optimizer step at which the run ends."""
    steps_per_unit: float = field(init=False)
    """Optimizer steps in the unit of the run's length: 1, or those of an epoch."""
    steps_ahead: float = field(init=False)
    """Steps done before, minus those that their images take at this total batch size; 0 if the length is in steps."""
    image_shape: tuple[int, int, int] = field(init=False)
    """(C, H, W) of an image."""
    reader: TableReader | StreamReader = field(init=False)
    """Reads the images of this process."""
    batches: Prefetch[Any] = field(init=False)
    """The batches of this process, from `prepare_batch`."""
    stop: StopRequest = field(init=False, default_factory=StopRequest)
    """Whether a signal has asked this process to end the run."""

    def __post_init__(self) -> None:
        config, accelerator, images = self.config, self.accelerator, self.images
        self.num_images = images.num_images
        self.folder = RunFolder(Path(config.output_dir))
        self.micro_steps = config.optim.micro_steps
        self.batch_size = config.data.batch_size
        self.total_batch_size = self.batch_size * self.micro_steps * accelerator.num_processes
        self.begin_at(0, 0)
        self.image_shape = images.image_shape
        self.reader = images.reader(
            seed=config.seed,
            batch_size=self.batch_size,
            num_processes=accelerator.num_processes,
            process_index=accelerator.process_index,
        )
        self.batches = Prefetch(self.prepare_batch, self.following, accelerator.device)

    @property
    def objects(self) -> dict[str, Any]:
        """What a user has given in Python, by `OBJECTS`, and more about it, as JSON values; {} = nothing."""
        return {}

    @abstractmethod
    def prepare_batch(self, place: Place) -> Any:
        """Read a micro-batch of this process and do all that needs no network: a function of its place alone.

        A thread of its own calls it, in order.
        """

    def following(self, place: Place) -> Place | None:
        """The place after another one; None = the run ends there."""
        if place.micro_step + 1 < self.micro_steps:
            return replace(place, micro_step=place.micro_step + 1)
        if place.step + 1 < self.total_steps:
            return Place(place.step + 1, 0, place.images_seen + self.total_batch_size)
        return None

    def positions(self, micro_step: int) -> range:
        """The positions of a micro-batch of this process in the total batch."""
        start = (micro_step * self.accelerator.num_processes + self.accelerator.process_index) * self.batch_size
        return range(start, start + self.batch_size)

    def pinned(self, tensor: Tensor) -> Tensor:
        """A tensor from which the device can copy while the CPU continues."""
        return tensor.pin_memory() if self.accelerator.device.type == "cuda" else tensor

    def on_device(self, tensor: Tensor) -> Tensor:
        """A tensor on the device of the run, which does not wait for the copy if it is `pinned`."""
        return tensor.to(self.accelerator.device, non_blocking=True)

    def begin_at(self, step: int, images_seen: int) -> None:
        """Continue after this number of optimizer steps and images, which set the end of a run that is given in epochs."""
        self.first_step, self.first_image = step, images_seen
        if self.config.max_train_steps is not None:
            self.total_steps, self.steps_per_unit, self.steps_ahead = self.config.max_train_steps, 1.0, 0.0
            return
        assert self.config.num_train_epochs is not None and self.num_images is not None, "the options demand both"
        self.steps_per_unit = self.num_images / self.total_batch_size
        self.steps_ahead = step - images_seen / self.total_batch_size
        images_left = max(0, self.config.num_train_epochs * self.num_images - images_seen)
        self.total_steps = step - (-images_left // self.total_batch_size)

    @property
    def length(self) -> str:
        """The length of the run as its options give it."""
        epochs = self.config.num_train_epochs
        return f"{self.total_steps} steps" if epochs is None else f"{epochs} epochs"

    def is_over(self, *, step: int, images_seen: int) -> bool:
        """Whether no step is taken after this number of steps and images."""
        if self.config.num_train_epochs is None:
            return step >= self.total_steps
        assert self.num_images is not None
        return images_seen >= self.config.num_train_epochs * self.num_images

    def build_lr_scheduler(self, optimizer: torch.optim.Optimizer) -> LambdaLR:
        """The learning-rate schedule over the length of this run."""
        return build_lr_scheduler(optimizer, self.config.optim, self.total_steps, self.steps_per_unit, self.steps_ahead)

    def identity(self) -> dict[str, Any]:
        """What a checkpoint records of its run, as JSON values; a run that resumes it is compared with that."""
        surroundings = describe_environment(self.accelerator.device, self.accelerator.num_processes)
        names = ("packages", "processor", "device", "num_processes", "num_threads")
        environment = {name: surroundings[name] for name in names}
        facts = {"data_fingerprint": self.images.fingerprint, "randomness_version": RANDOMNESS_VERSION}
        chosen = {"mixed_precision": self.tuning.mixed_precision, "memory_format": self.tuning.memory_format}
        facts |= {name: value for name, value in chosen.items() if value is not None}
        objects = {"objects": self.objects} if self.objects else {}
        return {**asdict(self.config), **facts, **objects, "environment": environment}
