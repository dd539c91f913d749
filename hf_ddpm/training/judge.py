"""Train a judge: `train_judge(config)` is the whole way from options to a folder that `load_judge` reads."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from torch import Tensor
from torch.nn import functional
from transformers import ResNetForImageClassification

from hf_ddpm.config import require
from hf_ddpm.data.batches import ImageBatch, shift_images
from hf_ddpm.data.load_splits import decode_sources
from hf_ddpm.data.open_splits import open_sources
from hf_ddpm.data.table import ImageTable
from hf_ddpm.diffusion.randomness import seeded_generator
from hf_ddpm.image_shape import plain_size, size_pair
from hf_ddpm.models.judge import MAX_IMAGE_SIZE, Judge, JudgeRecord, build_network, prepare_pixels, save_judge
from hf_ddpm.runtime.folders import publish_directory
from hf_ddpm.training.augmentation import augment
from hf_ddpm.training.checkpoints import TRAINING_FILES
from hf_ddpm.training.divergence import StepRecord
from hf_ddpm.training.engine import run_training
from hf_ddpm.training.optim import build_optimizer
from hf_ddpm.training.options import JudgeConfig
from hf_ddpm.training.prefetch import Place
from hf_ddpm.training.run import Data, Images, Run
from hf_ddpm.training.state import TrainState
from hf_ddpm.training.step_randomness import BLOCK, draw_in_blocks
from hf_ddpm.training.task import TrainingTask, require_one_process
from hf_ddpm.training.tracking import RunLog
from hf_ddpm.training.tuning import Trial, Tuning
from hf_ddpm.training.update import apply_gradients

TEST_BATCH = 256  # images

logger = logging.getLogger(__name__)


def train_judge(config: JudgeConfig) -> Path:
    """Train in one process and return the folder of the saved judge; see `hf_ddpm.training.loop.train`."""
    return run_training(config, training_task(config))


def training_task(config: JudgeConfig) -> TrainingTask[JudgeRun, JudgeState]:
    """What is particular to the training of a judge."""
    return TrainingTask(
        load=partial(load_data, config),
        build_trial=partial(build_trial, config),
        prepare=partial(prepare, config),
        train_step=train_step,
        preview=preview,
        preview_every_steps=(config.logging.test_every_steps,),
        required=TRAINING_FILES,
        finish=finish,
    )


class JudgeRun(Run[JudgeConfig]):
    """What stays the same while a judge is trained."""

    def prepare_batch(self, place: Place) -> ImageBatch:
        config, batch = self.config, self.reader.read(place.images_seen, place.micro_step)
        positions = self.positions(place.micro_step)
        augmentation = sample_augmentation(config.seed, place.step, positions, config.data.max_shift)
        images = shift_images(batch.images, augmentation.shift)
        flip = augmentation.flip
        images = augment(images, config.data, flip, seed=config.seed, step=place.step, positions=positions)
        assert batch.class_labels is not None
        return replace(batch, images=self.pinned(images), class_labels=self.pinned(batch.class_labels))


@dataclass(kw_only=True)
class JudgeState(TrainState):
    """What changes while a judge is trained."""

    network: ResNetForImageClassification
    """The classifier."""


def load_data(config: JudgeConfig, processes: PartialState) -> Data:
    """Read both splits."""
    require_one_process(processes, "a judge", "judge")
    data, image_size = config.data, config.data.image_size
    assert image_size is not None, "the options demand it"
    remedy = f"a judge takes images of up to {MAX_IMAGE_SIZE} pixels"
    require(max(size_pair(image_size)) <= MAX_IMAGE_SIZE, "data.image_size", image_size, remedy)
    sources = open_sources(data)
    has_labels = sources[0].class_names is not None
    require(has_labels, "data.source", data.source, "no labels are found in it, name their column with --data.label_column")
    return decode_sources(data, sources, image_size=image_size, channels=data.channels)


def _build_classifier(config: JudgeConfig, images: Images) -> ResNetForImageClassification:
    assert images.class_names is not None, "load_data demands it"
    try:
        return build_network(
            widths=config.model.widths,
            depths=config.model.depths,
            channels=images.channels,
            class_names=images.class_names,
        )
    except ValueError as error:
        raise ValueError(f"--model: {error}") from None


def build_trial(config: JudgeConfig, data: Data, device: torch.device) -> Trial:
    """Training steps of the classifier, to be timed."""
    images, _ = data

    def forward(network: torch.nn.Module, pixels: Tensor) -> Tensor:
        return network(prepare_pixels(pixels)).logits

    network = _build_classifier(config, images).train().to(device)
    return Trial(network=network, forward=forward, image_shape=images.image_shape, batch_size=config.data.batch_size)


def prepare(config: JudgeConfig, accelerator: Accelerator, data: Data, tuning: Tuning) -> tuple[JudgeRun, JudgeState]:
    """Build the run with its state at step 0."""
    torch.manual_seed(seeded_generator("judge weights", config.seed).initial_seed())
    network = _build_classifier(config, data[0]).to(accelerator.device)
    run = JudgeRun(config, accelerator, *data, tuning)
    optimizer = build_optimizer(network.parameters(), config.optim)
    lr_scheduler = run.build_lr_scheduler(optimizer)
    model, optimizer = accelerator.prepare(network, optimizer)
    model.train()
    return run, JudgeState(network=network, model=model, optimizer=optimizer, lr_scheduler=lr_scheduler)


def train_step(state: JudgeState, run: JudgeRun, step: int) -> float:
    """Take one optimizer step over the total batch; see `hf_ddpm.training.loop.train_step`."""
    loss, record = torch.zeros((), device=run.accelerator.device), StepRecord()
    for micro_step in range(run.micro_steps):
        batch: ImageBatch = run.batches.take(Place(step, micro_step, state.images_seen))
        assert batch.class_labels is not None
        logits = state.model(prepare_pixels(run.on_device(batch.images), run.images.value_range)).logits
        micro_loss = functional.cross_entropy(logits, run.on_device(batch.class_labels)) / run.micro_steps
        run.accelerator.backward(micro_loss)
        loss += micro_loss.detach()
        record.add(sample_ids=batch.sample_ids, loss=micro_loss.detach())
    return apply_gradients(state, run, step, loss, record)


def preview(state: JudgeState, run: JudgeRun, log: RunLog) -> None:
    """Log the accuracy on the held-out split."""
    log.write(state.step, {"test_accuracy": _measured_judge(state, run).record.accuracy})
    state.network.train()


def finish(state: JudgeState, run: JudgeRun) -> Path:
    """Publish `judge/`, and say how good it is."""
    path, judge = run.folder.judge, _measured_judge(state, run)
    publish_directory(path, lambda directory: save_judge(judge, directory), keep_but=())
    accuracy, least = judge.record.accuracy, run.config.min_accuracy
    if least is not None and accuracy < least:
        remedy = "saved, but its metrics are unreliable"
        logger.warning("judge accuracy is %.2f %%, below --min_accuracy %g: %s", 100 * accuracy, least, remedy)
    print(f"judge:    {path}, accuracy {accuracy:.2%} on {judge.record.num_test_images:,} test images")
    print(f"use it:   --features judge:{run.folder.path}")
    return path


def measure_accuracy(judge: Judge, images: ImageTable) -> float:
    """Fraction of labelled images, in [0, 1], whose class gets the largest logit."""
    assert images.class_labels is not None
    right = 0
    for start in range(0, len(images), TEST_BATCH):
        rows = torch.arange(start, min(start + TEST_BATCH, len(images)))
        right += (
            (judge(images.images(rows), images.value_range).logits.argmax(1).cpu() == images.class_labels[rows]).sum().item()
        )
    return right / len(images)


@dataclass(frozen=True)
class Augmentation:
    """How N images of one optimizer step are augmented."""

    shift: Tensor
    """(N, 2) int64, pixels down and to the right."""
    flip: Tensor
    """(N,) bool, True with probability 0.5."""


def sample_augmentation(seed: int, step: int, positions: range, max_shift: int) -> Augmentation:
    """Sample for some positions of the total batch, on the CPU: the same whatever other positions are sampled."""

    def draw(generator: torch.Generator) -> tuple[Tensor, ...]:
        shift = torch.randint(-max_shift, max_shift + 1, (BLOCK, 2), generator=generator)
        return shift, torch.rand(BLOCK, generator=generator) < 0.5

    return Augmentation(*draw_in_blocks("judge", seed, step, positions, draw))


def _measured_judge(state: JudgeState, run: JudgeRun) -> Judge:
    """The judge of this step, with its accuracy on the whole held-out split."""
    images, test_images = run.images, run.test_images
    assert images.class_names is not None and test_images is not None
    record = JudgeRecord(
        accuracy=0.0,
        num_test_images=len(test_images),
        seed=run.config.seed,
        sha256="",
        image_size=plain_size(images.image_size),
        channels=images.channels,
        class_names=images.class_names,
        source=run.config.data.source,
        data_fingerprint=images.fingerprint,
        pixel_type=images.pixel_type,
        value_range=images.value_range,
    )
    judge = Judge(state.network, record)
    judge.record = replace(record, accuracy=measure_accuracy(judge, test_images))
    return judge
