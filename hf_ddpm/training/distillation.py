"""Distill a diffusion model into one of a few steps: `distill(config)` is the whole way from options to a saved pipeline.

The student starts from the weights of its teacher and learns the teacher's guidance with it (Meng et al. 2023).
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from diffusers import ModelMixin
from safetensors.torch import save_file
from torch import Tensor

from hf_ddpm.data.batches import to_model_range
from hf_ddpm.data.load_splits import load_splits
from hf_ddpm.diffusion.distillation import (
    closeness_at,
    closer_timesteps,
    consistency_losses,
    ddim_step,
    even_timesteps,
    halved_steps,
    noise_levels,
    part_of,
    progressive_losses,
    progressive_target,
    signal_at,
    timesteps_of_noise,
)
from hf_ddpm.diffusion.objective import add_noise, clean_images_of
from hf_ddpm.image_shape import plain_size
from hf_ddpm.pipeline import CFGDDPMPipeline, guided_output
from hf_ddpm.run_folder import STATE
from hf_ddpm.sampling import decoded_for, image_shape_of
from hf_ddpm.schedulers import build_few_step_scheduler
from hf_ddpm.training.augmentation import augment
from hf_ddpm.training.build import place_network
from hf_ddpm.training.checkpoints import REQUIRED, UNET_WEIGHTS, DamagedCheckpoint
from hf_ddpm.training.distill_options import DistillConfig
from hf_ddpm.training.engine import run_training
from hf_ddpm.training.loop import Evaluate, finish
from hf_ddpm.training.optim import build_ema, build_optimizer
from hf_ddpm.training.prefetch import Place
from hf_ddpm.training.preview import save_sample_grid
from hf_ddpm.training.run import Data, Run
from hf_ddpm.training.state import GeneratorState, is_count, read_saved, read_tensors, tensors_of
from hf_ddpm.training.step_randomness import reseed_dropout, sample_distill_randomness
from hf_ddpm.training.task import TrainingTask, is_due
from hf_ddpm.training.teacher import as_teacher_knows, build_student, digest_of, load_teacher, networks_of, scale_of
from hf_ddpm.training.tracking import RunLog
from hf_ddpm.training.tuning import Trial, Tuning
from hf_ddpm.training.update import DropoutSeed, take_step

BEFORE = "training/before.safetensors"
"""File of a checkpoint with the weights of the student of the stage before, which teaches that of this one."""


def distill(config: DistillConfig, evaluate: Evaluate | None = None) -> Path:
    """Distill, checkpoint, sample, save, and return the folder of the saved pipeline; see `hf_ddpm.training.loop.train`."""
    assert (evaluate is None) == (config.evaluation.every_steps is None), "the option and its function belong together"
    return run_training(config, training_task(config, evaluate))


def training_task(config: DistillConfig, evaluate: Evaluate | None = None) -> TrainingTask[DistillRun, DistillState]:
    """What is particular to a distillation."""
    find_teacher = functools.cache(partial(load_teacher, config))
    return TrainingTask(
        load=partial(load_data, config, find_teacher),
        build_trial=partial(build_trial, config, find_teacher),
        prepare=partial(prepare, config, find_teacher),
        train_step=train_step,
        preview=partial(preview, evaluate=evaluate),
        preview_every_steps=(config.logging.sample_every_steps, config.evaluation.every_steps),
        required=REQUIRED,
        finish=finish,
    )


@dataclass(frozen=True)
class DistillBatch:
    """What one process trains on in one micro-step, as far as it needs no network; on the host."""

    images: Tensor
    """(B, C, H, W) float32 in [-1, 1], augmented."""
    noise: Tensor
    """(B, C, H, W) float32, standard normal."""
    fractions: Tensor
    """(B,) float64 in [0, 1), which the method makes timesteps of."""
    class_labels: Tensor | None
    """(B,) int64; None = unconditional."""
    sample_ids: Tensor
    """(B,) int64, see `ImageBatch`."""


@dataclass
class DistillRun(Run[DistillConfig]):
    """What stays the same while a model is distilled."""

    teacher: CFGDDPMPipeline
    """On the device of the run, without gradients."""
    alphas_cumprod: Tensor
    """(T,) float32, on the device."""
    sigmas: Tensor
    """(T,) float64, on the device, see `noise_levels`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.guidance_scale = scale_of(self.config, self.teacher)
        self.digest = digest_of(self.teacher)

    @property
    def stages(self) -> list[int]:
        """Steps of the students of progressive distillation."""
        return halved_steps(self.config.num_inference_steps)

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "guidance_scale": self.guidance_scale, "teacher_sha256": self.digest}

    def prepare_batch(self, place: Place) -> DistillBatch:
        config, batch = self.config, self.reader.read(place.images_seen, place.micro_step)
        positions = self.positions(place.micro_step)
        randomness = sample_distill_randomness(
            config.seed,
            place.step,
            positions,
            total_batch_size=self.total_batch_size,
            image_shape=self.image_shape,
        )
        images = to_model_range(batch.images, self.images.value_range)
        images = augment(images, config.data, randomness.flip, seed=config.seed, step=place.step, positions=positions)
        return DistillBatch(
            images=self.pinned(images),
            noise=self.pinned(randomness.noise),
            fractions=self.pinned(randomness.fractions),
            class_labels=None if batch.class_labels is None else self.pinned(batch.class_labels),
            sample_ids=batch.sample_ids,
        )


@dataclass(kw_only=True)
class DistillState(GeneratorState[CFGDDPMPipeline]):
    """What changes while a model is distilled."""

    stage: int = 0
    """Number of the student of progressive distillation, from 0; 0 = consistency."""
    before: ModelMixin | None = None
    """The student of the stage before, with averaged weights; None = the teacher itself teaches."""

    def progress(self) -> dict[str, Any]:
        return {"stage": self.stage, **super().progress()}

    def save(self, directory: Path, accelerator: Accelerator, about: dict[str, Any]) -> None:
        super().save(directory, accelerator, about)
        if self.before is not None:
            weights = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors_of(self.before).items()}
            save_file(weights, directory / BEFORE)

    def load(self, directory: Path, accelerator: Accelerator) -> None:
        """Read back what `save` wrote; see `TrainState.load`."""
        stage = read_saved(directory, stage=is_count)["stage"]
        if stage > 0 and not (directory / BEFORE).is_file():
            raise DamagedCheckpoint(directory, f"{STATE}: stage is {stage}, but there is no {BEFORE}")
        weights = read_tensors(directory, BEFORE, tensors_of(self.generator)) if stage > 0 else None
        super().load(directory, accelerator)
        self.stage = stage
        if weights is not None:
            self.before = copy.deepcopy(self.pipeline.unet)
            _copy(weights, tensors_of(self.before))

    def begin_stage(self, stage: int) -> None:
        """Let the averaged student teach from now on; the trained one continues from its weights."""
        self.stage = stage
        self.before = copy.deepcopy(self.averaged_pipeline().unet)
        _copy(tensors_of(self.before), tensors_of(self.generator))


@torch.no_grad()
def _copy(sources: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> None:
    for name, target in targets.items():
        target.copy_(sources[name])


def load_data(config: DistillConfig, find_teacher: Callable[[], CFGDDPMPipeline], processes: PartialState) -> Data:
    """Read the splits in the size, channels and classes of the teacher."""
    with processes.local_main_process_first():
        teacher = find_teacher()
        channels, *size = image_shape_of(teacher)
        config.data.check_crop(plain_size(size))
        data = decoded_for(config.data, teacher)
        train, test = load_splits(data, image_size=plain_size(size), channels=channels)
    return as_teacher_knows(train, teacher), None if test is None else as_teacher_knows(test, teacher)


def build_trial(
    config: DistillConfig, find_teacher: Callable[[], CFGDDPMPipeline], data: Data, device: torch.device
) -> Trial:
    """Training steps of the student alone, to be timed."""
    network: Any = build_student(find_teacher())

    def forward(network: torch.nn.Module, noisy_images: Tensor) -> Tensor:
        zeros = torch.zeros(len(noisy_images), dtype=torch.int64, device=device)
        return network(noisy_images, zeros, class_labels=zeros if find_teacher().is_conditional else None).sample

    shape = image_shape_of(find_teacher())
    return Trial(network=network.train().to(device), forward=forward, image_shape=shape, batch_size=config.data.batch_size)


def prepare(
    config: DistillConfig,
    find_teacher: Callable[[], CFGDDPMPipeline],
    accelerator: Accelerator,
    data: Data,
    tuning: Tuning,
) -> tuple[DistillRun, DistillState]:
    """Build the run with its state at step 0: student, average and target are the teacher."""
    teacher = find_teacher()
    signal = teacher.scheduler.alphas_cumprod.to(accelerator.device)
    run = DistillRun(config, accelerator, *data, tuning, teacher, signal, noise_levels(signal))
    student, averaged = (place_network(build_student(teacher), run) for _ in range(2))
    for network in networks_of(teacher):
        place_network(network, run)
    averaged.eval().requires_grad_(False)
    optimizer = build_optimizer(student.parameters(), config.optim)
    lr_scheduler = run.build_lr_scheduler(optimizer)
    model, optimizer = accelerator.prepare(student, optimizer)
    model.train()
    has_scale = teacher.is_conditional or run.guidance_scale != 1
    state = DistillState(
        network=student,
        model=model,
        optimizer=optimizer,
        lr_scheduler=lr_scheduler,
        generator=student,
        ema=build_ema(tensors_of(student).values(), config.ema),
        pipeline=CFGDDPMPipeline(
            averaged,
            build_few_step_scheduler(config.method, teacher.scheduler.config),
            **{name: value for name, value in teacher.facts.items() if name not in ("null_label", "sampling_defaults")},
            default_num_inference_steps=config.num_inference_steps,
            built_in_guidance_scale=run.guidance_scale if has_scale else None,
        ),
        averaged_weights=UNET_WEIGHTS,
    )
    return run, state


def train_step(state: DistillState, run: DistillRun, step: int) -> float:
    """Take one step over the total batch; return the gradient norm before clipping, see `update_weights`."""
    if run.config.method == "progressive":
        stage = part_of(step, run.total_steps, len(run.stages))
        if stage > state.stage:
            state.begin_stage(stage)

    def micro_loss(batch: DistillBatch, dropout_seed: DropoutSeed) -> tuple[Tensor, Tensor]:
        lesson = lesson_of(state, run, batch, step)
        reseed_dropout(*dropout_seed)  # a consistency target has the same mask
        output = predict(state.model, run, lesson.noisy_images, lesson.timesteps, lesson.class_labels)
        return lesson.loss(output), lesson.timesteps

    grad_norm = take_step(state, run, step, micro_loss)
    state.update_average()
    return grad_norm


Predict = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""x_0, (B, C, H, W) float32, of x_t, t, and the labels."""


@dataclass(frozen=True)
class Lesson:
    """What a student is asked, and how its answer is scored."""

    noisy_images: Tensor
    """x_t, (B, C, H, W) float32."""
    timesteps: Tensor
    """t, (B,) int64."""
    class_labels: Tensor | None
    """(B,) int64; None = unconditional."""
    loss: Callable[[Tensor], Tensor]
    """The loss, () float32, of x_0 as the student predicts it."""


@torch.no_grad()
def lesson_of(state: DistillState, run: DistillRun, batch: DistillBatch, step: int) -> Lesson:
    """What the student is asked about a batch."""
    if run.config.method == "progressive":
        return progressive_lesson(state, run, batch)
    return consistency_lesson(state, run, batch, step)


def consistency_lesson(state: DistillState, run: DistillRun, batch: DistillBatch, step: int) -> Lesson:
    """One step of the guided teacher from sigma to r, and what the student makes of that (Luo et al. 2023, eq. 17)."""
    timesteps = timesteps_of_noise(run.on_device(batch.fractions), run.sigmas)
    closer = closer_timesteps(timesteps, run.sigmas, closeness_at(step, run.total_steps))
    noisy_images, labels = noised(run, batch, timesteps), labels_of(run, batch)
    moved = step_of(run, partial(predict_guided, run), noisy_images, timesteps, closer, labels)
    answered = predict(state.model, run, moved, closer.clamp(min=0), labels)
    target = torch.where(closer.view(-1, 1, 1, 1) < 0, moved, answered)
    distances = run.sigmas[timesteps] - torch.where(closer < 0, 0.0, run.sigmas[closer.clamp(min=0)])
    distances = distances.clamp(min=1e-3).float()
    return Lesson(noisy_images, timesteps, labels, lambda images: consistency_losses(images, target, distances).mean())


def progressive_lesson(state: DistillState, run: DistillRun, batch: DistillBatch) -> Lesson:
    """Two steps of the teacher, the first one guided (Meng et al. 2023), as one (Salimans & Ho 2022, algorithm 2)."""
    num_steps, num_timesteps = run.stages[state.stage], len(run.sigmas)
    half_steps = even_timesteps(num_timesteps, 2 * num_steps).to(run.accelerator.device)
    last = 2 * (1 + (run.on_device(batch.fractions) * num_steps).long().clamp(max=num_steps - 1))
    timesteps, labels = half_steps[last], labels_of(run, batch)
    noisy_images, signal = noised(run, batch, timesteps), signal_at(run.alphas_cumprod, timesteps)
    teach: Predict = partial(predict_guided, run) if state.before is None else partial(predict, state.before, run)
    moved = step_of(run, teach, noisy_images, timesteps, half_steps[last - 1], labels)
    moved = step_of(run, teach, moved, half_steps[last - 1], half_steps[last - 2], labels)
    target = progressive_target(noisy_images, moved, signal, signal_at(run.alphas_cumprod, half_steps[last - 2]))
    return Lesson(noisy_images, timesteps, labels, lambda images: progressive_losses(images, target, signal).mean())


def predict(network: Any, run: DistillRun, noisy_images: Tensor, timesteps: Tensor, labels: Tensor | None) -> Tensor:
    """x_0 as a network predicts it: (B, C, H, W) float32."""
    with run.accelerator.autocast():
        output = network(noisy_images, timesteps, class_labels=labels).sample
    output = output.float()[:, : noisy_images.shape[1]]  # the rest is a learned variance
    prediction_type = run.teacher.scheduler.config.prediction_type
    return clean_images_of(prediction_type, output, noisy_images, signal_at(run.alphas_cumprod, timesteps))


def predict_guided(run: DistillRun, noisy_images: Tensor, timesteps: Tensor, labels: Tensor | None) -> Tensor:
    """x_0 as the teacher predicts it with guidance: (B, C, H, W) float32. It is linear in what the network predicts."""
    teacher, scale = run.teacher, run.guidance_scale
    if scale == 1:
        return predict(teacher.unet, run, noisy_images, timesteps, labels)
    if teacher.guide is not None:  # autoguidance, Karras et al. 2024
        cond, uncond = (predict(network, run, noisy_images, timesteps, labels) for network in (teacher.unet, teacher.guide))
        return guided_output(cond, uncond, scale)
    assert labels is not None and teacher.null_label is not None, "a model without them cannot be guided"
    both = torch.cat([labels, torch.full_like(labels, teacher.null_label)])
    cond, uncond = predict(teacher.unet, run, noisy_images.repeat(2, 1, 1, 1), timesteps.repeat(2), both).chunk(2)
    return guided_output(cond, uncond, scale)


def step_of(
    run: DistillRun, teach: Predict, noisy_images: Tensor, start: Tensor, end: Tensor, labels: Tensor | None
) -> Tensor:
    """One DDIM step of a teacher from the timesteps `start` to `end`, (B,) int64: (B, C, H, W) float32."""
    signals = [signal_at(run.alphas_cumprod, timesteps) for timesteps in (start, end)]
    return ddim_step(noisy_images, teach(noisy_images, start, labels), *signals)


def noised(run: DistillRun, batch: DistillBatch, timesteps: Tensor) -> Tensor:
    """x_t, (B, C, H, W) float32, on the device."""
    signal = signal_at(run.alphas_cumprod, timesteps)
    return add_noise(run.on_device(batch.images), run.on_device(batch.noise), signal)


def labels_of(run: DistillRun, batch: DistillBatch) -> Tensor | None:
    """Class labels on the device; None = unconditional."""
    return None if batch.class_labels is None else run.on_device(batch.class_labels)


def preview(state: DistillState, run: DistillRun, log: RunLog, *, evaluate: Evaluate | None) -> None:
    """With the averaged weights: a grid of samples in the default number of steps, or a measurement, or both."""
    config, pipeline, is_end = run.config, state.averaged_pipeline(), state.step == run.total_steps
    if is_end or is_due(state.step, config.logging.sample_every_steps):
        save_sample_grid(pipeline, run.folder, state.step, seed=config.seed)
        log.show_samples(state.step)
    if evaluate is not None and (is_end or is_due(state.step, config.evaluation.every_steps)):
        log.write(state.step, evaluate(pipeline))
    run.accelerator.wait_for_everyone()
