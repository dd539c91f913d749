"""The end of an optimizer step, when its gradients are there: check them, update the weights, count the step."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hf_ddpm.training.divergence import StepRecord, check_finite
from hf_ddpm.training.run import Run
from hf_ddpm.training.state import TrainState


def apply_gradients(state: TrainState, run: Run, step: int, loss: Tensor, record: StepRecord) -> float:
    """Apply this step's gradients and advance the counters; return the gradient norm, see `update_weights`."""
    grad_norm, mean_loss = update_weights(state, run, step, loss, record)
    count_step(state, run, mean_loss)
    return grad_norm


def update_weights(state: TrainState, run: Run, step: int, loss: Tensor, record: StepRecord) -> tuple[float, float]:
    """Update the weights that have gradients, after `step` earlier optimizer steps; for errors see `check_finite`.

    `loss`, () float32, is the mean over this process's images, which `record` lists. Returns the gradient norm before
    clipping and the mean loss over all processes. Here the processes also learn of each other's signals: the step has one
    exchange besides that of the gradients, and waits for the device once.
    """
    accelerator, max_norm = run.accelerator, run.config.optim.max_grad_norm
    grad_norm = accelerator.clip_grad_norm_(state.model.parameters(), math.inf if max_norm is None else max_norm)
    mine = torch.stack([loss, torch.full_like(loss, run.stop.signal_number or 0)])
    losses, signals = accelerator.gather(mine).view(-1, 2).unbind(1)
    mean_loss, signal_number, norm = torch.stack([losses.mean(), signals.max(), grad_norm]).tolist()
    state.stop_signal = int(signal_number) or None
    state.changing = True
    check_finite(step, mean_loss, norm, record, accelerator, run.folder)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    return norm, mean_loss


def count_step(state: TrainState, run: Run, loss: float) -> None:
    """Advance learning rate and counters by one step, whose loss was `loss`."""
    state.learning_rate = state.optimizer.param_groups[0]["lr"]
    state.lr_scheduler.step()
    state.step += 1
    state.images_seen += run.total_batch_size
    state.loss = loss
    state.window_loss += loss
    state.window_steps += 1
