"""What is particular to the training of one kind of network, `TrainingTask`, and how its run is set up: `set_up(...)`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from accelerate import Accelerator, PartialState

from hf_ddpm.commandline.commands import as_typed
from hf_ddpm.runtime.distributed import has_accelerator, init_distributed
from hf_ddpm.runtime.environment import describe_environment
from hf_ddpm.runtime.progress import Progress
from hf_ddpm.training.checkpoints import DamagedCheckpoint
from hf_ddpm.training.options import RunConfig
from hf_ddpm.training.run import Data, Run
from hf_ddpm.training.state import TrainState, read_saved
from hf_ddpm.training.tracking import RunLog
from hf_ddpm.training.tuning import Trial, Tuning, recorded_tuning, tune

RunType = TypeVar("RunType", bound=Run)
StateType = TypeVar("StateType", bound=TrainState)


@dataclass(frozen=True, kw_only=True)
class TrainingTask(Generic[RunType, StateType]):
    """What is particular to the training of one kind of network; every function is called in all processes."""

    load: Callable[[PartialState], Data]
    """Reads the data; refuses by ValueError, before anything is written, and so do the next two."""
    build_trial: Callable[[Data, torch.device], Trial]
    """Builds a network for these data whose training steps are timed, with weights from the global random generator."""
    prepare: Callable[[Accelerator, Data, Tuning], tuple[RunType, StateType]]
    """Builds the run with its state at step 0."""
    train_step: Callable[[StateType, RunType, int], float]
    """Takes one optimizer step, given the number of steps before it: computes the gradients and updates the weights.
    Returns the gradient norm before clipping."""
    preview: Callable[[StateType, RunType, RunLog], None]
    """Shows what the network can do at this step, in pictures or in the log, without a change to the state. A signal
    interrupts it, and so may an error: the step is saved by then, or afterwards."""
    preview_every_steps: tuple[int | None, ...]
    """Previews are due at multiples of each of these optimizer steps, and at the end; None = only at the end."""
    required: tuple[str, ...]
    """Files that every checkpoint has; one without them is damaged."""
    finish: Callable[[StateType, RunType], Path]
    """Publishes the trained network, says how to use it, and returns its folder."""
    callbacks: Sequence[Any] = ()
    """Objects of a user that are called, see `hf_ddpm.training.callbacks.Callback`."""

    def wants_preview(self, state: TrainState, run: Run) -> bool:
        """Whether a preview of this step is due."""
        return state.step == run.total_steps or any(is_due(state.step, steps) for steps in self.preview_every_steps)


def set_up(
    config: RunConfig,
    task: TrainingTask[RunType, StateType],
    processes: PartialState,
    checkpoint: Path | None = None,
) -> tuple[RunType, StateType]:
    """Read the data, choose how to compute, and build the run with its state at step 0; every process has to call it.

    What the checkpoint of a run that is continued records is kept; None = the run is new.
    """
    if processes.device.type == "cuda":  # on a CPU it would choose another precision than TF32
        torch.set_float32_matmul_precision("high")
    with Progress("preparing the data"):
        data = task.load(processes)
    with Progress("timing training steps, to choose precision and threads"):
        recorded = None if checkpoint is None else _recorded_tuning(checkpoint, processes)
        tuning = tune(config, partial(task.build_trial, data), processes, recorded)
    if tuning.reason is not None and processes.is_main_process:
        print(f"settings: {tuning} ({tuning.reason})")
    with Progress("preparing the network"):
        return task.prepare(build_accelerator(config, tuning), data, tuning)


def _recorded_tuning(checkpoint: Path, processes: PartialState) -> dict[str, Any]:
    """The choices of the run that saved a checkpoint; {} = to be made again, as it is damaged or of another machine."""
    try:
        identity = read_saved(checkpoint)["identity"]
    except DamagedCheckpoint:  # which is dealt with when all of it is read
        return {}
    return recorded_tuning(identity, describe_environment(processes.device, processes.num_processes))


def build_accelerator(config: RunConfig, tuning: Tuning) -> Accelerator:
    """Build the Accelerator of a run."""
    init_distributed(tuning.num_threads)
    return Accelerator(
        mixed_precision="no" if tuning.mixed_precision == "fp32" else tuning.mixed_precision,
        cpu=not has_accelerator(),
        log_with=config.logging.trackers or None,
        project_dir=config.output_dir,
    )


def is_due(step: int, every_steps: int | None) -> bool:
    """Whether a step is a multiple of `every_steps`; None = it never is."""
    return every_steps is not None and step % every_steps == 0


def require_one_process(processes: PartialState, network: str, command: str) -> None:
    """Raise `ValueError` if a launcher started several processes for a network that one process trains."""
    if processes.num_processes > 1:
        raise ValueError(
            f"the launcher started {processes.num_processes} processes: {network} is trained by one, "
            f"start it with {as_typed(f'hf-ddpm {command}')}"
        )
