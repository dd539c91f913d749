"""The training of a GAN through its public command, on networks of a few thousand parameters and the real digits."""

import contextlib
import hashlib
import json
import math
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

import hf_ddpm.training.gan as gan_training
from hf_ddpm.cli import parse_config
from hf_ddpm.data.description import DataDescription
from hf_ddpm.dcgan_pipeline import STAGES, DCGANPipeline
from hf_ddpm.models.dcgan import DCGAN
from hf_ddpm.run_folder import RunFolder
from hf_ddpm.runtime.distributed import init_distributed
from hf_ddpm.runtime.signals import Stopped
from hf_ddpm.sampling import load_pipeline
from hf_ddpm.training.checkpoints import TRAINING_FILES
from hf_ddpm.training.gan import WEIGHTS, adversarial_loss, sample_gan_randomness, train_gan
from hf_ddpm.training.options import LARGEST, SIZES, GANConfig
from hf_ddpm.training.task import set_up

OPTIONS = [
    "--data.image_size=8",
    "--data.batch_size=8",
    "--model.latent_dim=8",
    "--model.generator_width=4",
    "--model.discriminator_width=4",
    "--model.label_channels=3",
    "--optim.learning_rate=0.01",
    "--logging.every_steps=1",
    "--num_threads=1",
    "--mixed_precision=fp32",
]


@pytest.fixture
def config_of(some_digits, tmp_path):
    def build(name: str, *options: str) -> GANConfig:
        return parse_config(GANConfig, [*OPTIONS, some_digits, f"--output_dir={tmp_path / name}", *options])

    return build


@pytest.fixture
def run_training(config_of, tmp_path):
    """Train into tmp_path / name and return that folder."""

    def run(name: str, *options: str) -> Path:
        train_gan(config_of(name, *options))
        return tmp_path / name

    return run


@pytest.fixture
def plain(run_training, shared) -> dict[str, str]:
    """Digest of each tensor that two steps without any option make."""
    if "plain" not in shared:
        shared["plain"] = tensors(run_training("plain", "--max_train_steps=2"))
    return shared["plain"]


@pytest.fixture
def command(message_of):
    """Run the program on a mistake; its message."""
    return partial(message_of, "train_gan", *OPTIONS)


def metrics(folder: Path) -> list[dict]:
    """Lines of metrics.jsonl without what the clock says."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in record.items() if name != "images_per_second"} for record in records]


def tensors(folder: Path) -> dict[str, str]:
    """Digest of each tensor of the last checkpoint and of the pipeline."""
    last = RunFolder(folder).last_checkpoint()
    files = [*(last / name for name in (*TRAINING_FILES[1:], WEIGHTS)), folder / "pipeline" / WEIGHTS]
    return {
        f"{number}:{name}": hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
        for number, file in enumerate(files)
        for name, tensor in load_file(file).items()
    }


def outcome(folder: Path) -> tuple:
    """All that a run leaves: tensors, log and pictures."""
    pictures = {path.name: path.read_bytes() for path in (folder / "samples").iterdir()}
    return tensors(folder), metrics(folder), pictures


# A run


def test_a_run_leaves_what_every_run_leaves(run_training, capsys):
    folder = run_training("run", "--max_train_steps=4", "--logging.sample_every_steps=2", "--checkpoint.every_steps=2")
    assert {path.name for path in folder.iterdir()} == {
        "checkpoints", "config.yaml", "data.json", "environment.json", "metrics.jsonl", "pipeline", "samples"
    }  # fmt: skip
    assert not list(folder.rglob("*.partial"))
    assert sorted(path.name for path in (folder / "samples").iterdir()) == [
        "grid.json",
        "step-00000002.png",
        "step-00000004.png",
    ]
    settings = RunFolder(folder).read_grid_settings()
    assert settings.columns == 2 and settings.scheduler is settings.num_inference_steps is settings.guidance_scale is None
    lines = metrics(folder)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    for line in lines:
        assert {"d_loss", "g_loss", "d_real", "d_fake", "grad_norm", "lr", "images_seen", "epoch"} < line.keys()
        assert 0 < line["d_real"] < 1 and 0 < line["d_fake"] < 1
    said = capsys.readouterr().out
    assert str(folder / "pipeline") in said and str(DataDescription.read(RunFolder(folder).data)) in said
    saved = [load_pipeline(str(path), device="cpu") for path in (folder / "pipeline", RunFolder(folder).last_checkpoint())]
    images = [pipeline(list(range(10)), generator=_generators(10), output_type="np").images for pipeline in saved]
    np.testing.assert_array_equal(*images)
    assert saved[0].id2label == {digit: str(digit) for digit in range(10)}
    for name, tensor in saved[0].generator.state_dict().items():
        trained = load_file(RunFolder(folder).last_checkpoint() / "training/model.safetensors")[f"generator.{name}"]
        assert torch.equal(tensor, trained), "without an average the pipeline has the trained weights"


def _generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


def test_the_first_losses_are_those_of_a_discriminator_that_knows_nothing(run_training):
    (line,) = metrics(run_training("run", "--max_train_steps=1"))
    assert line["d_loss"] == pytest.approx(2 * math.log(2), abs=0.05)
    assert line["g_loss"] == pytest.approx(math.log(2), abs=0.1)


@pytest.mark.parametrize("size", [size for size in SIZES if size != 8])
def test_images_of_every_size_are_learned_and_generated(run_training, size):
    folder = run_training("run", "--max_train_steps=1", f"--data.image_size={size}")
    pipeline = load_pipeline(str(folder / "pipeline"), device="cpu")
    images = pipeline([3], generator=_generators(1), output_type="np").images
    assert images.shape == (1, size, size, 1) and np.isfinite(images).all()


def test_each_step_trains_one_network(config_of, monkeypatch):
    """The first update changes the discriminator alone, the second the generator alone."""
    config = config_of("run", "--max_train_steps=1")
    run, state = set_up(config, gan_training.training_task(config), init_distributed())
    networks = {"generator": state.network.generator, "discriminator": state.network.discriminator}
    update, changed = gan_training.update_weights, []

    def watched(*args):
        before = {name: [weights.clone() for weights in network.parameters()] for name, network in networks.items()}
        result = update(*args)
        for name, network in networks.items():
            after = zip(network.parameters(), before[name], strict=True)
            changed.append((name, any(not torch.equal(*pair) for pair in after)))
        return result

    monkeypatch.setattr(gan_training, "update_weights", watched)
    with contextlib.closing(run.batches):
        gan_training.train_step(state, run, 0)
    assert changed == [("generator", False), ("discriminator", True), ("generator", True), ("discriminator", False)]
    assert all(weights.requires_grad for weights in state.network.parameters())
    assert all(weights.grad is None for weights in state.network.parameters())


def test_the_loss_is_least_at_its_target():
    logits = torch.linspace(-6, 6, 1201)
    for target in (1.0, 0.9, 0.1):
        losses = torch.stack([adversarial_loss(logit[None], target) for logit in logits])
        at = logits[losses.argmin()].sigmoid().item()
        assert at == pytest.approx(target, abs=0.005)
    # Goodfellow et al. 2014, eq. 1: -log D for real images and -log (1 - D) for generated ones.
    assert adversarial_loss(logits, 1.0).item() == pytest.approx(-logits.sigmoid().log().mean().item(), rel=1e-5)
    assert adversarial_loss(logits, 0.0).item() == pytest.approx(-(1 - logits.sigmoid()).log().mean().item(), rel=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        ["--seed=1"],
        ["--mixed_precision=bf16"],
        ["--data.horizontal_flip=true"],
        ["--objective.real_target=0.9"],
        ["--objective.fake_target=0.1"],
        ["--objective.input_noise=0.5"],
        ["--optim.lr_warmup_steps=1"],
        ["--optim.max_grad_norm=0.01", "--optim.optimizer=adamw", "--optim.weight_decay=0.1"],
        ["--model.wide_early=true"],
        ["--data.class_conditional=false"],
    ],
    ids=lambda options: options[0],
)
def test_options_of_a_run_take_effect(run_training, plain, options):
    assert tensors(run_training("changed", "--max_train_steps=2", *options)) != plain


def test_an_average_of_the_generator_is_what_samples_are_made_with(run_training, plain):
    folder = run_training("run", "--max_train_steps=2", "--ema.decay=0.9")
    last = RunFolder(folder).last_checkpoint()
    trained, averaged = load_file(last / "training/model.safetensors"), load_file(last / WEIGHTS)
    for name, tensor in averaged.items():
        is_statistic = "running" in name or "num_batches" in name
        assert torch.equal(tensor, trained[f"generator.{name}"]) == is_statistic
    assert {name: value for name, value in tensors(folder).items() if name[0] in "01"} == {
        name: value for name, value in plain.items() if name[0] in "01"
    }, "the average has no influence on the training"


def test_an_unconditional_gan_in_colour(run_training):
    folder = run_training("run", "--max_train_steps=1", "--data.class_conditional=false", "--data.channels=3")
    pipeline = load_pipeline(str(folder / "pipeline"), device="cpu")
    assert pipeline.id2label is None and not pipeline.is_conditional
    assert pipeline(num_images_per_prompt=2, output_type="pt").images.shape == (2, 3, 8, 8)


def test_a_diverging_run_stops_before_the_step_and_names_the_images(run_training, tmp_path):
    with pytest.raises(FloatingPointError, match="step was not applied"):
        run_training("run", "--max_train_steps=9", "--optim.learning_rate=1e38")
    (file,) = (tmp_path / "run").glob("diverged-step-*.json")
    assert len(json.loads(file.read_text())["micro_steps"][0]["sample_ids"]) == 8


def test_the_randomness_of_a_step_is_a_function_of_seed_and_step():
    def sample(seed: int, step: int):
        return sample_gan_randomness(seed, step, range(16), 4, (1, 8, 8))

    same, again = sample(5, 3), sample(5, 3)
    for other in (sample(5, 4), sample(6, 3)):
        for name in ("latents", "flip", "noise"):
            assert torch.equal(getattr(same, name), getattr(again, name))
            assert not torch.equal(getattr(same, name), getattr(other, name))
    assert len(same.noise.flatten(0, 1).flatten(1).unique(dim=0)) == 3 * 16


# Stopping and going on


@pytest.mark.parametrize("options", [[], ["--ema.decay=0.9", "--objective.input_noise=0.1", "--mixed_precision=bf16"]])
def test_a_stopped_run_goes_on_bit_for_bit(run_training, monkeypatch, tmp_path, options):
    options = [
        "--max_train_steps=6",
        "--checkpoint.every_steps=2",
        "--data.horizontal_flip=true",
        "--logging.sample_every_steps=3",
        "--logging.every_steps=2",
        "--optim.lr_scheduler=cosine",
        *options,
    ]
    whole = run_training("whole", *options)
    take_step = gan_training.train_step

    def signalled(state, run, step):
        result = take_step(state, run, step)
        if step == 2:
            signal.raise_signal(signal.SIGTERM)
        return result

    monkeypatch.setattr(gan_training, "train_step", signalled)
    with pytest.raises(Stopped, match="saved at step 3; continue with --resume auto"):
        run_training("run", *options)
    monkeypatch.setattr(gan_training, "train_step", take_step)
    assert not (tmp_path / "run" / "pipeline").exists()
    torch.manual_seed(99)  # what another process would have there
    folder = run_training("run", *options, "--resume=auto")
    assert outcome(folder) == outcome(whole)
    assert not (folder / ".lock").exists()


@pytest.mark.parametrize("option", ["--model.generator_width=5", "--seed=1", "--data.image_size=16", "--data.labels=[1, 2]"])
def test_another_gan_is_not_gone_on_with(run_training, option):
    run_training("run", "--max_train_steps=1")
    with pytest.raises(ValueError, match="another run"):
        run_training("run", "--max_train_steps=2", "--resume=auto", option)


def test_a_checkpoint_without_its_generator_is_passed_over(run_training, caplog):
    folder = run_training("run", "--max_train_steps=2", "--checkpoint.every_steps=1")
    (RunFolder(folder).last_checkpoint() / WEIGHTS).unlink()
    run_training("run", "--max_train_steps=2", "--checkpoint.every_steps=1", "--resume=auto")
    assert f"{WEIGHTS} is missing" in caplog.text


# Refusals


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("--data.image_size=null", "--data.image_size is None: a DCGAN generates square images of 8, 16, 28, 32, 64 pixels"),
        ("--data.image_size=9", "--data.image_size is 9"),
        ("--data.batch_size=1", "--data.batch_size is 1"),
        ("--model.latent_dim=0", "--model.latent_dim is 0: give 1 to 1024"),
        ("--model.generator_width=5000", "--model.generator_width is 5000"),
        ("--objective.real_target=1.1", "--objective.real_target is 1.1"),
        ("--objective.fake_target=-0.1", "--objective.fake_target is -0.1"),
        ("--objective.fake_target=.nan", "--objective.fake_target is nan"),
        ("--objective.input_noise=-1", "--objective.input_noise is -1"),
        ("--mixed_precision=fp16", "--mixed_precision"),
        ("--data.streaming=true", "unknown option"),
        ("--data.test_split=test", "unknown option"),
        ("--data.shuffle_buffer=9", "unknown option"),
        ("--optim.gradient_accumulation_steps=2", "unknown option"),
        ("--objective.class_dropout_prob=0.1", "unknown option"),
        ("--schedule.num_train_timesteps=10", "unknown option"),
        ("--evaluation.every_steps=9", "unknown option"),
        ("--hub.push_to_hub=true", "unknown option"),
        ("--compile=true", "unknown option"),
    ],
)
def test_a_mistake_is_one_line(command, option, named):
    assert named in command("--max_train_steps=1", option)


def test_equal_targets_are_refused(command):
    message = command("--max_train_steps=1", "--objective.real_target=0.5", "--objective.fake_target=0.5")
    assert "--objective.fake_target is 0.5" in message


def test_several_processes_are_refused(config_of, monkeypatch, tmp_path):
    """As the second of two processes would find it, without the minute that starting them takes."""
    monkeypatch.setitem(vars(init_distributed()), "num_processes", 2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="2 processes: a GAN is trained by one"):
        train_gan(config_of("new", "--max_train_steps=1"))
    assert not (tmp_path / "new").exists()


def test_the_limits_of_the_options_are_those_of_the_networks():
    assert tuple(STAGES) == SIZES
    with torch.device("meta"):
        for name, most in LARGEST.items():
            DCGAN(sample_size=8, channels=1, num_classes=2, **{name: most})
            if name != "discriminator_width":
                with pytest.raises(ValueError, match=f"{name.removeprefix('generator_')} is {most + 1}"):
                    DCGAN(sample_size=8, channels=1, num_classes=2, **{name: most + 1})


def test_its_options_repeat_the_run(run_training, plain, tmp_path):
    folder = run_training("run", "--max_train_steps=2")
    options = yaml.safe_load((folder / "config.yaml").read_text())
    assert "hub" not in options and "test_split" not in options["data"]
    train_gan(parse_config(GANConfig, ["--config", str(folder / "config.yaml"), f"--output_dir={tmp_path / 'again'}"]))
    assert tensors(tmp_path / "again") == tensors(folder) == plain
    assert isinstance(load_pipeline(str(tmp_path / "again" / "pipeline"), device="cpu"), DCGANPipeline)
