"""The engine of any training: lock the folder, begin or resume, take the steps, checkpoint, stop cleanly, finish.

A training program describes its network by a `TrainingTask` and calls `run_training`; see `hf_ddpm.training.loop.train`.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import Tensor

from hf_ddpm.cli import dump_config
from hf_ddpm.config import RunConfig
from hf_ddpm.data.stream import ImageStream
from hf_ddpm.data.table import ImageTable
from hf_ddpm.runtime.distributed import any_process_stopped, has_accelerator, init_distributed
from hf_ddpm.runtime.environment import describe_environment
from hf_ddpm.runtime.files import write_whole
from hf_ddpm.runtime.signals import Stopped, StopRequest, stop_requests
from hf_ddpm.training.checkpoints import (
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
from hf_ddpm.training.resume_checks import check_changes, describe_other_processes
from hf_ddpm.training.state import TrainState, read_extra
from hf_ddpm.training.tracking import RunLog, check_trackers, write_environment


@dataclass
class Run:
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


@dataclass(frozen=True)
class TrainingTask:
    """What is particular to the training of one kind of network; `run_training` does the rest."""

    prepare: Callable[[RunConfig, Accelerator], tuple[Run, TrainState]]
    train_step: Callable[[TrainState, Run, int], Tensor]  # returns the gradient's norm
    preview: Callable[[TrainState, Run, RunLog], None]
    preview_every_steps: tuple[int | None, ...]  # multiples of any of them, and the end; None = no multiples
    save_state: Callable[[TrainState, Accelerator, Path, dict[str, Any]], None]
    load_state: Callable[[TrainState, Accelerator, Path], None]
    required: tuple[str, ...]  # files that a checkpoint cannot be without
    finish: Callable[[TrainState, Run], Path]


def run_training(config: RunConfig, task: TrainingTask) -> Path:
    """Train a network of any kind: lock the folder, begin or resume, take the steps, save; see `train`."""
    run_dir = Path(config.output_dir)
    check_trackers(config.logging.trackers)
    accelerator = build_accelerator(config)
    with RunLock(run_dir, accelerator) as lock:
        if (run_dir / "config.yaml").exists():  # a run began here: is it still going on?
            lock.take()
        how, before = _how_to_resume(config), find_checkpoints(run_dir)
        checkpoint = choose_checkpoint(run_dir, how, task.required)
        run, state = task.prepare(config, accelerator)
        preview_pending = checkpoint is not None and resume(state, run, task, checkpoint)
        if checkpoint is None and how == "auto":
            accelerator.print(f"no checkpoint in {run_dir}: starting from the beginning")

        lock.take()
        if accelerator.is_main_process and find_checkpoints(run_dir) != before:
            raise ValueError(f"--output_dir is {str(run_dir)!r}: another run has written there meanwhile, see --resume")
        log = open_log(run, state)
        try:
            with stop_requests("the run is saved and ends after this step") as stop:
                take_steps(state, run, task, log, stop, preview_pending=preview_pending)
        except KeyboardInterrupt as interrupt:
            message = f"interrupted at step {state.step}; continue from the last checkpoint with --resume auto"
            raise Stopped(getattr(interrupt, "signal_number", signal.SIGINT), str(interrupt) or message) from None
        finally:
            log.close()
        return task.finish(state, run)


def build_accelerator(config: RunConfig) -> Accelerator:
    """Build the Accelerator; on a machine without an accelerator it joins the processes that torchrun started.

    Raises:
        ValueError: the launcher started more processes than can see each other.
    """
    init_distributed(config.num_threads)
    return Accelerator(
        mixed_precision={"fp32": "no"}.get(config.mixed_precision, config.mixed_precision),
        cpu=not has_accelerator(),
        log_with=config.logging.trackers or None,
        project_dir=config.output_dir,
    )


def take_steps(
    state: TrainState, run: Run, task: TrainingTask, log: RunLog, stop: StopRequest, *, preview_pending: bool
) -> None:
    """Train to the end of the run, or until any process is asked to stop, with all that is due on the way.

    Args:
        state, run, task, log, stop: of the run.
        preview_pending: whether the run had been stopped before the preview of the step that `state` is at.
    """
    config, accelerator = run.config, run.accelerator

    def make_preview() -> None:
        with _not_training(log), stop.raising():
            task.preview(state, run, log)

    if preview_pending:
        make_preview()
    for step in range(state.step, run.total_steps):
        grad_norm = task.train_step(state, run, step)
        log.advance(run.total_batch_size)
        done = state.step
        if done % config.logging.every_steps == 0 or done == run.total_steps:
            log_progress(log, state, run, grad_norm)
        signal_number = any_process_stopped(stop, accelerator)
        wants_preview = done == run.total_steps or any(is_due(done, steps) for steps in task.preview_every_steps)
        if wants_preview and not signal_number:
            make_preview()
        if done == run.total_steps or is_due(done, config.checkpoint.every_steps) or signal_number:
            with _not_training(log):
                save_checkpoint(state, run, task, preview_pending=wants_preview and bool(signal_number))
        if signal_number:
            raise Stopped(signal_number, f"stopped and saved at step {done}; continue with --resume auto")


def resume(state: TrainState, run: Run, task: TrainingTask, checkpoint: Path) -> bool:
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
    task.load_state(state, run.accelerator, checkpoint)
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


def open_log(run: Run, state: TrainState) -> RunLog:
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


def apply_gradients(state: TrainState, run: Run, step: int, loss: Tensor, record: StepRecord) -> Tensor:
    """Take an optimizer step of the only loss there is, and count it; see `update_weights`."""
    grad_norm, loss = update_weights(state, run, step, loss, record)
    count_step(state, run, loss)
    return grad_norm


def update_weights(state: TrainState, run: Run, step: int, loss: Tensor, record: StepRecord) -> tuple[Tensor, Tensor]:
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


def count_step(state: TrainState, run: Run, loss: Tensor) -> None:
    """Move schedule and counters on by one step, whose loss was this, () float32."""
    state.lr_scheduler.step()
    state.step += 1
    state.images_seen += run.total_batch_size
    state.window_loss += loss.item()
    state.window_steps += 1


def log_progress(log: RunLog, state: TrainState, run: Run, grad_norm: Tensor) -> None:
    """Log the mean losses since the last logged step and what goes with them."""
    values = {
        "images_seen": state.images_seen,
        **({"epoch": state.images_seen / run.images.num_images} if run.images.num_images else {}),
        **state.take_window(),
        "lr": state.optimizer.param_groups[0]["lr"],
        "grad_norm": float(grad_norm),
    }
    log.write(state.step, values, with_speed=True)


def save_checkpoint(state: TrainState, run: Run, task: TrainingTask, *, preview_pending: bool) -> None:
    """Publish a checkpoint of this step, then remove old ones; a run that goes on from it takes the preview it owes."""
    if run.accelerator.is_main_process:

        def write(directory: Path) -> None:
            extra = {"identity": run.identity(), "owes_preview": preview_pending}
            task.save_state(state, run.accelerator, directory, extra)
            write_manifest(directory)

        publish_directory(checkpoint_path(run.dir, state.step), write)
        prune_checkpoints(run.dir, run.config.checkpoint.keep, run.config.checkpoint.keep_every_steps)
    run.accelerator.wait_for_everyone()


def is_due(step: int, every_steps: int | None) -> bool:
    return every_steps is not None and step % every_steps == 0


@contextlib.contextmanager
def _not_training(log: RunLog) -> Iterator[None]:
    started = time.perf_counter()
    yield
    log.pause_clock(time.perf_counter() - started)
