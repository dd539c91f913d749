"""Options of hf-ddpm edit, one class for each edit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hf_ddpm.config import BaseConfig, require_seeds, require_view_channels
from hf_ddpm.first_checks import check_free, grid_beside

RESAMPLING_SCHEDULERS = ("ddpm", "ddim")


@dataclass(kw_only=True)
class EditConfig(BaseConfig):
    """Edit images with a saved pipeline."""

    model: str
    """Folder of a pipeline (`pipeline/` of a run, or one of its checkpoints), or its id on the Hub."""
    output_dir: Path
    """New or empty folder for the edits alone; their grid is OUTPUT_DIR-grid.png beside it."""
    class_labels: list[str | int] | None = None
    """Class by name or id, set of labels such as cat+red, or number: one for all images, or one per image; None = no class,
    the null label."""
    guidance_scale: float | None = None
    """s in u + s (c - u) towards the class, 1 = no guidance; None = that saved with the model, or 1.5, or 1 for a model
    without a null label."""
    num_inference_steps: int | None = None
    """Denoising steps from noise alone, of which an edit may take a part; None = those saved with the model, for its
    scheduler, or 50."""
    scheduler: str | None = None
    """Name of a scheduler, see hf-ddpm sample; None = the one saved with the model."""
    eta: float | None = None
    """Noise of the scheduler ddim, from 0 (deterministic) to 1 (as much as ddpm); None = 0."""
    seed: int = 0
    """Seed of the first edit; the following ones have seed + 1, seed + 2, ..."""
    view_channels: list[int] | None = None
    """Channels that the grid shows, see hf-ddpm sample; None = the first three, or the first of one or two."""
    device: str | None = None
    """cpu, cuda, cuda:1, mps, ...; None = cuda if available, else cpu."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_view_channels(self.view_channels)
        self.require_positive("num_inference_steps", "steps")
        self.require(self.eta is None or 0 <= self.eta <= 1, "eta", "give a number from 0 to 1")
        is_used = self.guidance_scale is None or self.class_labels is not None
        self.require(is_used, "guidance_scale", "guidance leads towards a class, give --class_labels")
        self.require(self.class_labels != [], "class_labels", "name one class or more")
        require_seeds("seed", self.seed)
        check_free(Path(self.output_dir))

    @property
    def grid(self) -> Path:
        """File of the grid, beside the folder of the images."""
        return grid_beside(Path(self.output_dir))


@dataclass(kw_only=True)
class FitOptions(EditConfig):
    """Images of other sizes."""

    fit: bool = False
    """Resize and crop images of another size, and turn colour into gray for a model of gray images, as training does; False:
    such images are refused."""


@dataclass(kw_only=True)
class ImagesConfig(FitOptions):
    """Edit each of several images."""

    images: list[str]
    """Image files, or folders of them (those directly in it, by name)."""
    per_image: int = 1
    """Edits of each image."""
    batch_size: int = 64
    """Edits at a time; does not change them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.images != [], "images", "give at least one")
        self.require_positive("per_image", "edits")
        self.require_positive("batch_size", "images")


@dataclass(kw_only=True)
class ImageToImageConfig(ImagesConfig):
    """Noise images up to a timestep, and denoise them from there: variations of them, or images of another class."""

    strength: float = 0.5
    """Noise as a fraction of T, above 0 (nearly the image) up to 1 (noise alone)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(0 < self.strength <= 1, "strength", "give a number above 0, at most 1")


@dataclass(kw_only=True)
class InpaintConfig(ImagesConfig):
    """Repaint a part of images by RePaint; all other pixels stay exactly as they are. With ddpm or ddim only."""

    mask: Path
    """Image of the size of the model's, for all images: what is white (from 50 % on) is repainted."""
    jump_length: int = 10
    """Steps that are taken back at once, to be repeated: j of the paper. Less than num_inference_steps."""
    jump_n_sample: int = 10
    """Times that each step is taken, with as many calls of the network: r of the paper. 1 = no repetition."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("jump_length", "steps")
        self.require_positive("jump_n_sample", "repetitions")
        is_able = self.scheduler in (None, *RESAMPLING_SCHEDULERS)
        self.require(is_able, "scheduler", f"steps can be repeated with {' and '.join(RESAMPLING_SCHEDULERS)} only")


@dataclass(kw_only=True)
class InterpolateConfig(FitOptions):
    """Images between two samples (slerp of their noise), or between two given images."""

    images: list[str] | None = None
    """Two image files; they are noised with the same noise, and all images between them denoised. None = two samples."""
    last_seed: int | None = None
    """Seed of the last sample, --seed is that of the first; None = seed + 1. Only without --images."""
    num_images: int = 8
    """Images in all, from the first to the last."""
    strength: float | None = None
    """Noise of given images as a fraction of T, above 0 up to 1; None = 0.5. Only with --images."""
    scheduler: str | None = None
    """Name of a scheduler, see hf-ddpm sample; None = ddim between samples, which need one without noise in its steps, and
    between images the one saved with the model."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.num_images >= 2, "num_images", "give at least 2")
        one_class = self.class_labels is None or len(self.class_labels) == 1
        self.require(one_class, "class_labels", "give one class for all images")
        if self.images is None:
            self.require(self.strength is None, "strength", "add --images, or leave it out")
            self.require(not self.fit, "fit", "add --images, or leave it out")
            self.require(not self.eta, "eta", "samples are interpolated without noise in the steps, leave it out")
            if self.last_seed is not None:
                require_seeds("last_seed", self.last_seed)
            return
        self.require(len(self.images) == 2, "images", "give two image files")
        self.require(self.last_seed is None, "last_seed", "both images have the same noise, leave it out")
        self.require(self.strength is None or 0 < self.strength <= 1, "strength", "give a number above 0, at most 1")


EDITS: dict[str, type[EditConfig]] = {
    "image_to_image": ImageToImageConfig,
    "inpaint": InpaintConfig,
    "interpolate": InterpolateConfig,
}
"""Options of each edit, by its name on the command line."""
