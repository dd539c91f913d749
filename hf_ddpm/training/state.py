"""The state of a training run: everything that changes in training, written to a checkpoint and read back.

A checkpoint has a folder `training/` with `model.safetensors`, `optimizer.safetensors` and `state.json`. The checkpoint of a
model that generates images is a pipeline folder too, with the averaged weights, so that one can sample from it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from hf_ddpm.run_folder import STATE
from hf_ddpm.runtime.reading import read_json
from hf_ddpm.sampling import ImagePipeline, network_of
from hf_ddpm.training.checkpoints import DamagedCheckpoint
from hf_ddpm.training.optim import resume_lr_schedule
from hf_ddpm.training.power_average import PowerAverages

PipelineType = TypeVar("PipelineType", bound=ImagePipeline)

WEIGHTS, MOMENTS = "training/model.safetensors", "training/optimizer.safetensors"
POWER_AVERAGES = "training/power_averages.safetensors"
MOMENT_NAMES = {"step", "exp_avg", "exp_avg_sq"}
"""What Adam and AdamW keep of a weight that has received a gradient; `step` is a number, the others are like the weight."""


@dataclass(kw_only=True)
class TrainState:
    """What changes while a network is trained."""

    network: torch.nn.Module
    """The network whose weights are trained."""
    model: torch.nn.Module
    """`network` as Accelerate prepared it: compiled, distributed, autocast."""
    optimizer: torch.optim.Optimizer
    """Of the weights of `network`."""
    lr_scheduler: LambdaLR
    """Of the optimizer, stepped once per optimizer step."""
    step: int = 0
    """Optimizer steps done."""
    images_seen: int = 0
    """Images of these steps, the position in the endless stream of epochs."""
    learning_rate: float = 0.0
    """Of the last step."""
    loss: float | None = None
    """Of the last step; None = there is none since the run was started or continued."""
    saved_step: int = 0
    """The step that the newest checkpoint was saved at."""
    stop_signal: int | None = None
    """The signal that had asked a process to stop by the last step's exchange; None = none, in all processes the same."""
    changing: bool = False
    """Whether an optimizer step is being applied: the state is then that of no step."""
    window_loss: float = 0.0
    """Sum of the losses since the last logged step."""
    window_steps: int = 0
    """Number of these losses."""

    def take_window(self) -> dict[str, float]:
        """Return the means since the last logged step by the name they are logged under, and start the next window."""
        means = {"loss": self.window_loss / self.window_steps}
        self.window_loss, self.window_steps = 0.0, 0
        return means

    def progress(self) -> dict[str, Any]:
        """Values of `state.json` that only this kind of state has."""
        return {}

    def save(self, directory: Path, accelerator: Accelerator, about: dict[str, Any]) -> None:
        """Write the state, any fp16 loss scaler and JSON values `about`, see `read_saved`, into an empty directory."""
        (directory / "training").mkdir()
        save_file(_contiguous(self.network.state_dict()), directory / WEIGHTS)
        moments = {
            f"{index}.{name}": tensor
            for index, parameter_state in self.optimizer.state_dict()["state"].items()
            for name, tensor in parameter_state.items()
        }
        save_file(_contiguous(moments), directory / MOMENTS)
        values = {
            "step": self.step,
            "images_seen": self.images_seen,
            "next_learning_rate": self.optimizer.param_groups[0]["lr"],
            "window_loss": self.window_loss,
            "window_steps": self.window_steps,
            "scaler": accelerator.scaler.state_dict() if accelerator.scaler is not None else None,
            **self.progress(),
            **about,
        }
        (directory / STATE).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")

    def load(self, directory: Path, accelerator: Accelerator) -> None:
        """Read a verified checkpoint back, tensor for tensor, into a fresh state, whose learning rate and betas stay.

        Raises `DamagedCheckpoint`, before anything is taken, if a value or tensor is not one of this network's state.
        """
        saved = read_saved(directory)
        weights = read_tensors(directory, WEIGHTS, self.network.state_dict())
        moments = self._read_moments(directory, weights)
        self.network.load_state_dict(weights)
        self.optimizer.load_state_dict({"state": moments, "param_groups": self.optimizer.state_dict()["param_groups"]})
        resume_lr_schedule(self.optimizer, self.lr_scheduler, saved["step"])
        if accelerator.scaler is not None and saved["scaler"]:
            accelerator.scaler.load_state_dict(saved["scaler"])
        self.step, self.images_seen = saved["step"], saved["images_seen"]
        self.window_loss, self.window_steps = saved["window_loss"], saved["window_steps"]

    def _read_moments(self, directory: Path, weights: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
        """The state of the optimizer by the number of the weight; `weights` are those of the same checkpoint."""
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        names = {id(parameter): name for name, parameter in self.network.named_parameters()}
        # A weight that never received a gradient has no moments, and is what it was at the start.
        trained = [it.requires_grad and not torch.equal(weights[names[id(it)]], it.detach().cpu()) for it in parameters]
        tensors = load_file(directory / MOMENTS)
        like: dict[str, Tensor] = {}
        for index, parameter in enumerate(parameters):
            if trained[index] or any(f"{index}.{name}" in tensors for name in MOMENT_NAMES):
                like |= {f"{index}.{name}": parameter for name in MOMENT_NAMES - {"step"}}
                like[f"{index}.step"] = parameter.new_zeros(())
        _check_tensors(directory, MOMENTS, tensors, like)
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            number, name = key.split(".")
            if name != "step":
                value = torch.empty_like(parameters[int(number)]).copy_(value)  # in the parameter's memory format
            moments.setdefault(int(number), {})[name] = value
        return moments


@dataclass(kw_only=True)
class GeneratorState(TrainState, Generic[PipelineType]):
    """What changes while a network that generates images is trained: also the moving average of its weights."""

    generator: torch.nn.Module
    """The part of `network` that generates images; all of a U-Net."""
    ema: EMAModel | None
    """Moving average of the tensors of `generator`; None = off."""
    pipeline: PipelineType
    """Samples with the averaged weights, which are in a second network like `generator`."""
    averaged_weights: str
    """The file of a checkpoint that has the averaged weights."""
    power_averages: PowerAverages | None = None
    """Averages of the weights of `generator` for snapshots; None = there are no snapshots."""

    def update_average(self) -> None:
        """Let the moving averages follow the weights of `step`."""
        if self.ema is not None:
            self.ema.step(tensors_of(self.generator).values())
        if self.power_averages is not None:
            self.power_averages.update(dict(self.generator.named_parameters()), self.step)

    def averaged_pipeline(self) -> PipelineType:
        """The pipeline with the averaged weights of this step (the trained ones if there is no average)."""
        targets = tensors_of(network_of(self.pipeline)).values()
        sources = tensors_of(self.generator).values() if self.ema is None else self.ema.shadow_params
        with torch.no_grad():
            for target, source in zip(targets, sources, strict=True):
                target.copy_(source)
        return self.pipeline

    def progress(self) -> dict[str, Any]:
        return {"ema_step": None if self.ema is None else self.ema.optimization_step}

    def save(self, directory: Path, accelerator: Accelerator, about: dict[str, Any]) -> None:
        """Write a checkpoint that is a pipeline folder too; see `TrainState.save`."""
        self.averaged_pipeline().save_pretrained(directory)
        super().save(directory, accelerator, about)
        if self.power_averages is not None:
            save_file(_contiguous(self.power_averages.tensors()), directory / POWER_AVERAGES)

    def load(self, directory: Path, accelerator: Accelerator) -> None:
        """Read back what `save` wrote; see `TrainState.load`."""
        power_averages = self._read_power_averages(directory)
        averaged = read_tensors(directory, self.averaged_weights, tensors_of(self.generator))
        ema_step = read_saved(directory, ema_step=lambda value: value is None or is_count(value))["ema_step"]
        super().load(directory, accelerator)
        if self.ema is not None:
            for shadow, name in zip(self.ema.shadow_params, tensors_of(self.generator), strict=True):
                shadow.copy_(averaged[name])
            self.ema.optimization_step = ema_step or 0
        for average, saved_average in power_averages:
            average.copy_(saved_average)

    def _read_power_averages(self, directory: Path) -> list[tuple[Tensor, Tensor]]:
        """Each tensor of `power_averages` with the saved one."""
        if self.power_averages is None:
            return []
        if not (directory / POWER_AVERAGES).exists():
            remedy = "leave out ema.snapshot_every_steps, as they need all steps from the start, or start a new run"
            raise ValueError(f"--resume: {directory} was saved by a run without snapshots of averages: {remedy}")
        tensors = self.power_averages.tensors()
        saved = read_tensors(directory, POWER_AVERAGES, tensors)
        return [(tensor, saved[name]) for name, tensor in tensors.items()]


def tensors_of(network: torch.nn.Module) -> dict[str, Tensor]:
    """Weights and, if there are any, running statistics by name; a moving average takes over the latter as they are."""
    buffers = dict(network.named_buffers())
    if buffers:  # without those that are not saved, as they follow from the options of the network
        buffers = {name: buffers[name] for name in network.state_dict() if name in buffers}
    return {**dict(network.named_parameters()), **buffers}


def read_saved(directory: Path, **more: Callable[[Any], bool]) -> dict[str, Any]:
    """Read a checkpoint's `state.json`; a `DamagedCheckpoint` if it is not what `TrainState.save` writes.

    `more` has a check of each value that only this kind of state has, by name.
    """
    try:
        saved = read_json(directory / STATE)
    except ValueError:
        saved = None
    if not isinstance(saved, dict):
        raise DamagedCheckpoint(directory, f"{STATE} is not the state of a run")
    for name, is_valid in {**_VALUES, **more}.items():
        if name not in saved:
            raise DamagedCheckpoint(directory, f"{STATE} has no {name}: not one of a run")
        if not is_valid(saved[name]):
            raise DamagedCheckpoint(directory, f"{STATE}: {name} is {str(saved[name])[:80]!r}, which is not valid")
    return saved


def read_tensors(directory: Path, name: str, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read a file of a checkpoint whose tensors have the names, shapes and types of `like`, and finite values."""
    tensors = load_file(directory / name)
    _check_tensors(directory, name, tensors, like)
    for key, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise DamagedCheckpoint(directory, f"{name}: {key} is not finite")
    return tensors


def is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**53


def is_finite(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_identity(value: Any) -> bool:
    names = ("environment", "data", "optim")
    if not isinstance(value, dict) or not all(isinstance(value.get(name), dict) for name in names):
        return False
    environment, data, optim = (value[name] for name in names)
    counts = (environment.get("num_processes"), data.get("batch_size"), optim.get("gradient_accumulation_steps", 1))
    return all(is_count(count) for count in counts)


def _is_scaler(value: Any) -> bool:
    names = ("scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker")
    return value in (None, {}) or (isinstance(value, dict) and all(is_finite(value.get(name)) for name in names))


_VALUES: dict[str, Callable[[Any], bool]] = {
    "step": is_count,
    "images_seen": is_count,
    "window_loss": is_finite,
    "window_steps": is_count,
    "scaler": _is_scaler,
    "identity": _is_identity,
}


def _check_tensors(directory: Path, file: str, tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> None:
    """Raise `DamagedCheckpoint` for a tensor that is missing, unknown, of another shape or type, or not a number."""
    for name in sorted(tensors.keys() | like.keys()):
        found, wanted = (_describe(its.get(name)) for its in (tensors, like))
        if found != wanted:
            what = f"its tensors are not those of this network, {name[:80]!r} is {found} instead of {wanted}"
            raise DamagedCheckpoint(directory, f"{file}: {what}")
        if tensors[name].isnan().any():
            raise DamagedCheckpoint(directory, f"{file}: {name} is not a number")


def _describe(tensor: Tensor | None) -> str:
    return "missing" if tensor is None else f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
