"""Train a diffusion model with Accelerate: `train(config)` is the whole way from options to a saved CFGDDPMPipeline."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from hf_ddpm.cli import dump_config
from hf_ddpm.config import RunConfig
from hf_ddpm.data.loader import ImageBatch, flip_horizontally, to_model_range
from hf_ddpm.diffusion.objective import diffusion_loss, drop_labels
from hf_ddpm.files import write_whole
from hf_ddpm.hub.card import write_card
from hf_ddpm.hub.push import try_push
from hf_ddpm.pipeline import CFGDDPMPipeline
from hf_ddpm.processes import agree_to_stop
from hf_ddpm.signals import Stopped, StopRequest, stop_requests
from hf_ddpm.training.changes import check_changes, describe_other_processes
from hf_ddpm.training.checkpoints import (
    REQUIRED,
    checkpoint_path,
    choose_checkpoint,
    drop_checkpoints_after,
    find_checkpoints,
    prune_checkpoints,
    publish_directory,
    write_manifest,
)
from hf_ddpm.training.divergence import StepRecord, check_finite
from hf_ddpm.training.lock import RunLock
from hf_ddpm.training.options import TrainConfig
from hf_ddpm.training.preview import held_out_loss, save_sample_grid
from hf_ddpm.training.randomness import StepRandomness, draw_step_randomness, reseed_dropout
from hf_ddpm.training.setup import NetworkRun, Run, build_accelerator, build_state, load_data
from hf_ddpm.training.state import NetworkState, TrainState, load_state, read_extra, save_state
from hf_ddpm.training.tracking import RunLog, check_trackers, write_environment


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
    program = Program(
        prepare=prepare,
        train_step=train_step,
        preview=partial(preview, evaluate=evaluate),
        preview_every_steps=(config.logging.sample_every_steps, config.evaluation.every_steps),
        save_state=save_state,
        load_state=load_state,
        required=REQUIRED,
        finish=finish,
    )
    return carry_out(config, program)


@dataclass(frozen=True)
class Program:
    """What is particular to the training of one kind of network; `carry_out` does the rest."""

    prepare: Callable[[RunConfig, Accelerator], tuple[NetworkRun, NetworkState]]
    train_step: Callable[[NetworkState, NetworkRun, int], Tensor]  # returns the gradient's norm
    preview: Callable[[NetworkState, NetworkRun, RunLog], None]
    preview_every_steps: tuple[int | None, ...]  # multiples of any of them, and the end; None = no multiples
    save_state: Callable[[NetworkState, Accelerator, Path, dict[str, Any]], None]
    load_state: Callable[[NetworkState, Accelerator, Path], None]
    required: tuple[str, ...]  # files that a checkpoint cannot be without
    finish: Callable[[NetworkState, NetworkRun], Path]


def carry_out(config: RunConfig, program: Program) -> Path:
    """Train a network of any kind: lock the folder, begin or resume, take the steps, save; see `train`."""
    run_dir = Path(config.output_dir)
    check_trackers(config.logging.trackers)
    accelerator = build_accelerator(config)
    with RunLock(run_dir, accelerator) as lock:
        if (run_dir / "config.yaml").exists():  # a run began here: is it still going on?
            lock.take()
        how, before = _how_to_resume(config), find_checkpoints(run_dir)
        checkpoint = choose_checkpoint(run_dir, how, program.required)
        run, state = program.prepare(config, accelerator)
        owes_preview = checkpoint is not None and resume(state, run, program, checkpoint)
        if checkpoint is None and how == "auto":
            accelerator.print(f"no checkpoint in {run_dir}: starting from the beginning")

        lock.take()
        if accelerator.is_main_process and find_checkpoints(run_dir) != before:
            raise ValueError(f"--output_dir is {str(run_dir)!r}: another run has written there meanwhile, see --resume")
        log = open_log(run, state)
        try:
            with stop_requests("the run is saved and ends after this step") as stop:
                take_steps(state, run, program, log, stop, owes_preview=owes_preview)
        except KeyboardInterrupt as interrupt:
            message = f"interrupted at step {state.step}; continue from the last checkpoint with --resume auto"
            raise Stopped(getattr(interrupt, "signal_number", signal.SIGINT), str(interrupt) or message) from None
        finally:
            log.close()
        return program.finish(state, run)


def prepare(config: TrainConfig, accelerator: Accelerator) -> tuple[Run, TrainState]:
    """Read the data and build a diffusion run with its state at step 0."""
    run = Run(config, accelerator, *load_data(config, accelerator))
    return run, build_state(config, run)


def take_steps(
    state: NetworkState, run: NetworkRun, program: Program, log: RunLog, stop: StopRequest, *, owes_preview: bool
) -> None:
    """Train to the end of the run, or until any process is asked to stop, with all that is due on the way.

    Args:
        state, run, program, log, stop: of the run.
        owes_preview: whether the run had been stopped before the preview of the step that `state` is at.
    """
    config, accelerator = run.config, run.accelerator

    def take_preview() -> None:
        with _not_training(log), stop.raising():
            program.preview(state, run, log)

    if owes_preview:
        take_preview()
    for step in range(state.step, run.total_steps):
        grad_norm = program.train_step(state, run, step)
        log.advance(run.total_batch_size)
        done = state.step
        if done % config.logging.every_steps == 0 or done == run.total_steps:
            log_progress(log, state, run, grad_norm)
        signal_number = agree_to_stop(stop, accelerator)
        wants_preview = done == run.total_steps or any(_due(done, steps) for steps in program.preview_every_steps)
        if wants_preview and not signal_number:
            take_preview()
        if done == run.total_steps or _due(done, config.checkpoint.every_steps) or signal_number:
            with _not_training(log):
                save_checkpoint(state, run, program, owes_preview=wants_preview and bool(signal_number))
        if signal_number:
            raise Stopped(signal_number, f"stopped and saved at step {done}; continue with --resume auto")


def resume(state: NetworkState, run: NetworkRun, program: Program, checkpoint: Path) -> bool:
    """Continue from a checkpoint, after comparing its options with those of this run.

    Returns:
        Whether the preview of the checkpoint's step is still to be taken.
    """
    saved = read_extra(checkpoint)
    if saved["step"] > run.total_steps:
        raise ValueError(f"--resume: {checkpoint} is past the end of this run, {run.total_steps} steps: make it longer")
    for warning in check_changes(saved["identity"], run.identity()):
        if run.accelerator.is_main_process:
            print(f"warning: {warning}: the run goes on, but not bit for bit as it would have", file=sys.stderr)
    program.load_state(state, run.accelerator, checkpoint)
    run.accelerator.print(f"resumed from {checkpoint} at step {state.step}")
    before, now = saved["identity"]["environment"]["num_processes"], run.accelerator.num_processes
    if before != now:
        run.accelerator.print(describe_other_processes(before, now, run.config.data.streaming))
    return saved.get("owes_preview", False)


def _how_to_resume(config: RunConfig) -> str:
    """`--resume`, or `auto` in a process that a launcher has started again with the command line of the first time."""
    elsewhere = config.resume not in ("none", "auto", "latest") and not find_checkpoints(Path(config.output_dir))
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) == 0 or elsewhere:
        return config.resume
    if os.environ.get("RANK", "0") == "0":
        print("started again by the launcher: --resume auto", file=sys.stderr)
    return "auto"


def open_log(run: NetworkRun, state: NetworkState) -> RunLog:
    """Create the run folder with its options, and open the log."""
    accelerator = run.accelerator
    if accelerator.is_main_process:
        write_whole(run.dir / "config.yaml", dump_config(run.config))
        write_environment(run.dir / "environment.json", accelerator)
        for path in drop_checkpoints_after(run.dir, state.step):
            print(f"removed {path}: the run goes on from step {state.step}")
    if run.config.logging.trackers:
        accelerator.init_trackers("trackers")
    accelerator.wait_for_everyone()
    return RunLog(accelerator, run.dir, total_steps=run.total_steps, start_step=state.step)


def train_step(state: TrainState, run: Run, step: int) -> Tensor:
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


def apply_gradients(state: NetworkState, run: NetworkRun, step: int, loss: Tensor, record: StepRecord) -> Tensor:
    """Take an optimizer step of the only loss there is, and count it; see `update_weights`."""
    grad_norm, loss = update_weights(state, run, step, loss, record)
    count_step(state, run, loss)
    return grad_norm


def update_weights(
    state: NetworkState, run: NetworkRun, step: int, loss: Tensor, record: StepRecord
) -> tuple[Tensor, Tensor]:
    """Let the optimizer change the weights that have gradients, unless these would ruin them.

    Args:
        state, run: of the run.
        step: optimizer steps done before this one.
        loss: () float32, the mean over this process's images.
        record: these images.

    Returns:
        The gradient's norm before clipping, and the mean loss over all processes, both () float32.

    Raises:
        FloatingPointError: the norm or the loss is not finite.
    """
    config, accelerator = run.config, run.accelerator
    max_norm = config.optim.max_grad_norm
    grad_norm = accelerator.clip_grad_norm_(state.model.parameters(), math.inf if max_norm is None else max_norm)
    loss = accelerator.reduce(loss, reduction="mean")
    check_finite(step, loss, grad_norm, record, accelerator, run.dir)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    return grad_norm, loss


def count_step(state: NetworkState, run: NetworkRun, loss: Tensor) -> None:
    """Move schedule and counters on by one step, whose loss was this, () float32."""
    state.lr_scheduler.step()
    state.step += 1
    state.images_seen += run.total_batch_size
    state.window_loss += loss.item()
    state.window_steps += 1


def micro_batch_loss(state: TrainState, run: Run, batch: ImageBatch, randomness: StepRandomness) -> Tensor:
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


def log_progress(log: RunLog, state: NetworkState, run: NetworkRun, grad_norm: Tensor) -> None:
    """Log the mean losses since the last logged step and what goes with them."""
    values = {
        "images_seen": state.images_seen,
        **({"epoch": state.images_seen / run.images.num_images} if run.images.num_images else {}),
        **state.take_window(),
        "lr": state.optimizer.param_groups[0]["lr"],
        "grad_norm": float(grad_norm),
    }
    log.write(state.step, values, with_speed=True)


def preview(
    state: TrainState, run: Run, log: RunLog, *, evaluate: Callable[[CFGDDPMPipeline], dict[str, float]] | None
) -> None:
    """What is due of: a grid of samples with the averaged weights and the held-out loss; a measurement."""
    config, pipeline, is_end = run.config, state.averaged_pipeline(), state.step == run.total_steps
    if is_end or _due(state.step, config.logging.sample_every_steps):
        save_sample_grid(pipeline, run.dir / "samples" / f"step-{state.step:08d}.png", seed=config.seed)
        if run.accelerator.is_main_process and run.test_images is not None:
            loss = held_out_loss(pipeline, run.test_images, loss=config.objective.loss)
            log.write(state.step, {"test_loss": loss})
    if evaluate is not None and (is_end or _due(state.step, config.evaluation.every_steps)):
        log.write(state.step, evaluate(pipeline))
    run.accelerator.wait_for_everyone()


def save_checkpoint(state: NetworkState, run: NetworkRun, program: Program, *, owes_preview: bool) -> None:
    """Publish a checkpoint of this step, then remove old ones; a run that goes on from it takes the preview it owes."""
    if run.accelerator.is_main_process:

        def write(directory: Path) -> None:
            program.save_state(state, run.accelerator, directory, {"identity": run.identity(), "owes_preview": owes_preview})
            write_manifest(directory)

        publish_directory(checkpoint_path(run.dir, state.step), write)
        prune_checkpoints(run.dir, run.config.checkpoint.keep, run.config.checkpoint.keep_every_steps)
    run.accelerator.wait_for_everyone()


def finish(state: TrainState, run: Run) -> Path:
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


def _due(step: int, every_steps: int | None) -> bool:
    return every_steps is not None and step % every_steps == 0


@contextlib.contextmanager
def _not_training(log: RunLog) -> Iterator[None]:
    started = time.perf_counter()
    yield
    log.pause_clock(time.perf_counter() - started)
