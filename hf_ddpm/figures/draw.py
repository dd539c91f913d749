"""Each figure by one call: `draw_figure(ForwardConfig(data=FigureDataConfig(source="digits"), output="figures/forward"))`.

Figures are written as PNG and as PDF, animations as GIF, the same bytes every time.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from hf_ddpm.config import ScheduleConfig, require
from hf_ddpm.data.batches import to_model_range
from hf_ddpm.diffusion.schedules import build_noise_scheduler
from hf_ddpm.figures.animation import save_gif
from hf_ddpm.figures.blocks import ImageBlock, plain, plot_blocks
from hf_ddpm.figures.curves import save_figure
from hf_ddpm.figures.grids import image_grid
from hf_ddpm.figures.losses import plot_losses, read_losses
from hf_ddpm.figures.options import (
    CheckpointsConfig,
    FigureConfig,
    ForwardConfig,
    ForwardScheduleConfig,
    GuidedConfig,
    LossesConfig,
    ModelDataConfig,
    PosteriorConfig,
    RealConfig,
    ReverseConfig,
    ReverseGifConfig,
    SchedulesConfig,
    TrainingGifConfig,
)
from hf_ddpm.figures.process import ReverseStates, StepBack, forward_states, reverse_states, step_back, to_pixels
from hf_ddpm.figures.real_images import RealImages, data_of_model, read_images
from hf_ddpm.figures.runs import checkpoint_folders, saved_grids
from hf_ddpm.figures.samples import (
    DEFAULT_STEPS,
    class_rows,
    describe_sampling,
    draw_samples,
    label_name,
    load_diffusion_pipeline,
    row_names,
    scale_of,
    scale_text,
)
from hf_ddpm.figures.schedules import plot_schedules
from hf_ddpm.pipeline import CFGDDPMPipeline
from hf_ddpm.sampling import ImagePipeline, image_shape_of, load_pipeline, resolve_labels

FORWARD_SHARES = (0, 0.01, 0.1, 0.15, 0.195, 0.999)  # of T: 0, 10, 100, 150, 195, 999 of 1000
POSTERIOR_SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)
POSTERIOR_TILE = 84  # pixels; noise is looked at more closely here
REVERSE_IMAGES = 3


def draw_figure(config: FigureConfig) -> list[Path]:
    """Draw the figure that the options are of, and write its files.

    Args:
        config: one of the classes in `options.FIGURES`.

    Returns:
        Paths of the files.

    Raises:
        ValueError: an option cannot work, with what it names.
        OSError: a file cannot be written.
    """
    return DRAWERS[type(config)](config)


def draw_forward(config: ForwardConfig) -> list[Path]:
    """Real images at several timesteps of the forward process."""
    data, size, channels = config.data, None, None
    if config.model is None:
        alphas_cumprod, beta_schedule = _alphas_cumprod(config.schedule), config.schedule.beta_schedule
    else:
        pipeline = load_diffusion_pipeline(config.model)
        alphas_cumprod, beta_schedule = pipeline.scheduler.alphas_cumprod, pipeline.scheduler.config.beta_schedule
        data, (channels, size, _) = data_of_model(data, config.model), image_shape_of(pipeline)
    total = len(alphas_cumprod)
    timesteps = config.timesteps or sorted({round(share * total) for share in FORWARD_SHARES})
    real = read_images(data, count=config.num_images, image_size=size, channels=channels)
    seeds = range(config.seed, config.seed + config.num_images)
    states = forward_states(_model_range(real), timesteps, alphas_cumprod=alphas_cumprod, seeds=seeds)
    block = ImageBlock(
        images=states.swapaxes(0, 1),
        row_names=None if real.names is None else [plain(name) for name in real.names],
        column_names=[f"t = {t}" for t in timesteps],
    )
    return save_figure(plot_blocks([block], title=_process_title(data, beta_schedule, total)), config.output)


def draw_reverse(config: ReverseConfig) -> list[Path]:
    """Samples on their way from noise, and what the network makes of them."""
    pipeline = load_diffusion_pipeline(config.model, scheduler=config.scheduler, device=config.device)
    count = config.num_images
    if count is None and config.class_labels is None:
        count = REVERSE_IMAGES
    labels = resolve_labels(pipeline, config.class_labels, None, count)
    states = _reverse(pipeline, config, labels, timesteps=config.timesteps)
    blocks = []
    for i, label in enumerate(labels):
        name = "" if label is None else f"{label_name(pipeline, label)}, "
        blocks.append(
            ImageBlock(
                images=np.stack([states.noisy_images[:, i], states.pred_images[:, i]]),
                title=f"{name}seed {config.seed + i}",
                row_names=["$x_t$", r"predicted $x_0$"],
                column_names=[f"t = {t}" for t in states.timesteps],
            )
        )
    title = describe_sampling(pipeline, config, len(labels), scale_of(pipeline, config.guidance_scale))
    return save_figure(plot_blocks(blocks, title=title), config.output)


def draw_posterior(config: PosteriorConfig) -> list[Path]:
    """One step forward, and back by the model and by the true posterior."""
    pipeline = load_diffusion_pipeline(config.model, device=config.device)
    channels, size, _ = image_shape_of(pipeline)
    data = data_of_model(config.data, config.model)
    real = read_images(data, count=config.num_images, image_size=size, channels=channels)
    labels = _labels_of(pipeline, real)
    total = len(pipeline.scheduler.alphas_cumprod)
    timesteps = config.timesteps or sorted({max(1, round(share * total)) for share in POSTERIOR_SHARES})
    seeds = range(config.seed, config.seed + config.num_images)
    steps = [step_back(pipeline, _model_range(real), labels, t, seeds=seeds) for t in timesteps]
    blocks = []
    for i in range(config.num_images):
        name = "" if real.names is None else f"{plain(real.names[i])}, "
        names = [f"{name}t = {t}" for t in timesteps]
        blocks += posterior_blocks(steps, i, names, config.amplification)
    title = _process_title(data, pipeline.scheduler.config.beta_schedule, total)
    return save_figure(plot_blocks(blocks, columns=4, tile=POSTERIOR_TILE, title=title), config.output)


def posterior_blocks(
    steps: Sequence[StepBack], image: int, names: Sequence[str], amplification: float | None
) -> list[ImageBlock]:
    """The four blocks of one image: forward, model, true posterior, and their differences.

    Args:
        steps: of K timesteps, a row each.
        image: position of the image in them.
        names: of the K rows.
        amplification: of the differences; None = a number for each.
    """

    def table(*fields: str) -> np.ndarray:
        rows = [torch.stack([getattr(step, field)[image] for field in fields]) for step in steps]
        return np.stack([to_pixels(row) for row in rows])

    shown = [
        [
            amplified(step.noisy[image] - step.previous[image], amplification),
            amplified(step.model_mean[image] - step.noisy[image], amplification),
            amplified(step.true_mean[image] - step.noisy[image], amplification),
            amplified(step.model_mean[image] - step.true_mean[image], amplification),
        ]
        for step in steps
    ]
    drawn, no_captions = ["mean", "sample"], [["", ""]] * len(steps)  # which take the same room as captions
    return [
        ImageBlock(
            images=table("previous", "noisy"),
            title=r"forward $q(x_t\,|\,x_{t-1})$",
            row_names=names,
            column_names=["$x_{t-1}$", "$x_t$"],
            captions=no_captions,
        ),
        ImageBlock(
            images=table("model_mean", "model_sample"),
            title=r"model $p_\theta(x_{t-1}\,|\,x_t)$",
            column_names=drawn,
            captions=no_captions,
        ),
        ImageBlock(
            images=table("true_mean", "true_sample"),
            title=r"posterior $q(x_{t-1}\,|\,x_t, x_0)$",
            column_names=drawn,
            captions=no_captions,
        ),
        ImageBlock(
            images=np.stack([np.stack([to_pixels(difference[None])[0] for difference, _ in row]) for row in shown]),
            title="signed differences, middle gray = none",
            column_names=["$x_t - x_{t-1}$", r"model mean $-\ x_t$", r"true mean $-\ x_t$", "model $-$ true mean"],
            captions=[[f"× {factor:g}" for _, factor in row] for row in shown],
        ),
    ]


def amplified(difference: torch.Tensor, factor: float | None) -> tuple[torch.Tensor, float]:
    """A signed difference times a factor, and the factor.

    Args:
        difference: (C, H, W) float32.
        factor: None = the largest of 1, 2, 5, 10, 20, ... (or 0.5, 0.2, ...) that leaves all but a hundredth of the values
            in [-1, 1]; 1 where there is no difference.
    """
    if factor is None:
        largest = float(torch.quantile(difference.abs().flatten(), 0.99))
        steps = [digit * 10.0**power for power in range(-2, 7) for digit in (1, 2, 5)]
        factor = max((step for step in steps if step * largest <= 1), default=steps[0]) if largest > 0 else 1.0
    return factor * difference, factor


def draw_reverse_gif(config: ReverseGifConfig) -> list[Path]:
    """The reverse process of a grid of samples."""
    pipeline = load_diffusion_pipeline(config.model, scheduler=config.scheduler, device=config.device)
    labels = class_rows(pipeline, config.class_labels, config.per_class)
    states = _reverse(pipeline, config, labels, count=config.num_frames)
    names = row_names(pipeline, labels, config.per_class)
    frames = [image_grid(images, columns=config.per_class, row_names=names) for images in states.noisy_images]
    captions = [f"t = {t}" for t in states.timesteps]
    return _save_gif(config, frames, captions, hold=20)


def draw_training_gif(config: TrainingGifConfig) -> list[Path]:
    """The same seeds over a training."""
    run, source = Path(config.run), config.frames
    if source is None:
        several = len(list((run / "samples").glob("step-*.png"))) > 1
        source = "samples" if several and not config.sampling_options() else "checkpoints"
    paths = (saved_grids if source == "samples" else checkpoint_folders)(run, config.checkpoints)
    require(len(paths) > 1, "run", str(run), f"{source} of one step make no animation, give two or more")
    frames = []
    for path in paths.values():
        if source == "samples":
            frames.append(_read_picture(path))
        else:
            _, images, names = _draw_checkpoint(config, path)
            frames.append(image_grid(images, columns=config.per_class, row_names=names))
    return _save_gif(config, frames, [f"step {step:,}" for step in paths], hold=5)


def draw_schedules(config: SchedulesConfig) -> list[Path]:
    """Variance schedules beside each other."""
    lines = config.lines()
    several = len(set(config.num_train_timesteps)) > 1
    named = {}
    for line in lines:
        name = _schedule_name(line.beta_schedule)
        named[f"{name}, T = {line.num_train_timesteps:,}" if several else name] = _alphas_cumprod(line)
    title = None if several else f"T = {lines[0].num_train_timesteps:,}"
    return save_figure(plot_schedules(named, title=title), config.output)


def draw_losses(config: LossesConfig) -> list[Path]:
    """Training losses of runs."""
    runs = [Path(run) for run in config.runs]
    for run in runs:
        require((run / "metrics.jsonl").is_file(), "runs", str(run), "it holds no metrics.jsonl, give folders of runs")
    names = [run.resolve().name for run in runs]
    unique = len(set(names)) == len(names)
    read = {name if unique else str(run): read_losses(run) for name, run in zip(names, runs, strict=True)}
    figure = plot_losses(read, smoothing=config.smoothing, log_y=config.log_y, title=config.title)
    return save_figure(figure, config.output)


def draw_guided(config: GuidedConfig) -> list[Path]:
    """Samples of each class at several guidance scales."""
    pipeline = load_diffusion_pipeline(config.model, scheduler=config.scheduler, device=config.device)
    if not pipeline.is_conditional:
        raise ValueError(f"--model is {config.model!r}: it is unconditional, give one that knows classes")
    labels = class_rows(pipeline, config.class_labels, config.per_class)
    for scale in config.guidance_scales:  # all of them before the first is drawn
        pipeline.check_inputs(labels, guidance_scale=scale, num_inference_steps=config.num_inference_steps or DEFAULT_STEPS)
    blocks = []
    for number, scale in enumerate(config.guidance_scales):
        images = draw_samples(pipeline, labels, config, guidance_scale=scale)
        names = row_names(pipeline, labels, config.per_class) if number == 0 else None
        blocks.append(ImageBlock(images=_rows(images, config.per_class), title=scale_text(scale), row_names=names))
    title = describe_sampling(pipeline, config, len(labels), None)
    return save_figure(plot_blocks(blocks, columns=len(blocks), title=title), config.output)


def draw_real(config: RealConfig) -> list[Path]:
    """Real images of each class."""
    real = read_images(config.data, per_class=config.per_class, max_classes=config.max_classes)
    names, title = None, _title_of(config.data)
    if real.names is not None:
        names = [plain(name) for name in real.names[:: config.per_class]]
        title += f", {len(names)} of {real.num_classes} classes" if len(names) < real.num_classes else ""
    block = ImageBlock(images=_rows(real.images, config.per_class), row_names=names)
    return save_figure(plot_blocks([block], title=title), config.output)


def draw_checkpoints(config: CheckpointsConfig) -> list[Path]:
    """The same seeds at checkpoints of a run."""
    folders = checkpoint_folders(Path(config.run), config.checkpoints)
    columns, blocks = min(3, len(folders)), []
    for number, (step, path) in enumerate(folders.items()):
        pipeline, images, names = _draw_checkpoint(config, path)
        names = None if number % columns else names
        blocks.append(ImageBlock(images=_rows(images, config.per_class), title=f"step {step:,}", row_names=names))
    title = describe_sampling(pipeline, config, len(images), scale_of(pipeline, config.guidance_scale))
    return save_figure(plot_blocks(blocks, columns=columns, title=title), config.output)


DRAWERS = {
    ForwardConfig: draw_forward,
    ReverseConfig: draw_reverse,
    PosteriorConfig: draw_posterior,
    ReverseGifConfig: draw_reverse_gif,
    TrainingGifConfig: draw_training_gif,
    SchedulesConfig: draw_schedules,
    LossesConfig: draw_losses,
    GuidedConfig: draw_guided,
    RealConfig: draw_real,
    CheckpointsConfig: draw_checkpoints,
}


def _draw_checkpoint(config: CheckpointsConfig, path: Path) -> tuple[ImagePipeline, np.ndarray, list[str] | None]:
    """A checkpoint's pipeline, its samples, (N, H, W, C) uint8, and the names of their rows."""
    pipeline = load_pipeline(str(path), scheduler=config.scheduler, device=config.device)
    labels = class_rows(pipeline, config.class_labels, config.per_class)
    images = draw_samples(pipeline, labels, config, guidance_scale=config.guidance_scale)
    return pipeline, images, row_names(pipeline, labels, config.per_class)


def _reverse(pipeline: CFGDDPMPipeline, config: ReverseConfig | ReverseGifConfig, labels, **kept) -> ReverseStates:
    """The states that `kept` names, of samples as the options say."""
    return reverse_states(
        pipeline,
        class_labels=labels,
        seed=config.seed,
        num_inference_steps=config.num_inference_steps or DEFAULT_STEPS,
        guidance_scale=scale_of(pipeline, config.guidance_scale),
        **kept,
    )


def _alphas_cumprod(schedule: ForwardScheduleConfig) -> torch.Tensor:
    """(T,) float32."""
    start, end = schedule.beta_range
    scheduler = build_noise_scheduler(
        beta_schedule=schedule.beta_schedule,
        num_train_timesteps=schedule.num_train_timesteps,
        beta_start=start,
        beta_end=end,
        variance_type=ScheduleConfig().variance_type,
        prediction_type="v_prediction",  # of no account here
        rescale_zero_terminal_snr=schedule.rescale_zero_terminal_snr,
    )
    return scheduler.alphas_cumprod


def _model_range(real: RealImages) -> torch.Tensor:
    """(N, C, H, W) float32 in [-1, 1]."""
    return to_model_range(torch.from_numpy(real.images).permute(0, 3, 1, 2))


def _labels_of(pipeline: CFGDDPMPipeline, real: RealImages) -> torch.Tensor | None:
    """The model's own labels of real images, by their names."""
    if not pipeline.is_conditional:
        return None
    if real.names is None:
        raise ValueError("--data.source has no labels: the model was trained with classes, give images that have them")
    known = pipeline.id2label or {}
    return torch.tensor(pipeline.get_label_ids(list(real.names) if known else real.labels))


def _title_of(data: ModelDataConfig) -> str:
    name = Path(data.source).resolve().name if Path(data.source).is_dir() else data.source
    return plain(f"{name}, {data.split or 'train'}", longest=60)


def _process_title(data: ModelDataConfig, beta_schedule: str, total: int) -> str:
    return f"{_title_of(data)}; {_schedule_name(beta_schedule)} schedule, T = {total:,}"


def _schedule_name(beta_schedule: str) -> str:
    return "cosine" if beta_schedule == "squaredcos_cap_v2" else beta_schedule


def _rows(images: np.ndarray, columns: int) -> np.ndarray:
    """(N, H, W, C) as (rows, columns, H, W, C)."""
    return images.reshape(-1, columns, *images.shape[1:])


def _read_picture(path: Path) -> Image.Image:
    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except OSError as error:
        raise ValueError(f"{path} is no picture: {error}") from None


def _save_gif(config: ReverseGifConfig | TrainingGifConfig, frames, captions, *, hold: int) -> list[Path]:
    path = Path(f"{config.output}.gif")
    save_gif(frames, captions, path, milliseconds=config.milliseconds, hold=hold, num_colors=config.num_colors)
    return [path]
