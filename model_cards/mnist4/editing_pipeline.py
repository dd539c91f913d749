"""CFGDDPMEditingPipeline: edit images with a trained DDPM, by image to image, inpainting and interpolation.

It samples as pipeline.py does, which lies beside it. Both travel with every saved model and need torch and diffusers only:
`DiffusionPipeline.from_pretrained(repo, custom_pipeline="editing_pipeline", trust_remote_code=True)`.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, cast

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    ImagePipelineOutput,
    LMSDiscreteScheduler,
    PNDMScheduler,
)
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor


def _load_neighbour(name: str) -> Any:
    """The module in the file of this name beside this one."""
    full_name, path = f"{__name__.rpartition('.')[0]}.{name}", os.path.join(os.path.dirname(__file__), f"{name}.py")
    spec: Any = importlib.util.spec_from_file_location(full_name, path)
    sys.modules[full_name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


try:
    # The name of a function tells diffusers to take pipeline.py along. Of classes of pipelines it wants only one in a file.
    from . import pipeline as sampling
    from .pipeline import check_generator, check_number, require
except ModuleNotFoundError:
    # Where the name of a repository has a dot, diffusers imports this file into a package that does not exist.
    sampling = _load_neighbour("pipeline")
    check_generator, check_number, require = sampling.check_generator, sampling.check_number, sampling.require

Images = Any
"""`PIL.Image` or a list of them; arrays (B, H, W, C) or tensors (B, C, H, W), integers of the model's `pixel_type`, uint8 or
uint16, in its `value_range`, or floats in [0, 1]."""
# Schedulers of diffusers that draw no noise, DDIM with eta = 0 and those of DPM-Solver unless their algorithm is an SDE's.
DETERMINISTIC = (
    "DDIMScheduler", "DEISMultistepScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler",
    "EulerDiscreteScheduler", "HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "LMSDiscreteScheduler", "PNDMScheduler",
    "UniPCMultistepScheduler",
)  # fmt: skip
MODES = {("uint8", 1): "L", ("uint8", 3): "RGB", ("uint8", 4): "RGBA", ("uint16", 1): "I;16"}
"""Mode of a `PIL.Image` by the type of its values and its channels."""
LMS_ORDER = 4


class CFGDDPMEditingPipeline(sampling.CFGDDPMPipeline):
    """A `CFGDDPMPipeline` that also edits images; a call samples new ones.

    The edits take the options of a call, among them `class_labels` (one for all images, or one per image),
    `num_images_per_prompt` (edits of each image, side by side), `guidance_scale`, `num_inference_steps`, `output_type`, and
    `generator`: one for the whole batch, or a list of one per edit, which makes an edit independent of its batch. The images
    have the size and channels of the model's.
    """

    _edit: Any = None

    def image_to_image(self, images: Images, strength: float = 0.5, **options: Any) -> ImagePipelineOutput | tuple[Any]:
        """Noise images up to a timestep, and denoise them from there (Meng et al. 2022, SDEdit).

        Args:
            images: see `Images`.
            strength: in (0, 1], the noise as a fraction of T: the steps from the timestep `strength` T on are taken, which
                are `int(num_inference_steps * strength)` if they are even in t. 1 starts from noise alone, as a call does.
            options: those of a call. `latents` are the noise.

        Returns:
            `ImagePipelineOutput` with the field `images`, or a tuple of one.

        Raises:
            ValueError: a value cannot work with this model and scheduler; the message names it.
        """
        check_number("strength", strength, 0, 1)
        clean_images = self.prepare_images(images)
        is_runge_kutta = isinstance(self.scheduler, PNDMScheduler) and not self.scheduler.config.skip_prk_steps
        message = "its first steps are of Runge-Kutta, set skip_prk_steps or another scheduler"
        require(strength == 1 or not is_runge_kutta, "scheduler", type(self.scheduler).__name__, message)
        return self._run_edit(partial(self._steps_from_images, clean_images, strength), len(clean_images), options)

    def inpaint(
        self, images: Images, mask: Images, jump_length: int = 10, jump_n_sample: int = 10, **options: Any
    ) -> ImagePipelineOutput | tuple[Any]:
        """Repaint the white pixels of a mask by RePaint (Lugmayr et al. 2022); the others stay exactly as they are.

        The scheduler has to be DDPM or DDIM.

        Args:
            images: see `Images`.
            mask: one for all images or one per image, of their size, in the forms of `Images` with one channel, or (H, W).
                White, from 0.5 on, is repainted, as in the inpainting pipelines of diffusers.
            jump_length: steps that are taken back at once, to be repeated: j of the paper.
            jump_n_sample: times that each step is taken, but for the first ones: r of the paper, about as many calls of the
                network for each of `num_inference_steps`. 1 = no step is repeated.
            options, Returns, Raises: see `image_to_image`.
        """
        name, markovian = type(self.scheduler).__name__, isinstance(self.scheduler, (DDIMScheduler, DDPMScheduler))
        require(markovian, "scheduler", name, "steps can be repeated with DDPM and DDIM only, set one of them")
        check_number("jump_length", jump_length, 1, integer=True)
        check_number("jump_n_sample", jump_n_sample, 1, integer=True)
        clean_images = self.prepare_images(images)
        is_unknown = self.prepare_mask(mask, len(clean_images))
        steps = partial(self._steps_of_repaint, clean_images, is_unknown, jump_length, jump_n_sample)
        return self._run_edit(steps, len(clean_images), options)

    def interpolate(
        self,
        num_images: int = 8,
        generator: sampling.Generators | None = None,
        latents: Tensor | None = None,
        **options: Any,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Sample from noise between that of two samples (slerp), which are the first and the last image.

        The scheduler has to be deterministic: not DDPM, nor an ancestral one.

        Args:
            num_images: images in all, at least 2.
            generator: a list of those of the two samples; one draws both; None = torch's global generator.
            latents: (2, C, H, W) float, the noise of the two samples; None = sampled with `generator`.
            options: other options of a call; `class_labels` is one label for all images.
        """
        check_number("num_images", num_images, 2, integer=True)
        self._check_deterministic(options.get("eta", 0))
        shape = self._latents_shape(2)
        check_generator(generator, 2, "of the first and the last image")
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=self._execution_device, dtype=torch.float32)
        require(latents.shape == shape, "latents.shape", tuple(latents.shape), f"must be {shape}")
        between = torch.stack([slerp(latents[0], latents[1], weight) for weight in _weights(num_images)])
        return self._run_edit(None, num_images, {**options, "latents": between})

    def interpolate_images(
        self,
        first: Images,
        last: Images,
        num_images: int = 8,
        strength: float = 0.5,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Noise two images with the same noise, interpolate linearly, and denoise (Ho et al. 2020, sec. 4.3).

        Both ends are edited too, as by `image_to_image`; all images have the same noise, of all steps.

        Args:
            first: one image, see `Images`.
            last: one image.
            num_images: images in all, at least 2.
            strength: in (0, 1], the noise as a fraction of T, see `image_to_image`.
            generator: one generator; None = torch's global generator.
            options: other options of a call; `class_labels` is one label for all images.
        """
        check_number("num_images", num_images, 2, integer=True)
        if isinstance(generator, list):
            raise ValueError(f"generator is a list of {len(generator)}: give one, all images have the same noise")
        check_generator(generator, 1)
        start, end = (self.prepare_images(image) for image in (first, last))
        for name, images in (("first", start), ("last", end)):
            require(len(images) == 1, f"len({name})", len(images), "give one image")
        # With the same noise for both, the mean of two noisy images is the noisy mean of the images.
        between = torch.cat([torch.lerp(start, end, weight) for weight in _weights(num_images)])
        return self.image_to_image((between + 1) / 2, strength, generator=_copies(generator, num_images), **options)

    def prepare_images(self, images: Images) -> Tensor:
        """Images as the network takes them, (B, C, H, W) float32 in [-1, 1]; a `ValueError` if they are not of its size."""
        _, channels, height, width = self._latents_shape(1)
        tensor = _to_tensor("images", images, channels, self.pixel_type, self.value_range)
        fits = tensor.ndim == 4 and tensor.shape[1:] == (channels, height, width)
        require(fits, "images.shape", tuple(tensor.shape), f"must be (B, {channels}, {height}, {width})")
        return 2 * tensor.to(self._execution_device) - 1

    def prepare_mask(self, mask: Images, count: int) -> Tensor:
        """Which pixels of `count` images are repainted, (1 or count, 1, H, W) bool."""
        height, width = self._latents_shape(1)[2:]
        tensor = _to_tensor("mask", mask, 1)
        fits = tensor.ndim == 4 and tensor.shape[0] in (1, count) and tensor.shape[1:] == (1, height, width)
        remedy = f"must be (1, 1, {height}, {width}), or ({count}, ...) for one per image"
        require(fits, "mask.shape", tuple(tensor.shape), remedy)
        is_unknown = (tensor >= 0.5).to(self._execution_device)
        require(bool(is_unknown.any()), "mask.max()", float(tensor.max()), "make white what is to be repainted")
        return is_unknown

    def save_pretrained(self, save_directory: sampling.Folder, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Save the model as a `CFGDDPMPipeline`, which this one can load, with the code of both."""
        plain = sampling.CFGDDPMPipeline(self.unet, self.scheduler, guide=self.guide, **self.facts)
        plain._trained_with = self._trained_with
        sampling.copy_file(__file__, save_directory)
        plain.save_pretrained(save_directory, safe_serialization, **kwargs)

    def _run_edit(self, edit: Any, count: int, options: dict[str, Any]) -> ImagePipelineOutput | tuple[Any]:
        """Call the pipeline for `count` images, with other steps than its own unless `edit` is None."""
        labels, per_image = options.get("class_labels"), options.get("num_images_per_prompt", 1)
        check_number("num_images_per_prompt", per_image, 1, integer=True)
        given = options.pop("batch_size", None)
        remedy = f"give {count}, the number of images, or leave it out; num_images_per_prompt is for each image"
        require(given in (None, count), "batch_size", given, remedy)
        if labels is None:
            options = {**options, "num_images_per_prompt": count * per_image}
        else:
            ids = self.get_label_ids(labels)
            require(len(ids) in (1, count), "class_labels", labels, f"give one for all images, or {count}, one per image")
            options = {**options, "class_labels": ids * (count // len(ids))}
        self._edit = edit
        try:
            return cast("ImagePipelineOutput | tuple[Any]", self(**options))
        finally:
            self._edit = None

    def _run_steps(self, latents: Tensor, denoise: sampling.Denoise, generator: sampling.Generators | None) -> Tensor:
        return (self._edit or super()._run_steps)(latents, denoise, generator)

    def _steps_from_images(
        self,
        images: Tensor,
        strength: float,
        latents: Tensor,
        denoise: sampling.Denoise,
        generator: sampling.Generators | None,
    ) -> Tensor:
        """Take the last steps, from noisy images on; `latents` are the scaled noise."""
        if strength == 1:
            return super()._run_steps(latents, denoise, generator)
        first = self._start_at(strength)
        noise = latents / self.scheduler.init_noise_sigma
        images = images.repeat_interleave(len(latents) // len(images), dim=0)
        latents = self.scheduler.add_noise(images, noise, self.scheduler.timesteps[first : first + 1])
        for step_index in self.progress_bar(range(first, len(self.scheduler.timesteps))):
            latents = denoise(latents, step_index)
        return latents

    def _steps_of_repaint(
        self,
        images: Tensor,
        is_unknown: Tensor,
        jump_length: int,
        jump_n_sample: int,
        latents: Tensor,
        denoise: sampling.Denoise,
        generator: sampling.Generators | None,
    ) -> Tensor:
        """Algorithm 1 of Lugmayr et al. 2022, with the steps of the scheduler, and jumps back as in its appendix B."""
        timesteps = self.scheduler.timesteps
        remedy = f"give less than the {len(timesteps)} steps, or set jump_n_sample to 1"
        require(jump_n_sample == 1 or jump_length < len(timesteps), "jump_length", jump_length, remedy)
        per_image = len(latents) // len(images)
        images = images.repeat_interleave(per_image, dim=0)
        if len(is_unknown) > 1:
            is_unknown = is_unknown.repeat_interleave(per_image, dim=0)
        # Level of the signal, alpha-bar, by the number of steps that are left.
        signals = [1.0, *self.scheduler.alphas_cumprod[timesteps.cpu().flip(0)].double().tolist()]

        def noised(clean: Tensor, signal: float) -> Tensor:
            noise = randn_tensor(clean.shape, generator=generator, device=clean.device, dtype=torch.float32)
            return signal**0.5 * clean + (1 - signal) ** 0.5 * noise

        path = repaint_path(len(timesteps), jump_length, jump_n_sample)
        for before, after in self.progress_bar(list(itertools.pairwise(path))):
            if after > before:  # q(x_t | x_s) for t > s
                latents = noised(latents, signals[after] / signals[before])
                continue
            latents = denoise(latents, len(timesteps) - before)
            known = images if after == 0 else noised(images, signals[after])
            latents = torch.where(is_unknown, latents, known)
        return latents

    def _start_at(self, strength: float) -> int:
        """Prepare the scheduler to begin at the first of its timesteps with at most this noise; return its index."""
        scheduler = self.scheduler
        # Heun and KDPM2 call the network twice a step. PNDM has its second timestep twice, see `_true_distance`.
        stride = 1 if isinstance(scheduler, PNDMScheduler) else scheduler.order
        timesteps = scheduler.timesteps[::stride].tolist()
        if isinstance(scheduler, PNDMScheduler):
            timesteps = sorted(set(timesteps), reverse=True)
        total = scheduler.config.num_train_timesteps
        fitting = [index for index, t in enumerate(timesteps) if t + 1 <= strength * total + 1e-6]
        remedy = f"the last step begins at {(timesteps[-1] + 1) / total:.3g}, give at least that, or more steps"
        require(bool(fitting), "strength", strength, remedy)
        first = fitting[0] * stride
        if isinstance(scheduler, PNDMScheduler):
            rest = timesteps[first:]
            scheduler.timesteps = torch.tensor([*rest[:2], *rest[1:]], device=scheduler.timesteps.device)
            return 0
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first)
        return first

    def _step(self, model_output: Tensor, step_index: int, latents: Tensor, options: dict[str, Any]) -> Tensor:
        if isinstance(self.scheduler, LMSDiscreteScheduler):
            # It counts the slopes that it knows from the first timestep, wherever it begins.
            options = {**options, "order": min(len(self.scheduler.derivatives) + 1, LMS_ORDER)}
        return super()._step(model_output, step_index, latents, options)

    def _check_deterministic(self, eta: float) -> None:
        scheduler, name = self.scheduler, type(self.scheduler).__name__
        is_deterministic = name in DETERMINISTIC and not str(scheduler.config.get("algorithm_type")).startswith("sde")
        remedy = (
            "the model was distilled for it, give another" if self.is_distilled else "set a deterministic one, such as DDIM"
        )
        require(is_deterministic, "scheduler", name, f"it adds noise to its steps, {remedy}")
        require(eta == 0, "eta", eta, "samples are interpolated without noise in the steps, leave it at 0")


def slerp(first: Tensor, last: Tensor, weight: float) -> Tensor:
    """Interpolate spherically between two tensors: `first` at the weight 0, `last` at 1, exactly (Shoemake 1985).

    Between two samples of standard normal noise, unlike their mean, it has the norm of such noise.
    """
    cosine = torch.dot(first.flatten().double(), last.flatten().double()) / (first.double().norm() * last.double().norm())
    angle = torch.arccos(cosine.clamp(-1, 1))
    if angle.sin() < 1e-6:  # parallel
        return torch.lerp(first, last, weight)
    weights = torch.sin((1 - weight) * angle) / angle.sin(), torch.sin(weight * angle) / angle.sin()
    return float(weights[0]) * first + float(weights[1]) * last


def repaint_path(num_steps: int, jump_length: int, jump_n_sample: int) -> list[int]:
    """Steps that are left at each state of RePaint, from `num_steps` to 0: one less after a step, more after a jump back."""
    jumps = dict.fromkeys(range(0, num_steps - jump_length, jump_length), jump_n_sample - 1)
    path = [num_steps]
    while path[-1] > 0:
        path.append(path[-1] - 1)
        if jumps.get(path[-1], 0) > 0:
            jumps[path[-1]] -= 1
            path.append(path[-1] + jump_length)
    return path


def _weights(count: int) -> Iterator[float]:
    """`count` numbers from 0 to 1, evenly spaced."""
    return (index / (count - 1) for index in range(count))


def _copies(generator: torch.Generator | None, count: int) -> list[torch.Generator]:
    """Generators that all draw what this one would; None = what one with a seed from torch's global generator would."""
    if generator is None:
        generator = torch.Generator().manual_seed(int(torch.randint(2**63 - 1, ())))
    return [torch.Generator(generator.device).set_state(generator.get_state()) for _ in range(count)]


def _to_tensor(
    name: str,
    images: Images,
    channels: int,
    pixel_type: str = "uint8",
    value_range: tuple[float, float] = (0, 255),
) -> Tensor:
    """Images or masks in any of their forms as (B, C, H, W) float32 in [0, 1]; a `ValueError` names what is wrong.

    `pixel_type` and `value_range`: those of integers.
    """
    several = list(images) if isinstance(images, Sequence) else [images]
    require(len(several) > 0, name, images, "give one or more")
    if all(hasattr(image, "getbands") for image in several):  # PIL.Image
        arrays = []
        for image in several:
            mode = MODES.get((pixel_type, channels))
            require(image.mode == mode, f"{name}.mode", image.mode, f"must be {mode}, use convert({mode!r})")
            size = several[0].size
            require(image.size == size, f"{name}.size", image.size, f"that of another one is {size}")
            values = torch.frombuffer(bytearray(image.tobytes()), dtype=getattr(torch, pixel_type))
            arrays.append(values.view(image.height, image.width, channels).permute(2, 0, 1))
        tensor = torch.stack(arrays)
    else:
        is_array = not isinstance(images, Tensor)
        is_known = hasattr(images, "dtype") and hasattr(images, "ndim")
        require(
            is_known,
            f"type({name})",
            type(images).__name__,
            "give PIL images, an array (B, H, W, C) or a tensor (B, C, H, W)",
        )
        tensor = torch.as_tensor(images)
        if tensor.ndim == 2:
            tensor = tensor[None, None]
        else:
            tensor = tensor if tensor.ndim == 4 else tensor[None]
            tensor = tensor.movedim(-1, 1) if is_array else tensor
    integers, kind = (torch.uint8, torch.uint16), str(tensor.dtype).removeprefix("torch.")
    expected = "floats in [0, 1]" if pixel_type == "float32" else f"{pixel_type}, or floats in [0, 1]"
    require(tensor.dtype not in integers or kind == pixel_type, f"{name}.dtype", kind, f"give {expected}")
    low, high = value_range if tensor.dtype in integers else (0, 1)
    tensor = (tensor.float() - low) / (high - low)
    extremes = float(tensor.min()), float(tensor.max())
    is_valid = extremes[0] >= 0 and extremes[1] <= 1
    given = tuple(low + (high - low) * value for value in extremes)
    remedy = f"give {expected}" if (low, high) == (0, 1) else f"the model's values are {low:g} to {high:g}"
    require(is_valid, f"the range of {name}", given, remedy)
    return tensor
