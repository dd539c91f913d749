"""Train a network, with a loss and a callback, of your own.

    python own_network.py          # or: torchrun --nproc_per_node 2 own_network.py, accelerate launch own_network.py

A second argument is the number of steps. This file is saved with the model, because it is self-contained: it imports
installed packages alone, and does nothing when it is imported.
"""

import sys

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import nn

from hf_ddpm import Callback, LossInputs, ObjectiveConfig, TrainConfig, TrainingEvent, train


class PatchMixer(ModelMixin, ConfigMixin):
    """An MLP-Mixer over patches of 2 x 2 pixels; called like a UNet2DModel, and built from its config alone."""

    @register_to_config
    def __init__(
        self,
        sample_size: int = 8,
        in_channels: int = 1,
        out_channels: int = 1,
        num_class_embeds: int | None = None,  # with the null label, which is the last; None = no classes
        width: int = 96,
        depth: int = 4,
    ):
        super().__init__()
        patches = (sample_size // 2) ** 2
        self.patch = nn.Conv2d(in_channels, width, 2, stride=2)
        self.time = nn.Sequential(nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width))
        self.label = None if num_class_embeds is None else nn.Embedding(num_class_embeds, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * depth))
        self.across = nn.ModuleList(self._mlp(patches, 4 * patches) for _ in range(depth))
        self.within = nn.ModuleList(self._mlp(width, 4 * width) for _ in range(depth))
        self.out = nn.ConvTranspose2d(width, out_channels, 2, stride=2)

    @staticmethod
    def _mlp(width: int, hidden: int) -> nn.Sequential:
        return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, sample, timestep, class_labels=None, return_dict=True):
        """Predict `sample`, (B, out_channels, H, W), from (B, in_channels, H, W) images, (B,) timesteps and (B,) labels."""
        timesteps = torch.as_tensor(timestep, device=sample.device).expand(len(sample))
        frequencies = torch.exp(torch.linspace(0, -7, 32, device=sample.device))
        angles = timesteps[:, None] * frequencies
        condition = self.time(torch.cat([angles.sin(), angles.cos()], dim=1).to(sample.dtype))
        if self.label is not None:
            condition = condition + self.label(class_labels)
        grid = self.patch(sample)
        tokens = grid.flatten(2).transpose(1, 2)
        for across, within, first, second in zip(self.across, self.within, self.norms[::2], self.norms[1::2], strict=True):
            tokens = tokens + condition[:, None]
            tokens = tokens + across(first(tokens).transpose(1, 2)).transpose(1, 2)
            tokens = tokens + within(second(tokens))
        output = self.out(tokens.transpose(1, 2).reshape(grid.shape))
        return UNet2DOutput(sample=output) if return_dict else (output,)


def pseudo_huber_loss(inputs: LossInputs) -> torch.Tensor:
    """sqrt(|output - target|^2 + c^2) - c of each image, (B,), as Song & Dhariwal 2023 use it (section 3.3)."""
    output = inputs.model(inputs.noisy_images, inputs.timesteps, inputs.class_labels)
    squared = (output - inputs.target).square().sum(dim=(1, 2, 3))
    c = 0.00054 * output[0].numel() ** 0.5
    return (squared + c**2).sqrt() - c


class Watch(Callback):
    """Logs the mean size of a weight, and says where things are."""

    def on_step(self, event: TrainingEvent) -> None:
        if event.step % 50 == 0:
            weights = torch.cat([weight.detach().flatten() for weight in event.network.parameters()])
            event.log(weight_size=weights.abs().mean().item())  # into metrics.jsonl, and to the trackers

    def on_preview(self, event: TrainingEvent) -> None:
        if event.is_main_process:
            print(f"step {event.step} of {event.total_steps}: samples in {event.sample_grid}")


def main(steps: int = 1000) -> None:
    config = TrainConfig(
        output_dir="runs/own_network",
        max_train_steps=steps,
        resume="auto",
        objective=ObjectiveConfig(prediction_type="v_prediction"),  # what the network predicts, as the pipeline reads it
    )
    torch.manual_seed(0)
    network = PatchMixer(num_class_embeds=11)  # ten digits and the null label
    train(config, network=network, loss=pseudo_huber_loss, callbacks=[Watch()])


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
