"""The forward and the reverse process as arrays of images, for strips and animations.

A noising step t is 0 at the image and T at noise, as in Ho et al. 2020 and in the option `timesteps` of the figures. The
network's own timestep, which begins at 0, is t - 1, and so is the position in `alphas_cumprod`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from hf_ddpm.config import VarianceType
from hf_ddpm.diffusion.likelihood import model_log_variance, posterior_mean, posterior_of
from hf_ddpm.diffusion.objective import add_noise, clean_images_of
from hf_ddpm.diffusion.randomness import image_generator
from hf_ddpm.figures.view import to_8_bits
from hf_ddpm.pipeline import CFGDDPMPipeline, Condition, require
from hf_ddpm.sampling import all_conditions, generate

Pixels = np.ndarray[Any, Any]  # (..., H, W, C) uint8


@dataclass(frozen=True, kw_only=True, eq=False)
class ReverseStates:
    """Samples on their way from noise to an image."""

    noising_steps: list[int]
    """K noising steps left: the first T and the last 0 if both are requested."""
    noisy_images: Pixels
    """x_t, (K, B, H, W, C) uint8, scaled as the network takes them; at t = 0 the samples."""
    pred_images: Pixels
    """x_0 as the network predicts it from x_t, guided as the sampling is, (K, B, H, W, C) uint8; at t = 0 the samples."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StepBack:
    """One step of the forward process and the two ways back; each field is (B, C, H, W) float32 on the CPU."""

    previous: Tensor
    """x_{t-1} ~ q(x_{t-1} | x_0)."""
    noisy: Tensor
    """x_t ~ q(x_t | x_{t-1})."""
    model_mean: Tensor
    """Mean of p(x_{t-1} | x_t)."""
    model_sample: Tensor
    """Sample of p(x_{t-1} | x_t)."""
    true_mean: Tensor
    """Mean of q(x_{t-1} | x_t, x_0)."""
    true_sample: Tensor
    """Sample of q(x_{t-1} | x_t, x_0), with the noise of `model_sample`."""


def forward_states(
    clean_images: Tensor, noising_steps: Sequence[int], *, alphas_cumprod: Tensor, seeds: Sequence[int]
) -> Pixels:
    """Sample x_t ~ q(x_t | x_0) at each noising step: (K, B, H, W, C) uint8.

    Args:
        clean_images: (B, C, H, W) float32 in [-1, 1].
        noising_steps: K of them, each in [0, T]; a ValueError names another.
        alphas_cumprod: (T,) float32, of the whole schedule.
        seeds: B seeds of the noise, which is the same for all noising steps of an image.
    """
    for t in noising_steps:
        require(0 <= t <= len(alphas_cumprod), "`timesteps`", t, f"give 0 to {len(alphas_cumprod)}")
    noise, levels = _noise(seeds, clean_images.shape[1:]), _levels(alphas_cumprod)
    return np.stack([to_pixels(add_noise(clean_images, noise, levels[t])) for t in noising_steps])


def reverse_noising_steps(pipeline: CFGDDPMPipeline, num_inference_steps: int) -> list[int]:
    """Noising steps left at the beginning of each call of the network, falling, and 0 at the end.

    One is repeated where the scheduler calls the network twice; fractional ones of some schedulers are rounded.
    """
    pipeline.check_inputs(all_conditions(pipeline)[:1] or None, num_inference_steps=num_inference_steps)
    pipeline.prepare_timesteps(num_inference_steps)
    return [round(float(t)) + 1 for t in pipeline.scheduler.timesteps] + [0]


def reverse_states(
    pipeline: CFGDDPMPipeline,
    class_labels: Sequence[Condition | None],
    *,
    seed: int = 0,
    num_inference_steps: int = 50,
    guidance_scale: float | None = None,
    noising_steps: Sequence[int] | None = None,
    count: int = 11,
) -> ReverseStates:
    """Generate the samples of `generate`, and keep their states at some noising steps.

    Args:
        noising_steps: those left, in any order, each one of `reverse_noising_steps`; None = chosen by `count`.
        count: number of states to keep, evenly spread over the calls of the network and including both ends; at most all.

    A ValueError names an option that cannot work with this pipeline, or a noising step that the sampling skips.
    """
    visited = reverse_noising_steps(pipeline, num_inference_steps)
    # Of two calls at one noising step the second starts from the result of the first.
    last = {t: position for position, t in enumerate(visited)}
    if noising_steps is None:
        count = min(count, len(last))
        noising_steps = [[*last][round(i * (len(last) - 1) / (count - 1))] for i in range(count)]
    for t in noising_steps:
        nearest = " or ".join(map(str, sorted(last, key=lambda known: abs(known - t))[:2]))
        require(t in last, "`timesteps`", t, f"the sampling does not pass through it, give {nearest}, or other steps")
    kept = [last[t] for t in noising_steps]
    recorder = _Recorder.from_pipe(pipeline)
    recorder.to(pipeline.device)
    recorder.wanted, recorder.calls, recorder.states = set(kept), 0, {}
    options: dict[str, Any] = {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale}
    (batch,) = generate(recorder, class_labels=class_labels, seed=seed, batch_size=len(class_labels), **options)
    samples = to_8_bits(batch.images, pipeline.value_range)
    recorder.states[len(visited) - 1] = (samples, samples)
    noisy_images, pred_images = map(np.stack, zip(*(recorder.states[position] for position in kept), strict=True))
    return ReverseStates(noising_steps=list(noising_steps), noisy_images=noisy_images, pred_images=pred_images)


@torch.no_grad()
def step_back(
    pipeline: CFGDDPMPipeline, clean_images: Tensor, class_labels: Tensor | None, noising_step: int, *, seeds: Sequence[int]
) -> StepBack:
    """Go one step forward, and back by the model and by the true posterior (Ho et al. 2020, sections 2 and 3.2).

    Args:
        pipeline: with the scheduler that it was trained with; it is not guided.
        clean_images: (B, C, H, W) float32 in [-1, 1].
        class_labels: those of `CFGDDPMPipeline.prepare_labels`; None = unconditional.
        noising_step: t in [1, T].
        seeds: B seeds of the noise.

    A ValueError says that the step is out of range, the schedule has no posterior, or the variance type is unknown.
    """
    alphas_cumprod = pipeline.scheduler.alphas_cumprod.to("cpu", torch.float32)
    total = len(alphas_cumprod)
    require(1 <= noising_step <= total, "`timesteps`", noising_step, f"give 1 to {total}")
    config, levels = pipeline.scheduler.config, _levels(alphas_cumprod)
    variance_type, known = config.get("variance_type"), get_args(VarianceType)
    require(variance_type in known, "variance_type of the scheduler", variance_type, f"the step back needs one of {known}")
    before, step, back = _noise(seeds, (3, *clean_images.shape[1:])).unbind(1)
    previous = add_noise(clean_images, before, levels[noising_step - 1])
    # q(x_t | x_{t-1}) has sqrt(1 - beta) and beta where q(x_t | x_0) has the root of alpha-bar and 1 - alpha-bar.
    noisy = add_noise(previous, step, levels[noising_step] / levels[noising_step - 1])

    labels = torch.zeros(len(clean_images), dtype=torch.int64) if class_labels is None else class_labels
    timesteps = torch.full((len(clean_images),), noising_step - 1)
    network_input = (noisy.to(pipeline.device), timesteps[0], labels.to(pipeline.device))
    channels, output = clean_images.shape[1], pipeline.predict(*network_input, scale=1.0, rescale=0.0).cpu()
    pred_images = clean_images_of(config.prediction_type, output[:, :channels], noisy, levels[noising_step])
    if config.get("clip_sample"):  # as the scheduler does when it samples
        pred_images = pred_images.clamp(-config.clip_sample_range, config.clip_sample_range)
    posterior = posterior_of(alphas_cumprod)
    log_variance = model_log_variance(posterior, variance_type, timesteps, output[:, channels:])
    true_log_variance = model_log_variance(posterior, "fixed_small", timesteps)
    model_mean = posterior_mean(posterior, pred_images, noisy, timesteps)
    true_mean = posterior_mean(posterior, clean_images, noisy, timesteps)
    is_noisy = float(noising_step > 1)  # the last step returns the mean, without noise
    model_sample = model_mean + is_noisy * (log_variance / 2).exp() * back
    true_sample = true_mean + is_noisy * (true_log_variance / 2).exp() * back
    return StepBack(
        previous=previous, noisy=noisy, true_mean=true_mean, true_sample=true_sample,
        model_mean=model_mean, model_sample=model_sample,
    )  # fmt: skip


def to_pixels(images: Tensor) -> Pixels:
    """(..., C, H, W) float in about [-1, 1], clipped to this range, as (..., H, W, C) uint8."""
    images = ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return images.movedim(-3, -1).cpu().numpy()


class _Recorder(CFGDDPMPipeline):
    """A pipeline that records in `states` what its network gets and predicts at the calls `wanted`, by their position."""

    wanted: set[int]
    calls: int
    states: dict[int, tuple[Pixels, Pixels]]

    def predict(self, latents: Tensor, t: Tensor, label_ids: Tensor, scale: float, rescale: float) -> Tensor:
        model_output = super().predict(latents, t, label_ids, scale, rescale)
        if self.calls in self.wanted:
            noisy_images = self.scheduler.scale_model_input(latents, t)
            level = _level_at(self.scheduler.alphas_cumprod, float(t)).to(noisy_images)
            output = model_output[:, : latents.shape[1]]
            pred_images = clean_images_of(self.scheduler.config.prediction_type, output, noisy_images, level)
            self.states[self.calls] = (to_pixels(noisy_images), to_pixels(pred_images))
        self.calls += 1
        return model_output


def _level_at(alphas_cumprod: Tensor, timestep: float) -> Tensor:
    """alphas_cumprod at a timestep of the network, () float64; between two timesteps log sigma is interpolated."""
    table = alphas_cumprod.double().cpu()
    low = int(timestep)
    if low == timestep:
        return table[low]
    logits = table[low : low + 2].logit()  # -2 log sigma
    return torch.sigmoid(logits[0] + (timestep - low) * (logits[1] - logits[0]))


def _levels(alphas_cumprod: Tensor) -> Tensor:
    """alphas_cumprod by t: (T + 1,), 1 at t = 0."""
    return torch.cat([alphas_cumprod.new_ones(1), alphas_cumprod])


def _noise(seeds: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Standard normal noise, one sample per seed: (B, *shape) float32."""
    return torch.stack([torch.randn(tuple(shape), generator=image_generator(seed)) for seed in seeds])
