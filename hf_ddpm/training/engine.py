"""The engine of any training, `run_training`: a `TrainingTask` describes what is particular to one kind of network."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from accelerate import PartialState

from hf_ddpm.cli import dump_config
from hf_ddpm.config import GIVEN_IN_PYTHON
from hf_ddpm.data.describe import describe_data
from hf_ddpm.data.load_splits import as_recorded
from hf_ddpm.data.stream import ImageStream
from hf_ddpm.first_checks import check_trackers
from hf_ddpm.run_folder import RunFolder
from hf_ddpm.runtime.distributed import any_process_stopped, init_distributed
from hf_ddpm.runtime.environment import describe_environment
from hf_ddpm.runtime.files import check_appendable, write_whole
from hf_ddpm.runtime.folders import publish_directory, put_back
from hf_ddpm.runtime.heartbeat import before_giving_up
from hf_ddpm.runtime.lock import OutputLock
from hf_ddpm.runtime.signals import Stopped, stop_requests
from hf_ddpm.text import one_line
from hf_ddpm.training.callbacks import TrainingEvent, call
from hf_ddpm.training.checkpoints import (
    DamagedCheckpoint,
    choose_checkpoint,
    drop_checkpoints_after,
    prune_checkpoints,
    write_manifest,
)
from hf_ddpm.training.options import RunConfig
from hf_ddpm.training.resume_checks import (
    check_changes,
    describe_earlier_reading,
    describe_learning_rate,
    describe_other_processes,
    describe_total_batch,
    total_batch_of,
)
from hf_ddpm.training.run import OBJECTS, Run
from hf_ddpm.training.slowdown import StepWatch, describe_slowdown
from hf_ddpm.training.state import TrainState, read_saved
from hf_ddpm.training.task import RunType, StateType, TrainingTask, is_due, set_up
from hf_ddpm.training.tracking import RunLog, start_trackers

logger = logging.getLogger(__name__)


def run_training(config: RunConfig, task: TrainingTask[RunType, StateType]) -> Path:
    """Train any network and return the folder that `task.finish` published; see `hf_ddpm.training.loop.train`."""
    folder = RunFolder(Path(config.output_dir))
    check_trackers(config.logging.trackers)
    processes = init_distributed(config.num_threads)
    with OutputLock(folder.path, processes) as lock:
        if folder.config.exists():  # a run was started here: refuse at once if it is still running
            lock.take()
        how = _how_to_resume(config)
        checkpoint = choose_checkpoint(folder, how, task.required)
        if checkpoint is not None:
            _keep_pixel_type(config, checkpoint)
        before = folder.checkpoints()
        check_appendable(folder.metrics)
        run, state = set_up(config, task, processes, checkpoint)
        accelerator = run.accelerator
        preview_pending = checkpoint is not None and _resume_whole(state, run, task, how, checkpoint)
        if checkpoint is None and how == "auto":
            accelerator.print(f"no checkpoint in {folder.path}: starting from the beginning")

        lock.take()
        if accelerator.is_main_process and folder.checkpoints() != before:
            raise ValueError(f"--output_dir is {str(folder.path)!r}: another run has written there meanwhile, see --resume")
        if accelerator.is_main_process:  # with `auto`, what cannot be read stays until something new is saved
            drop_later_checkpoints(run, max(before, default=0) if how == "auto" else state.step)
        log = open_log(run, state, preview_pending=preview_pending)
        try:
            with (
                contextlib.closing(log),
                before_giving_up(partial(save_if_missing, state, run, task)),
                stop_requests("the run is saved and ends after this step") as run.stop,
                contextlib.closing(run.batches),
            ):
                take_steps(state, run, task, log, preview_pending=preview_pending)
            return task.finish(state, run)
        except KeyboardInterrupt as interrupt:
            message = f"stopped and saved at step {state.step}; continue with --resume auto"
            if processes.is_main_process and state.saved_step != state.step:
                message = f"stopped at step {state.step}; continue from the last checkpoint with --resume auto"
            raise Stopped(getattr(interrupt, "signal_number", signal.SIGINT), str(interrupt) or message) from None


def _keep_pixel_type(config: RunConfig, checkpoint: Path) -> None:
    """Decode images as the run did that is resumed, if that was before there was an option."""
    with contextlib.suppress(DamagedCheckpoint):  # which is reported later
        recorded = as_recorded(read_saved(checkpoint)["identity"]["data"])
        config.data.pixel_type = config.data.pixel_type or recorded["pixel_type"]


def _how_to_resume(config: RunConfig) -> str:
    """`--resume`, or `auto` in a process that a launcher has restarted with the original command line."""
    elsewhere = config.resume not in ("none", "auto", "latest") and not RunFolder(Path(config.output_dir)).checkpoints()
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) == 0 or elsewhere:
        return config.resume
    if os.environ.get("RANK", "0") == "0":
        logger.warning("started again by the launcher: --resume auto")
    return "auto"


def _resume_whole(state: StateType, run: RunType, task: TrainingTask[RunType, StateType], how: str, first: Path) -> bool:
    """Continue from a verified checkpoint, or with `auto` from the one before it if its content is damaged; see `resume`."""
    checkpoint, damaged = first, list[Path]()
    while True:
        try:
            return resume(state, run, checkpoint)
        except DamagedCheckpoint as error:
            if how != "auto":
                raise ValueError(f"--resume is {how!r}: {error}; --resume auto takes the newest whole one") from None
            logger.warning("%s; trying the checkpoint before it", error)
            damaged.append(checkpoint)
            before = choose_checkpoint(run.folder, how, task.required, damaged)
            assert before is not None, "it refuses if there is none before it"
            checkpoint = before


def resume(state: TrainState, run: Run, checkpoint: Path) -> bool:
    """Continue from a checkpoint; return whether the preview of its step is still to be made.

    Raises `ValueError` if the checkpoint is of another run, or past the end of this one; a `DamagedCheckpoint` before
    anything of it is taken.
    """
    saved = read_saved(checkpoint)
    total_batch_before = total_batch_of(saved["identity"])
    if run.is_over(step=saved["step"] - 1, images_seen=saved["images_seen"] - total_batch_before):
        raise ValueError(f"--resume: {checkpoint} is past the end of this run, {run.length}: make it longer")
    channels = getattr(run.config.data, "channels", None)
    earlier_reading = partial(describe_earlier_reading, saved["identity"], channels, run.images)
    identity = saved["identity"]
    if getattr(run.config, "memory_format", None) == "auto":  # earlier versions do not record it, and the run keeps theirs
        identity = {"memory_format": run.tuning.memory_format, **identity}
    for warning in check_changes(identity, run.identity(), earlier_reading):
        if run.accelerator.is_main_process:
            logger.warning("%s: the run continues, but not bit for bit as it would have", warning)
    run.begin_at(saved["step"], saved["images_seen"])
    state.lr_scheduler = run.build_lr_scheduler(state.lr_scheduler.optimizer)
    state.load(checkpoint, run.accelerator)
    state.saved_step = state.step
    run.accelerator.print(f"resumed from {checkpoint} at step {state.step}")
    before, now = saved["identity"]["environment"]["num_processes"], run.accelerator.num_processes
    if before != now:
        run.accelerator.print(describe_other_processes(before, now, isinstance(run.images, ImageStream)))
    if total_batch_before != run.total_batch_size:
        run.accelerator.print(describe_total_batch(total_batch_before, run))
    rates = saved.get("next_learning_rate"), state.optimizer.param_groups[0]["lr"]  # not in checkpoints of earlier versions
    notice = describe_learning_rate(*rates, run) if state.step < run.total_steps else None
    if notice is not None and run.accelerator.is_main_process:
        logger.warning("%s", notice)
    return saved.get("owes_preview") is True and not _preview_made(checkpoint).exists()


def open_log(run: Run, state: TrainState, *, preview_pending: bool) -> RunLog:
    """Create the run folder with its options, say what the run learns from, and open the log."""
    accelerator = run.accelerator
    if accelerator.is_main_process:
        given = {name: one_line(run.objects[name]) for name in OBJECTS if name in run.objects}
        header = "".join(f"# {name} {GIVEN_IN_PYTHON}: {which}\n" for name, which in given.items())
        write_whole(run.folder.config, header + dump_config(run.config))
        description = describe_data(run.config.data, run.images, run.test_images)
        surroundings = describe_environment(accelerator.device, accelerator.num_processes) | run.tuning.described()
        surroundings |= {"objects": given} if given else {}
        write_whole(run.folder.environment, json.dumps(surroundings, indent=1) + "\n")
        write_whole(run.folder.data, description.to_json())
        print(description)
        if given:
            print("objects: ", ", ".join(f"{name} {which}" for name, which in given.items()))
        for path in (run.folder.pipeline, run.folder.judge):
            put_back(path)
    if run.config.logging.trackers:
        start_trackers(accelerator)
    accelerator.wait_for_everyone()
    return RunLog(
        accelerator, run.folder, total_steps=run.total_steps, start_step=state.step, preview_pending=preview_pending
    )


def take_steps(
    state: StateType,
    run: RunType,
    task: TrainingTask[RunType, StateType],
    log: RunLog,
    *,
    preview_pending: bool,
) -> None:
    """Train to the end or until stopped; log, save and preview when due, with `preview_pending` the preview of now first.

    A step is saved before its preview if both are due, and whatever else ends the run, unless the step itself failed.
    """
    grad_norm: float | None = None

    def tell(hook: str) -> None:
        call(task.callbacks, TrainingEvent(hook, state, run, log, grad_norm))

    def make_preview() -> None:
        with saved_on_failure(state, run, task), log.paused(), run.stop.raising():
            task.preview(state, run, log)
            tell("on_preview")
        if run.accelerator.is_main_process:
            note_preview(run.folder.checkpoint(state.step))

    if preview_pending and task.wants_preview(state, run):
        make_preview()
    watch = StepWatch()
    for step in range(state.step, run.total_steps):
        with saved_on_failure(state, run, task):
            started = time.perf_counter()
            grad_norm = task.train_step(state, run, step)
            slower = watch.add(time.perf_counter() - started)
            state.changing = False
            log.advance(run.total_batch_size)
            done, at_end = state.step, state.step == run.total_steps
            if at_end or is_due(done, run.config.logging.every_steps):
                log_progress(log, state, run, grad_norm)
            tell("on_step")
            save_is_due = at_end or is_due(done, run.config.checkpoint.every_steps)
            signal_number = state.stop_signal
            if run.accelerator.num_processes == 1 or save_is_due or task.wants_preview(state, run):
                signal_number = any_process_stopped(run.stop, run.accelerator)  # also one since the exchange in the step
        if save_is_due or signal_number:
            with log.paused():
                save_checkpoint(state, run, preview_pending=task.wants_preview(state, run))
                tell("on_checkpoint")
        if signal_number:
            raise Stopped(signal_number, f"stopped and saved at step {done}; continue with --resume auto")
        if task.wants_preview(state, run):
            make_preview()
        if slower is not None and not at_end and run.accelerator.is_main_process:
            with log.paused():
                build_trial = partial(task.build_trial, (run.images, run.test_images))
                logger.warning("%s", describe_slowdown(slower, run.tuning, build_trial, PartialState()))


def log_progress(log: RunLog, state: TrainState, run: Run, grad_norm: float) -> None:
    """Log the mean losses since the last logged step, the position in the data, learning rate and gradient norm."""
    values: dict[str, float] = {"images_seen": state.images_seen}
    if run.images.num_images:
        values["epoch"] = state.images_seen / run.images.num_images
    values |= {**state.take_window(), "lr": state.learning_rate, "grad_norm": grad_norm}
    log.write(state.step, values, with_speed=True)


def drop_later_checkpoints(run: Run, step: int, *, but: int | None = None) -> None:
    """Remove checkpoints of later steps, which are done again, except that of the step `but`, and say so."""
    for path in drop_checkpoints_after(run.folder, step, but=but):
        print(f"removed {path}: the run continues from step {step if but is None else but}")


def save_checkpoint(state: TrainState, run: Run, *, preview_pending: bool) -> None:
    """Publish a checkpoint of this step, then remove old ones; every process calls it. For the option see
    `write_checkpoint`."""
    if run.accelerator.is_main_process:
        saved_before = state.saved_step
        write_checkpoint(state, run, preview_pending=preview_pending)
        # Those between the two were passed over as damaged, and must not be kept instead of a whole one.
        drop_later_checkpoints(run, saved_before, but=state.step)
        prune_checkpoints(run.folder, run.config.checkpoint.keep, run.config.checkpoint.keep_every_steps)
    run.accelerator.wait_for_everyone()


def write_checkpoint(state: TrainState, run: Run, *, preview_pending: bool) -> None:
    """Publish a checkpoint of this step; `preview_pending` says that the preview of this step is still to be made."""

    def write(directory: Path) -> None:
        state.save(directory, run.accelerator, {"identity": run.identity(), "owes_preview": preview_pending})
        write_manifest(directory)

    publish_directory(run.folder.checkpoint(state.step), write)
    state.saved_step = state.step


@contextlib.contextmanager
def saved_on_failure(state: TrainState, run: Run, task: TrainingTask) -> Iterator[None]:
    """Save the step that is done before an error or a signal ends this part and the run."""
    try:
        yield
    except BaseException as error:
        try:
            saved = save_if_missing(state, run, task)
        except Exception as failure:  # the error that came first is the one to report
            logger.warning("%s", failure)
        else:
            if saved and not isinstance(error, KeyboardInterrupt):
                logger.warning("step %d is saved before the run ends: continue with --resume auto", state.step)
        raise


def save_if_missing(state: TrainState, run: Run, task: TrainingTask) -> bool:
    """Save the last step in the main process alone, and remove nothing; return whether there was something to save.

    A step that is applied in part is not saved.
    """
    if run.accelerator.is_main_process and state.saved_step != state.step and not state.changing:
        write_checkpoint(state, run, preview_pending=task.wants_preview(state, run))
        return True
    return False


def note_preview(checkpoint: Path) -> None:
    """Note that the preview of a checkpoint has been made, if there is a checkpoint of its step."""
    if checkpoint.is_dir() and not checkpoint.is_symlink():
        with contextlib.suppress(OSError):  # the disk is full: a run that resumes the checkpoint makes the preview again
            write_whole(_preview_made(checkpoint), "true\n")


def _preview_made(checkpoint: Path) -> Path:
    """A note beside the files of a checkpoint, which its manifest does not list."""
    return checkpoint / "training" / "preview_made.json"
