"""Train a diffusion model with Accelerate: `train(config)` is the whole way from options to a saved CFGDDPMPipeline."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import ModelMixin
from torch import Tensor
from torch.utils.data import Dataset

from hf_ddpm.commandline.commands import as_typed
from hf_ddpm.data.batches import to_model_range
from hf_ddpm.diffusion.likelihood import HALF_BIN, half_bin_of
from hf_ddpm.diffusion.objective import diffusion_loss, drop_labels, network_labels
from hf_ddpm.diffusion.randomness import seeded_generator
from hf_ddpm.hub.card import CARD_FILES, has_rendered_card, read_choices, try_write_card
from hf_ddpm.hub.defaults import defaults_of_folder, describe_defaults
from hf_ddpm.hub.push import try_push
from hf_ddpm.models.base_model import BaseModel
from hf_ddpm.pipeline import CFGDDPMPipeline
from hf_ddpm.runtime.folders import publish_directory
from hf_ddpm.training.augmentation import augment
from hf_ddpm.training.base_options import changed_target
from hf_ddpm.training.build import build_network, build_schedule, build_trial, null_label_of, place_network, uses_bound
from hf_ddpm.training.checkpoints import REQUIRED, UNET_WEIGHTS
from hf_ddpm.training.compiling import compile_network
from hf_ddpm.training.engine import run_training
from hf_ddpm.training.init_from import start_from
from hf_ddpm.training.load_data import load_data
from hf_ddpm.training.optim import build_ema, build_optimizer
from hf_ddpm.training.options import TrainConfig
from hf_ddpm.training.own_loss import Loss, LossInputs, mean_loss
from hf_ddpm.training.own_network import loading_call
from hf_ddpm.training.own_objects import NO_OBJECTS, OwnObjects
from hf_ddpm.training.power_average import PowerAverages, write_snapshot
from hf_ddpm.training.prefetch import Place
from hf_ddpm.training.preview import held_out_loss, save_sample_grid, usual_label_sets
from hf_ddpm.training.run import Data, Run
from hf_ddpm.training.state import GeneratorState, tensors_of
from hf_ddpm.training.step_randomness import sample_step_randomness
from hf_ddpm.training.task import TrainingTask, is_due
from hf_ddpm.training.tracking import RunLog
from hf_ddpm.training.tuning import Tuning
from hf_ddpm.training.update import take_step

Evaluate = Callable[[CFGDDPMPipeline], dict[str, float]]
"""Measures a pipeline; what it returns is logged."""

logger = logging.getLogger(__name__)


def train(
    config: TrainConfig,
    evaluate: Evaluate | None = None,
    *,
    dataset: Dataset | None = None,
    network: ModelMixin | None = None,
    loss: Loss | None = None,
    callbacks: Sequence[Any] = (),
) -> Path:
    """Train, checkpoint, sample, save, and return the folder of the saved pipeline, `output_dir/pipeline`.

    Resuming, several processes, the moving average and all else are the same with objects of a user. A program that
    continues its run gives objects like those before: other images or another network are refused, another loss warned of.

    Args:
        config: the options.
        evaluate: measures the pipeline every `evaluation.every_steps`, in all processes; None if that option is None.
        dataset: images to train on, see `hf_ddpm.data.given.load_given`; None = those of `data.source`.
        network: called like a UNet2DModel, see `hf_ddpm.training.own_network.check_network`; a copy of it is trained. None =
            that of `model.preset`.
        loss: see `LossInputs`; None = that of the options.
        callbacks: objects that are called after a step, a checkpoint or a preview, see `Callback`.

    Raises:
        ValueError: options, objects or data that cannot work, before anything is written.
        FloatingPointError: before a step that is not finite.
        Stopped: a `KeyboardInterrupt`, after SIGINT (Ctrl-C) or SIGTERM, once the step is completed and saved.
    """
    assert (evaluate is None) == (config.evaluation.every_steps is None), "the option and its function belong together"
    if getattr(evaluate, "dataset", dataset) is not dataset and evaluate is not None:
        raise ValueError("evaluate: it has other images than train(), give Monitor the same `dataset`")
    objects = OwnObjects(dataset=dataset, network=network, loss=loss, callbacks=tuple(callbacks))
    objects.check(config)
    config = objects.in_config(config)
    return run_training(config, training_task(config, evaluate, objects))


def training_task(
    config: TrainConfig, evaluate: Evaluate | None = None, objects: OwnObjects = NO_OBJECTS
) -> TrainingTask[DiffusionRun, DiffusionState]:
    """What is particular to the training of a diffusion model, see `train`."""
    return TrainingTask(
        load=partial(load_data, config, objects),
        build_trial=partial(build_trial, config, objects),
        prepare=partial(prepare, config, objects),
        train_step=train_step,
        preview=partial(preview, evaluate=evaluate),
        preview_every_steps=(config.logging.sample_every_steps, config.evaluation.every_steps),
        required=REQUIRED,
        finish=finish,
        callbacks=objects.callbacks,
    )


@dataclass(kw_only=True)
class DiffusionState(GeneratorState[CFGDDPMPipeline]):
    """What changes while a diffusion model is trained; the network is called like a UNet2DModel."""

    alphas_cumprod: Tensor
    """(T,) float32, of the noise schedule, on the device: a copy in every step would wait for it."""


@dataclass(frozen=True)
class DiffusionBatch:
    """What one process trains on in one micro-step, as far as it needs no network; on the host."""

    images: Tensor
    """(B, C, H, W) float32 in [-1, 1], augmented."""
    noise: Tensor
    """(B, C, H, W) float32, standard normal."""
    timesteps: Tensor
    """(B,) int64 in [0, T)."""
    class_labels: Tensor | None
    """(B,) int64, or (B, num_class_embeds) float32 of another condition, the null label where it is dropped; None =
    unconditional."""
    sample_ids: Tensor
    """(B,) int64, see `ImageBatch`."""


@dataclass
class DiffusionRun(Run[TrainConfig]):
    """What stays the same while a diffusion model is trained."""

    own: OwnObjects = NO_OBJECTS
    """What the user has given in Python."""
    class_dropout_prob: float = field(init=False)
    """Probability in [0, 1] that an image is trained with the null label."""
    null_label: int | None = field(init=False)
    """The class id that stands for "no class"; None = there is none, as class_dropout_prob is 0."""
    half_bin: float = field(init=False)
    """Half the distance of two values of the images in [-1, 1], for the bound."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.class_dropout_prob = self.config.resolve_class_dropout(conditional=self.images.class_names is not None)
        self.null_label = null_label_of(self.config, self.images)
        is_used, values = uses_bound(self.config), (self.images.pixel_type, self.images.value_range)
        self.half_bin = half_bin_of(*values) if is_used else HALF_BIN

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "null_label": self.null_label}

    @property
    def objects(self) -> dict[str, Any]:
        return self.own.described()

    def prepare_batch(self, place: Place) -> DiffusionBatch:
        config, batch = self.config, self.reader.read(place.images_seen, place.micro_step)
        positions = self.positions(place.micro_step)
        randomness = sample_step_randomness(
            config.seed,
            place.step,
            positions,
            total_batch_size=self.total_batch_size,
            image_shape=self.image_shape,
            num_train_timesteps=config.schedule.num_train_timesteps,
            timestep_sampling=config.objective.timestep_sampling,
        )
        images, class_labels = to_model_range(batch.images, self.images.value_range), batch.class_labels
        images = augment(images, config.data, randomness.flip, seed=config.seed, step=place.step, positions=positions)
        if class_labels is not None:
            class_labels = network_labels(class_labels, self.null_label)
        if class_labels is not None and self.null_label is not None:
            class_labels = drop_labels(class_labels, randomness.label_drop, self.class_dropout_prob, self.null_label)
        return DiffusionBatch(
            images=self.pinned(images),
            noise=self.pinned(randomness.noise),
            timesteps=self.pinned(randomness.timesteps),
            class_labels=None if class_labels is None else self.pinned(class_labels),
            sample_ids=batch.sample_ids,
        )


def prepare(
    config: TrainConfig, objects: OwnObjects, accelerator: Accelerator, data: Data, tuning: Tuning
) -> tuple[DiffusionRun, DiffusionState]:
    """Build a diffusion run with its state at step 0."""
    run = DiffusionRun(config, accelerator, *data, tuning, own=objects)
    return run, build_state(config, run)


def build_state(config: TrainConfig, run: DiffusionRun) -> DiffusionState:
    """Build everything that training changes, from the seed."""
    torch.manual_seed(seeded_generator("weights", config.seed).initial_seed())
    unet, averaged_unet = (place_network(build_network(config, run.images, run.own), run) for _ in range(2))
    averaged_unet.eval().requires_grad_(False)
    if config.base is not None and not config.base.is_checkpoint:
        _start_from(unet, config, config.base, run)
    if config.model.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    optimizer = build_optimizer(unet.parameters(), config.optim)
    lr_scheduler = run.build_lr_scheduler(optimizer)
    compile_network(unet, str(config.compile))
    if config.compile != "none":
        run.accelerator.print(f"compile:  {config.compile}, in the first step, which may take minutes")
    model, optimizer = run.accelerator.prepare(unet, optimizer)
    model.train()
    noise_scheduler = build_schedule(config)
    id2label = None if run.images.class_names is None else dict(enumerate(run.images.class_names))
    return DiffusionState(
        network=unet,
        model=model,
        optimizer=optimizer,
        lr_scheduler=lr_scheduler,
        generator=unet,
        ema=build_ema(tensors_of(unet).values(), config.ema),
        pipeline=CFGDDPMPipeline(
            averaged_unet,
            noise_scheduler,
            id2label=id2label,
            null_label=run.null_label,
            pixel_type=run.images.pixel_type,
            value_range=run.images.value_range,
        ),
        averaged_weights=UNET_WEIGHTS,
        power_averages=None if config.ema.snapshot_every_steps is None else PowerAverages(dict(unet.named_parameters())),
        alphas_cumprod=noise_scheduler.alphas_cumprod.to(run.accelerator.device),
    )


def _start_from(unet: ModelMixin, config: TrainConfig, base: BaseModel, run: DiffusionRun) -> None:
    """Give the network of a new run the weights of a trained model, and say what is taken over."""
    carried = start_from(unet, base, run.images.class_names, run.null_label, config.model.null_embedding)
    accelerator, changed = run.accelerator, changed_target(base, config.schedule, config.objective)
    accelerator.print(f"start:    {base.name}: {carried}")
    if changed is not None and accelerator.is_main_process:
        logger.warning("the network of `init_from` has to learn another target: %s", changed)


def train_step(state: DiffusionState, run: DiffusionRun, step: int) -> float:
    """Take one step over the total batch; return the gradient norm before clipping, see `update_weights`."""
    grad_norm = take_step(state, run, step, lambda batch, _: (micro_batch_loss(state, run, batch), batch.timesteps))
    state.update_average()
    keep_snapshot(state, run)
    return grad_norm


def keep_snapshot(state: DiffusionState, run: DiffusionRun) -> None:
    """Keep a snapshot of the averages of this step if one is due: at equal distances, and at the end."""
    distance = run.config.ema.snapshot_distance(state.step)
    if distance is None or not run.accelerator.is_main_process:
        return
    if state.step == run.total_steps or is_due(state.step, distance):
        assert state.power_averages is not None, "snapshots are taken of them"
        write_snapshot(state.power_averages, run.folder, state.step, distance)


def micro_batch_loss(state: DiffusionState, run: DiffusionRun, batch: DiffusionBatch) -> Tensor:
    """Loss of one micro-batch, () float32 with a gradient."""
    objective = run.config.objective
    images, noise, timesteps = map(run.on_device, (batch.images, batch.noise, batch.timesteps))
    labels = None if batch.class_labels is None else run.on_device(batch.class_labels)

    def model(noisy_images: Tensor, timesteps: Tensor, class_labels: Tensor | None) -> Tensor:
        return state.model(noisy_images, timesteps, class_labels=class_labels).sample.float()

    common: dict[str, Any] = {
        "alphas_cumprod": state.alphas_cumprod, "prediction_type": objective.prediction_type,
        "variance_type": state.pipeline.scheduler.config.variance_type,
    }  # fmt: skip
    if run.own.loss is not None:
        inputs = LossInputs(
            model=model,
            clean_images=images,
            noise=noise,
            timesteps=timesteps,
            class_labels=labels,
            sample_ids=run.on_device(batch.sample_ids),
            step=state.step,
            **common,
        )
        return mean_loss(run.own.loss, inputs)
    return diffusion_loss(
        model,
        images,
        noise,
        timesteps,
        labels,
        loss=objective.loss,
        snr_gamma=objective.snr_gamma,
        loss_weighting=objective.loss_weighting,
        half_bin=run.half_bin,
        **common,
    ).loss


def preview(state: DiffusionState, run: DiffusionRun, log: RunLog, *, evaluate: Evaluate | None) -> None:
    """With the averaged weights: a grid of samples and the held-out loss, or a measurement, or both, as they are due."""
    config, pipeline, is_end = run.config, state.averaged_pipeline(), state.step == run.total_steps
    if is_end or is_due(state.step, config.logging.sample_every_steps):
        save_sample_grid(pipeline, run.folder, state.step, seed=config.seed, rows=usual_label_sets(run.images))
        log.show_samples(state.step)
        if run.accelerator.is_main_process and run.test_images is not None:
            log.write(state.step, {"test_loss": held_out_loss(pipeline, run.test_images, loss=config.objective.loss)})
    if evaluate is not None and (is_end or is_due(state.step, config.evaluation.every_steps)):
        log.write(state.step, evaluate(pipeline))
    run.accelerator.wait_for_everyone()


def finish(state: GeneratorState[CFGDDPMPipeline], run: Run[Any]) -> Path:
    """Publish `pipeline/` with the averaged weights and its model card, say how to load it, and push it if requested."""
    path, hub = run.folder.pipeline, run.config.hub
    if run.accelerator.is_main_process:
        old_card, choices = CARD_FILES if has_rendered_card(path) else (), read_choices(path)
        if lost := describe_defaults(defaults_of_folder(path)):
            again = as_typed("hf-ddpm tune-guidance")
            logger.warning("%s is published anew, without its sampling defaults (%s): to save some, %s", path, lost, again)
        publish_directory(path, state.averaged_pipeline().save_pretrained, keep_but=old_card)
        try_write_card(path, run.folder.path, choices)
        print(f"samples:  {run.folder.sample_grid(state.step)}")
        print(f"pipeline: {path}")
        print(f"load it:  {loading_call(state.pipeline.unet, path)}")
    run.accelerator.wait_for_everyone()  # but not for the Hub
    if run.accelerator.is_main_process and hub.push_to_hub:
        assert hub.repo_id is not None, "the options demand it"
        try_push(path, hub.repo_id, private=hub.private)
    return path
