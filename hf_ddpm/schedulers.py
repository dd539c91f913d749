"""Schedulers by name, switched safely: `pipeline.scheduler = build_scheduler("dpmsolver++", pipeline.scheduler.config)`.

A diffusers scheduler made from the configuration of another one runs, but possibly with other betas, timesteps or clipping
than the model was trained with. `SCHEDULERS` has the options that each one needs.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSDEScheduler,
    DPMSolverSinglestepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2AncestralDiscreteScheduler,
    KDPM2DiscreteScheduler,
    LCMScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    SchedulerMixin,
    UniPCMultistepScheduler,
)
from torch import Tensor

from hf_ddpm.first_checks import check_scheduler
from hf_ddpm.pipeline import LOG_SIGMA_FROM, require, spaces_evenly

# Beta schedules that every scheduler can compute; the betas of others (sigmoid) are passed as numbers.
KNOWN_EVERYWHERE = ("linear", "scaled_linear", "squaredcos_cap_v2")
# Options that a saved scheduler may have switched on and that no other one must inherit. "leading", the usual default of
# `timestep_spacing`, starts below the timestep at which everything is noise.
COMMON = {
    "timestep_spacing": "trailing",
    "steps_offset": 0,
    "thresholding": False,
    "clip_sample": False,
    "final_sigmas_type": "zero",
    "lower_order_final": True,
    "solver_order": 2,
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "use_flow_sigmas": False,
    "use_lu_lambdas": False,
}
# A threshold of at most 1 is a plain clip.
THRESHOLD = {"thresholding": True, "sample_max_value": 1.0}
# Even steps of log sigma. In even steps of t a cosine schedule falls from sigma 20,000 to 13 in the first step of 20.
LOG_SIGMA = {"use_exponential_sigmas": True}
# Few steps even in log sigma are so long that they spoil the outlines of an image. The last one of steps even in t is too
# long for its details: 20 of them leave 42 % of the standard deviation of N(0.3, 0.08^2). `log_sigma_from` is where details
# begin to gain more than outlines lose, by the exact score of several distributions; a network is compared in
# tests/benchmarks/step_spacing.py.


@dataclass(frozen=True)
class SamplingScheduler:
    """A scheduler to sample a model with, whatever scheduler it was saved with."""

    scheduler_class: type[SchedulerMixin]
    options: dict[str, Any] = field(default_factory=dict)
    """Configuration over `COMMON`, independent of the saved scheduler."""
    with_cosine_epsilon: dict[str, Any] | None = field(default_factory=dict)
    """Configuration over `options` for epsilon prediction with the cosine schedule; None = not supported."""
    log_sigma_from: tuple[int, int] | None = None
    """Numbers of steps from which they are even in log sigma instead of t, with the cosine schedule and with others, see
    `set_timesteps` in pipeline.py; None = never."""


SCHEDULERS: dict[str, SamplingScheduler] = {
    "ddpm": SamplingScheduler(DDPMScheduler, {"clip_sample": True}),
    "ddim": SamplingScheduler(DDIMScheduler, {"set_alpha_to_one": True}, {"clip_sample": True}),
    "dpmsolver++": SamplingScheduler(
        DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}, THRESHOLD, log_sigma_from=(15, 10)
    ),
    "dpmsolver++_single": SamplingScheduler(
        DPMSolverSinglestepScheduler, {"algorithm_type": "dpmsolver++"}, THRESHOLD, log_sigma_from=(15, 10)
    ),
    "deis": SamplingScheduler(DEISMultistepScheduler, {"algorithm_type": "deis"}, THRESHOLD, log_sigma_from=(40, 10)),
    "unipc": SamplingScheduler(UniPCMultistepScheduler, {"predict_x0": True}, THRESHOLD, log_sigma_from=(20, 10)),
    "euler": SamplingScheduler(EulerDiscreteScheduler, {}, LOG_SIGMA),
    "euler_ancestral": SamplingScheduler(EulerAncestralDiscreteScheduler),
    # The mean of the slopes at both ends of such a first step is far off: half of the digits are spoiled.
    "heun": SamplingScheduler(HeunDiscreteScheduler, LOG_SIGMA, {"clip_sample": True}, log_sigma_from=(15, 15)),
    "kdpm2": SamplingScheduler(KDPM2DiscreteScheduler, {}, LOG_SIGMA, log_sigma_from=(15, 15)),
    # In float32 it does not recover from such a sigma.
    "kdpm2_ancestral": SamplingScheduler(KDPM2AncestralDiscreteScheduler, LOG_SIGMA, log_sigma_from=(15, 15)),
    "lms": SamplingScheduler(LMSDiscreteScheduler, {}, LOG_SIGMA, log_sigma_from=(15, 15)),
    # The Runge-Kutta steps at the start need at least four steps, and their half steps miss the trailing timesteps.
    "pndm": SamplingScheduler(PNDMScheduler, {"skip_prk_steps": True, "set_alpha_to_one": True}, None),
    "dpmsolver_sde": SamplingScheduler(DPMSolverSDEScheduler, {}, LOG_SIGMA),
}


def build_scheduler(name: str, config: Mapping[str, Any]) -> SchedulerMixin:
    """Build the scheduler in `SCHEDULERS` of this name for a model that was trained or saved with another one.

    Betas, number of timesteps and prediction type of the other one's `config` are kept. A `ValueError`: the name is unknown,
    its library is not installed, the other scheduler has no betas, or the two are incompatible.
    """
    check_scheduler(name)
    # `from_config` replaces defaults of the other class by those of this one, but only if the other one has never been
    # saved: without the list of these keys the result is the same before and after saving.
    config = {key: value for key, value in config.items() if key != "_use_default_values"}
    has_betas = config.get("beta_schedule") is not None
    saved = config.get("_class_name")
    require(has_betas, "the saved scheduler", saved, "it has no beta schedule, save a DDPMScheduler")
    entry = SCHEDULERS[name]
    options = {**COMMON, **entry.options}
    # The cosine schedule ends with alpha = 5e-5, and the first step divides the error of epsilon by it: the images are
    # spoiled unless x_0 is clipped or the first steps are short.
    predicts_noise = config.get("prediction_type", "epsilon") == "epsilon"
    if predicts_noise and config["beta_schedule"] == "squaredcos_cap_v2":
        changes = entry.with_cosine_epsilon
        message = "it spoils images of epsilon prediction with the cosine schedule, give another"
        require(changes is not None, "scheduler", name, message)
        options |= changes or {}
    known = inspect.signature(entry.scheduler_class.__init__).parameters
    options = {key: value for key, value in options.items() if key in known}
    options |= _betas_as_numbers(config, known)
    scheduler = entry.scheduler_class.from_config(config, **options)
    # Diffusers reads `sigma_max` from the configuration even of classes that have no such option.
    cosine, other = entry.log_sigma_from or (None, None)
    many_steps = cosine if config["beta_schedule"] == "squaredcos_cap_v2" else other
    scheduler.register_to_config(**{LOG_SIGMA_FROM: many_steps, "sigma_max": None})
    return scheduler


@contextlib.contextmanager
def drawing_noise(scheduler: SchedulerMixin, draw: Callable[[torch.Size], Tensor]) -> Iterator[None]:
    """Let the steps of a scheduler take their noise from a function of its shape, (B, C, H, W) float32.

    Diffusers itself draws with a `torch.Generator` and nothing else.
    """
    name, remedy = type(scheduler).__name__, "its noise is a path of Brownian motion, set another"
    require(not isinstance(scheduler, DPMSolverSDEScheduler), "scheduler", name, remedy)
    module: Any = sys.modules[type(scheduler).__module__]
    own = getattr(module, "randn_tensor", None)
    if own is None:  # it draws none
        yield
        return
    module.randn_tensor = lambda shape, *, device=None, dtype=None, **_: draw(shape).to(device, dtype)
    try:
        yield
    finally:
        module.randn_tensor = own


def build_few_step_scheduler(method: str, config: Mapping[str, Any]) -> SchedulerMixin:
    """Build the scheduler of a model that is distilled by `consistency` or `progressive`, given its teacher's `config`.

    A consistency model predicts the image, and noise is added to it again (Song et al. 2023, algorithm 1); the student of
    progressive distillation takes steps of DDIM.
    """
    if method == "progressive":
        return build_scheduler("ddim", config)
    known = inspect.signature(LCMScheduler.__init__).parameters
    wanted = {**config, **COMMON, **_betas_as_numbers(config, known)}
    options = {name: value for name, value in wanted.items() if name in known}
    # With as many original steps as timesteps, any number of steps begins at T - 1 and is even in t.
    return LCMScheduler(**options | {"original_inference_steps": config.get("num_train_timesteps", 1000)})


def fitting_steps(scheduler: SchedulerMixin, num_inference_steps: int) -> int:
    """The largest number of steps, up to the requested one, that the scheduler can space evenly over its timesteps."""
    for steps in range(min(num_inference_steps, scheduler.config.num_train_timesteps), 1, -1):
        if spaces_evenly(scheduler, steps):
            return steps
    return 1


def _betas_as_numbers(config: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Configuration of betas that a scheduler with the options `known` cannot compute itself."""
    rescaled = config.get("rescale_betas_zero_snr") and "rescale_betas_zero_snr" not in known
    computable = config["beta_schedule"] in KNOWN_EVERYWHERE or config.get("trained_betas") is not None
    if computable and not rescaled:
        return {}
    if not rescaled:
        betas = DDPMScheduler.from_config(config, rescale_betas_zero_snr=False).betas
    else:
        trained = DDPMScheduler.from_config(config)
        betas, before_last = trained.betas.clone(), trained.alphas_cumprod[-2]
        # A signal of 0 at the last timestep is an infinite sigma. Euler uses 2**-24 instead; less if the timestep before
        # has that little, because sigma must grow with t.
        betas[-1] = 1 - torch.minimum(torch.tensor(2.0**-24), before_last / 4) / before_last
    return {"beta_schedule": "linear", "trained_betas": betas.tolist()}
