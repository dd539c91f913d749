"""Functions of a user that a training calls: `train(config, callbacks=[MyCallback()])`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from hf_ddpm.commandline.names import nearest
from hf_ddpm.run_folder import RunFolder
from hf_ddpm.sampling import ImagePipeline
from hf_ddpm.training.run import Run
from hf_ddpm.training.state import GeneratorState, TrainState
from hf_ddpm.training.tracking import TRAINING_LINE, RunLog

HOOKS = ("on_step", "on_preview", "on_checkpoint")
RESERVED = ("step", "loss", "lr", "grad_norm", "images_seen", "epoch", "images_per_second", "test_loss")
"""What a run logs itself."""


class Callback:
    """What a training calls. Any other object with one of these methods will do, too.

    Every process calls every method, with the same numbers, so that the processes may work together; what is to be done once
    is done `if event.is_main_process`. A method looks, logs and writes files of its own. What it draws from the global
    random generators, or leaves in evaluation mode, does not change the training: a resumed run stays exact. If it raises,
    the run is saved at this step and ends with that error; `KeyboardInterrupt` ends it as Ctrl-C does.

    A run that continues does not repeat what was saved: a step is called for again only if it is taken again, as after a
    killed process. What a callback counts is not saved, but `event.step` and `event.images_seen` continue.
    """

    def on_step(self, event: TrainingEvent) -> None:
        """After every optimizer step, before a checkpoint or preview of this step."""

    def on_checkpoint(self, event: TrainingEvent) -> None:
        """After a checkpoint, `event.checkpoint`, is complete; not after one that an error has caused."""

    def on_preview(self, event: TrainingEvent) -> None:
        """After the sample grid, the held-out loss and the evaluation that are due at this step; at the end always."""


class TrainingEvent:
    """A step of a run as a callback sees it; of use during the call alone."""

    def __init__(self, hook: str, state: TrainState, run: Run, log: RunLog, grad_norm: float | None) -> None:
        self._state, self._run, self._log = state, run, log
        self.hook = hook
        """The method that is called, one of `HOOKS`."""
        self.grad_norm = grad_norm
        """Of this step, before clipping; None = not known, as the run has just been resumed."""

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self._state.step

    @property
    def total_steps(self) -> int:
        """The step at which the run ends."""
        return self._run.total_steps

    @property
    def images_seen(self) -> int:
        """Images of these steps, of all processes."""
        return self._state.images_seen

    @property
    def loss(self) -> float | None:
        """Of this step, the mean over the total batch; None = as for `grad_norm`."""
        return self._state.loss

    @property
    def learning_rate(self) -> float:
        """Of this step."""
        return self._state.learning_rate

    @property
    def is_main_process(self) -> bool:
        """Whether this is the process that writes the run folder."""
        return self._run.accelerator.is_main_process

    @property
    def folder(self) -> RunFolder:
        """The run folder and the places of its files."""
        return self._run.folder

    @property
    def checkpoint(self) -> Path | None:
        """The folder of the checkpoint of this step, which is a pipeline, too; None = there is none."""
        path = self._run.folder.checkpoint(self.step)
        return path if path.is_dir() else None

    @property
    def sample_grid(self) -> Path | None:
        """The picture of the samples of this step; None = there is none."""
        path = self._run.folder.sample_grid(self.step)
        return path if path.is_file() else None

    @property
    def network(self) -> torch.nn.Module:
        """The network in training, on its device, with the weights of this step; not to be changed."""
        return self._state.network

    def pipeline(self) -> ImagePipeline:
        """The pipeline with the averaged weights of this step, as it would be saved now; not to be changed."""
        assert isinstance(self._state, GeneratorState), "a judge has no callbacks"
        return self._state.averaged_pipeline()

    def log(self, **values: float) -> None:
        """Write numbers of this step to metrics.jsonl and the trackers; those of the main process are written.

        Raises:
            ValueError: a value is not a finite number, or has the name of something that a run logs itself.
        """
        for name, value in values.items():
            if name in RESERVED:
                raise ValueError(f"log: {name!r} is what a run logs itself, give another name")
            if not isinstance(value, (int, float)) or not math.isfinite(value):
                raise ValueError(f"log: {name} is {value!r}, give a finite number (of a tensor: .item())")
        if self.hook != "on_preview":  # the line is kept when a run continues that owes the preview of this step
            values = {**values, TRAINING_LINE: self.images_seen}
        self._log.write(self.step, values)


def check_callbacks(callbacks: Sequence[Any]) -> None:
    """Raise `ValueError` for an object without a method that is called, or with one that never would be."""
    for callback in callbacks:
        if isinstance(callback, type):
            raise ValueError(f"callbacks: {callback.__name__} is a class, give an object of it, {callback.__name__}()")
        methods = [name for name in dir(callback) if name.startswith("on_") and callable(getattr(callback, name))]
        name = type(callback).__name__
        if not methods:
            raise ValueError(f"callbacks: {name} has none of the methods {', '.join(HOOKS)}, add one of them")
        for method in methods:
            if method not in HOOKS:
                meant = " or ".join(nearest(method, HOOKS)) or ", ".join(HOOKS)
                raise ValueError(f"callbacks: {name}.{method} would never be called, name it {meant}")


def call(callbacks: Sequence[Any], event: TrainingEvent) -> None:
    """Call the method `event.hook` of all objects that have it, in order; the network is in training mode again after it."""
    for callback in callbacks:
        method = getattr(callback, event.hook, None)
        if method is not None:
            method(event)
    if callbacks:
        event._state.model.train()
