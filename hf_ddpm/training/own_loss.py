"""The loss of a user: `train(config, loss=my_loss)` calls `my_loss(inputs)` for every micro-batch, see `LossInputs`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_ddpm.config import PredictionType, VarianceType
from hf_ddpm.diffusion.objective import add_noise, target_of


@dataclass(frozen=True, kw_only=True, eq=False)
class LossInputs:
    """What a loss is computed from: a micro-batch of B images of this process, on its device.

    The loss is called as `loss(inputs)` and returns the loss of each image, (B,) float32 with a gradient; its mean over the
    images of all micro-batches and processes is minimized. This one has the gradient of the default loss with
    `prediction_type` and `loss="l2"`:

        def plain_loss(inputs: LossInputs) -> Tensor:
            output = inputs.model(inputs.noisy_images, inputs.timesteps, inputs.class_labels)
            return (output - inputs.target).square().mean(dim=(1, 2, 3))

    Other weights multiply this by (B,) numbers, other targets replace `inputs.target`, and further terms are added to it;
    the network may be called several times, on whatever is like `noisy_images`. The pipeline samples with the prediction
    type of the options, so what a network learns must be right as that. Random numbers from torch's global generator are the
    same when a step is done again by a resumed run. The loss is a function: neither parameters nor counters of its own are
    saved, and only the weights of the network are trained.
    """

    model: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    """The network in training: (noisy_images, timesteps, class_labels) -> (B, C, H, W) float32, or (B, 2 C, H, W) with
    `learned_range`. It runs in the precision of the run; the loss itself is computed in float32."""
    clean_images: Tensor
    """x_0, (B, C, H, W) float32 in [-1, 1]."""
    noise: Tensor
    """(B, C, H, W) float32, standard normal, a function of the seed, the step and the position in the total batch."""
    timesteps: Tensor
    """(B,) int64 in [0, T), 0 = least noise."""
    class_labels: Tensor | None
    """(B,) int64, the null label where the class is dropped; None = unconditional."""
    sample_ids: Tensor
    """(B,) int64: the positions of the images in the train split, or in the stream; for weights of images."""
    alphas_cumprod: Tensor
    """(T,) float32, of the noise schedule."""
    prediction_type: PredictionType
    """What the network predicts, as the pipeline will read it."""
    variance_type: VarianceType
    """`learned_range` = the second half of the channels is for the variance."""
    step: int
    """Optimizer steps done before this one."""

    @functools.cached_property
    def noisy_images(self) -> Tensor:
        """x_t of `clean_images`, `noise` and `timesteps`, (B, C, H, W) float32."""
        return add_noise(self.clean_images, self.noise, self._levels)

    @functools.cached_property
    def target(self) -> Tensor:
        """What the network predicts by `prediction_type`, (B, C, H, W) float32."""
        return target_of(self.prediction_type, self.clean_images, self.noise, self._levels)

    @functools.cached_property
    def snr(self) -> Tensor:
        """Signal-to-noise ratio of each image, (B,) float32; 0 = pure noise."""
        levels = self._levels.flatten()
        return levels / (1 - levels)

    @functools.cached_property
    def _levels(self) -> Tensor:
        return self.alphas_cumprod[self.timesteps].view(-1, 1, 1, 1)


Loss = Callable[[LossInputs], Tensor]
"""Returns the loss of each image, (B,) float32 with a gradient."""


def mean_loss(loss: Loss, inputs: LossInputs) -> Tensor:
    """The mean of a user's loss over a micro-batch, () float32; a `ValueError` if it has not returned what it should."""
    losses = loss(inputs)
    count = len(inputs.clean_images)
    if not isinstance(losses, Tensor) or losses.shape != (count,) or not losses.is_floating_point():
        got = type(losses).__name__
        if isinstance(losses, Tensor):
            got = f"{tuple(losses.shape)} {str(losses.dtype).removeprefix('torch.')}"
        raise ValueError(f"loss: it returned {got}, give the loss of each image, ({count},) float32")
    if not losses.requires_grad:
        raise ValueError("loss: it returned numbers without a gradient, compute them from the output of `inputs.model`")
    return losses.float().mean()


def check_loss(loss: Loss) -> None:
    """Raise `ValueError` for what is not a function of a micro-batch alone."""
    if not callable(loss) or isinstance(loss, type):
        raise ValueError(f"loss is {loss!r}: give a function of LossInputs, see its documentation")
    if isinstance(loss, torch.nn.Module) and any(parameter.requires_grad for parameter in loss.parameters()):
        raise ValueError(
            f"loss: {type(loss).__name__} has parameters, which are neither trained nor saved: make them part of the "
            "network, or call requires_grad_(False)"
        )
