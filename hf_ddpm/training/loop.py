"""Train a diffusion model with Accelerate: `train(config)` is the whole way from options to a saved CFGDDPMPipeline.

What all training shares (checkpoints, resume, signals, log) is in `hf_ddpm.training.engine`. This file is the rest of
the training of a diffusion model, from the data to the loss of one micro-batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file
from torch import Tensor

from hf_ddpm.data.batches import ImageBatch, flip_horizontally, to_model_range
from hf_ddpm.data.load_splits import bad_image_options, check_classes, column_options, decode_sources, open_sources
from hf_ddpm.data.open_stream import open_stream
from hf_ddpm.data.stream import ImageStream
from hf_ddpm.data.table import ImageTable
from hf_ddpm.diffusion.likelihood import posterior_of
from hf_ddpm.diffusion.objective import diffusion_loss, drop_labels
from hf_ddpm.diffusion.schedules import build_noise_scheduler
from hf_ddpm.hub.card import write_card
from hf_ddpm.hub.push import try_push
from hf_ddpm.models.unet import UNET_PRESETS, build_unet, check_unet
from hf_ddpm.pipeline import CFGDDPMPipeline
from hf_ddpm.run_folder import RunFolder
from hf_ddpm.training.checkpoints import REQUIRED, publish_directory
from hf_ddpm.training.cpu_bf16 import speed_up
from hf_ddpm.training.divergence import StepRecord
from hf_ddpm.training.engine import Run, TrainingTask, apply_gradients, is_due, run_training
from hf_ddpm.training.optim import build_ema, build_lr_scheduler, build_optimizer
from hf_ddpm.training.options import TrainConfig
from hf_ddpm.training.preview import HELD_OUT_IMAGES, held_out_loss, save_sample_grid
from hf_ddpm.training.randomness import StepRandomness, draw_step_randomness, reseed_dropout, seeded_generator
from hf_ddpm.training.state import TrainState, load_network_state, naming_checkpoint, read_extra, save_network_state
from hf_ddpm.training.tracking import RunLog


def train(config: TrainConfig, evaluate: Callable[[CFGDDPMPipeline], dict[str, float]] | None = None) -> Path:
    """Train, checkpoint, sample and save.

    Args:
        config: every option of the run.
        evaluate: measures the pipeline every `evaluation.every_steps`, in all processes; what it returns is logged. None =
            nothing does, and that option is None.

    Returns:
        The folder of the saved pipeline, `output_dir/pipeline`.

    Raises:
        ValueError: a mistake in the options or the data; nothing has been written then.
        FloatingPointError: the loss or the gradient is not finite; the step is not applied.
        Stopped: SIGINT (Ctrl-C) or SIGTERM, a `KeyboardInterrupt` with a message that says how to go on. While it trains,
            the step is ended and saved first.
    """
    assert (evaluate is None) == (config.evaluation.every_steps is None), "the caller brings what the option asks for"
    task = TrainingTask(
        prepare=prepare,
        train_step=train_step,
        preview=partial(preview, evaluate=evaluate),
        preview_every_steps=(config.logging.sample_every_steps, config.evaluation.every_steps),
        save_state=save_state,
        load_state=load_state,
        required=REQUIRED,
        finish=finish,
    )
    return run_training(config, task)


@dataclass
class DiffusionRun(Run):
    """What stays the same while a diffusion model is trained."""

    config: TrainConfig

    def __post_init__(self):
        super().__post_init__()
        self.conditional = self.images.class_names is not None
        self.class_dropout_prob = self.config.resolve_class_dropout(self.conditional)
        self.null_label = len(self.images.class_names) if self.class_dropout_prob > 0 else None

    def identity(self) -> dict:
        return {**super().identity(), "null_label": self.null_label}


@dataclass(kw_only=True)
class DiffusionState(TrainState):
    """What changes while a diffusion model is trained; the network is called like a UNet2DModel."""

    ema: EMAModel | None  # None = no moving average
    pipeline: CFGDDPMPipeline  # holds a second U-Net, for the averaged weights

    def averaged_pipeline(self) -> CFGDDPMPipeline:
        """The pipeline with the averaged weights of this step (the trained ones where there is no average)."""
        parameters = list(self.pipeline.unet.parameters())
        if self.ema is not None:
            self.ema.copy_to(parameters)
        else:
            with torch.no_grad():
                for target, source in zip(parameters, self.network.parameters(), strict=True):
                    target.copy_(source)
        return self.pipeline


def prepare(config: TrainConfig, accelerator: Accelerator) -> tuple[DiffusionRun, DiffusionState]:
    """Read the data and build a diffusion run with its state at step 0."""
    run = DiffusionRun(config, accelerator, *load_data(config, accelerator))
    return run, build_state(config, run)


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


def build_state(config: TrainConfig, run: DiffusionRun) -> DiffusionState:
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
    return DiffusionState(
        network=unet, model=model, optimizer=optimizer, lr_scheduler=lr_scheduler, ema=ema, pipeline=pipeline
    )


def train_step(state: DiffusionState, run: DiffusionRun, step: int) -> Tensor:
    """One optimizer step over the total batch.

    Returns:
        The gradient's norm before clipping, () float32.

    Raises:
        FloatingPointError: the norm or the loss is not finite.
    """
    config, accelerator = run.config, run.accelerator
    randomness = draw_step_randomness(
        config.seed,
        step,
        run.total_batch_size,
        run.image_shape,
        config.schedule.num_train_timesteps,
        config.objective.timestep_sampling,
    )
    loss, record = torch.zeros((), device=accelerator.device), StepRecord()
    for micro_step in range(run.micro_steps):
        start = (micro_step * accelerator.num_processes + accelerator.process_index) * run.batch_size
        reseed_dropout(config.seed, step, accelerator.process_index, micro_step)
        last = micro_step == run.micro_steps - 1
        with contextlib.nullcontext() if last else accelerator.no_sync(state.model):
            batch = run.reader.read(state.images_seen, micro_step)
            part = randomness.slice(start, run.batch_size)
            micro_loss = micro_batch_loss(state, run, batch, part) / run.micro_steps
            accelerator.backward(micro_loss)
        loss += micro_loss.detach()
        record.add(sample_ids=batch.sample_ids, timesteps=part.timesteps, loss=micro_loss.detach())
    grad_norm = apply_gradients(state, run, step, loss, record)
    if state.ema is not None:
        state.ema.step(state.network.parameters())
    return grad_norm


def micro_batch_loss(state: DiffusionState, run: DiffusionRun, batch: ImageBatch, randomness: StepRandomness) -> Tensor:
    """Loss of one micro-batch, () float32 with a gradient."""
    objective, device = run.config.objective, run.accelerator.device
    images = to_model_range(batch.images)
    if run.config.data.horizontal_flip:
        images = flip_horizontally(images, randomness.flip)
    class_labels = None
    if run.conditional:
        class_labels = batch.class_labels
        if run.null_label is not None:
            class_labels = drop_labels(class_labels, randomness.label_drop, run.class_dropout_prob, run.null_label)
        class_labels = class_labels.to(device, non_blocking=True)
    scheduler = state.pipeline.scheduler
    return diffusion_loss(
        lambda noisy_images, timesteps, labels: state.model(noisy_images, timesteps, class_labels=labels).sample,
        images.to(device, non_blocking=True),
        randomness.noise.to(device, non_blocking=True),
        randomness.timesteps.to(device, non_blocking=True),
        class_labels,
        alphas_cumprod=scheduler.alphas_cumprod.to(device),
        prediction_type=objective.prediction_type,
        loss=objective.loss,
        snr_gamma=objective.snr_gamma,
        variance_type=scheduler.config.variance_type,
        loss_weighting=objective.loss_weighting,
    ).loss


def preview(
    state: DiffusionState, run: DiffusionRun, log: RunLog, *, evaluate: Callable[[CFGDDPMPipeline], dict[str, float]] | None
) -> None:
    """What is due of: a grid of samples with the averaged weights and the held-out loss; a measurement."""
    config, pipeline, is_end = run.config, state.averaged_pipeline(), state.step == run.total_steps
    if is_end or is_due(state.step, config.logging.sample_every_steps):
        save_sample_grid(pipeline, RunFolder(run.dir), state.step, seed=config.seed)
        if run.accelerator.is_main_process and run.test_images is not None:
            loss = held_out_loss(pipeline, run.test_images, loss=config.objective.loss)
            log.write(state.step, {"test_loss": loss})
    if evaluate is not None and (is_end or is_due(state.step, config.evaluation.every_steps)):
        log.write(state.step, evaluate(pipeline))
    run.accelerator.wait_for_everyone()


def save_state(state: DiffusionState, accelerator: Accelerator, directory: Path, extra: dict[str, Any]) -> None:
    """Write the state into an empty directory.

    Args:
        state: to write.
        accelerator: whose fp16 loss scaler, if there is one, belongs to the state.
        directory: the empty directory.
        extra: JSON values that `load_state` gives back (options, fingerprint, versions).
    """
    state.averaged_pipeline().save_pretrained(directory)
    ema_step = None if state.ema is None else state.ema.optimization_step
    save_network_state(state, accelerator, directory, {"ema_step": ema_step, **extra})


def load_state(state: DiffusionState, accelerator: Accelerator, directory: Path) -> None:
    """Read a verified checkpoint back into a freshly built state, tensor for tensor.

    Learning rate, betas and the like are those of the fresh state: what the options say now, applies.

    Raises:
        ValueError: the tensors are not those of this network.
    """
    with naming_checkpoint(directory):
        load_network_state(state, accelerator, directory)
        if state.ema is not None:
            averaged = load_file(directory / "unet" / "diffusion_pytorch_model.safetensors")
            for shadow, (name, _) in zip(state.ema.shadow_params, state.network.named_parameters(), strict=True):
                shadow.copy_(averaged[name])
            state.ema.optimization_step = read_extra(directory)["ema_step"] or 0


def finish(state: DiffusionState, run: DiffusionRun) -> Path:
    """Publish `pipeline/` with the averaged weights and its model card, say how to use it, and push it if asked to."""
    path, hub = run.dir / "pipeline", run.config.hub
    if run.accelerator.is_main_process:

        def write(directory: Path) -> None:
            state.averaged_pipeline().save_pretrained(directory)
            write_card(directory, run.dir)

        publish_directory(path, write)
        print(f"samples:  {run.dir / 'samples' / f'step-{state.step:08d}.png'}")
        print(f"pipeline: {path}")
        print(f'load it:  CFGDDPMPipeline.from_pretrained("{path}")   # from hf_ddpm import CFGDDPMPipeline')
        if hub.push_to_hub:
            try_push(path, hub.repo_id, private=hub.private)
    run.accelerator.wait_for_everyone()
    return path
