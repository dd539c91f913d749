"""Noise schedules: diffusers' DDPMScheduler as this package trains and saves it."""

from __future__ import annotations

from diffusers import DDPMScheduler

from hf_ddpm.config import BetaSchedule, PredictionType, VarianceType


def build_noise_scheduler(
    *,
    beta_schedule: BetaSchedule,
    num_train_timesteps: int,
    beta_start: float,
    beta_end: float,
    variance_type: VarianceType,
    prediction_type: PredictionType,
    rescale_zero_terminal_snr: bool,
) -> DDPMScheduler:
    """Build the scheduler of the forward process, which is also the one saved for sampling.

    Timesteps are spaced "trailing" (Lin et al. 2023, table 2): with few inference steps too, sampling starts at t = T - 1,
    where the images are noise, and not below it.
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
