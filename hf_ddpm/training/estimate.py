"""What a training takes on this machine, measured before it starts: `estimate_training(config, training_task)`."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hf_ddpm.data.open_splits import open_sources
from hf_ddpm.markdown import counted, duration
from hf_ddpm.pipeline import CFGDDPMPipeline
from hf_ddpm.run_folder import RunFolder
from hf_ddpm.runtime.distributed import broadcast_from_main, init_distributed
from hf_ddpm.runtime.environment import describe_environment
from hf_ddpm.runtime.progress import Progress
from hf_ddpm.sampling import all_conditions, network_of
from hf_ddpm.training.checkpoints import choose_checkpoint
from hf_ddpm.training.compiling import check_compiling, compile_network
from hf_ddpm.training.distill_options import DistillConfig
from hf_ddpm.training.options import RunConfig, TrainConfig
from hf_ddpm.training.preview import COLUMNS, HELD_OUT_IMAGES, MAX_CLASSES, MAX_INFERENCE_STEPS, usual_label_sets
from hf_ddpm.training.resume_checks import check_changes
from hf_ddpm.training.run import Run
from hf_ddpm.training.state import GeneratorState, TrainState, read_saved
from hf_ddpm.training.task import TrainingTask, is_due, set_up

SECONDS, FEWEST, MOST = 6.0, 3, 30
"""About how long steps are timed, and the bounds of their number."""
BATCHES = 4
"""Total batches of which images are read."""


@dataclass(frozen=True, kw_only=True)
class Compiling:
    """What compiling a network costs and gains."""

    seconds: float
    """Once, in the first step."""
    plain_step: float
    """Seconds of a step without it."""
    step: float
    """Seconds of a step with it."""

    def describe(self, steps_left: int) -> str:
        """Cost and gain in words, given how many steps there are to gain it."""
        text = f"{duration(self.seconds)} in the first step, then {self.plain_step / self.step:.2f} x as fast"
        gain = self.plain_step - self.step
        if gain <= 0:
            return f"{text}: never pays, leave it out"
        steps = self.seconds / gain
        too_few = "" if steps < steps_left else ", more than there are: leave it out"
        return f"{text}: pays after {steps:,.0f} steps{too_few}"


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What was measured, and of which run."""

    config: RunConfig
    run: Run
    state: TrainState
    counts: list[int] | None
    """Images of each split; None = a stream."""
    steps: list[float]
    """Seconds of some steps."""
    compiling: Compiling | None
    """None = the network is not compiled."""
    pass_seconds: float | None
    """Seconds of a pass of one image through a diffusion network, without gradients; None = another kind of network."""

    @property
    def step_seconds(self) -> float:
        """Of a typical step."""
        return statistics.median(self.steps) if self.compiling is None else self.compiling.step

    @property
    def steps_left(self) -> int:
        """Optimizer steps to do."""
        return max(0, self.run.total_steps - self.run.first_step)

    def preview_seconds(self) -> float:
        """Seconds of all sample grids and held-out losses that are due; 0 where `pass_seconds` is not known."""
        if self.pass_seconds is None:
            return 0.0
        assert isinstance(self.config, TrainConfig | DistillConfig) and isinstance(self.state, GeneratorState)
        pipeline, total, every = self.state.pipeline, self.run.total_steps, self.config.logging.sample_every_steps
        conditions = usual_label_sets(self.run.images) or all_conditions(pipeline)
        rows = min(len(conditions), MAX_CLASSES) or COLUMNS
        steps = pipeline.default_steps if pipeline.is_distilled else MAX_INFERENCE_STEPS
        passes = rows * COLUMNS * steps * (1 if pipeline.null_label is None else 2)
        is_held_out = isinstance(self.config, TrainConfig) and self.counts is not None and len(self.counts) > 1
        held_out = min(HELD_OUT_IMAGES, self.counts[1]) if is_held_out and self.counts is not None else 0
        due = sum(step == total or is_due(step, every) for step in range(self.run.first_step + 1, total + 1))
        return due * self.pass_seconds * (passes / self.run.accelerator.num_processes + held_out)

    def rows(self) -> dict[str, str]:
        """What a user wants to know, by its name."""
        run, step = self.run, self.step_seconds
        surroundings = describe_environment(run.accelerator.device, run.accelerator.num_processes)
        machine = surroundings["gpu"] or surroundings["processor"]
        number = f"median of {len(self.steps)}, from {min(self.steps):.3g} to {max(self.steps):.3g} s"
        if self.compiling is not None:
            number = "compiled"
        previews, size = self.preview_seconds(), sum(parameter.numel() for parameter in self.state.network.parameters())
        seconds = self.steps_left * step + previews + (0 if self.compiling is None else self.compiling.seconds)
        rows = {
            "machine": f"{machine}, {counted(run.accelerator.num_processes, 'process', 'processes')}",
            "network": f"{size:,} parameters, for images of {' x '.join(map(str, run.image_shape))}",
            "settings": str(run.tuning),
            "step": f"{step:.3g} s, {run.total_batch_size / step:.1f} images/s at {run.total_batch_size} images ({number})",
            "steps": f"{self.steps_left:,}" + (f" left of {run.total_steps:,}" if run.first_step else ""),
            "time": duration(seconds) + ("" if self.pass_seconds is None else f", {duration(previews)} of it for previews"),
        }
        if self.compiling is not None:
            rows["compile"] = self.compiling.describe(self.steps_left)
        return rows | self._sizes() | {"not counted": ", ".join(self._not_counted())}

    def _sizes(self) -> dict[str, str]:
        run, folder = self.run, Path(self.config.output_dir)
        checkpoint, published = checkpoint_size(self.state)
        if isinstance(self.config, DistillConfig) and self.config.method == "progressive":
            checkpoint += published  # the student of the stage before
        kept = kept_checkpoints(self.config, run.total_steps)
        snapshots, snapshot = self._snapshots()
        with_what = counted(kept, "checkpoint") + (f" and {counted(snapshots, 'snapshot')}" if snapshots else "")
        in_all = f"{size_text(kept * checkpoint + published + snapshots * snapshot)} at its end, with {with_what}"
        decoded = "none, as images are streamed"
        if self.counts is not None:
            size = math.prod(run.image_shape) * np.dtype(run.images.pixel_type).itemsize
            decoded = f"{size_text(sum(self.counts) * size)} in the cache of datasets"
        return {
            "memory": memory_text(run.accelerator.device),
            "checkpoint": size_text(checkpoint),
            "run folder": f"{in_all}, {size_text(checkpoint)} more during a save; {size_text(free_space(folder))} are free",
            "decoded images": decoded,
        }

    def _snapshots(self) -> tuple[int, int]:
        """How many snapshots of averages the run has at its end, and bytes of each."""
        averages, total = getattr(self.state, "power_averages", None), self.run.total_steps
        distance = self.config.ema.snapshot_distance(total) if isinstance(self.config, TrainConfig) else None
        if averages is None or distance is None:
            return 0, 0
        return math.ceil(total / distance), _num_bytes(averages.tensors().values())

    def _not_counted(self) -> Iterable[str]:
        yield "start-up, reading the images, saving"
        if self.pass_seconds is None:
            yield "previews and tests"
        if isinstance(self.config, TrainConfig | DistillConfig) and self.config.evaluation.every_steps is not None:
            yield "measurements every --evaluation.every_steps"
        if self.counts is not None and self.run.accelerator.device.type == "cpu":
            yield "memory of decoded images, which the system can take back"
        if self.counts is None:
            yield "memory and time of the shuffle buffer, waiting for the network"


def estimate_training(config: RunConfig, build_task: Callable[[Any], TrainingTask[Any, Any]]) -> None:
    """Print what the run of these options takes. Nothing is written but a few decoded images, into their cache.

    Every process has to call it. `build_task` is the `training_task` of the program. For errors see `run_training`.
    """
    processes = init_distributed(config.num_threads)
    mode, streaming = str(getattr(config, "compile", "none")), getattr(config.data, "streaming", False)
    check_compiling(mode, processes.device)
    few = with_few_images(config, processes.num_processes)
    task = build_task(few)
    checkpoint = choose_checkpoint(RunFolder(Path(config.output_dir)), config.resume, task.required)
    counts = None if streaming else [len(source.dataset) for source in open_sources(config.data)]
    run, state = set_up(few, task, processes, checkpoint)
    run.num_images = run.images.num_images if counts is None else counts[0]
    run.begin_at(0, 0) if checkpoint is None else begin_after(run, config, checkpoint)
    with tempfile.TemporaryDirectory() as scratch, contextlib.closing(run.batches):
        run.folder = RunFolder(Path(scratch))  # where a step that diverges would be described
        with Progress("timing steps", shown=processes.is_main_process):
            steps = time_steps(task, run, state)
            compiling = None if mode == "none" else time_compiling(mode, task, run, state)
            pass_seconds = time_pass(state, run)
    if processes.is_main_process:
        rows = Estimate(
            config=config,
            run=run,
            state=state,
            counts=counts,
            steps=steps,
            compiling=compiling,
            pass_seconds=pass_seconds,
        ).rows()
        print("\n".join(f"{name:{max(map(len, rows))}}  {text}" for name, text in rows.items()))


def with_few_images(config: Any, num_processes: int) -> Any:
    """The same options with only as many images as it takes to time steps, and without compiling."""
    data = config.data
    count = BATCHES * data.batch_size * config.optim.micro_steps * num_processes
    if getattr(data, "streaming", False):
        data = replace(data, shuffle_buffer=min(count, data.shuffle_buffer or count))
    else:
        data = replace(data, max_images=min(count, data.max_images or count))
    if isinstance(config, TrainConfig):
        return replace(config, data=replace(data, test_split=None), compile="none")
    if isinstance(config, DistillConfig):
        return replace(config, data=replace(data, test_split=None))
    return replace(config, data=data)


def begin_after(run: Run, config: RunConfig, checkpoint: Path) -> None:
    """Count the steps of a run from a checkpoint on; a `ValueError` if that is of another run."""
    saved = read_saved(checkpoint)
    now = run.identity() | {"data": asdict(config.data), "data_fingerprint": saved["identity"]["data_fingerprint"]}
    check_changes(saved["identity"], now)
    run.begin_at(saved["step"], saved["images_seen"])


def time_steps(task: TrainingTask[Any, Any], run: Run, state: TrainState) -> list[float]:
    """Seconds of each of some real steps, after two to warm up; all processes take the same number."""
    _time_step(task, run, state)
    count = _number_of_steps(_time_step(task, run, state), run)
    return [_time_step(task, run, state) for _ in range(count)]


def time_compiling(mode: str, task: TrainingTask[Any, Any], run: Run, state: TrainState) -> Compiling:
    """Compile the network of a run and take steps with and without that in turn, as the speed of a machine drifts."""
    compile_network(state.network, mode)
    first = _time_step(task, run, state)
    count = _number_of_steps(2 * _time_step(task, run, state), run)
    compiled, plain = list[float](), list[float]()
    for _ in range(count):
        compiled.append(_time_step(task, run, state))
        with torch.compiler.set_stance("force_eager"):
            plain.append(_time_step(task, run, state))
    step = statistics.median(compiled)
    return Compiling(seconds=max(0.0, first - step), plain_step=statistics.median(plain), step=step)


@torch.no_grad()
def time_pass(state: TrainState, run: Run) -> float | None:
    """Seconds of a pass of one image through the averaged network of a diffusion model; None = it is no such model."""
    if not isinstance(state, GeneratorState) or not isinstance(state.pipeline, CFGDDPMPipeline):
        return None
    network, device = network_of(state.averaged_pipeline()), run.accelerator.device
    images = torch.randn(run.batch_size, *run.image_shape, device=device)
    timesteps = torch.zeros(len(images), dtype=torch.int64, device=device)
    seconds = []
    for _ in range(FEWEST):
        started = time.perf_counter()
        network(images, timesteps, class_labels=None if state.pipeline.id2label is None else timesteps).sample.sum().item()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds) / len(images)


def checkpoint_size(state: TrainState) -> tuple[int, int]:
    """Bytes of the tensors of a checkpoint, and of the model that is published, after a step."""
    moments = [tensor for moment in state.optimizer.state_dict()["state"].values() for tensor in moment.values()]
    trained = _num_bytes(state.network.state_dict().values())
    if not isinstance(state, GeneratorState):
        return trained + _num_bytes(moments), trained
    published = _num_bytes(network_of(state.pipeline).state_dict().values())
    averages = {} if state.power_averages is None else state.power_averages.tensors()
    return trained + _num_bytes(moments) + published + _num_bytes(averages.values()), published


def kept_checkpoints(config: RunConfig, total_steps: int) -> int:
    """How many checkpoints a run has at its end."""
    every, keep_every = config.checkpoint.every_steps, config.checkpoint.keep_every_steps
    saved = sorted({total_steps, *range(every or total_steps, total_steps, every or total_steps)})
    old = [step for step in saved[: -config.checkpoint.keep] if is_due(step, keep_every)]
    return len(saved[-config.checkpoint.keep :]) + len(old)


def memory_text(device: torch.device) -> str:
    """The most memory that this process had at once, of all that the device has."""
    if device.type == "cuda":
        most, there = torch.cuda.max_memory_allocated(device), torch.cuda.get_device_properties(device).total_memory
        return f"up to {size_text(most)} for tensors, of {size_text(there)} of the device"
    try:
        import resource
    except ImportError:  # on Windows
        return "not known on this system"
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return f"up to {size_text(most)} in each process, of {size_text(there)} of the machine"


def free_space(folder: Path) -> int:
    """Bytes that are free on the disk of a folder, which may not exist yet."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free


def size_text(num_bytes: float) -> str:
    """A number of bytes for a reader: `8.4 MB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} TB"


def _time_step(task: TrainingTask[Any, Any], run: Run, state: TrainState) -> float:
    started = time.perf_counter()
    task.train_step(state, run, state.step)
    return time.perf_counter() - started


def _number_of_steps(seconds: float, run: Run) -> int:
    """How many steps to time, given the seconds of one."""
    return broadcast_from_main(lambda: min(MOST, max(FEWEST, int(SECONDS / seconds))), run.accelerator)


def _num_bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
