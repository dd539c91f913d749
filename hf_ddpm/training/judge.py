"""Train a judge: `train_judge(config)` is the whole way from options to a folder that `load_judge` reads.

It runs on the engine of all training (`hf_ddpm.training.engine`): the same run folder, checkpoints, log and
signals. Only the network, its data and its step are others.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional
from transformers import ResNetForImageClassification

from hf_ddpm.config import require
from hf_ddpm.data.batches import flip_horizontally
from hf_ddpm.data.load_splits import decode_sources, open_sources
from hf_ddpm.data.table import ImageTable
from hf_ddpm.models.judge import MAX_IMAGE_SIZE, Judge, JudgeRecord, build_network, prepare_pixels, save_judge
from hf_ddpm.training.checkpoints import TRAINING_FILES, publish_directory
from hf_ddpm.training.divergence import StepRecord
from hf_ddpm.training.engine import Run, TrainingTask, apply_gradients, run_training
from hf_ddpm.training.optim import build_lr_scheduler, build_optimizer
from hf_ddpm.training.options import JudgeConfig
from hf_ddpm.training.randomness import seeded_generator
from hf_ddpm.training.state import TrainState, load_network_state, save_network_state
from hf_ddpm.training.tracking import RunLog

TEST_BATCH = 256  # images


def train_judge(config: JudgeConfig) -> Path:
    """Train, checkpoint, measure and save, in one process.

    Args:
        config: every option of the run.

    Returns:
        The folder of the saved judge, `output_dir/judge`.

    Raises:
        ValueError, FloatingPointError, Stopped: see `hf_ddpm.training.loop.train`.
    """
    return run_training(
        config,
        TrainingTask(
            prepare=_prepare,
            train_step=judge_step,
            preview=_log_accuracy,
            preview_every_steps=(config.logging.test_every_steps,),
            save_state=save_network_state,
            load_state=load_network_state,
            required=TRAINING_FILES,
            finish=_finish,
        ),
    )


def measure_accuracy(judge: Judge, images: ImageTable) -> float:
    """Part of labelled images, in [0, 1], whose class gets the largest logit."""
    right = 0
    for start in range(0, len(images), TEST_BATCH):
        rows = torch.arange(start, min(start + TEST_BATCH, len(images)))
        right += (judge(images.images(rows)).logits.argmax(1).cpu() == images.class_labels[rows]).sum().item()
    return right / len(images)


@dataclass(frozen=True)
class Augmentation:
    """What is done to the N images of one optimizer step, as a function of (seed, step) and of nothing else."""

    shift: Tensor  # (N, 2) int64, pixels down and to the right
    flip: Tensor  # (N,) bool, True with probability 0.5


def draw_augmentation(seed: int, step: int, count: int, max_shift: int) -> Augmentation:
    """Draw for the total batch, on the CPU, so that it is the same however the batch is split into micro-steps."""
    generator = seeded_generator("judge", seed, step)
    shift = torch.randint(-max_shift, max_shift + 1, (count, 2), generator=generator)
    return Augmentation(shift, torch.rand(count, generator=generator) < 0.5)


def shift_images(images: Tensor, shift: Tensor) -> Tensor:
    """Move images by whole pixels; what comes in at an edge repeats the pixels there.

    Args:
        images: (B, C, H, W), any dtype and range.
        shift: (B, 2) int64, pixels down and to the right.

    Returns:
        (B, C, H, W), as `images`.
    """
    count, channels, height, width = images.shape
    rows = (torch.arange(height) - shift[:, :1]).clamp(0, height - 1)  # (B, H)
    columns = (torch.arange(width) - shift[:, 1:]).clamp(0, width - 1)  # (B, W)
    image, channel = torch.arange(count)[:, None, None, None], torch.arange(channels)[:, None, None]
    return images[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


def _prepare(config: JudgeConfig, accelerator: Accelerator) -> tuple[Run, TrainState]:
    """Read the data and build the run with its state at step 0."""
    if accelerator.num_processes > 1:
        raise ValueError(
            f"the launcher started {accelerator.num_processes} processes: a judge is trained by one, "
            "start train_scripts/train_judge.py with python"
        )
    data = config.data
    remedy = f"a judge takes images of up to {MAX_IMAGE_SIZE} pixels"
    require(data.image_size <= MAX_IMAGE_SIZE, "data.image_size", data.image_size, remedy)
    sources = open_sources(data)
    has_labels = sources[0].class_names is not None
    require(has_labels, "data.source", data.source, "no labels are found in it, name their column with --data.label_column")
    train_images, test_images = decode_sources(data, sources, image_size=data.image_size, channels=data.channels)
    network = _fresh_network(config, train_images).to(accelerator.device)
    run = Run(config, accelerator, train_images, test_images)
    optimizer = build_optimizer(network.parameters(), config.optim)
    lr_scheduler = build_lr_scheduler(
        optimizer, config.optim, total_steps=run.total_steps, steps_per_unit=run.steps_per_unit
    )
    model, optimizer = accelerator.prepare(network, optimizer)
    model.train()
    return run, TrainState(network=network, model=model, optimizer=optimizer, lr_scheduler=lr_scheduler)


def _fresh_network(config: JudgeConfig, images: ImageTable) -> ResNetForImageClassification:
    """A network for these images, from the seed."""
    torch.manual_seed(seeded_generator("judge weights", config.seed).initial_seed())
    size = {"widths": config.model.widths, "depths": config.model.depths}
    try:
        return build_network(**size, channels=images.channels, class_names=images.class_names)
    except ValueError as error:
        raise ValueError(f"--model: {error}") from None


def judge_step(state: TrainState, run: Run, step: int) -> Tensor:
    """One optimizer step over the total batch; see `hf_ddpm.training.loop.train_step`."""
    config, device = run.config, run.accelerator.device
    drawn = draw_augmentation(config.seed, step, run.total_batch_size, config.data.max_shift)
    loss, record = torch.zeros((), device=device), StepRecord()
    for micro_step in range(run.micro_steps):
        batch = run.reader.read(state.images_seen, micro_step)
        part = slice(micro_step * run.batch_size, (micro_step + 1) * run.batch_size)
        images = shift_images(batch.images, drawn.shift[part])
        if config.data.horizontal_flip:
            images = flip_horizontally(images, drawn.flip[part])
        logits = state.model(prepare_pixels(images.to(device))).logits
        micro_loss = functional.cross_entropy(logits, batch.class_labels.to(device)) / run.micro_steps
        run.accelerator.backward(micro_loss)
        loss += micro_loss.detach()
        record.add(sample_ids=batch.sample_ids, loss=micro_loss.detach())
    return apply_gradients(state, run, step, loss, record)


def _judged(state: TrainState, run: Run) -> Judge:
    """The judge of this step, with its accuracy on the whole held-out split."""
    record = JudgeRecord(
        accuracy=0.0,
        num_test_images=len(run.test_images),
        seed=run.config.seed,
        sha256="",
        image_size=run.images.image_size,
        channels=run.images.channels,
        class_names=run.images.class_names,
        source=run.config.data.source,
        data_fingerprint=run.images.fingerprint,
    )
    judge = Judge(state.network, record)
    judge.record = replace(record, accuracy=measure_accuracy(judge, run.test_images))
    return judge


def _log_accuracy(state: TrainState, run: Run, log: RunLog) -> None:
    log.write(state.step, {"test_accuracy": _judged(state, run).record.accuracy})
    state.network.train()


def _finish(state: TrainState, run: Run) -> Path:
    """Publish `judge/`, and say how good it is."""
    path, judge = run.dir / "judge", _judged(state, run)
    publish_directory(path, lambda directory: save_judge(judge, directory))
    accuracy, floor = judge.record.accuracy, run.config.min_accuracy
    if floor is not None and accuracy < floor:
        print(
            f"warning: the judge names {accuracy:.2%} of the test images rightly, less than --min_accuracy {floor:g}: "
            "it is saved, but what it says of samples is worth little",
            file=sys.stderr,
        )
    print(f"judge:    {path}, right on {accuracy:.2%} of {len(run.test_images):,} test images")
    print(f"use it:   --features judge:{run.dir}")
    return path
