"""Train a GAN: `train_gan(config)` is the whole way from options to a saved DCGANPipeline.

It runs on the engine of all training (`hf_ddpm.training.engine`): the same run folder, checkpoints, log and
signals. Only the networks, their data and their step are others.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from hf_ddpm.data.batches import flip_horizontally, to_model_range
from hf_ddpm.data.load_splits import load_splits
from hf_ddpm.dcgan_pipeline import DCGANPipeline
from hf_ddpm.models.dcgan import DCGAN
from hf_ddpm.run_folder import RunFolder
from hf_ddpm.training.checkpoints import TRAINING_FILES, publish_directory
from hf_ddpm.training.divergence import StepRecord
from hf_ddpm.training.engine import Run, TrainingTask, count_step, run_training, update_weights
from hf_ddpm.training.optim import build_ema, build_lr_scheduler, build_optimizer
from hf_ddpm.training.options import GANConfig
from hf_ddpm.training.preview import save_sample_grid
from hf_ddpm.training.randomness import seeded_generator
from hf_ddpm.training.state import TrainState, load_network_state, naming_checkpoint, read_extra, save_network_state
from hf_ddpm.training.tracking import RunLog

WEIGHTS = "generator/diffusion_pytorch_model.safetensors"
MEANS = ("g_loss", "d_real", "d_fake")
"""What is logged beside the discriminator's loss: the generator's, and the mean probability of being real that the
discriminator gave real and generated images before its step."""


@dataclass(kw_only=True)
class GANState(TrainState):
    """What changes while a GAN is trained; the network is a DCGAN, `window_loss` is of the discriminator.

    One optimizer has the weights of both networks. It leaves alone those without a gradient, so that each of its steps is of
    one of the two networks.
    """

    ema: EMAModel | None  # of the generator; None = no moving average
    pipeline: DCGANPipeline  # holds a second generator, for the averaged weights
    window: dict[str, float] = field(default_factory=lambda: dict.fromkeys(MEANS, 0.0))  # sums since the last logged step

    def take_window(self) -> dict[str, float]:
        steps = self.window_steps
        means = {name: total / steps for name, total in self.window.items()}
        self.window = dict.fromkeys(MEANS, 0.0)
        return {"d_loss": super().take_window()["loss"], **means}

    def averaged_pipeline(self) -> DCGANPipeline:
        """The pipeline with the averaged weights of this step (the trained ones where there is no average)."""
        targets = _tensors(self.pipeline.generator)
        sources = _tensors(self.network.generator) if self.ema is None else self.ema.shadow_params
        with torch.no_grad():
            for target, source in zip(targets, sources, strict=True):
                target.copy_(source)
        return self.pipeline


@dataclass(frozen=True)
class GANRandomness:
    """What one optimizer step of each network draws, for the N images of its batch; the noise is on what the discriminator
    sees: real images, generated images, and these again when the generator learns."""

    latents: Tensor  # (N, latent_dim) float32, standard normal
    flip: Tensor  # (N,) bool, True with probability 0.5
    noise: Tensor  # (3, N, C, H, W) float32, standard normal


def train_gan(config: GANConfig) -> Path:
    """Train, checkpoint, sample and save, in one process.

    Args:
        config: every option of the run.

    Returns:
        The folder of the saved pipeline, `output_dir/pipeline`.

    Raises:
        ValueError, FloatingPointError, Stopped: see `hf_ddpm.training.loop.train`.
    """
    return run_training(
        config,
        TrainingTask(
            prepare=_prepare,
            train_step=gan_step,
            preview=_preview,
            preview_every_steps=(config.logging.sample_every_steps,),
            save_state=_save_state,
            load_state=_load_state,
            required=(*TRAINING_FILES, WEIGHTS),
            finish=_finish,
        ),
    )


def draw_gan_randomness(seed: int, step: int, count: int, latent_dim: int, image_shape: tuple) -> GANRandomness:
    """Draw as a function of (seed, step) and of nothing else, on the CPU; `image_shape` is (C, H, W)."""
    generator = seeded_generator("gan", seed, step)
    return GANRandomness(
        latents=torch.randn(count, latent_dim, generator=generator),
        flip=torch.rand(count, generator=generator) < 0.5,
        noise=torch.randn(3, count, *image_shape, generator=generator),
    )


def gan_step(state: GANState, run: Run, step: int) -> Tensor:
    """One optimizer step of the discriminator, and then one of the generator, on the same generated images.

    Returns:
        The norm of the generator's gradient before clipping, () float32.

    Raises:
        FloatingPointError: a norm or a loss is not finite; that step is not taken.
    """
    config, device, network = run.config, run.accelerator.device, state.network
    drawn = draw_gan_randomness(config.seed, step, run.batch_size, config.model.latent_dim, run.image_shape)
    batch = run.reader.read(state.images_seen, 0)
    real = to_model_range(batch.images)
    if config.data.horizontal_flip:
        real = flip_horizontally(real, drawn.flip)
    real, latents, noise = real.to(device), drawn.latents.to(device), config.objective.input_noise * drawn.noise.to(device)
    labels = None if batch.class_labels is None else batch.class_labels.to(device)

    def score(images: Tensor, noise: Tensor) -> Tensor:
        with run.accelerator.autocast():
            return network.discriminator(images + noise, labels).float()

    with run.accelerator.autocast():
        fake = network.generator(latents, labels)
    fake = fake.float()

    # Goodfellow et al. 2014, eq. 1, with the targets of Salimans et al. 2016, sec. 3.4.
    real_score, fake_score = score(real, noise[0]), score(fake.detach(), noise[1])
    d_loss = adversarial_loss(real_score, config.objective.real_target)
    d_loss = d_loss + adversarial_loss(fake_score, config.objective.fake_target)
    d_loss.backward()
    _, d_loss = update_weights(state, run, step, d_loss.detach(), _record(batch, d_loss))

    # The generator's loss that does not saturate, Goodfellow et al. 2014, sec. 3.
    network.discriminator.requires_grad_(False)
    g_loss = adversarial_loss(score(fake, noise[2]), 1.0)
    g_loss.backward()
    network.discriminator.requires_grad_(True)
    grad_norm, g_loss = update_weights(state, run, step, g_loss.detach(), _record(batch, g_loss))

    count_step(state, run, d_loss)
    means = (g_loss, real_score.detach().sigmoid().mean(), fake_score.detach().sigmoid().mean())
    for name, value in zip(MEANS, means, strict=True):
        state.window[name] += value.item()
    if state.ema is not None:
        state.ema.step(_tensors(network.generator))
    return grad_norm


def adversarial_loss(logits: Tensor, target: float) -> Tensor:
    """Binary cross-entropy of the logits of being real, (B,) float32, and one target for all of them; () float32."""
    return functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


def _record(batch: Any, loss: Tensor) -> StepRecord:
    record = StepRecord()
    record.add(sample_ids=batch.sample_ids, loss=loss.detach())
    return record


def _tensors(generator: torch.nn.Module) -> list[Tensor]:
    """Weights and statistics of the batch norm; the moving average takes over the latter as they are."""
    return list(generator.state_dict(keep_vars=True).values())


def _prepare(config: GANConfig, accelerator: Accelerator) -> tuple[Run, GANState]:
    """Read the data and build the run with its state at step 0."""
    if accelerator.num_processes > 1:
        raise ValueError(
            f"the launcher started {accelerator.num_processes} processes: a GAN is trained by one, "
            "start train_scripts/train_gan.py with python"
        )
    images, _ = load_splits(config.data, image_size=config.data.image_size, channels=config.data.channels)
    run = Run(config, accelerator, images, None)
    names = images.class_names
    shape = {"sample_size": images.image_size, "channels": images.channels, "num_classes": names and len(names)}
    torch.manual_seed(seeded_generator("gan weights", config.seed).initial_seed())
    network, averaged = (DCGAN(**shape, **asdict(config.model)).to(accelerator.device) for _ in range(2))
    optimizer = build_optimizer(network.parameters(), config.optim)
    lr_scheduler = build_lr_scheduler(
        optimizer, config.optim, total_steps=run.total_steps, steps_per_unit=run.steps_per_unit
    )
    state = GANState(
        network=network,
        model=network,  # without `prepare`: one process, and autocast is said where the networks are called
        optimizer=accelerator.prepare(optimizer),
        lr_scheduler=lr_scheduler,
        ema=build_ema(_tensors(network.generator), config.ema),
        pipeline=DCGANPipeline(averaged.generator.requires_grad_(False), names and dict(enumerate(names))),
    )
    return run, state


def _preview(state: GANState, run: Run, log: RunLog) -> None:
    """Draw the grid of samples."""
    save_sample_grid(state.averaged_pipeline(), RunFolder(run.dir), state.step, seed=run.config.seed)


def _save_state(state: GANState, accelerator: Accelerator, directory: Path, extra: dict[str, Any]) -> None:
    """Write a checkpoint that is a pipeline folder too; see `hf_ddpm.training.state.save_state`."""
    state.averaged_pipeline().save_pretrained(directory)
    ema_step = None if state.ema is None else state.ema.optimization_step
    save_network_state(state, accelerator, directory, {"window": state.window, "ema_step": ema_step, **extra})


def _load_state(state: GANState, accelerator: Accelerator, directory: Path) -> None:
    """Read back what `_save_state` wrote; see `hf_ddpm.training.state.load_state`."""
    load_network_state(state, accelerator, directory)
    with naming_checkpoint(directory):
        saved = read_extra(directory)
        state.window = {name: saved["window"][name] for name in MEANS}
        if state.ema is not None:
            averaged = load_file(directory / WEIGHTS)
            for shadow, name in zip(state.ema.shadow_params, state.network.generator.state_dict(), strict=True):
                shadow.copy_(averaged[name])
            state.ema.optimization_step = saved["ema_step"] or 0


def _finish(state: GANState, run: Run) -> Path:
    """Publish `pipeline/` with the averaged weights, and say how to use it."""
    path = run.dir / "pipeline"
    publish_directory(path, lambda directory: state.averaged_pipeline().save_pretrained(directory))
    print(f"samples:  {run.dir / 'samples' / f'step-{state.step:08d}.png'}")
    print(f"pipeline: {path}")
    print(f"use it:   python train_scripts/sample.py --model {path} --num_images 64 --output_dir {run.dir / 'images'}")
    return path
