"""What the options of a diffusion model describe: its noise schedule, its network, and steps of it to be timed."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DDPMScheduler, ModelMixin
from torch import Tensor

from hf_ddpm.diffusion.likelihood import posterior_of
from hf_ddpm.diffusion.schedules import build_noise_scheduler
from hf_ddpm.image_shape import plain_size
from hf_ddpm.models.unet import build_unet
from hf_ddpm.training.cpu_bf16 import speed_up
from hf_ddpm.training.options import TrainConfig
from hf_ddpm.training.own_objects import NO_OBJECTS, OwnObjects
from hf_ddpm.training.run import Data, Images, Run
from hf_ddpm.training.tuning import Trial


def build_schedule(config: TrainConfig) -> DDPMScheduler:
    """Build the noise schedule; a `ValueError` if the options want a bound that it has not."""
    schedule = config.schedule
    noise_scheduler = build_noise_scheduler(
        beta_schedule=schedule.beta_schedule,
        num_train_timesteps=schedule.num_train_timesteps,
        beta_start=schedule.beta_range[0],
        beta_end=schedule.beta_range[1],
        variance_type=schedule.variance_type,
        prediction_type=config.objective.prediction_type,
        rescale_zero_terminal_snr=schedule.rescale_zero_terminal_snr,
    )
    if uses_bound(config):
        posterior_of(noise_scheduler.alphas_cumprod)
    return noise_scheduler


def uses_bound(config: TrainConfig) -> bool:
    """Whether the variational bound is a part of the loss."""
    return config.schedule.variance_type == "learned_range" or config.objective.loss_weighting == "vlb"


def null_label_of(config: TrainConfig, images: Images) -> int | None:
    """The class id that stands for "no class"; None = there is none."""
    class_names = images.class_names
    if class_names is None or config.resolve_class_dropout(conditional=True) == 0:
        return None
    return len(class_names)


def build_network(config: TrainConfig, images: Images, objects: OwnObjects = NO_OBJECTS) -> ModelMixin:
    """Build a network for these images, with weights from the global random generator, or copy that of the user."""
    if objects.network is not None:
        return objects.new_network()
    null_label, num_class_embeds = null_label_of(config, images), None
    if images.class_names is not None:
        num_class_embeds = len(images.class_names) + (null_label is not None)
    image_size = plain_size(images.image_size)
    arguments = config.network_arguments(image_size=image_size, channels=images.channels, num_class_embeds=num_class_embeds)
    if images.condition_range is not None:
        arguments["condition_range"] = images.condition_range
    return build_unet(
        arguments,
        architecture=config.architecture,
        null_label=null_label,
        null_embedding=config.model.null_embedding,
    )


def place_network(network: ModelMixin, run: Run[Any]) -> ModelMixin:
    """Move a network to the device of the run, as its precision and memory format want it."""
    speed_up(network, run.accelerator.device, run.tuning.mixed_precision)
    if run.tuning.memory_format == "channels_last":
        network.to(memory_format=torch.channels_last)
    return network.to(run.accelerator.device)


def build_trial(config: TrainConfig, objects: OwnObjects, data: Data, device: torch.device) -> Trial:
    """Training steps of the network of a run, to be timed."""
    images, _ = data
    network = build_network(config, images, objects)
    speed_up(network, device, "bf16")  # which changes nothing in fp32
    if config.model.gradient_checkpointing:
        network.enable_gradient_checkpointing()

    def forward(network: torch.nn.Module, noisy_images: Tensor) -> Tensor:
        zeros = torch.zeros(len(noisy_images), dtype=torch.int64, device=device)
        return network(noisy_images, zeros, class_labels=None if images.class_names is None else zeros).sample

    network, batch_size = network.train().to(device), config.data.batch_size
    return Trial(network=network, forward=forward, image_shape=images.image_shape, batch_size=batch_size)
