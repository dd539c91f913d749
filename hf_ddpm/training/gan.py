"""Train a GAN: `train_gan(config)` is the whole way from options to a saved DCGANPipeline."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from torch import Tensor
from torch.nn import functional

from hf_ddpm.commandline.commands import as_typed
from hf_ddpm.data.batches import to_model_range
from hf_ddpm.data.load_splits import load_train_split
from hf_ddpm.dcgan_pipeline import DCGANPipeline
from hf_ddpm.diffusion.randomness import seeded_generator
from hf_ddpm.image_shape import plain_size
from hf_ddpm.markdown import counted
from hf_ddpm.models.dcgan import DCGAN
from hf_ddpm.runtime.folders import publish_directory
from hf_ddpm.training.augmentation import augment
from hf_ddpm.training.checkpoints import TRAINING_FILES
from hf_ddpm.training.divergence import StepRecord
from hf_ddpm.training.engine import run_training
from hf_ddpm.training.optim import build_ema, build_optimizer
from hf_ddpm.training.options import GANConfig
from hf_ddpm.training.prefetch import Place
from hf_ddpm.training.preview import save_sample_grid
from hf_ddpm.training.run import Data, Images, Run
from hf_ddpm.training.state import GeneratorState, is_finite, read_saved, tensors_of
from hf_ddpm.training.step_randomness import BLOCK, draw_in_blocks
from hf_ddpm.training.task import TrainingTask, require_one_process
from hf_ddpm.training.tracking import RunLog
from hf_ddpm.training.tuning import Trial, Tuning
from hf_ddpm.training.update import count_step, update_weights

WEIGHTS = "generator/diffusion_pytorch_model.safetensors"
MEANS = ("g_loss", "d_real", "d_fake")
"""Logged beside the discriminator's loss: the generator's loss, and the mean probability of being real that the
discriminator gave to real and to generated images before its step."""


def train_gan(config: GANConfig) -> Path:
    """Train in one process and return the folder of the saved pipeline; see `hf_ddpm.training.loop.train`."""
    return run_training(config, training_task(config))


def training_task(config: GANConfig) -> TrainingTask[GANRun, GANState]:
    """What is particular to the training of a GAN."""
    return TrainingTask(
        load=partial(load_data, config),
        build_trial=partial(build_trial, config),
        prepare=partial(prepare, config),
        train_step=train_step,
        preview=preview,
        preview_every_steps=(config.logging.sample_every_steps,),
        required=(*TRAINING_FILES, WEIGHTS),
        finish=finish,
    )


@dataclass(frozen=True)
class GANBatch:
    """What both networks train on in one step, as far as it needs no network; on the host."""

    real: Tensor
    """(B, C, H, W) float32 in [-1, 1], augmented."""
    latents: Tensor
    """(B, latent_dim) float32, standard normal."""
    noise: Tensor
    """(B, 3, C, H, W) float32, standard normal, for what the discriminator sees: real, generated, generated again."""
    class_labels: Tensor | None
    """(B,) int64; None = unconditional."""
    sample_ids: Tensor
    """(B,) int64, see `ImageBatch`."""


class GANRun(Run[GANConfig]):
    """What stays the same while a GAN is trained."""

    def prepare_batch(self, place: Place) -> GANBatch:
        config, batch = self.config, self.reader.read(place.images_seen, place.micro_step)
        positions, latent_dim = self.positions(place.micro_step), config.model.latent_dim
        randomness = sample_gan_randomness(config.seed, place.step, positions, latent_dim, self.image_shape)
        real, labels = to_model_range(batch.images, self.images.value_range), batch.class_labels
        real = augment(real, config.data, randomness.flip, seed=config.seed, step=place.step, positions=positions)
        return GANBatch(
            real=self.pinned(real),
            latents=self.pinned(randomness.latents),
            noise=self.pinned(randomness.noise),
            class_labels=None if labels is None else self.pinned(labels),
            sample_ids=batch.sample_ids,
        )


@dataclass(kw_only=True)
class GANState(GeneratorState[DCGANPipeline]):
    """What changes while a GAN is trained; `window_loss` is the discriminator's.

    One optimizer has the weights of both networks. It skips weights without a gradient, so that each of its steps trains one
    of the two networks.
    """

    network: DCGAN
    """Generator and discriminator."""
    window: dict[str, float] = field(default_factory=lambda: dict.fromkeys(MEANS, 0.0))
    """Sums of `MEANS` since the last logged step, without the `unfetched` ones."""
    unfetched: list[Tensor] = field(default_factory=list)
    """`MEANS` of the steps that have not been added yet, on the device, each (3,) float32."""

    def add_means(self) -> None:
        """Fetch the means of the last steps from the device, which waits for it."""
        for means in self.unfetched:
            for name, value in zip(MEANS, means.tolist(), strict=True):
                self.window[name] += value
        self.unfetched.clear()

    def take_window(self) -> dict[str, float]:
        self.add_means()
        means = {name: total / self.window_steps for name, total in self.window.items()}
        self.window = dict.fromkeys(MEANS, 0.0)
        return {"d_loss": super().take_window()["loss"], **means}

    def progress(self) -> dict[str, Any]:
        self.add_means()
        return {"window": self.window, **super().progress()}

    def load(self, directory: Path, accelerator: Accelerator) -> None:
        """Read back what `save` wrote; see `TrainState.load`."""
        saved = read_saved(directory, window=_is_window)
        super().load(directory, accelerator)
        self.window = {name: saved["window"][name] for name in MEANS}


def load_data(config: GANConfig, processes: PartialState) -> Data:
    """Read the train split."""
    require_one_process(processes, "a GAN", "gan")
    image_size = config.data.image_size
    assert image_size is not None, "the options demand it"
    images = load_train_split(config.data, image_size=image_size, channels=config.data.channels)
    if images.pixel_type != "uint8" or images.channels not in (1, 3):
        kind = f"{counted(images.channels, 'channel')} of {images.pixel_type}"
        remedy = ", add --data.pixel_type uint8" if images.channels in (1, 3) else ""
        raise ValueError(f"--data.source: the images have {kind}: a DCGAN generates gray or RGB images of 8 bits{remedy}")
    return images, None


def build_network(config: GANConfig, images: Images) -> DCGAN:
    """Build both networks for these images, with weights from the global random generator."""
    num_classes = None if images.class_names is None else len(images.class_names)
    shape: dict[str, Any] = {
        "sample_size": plain_size(images.image_size),
        "channels": images.channels,
        "num_classes": num_classes,
    }
    return DCGAN(**shape, **asdict(config.model))


def build_trial(config: GANConfig, data: Data, device: torch.device) -> Trial:
    """Training steps of both networks, to be timed."""
    images, _ = data

    def forward(network: Any, real: Tensor) -> Tensor:
        labels = None if images.class_names is None else torch.zeros(len(real), dtype=torch.int64, device=device)
        fake = network.generator(torch.zeros(len(real), config.model.latent_dim, device=device), labels)
        return network.discriminator(real, labels) + network.discriminator(fake, labels)

    network = build_network(config, images).to(device)
    return Trial(network=network, forward=forward, image_shape=images.image_shape, batch_size=config.data.batch_size)


def prepare(config: GANConfig, accelerator: Accelerator, data: Data, tuning: Tuning) -> tuple[GANRun, GANState]:
    """Build the run with its state at step 0."""
    run, images = GANRun(config, accelerator, *data, tuning), data[0]
    id2label = None if images.class_names is None else dict(enumerate(images.class_names))
    torch.manual_seed(seeded_generator("gan weights", config.seed).initial_seed())
    network, averaged = (build_network(config, images).to(accelerator.device) for _ in range(2))
    optimizer = build_optimizer(network.parameters(), config.optim)
    lr_scheduler = run.build_lr_scheduler(optimizer)
    state = GANState(
        network=network,
        model=network,  # not prepared by Accelerate: one process, and autocast is entered where the networks are called
        optimizer=accelerator.prepare(optimizer),
        lr_scheduler=lr_scheduler,
        generator=network.generator,
        ema=build_ema(tensors_of(network.generator).values(), config.ema),
        pipeline=DCGANPipeline(averaged.generator.requires_grad_(False), id2label),
        averaged_weights=WEIGHTS,
    )
    return run, state


def train_step(state: GANState, run: GANRun, step: int) -> float:
    """Train the discriminator, then the generator, on the same generated images; return the generator's gradient norm."""
    config, network = run.config, state.network
    batch: GANBatch = run.batches.take(Place(step, 0, state.images_seen))
    real, latents = run.on_device(batch.real), run.on_device(batch.latents)
    noise = config.objective.input_noise * run.on_device(batch.noise)
    labels = None if batch.class_labels is None else run.on_device(batch.class_labels)

    def score(images: Tensor, noise: Tensor) -> Tensor:
        with run.accelerator.autocast():
            return network.discriminator(images + noise, labels).float()

    with run.accelerator.autocast():
        fake = network.generator(latents, labels)
    fake = fake.float()

    # Goodfellow et al. 2014, eq. 1, with the targets of Salimans et al. 2016, sec. 3.4.
    scores = score(real, noise[:, 0]), score(fake.detach(), noise[:, 1])
    d_loss = adversarial_loss(scores[0], config.objective.real_target)
    d_loss = d_loss + adversarial_loss(scores[1], config.objective.fake_target)
    d_loss.backward()
    record = StepRecord([{"sample_ids": batch.sample_ids, "loss": d_loss.detach()}])
    _, mean_d_loss = update_weights(state, run, step, d_loss.detach(), record)

    # The non-saturating loss of the generator, Goodfellow et al. 2014, sec. 3.
    network.discriminator.requires_grad_(False)
    g_loss = adversarial_loss(score(fake, noise[:, 2]), 1.0)
    g_loss.backward()
    network.discriminator.requires_grad_(True)
    record = StepRecord([{"sample_ids": batch.sample_ids, "loss": g_loss.detach()}])
    grad_norm, _ = update_weights(state, run, step, g_loss.detach(), record)

    count_step(state, run, mean_d_loss)
    state.unfetched.append(torch.stack([g_loss.detach(), *(score.detach().sigmoid().mean() for score in scores)]))
    state.update_average()
    return grad_norm


def preview(state: GANState, run: GANRun, log: RunLog) -> None:
    """Save the grid of samples, and show it in the trackers."""
    save_sample_grid(state.averaged_pipeline(), run.folder, state.step, seed=run.config.seed)
    log.show_samples(state.step)


def finish(state: GANState, run: GANRun) -> Path:
    """Publish `pipeline/` with the averaged weights, and say how to use it."""
    path = run.folder.pipeline
    publish_directory(path, state.averaged_pipeline().save_pretrained, keep_but=())
    print(f"samples:  {run.folder.sample_grid(state.step)}")
    print(f"pipeline: {path}")
    images = run.folder.path / "images"
    print(f"use it:   {as_typed('hf-ddpm sample')} --model {path} --num_images 64 --output_dir {images}")
    return path


@dataclass(frozen=True)
class GANRandomness:
    """The random numbers of one optimizer step of each network, for N images of its batch."""

    latents: Tensor
    """(N, latent_dim) float32, standard normal."""
    flip: Tensor
    """(N,) bool, True with probability 0.5."""
    noise: Tensor
    """(N, 3, C, H, W) float32, standard normal, for what the discriminator sees: real, generated, generated again."""


def sample_gan_randomness(
    seed: int, step: int, positions: range, latent_dim: int, image_shape: tuple[int, int, int]
) -> GANRandomness:
    """Sample as a function of (seed, step, position in the batch) alone, on the CPU; `image_shape` is (C, H, W)."""

    def draw(generator: torch.Generator) -> tuple[Tensor, ...]:
        latents = torch.randn(BLOCK, latent_dim, generator=generator)
        flip = torch.rand(BLOCK, generator=generator) < 0.5
        return latents, flip, torch.randn(BLOCK, 3, *image_shape, generator=generator)

    return GANRandomness(*draw_in_blocks("gan", seed, step, positions, draw))


def adversarial_loss(logits: Tensor, target: float) -> Tensor:
    """Binary cross-entropy between the logits of being real, (B,) float32, and one target for all of them; () float32."""
    return functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


def _is_window(value: Any) -> bool:
    return isinstance(value, dict) and all(is_finite(value.get(name)) for name in MEANS)
