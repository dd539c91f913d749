"""An optimizer step: gradients of its micro-batches, and then check them, update the weights, count the step."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hf_ddpm.training.divergence import StepRecord, check_finite
from hf_ddpm.training.prefetch import Place
from hf_ddpm.training.run import Run
from hf_ddpm.training.state import TrainState
from hf_ddpm.training.step_randomness import reseed_dropout

DropoutSeed = tuple[int, int, int, int]
"""The arguments of `reseed_dropout`."""


def take_step(
    state: TrainState, run: Run, step: int, micro_loss: Callable[[Any, DropoutSeed], tuple[Tensor, Tensor]]
) -> float:
    """Take one step over the total batch; return the gradient norm before clipping, see `update_weights`.

    `micro_loss` takes the batch of a micro-step and the seed that dropout has there, and returns the mean loss, () float32
    with a gradient, and the timesteps, (B,).
    """
    accelerator = run.accelerator
    loss, record = torch.zeros((), device=accelerator.device), StepRecord()
    for micro_step in range(run.micro_steps):
        batch = run.batches.take(Place(step, micro_step, state.images_seen))
        seed = (run.config.seed, step, accelerator.process_index, micro_step)
        reseed_dropout(*seed)
        with contextlib.nullcontext() if micro_step == run.micro_steps - 1 else accelerator.no_sync(state.model):
            mean_loss, timesteps = micro_loss(batch, seed)
            mean_loss = mean_loss / run.micro_steps
            accelerator.backward(mean_loss)
        loss += mean_loss.detach()
        record.add(sample_ids=batch.sample_ids, timesteps=timesteps, loss=mean_loss.detach())
    return apply_gradients(state, run, step, loss, record)


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
