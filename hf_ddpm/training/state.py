"""The state of a training run: all that the loop reads, and how it is written to a checkpoint and read back.

A checkpoint has a folder `training/`: `model.safetensors`, `optimizer.safetensors` and `state.json`. That of a
diffusion model is also a pipeline folder, with the averaged weights, so that it can be sampled from.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch.optim.lr_scheduler import LambdaLR

from hf_ddpm.training.optim import resume_lr_schedule

_PROGRESS = ("step", "images_seen", "window_loss", "window_steps", "scaler", "identity")


@dataclass(kw_only=True)
class TrainState:
    """What changes while any network is trained."""

    network: torch.nn.Module  # the weights that are trained
    model: torch.nn.Module  # `network` as Accelerate prepared it: compiled, distributed, autocast
    optimizer: torch.optim.Optimizer
    lr_scheduler: LambdaLR
    step: int = 0  # optimizer steps done
    images_seen: int = 0  # position in the endless stream of epochs
    window_loss: float = 0.0  # sum of the losses since the last logged step
    window_steps: int = 0  # number of these losses

    def take_window(self) -> dict[str, float]:
        """Means since the last logged step, by the name they are logged under; the next window begins."""
        means = {"loss": self.window_loss / self.window_steps}
        self.window_loss, self.window_steps = 0.0, 0
        return means


def save_network_state(state: TrainState, accelerator: Accelerator, directory: Path, extra: dict[str, Any]) -> None:
    """Write what every network needs to go on into `directory / "training"`; see `save_state`."""
    training = directory / "training"
    training.mkdir()
    save_file(_contiguous(state.network.state_dict()), training / "model.safetensors")
    moments = {
        f"{index}.{name}": tensor
        for index, parameter_state in state.optimizer.state_dict()["state"].items()
        for name, tensor in parameter_state.items()
    }
    save_file(_contiguous(moments), training / "optimizer.safetensors")
    _write_json(
        training / "state.json",
        {
            "step": state.step,
            "images_seen": state.images_seen,
            "window_loss": state.window_loss,
            "window_steps": state.window_steps,
            "scaler": accelerator.scaler.state_dict() if accelerator.scaler is not None else None,
            **extra,
        },
    )


def read_extra(directory: Path) -> dict[str, Any]:
    """All of a checkpoint's `state.json`: progress, and the `extra` that was saved with it.

    Raises:
        ValueError: it is not what `save_network_state` writes.
    """
    saved = json.loads((directory / "training" / "state.json").read_text(encoding="utf-8"))
    missing = [name for name in _PROGRESS if name not in saved] if isinstance(saved, dict) else _PROGRESS
    if missing:
        raise ValueError(f"checkpoint {directory}: training/state.json has no {', '.join(missing)}: not one of a run")
    return saved


def load_network_state(state: TrainState, accelerator: Accelerator, directory: Path) -> None:
    """Read back what `save_network_state` wrote; see `load_state`."""
    with naming_checkpoint(directory):
        _load_network_state(state, accelerator, directory)


@contextlib.contextmanager
def naming_checkpoint(directory: Path) -> Iterator[None]:
    """Turn what tensors of another network raise into a `ValueError` that names the checkpoint."""
    try:
        yield
    except (RuntimeError, KeyError, IndexError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"checkpoint {directory}: its tensors are not those of this network ({reason})") from error


def _load_network_state(state: TrainState, accelerator: Accelerator, directory: Path) -> None:
    training, saved = directory / "training", read_extra(directory)
    state.network.load_state_dict(load_file(training / "model.safetensors"))
    parameters = [parameter for group in state.optimizer.param_groups for parameter in group["params"]]
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in load_file(training / "optimizer.safetensors").items():
        index, name = key.split(".", 1)
        like = parameters[int(index)]
        if value.shape == like.shape:
            value = torch.empty_like(like).copy_(value)  # in the parameter's memory format
        moments.setdefault(int(index), {})[name] = value
    state.optimizer.load_state_dict({"state": moments, "param_groups": state.optimizer.state_dict()["param_groups"]})
    resume_lr_schedule(state.optimizer, state.lr_scheduler, saved["step"])
    if accelerator.scaler is not None and saved["scaler"] is not None:
        accelerator.scaler.load_state_dict(saved["scaler"])
    state.step, state.images_seen = saved["step"], saved["images_seen"]
    state.window_loss, state.window_steps = saved["window_loss"], saved["window_steps"]


def _contiguous(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
