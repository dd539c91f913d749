"""The state of a training run: everything that changes in training, written to a checkpoint and read back.

A checkpoint has a folder `training/` with `model.safetensors`, `optimizer.safetensors` and `state.json`. The checkpoint of a
model that generates images is a pipeline folder too, with the averaged weights, so that one can sample from it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from hf_ddpm.sampling import ImagePipeline, network_of
from hf_ddpm.training.optim import resume_lr_schedule

PipelineType = TypeVar("PipelineType", bound=ImagePipeline)

_PROGRESS = ("step", "images_seen", "window_loss", "window_steps", "scaler", "identity")


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
        training = directory / "training"
        training.mkdir()
        save_file(_contiguous(self.network.state_dict()), training / "model.safetensors")
        moments = {
            f"{index}.{name}": tensor
            for index, parameter_state in self.optimizer.state_dict()["state"].items()
            for name, tensor in parameter_state.items()
        }
        save_file(_contiguous(moments), training / "optimizer.safetensors")
        values = {
            "step": self.step,
            "images_seen": self.images_seen,
            "window_loss": self.window_loss,
            "window_steps": self.window_steps,
            "scaler": accelerator.scaler.state_dict() if accelerator.scaler is not None else None,
            **self.progress(),
            **about,
        }
        (training / "state.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")

    def load(self, directory: Path, accelerator: Accelerator) -> None:
        """Read a verified checkpoint back, tensor for tensor, into a fresh state, whose learning rate and betas stay.

        Raises `RuntimeError`, `KeyError` or `IndexError` if the tensors do not fit this network.
        """
        training, saved = directory / "training", read_saved(directory)
        self.network.load_state_dict(load_file(training / "model.safetensors"))
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in load_file(training / "optimizer.safetensors").items():
            index, name = key.split(".", 1)
            like = parameters[int(index)]
            if value.shape == like.shape:
                value = torch.empty_like(like).copy_(value)  # in the parameter's memory format
            moments.setdefault(int(index), {})[name] = value
        self.optimizer.load_state_dict({"state": moments, "param_groups": self.optimizer.state_dict()["param_groups"]})
        resume_lr_schedule(self.optimizer, self.lr_scheduler, saved["step"])
        if accelerator.scaler is not None and saved["scaler"] is not None:
            accelerator.scaler.load_state_dict(saved["scaler"])
        self.step, self.images_seen = saved["step"], saved["images_seen"]
        self.window_loss, self.window_steps = saved["window_loss"], saved["window_steps"]


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

    def update_average(self) -> None:
        """Let the moving average follow this step's weights."""
        if self.ema is not None:
            self.ema.step(tensors_of(self.generator).values())

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

    def load(self, directory: Path, accelerator: Accelerator) -> None:
        """Read back what `save` wrote; see `TrainState.load`."""
        super().load(directory, accelerator)
        if self.ema is not None:
            averaged = load_file(directory / self.averaged_weights)
            for shadow, name in zip(self.ema.shadow_params, tensors_of(self.generator), strict=True):
                shadow.copy_(averaged[name])
            self.ema.optimization_step = read_saved(directory)["ema_step"] or 0


def tensors_of(network: torch.nn.Module) -> dict[str, Tensor]:
    """Weights and, if there are any, running statistics by name; a moving average takes over the latter as they are."""
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


def read_saved(directory: Path) -> dict[str, Any]:
    """Read a checkpoint's `state.json`; raises `ValueError` if it is not what `TrainState.save` writes."""
    saved = json.loads((directory / "training" / "state.json").read_text(encoding="utf-8"))
    missing = [name for name in _PROGRESS if name not in saved] if isinstance(saved, dict) else _PROGRESS
    if missing:
        raise ValueError(f"checkpoint {directory}: training/state.json has no {', '.join(missing)}: not one of a run")
    return saved


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
