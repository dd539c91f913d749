"""Figures `inpainting` and `strengths`: real images and what a model makes of them; edits as by hf-ddpm edit."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from hf_ddpm.figures.blocks import ImageBlock, plain, plot_blocks
from hf_ddpm.figures.options import ModelDataConfig, ViewOptions
from hf_ddpm.figures.style import save_figure

if TYPE_CHECKING:
    from hf_ddpm.editing_pipeline import CFGDDPMEditingPipeline
    from hf_ddpm.figures.real_images import RealImages

Region = Literal["left", "right", "top", "bottom", "center"]
HIDDEN = 127
"""Gray of the pixels that are repainted."""


@dataclass(kw_only=True)
class EditsConfig(ViewOptions):
    """Real images and edits of them, one row per image, as hf-ddpm edit makes them of the class of the image."""

    model: str
    """Folder of a pipeline (`pipeline/` of a run, or one of its checkpoints), or a Hub id."""
    num_images: int = 5
    """Number of images: the first of each class, then the second of each, and so on; without classes the first ones."""
    scheduler: str | None = None
    """Name of a scheduler, see hf-ddpm sample; None = the one saved with the model."""
    num_inference_steps: int | None = None
    """Denoising steps from noise alone; None = 50."""
    seed: int = 0
    """Seed of the first edit; the next ones have seed + 1, seed + 2, ..."""
    device: str | None = None
    """cpu, cuda, cuda:1, mps, ...; None = cuda if there is one, else cpu."""
    data: ModelDataConfig = field(default_factory=ModelDataConfig)


@dataclass(kw_only=True)
class InpaintingConfig(EditsConfig):
    """Real images, what a model gets to see of them, and how it paints the rest by RePaint: one row per image."""

    main_options: ClassVar[tuple[str, ...]] = (
        "output", "model", "region", "num_images", "per_image", "jump_length", "jump_n_sample", "scheduler",
        "num_inference_steps", "seed", "view_channels", "device", "data.source", "data.labels", "data.split",
    )  # fmt: skip
    region: Region = "right"
    """What is repainted: a half, or the middle of half the height and width."""
    per_image: int = 3
    """Paintings of each image."""
    jump_length: int = 10
    """Steps that are taken back at once, to be repeated, see hf-ddpm edit."""
    jump_n_sample: int = 10
    """Times that each step is taken, with as many calls of the network."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for option in ("per_image", "jump_length", "jump_n_sample"):
            self.require_positive(option, "repetitions")


@dataclass(kw_only=True)
class StrengthsConfig(EditsConfig):
    """Real images, noised up to several timesteps and denoised from there: one row per image, one column per strength."""

    strengths: list[float] = field(default_factory=lambda: [0.2, 0.4, 0.6, 0.8, 1.0])
    """Noise as fractions of T, above 0 (nearly the image) up to 1 (a sample)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(all(0 < strength <= 1 for strength in self.strengths), "strengths", "give numbers above 0, at most 1")


def plot_inpainting(config: InpaintingConfig) -> list[Path]:
    """Plot real images, their known part and their inpainting; return the paths of the files."""
    pipeline, real, options = _load(config)
    mask = region_mask(config.region, real.images.shape[1:3])
    generators = _generators(config, len(real.images) * config.per_image)
    options |= {"num_images_per_prompt": config.per_image, "generator": generators}
    images = real.in_unit_range()
    painted = _view(config, pipeline, pipeline.inpaint(images, mask, config.jump_length, config.jump_n_sample, **options))
    shown = real.view(config.view_channels)
    masked = np.where(mask[:, :, None], np.uint8(HIDDEN), shown)
    columns = [shown, masked, *painted.reshape(-1, config.per_image, *painted.shape[1:]).swapaxes(0, 1)]
    return _save(config, real, columns, ["real", "known", *["inpainted"] * config.per_image])


def plot_strengths(config: StrengthsConfig) -> list[Path]:
    """Plot real images and edits of several strengths, with the same noise; return the paths of the files."""
    pipeline, real, options = _load(config)
    columns, images = [real.view(config.view_channels)], real.in_unit_range()
    for strength in config.strengths:
        generator = _generators(config, len(real.images))
        edited = pipeline.image_to_image(images, strength, generator=generator, **options)
        columns.append(_view(config, pipeline, edited))
    return _save(config, real, columns, ["real", *(f"{strength:g}" for strength in config.strengths)])


def region_mask(region: Region, size: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Which pixels of an image of this (height, width) are in a region, (H, W) bool."""
    height, width = size
    y, x = np.indices((height, width))
    return {
        "left": x < width // 2,
        "right": x >= width // 2,
        "top": y < height // 2,
        "bottom": y >= height // 2,
        "center": (abs(2 * y + 1 - height) < height / 2) & (abs(2 * x + 1 - width) < width / 2),
    }[region]


def _load(config: EditsConfig) -> tuple[CFGDDPMEditingPipeline, RealImages, dict[str, Any]]:
    """The pipeline, the real images, and options of their edits."""
    from hf_ddpm.figures import samples
    from hf_ddpm.figures.real_images import data_of_model, read_images
    from hf_ddpm.sampling import default_guidance_scale

    pipeline = samples.load_editing_pipeline(config.model, scheduler=config.scheduler, device=config.device)
    data = data_of_model(config.data, config.model)
    real = read_images(data, count=config.num_images, pipeline=pipeline)
    labels, scale = samples.real_conditions(pipeline, real), default_guidance_scale(pipeline)
    options: dict[str, Any] = {
        "num_inference_steps": config.num_inference_steps or pipeline.default_steps,
        "output_type": "np",
    }
    options |= {} if labels is None else {"class_labels": labels}
    return pipeline, real, options | ({} if scale is None else {"guidance_scale": scale})


def _generators(config: EditsConfig, count: int) -> list[Any]:
    from hf_ddpm.diffusion.randomness import image_generator

    return [image_generator(config.seed + i) for i in range(count)]


def _view(config: EditsConfig, pipeline: CFGDDPMEditingPipeline, output: Any) -> np.ndarray[Any, Any]:
    from hf_ddpm.figures.view import to_view
    from hf_ddpm.sampling import values_of

    values = values_of(pipeline, output.images, "the edits")
    return to_view(values, pipeline.value_range, config.view_channels)


def _save(config: EditsConfig, real: RealImages, columns: list[np.ndarray[Any, Any]], names: list[str]) -> list[Path]:
    row_names = None if real.names is None else [plain(name) for name in real.names]
    block = ImageBlock(images=np.stack(columns, axis=1), row_names=row_names, column_names=names)
    return save_figure(plot_blocks([block]), config.output)
