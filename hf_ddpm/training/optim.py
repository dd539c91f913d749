"""Optimizer, learning-rate schedule and moving average of the weights."""

from __future__ import annotations

import bisect
from collections.abc import Iterable

import torch
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch.optim.lr_scheduler import LambdaLR

from hf_ddpm.config import BaseEMAConfig, BaseOptimConfig


def build_optimizer(parameters: Iterable[torch.nn.Parameter], config: BaseOptimConfig) -> torch.optim.Optimizer:
    """Build Adam or AdamW, with the fused kernel if the device has one (it does the whole update in one pass)."""
    parameters = list(parameters)
    optimizer_class = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimizer]
    return optimizer_class(
        parameters,
        lr=config.learning_rate,
        betas=tuple(config.betas),
        weight_decay=config.weight_decay,
        fused=parameters[0].device.type in ("cpu", "cuda"),
    )


def build_lr_scheduler(
    optimizer: torch.optim.Optimizer,
    config: BaseOptimConfig,
    total_steps: int,
    steps_per_unit: float,
    steps_ahead: float = 0.0,
) -> LambdaLR:
    """Build the learning-rate schedule, stepped once per optimizer step.

    Args:
        optimizer, config: what it moves, and how.
        total_steps: length of the run in optimizer steps.
        steps_per_unit: 1 if the run's length is given in steps, or the steps of an epoch.
        steps_ahead: how many more steps the run has done than its images would take at the present total batch size. All
            but the warm-up, which is given in steps, follows the images.
    """
    warmup = config.lr_warmup_steps

    def position(step: int) -> float:
        return step if step < warmup else max(warmup, step - steps_ahead)

    if config.lr_scheduler == "multistep":
        assert config.lr_milestones is not None and config.lr_gamma is not None, "the options demand both"
        milestones, gamma = [milestone * steps_per_unit for milestone in config.lr_milestones], config.lr_gamma

        def factor(step: int) -> float:
            warmed = min(1.0, step / warmup) if warmup else 1.0
            return warmed * gamma ** bisect.bisect_right(milestones, position(step))

        return LambdaLR(optimizer, factor)
    name = "constant_with_warmup" if config.lr_scheduler == "constant" else config.lr_scheduler
    scheduler = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=total_steps - steps_ahead)
    if steps_ahead != 0:
        (follow,) = scheduler.lr_lambdas
        scheduler.lr_lambdas = [lambda step: follow(position(step))]
    return scheduler


def resume_lr_schedule(optimizer: torch.optim.Optimizer, lr_scheduler: LambdaLR, step: int) -> None:
    """Move a fresh schedule, which is a function of the step alone, to an optimizer step."""
    lr_scheduler.last_epoch = step
    for group, base, factor in zip(optimizer.param_groups, lr_scheduler.base_lrs, lr_scheduler.lr_lambdas, strict=True):
        group["lr"] = base * factor(step)


def build_ema(tensors: Iterable[torch.Tensor], config: BaseEMAConfig) -> EMAModel | None:
    """Build the moving average of the weights with its warm-up; None = it is off."""
    if config.decay is None:
        return None
    warmup = {"use_ema_warmup": True, "inv_gamma": config.inv_gamma, "power": config.power}
    return EMAModel(tensors, decay=config.decay, foreach=True, **warmup)
