"""Noise schedules: diffusers' DDPMScheduler as this package trains and saves it."""

from __future__ import annotations

from diffusers import DDPMScheduler

from hf_ddpm.config import BetaSchedule, PredictionType, VarianceType


def build_noise_scheduler(
    *,
    prediction_type: PredictionType,
    beta_schedule: BetaSchedule = "squaredcos_cap_v2",
    num_train_timesteps: int = 1000,
    beta_start: float = 1e-4,
    beta_end: float = 0.02,
    variance_type: VarianceType = "fixed_small",
    rescale_zero_terminal_snr: bool = False,
) -> DDPMScheduler:
    """Build the scheduler of the forward process, which is also saved for sampling.

    Timesteps have "trailing" spacing (Lin et al. 2023, table 2): sampling starts at t = T - 1, where images are noise, also
    with few inference steps.

    Args:
        prediction_type: what the model predicts.
        beta_schedule: how beta grows with t.
        num_train_timesteps: T.
        beta_start, beta_end: beta at t = 0 and t = T - 1; not used by the cosine schedule.
        variance_type: variance of the reverse process.
        rescale_zero_terminal_snr: rescale the betas so that the last timestep is pure noise (Lin et al. 2023).
    """
    return DDPMScheduler(
        num_train_timesteps=num_train_timesteps,
        beta_schedule=beta_schedule,
        beta_start=beta_start,
        beta_end=beta_end,
        variance_type=variance_type,
        prediction_type=prediction_type,
        rescale_betas_zero_snr=rescale_zero_terminal_snr,
        clip_sample=True,
        timestep_spacing="trailing",
    )
