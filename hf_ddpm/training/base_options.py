"""Options that follow from the model a run starts from, `--model.init_from`: its schedule, and what its network predicts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from hf_ddpm.config import BetaSchedule, ObjectiveConfig, ScheduleConfig, VarianceType, require
from hf_ddpm.models.base_model import BaseModel, read_base_model
from hf_ddpm.run_folder import RunFolder


def find_base_model(init_from: str, output_dir: str, resume: str) -> BaseModel:
    """The model to start from; for a run that continues, its newest readable checkpoint, which is all that it needs."""
    checkpoints: list[Path] = []
    if resume != "none" or int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0:
        checkpoints = list(reversed(RunFolder(Path(output_dir)).checkpoints().values()))
        if resume not in ("none", "auto", "latest") and Path(resume).is_dir():
            checkpoints = [Path(resume)]
    for checkpoint in checkpoints:
        try:
            return read_base_model(str(checkpoint), is_checkpoint=True)
        except ValueError:  # it is damaged, as the run itself will say
            continue
    return read_base_model(init_from)


def take_over(
    base: BaseModel, schedule: ScheduleConfig, objective: ObjectiveConfig
) -> tuple[ScheduleConfig, ObjectiveConfig]:
    """Fill in the options that are not given from the model; a `ValueError` for a schedule or variance that no option can
    describe, or that contradicts the network."""
    variance = schedule.variance_type
    described = _described(base.scheduler) | {"variance_type": _variance_type(base, variance)}
    if schedule.is_given("variance_type"):
        fitting = "a variance too, give learned_range" if base.learns_variance else "no variance, give another"
        remedy = f"the network of --model.init_from predicts {fitting}"
        require((variance == "learned_range") == base.learns_variance, "schedule.variance_type", variance, remedy)
    known = described.get("beta_schedule") in (None, *get_args(BetaSchedule))
    if not known and not schedule.is_given("beta_schedule"):
        remedy = "no option describes its betas, give the --schedule.beta_schedule that the network is to learn"
        raise ValueError(f"--model.init_from is {base.name!r}: {remedy}")
    taken = {name: value for name, value in described.items() if hasattr(schedule, name) and not schedule.is_given(name)}
    own_range = taken.get("beta_schedule") in (None, "squaredcos_cap_v2")
    for name in ("beta_start", "beta_end") if own_range else ():
        taken.pop(name, None)
    predicted = described.get("prediction_type")
    try:
        if predicted is not None and not objective.is_given("prediction_type"):
            objective = replace(objective, prediction_type=predicted)
        return replace(schedule, **taken), objective
    except ValueError as error:
        raise ValueError(f"--model.init_from is {base.name!r}: its scheduler cannot be taken over, {error}") from None


def changed_target(base: BaseModel, schedule: ScheduleConfig, objective: ObjectiveConfig) -> str | None:
    """What the network has learned and what it is to learn, where these differ; None = they are the same, or not known."""
    start, end = schedule.beta_range
    now: dict[str, Any] = {
        "prediction_type": objective.prediction_type,
        "beta_schedule": schedule.beta_schedule,
        "num_train_timesteps": schedule.num_train_timesteps,
        "rescale_zero_terminal_snr": schedule.rescale_zero_terminal_snr,
    }
    if schedule.beta_schedule != "squaredcos_cap_v2":
        now |= {"beta_start": start, "beta_end": end}
    before = _described(base.scheduler)
    changed = [name for name, value in now.items() if name in before and before[name] != value]
    if not changed:
        return None
    return ", ".join(f"{name} {now[name]!r} instead of {before[name]!r}" for name in changed)


def _described(scheduler: Mapping[str, Any]) -> dict[str, Any]:
    """The options that describe a scheduler, by name; {} = there is none."""
    if not scheduler:
        return {}
    return {
        "prediction_type": scheduler.get("prediction_type", "epsilon"),  # the only one in early versions of diffusers
        "beta_schedule": "trained_betas" if scheduler.get("trained_betas") else scheduler["beta_schedule"],
        "num_train_timesteps": scheduler.get("num_train_timesteps", 1000),
        "beta_start": scheduler.get("beta_start", 1e-4),
        "beta_end": scheduler.get("beta_end", 0.02),
        "rescale_zero_terminal_snr": bool(scheduler.get("rescale_betas_zero_snr", False)),
    }


def _variance_type(base: BaseModel, default: str) -> str:
    """The variance of sampling; that of other schedulers than DDPM, and kinds that are refused here, become the default."""
    if base.learns_variance:
        return "learned_range"
    saved = base.scheduler.get("variance_type")
    return str(saved) if saved in get_args(VarianceType) and saved != "learned_range" else default
