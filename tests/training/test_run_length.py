"""Where a run ends, and its learning rates, if it is continued with another batch size, length or schedule."""

import json
import re

import pytest
import torch

from hf_ddpm.cli import parse_config
from hf_ddpm.config import OptimConfig
from hf_ddpm.data.table import load_images
from hf_ddpm.run_folder import RunFolder
from hf_ddpm.training.checkpoints import write_manifest
from hf_ddpm.training.gan import train_gan
from hf_ddpm.training.judge import train_judge
from hf_ddpm.training.loop import DiffusionRun, train
from hf_ddpm.training.options import GANConfig, JudgeConfig, TrainConfig
from hf_ddpm.training.run import Run
from hf_ddpm.training.task import build_accelerator
from hf_ddpm.training.tuning import Tuning

NUM_IMAGES = 48  # of `some_digits`
PROGRAMS = {
    "train": (TrainConfig, train, ["--data.batch_size=10"]),
    "train_gan": (
        GANConfig, train_gan,
        ["--data.image_size=8", "--model.generator_width=4", "--model.discriminator_width=4", "--model.latent_dim=4"],
    ),
    "train_judge": (
        JudgeConfig, train_judge,
        ["--data.test_split=test", "--data.image_size=8", "--model.widths=[8, 16]", "--model.depths=[1, 1]"],
    ),
}  # fmt: skip


@pytest.fixture
def run_training(some_digits, tiny_options, tmp_path):
    """Train a network of a program into tmp_path / "run" and return the lines of its log."""

    def run(*options: str, program: str = "train") -> list[dict]:
        kind, train_it, own = PROGRAMS[program]
        shared = (
            tiny_options[2:]
            if program == "train"
            else ["--logging.every_steps=1", "--num_threads=1", "--mixed_precision=fp32"]
        )
        train_it(parse_config(kind, [*shared, *own, some_digits, f"--output_dir={tmp_path / 'run'}", *options]))
        return RunFolder(tmp_path / "run").read_metrics()

    return run


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return load_images("digits", "train", image_size=8, max_images=NUM_IMAGES)


@pytest.fixture
def length_of(images, tiny_options):
    """A run of 48 images per epoch that continues from somewhere."""

    def build(step: int, images_seen: int, *options: str) -> Run:
        config = parse_config(TrainConfig, [*tiny_options, "--output_dir=nowhere", *options])
        tuning = Tuning(mixed_precision="fp32", memory_format="contiguous", num_threads=1)
        run = DiffusionRun(config, build_accelerator(config, tuning), images, None, tuning)
        run.begin_at(step, images_seen)
        return run

    return build


@pytest.mark.parametrize("program", PROGRAMS)
def test_epochs_are_counted_in_images(run_training, capsys, program):
    rows = run_training("--num_train_epochs=1", "--data.batch_size=10", program=program)
    assert [row["epoch"] for row in rows if "epoch" in row][-1] >= 1
    rows = run_training("--num_train_epochs=2", "--data.batch_size=20", "--resume=auto", program=program)
    seen = [row["images_seen"] for row in rows if "images_seen" in row]
    assert seen == [10, 20, 30, 40, 50, 70, 90, 110], "two epochs are 96 images"
    line = "20 images per step instead of 10: the run still ends at 2 epochs, now at step 8"
    assert line in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "total_steps"),
    [
        (["--data.batch_size=10"], 10),  # as without a pause
        (["--data.batch_size=20"], 8),
        (["--data.batch_size=5"], 15),
        (["--data.batch_size=10", "--optim.gradient_accumulation_steps=2"], 8),
        (["--data.batch_size=1000"], 6),
    ],
)
def test_the_end_in_epochs(length_of, options, total_steps):
    run = length_of(5, 50, "--num_train_epochs=2", *options)
    assert run.total_steps == total_steps
    assert not run.is_over(step=4, images_seen=40)


def test_an_end_that_is_reached_is_no_step_away(length_of):
    run = length_of(3, 60, "--num_train_epochs=1", "--data.batch_size=5")
    assert run.total_steps == 3 and run.is_over(step=3, images_seen=60) and not run.is_over(step=2, images_seen=40)


def test_steps_stay_steps(run_training, capsys):
    run_training("--max_train_steps=4")
    rows = run_training("--max_train_steps=6", "--data.batch_size=24", "--resume=auto")
    assert [row["images_seen"] for row in rows] == [10, 20, 30, 40, 64, 88]
    line = "24 images per step instead of 10: the run still ends at step 6, now after 1.83 epochs"
    assert line in capsys.readouterr().out


def test_fewer_epochs_than_are_done_are_refused(run_training):
    run_training("--num_train_epochs=2")
    with pytest.raises(ValueError, match="is past the end of this run, 1 epochs: make it longer"):
        run_training("--num_train_epochs=1", "--data.batch_size=20", "--resume=auto")


@pytest.mark.parametrize("schedule", [
    {"lr_scheduler": "cosine"}, {"lr_scheduler": "linear"},
    {"lr_scheduler": "multistep", "lr_milestones": [1, 3], "lr_gamma": 0.1},
], ids=["cosine", "linear", "multistep"])  # fmt: skip
@pytest.mark.parametrize("warmup", [0, 3])
def test_the_schedule_follows_the_images(length_of, schedule, warmup):
    """A run that doubles its batch size has after the same images the same rate as one that had it from the start."""
    options = [f"--optim.{name}={value}" for name, value in {**schedule, "lr_warmup_steps": warmup}.items()]
    whole = length_of(0, 0, "--num_train_epochs=4", "--data.batch_size=8", *options)
    doubled = length_of(6, 48, "--num_train_epochs=4", "--data.batch_size=16", *options)
    assert (whole.total_steps, doubled.total_steps) == (24, 6 + 9)
    before, after = factors(whole), factors(doubled)
    for step in range(6, 16) if warmup == 0 else (15,):
        assert after(step) == pytest.approx(before(6 + 2 * (step - 6)), abs=1e-12)
    assert [after(step) for step in range(warmup)] == [before(step) for step in range(warmup)]


def factors(run: Run):
    """The factor of the learning rate at each step."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=OptimConfig().learning_rate)
    return run.build_lr_scheduler(optimizer).lr_lambdas[0]


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (
            ["--optim.lr_scheduler=cosine"],
            ["--max_train_steps=8"],
            "rises from 0 to 0.0005 at step 5, .* cosine over 8 steps",
        ),
        (
            ["--optim.lr_scheduler=linear"],
            ["--max_train_steps=8"],
            "from 0 to 0.0005 at step 5, .* linear over 8 steps",
        ),
        (["--optim.lr_scheduler=constant"], ["--max_train_steps=8"], None),
        (["--optim.lr_scheduler=linear"], ["--max_train_steps=8", "--optim.lr_scheduler=constant"], "rises from 0 to 0.001"),
        (
            ["--optim.lr_scheduler=constant"],
            ["--max_train_steps=8", "--optim.lr_warmup_steps=8"],
            "from 0.001 to 0.0005",
        ),
        (["--optim.lr_scheduler=cosine"], [], None),
    ],
    ids=["cosine", "linear", "constant", "another schedule", "warm-up", "nothing left to train"],
)
def test_a_rate_that_jumps_is_said(run_training, caplog, before, now, said):
    fixed = ["--max_train_steps=4", "--optim.learning_rate=1e-3", "--optim.lr_warmup_steps=0", *before]
    run_training(*fixed)
    caplog.clear()
    run_training(*fixed, *now, "--resume=auto")
    lines = [message for message in caplog.messages if message.startswith("the learning rate")]
    assert len(lines) == (said is not None)
    if said is not None:
        assert re.search(said, lines[0])


def test_a_shorter_run_says_that_its_rate_falls(run_training, caplog, tmp_path):
    options = ["--optim.lr_scheduler=linear", "--checkpoint.every_steps=4", "--optim.learning_rate=1e-3"]
    run_training("--max_train_steps=8", "--optim.lr_warmup_steps=0", *options)
    checkpoint = RunFolder(tmp_path / "run").checkpoint(4)
    caplog.clear()
    run_training("--max_train_steps=5", "--optim.lr_warmup_steps=0", *options, f"--resume={checkpoint}")
    assert "the learning rate falls from 0.0005 to 0.0002 at step 5" in caplog.text


def test_a_checkpoint_of_an_earlier_version_says_no_rate(run_training, caplog, tmp_path):
    run_training("--max_train_steps=2", "--optim.lr_scheduler=cosine")
    checkpoint = RunFolder(tmp_path / "run").checkpoint(2)
    state = checkpoint / "training" / "state.json"
    saved = json.loads(state.read_text())
    del saved["next_learning_rate"]
    state.write_text(json.dumps(saved))
    (checkpoint / "manifest.json").unlink()
    write_manifest(checkpoint)
    caplog.clear()
    run_training("--max_train_steps=4", "--optim.lr_scheduler=cosine", "--resume=auto")
    assert "the learning rate" not in caplog.text


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_logged_rate_is_that_of_the_step(run_training, program):
    """A warm-up begins at 0, and the last step of a linear schedule is not made with 0."""
    options = ["--optim.learning_rate=0.1", "--optim.lr_scheduler=linear", "--optim.lr_warmup_steps=2"]
    rows = run_training("--max_train_steps=4", *options, program=program)
    assert [row["lr"] for row in rows if "lr" in row] == pytest.approx([0, 0.05, 0.1, 0.05])
