"""Samplers as tables of numbers, with which a browser repeats the steps of this package's schedulers: `export_samplers`.

Every sampler here is linear in x_t, the predicted x_0, the x_0 predicted one step before, and new noise.
"""

from __future__ import annotations

import inspect
import itertools
import math
from typing import Any

from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, LCMScheduler

from hf_ddpm.pipeline import CFGDDPMPipeline, set_timesteps, spaces_evenly
from hf_ddpm.schedulers import build_scheduler

STEP_COUNTS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 75, 100)
"""Numbers of steps that the page offers, as far as a scheduler can take them."""
TITLES = {"dpmsolver++": "DPM-Solver++ 2M", "ddim": "DDIM", "lcm": "LCM"}
"""By the name that `hf-ddpm sample --scheduler` takes, or that of a distilled model's own scheduler."""
Level = tuple[float, float]
"""alpha and sigma of x_t = alpha x_0 + sigma noise."""


def export_samplers(pipeline: CFGDDPMPipeline) -> dict[str, dict[str, Any]]:
    """The samplers of a model by name, as JSON values: those of a distilled model are its own scheduler alone.

    Returns:
        `title`; `clip`, see `clipping`; `option`, the name for `hf-ddpm sample --scheduler`, None = it is the one that is
        saved with the model; and `steps`, by the number of steps: one row
        `[t, x, output, next_x, next_x_0, next_x_0_before, next_noise, alpha, sigma]` a step. The predicted x_0 is
        `x x_t + output model_output`, x_t of the next step the sum of the four products, and alpha and sigma are the level
        of that step.
    """
    own = pipeline.scheduler
    if getattr(pipeline, "is_distilled", False) or isinstance(own, LCMScheduler):
        chosen: dict[str, Any] = {"lcm" if isinstance(own, LCMScheduler) else "ddim": own}
    else:
        names = ["dpmsolver++", "ddim"]
        if isinstance(own, DDIMScheduler) and pipeline.sampling_defaults:
            names.reverse()  # the page begins with the first
        chosen = {name: build_scheduler(name, pipeline.trained_config) for name in names}
    samplers = {}
    for name, scheduler in chosen.items():
        total = scheduler.config.num_train_timesteps
        counts = sorted({*STEP_COUNTS, getattr(pipeline, "default_steps", 1)})
        counts = [count for count in counts if count <= total and spaces_evenly(scheduler, count)]
        samplers[name] = {
            "title": TITLES[name],
            "option": None if scheduler is own else name,
            "clip": clipping(scheduler),
            "steps": {str(count): step_rows(scheduler, count) for count in counts},
        }
    return samplers


def clipping(scheduler: Any) -> float | None:
    """The largest size of a predicted x_0, to which a scheduler clips it; None = it does not."""
    # Its config also keeps what only the class of the saved scheduler knows.
    known, config = inspect.signature(type(scheduler).__init__).parameters, scheduler.config
    if "thresholding" in known and config.thresholding:
        return 1.0  # that of `hf_ddpm.schedulers.THRESHOLD`
    return float(config.clip_sample_range) if "clip_sample" in known and config.clip_sample else None


def step_rows(scheduler: Any, num_inference_steps: int) -> list[list[float]]:
    """The rows of `export_samplers` for one number of steps."""
    set_timesteps(scheduler, num_inference_steps)
    timesteps = scheduler.timesteps.tolist()
    if isinstance(scheduler, DPMSolverMultistepScheduler):
        sigmas = scheduler.sigmas.double().tolist()
        levels = [(1 / math.hypot(1, sigma), sigma / math.hypot(1, sigma)) for sigma in sigmas]
    else:
        signals = [*(scheduler.alphas_cumprod[t].item() for t in timesteps), float(scheduler.final_alpha_cumprod)]
        levels = [(math.sqrt(signal), math.sqrt(1 - signal)) for signal in signals]
    rows = []
    for index, (t, (start, end)) in enumerate(zip(timesteps, itertools.pairwise(levels), strict=True)):
        is_last = index == len(timesteps) - 1
        if isinstance(scheduler, LCMScheduler):
            end = (1.0, 0.0) if is_last else end
            change = consistency(scheduler, t, end)
        elif isinstance(scheduler, DPMSolverMultistepScheduler) and index > 0 and not is_last:
            change = second_order(levels[index - 1], start, end)
        else:
            change = first_order(start, end)
        rows.append([float(t), *predicted_image(scheduler.config.prediction_type, start), *change, *end])
    return rows


def predicted_image(prediction_type: str, level: Level) -> tuple[float, float]:
    """Weights of x_t and of the model's output in the predicted x_0."""
    alpha, sigma = level
    if prediction_type == "sample":
        return 0.0, 1.0
    # Salimans & Ho 2022, appendix D: v = alpha noise - sigma x_0
    return (alpha, -sigma) if prediction_type == "v_prediction" else (1 / alpha, -sigma / alpha)


def first_order(start: Level, end: Level) -> tuple[float, float, float, float]:
    """A step of DDIM with eta = 0 (Song et al. 2021, eq. 12), which is one of DPM-Solver++ of first order."""
    share = end[1] / start[1]
    return share, end[0] - start[0] * share, 0.0, 0.0


def second_order(before: Level, start: Level, end: Level) -> tuple[float, float, float, float]:
    """A step of DPM-Solver++ 2M (Lu et al. 2022, algorithm 2)."""
    lambdas = [math.log(alpha / sigma) for alpha, sigma in (before, start, end)]
    ratio = (lambdas[1] - lambdas[0]) / (lambdas[2] - lambdas[1])
    share, weight, _, _ = first_order(start, end)
    return share, weight * (1 + 1 / (2 * ratio)), -weight / (2 * ratio), 0.0


def consistency(scheduler: LCMScheduler, t: int, end: Level) -> tuple[float, float, float, float]:
    """A step of multistep consistency sampling (Luo et al. 2023, algorithm 3): denoise, and add noise again."""
    skip, out = scheduler.get_scalings_for_boundary_condition_discrete(t)
    return end[0] * skip, end[0] * out, 0.0, end[1]
