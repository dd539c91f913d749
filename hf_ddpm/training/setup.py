"""Build a run from its options: accelerator, data, network, optimizer and pipeline."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator

from hf_ddpm.config import RunConfig
from hf_ddpm.data.cache import ImageTable
from hf_ddpm.data.splits import bad_image_options, check_classes, column_options, decode_sources, open_sources
from hf_ddpm.data.stream import ImageStream, open_stream
from hf_ddpm.diffusion.likelihood import posterior_of
from hf_ddpm.diffusion.schedules import build_noise_scheduler
from hf_ddpm.environment import describe_environment
from hf_ddpm.models.unet import UNET_PRESETS, build_unet, check_unet
from hf_ddpm.pipeline import CFGDDPMPipeline
from hf_ddpm.processes import has_accelerator, join_processes
from hf_ddpm.training.optim import build_ema, build_lr_scheduler, build_optimizer
from hf_ddpm.training.options import TrainConfig
from hf_ddpm.training.preview import HELD_OUT_IMAGES
from hf_ddpm.training.randomness import seeded_generator
from hf_ddpm.training.speed import speed_up
from hf_ddpm.training.state import TrainState


@dataclass
class NetworkRun:
    """What stays the same while any network is trained."""

    config: RunConfig
    accelerator: Accelerator
    images: ImageTable | ImageStream
    test_images: ImageTable | None

    def __post_init__(self):
        config, accelerator = self.config, self.accelerator
        self.dir = Path(config.output_dir)
        self.micro_steps = config.optim.gradient_accumulation_steps
        self.batch_size = config.data.batch_size
        self.total_batch_size = self.batch_size * self.micro_steps * accelerator.num_processes
        self.total_steps, self.steps_per_unit = config.max_train_steps, 1.0
        if config.num_train_epochs is not None:
            self.steps_per_unit = self.images.num_images / self.total_batch_size
            self.total_steps = math.ceil(config.num_train_epochs * self.steps_per_unit)
        self.image_shape = (self.images.channels, self.images.image_size, self.images.image_size)
        self.reader = self.images.reader(
            seed=config.seed,
            batch_size=self.batch_size,
            num_processes=accelerator.num_processes,
            process_index=accelerator.process_index,
        )

    def identity(self) -> dict:
        """What a checkpoint is compared with when it is resumed."""
        surroundings = describe_environment(self.accelerator.device, self.accelerator.num_processes)
        names = ("packages", "processor", "device", "num_processes", "num_threads")
        return {
            **asdict(self.config),
            "data_fingerprint": self.images.fingerprint,
            "environment": {name: surroundings[name] for name in names},
        }


@dataclass
class Run(NetworkRun):
    """What stays the same while a diffusion model is trained."""

    config: TrainConfig

    def __post_init__(self):
        super().__post_init__()
        self.conditional = self.images.class_names is not None
        self.class_dropout_prob = self.config.resolve_class_dropout(self.conditional)
        self.null_label = len(self.images.class_names) if self.class_dropout_prob > 0 else None

    def identity(self) -> dict:
        return {**super().identity(), "null_label": self.null_label}


def build_accelerator(config: RunConfig) -> Accelerator:
    """Build the Accelerator; on a machine without an accelerator it joins the processes that torchrun started.

    Raises:
        ValueError: the launcher started more processes than can see each other.
    """
    join_processes(config.num_threads)
    return Accelerator(
        mixed_precision={"fp32": "no"}.get(config.mixed_precision, config.mixed_precision),
        cpu=not has_accelerator(),
        log_with=config.logging.trackers or None,
        project_dir=config.output_dir,
    )


def load_data(config: TrainConfig, accelerator: Accelerator) -> tuple[ImageTable | ImageStream, ImageTable | None]:
    """Read the train split and, where one is named, the held-out split; the first process of a machine fills the cache.

    What can be refused without decoding an image is refused before.
    """
    data = config.data
    arguments = config.network_arguments(image_size=data.image_size)
    check_unet(arguments, config.model.architecture)
    channels = data.channels if config.model.preset in UNET_PRESETS else arguments["in_channels"]
    size = {"image_size": arguments["sample_size"], "channels": channels}
    with accelerator.local_main_process_first():
        return (_stream_splits if data.streaming else _decode_splits)(config, size)


def _decode_splits(config: TrainConfig, size: dict[str, int | None]) -> tuple[ImageTable, ImageTable | None]:
    sources = open_sources(config.data)
    config.resolve_class_dropout(conditional=sources[0].class_names is not None)
    return decode_sources(config.data, sources, **size)


def _stream_splits(config: TrainConfig, size: dict[str, int | None]) -> tuple[ImageStream, ImageTable | None]:
    data = config.data
    buffer = {} if data.shuffle_buffer is None else {"shuffle_buffer": data.shuffle_buffer}
    options = {**column_options(data), **bad_image_options(data)}
    streams = [open_stream(data.source, data.train_split, max_images=data.max_images, **size, **options, **buffer)]
    if data.test_split is not None:
        same_size = {**size, "channels": streams[0].channels}
        streams.append(open_stream(data.source, data.test_split, **same_size, **options))
    config.resolve_class_dropout(conditional=streams[0].class_names is not None)
    check_classes(data, *streams)
    return streams[0], streams[1].head(HELD_OUT_IMAGES) if len(streams) > 1 else None


def build_state(config: TrainConfig, run: Run) -> TrainState:
    """Build everything that training changes, from the seed."""
    images = run.images
    num_class_embeds = None
    if run.conditional:
        num_class_embeds = len(images.class_names) + (run.null_label is not None)
    arguments = config.network_arguments(
        image_size=images.image_size, channels=images.channels, num_class_embeds=num_class_embeds
    )
    torch.manual_seed(seeded_generator("weights", config.seed).initial_seed())
    null = {"null_label": run.null_label, "null_embedding": config.model.null_embedding}
    build = partial(build_unet, arguments, architecture=config.model.architecture, **null)
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
    if schedule.variance_type == "learned_range" or config.objective.loss_weighting == "vlb":
        posterior_of(scheduler.alphas_cumprod)  # refuses a schedule that has no bound, before anything is written
    id2label = dict(enumerate(images.class_names)) if run.conditional else None
    pipeline = CFGDDPMPipeline(averaged_unet, scheduler, id2label=id2label, null_label=run.null_label)
    return TrainState(network=unet, model=model, optimizer=optimizer, lr_scheduler=lr_scheduler, ema=ema, pipeline=pipeline)
