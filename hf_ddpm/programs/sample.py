r"""Generate images with a saved pipeline: a folder of PNG or npy files, or one samples.npz, and a grid beside it.

    hf-ddpm sample --model runs/digits/pipeline --per_class 8 --output_dir runs/digits/images
    hf-ddpm sample --model runs/digits/pipeline --class_labels 3 7 --num_images 64 \
        --guidance_scale 2 --scheduler dpmsolver++ --num_inference_steps 20 --output_dir runs/digits/some
    torchrun --nproc_per_node 2 -m hf_ddpm sample ...        # the processes share the images
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from hf_ddpm.cli import parse_config, user_errors
from hf_ddpm.config import require, require_seeds, require_view_channels
from hf_ddpm.first_checks import check_class_labels, check_free, check_model, check_scheduler, grid_beside, needs_scipy
from hf_ddpm.runtime.libraries import load_libraries


@dataclass(kw_only=True)
class SampleConfig:
    """Generate images with a saved pipeline."""

    main_options: ClassVar[tuple[str, ...]] = (
        "model", "output_dir", "class_labels", "per_class", "num_images", "guidance_scale", "scheduler",
        "num_inference_steps", "seed", "batch_size", "format", "view_channels", "device", "dtype",
    )  # fmt: skip
    model: str
    """Folder of a pipeline (`pipeline/` of a run, or one of its checkpoints), or its id on the Hub."""
    output_dir: Path
    """New or empty folder for the images alone, as torch-fidelity and `imagefolder` read it; the grid is OUTPUT_DIR-grid.png
    beside it."""
    class_labels: list[str | int] | None = None
    """Classes by name or id, as in [3, 7], sets of labels, as in [cat+red, dog], or numbers; None = all classes, each of the
    labels alone, or 10 numbers."""
    per_class: int | None = None
    """Images per class; None = given by `num_images`, or one of each of `class_labels`."""
    num_images: int | None = None
    """Total number of images, cycling through the classes; None = given by `per_class`."""
    guidance_scale: float | None = None
    """s in u + s (c - u), 1 = no guidance; None = as saved with the model, or 1.5, or 1 without a null label."""
    guidance: Literal["cfg", "apg", "cfg_zero_star", "autoguidance"] | None = None
    """What u is: the output with the null label (cfg, and its variants apg and cfg_zero_star for high s), or that of the
    guide (autoguidance); None = as saved with the model, or autoguidance if there is a guide, else cfg."""
    guidance_interval: tuple[float, float] | None = None
    """As [low, high], guidance acts where low <= t / T < high, elsewhere the network alone; None = as saved with the model,
    or everywhere, which is [0, 1]."""
    guide: str | None = None
    """Folder or Hub id of a worse model of the same images to guide away from, such as an earlier checkpoint of the run or a
    smaller network; None = the one saved with the model, if there is one."""
    scheduler: str | None = None
    """ddpm, ddim, dpmsolver++, dpmsolver++_single, deis, unipc, euler, euler_ancestral, heun, kdpm2, kdpm2_ancestral, lms,
    pndm or dpmsolver_sde (with torchsde); None = the scheduler saved with the model."""
    num_inference_steps: int | None = None
    """Denoising steps; None = as saved for the scheduler, or 50. Not for a GAN."""
    eta: float | None = None
    """Noise of the scheduler ddim, from 0 (deterministic) to 1 (as much as ddpm); None = 0. A GAN has none."""
    seed: int = 0
    """Seed of the first image; the following ones have seed + 1, seed + 2, ..."""
    rng: Literal["torch", "counter"] = "torch"
    """Where noise comes from: torch's generators, or a counter-based one, with which a seed means the same image as in the
    page of hf-ddpm export-web."""
    batch_size: int = 64
    """Images at a time; does not change them."""
    format: Literal["png", "npy", "npz"] | None = None
    """One PNG file per image; one npy file per image, an array (H, W, C) with values like those of the training data; or one
    samples.npz with images, class_labels (-1 = none) and seeds. None = png if PNG can hold the images: gray and RGB ones of
    8 bits, gray ones of 16; else npy."""
    view_channels: list[int] | None = None
    """Channels that the grid shows, counted from 0: three as red, green and blue, or one in gray; None = the first three, or
    the first of one or two."""
    device: str | None = None
    """cpu, cuda, cuda:1, mps, ...; None = cuda if available, else cpu."""
    variant: str | None = None
    """Variant of the weights, as in `save_pretrained(folder, variant="fp16")`; None = those without one."""
    dtype: Literal["auto", "float32", "bfloat16"] = "float32"
    """Precision of the network; `auto` = bfloat16 if calls timed at the start say that it is faster. An image of a seed is
    the same on every machine, but for rounding, in float32 alone."""
    num_threads: int | None = None
    """CPU threads per process; None = as many as are worth it, which the first calls of the network show."""

    def __post_init__(self):
        at_least = {"per_class": 1, "num_images": 1, "num_inference_steps": 1, "batch_size": 1, "num_threads": 1}
        for option, low in at_least.items():
            value = getattr(self, option)
            require(value is None or value >= low, option, value, f"give at least {low}")
        require_seeds("seed", self.seed)
        require_view_channels(self.view_channels)
        require(self.eta is None or 0 <= self.eta <= 1, "eta", self.eta, "give a number from 0 to 1")
        low, high = self.guidance_interval or (0, 1)
        remedy = "give [low, high] with 0 <= low <= high <= 1"
        require(0 <= low <= high <= 1, "guidance_interval", self.guidance_interval, remedy)
        check_free(Path(self.output_dir))

    @property
    def grid(self) -> Path:
        """File of the grid, beside the folder of the images."""
        return grid_beside(Path(self.output_dir))


def main(args: list[str] | None = None) -> None:
    config = parse_config(SampleConfig, args, about=__doc__)
    with user_errors(SampleConfig):
        check_model(config.model)
        if config.scheduler is not None:
            check_scheduler(config.scheduler)
        if config.guide is not None:
            check_model(config.guide, "guide")
        check_class_labels(config.model, config.class_labels or ())
        load_libraries(*(() if needs_scipy(config.model, config.scheduler) else ("scipy",)))
        from hf_ddpm.runtime.distributed import init_distributed
        from hf_ddpm.runtime.threads import choose_threads_in_use
        from hf_ddpm.sample_folder import sample_to_folder
        from hf_ddpm.sampling import default_guidance_scale, load_pipeline, network_of, resolve_labels, set_dtype

        processes = init_distributed(config.num_threads)
        device = config.device or processes.device
        pipeline = load_pipeline(
            config.model, scheduler=config.scheduler, device=device, variant=config.variant, guide=config.guide
        )
        set_dtype(pipeline, config.dtype, processes)
        if config.num_threads is None:
            choose_threads_in_use(network_of(pipeline))
        labels = resolve_labels(pipeline, config.class_labels, config.per_class, config.num_images)
        sample_to_folder(
            pipeline,
            labels,
            config.output_dir,
            processes=processes,
            seed=config.seed,
            batch_size=config.batch_size,
            num_inference_steps=config.num_inference_steps,
            guidance_scale=default_guidance_scale(pipeline) if config.guidance_scale is None else config.guidance_scale,
            eta=config.eta,
            guidance=config.guidance,
            guidance_interval=config.guidance_interval,
            rng=config.rng,
            file_format=config.format,
            grid=config.grid,
            row_length=config.per_class,
            view_channels=config.view_channels,
        )
        if processes.is_main_process:
            print(f"{len(labels)} images: {config.output_dir}, grid: {config.grid}")
