"""Load a saved pipeline and generate images with it: `for batch in generate(load_pipeline(folder), ...)`.

One image = one seed: an image depends on its seed and label, not on the batch size or the number of processes. Several
processes share the work by slicing the lists of labels and seeds.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from accelerate import PartialState
from diffusers import DDPMScheduler, DiffusionPipeline
from diffusers.utils import logging as diffusers_logging

from hf_ddpm.config import DEFAULT_GUIDANCE_SCALE
from hf_ddpm.data.options import DecodeOptions
from hf_ddpm.dcgan_pipeline import DCGANPipeline
from hf_ddpm.diffusion.randomness import counter_noise, image_generator
from hf_ddpm.first_checks import check_model, check_scheduler
from hf_ddpm.image_shape import size_pair
from hf_ddpm.own_code import trusts_code
from hf_ddpm.pipeline import CFGDDPMPipeline, Condition, check_number, require, to_values
from hf_ddpm.runtime.distributed import broadcast_from_main
from hf_ddpm.runtime.hub_requests import bounded_requests
from hf_ddpm.runtime.probe import choose, time_in_turn
from hf_ddpm.runtime.progress import Progress
from hf_ddpm.saved_model import SCHEDULER, blaming, check_finite, class_name_of, read_index
from hf_ddpm.schedulers import build_scheduler, drawing_noise, fitting_steps
from hf_ddpm.text import one_line

MAX_SEED = 2**63 - 1
TIMED_IMAGES = 8
"""Images in a call of the network that is timed."""
MAX_REASON = 500
"""Characters of the message of a library that are shown."""
NUMBERS = 10
"""Numbers over the range of a model of numbers, where it is not said which."""
ImagePipeline = CFGDDPMPipeline | DCGANPipeline
Data = TypeVar("Data", bound=DecodeOptions)
Dtype = Literal["float32", "bfloat16"]
RandomNumbers = Literal["torch", "counter"]


@dataclass(frozen=True, kw_only=True)
class SampleBatch:
    """Generated images with their labels and seeds."""

    images: np.ndarray[Any, Any]
    """(B, H, W, C), the values of the model's `pixel_type`: uint8 unless it was trained on others."""
    class_labels: list[Condition | None]
    """B class ids, sets of labels or numbers; None = no class."""
    seeds: list[int]
    """B seeds."""


def load_pipeline(
    model: str,
    *,
    scheduler: str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    variant: str | None = None,
    guide: str | None = None,
    trust_remote_code: bool = False,
) -> ImagePipeline:
    """Load a pipeline of the class in its model_index.json, from safetensors only; a `ValueError` says why not.

    Args:
        model: folder with a model_index.json (`pipeline/` of a run, or one of its checkpoints) or a Hub id.
        scheduler: name in `hf_ddpm.schedulers.SCHEDULERS`; None = the saved scheduler, with trailing timesteps. A GAN has
            none.
        device: of the network; None = cuda if available, else cpu.
        dtype: of the network.
        variant: of the files of the weights, as in `save_pretrained(folder, variant="fp16")`; None = those without one.
        guide: folder or Hub id of a worse model for the same images, whose network becomes `pipeline.guide`; None = the one
            that is saved with the model, if there is one.
        trust_remote_code: run the code of a network that came with the model, as it is of neither diffusers nor this
            package. Not needed where the program has imported its class; HF_DDPM_TRUST_REMOTE_CODE=1 allows it always.
    """
    if scheduler is not None:
        check_scheduler(scheduler)
    device = find_device(device)
    check_model(model)
    try:
        if Path(model).is_dir():
            read_index(model)
        with _no_loading_bar(), bounded_requests(), Progress(f"loading {model}"):
            is_gan = class_name_of(DiffusionPipeline.load_config(model)) == DCGANPipeline.__name__
            pipeline_class = DCGANPipeline if is_gan else CFGDDPMPipeline
            options = {} if is_gan else {"trust_remote_code": trust_remote_code or trusts_code()}
            pipeline = pipeline_class.from_pretrained(model, use_safetensors=True, dtype=dtype, variant=variant, **options)
        check_finite(network_of(pipeline), "generator" if is_gan else "unet")
        if (saved_guide := getattr(pipeline, "guide", None)) is not None:
            check_finite(saved_guide, "guide")
    except Exception as error:  # a damaged or foreign folder makes the libraries raise anything
        place = "the folder" if Path(model).is_dir() else "no such folder exists, and as a model of the Hub it"
        raise ValueError(f"model is {model!r}: {place} cannot be loaded: {one_line(error, MAX_REASON)}") from error
    if is_gan:
        for name, value in (("scheduler", scheduler), ("guide", guide)):
            require(value is None, name, value, "the model is a GAN and takes no steps, leave it out")
        return pipeline.to(device)
    if guide is not None:
        _take_guide(pipeline, guide, dtype)
    config = pipeline.scheduler.config
    if scheduler is not None:
        pipeline.scheduler = build_scheduler(scheduler, config)
    elif config.get("timestep_spacing", "trailing") != "trailing":
        pipeline.scheduler = type(pipeline.scheduler).from_config(config, timestep_spacing="trailing")
    _try_scheduler(pipeline)
    return pipeline.to(device)


def _take_guide(pipeline: CFGDDPMPipeline, guide: str, dtype: torch.dtype) -> None:
    """Let a pipeline guide away from the network of another saved model of the same classes and noise schedule."""
    check_model(guide, "guide")
    try:
        other = load_pipeline(guide, device="cpu", dtype=dtype)
    except ValueError as error:
        raise ValueError(str(error).replace("model is", "guide is", 1)) from error
    remedy = "give a worse model of the same images and classes, such as an earlier checkpoint"
    require(isinstance(other, CFGDDPMPipeline), "guide", guide, f"it is a GAN, {remedy}")
    for name in ("id2label", "null_label"):
        value, expected = getattr(other, name), getattr(pipeline, name)
        require(value == expected, "guide", guide, f"its {name} is {value} and that of the model {expected}, {remedy}")
    try:
        pipeline._check_agreement(other.scheduler)
        pipeline.set_guide(other.unet)
    except ValueError as error:
        raise ValueError(f"guide is {guide!r}: {error}") from error


def default_guidance_scale(pipeline: ImagePipeline) -> float | None:
    """The guidance scale s that programs use by default; None = the model has neither a null label nor a guide."""
    if isinstance(pipeline, CFGDDPMPipeline):
        if pipeline.built_in_guidance_scale is not None:
            return pipeline.built_in_guidance_scale
        if (saved := pipeline.sampling_defaults.get("guidance_scale")) is not None:
            return float(saved)
    return DEFAULT_GUIDANCE_SCALE if can_be_guided(pipeline) else None


def can_be_guided(pipeline: ImagePipeline) -> bool:
    """Whether the output of the network can be guided away from another one."""
    return pipeline.null_label is not None or getattr(pipeline, "guide", None) is not None


def network_of(pipeline: ImagePipeline) -> torch.nn.Module:
    """The network that generates the images."""
    return pipeline.generator if isinstance(pipeline, DCGANPipeline) else pipeline.unet


def set_dtype(pipeline: ImagePipeline, dtype: Dtype | Literal["auto"], processes: PartialState) -> Dtype:
    """Convert the float32 network of a pipeline; `auto` = to the faster type. Returns its name.

    Every process has to call it, and all get the same.
    """
    chosen = broadcast_from_main(lambda: fastest_dtype(pipeline), processes) if dtype == "auto" else dtype
    for network in (network_of(pipeline), getattr(pipeline, "guide", None)):
        if network is not None:
            torch.nn.Module.to(network, getattr(torch, chosen))  # that of diffusers warns
    return chosen


def fastest_dtype(pipeline: ImagePipeline) -> Dtype:
    """bfloat16 on a GPU that has it, or if the network, timed here, is clearly faster in it on this CPU; else float32."""
    if isinstance(pipeline, DCGANPipeline):
        return "float32"  # it generates an image in one call
    if pipeline.device.type != "cpu":
        has_it = pipeline.device.type == "cuda" and torch.cuda.is_bf16_supported()
        return "bfloat16" if has_it else "float32"
    zeros = torch.zeros(TIMED_IMAGES, dtype=torch.int64)
    images, labels = torch.zeros(TIMED_IMAGES, *image_shape_of(pipeline)), zeros if pipeline.is_conditional else None

    def call(network: Any) -> Callable[[], object]:
        return lambda: network(images.to(network.dtype), zeros, class_labels=labels)

    narrow = torch.nn.Module.to(copy.deepcopy(pipeline.unet), torch.bfloat16)
    networks: dict[Dtype, Any] = {"float32": pipeline.unet, "bfloat16": narrow}
    with torch.no_grad():
        calls = {dtype: call(network) for dtype, network in networks.items()}
        return choose(time_in_turn(calls, seconds=1.0).relative())


def image_shape_of(pipeline: ImagePipeline) -> tuple[int, int, int]:
    """(C, H, W) of the images."""
    config: Any = network_of(pipeline).config
    size, channels = config.sample_size, config.channels if isinstance(pipeline, DCGANPipeline) else config.in_channels
    return (channels, *size_pair(size))


def pixel_options(pipeline: ImagePipeline) -> dict[str, Any]:
    """Type and range of a model's values as options of real images; for 8 bits without a range, which says how others become
    such."""
    is_plain = pipeline.pixel_type == "uint8"
    return {"pixel_type": pipeline.pixel_type} | ({} if is_plain else {"value_range": pipeline.value_range})


def decoded_for(data: Data, pipeline: ImagePipeline) -> Data:
    """Options of real images that are decoded to values like the model's; a `ValueError` names one that asks for others."""
    own = pixel_options(pipeline)
    for name, value in own.items():
        given = getattr(data, name)
        require(given in (None, value), f"`{name}`", given, f"the model has {value}, leave it out")
    return replace(data, **own)


def generate(
    pipeline: ImagePipeline,
    *,
    class_labels: Sequence[Condition | None],
    seed: int = 0,
    seeds: Sequence[int] | None = None,
    batch_size: int = 64,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    guidance_interval: tuple[float, float] | None = None,
    guidance_rescale: float | None = None,
    eta: float | None = None,
    guidance: str | None = None,
    rng: RandomNumbers = "torch",
    progress: bool = False,
) -> Iterator[SampleBatch]:
    """Generate one image for each label, in this order: the call checks the options, iteration generates batches.

    Args:
        class_labels: class id, set of label ids or number of each image; all None = no class (unconditional, or the null
            label); [] = no images.
        seed: image i has the seed `seed + i`.
        seeds: seed of each image, instead of `seed`; None = seed, seed + 1, ...
        batch_size: images at a time; does not change them.
        num_inference_steps, guidance_scale, guidance_interval, guidance_rescale, eta, guidance: see `CFGDDPMPipeline`;
            None = its default. A GAN takes none of them.
        rng: where noise comes from: a generator of torch for each seed, or `counter_noise`, as in a browser.
        progress: show how many images are done, see `Progress`.
    """
    labels: list[Any] = list(class_labels)
    require(labels.count(None) in (0, len(labels)), "class_labels", labels, "give None for all images or for none of them")
    seeds = list(range(seed, seed + len(labels)) if seeds is None else seeds)
    require(len(seeds) == len(labels), "len(seeds)", len(seeds), f"give {len(labels)}, one per image")
    for image_seed in seeds:
        check_number("seed", image_seed, 0, MAX_SEED, integer=True)
    check_number("batch_size", batch_size, 1, integer=True)
    options: dict[str, Any] = {
        "num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale, "guidance_interval": guidance_interval,
        "guidance_rescale": guidance_rescale, "eta": eta, "guidance": guidance,
    }  # fmt: skip
    options = {name: value for name, value in options.items() if value is not None}
    for name, value in options.items():
        takes_steps = isinstance(pipeline, CFGDDPMPipeline)
        require(takes_steps, name, value, "the model is a GAN and takes no steps, leave it out")
    is_known = rng == "torch" or isinstance(pipeline, CFGDDPMPipeline)
    require(is_known, "rng", rng, "the model is a GAN, give torch")
    if not labels:
        return iter(())
    pipeline.check_inputs([label for label in labels if label is not None] or None, **options)
    return _batches(pipeline, labels, seeds, batch_size, options, rng, progress)


def resolve_labels(
    pipeline: ImagePipeline, class_labels: Sequence[str | int] | None, per_class: int | None, num_images: int | None
) -> list[Condition | None]:
    """Class id, set of label ids or number of each image (None = the model is unconditional) that a command line means.

    Options that do not go together, and a class that does not exist, are a `ValueError`.

    Args:
        class_labels: names or ids (names are tried first), for sets of labels joined by +, or numbers; None = those of
            `all_conditions`. Without a number of images, one image of each.
        per_class: images of each of these classes, in the order of the classes.
        num_images: total number of images, cycling through the classes.
    """
    for name, count in (("per_class", per_class), ("num_images", num_images)):
        if count is not None:
            check_number(name, count, 1, integer=True)
    require(per_class is None or num_images is None, "num_images", num_images, "leave it out, `per_class` is given too")
    if not pipeline.is_conditional:
        for name, value in (("class_labels", class_labels), ("per_class", per_class)):
            require(value is None, name, value, "the model is unconditional, give `num_images`")
        require(num_images is not None, "num_images", None, "how many images?")
        return [None] * (num_images or 0)
    require(class_labels is None or len(class_labels) > 0, "class_labels", class_labels, "name one class or more")
    ids = all_conditions(pipeline) if class_labels is None else [_condition(pipeline, label) for label in class_labels]
    if num_images is not None:
        return [ids[i % len(ids)] for i in range(num_images)]
    is_given = class_labels is not None or per_class is not None
    require(is_given, "num_images", None, "give `class_labels`, `per_class` or `num_images`")
    return [class_id for class_id in ids for _ in range(per_class or 1)]


def condition_of(pipeline: ImagePipeline) -> str | None:
    """What an image is generated for, see `CFGDDPMPipeline.condition`; a GAN takes classes or nothing."""
    return pipeline.condition if isinstance(pipeline, CFGDDPMPipeline) else "class" if pipeline.is_conditional else None


def all_conditions(pipeline: ImagePipeline) -> list[Any]:
    """The ids of all classes, each label alone, or numbers evenly spread over their range."""
    if isinstance(pipeline, CFGDDPMPipeline) and pipeline.condition == "number":
        return [float(number) for number in np.linspace(*pipeline.condition_range, NUMBERS)]
    ids = range(pipeline.num_classes or 0)
    return [[label] for label in ids] if condition_of(pipeline) == "labels" else list(ids)


def condition_name(label: Condition | None, id2label: Mapping[int, str] | None) -> str:
    """A class, a set of labels or a number in words, such as "cat", "cat+red" or "0.5"."""
    if isinstance(label, list):
        return "+".join(condition_name(each, id2label) for each in label) or "none"
    return (
        f"{label:g}"
        if isinstance(label, float)
        else str(label)
        if label is None
        else (id2label or {}).get(label, str(label))
    )


def _batches(
    pipeline: ImagePipeline,
    labels: list[Condition | None],
    seeds: list[int],
    batch_size: int,
    options: dict[str, Any],
    rng: RandomNumbers,
    progress: bool,
) -> Iterator[SampleBatch]:
    with Progress("samples", len(labels), "image", shown=progress) as bar:
        for start in range(0, len(labels), batch_size):
            part = slice(start, start + batch_size)
            images = _generate_batch(pipeline, labels[part], seeds[part], options, rng)
            yield SampleBatch(images=images, class_labels=labels[part], seeds=seeds[part])
            bar.advance(len(images))


def _generate_batch(
    pipeline: ImagePipeline, labels: list[Condition | None], seeds: list[int], options: dict[str, Any], rng: RandomNumbers
) -> np.ndarray[Any, Any]:
    # Noise is sampled on the CPU, so that a seed means the same image on every device.
    generators = [image_generator(int(seed)) for seed in seeds]
    what = {"num_images_per_prompt": len(labels)} if labels[0] is None else {"class_labels": labels}
    with _no_step_bar(pipeline), contextlib.ExitStack() as stack:
        if rng == "counter" and isinstance(pipeline, CFGDDPMPipeline):
            draws = itertools.count()

            def draw(shape: Sequence[int]) -> torch.Tensor:
                number = next(draws)
                return torch.stack([counter_noise(int(seed), shape[1:], number) for seed in seeds])

            options = {**options, "latents": draw((len(seeds), *image_shape_of(pipeline)))}
            stack.enter_context(drawing_noise(pipeline.scheduler, draw))
        images = pipeline(**what, **options, generator=generators, output_type="np")[0]
    return values_of(pipeline, images, f"the images of the seeds {seeds[0]} to {seeds[-1]}")


def values_of(pipeline: ImagePipeline, images: np.ndarray[Any, Any], what: str) -> np.ndarray[Any, Any]:
    """Images of a model in [0, 1], (B, H, W, C) float, as values of its `pixel_type`.

    A `FloatingPointError` about `what` if the model has diverged.
    """
    if not np.isfinite(images).all():
        raise FloatingPointError(f"{what} are not finite: the model has diverged")
    values: np.ndarray[Any, Any] = to_values(images, pipeline.pixel_type, pipeline.value_range)
    return values


def _condition(pipeline: ImagePipeline, label: str | int) -> Condition:
    """The class, set of labels or number of a token of a command line, where a name and an id are both text."""
    token, names = str(label), (pipeline.id2label or {}).values()

    def typed(part: str) -> str | int:
        return int(part) if part not in names and part.lstrip("-").isdecimal() else part

    found: Any = typed(token)
    if condition_of(pipeline) == "labels" and token not in names:
        found = [typed(part) for part in token.split("+")] if token else []
    elif condition_of(pipeline) == "number":
        with contextlib.suppress(ValueError):
            found = float(token)
    ids: list[Any] = pipeline.get_label_ids([found])
    return ids[0]


def find_device(device: str | torch.device | None) -> torch.device:
    """The device of this name (None = cuda if available, else cpu); a `ValueError` if torch cannot use it here."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=device).cpu()
    except (AssertionError, RuntimeError) as error:
        raise ValueError(f"device is {str(device)!r}: torch cannot use it here, give cpu or another") from error
    return torch.device(device)


def _try_scheduler(pipeline: CFGDDPMPipeline) -> None:
    """Take a few steps with one pixel, in milliseconds; a `ValueError` if they fail or their results are not finite.

    A scheduler that the pipeline refuses is left to its call, because another one may be set until then.
    """
    try:
        pipeline._check_scheduler()
    except ValueError:
        return
    with blaming(f"model is {pipeline.name_or_path!r}: {SCHEDULER}"), torch.random.fork_rng(devices=[]):
        scheduler: Any = type(pipeline.scheduler).from_config(pipeline.scheduler.config)
        scheduler.set_timesteps(fitting_steps(scheduler, 10))
        latents = torch.ones(1, 1, 1, 1) * scheduler.init_noise_sigma
        learns_variance = isinstance(scheduler, DDPMScheduler) and scheduler.config.variance_type == "learned_range"
        output = torch.zeros(1, 2 if learns_variance else 1, 1, 1)
        for t in scheduler.timesteps:
            scheduler.scale_model_input(latents, t)  # some warn without it
            latents = scheduler.step(output, t, latents).prev_sample
        require(bool(torch.isfinite(latents).all()), "a sample", "NaN or infinite", "the noise schedule cannot work")


@contextlib.contextmanager
def _no_loading_bar() -> Iterator[None]:
    """Keep the bar of diffusers ("Loading pipeline components") off stderr, where an error is one line."""
    was_enabled = diffusers_logging.is_progress_bar_enabled()
    diffusers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            diffusers_logging.enable_progress_bar()


@contextlib.contextmanager
def _no_step_bar(pipeline: ImagePipeline) -> Iterator[None]:
    """Hide the progress bar of the pipeline, which would restart with each batch."""
    config = getattr(pipeline, "_progress_bar_config", {})
    pipeline.set_progress_bar_config(**{**config, "disable": True})
    try:
        yield
    finally:
        pipeline.set_progress_bar_config(**config)
