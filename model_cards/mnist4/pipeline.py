"""CFGDDPMPipeline: sample images from a DDPM, with classifier-free guidance if the model is class-conditional.

Needs torch and diffusers only. `save_pretrained` copies this file beside the weights, and also the file of a network that
is not part of diffusers, so `DiffusionPipeline.from_pretrained(repo, trust_remote_code=True)` needs no other package.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import inspect
import json
import math
import numbers
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from fractions import Fraction
from typing import Any
from unicodedata import normalize

import diffusers
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    ImagePipelineOutput,
    ModelMixin,
    PNDMScheduler,
    SchedulerMixin,
)
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

# None in a copy of this file that came with a model: its checks would protect nobody, because it runs on trust.
_PACKAGE = "hf_ddpm" if __name__ == "hf_ddpm.pipeline" else None
SAVED_CLASS = ["pipeline", "CFGDDPMPipeline"]
"""`_class_name` in model_index.json: diffusers takes the class from the file pipeline.py beside it. Older models have a
plain name."""
_given: ContextVar[frozenset[str]] = ContextVar("given", default=frozenset())
"""Names of the arguments of the call of `from_pretrained` that reads a model_index.json."""
OUTPUT_TYPES = ("pil", "np", "pt", "values", "latent")
PIXEL_TYPES = ("uint8", "uint16", "float32")
PIL_IMAGES = (("uint8", 1), ("uint8", 3), ("uint8", 4), ("uint16", 1))
"""Types of values and numbers of channels that a `PIL.Image` can hold: gray, RGB, RGBA, and gray of 16 bits."""
GUIDANCE = ("cfg", "apg", "cfg_zero_star", "autoguidance")
"""How the output of the network is guided, see `CFGDDPMPipeline.__call__`."""
WITH_DEFAULTS = ("num_inference_steps", "guidance_scale", "guidance", "guidance_interval")
"""Arguments of a call for which a model can be saved with other defaults."""
Callback = Callable[[DiffusionPipeline, int, Tensor, dict[str, Tensor]], dict[str, Tensor] | None]
Label = str | int | float | Iterable[str | int]
Labels = Label | Iterable[Label] | Tensor
Condition = int | list[int] | float
"""A class id, the ids of a set of labels, or a number."""
Folder = str | os.PathLike[str]
Generators = torch.Generator | list[torch.Generator]
Denoise = Callable[[Tensor, int], Tensor]
"""Takes latents, (B, C, H, W) float32, and the index of a step; returns the latents after that step."""
NETWORKS = ("unet", "guide")
# Files of hf_ddpm/models that are copied into the folder of the network in a saved model.
OWN_NETWORKS = ("class_map_unet", "condition_unet", "conv_denoiser", "tiny_unet")
# Schedulers of diffusers whose `step` does not support prediction_type "sample".
WITHOUT_SAMPLE_PREDICTION = (
    "DPMSolverSDEScheduler", "EulerAncestralDiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "KDPM2DiscreteScheduler",
    "PNDMScheduler",
)  # fmt: skip
# Key in the config of a scheduler that `build_scheduler` made: from this number of steps on they are even in log sigma.
LOG_SIGMA_FROM = "_log_sigma_from"
# The steps begin at the sigma with which the linear schedule of Ho et al. 2020 ends. Those of a cosine schedule, from 20,000
# on, would be half of them, where an image is noise.
LARGEST_SIGMA = 157.0
APG_MOMENTUM = -0.5  # beta of Sadat et al. 2024, table 11


class CFGDDPMPipeline(DiffusionPipeline):
    """Unconditional and class-conditional generation of small images in pixel space.

    Args:
        unet: network called like `UNet2DModel`, `(sample, timesteps, class_labels)`. Its config gives `sample_size`,
            `in_channels` and `num_class_embeds` (None = unconditional). One whose config has `condition_range` takes
            vectors as class labels: sets of labels if that is None, else numbers.
        scheduler: noise scheduler, one of `KarrasDiffusionSchedulers`.
        id2label: class id to class name, or id of a label to its name, or 0 to what a number is; None = no names.
        null_label: label that was trained as "no class", the last of `num_class_embeds`; None = there is none: the model
            needs class labels and cannot be guided.
        guide: a worse network for the same images and labels, such as an earlier checkpoint of `unet` or a smaller network,
            to guide away from; None = there is none.
        pixel_type: type of the values of the images, one of `PIXEL_TYPES`.
        value_range: (low, high), the values that are -1 and 1 in the network; None = 0 and 255, which uint8 always has.
        default_num_inference_steps: denoising steps of a call that gives none, of a model that was distilled to sample in
            few steps of this scheduler and no other; None = 50, and the model was not distilled.
        built_in_guidance_scale: s with which a distilled model samples without a second call of its network, and the only
            one; None = it takes any.
        sampling_defaults: how the model samples best, values by the names in `WITH_DEFAULTS`. In a call each of them stands
            for an argument that is not given, whatever the others are, but steps only with the saved scheduler; None = none.
    """

    unet: ModelMixin
    scheduler: SchedulerMixin
    guide: ModelMixin | None
    model_cpu_offload_seq = "unet->guide"
    _optional_components = ["guide"]
    _callback_tensor_inputs = ["latents"]

    def __init__(
        self,
        unet: ModelMixin,
        scheduler: SchedulerMixin,
        id2label: dict[int, str] | dict[str, str] | None = None,
        null_label: int | None = None,
        guide: ModelMixin | None = None,
        pixel_type: str = "uint8",
        value_range: tuple[float, float] | dict[str, float] | None = None,
        default_num_inference_steps: int | None = None,
        built_in_guidance_scale: float | None = None,
        sampling_defaults: dict[str, Any] | None = None,
    ):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        # None values are left out: the config of an unconditional model is that of a DDPMPipeline.
        known = {"id2label": id2label, "null_label": null_label}
        built_in = {
            "default_num_inference_steps": default_num_inference_steps,
            "built_in_guidance_scale": built_in_guidance_scale,
        }
        self.register_to_config(**{name: value for name, value in (known | built_in).items() if value is not None})
        values = checked_range(pixel_type, value_range)
        if values is not None:
            # Not as a list, which diffusers takes for a component.
            self.register_to_config(pixel_type=pixel_type, value_range=dict(zip(("low", "high"), values, strict=True)))
        self.image_processor = VaeImageProcessor(vae_scale_factor=1)
        self._trained_with = scheduler
        self._guidance = "cfg"  # of the current call, as the momentum is
        self._momentum: Tensor | None = None

        if self.is_conditional:
            last = unet.config.num_class_embeds - 1
            require(null_label in (None, last), "null_label", null_label, f"must be the last embedding, {last}")
            outside = set(self.id2label or ()) - set(range(self.num_classes or 0))
            require(not outside, "id2label", id2label, f"must name {self._valid_ids}")
        else:
            for name, value in known.items():
                require(value is None, name, value, "the model is unconditional, leave it out")
        if default_num_inference_steps is not None:
            limit = scheduler.config.num_train_timesteps
            check_number("default_num_inference_steps", default_num_inference_steps, 1, limit, integer=True)
        if built_in_guidance_scale is not None:
            check_number("built_in_guidance_scale", built_in_guidance_scale)
            alone = null_label is None and default_num_inference_steps is not None
            remedy = "a distilled model without a null label has it"
            require(alone, "built_in_guidance_scale", built_in_guidance_scale, remedy)
        self.set_guide(guide)
        if sampling_defaults is not None:
            self.set_sampling_defaults(sampling_defaults)

    def set_sampling_defaults(self, defaults: Mapping[str, Any]) -> None:
        """Sample like this where a call says nothing else, also after saving; {} = see `__call__`."""
        is_known = isinstance(defaults, Mapping) and set(defaults) <= set(WITH_DEFAULTS)
        require(is_known, "sampling_defaults", defaults, f"give values of {WITH_DEFAULTS}")
        given = {name: _plain(value) for name, value in defaults.items() if value is not None}
        require(not (given and self.is_distilled), "sampling_defaults", given, "a distilled model has its own, leave it out")
        steps, scale, guidance, interval = (given.get(name) for name in WITH_DEFAULTS)
        try:
            if steps is not None:
                limit = self.scheduler.config.num_train_timesteps
                check_number("num_inference_steps", steps, 1, limit, integer=True)
            self._check_guidance(scale, interval, 0, guidance)
        except ValueError as error:
            raise ValueError(f"sampling_defaults: {error}") from error
        self.register_to_config(sampling_defaults=given)

    def set_guide(self, guide: ModelMixin | None) -> None:
        """Guide away from this network, which is saved with the pipeline; None = without one. See `guide` of the class.

        A default of `guidance` that was saved for another guide, or for none, is dropped.
        """
        if guide is not None:
            require(not self.is_distilled, "guide", type(guide).__name__, "a distilled model cannot be guided, leave it out")
            for name in ("sample_size", "in_channels", "num_class_embeds", "condition_range"):
                # A network of classes has no condition_range, one of sets of labels has None.
                values = (network.config.get(name, "none") for network in (guide, self.unet))
                value, expected = ([*it] if isinstance(it, tuple) else it for it in values)  # a saved pair is a list
                require(value == expected, f"{name} of the guide", value, f"the network has {expected!r}, give such a guide")
        self.register_modules(guide=guide)
        saved = self.config.get("sampling_defaults") or {}
        if "guidance" in saved:
            self.register_to_config(sampling_defaults={key: value for key, value in saved.items() if key != "guidance"})

    @property
    def components(self) -> dict[str, Any]:
        """Networks and scheduler by name; a guide only if there is one."""
        return {name: part for name, part in super().components.items() if name != "guide" or part is not None}

    @property
    def is_conditional(self) -> bool:
        """Whether the network takes class labels."""
        return getattr(self.unet.config, "num_class_embeds", None) is not None

    @property
    def condition(self) -> str | None:
        """What an image is generated for: a "class", "labels" (a set of them) or a "number"; None = unconditional."""
        if not self.is_conditional:
            return None
        numbers = getattr(self.unet.config, "condition_range", ())
        return "class" if numbers == () else "labels" if numbers is None else "number"

    @property
    def condition_range(self) -> tuple[float, float]:
        """The lowest and the highest number that a model of numbers was trained with."""
        low, high = self.unet.config.condition_range
        return low, high

    @property
    def null_label(self) -> int | None:
        """Label that means "no class"; None = the model was trained without one."""
        return self.config.get("null_label")

    @property
    def num_classes(self) -> int | None:
        """Number of classes, or of labels, without the null label; None = unconditional."""
        if not self.is_conditional:
            return None
        embeddings = self.unet.config.num_class_embeds
        return embeddings if self.null_label is None else embeddings - 1

    @property
    def id2label(self) -> dict[int, str] | None:
        """Class id to class name in the order of the ids; None = no names."""
        names = self.config.get("id2label")
        # JSON turns the ids into strings and sorts them as such ("10" before "2").
        return names and dict(sorted((int(label), str(name)) for label, name in names.items()))

    @property
    def pixel_type(self) -> str:
        """Type of the values of the images, one of `PIXEL_TYPES`."""
        return self.config.get("pixel_type", "uint8")

    @property
    def value_range(self) -> tuple[float, float]:
        """The values of the images that are -1 and 1 in the network."""
        values = self.config.get("value_range") or {"low": 0, "high": 255}
        return values["low"], values["high"]

    @property
    def facts(self) -> dict[str, Any]:
        """What the model is besides its parts, as keyword arguments of this class."""
        names = (
            "id2label", "null_label", "pixel_type", "value_range", "default_num_inference_steps", "built_in_guidance_scale",
            "sampling_defaults",
        )  # fmt: skip
        return {name: self.config[name] for name in names if self.config.get(name) is not None}

    @property
    def is_distilled(self) -> bool:
        """Whether the model was trained to sample in few steps of its own scheduler."""
        return self.config.get("default_num_inference_steps") is not None

    @property
    def sampling_defaults(self) -> dict[str, Any]:
        """Values by the names in `WITH_DEFAULTS` for arguments that a call does not give; {} = see `__call__`."""
        saved = dict(self.config.get("sampling_defaults") or {})
        if type(self.scheduler) is not type(self._trained_with):
            saved.pop("num_inference_steps", None)  # another scheduler needs another number
        return saved

    @property
    def default_steps(self) -> int:
        """Denoising steps of a call that gives none."""
        return self.config.get("default_num_inference_steps") or self.sampling_defaults.get("num_inference_steps", 50)

    @property
    def built_in_guidance_scale(self) -> float | None:
        """s with which the model was distilled, and the only one; None = it takes any that its labels allow."""
        return self.config.get("built_in_guidance_scale")

    @property
    def trained_config(self) -> dict[str, Any]:
        """Configuration of the scheduler that the pipeline was loaded or made with, whichever is set now."""
        return dict(self._trained_with.config)

    @property
    def guidance_scale(self) -> float:
        """s of the current call; a callback may change `_guidance_scale` for the following steps."""
        return self._guidance_scale

    @property
    def num_timesteps(self) -> int:
        """Scheduler steps of the current call; more than `num_inference_steps` for schedulers with two calls per step."""
        return self._num_timesteps

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Labels | None = None,
        num_images_per_prompt: int = 1,
        guidance_scale: float | None = None,
        use_original_formulation: bool = False,
        guidance_interval: tuple[float, float] | None = None,
        guidance_rescale: float = 0.0,
        num_inference_steps: int | None = None,
        eta: float = 0.0,
        generator: Generators | None = None,
        latents: Tensor | None = None,
        output_type: str | None = None,
        return_dict: bool = True,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Iterable[str] = ("latents",),
        batch_size: int | None = None,
        guidance: str | None = None,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Generate images.

        Args:
            class_labels: one label or several; a str is a class name, an int a class id in [0, num_classes). None on an
                unconditional model; on a conditional one it means the null label (with the same images at every scale).
                With sets of labels, a list for each image, as in [["cat", "red"], ["dog"], []], or the names in one str,
                joined by +, as in ["cat+red", "dog", ""]. With numbers, a number in `condition_range` for each image.
            num_images_per_prompt: images of each label, side by side.
            guidance_scale: s in `u + s (c - u)`, where c is the output with the label and u what `guidance` says.
                1 runs the conditional model alone, 0 what it is guided away from, at half the cost of other values; None =
                1, or the saved default, or the scale that is built in to a distilled model, which takes no other.
            use_original_formulation: read `guidance_scale` as w in `(1 + w) c - w u`, that is s = w + 1; it has to be given.
            guidance_interval: (low, high), fractions of `num_train_timesteps` T: guidance acts where
                low <= t / T < high, elsewhere the conditional model alone; (0, 1) = everywhere, None too, unless there is
                a saved default.
            guidance_rescale: in [0, 1], how far the standard deviation of the guided output is brought back
                to that of the conditional one; 0 = not at all.
            num_inference_steps: denoising steps, 1 to `num_train_timesteps`; None = 50, or the few of a distilled model, or
                the saved default if the scheduler is the saved one.
            eta: in [0, 1], noise of DDIM: 0 = deterministic, 1 = as DDPM; 0 for all other schedulers.
            generator: one for the whole batch, or a list of one per image, which makes an image independent
                of the others in its batch; None = torch's global generator.
            latents: (B, C, H, W) float, the initial noise, of unit variance; None = sampled with `generator`.
            output_type: "pil" (list of `PIL.Image`), "np" ((B, H, W, C) float32 in [0, 1]), "pt" ((B, C, H,
                W) float32 in [0, 1]), "values" (array (B, H, W, C) of the `pixel_type`, in the `value_range`) or
                "latent" ((B, C, H, W) float32 of the last step, about in [-1, 1]); None = "pil" for the `PIL_IMAGES`, such
                as gray and RGB images of 8 bits, and "values" for others.
            return_dict: False = return the tuple `(images,)`.
            callback_on_step_end: called after each step as `callback(pipeline, step_index, timestep,
                {"latents": latents})`; latents in the dictionary it returns replace those of the step.
            callback_on_step_end_tensor_inputs: keys of that dictionary; "latents" is the only one.
            batch_size: without labels, the number of images, times `num_images_per_prompt`, as in `DDPMPipeline`; None = 1.
                With labels it is their number, and may be left out.
            guidance: "autoguidance": u is the output of `guide` with the label, also without classes. In the others u is
                that of the network with the null label: "cfg", "apg" (without the part of c - u along the predicted image,
                and with a negative momentum; high scales saturate less) or "cfg_zero_star" (u scaled to fit c). None =
                the saved default, else "autoguidance" if there is a guide, else "cfg".

        Returns:
            `ImagePipelineOutput` with the field `images`, or a tuple of one.

        Raises:
            ValueError: a value cannot work with this model and scheduler; the message names it.
        """
        if use_original_formulation:
            check_number("guidance_scale", guidance_scale)
            assert guidance_scale is not None
            guidance_scale = guidance_scale + 1
        defaults = self.sampling_defaults
        guidance_scale = defaults.get("guidance_scale") if guidance_scale is None else guidance_scale
        guidance_interval = defaults.get("guidance_interval") if guidance_interval is None else guidance_interval
        num_inference_steps = self.default_steps if num_inference_steps is None else num_inference_steps
        inputs = list(callback_on_step_end_tensor_inputs)
        self.check_inputs(
            class_labels, num_images_per_prompt, guidance_scale, guidance_interval, guidance_rescale,
            num_inference_steps, eta, generator, latents, output_type, inputs, batch_size, guidance,
        )  # fmt: skip
        device = self._execution_device
        label_ids = self.prepare_labels(class_labels, num_images_per_prompt, device, batch_size)
        self.prepare_timesteps(num_inference_steps, device)
        latents = self.prepare_latents(len(label_ids), generator, latents, device)
        step_options = self.prepare_step_options(generator, eta)
        self._seed_noise_sampler(generator, len(label_ids))
        built_in = self.built_in_guidance_scale
        self._guidance_scale = (1.0 if built_in is None else built_in) if guidance_scale is None else guidance_scale
        self._num_timesteps = len(self.scheduler.timesteps)
        self._guidance, self._momentum = self._guidance_of(guidance), None

        def denoise(latents: Tensor, step_index: int) -> Tensor:
            t = self.scheduler.timesteps[step_index]
            # Without a label c = u, unless u is of a guide, so every scale gives u, and one call of the network is enough.
            can_differ = class_labels is not None or self._guidance == "autoguidance"
            is_guided = can_differ and built_in is None and self.is_guided_at(t, guidance_interval)
            scale = self.guidance_scale if is_guided else 1.0
            model_output = self.predict(latents, t, label_ids, scale, guidance_rescale)
            latents = self._step(model_output, step_index, latents, step_options)
            if callback_on_step_end is not None:
                returned = callback_on_step_end(self, step_index, t, dict.fromkeys(inputs, latents))
                latents = (returned or {}).get("latents", latents)
            return latents

        latents = self._run_steps(latents, denoise, generator)
        images = self._to_output(latents, output_type or ("pil" if self._fits_pil else "values"))
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def check_inputs(
        self,
        class_labels: Labels | None = None,
        num_images_per_prompt: int = 1,
        guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        guidance_rescale: float = 0.0,
        num_inference_steps: int | None = None,
        eta: float = 0.0,
        generator: Generators | None = None,
        latents: Tensor | None = None,
        output_type: str | None = None,
        callback_on_step_end_tensor_inputs: Iterable[str] = (),
        batch_size: int | None = None,
        guidance: str | None = None,
    ) -> None:
        """Check the arguments of `__call__` (`guidance_scale` is s); a `ValueError` names one, its value and the remedy."""
        check_number("num_images_per_prompt", num_images_per_prompt, 1, integer=True)
        self._check_guidance(guidance_scale, guidance_interval, guidance_rescale, guidance)
        if class_labels is None and self.is_conditional:
            has_null = self.null_label is not None
            require(has_null, "class_labels", None, f"the model has no null label, give {self._valid_labels}")
        self._check_schedule(self.default_steps if num_inference_steps is None else num_inference_steps, eta)
        require(output_type in (None, *OUTPUT_TYPES), "output_type", output_type, f"give one of {OUTPUT_TYPES}")
        channels = self.unet.config.in_channels
        kind = f"{channels} channel{'s' * (channels > 1)} of {self.pixel_type}"
        remedy = f"the images have {kind}, which PIL cannot hold, give one of {OUTPUT_TYPES[1:]}"
        require(output_type != "pil" or self._fits_pil, "output_type", output_type, remedy)
        inputs = callback_on_step_end_tensor_inputs
        known = set(inputs) <= set(self._callback_tensor_inputs)
        require(known, "callback_on_step_end_tensor_inputs", inputs, "'latents' is the only one")
        if batch_size is not None:
            check_number("batch_size", batch_size, 1, integer=True)
        num_labels = batch_size or 1
        if class_labels is not None:
            num_labels = len(self.get_label_ids(class_labels))
            remedy = f"give {num_labels}, the number of labels, or leave it out; num_images_per_prompt is for each label"
            require(batch_size in (None, num_labels), "batch_size", batch_size, remedy)
        shape = self._latents_shape(num_labels * num_images_per_prompt)
        check_generator(generator, shape[0])
        if latents is not None:
            require(latents.shape == shape, "latents.shape", tuple(latents.shape), f"must be {shape}")

    def get_label_ids(self, class_labels: Labels) -> list[Any]:
        """The `Condition` of each image, see `__call__`; a `ValueError` if it is not one of this model.

        A str is the name of exactly one class, an int an id.
        """
        is_matrix = getattr(class_labels, "ndim", 0) > 1
        require(not is_matrix, "class_labels", class_labels, "give one label, list of labels or number for each image")
        labels = _plain(class_labels)
        labels = [labels] if isinstance(labels, str) or not isinstance(labels, Iterable) else list(labels)
        require(len(labels) > 0, "class_labels", labels, "give one label or more")
        read = {"labels": self._get_label_set, "number": self._get_number}.get(self.condition or "", self._get_label_id)
        return [read(_plain(label)) for label in labels]

    def prepare_labels(
        self, class_labels: Labels | None, num_images_per_prompt: int, device: torch.device, batch_size: int | None = None
    ) -> Tensor:
        """Label of each image, (B,) int64, or vectors, (B, num_class_embeds) float32, see `ConditionUNet`; those of the null
        label (or 0) if `class_labels` is None."""
        ids = [self.null_label or 0] * (batch_size or 1) if class_labels is None else self.get_label_ids(class_labels)
        if self.condition in (None, "class"):
            labels = torch.tensor(ids)
        else:
            labels = torch.zeros(len(ids), self.unet.config.num_class_embeds)
            for vector, value in zip(labels, ids, strict=True):
                if isinstance(value, float):
                    vector[0] = value
                else:
                    vector[value] = 1
        return labels.to(device).repeat_interleave(num_images_per_prompt, dim=0)

    def prepare_latents(
        self, batch_size: int, generator: Generators | None, latents: Tensor | None, device: torch.device
    ) -> Tensor:
        """Initial noise, (B, C, H, W) float32, scaled as the scheduler requires."""
        if latents is None:
            # In float32 for every dtype of the network: a seed means the same noise in every precision.
            shape = self._latents_shape(batch_size)
            latents = randn_tensor(shape, generator=generator, device=device, dtype=torch.float32)
        return latents.to(device, torch.float32) * self.scheduler.init_noise_sigma

    def prepare_timesteps(self, num_inference_steps: int, device: torch.device | None = None) -> None:
        """Set the timesteps of the scheduler and reset its state."""
        set_timesteps(self.scheduler, num_inference_steps, device)
        if hasattr(self.scheduler, "set_begin_index"):
            # By default a scheduler begins at the second of two equal timesteps, which rounding can produce.
            self.scheduler.set_begin_index(0)
        if isinstance(self.scheduler, diffusers.EulerAncestralDiscreteScheduler):
            # It takes the root of a difference of squared sigmas, which float32 rounds below 0 if the first is 20,000.
            self.scheduler.sigmas = self.scheduler.sigmas.double()

    def prepare_step_options(self, generator: Generators | None, eta: float) -> dict[str, Any]:
        """Keyword arguments among `generator` and `eta` that `scheduler.step` takes."""
        accepted = inspect.signature(self.scheduler.step).parameters
        # With eta = 1 DDIM takes the root of a variance minus itself, which rounding makes negative without a signal.
        options = {"generator": generator, "eta": min(eta, 1 - 1e-6), "use_clipped_model_output": True}
        # If DDIM changes x_0, it must recompute epsilon from it: otherwise the two disagree about x_t.
        if not (self.scheduler.config.get("clip_sample") or self.scheduler.config.get("thresholding")):
            del options["use_clipped_model_output"]
        return {name: value for name, value in options.items() if name in accepted}

    def is_guided_at(self, t: Tensor, guidance_interval: tuple[float, float] | None) -> bool:
        """Whether guidance acts at timestep t."""
        low, high = guidance_interval or (-math.inf, math.inf)
        return low <= float(t) / self.scheduler.config.num_train_timesteps < high

    def predict(self, latents: Tensor, t: Tensor, label_ids: Tensor, scale: float, rescale: float) -> Tensor:
        """Call the network once and guide its output, (B, C, H, W) float32; 2 C channels if DDPM gets a learned variance.

        Args:
            latents: (B, C, H, W) float32.
            t: timestep of the scheduler, a scalar, int64 or float.
            label_ids: those of `prepare_labels`; not used by an unconditional model.
            scale: s; 1 and 0 call the network with B images, other values with 2 B.
            rescale: in [0, 1], see `guided_output`.
        """
        channels = latents.shape[1]
        sample = self.scheduler.scale_model_input(latents, t)
        if scale == 1:
            model_output = self._run_unet(sample, t, label_ids)
        elif self._guidance == "autoguidance":
            weak = self._run(self.guide, sample, t, label_ids)
            strong = weak if scale == 0 else self._run_unet(sample, t, label_ids)
            guided = guided_output(strong[:, :channels], weak[:, :channels], scale, rescale)
            model_output = torch.cat([guided, strong[:, channels:]], dim=1)
        elif scale == 0:
            model_output = self._run_unet(sample, t, self._null_labels(label_ids))
        else:
            both_labels = torch.cat([label_ids, self._null_labels(label_ids)])
            cond, uncond = self._run_unet(torch.cat([sample, sample]), t, both_labels).chunk(2)
            outputs = cond[:, :channels], uncond[:, :channels]
            guided = self._guided(*outputs, sample, t, scale, rescale)
            model_output = torch.cat([guided, cond[:, channels:]], dim=1)
        # A network with a learned variance has 2 C output channels, and only DDPM can use the second half.
        learned = str(self.scheduler.config.get("variance_type")).startswith("learned")
        return model_output if learned and isinstance(self.scheduler, DDPMScheduler) else model_output[:, :channels]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Folder, **kwargs: Any) -> CFGDDPMPipeline:
        """Load a pipeline like its superclass, but its weights from safetensors only: pickled ones can run code.

        In the installed package, a network whose code came with the model is the class that the program has imported, or
        else needs `trust_remote_code=True`, or the network itself as `unet=`.
        """
        safe = kwargs.pop("use_safetensors", True)
        require(safe is True, "use_safetensors", safe, "weights are loaded from safetensors only")
        if _PACKAGE and not kwargs.get("trust_remote_code") and os.path.isdir(pretrained_model_name_or_path):
            kwargs |= cls._imported_networks(pretrained_model_name_or_path, kwargs)
        before = _given.set(frozenset(kwargs))
        try:
            pipeline = super().from_pretrained(pretrained_model_name_or_path, use_safetensors=True, **kwargs)
        finally:
            _given.reset(before)
        if "scheduler" in kwargs:
            hub = {key: kwargs[key] for key in ("revision", "token", "cache_dir", "local_files_only") if key in kwargs}
            config = DDPMScheduler.load_config(pretrained_model_name_or_path, subfolder="scheduler", **hub)
            pipeline._trained_with = getattr(diffusers, config["_class_name"]).from_config(config)
        if "guide" in kwargs:
            pipeline.set_guide(pipeline.guide)
        return pipeline

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs: Any) -> CFGDDPMPipeline:
        """Make a pipeline from the parts of another one, with its labels; see `DiffusionPipeline.from_pipe`."""
        # The superclass leaves out a network unless its class is exactly the one that `__init__` names, and would convert
        # the shared one to float32.
        dtype = {} if "torch_dtype" in kwargs else {"dtype": pipeline.dtype}
        made: CFGDDPMPipeline = super().from_pipe(pipeline, **{"unet": pipeline.unet, **dtype, **kwargs})
        if "scheduler" not in kwargs:
            made._trained_with = getattr(pipeline, "_trained_with", made._trained_with)
        return made

    @classmethod
    def load_config(cls, pretrained_model_name_or_path: Folder, **kwargs: Any) -> Any:
        """Load model_index.json; in the installed package, a folder whose files cannot work is refused."""
        config = super().load_config(pretrained_model_name_or_path, **kwargs)
        if _PACKAGE:
            _name_installed_networks(config)
            if os.path.isdir(pretrained_model_name_or_path):
                checks = importlib.import_module(f"{_PACKAGE}.saved_model")
                for name in ("unet", *(("guide",) if config.get("guide") else ())):
                    checks.check_saved_pipeline(pretrained_model_name_or_path, dict(config), name)
            for name in _given.get().intersection(NETWORKS):
                if config.get(name) and config[name][0] not in sys.modules:  # diffusers would look for a class to compare
                    config[name] = ["diffusers", "ModelMixin"]
        return config

    @classmethod
    def _imported_networks(cls, folder: Folder, options: Mapping[str, Any]) -> dict[str, Any]:
        """Networks whose code came with the model, loaded as the classes that the program has imported."""
        index, networks = super().load_config(folder), dict[str, Any]()
        loading = {key: options[key] for key in ("dtype", "torch_dtype", "variant") if key in options}
        for name in NETWORKS:
            named = index.get(name)
            is_pair = isinstance(named, (list, tuple)) and len(named) == 2 and all(isinstance(word, str) for word in named)
            if name in options or not is_pair:
                continue  # a damaged index is refused later
            if named[0] in OWN_NETWORKS or not os.path.isfile(os.path.join(folder, name, f"{named[0]}.py")):
                continue
            own_code = importlib.import_module(f"{_PACKAGE}.own_code")
            network_class = own_code.imported_class(*named)
            if network_class is None:
                raise ValueError(own_code.explain_trust(*named))
            networks[name] = network_class.from_pretrained(folder, subfolder=name, use_safetensors=True, **loading)
        return networks

    def save_pretrained(self, save_directory: Folder, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Save the pipeline like its superclass, and its code: `pipeline.py`, and the network's if not part of diffusers.

        The installed package saves `editing_pipeline.py`, too.

        Weights are saved as safetensors only: pickled ones can run code when they are loaded.
        """
        require(safe_serialization, "safe_serialization", False, "weights are saved as safetensors only")
        self._check_agreement()
        # The code comes first, because the superclass ends with an upload (push_to_hub).
        for file in (__file__, *((os.path.join(os.path.dirname(__file__), "editing_pipeline.py"),) if _PACKAGE else ())):
            copy_file(file, save_directory)
        for name in NETWORKS:
            network = getattr(self, name)
            module = type(getattr(network, "_orig_mod", network)).__module__
            if _saved_name(module) is not None:
                copy_file(inspect.getfile(sys.modules[module]), os.path.join(save_directory, name))
        super().save_pretrained(save_directory, safe_serialization=True, **kwargs)

    def to_json_string(self) -> str:
        """The content of model_index.json, with the class that is saved beside it."""
        index = json.loads(super().to_json_string())
        if self.guide is None:
            del index["guide"]
        if not index.get("sampling_defaults"):
            index.pop("sampling_defaults", None)
        index.pop("_name_or_path", None)  # where it was loaded from, a folder of this machine
        return json.dumps({**index, "_class_name": SAVED_CLASS}, indent=2, sort_keys=True) + "\n"

    @classmethod
    def _dict_from_json_file(cls, json_file: Folder) -> dict[str, Any]:
        """Read a JSON file; with the plain name of this class, as diffusers would take the one beside the file instead."""
        config = super()._dict_from_json_file(json_file)
        return config | {"_class_name": SAVED_CLASS[1]} if config.get("_class_name") == SAVED_CLASS else config

    def register_to_config(self, **kwargs: Any) -> None:
        """Record the content of model_index.json: for networks whose code is saved with them, the name of that file."""
        for name in NETWORKS:
            library, class_name = kwargs.get(name) or (None, None)
            if library is not None and (saved := _saved_name(library)) is not None:
                kwargs[name] = (saved, class_name)
        super().register_to_config(**kwargs)

    def _run_steps(self, latents: Tensor, denoise: Denoise, generator: Generators | None) -> Tensor:
        """Take all steps, from the scaled noise to the image; subclasses take others. `generator` is that of the call."""
        for step_index in self.progress_bar(range(self.num_timesteps)):
            latents = denoise(latents, step_index)
        return latents

    @property
    def _fits_pil(self) -> bool:
        """Whether a `PIL.Image` can hold the images."""
        return (self.pixel_type, self.unet.config.in_channels) in PIL_IMAGES

    def _to_output(self, latents: Tensor, output_type: str) -> Any:
        """Images, (B, C, H, W) float32 about in [-1, 1], in the form that a call returns."""
        is_plain = output_type in ("np", "pt") or (output_type == "pil" and self.pixel_type == "uint8")
        if output_type == "latent" or is_plain:
            return latents if output_type == "latent" else self.image_processor.postprocess(latents, output_type=output_type)
        images = self.image_processor.postprocess(latents, output_type="np")
        values = to_values(images, self.pixel_type, self.value_range)
        if output_type == "values":
            return values
        pil = importlib.import_module("PIL.Image")  # a part of diffusers' own requirements
        return [pil.fromarray(image[:, :, 0]) for image in values]

    def _step(self, model_output: Tensor, step_index: int, latents: Tensor, options: dict[str, Any]) -> Tensor:
        """Latents, (B, C, H, W) float32, of the timestep that follows the one with this index."""
        scheduler, t, changes = self.scheduler, self.scheduler.timesteps[step_index], {}
        if isinstance(scheduler, PNDMScheduler) and _can_average_epsilon(scheduler):
            # It averages the outputs of several timesteps as if all were epsilon: with those of v it is of first order only.
            signal = scheduler.alphas_cumprod[t]
            model_output = signal.sqrt() * model_output + (1 - signal).sqrt() * latents
            changes = {"prediction_type": "epsilon"}
        with configured(scheduler, changes), _true_distance(scheduler, step_index):
            step = scheduler.step(model_output, t, latents, **options)
        # With spaced timesteps DDPM ends above 0, where diffusers would still add noise to the mean, which is x_0.
        is_end_of_ddpm = isinstance(scheduler, DDPMScheduler) and step_index == self.num_timesteps - 1
        return step.pred_original_sample if is_end_of_ddpm else step.prev_sample

    def _seed_noise_sampler(self, generator: Generators | None, batch_size: int) -> None:
        if hasattr(self.scheduler, "noise_sampler_seed"):
            # DPM-Solver SDE takes one seed per image instead of a generator.
            rngs = generator if isinstance(generator, list) else [generator] * batch_size
            self.scheduler.noise_sampler_seed = [
                int(torch.randint(2**63 - 1, (), generator=rng, device=None if rng is None else rng.device)) for rng in rngs
            ]

    def _run_unet(self, sample: Tensor, t: Tensor, label_ids: Tensor) -> Tensor:
        return self._run(self.unet, sample, t, label_ids)

    def _run(self, network: Any, sample: Tensor, t: Tensor, label_ids: Tensor) -> Tensor:
        timesteps = torch.as_tensor(t, device=sample.device).expand(len(sample))
        labels = label_ids if self.is_conditional else None
        return network(sample.to(network.dtype), timesteps, class_labels=labels, return_dict=False)[0].float()

    def _guided(self, cond: Tensor, uncond: Tensor, sample: Tensor, t: Tensor, scale: float, rescale: float) -> Tensor:
        """The guided output, (B, C, H, W) float32, of those with the label and with the null label for a sample."""
        if self._guidance == "cfg_zero_star":
            uncond = fitted(uncond, cond)
        if self._guidance != "apg":
            return guided_output(cond, uncond, scale, rescale)
        of_sample, of_output = self._clean_image_factors(t)
        difference = of_output * (cond - uncond)  # of the two predictions of x_0
        momentum = difference if self._momentum is None else difference + APG_MOMENTUM * self._momentum
        self._momentum = momentum
        change = without_part_along(momentum, of_sample * sample + of_output * cond)
        return guided_output(cond, cond - change / of_output, scale, rescale)

    def _clean_image_factors(self, t: Tensor) -> tuple[float, float]:
        """a and b of x_0 = a x_t + b output, at a timestep, between two of training if need be."""
        table, time = self.scheduler.alphas_cumprod.double().cpu(), float(t)
        low = min(int(time), len(table) - 2)
        log_snr = table[low : low + 2].logit()
        signal = float(torch.lerp(log_snr[0], log_snr[1], time - low).sigmoid()) if time != low else float(table[low])
        prediction = self.scheduler.config.prediction_type
        if prediction == "sample":
            return 0.0, 1.0
        if prediction == "v_prediction":
            return math.sqrt(signal), -math.sqrt(1 - signal)
        return 1 / math.sqrt(signal), -math.sqrt((1 - signal) / signal)

    def _guidance_of(self, guidance: str | None) -> str:
        usual = "cfg" if self.guide is None else "autoguidance"
        return guidance or self.sampling_defaults.get("guidance", usual)

    def _null_labels(self, label_ids: Tensor) -> Tensor:
        assert self.null_label is not None, "check_inputs refuses guidance without it"
        if label_ids.ndim == 1:
            return torch.full_like(label_ids, self.null_label)
        null_labels = torch.zeros_like(label_ids)
        null_labels[:, self.null_label] = 1
        return null_labels

    def _latents_shape(self, batch_size: int) -> tuple[int, int, int, int]:
        size = self.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return batch_size, self.unet.config.in_channels, height, width

    def _check_guidance(
        self, scale: float | None, interval: tuple[float, float] | None, rescale: float, guidance: str | None
    ) -> None:
        require(guidance is None or guidance in GUIDANCE, "guidance", guidance, f"give one of {GUIDANCE}")
        away_from_guide = self._guidance_of(guidance) == "autoguidance"
        has_guide, built_in = self.guide is not None, self.built_in_guidance_scale
        require(
            has_guide or not away_from_guide, "guidance", guidance, "the pipeline has no guide, give it a second network"
        )
        if scale is not None:
            check_number("guidance_scale", scale)
        check_number("guidance_rescale", rescale, 0, 1)
        if built_in is not None:
            remedy = f"the model was distilled with guidance of s = {built_in:g} built in, leave it out"
            is_same = scale is None or math.isclose(scale, built_in, abs_tol=1e-6)
            require(is_same, "guidance_scale", scale, remedy)
            require(guidance is None, "guidance", guidance, remedy)
            require(interval is None, "guidance_interval", interval, remedy)
            require(rescale == 0, "guidance_rescale", rescale, remedy)
        reason = "has no null label to guide away from" if self.is_conditional else "is unconditional"
        can_guide = scale in (None, 1) or built_in is not None or away_from_guide or self.null_label is not None
        require(can_guide, "guidance_scale", scale, f"the model {reason}, leave it at s = 1 (w = 0)")
        if interval is not None:
            pair = isinstance(interval, (list, tuple)) and len(interval) == 2
            require(pair, "guidance_interval", interval, "give (low, high) or None")
            check_number("guidance_interval[0]", interval[0], 0, 1)
            check_number("guidance_interval[1]", interval[1], interval[0], 1)

    def _check_schedule(self, num_inference_steps: int, eta: float) -> None:
        self._check_scheduler()
        limit = self.scheduler.config.num_train_timesteps
        check_number("num_inference_steps", num_inference_steps, 1, limit, integer=True)
        nearest = limit // math.ceil(limit / num_inference_steps)
        remedy = f"cannot be spaced evenly, give {'more' if nearest == num_inference_steps else nearest}"
        require(spaces_evenly(self.scheduler, num_inference_steps), "num_inference_steps", num_inference_steps, remedy)
        check_number("eta", eta, 0, 1)
        takes_eta = "eta" in inspect.signature(self.scheduler.step).parameters
        require(eta == 0 or takes_eta, "eta", eta, f"{type(self.scheduler).__name__} takes none, use DDIM or 0")

    def _check_scheduler(self) -> None:
        """Refuse schedulers that run, or seem to, but do not sample from the trained model."""
        config, name = self.scheduler.config, type(self.scheduler).__name__
        follows = isinstance(getattr(self.scheduler, "alphas_cumprod", None), Tensor)
        require(follows, "scheduler", name, "it does not follow the betas of training, set another")
        self._check_agreement()
        prediction, last = config.prediction_type, float(self.scheduler.alphas_cumprod[-1])
        able = prediction != "sample" or name not in WITHOUT_SAMPLE_PREDICTION
        require(able, "prediction_type", prediction, f"{name} cannot use it, set another scheduler, such as DDIM")
        rescaled = bool(config.get("rescale_betas_zero_snr"))
        message = f"{name} does not support it, give it trained_betas that end with almost no signal, or set DDIM"
        require(not rescaled or last < 1e-6, "rescale_betas_zero_snr", True, message)
        message = "with rescale_betas_zero_snr the last timestep has no signal to predict from, train v_prediction"
        require(prediction != "epsilon" or not (rescaled or last == 0), "prediction_type", prediction, message)
        if isinstance(self.scheduler, DDPMScheduler):
            message = "DDPMScheduler takes the root of a value that is not a variance, set fixed_large or learned_range"
            works = config.variance_type not in ("fixed_large_log", "learned")
            require(works, "variance_type", config.variance_type, message)

    def _check_agreement(self, scheduler: Any = None) -> None:
        """Refuse a scheduler (None = the one set now) with other betas or another prediction type than the saved model's."""
        trained, scheduler = self._trained_with, scheduler or self.scheduler
        remedy = "set hf_ddpm.schedulers.build_scheduler(NAME, pipeline.trained_config)"
        both = (scheduler, trained)
        if scheduler is trained or not all(isinstance(getattr(one, "alphas_cumprod", None), Tensor) for one in both):
            return
        own = type(trained).__name__
        takes_it = not self.is_distilled or type(scheduler) is type(trained)
        require(takes_it, "scheduler", type(scheduler).__name__, f"the model was distilled for {own} alone, leave it out")
        for option in ("num_train_timesteps", "prediction_type"):
            value, expected = scheduler.config[option], trained.config[option]
            require(value == expected, f"{option} of the scheduler", value, f"the model has {expected!r}, {remedy}")
        betas = (scheduler.alphas_cumprod.cpu(), trained.alphas_cumprod.cpu())
        name, message = type(scheduler).__name__, "its betas are not those of the model"
        require(torch.allclose(*betas, rtol=1e-4, atol=1e-6), "scheduler", name, f"{message}, {remedy}")

    @property
    def _valid_ids(self) -> str:
        return f"ids from 0 to {(self.num_classes or 0) - 1}"

    @property
    def _valid_labels(self) -> str:
        if self.condition != "number":
            return self._valid_ids
        low, high = self.condition_range
        return f"a number from {low:g} to {high:g}"

    def _get_label_set(self, labels: str | int | Iterable[str | int]) -> list[int]:
        """The sorted ids of a set of labels."""
        if isinstance(labels, str):  # the name of a label may have a + in it
            parts: list[Any] = [labels] if labels in (self.id2label or {}).values() else labels.split("+") if labels else []
        else:
            parts = list(labels) if isinstance(labels, Iterable) else [labels]
        ids = sorted(self._get_label_id(_plain(part)) for part in parts)
        require(len(set(ids)) == len(ids), "class_labels", labels, "a label is in it twice")
        return ids

    def _get_number(self, value: float) -> float:
        is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        low, high = self.condition_range
        rounding = 1e-6 * max(abs(low), abs(high))
        in_range = is_number and low - rounding <= value <= high + rounding
        require(in_range, "class_labels", value, f"the model was trained with numbers, give {self._valid_labels}")
        return float(value)

    def _get_label_id(self, label: str | int) -> int:
        require(self.is_conditional, "class_labels", label, "the model is unconditional, leave it out")
        if not isinstance(label, str):
            in_range = type(label) is int and label in range(self.num_classes or 0)
            require(in_range, "class_labels", label, f"give names (str) or {self._valid_ids} (int)")
            return label
        names = self.id2label or {}
        require(len(names) > 0, "class_labels", label, f"the classes have no names, give {self._valid_ids}")
        ids = [class_id for class_id, name in names.items() if name == label]
        if not ids:  # an accent may be encoded in two ways
            ids = [class_id for class_id, name in names.items() if normalize("NFC", name) == normalize("NFC", label)]
        if not ids:
            raise ValueError(f"class_labels is {label!r}: no such name, nearest: {_nearest(label, names.values())}")
        require(len(ids) == 1, "class_labels", label, f"the classes {ids} share this name, give an id")
        return ids[0]


def guided_output(cond: Tensor, uncond: Tensor, scale: float, rescale: float = 0.0) -> Tensor:
    """Combine the conditional and the unconditional output of the network, c and u, (B, C, H, W) float.

    Args:
        cond, uncond: c, the output with the class label, and u, with the null label.
        scale: s = w + 1; 1 gives c, 0 gives u.
        rescale: phi in [0, 1]; 0 = off, 1 = the output has the standard deviation of c.
    """
    # Ho & Salimans 2022, eq. 6: (1 + w) c - w u, with w = s - 1.
    guided = uncond + scale * (cond - uncond)
    if rescale == 0:
        return guided
    # Lin et al. 2023, sec. 3.4, eq. 15 and 16.
    std_cond, std_guided = (output.std(dim=(1, 2, 3), keepdim=True) for output in (cond, guided))
    return rescale * guided * (std_cond / std_guided) + (1 - rescale) * guided


def fitted(uncond: Tensor, cond: Tensor) -> Tensor:
    """u times the number with which it is nearest to c in each image (CFG-Zero*, Fan et al. 2025, eq. 10)."""
    products, squares = ((other * uncond).sum(dim=(1, 2, 3), keepdim=True) for other in (cond, uncond))
    return products / squares.clamp(min=1e-8) * uncond


def without_part_along(change: Tensor, image: Tensor) -> Tensor:
    """A change of an image without its part that only scales the image (APG, Sadat et al. 2024, eq. 5, with eta = 0)."""
    along, squares = ((change * image).sum(dim=(1, 2, 3), keepdim=True), (image * image).sum(dim=(1, 2, 3), keepdim=True))
    return change - along / squares.clamp(min=1e-8) * image


@contextlib.contextmanager
def configured(scheduler: SchedulerMixin, changes: Mapping[str, Any]) -> Iterator[None]:
    """Change the configuration of a scheduler for the time of the block."""
    before = {name: scheduler.config.get(name) for name in changes}
    scheduler.register_to_config(**changes)
    try:
        yield
    finally:
        scheduler.register_to_config(**before)


def set_timesteps(scheduler: SchedulerMixin, num_inference_steps: int, device: torch.device | None = None) -> None:
    """Set the timesteps of a scheduler, spaced as is best for their number if it is one of `build_scheduler`."""
    least, changes = scheduler.config.get(LOG_SIGMA_FROM), dict[str, Any]()
    if isinstance(least, int) and num_inference_steps >= least:
        # Trailing timesteps end with a step from T / n to 0, in which all details of the image would have to appear.
        signal = scheduler.alphas_cumprod[-1].double()
        largest = min(LARGEST_SIGMA, float(((1 - signal) / signal).sqrt()))
        changes = {"use_exponential_sigmas": True, "timestep_spacing": "linspace", "sigma_max": largest}
    with configured(scheduler, changes):
        scheduler.set_timesteps(num_inference_steps, device=device)
    if isinstance(scheduler, (DDIMScheduler, DDPMScheduler, PNDMScheduler)):
        # For some n (61 of 1000) rounding in the trailing spacing adds a last timestep of -1.
        scheduler.timesteps = scheduler.timesteps[scheduler.timesteps >= 0]


def spaces_evenly(scheduler: SchedulerMixin, num_inference_steps: int) -> bool:
    """Whether the timesteps of this number of steps are those that the scheduler's steps pass through."""
    set_timesteps(scheduler, num_inference_steps)
    # At a timestep of -1 a scheduler with sigmas would look up the noisiest entry of its tables. KDPM2Ancestral has
    # timesteps of NaN if two sigmas are too far apart.
    if not scheduler.timesteps.min() >= 0:
        return False
    # Runge-Kutta steps of PNDM go down by T // n, whatever the distance of two timesteps.
    total = scheduler.config.num_train_timesteps
    is_runge_kutta = isinstance(scheduler, PNDMScheduler) and not scheduler.config.skip_prk_steps
    return not is_runge_kutta or total % num_inference_steps <= 0.01 * total


@contextlib.contextmanager
def _true_distance(scheduler: SchedulerMixin, step_index: int) -> Iterator[None]:
    """Let DDIM and PNDM step to the next of their timesteps, and from the last one to the image.

    They step down by T // n instead: with n = 48 of T = 1000 by 20, which leaves the noise of the last 40 timesteps.
    """
    if not isinstance(scheduler, (DDIMScheduler, PNDMScheduler)) or not scheduler.config.get("skip_prk_steps", True):
        yield
        return
    # The second step of PNDM repeats the first one, with a better slope.
    index = 0 if isinstance(scheduler, PNDMScheduler) and step_index == 1 else step_index
    start, end = [*scheduler.timesteps.tolist(), -1][index : index + 2]
    num_inference_steps = scheduler.num_inference_steps
    scheduler.num_inference_steps = Fraction(scheduler.config.num_train_timesteps, start - end)
    try:
        yield
    finally:
        scheduler.num_inference_steps = num_inference_steps


def _can_average_epsilon(scheduler: SchedulerMixin) -> bool:
    """Whether v is to become epsilon for PNDM: not if the first step is so long that a mean of two epsilons spoils it.

    In the first step of a cosine schedule sigma falls from 20,000 to 13, by 50 steps.
    """
    if scheduler.config.prediction_type != "v_prediction":
        return False
    signals = scheduler.alphas_cumprod[scheduler.timesteps.cpu().unique()[-2:]].double()
    sigmas = ((1 - signals) / signals).sqrt()
    return float(sigmas[-1] / sigmas[0]) < 10


def to_values(images: Any, pixel_type: str, value_range: tuple[float, float]) -> Any:
    """An array of floats in [0, 1] as values of a type, from the first to the second of the range."""
    if pixel_type == "uint8":
        return (images * 255).round().astype("uint8")
    low, high = value_range
    values = low + images.astype("float64") * (high - low)
    return values.round().astype(pixel_type) if pixel_type == "uint16" else values.astype(pixel_type)


def checked_range(pixel_type: Any, value_range: Any) -> tuple[float, float] | None:
    """The lowest and the highest value of images of this type, None = 0 and 255; a `ValueError` if the two do not fit."""
    require(pixel_type in PIXEL_TYPES, "pixel_type", pixel_type, f"give one of {PIXEL_TYPES}")
    if pixel_type == "uint8":
        require(value_range is None, "value_range", value_range, "leave it out, the images are uint8")
        return None
    is_saved = isinstance(value_range, Mapping) and set(value_range) == {"low", "high"}
    pair = [value_range["low"], value_range["high"]] if is_saved else value_range
    is_pair = isinstance(pair, (list, tuple)) and len(pair) == 2
    require(is_pair, "value_range", value_range, f"give (low, high), as the images are {pixel_type}")
    limits = (0, 65535) if pixel_type == "uint16" else (-math.inf, math.inf)
    for index, value in enumerate(pair):
        check_number(f"value_range[{index}]", value, *limits)
    require(pair[0] < pair[1], "value_range", value_range, "give the lower value first")
    return float(pair[0]), float(pair[1])


def require(ok: bool, name: str, value: Any, remedy: str) -> None:
    """Raise a `ValueError` "name is value: remedy" unless `ok`."""
    if not ok:
        raise ValueError(f"{name} is {value!r}: {remedy}")


def check_number(name: str, value: Any, low: float = -math.inf, high: float = math.inf, *, integer: bool = False) -> None:
    """Raise a `ValueError` unless `value` is a finite number in [low, high], and an integer if it must be."""
    kind = numbers.Integral if integer else numbers.Real
    is_kind = isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)
    require(is_kind, name, value, "give an integer" if integer else "give a finite number")
    limits = f"at least {low}" if high == math.inf else f"a number from {low} to {high}"
    require(low <= value <= high, name, value, f"give {limits}")


def check_generator(generator: Any, count: int, each: str = "one per image") -> None:
    """Raise a `ValueError` unless `generator` is a `torch.Generator`, a list of `count`, or None."""
    several = generator if isinstance(generator, list) else [] if generator is None else [generator]
    for index, one in enumerate(several):
        name, seed = f"generator[{index}]" if several is generator else "generator", one if type(one) is int else 0
        require(isinstance(one, torch.Generator), name, one, f"give torch.Generator().manual_seed({seed})")
    if several is generator:
        require(len(several) == count, "len(generator)", len(several), f"give {count}, {each}")


def _saved_name(module: str) -> str | None:
    """The name under which a network's code is saved with it: if it belongs to this package, or came with a saved model, or,
    in the installed package, is one self-contained file of a user; None = it is not saved."""
    top = module.partition(".")[0]
    if top in (__name__.partition(".")[0], "diffusers_modules"):
        return module.rpartition(".")[2]
    if _PACKAGE is None or top == "diffusers":
        return None
    own_code = importlib.import_module(f"{_PACKAGE}.own_code")
    return None if own_code.reason_to_stay(module) else str(own_code.saved_name(module))


def _name_installed_networks(index: dict[str, Any]) -> None:
    """Load networks whose code came with the model from the installed package instead, which requires no trust."""
    for name in NETWORKS:
        named = index.get(name)
        if isinstance(named, (list, tuple)) and len(named) == 2 and named[0] in OWN_NETWORKS:
            index[name] = [importlib.import_module(f"{_PACKAGE}.models.{named[0]}").__name__, named[1]]


def copy_file(source: str, folder: Folder) -> None:
    """Copy a file into a folder, whole or not at all."""
    os.makedirs(folder, exist_ok=True)
    target = os.path.join(folder, os.path.basename(source))
    shutil.copyfile(source, target + ".tmp")
    os.replace(target + ".tmp", target)


def _plain(value: Any) -> Any:
    """Convert tensors, arrays and their scalars to Python lists and numbers."""
    return value.tolist() if hasattr(value, "tolist") else value


def _nearest(name: str, names: Iterable[str]) -> str:
    likeness = {other: difflib.SequenceMatcher(None, name.lower(), other.lower()).ratio() for other in names}
    return _printable(", ".join(sorted(likeness, key=likeness.__getitem__, reverse=True)[:3]))


def _printable(text: str) -> str:
    """Text of strangers with its control characters made visible, so that none reaches a terminal."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
