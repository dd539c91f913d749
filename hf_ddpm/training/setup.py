"""Build a run from its options: accelerator, data, network, optimizer and pipeline."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from hf_ddpm.config import DataConfig
from hf_ddpm.data.cache import ImageTable, decode_images
from hf_ddpm.data.loader import IndexStream
from hf_ddpm.data.sources import ImageSource, open_source
from hf_ddpm.diffusion.schedules import build_noise_scheduler
from hf_ddpm.models.unet import UNET_PRESETS, build_unet, check_unet, unet_arguments
from hf_ddpm.pipeline import CFGDDPMPipeline
from hf_ddpm.training.optim import build_ema, build_lr_scheduler, build_optimizer
from hf_ddpm.training.options import TrainConfig
from hf_ddpm.training.randomness import seeded_generator
from hf_ddpm.training.speed import speed_up
from hf_ddpm.training.state import TrainState
from hf_ddpm.training.tracking import describe_environment


@dataclass
class Run:
    """What stays the same while a model is trained."""

    config: TrainConfig
    accelerator: Accelerator
    images: ImageTable

    def __post_init__(self):
        config, accelerator = self.config, self.accelerator
        self.dir = Path(config.output_dir)
        self.micro_steps = config.optim.gradient_accumulation_steps
        self.batch_size = config.data.batch_size
        self.total_batch_size = self.batch_size * self.micro_steps * accelerator.num_processes
        epoch_steps = len(self.images) / self.total_batch_size
        epochs = config.num_train_epochs
        self.total_steps = config.max_train_steps if epochs is None else math.ceil(epochs * epoch_steps)
        self.steps_per_unit = 1 if epochs is None else epoch_steps
        self.conditional = self.images.class_labels is not None
        self.class_dropout_prob = config.resolve_class_dropout(self.conditional)
        self.null_label = len(self.images.class_names) if self.class_dropout_prob > 0 else None
        self.image_shape = (self.images.channels, self.images.image_size, self.images.image_size)
        self.stream = IndexStream(len(self.images), config.seed)

    def identity(self) -> dict:
        """What a checkpoint is compared with when it is resumed."""
        surroundings = describe_environment(self.accelerator)
        names = ("packages", "processor", "device", "num_processes", "num_threads")
        return {
            **asdict(self.config),
            "data_fingerprint": self.images.fingerprint,
            "null_label": self.null_label,
            "environment": {name: surroundings[name] for name in names},
        }


def build_accelerator(config: TrainConfig) -> Accelerator:
    """Build the Accelerator; on a machine without an accelerator it joins the processes that torchrun started.

    Raises:
        ValueError: the launcher started more processes than can see each other.
    """
    has_accelerator = torch.cuda.is_available() or torch.backends.mps.is_available()
    AcceleratorState._reset_state()  # a second run in one process may want another precision
    accelerator = Accelerator(
        mixed_precision={"fp32": "no"}.get(config.mixed_precision, config.mixed_precision),
        cpu=not has_accelerator,
        log_with=config.logging.trackers or None,
        project_dir=config.output_dir,
    )
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size != accelerator.num_processes:
        raise ValueError(f"the launcher started {world_size} processes, but this one sees {accelerator.num_processes}")
    torch.set_num_threads(config.num_threads or max(1, _cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    return accelerator


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load_data(config: TrainConfig, accelerator: Accelerator) -> tuple[ImageTable, ImageTable | None]:
    """Read the train split and, where one is named, the held-out split; the first process of a machine fills the cache.

    What can be refused without decoding an image is refused before.
    """
    data = config.data
    arguments = unet_arguments(config.model.preset, config.model.overrides, image_size=data.image_size)
    check_unet(arguments)
    channels = data.channels if config.model.preset in UNET_PRESETS else arguments["in_channels"]
    with accelerator.local_main_process_first():
        splits = [split for split in (data.train_split, data.test_split) if split is not None]
        sources = [_open_split(data, split) for split in splits]
        config.resolve_class_dropout(conditional=sources[0].class_names is not None)
        if any(source.class_names != sources[0].class_names for source in sources):
            raise ValueError(f"--data.test_split is {data.test_split!r}: its classes are not those of {data.train_split!r}")
        tables = [decode_images(source, image_size=arguments["sample_size"], channels=channels) for source in sources]
    return tables[0], tables[1] if len(tables) > 1 else None


def _open_split(data: DataConfig, split: str) -> ImageSource:
    return open_source(
        data.source,
        split,
        image_column=data.image_column,
        label_column=data.label_column,
        labels=data.labels,
        class_conditional=data.class_conditional,
    )


def build_state(config: TrainConfig, run: Run) -> TrainState:
    """Build everything that training changes, from the seed."""
    images = run.images
    num_class_embeds = None
    if run.conditional:
        num_class_embeds = len(images.class_names) + (run.null_label is not None)
    arguments = unet_arguments(
        config.model.preset,
        config.model.overrides,
        image_size=images.image_size,
        channels=images.channels,
        num_class_embeds=num_class_embeds,
    )
    torch.manual_seed(seeded_generator("weights", config.seed).initial_seed())
    build = partial(build_unet, arguments, null_label=run.null_label, null_embedding=config.model.null_embedding)
    unet, averaged_unet = build(), build()
    for network in (unet, averaged_unet):
        speed_up(network, run.accelerator.device, config.mixed_precision)
        network.to(run.accelerator.device)
    averaged_unet.eval().requires_grad_(False)
    if config.model.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    optimizer = build_optimizer(unet.parameters(), config.optim)
    lr_scheduler = build_lr_scheduler(
        optimizer, config.optim, total_steps=run.total_steps, steps_per_unit=run.steps_per_unit
    )
    ema = build_ema(unet.parameters(), config.ema)
    model, optimizer = run.accelerator.prepare(torch.compile(unet) if config.compile else unet, optimizer)
    model.train()
    schedule = config.schedule
    scheduler = build_noise_scheduler(
        beta_schedule=schedule.beta_schedule,
        num_train_timesteps=schedule.num_train_timesteps,
        beta_start=schedule.beta_range[0],
        beta_end=schedule.beta_range[1],
        variance_type=schedule.variance_type,
        prediction_type=config.objective.prediction_type,
        rescale_zero_terminal_snr=schedule.rescale_zero_terminal_snr,
    )
    id2label = dict(enumerate(images.class_names)) if run.conditional else None
    pipeline = CFGDDPMPipeline(averaged_unet, scheduler, id2label=id2label, null_label=run.null_label)
    return TrainState(unet=unet, model=model, optimizer=optimizer, lr_scheduler=lr_scheduler, ema=ema, pipeline=pipeline)
