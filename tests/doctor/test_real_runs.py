"""Runs that are made wrong on purpose, and two good ones, are trained and examined: `pytest -m slow tests/doctor -n 0`.

hf_ddpm/doctor/README.md has the numbers that they show.
"""

from pathlib import Path

import numpy as np
import pytest

from hf_ddpm.cli import parse_config
from hf_ddpm.doctor.examine import examine
from hf_ddpm.run_folder import RunFolder
from hf_ddpm.training.loop import train
from hf_ddpm.training.options import TrainConfig

ROOT = Path(__file__).parents[2]
OPTIONS = [
    f"--config={ROOT / 'train_scripts/recipes/digits.yaml'}", "--model.overrides.block_out_channels=[16, 32]",
    "--model.overrides.attention_head_dim=8", "--num_threads=1", "--mixed_precision=fp32",
    "--data.batch_size=32", "--logging.every_steps=10", "--logging.sample_every_steps=500", "--checkpoint.every_steps=null",
]  # fmt: skip
GOOD = {
    "first": ["--max_train_steps=1500"],
    "second": ["--max_train_steps=1500", "--seed=1", "--schedule.beta_schedule=linear",
               "--objective.prediction_type=epsilon", "--model.overrides.block_out_channels=[16, 24]"],
}  # fmt: skip
WRONG = {
    "learning rate too high": ["--max_train_steps=500", "--optim.learning_rate=1"],
    "not converged": ["--max_train_steps=100"],
    "overfitting": ["--max_train_steps=1500", "--data.max_images=50"],
    "data too small": ["--max_train_steps=600", "--data.max_images=200"],
    "averaged weights lag": ["--max_train_steps=800", "--ema.decay=0.9999", "--ema.power=2"],
}
ALSO = {"overfitting": ["data too small"]}
"""What else is found in a wrong run."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=GOOD)
def good(request, tmp_path_factory):
    return trained(tmp_path_factory.mktemp(request.param), GOOD[request.param])


def trained(folder: Path, options: list[str]) -> RunFolder:
    train(parse_config(TrainConfig, [*OPTIONS, *options, f"--output_dir={folder / 'run'}"]))
    return RunFolder(folder / "run")


def names(run: RunFolder, **options) -> list[str]:
    return [finding.name for finding in examine(run, **options).findings]


def test_nothing_is_said_about_a_good_run(good):
    assert names(good, samples=True) == []


def test_a_scheduler_that_does_not_fit(good):
    assert names(good, samples=True, scheduler="ddpm", num_inference_steps=2) == ["scheduler does not fit"]


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_run(name, tmp_path):
    assert names(trained(tmp_path, WRONG[name])) == [name, *ALSO.get(name, [])]


def test_a_run_that_diverges(tmp_path):
    options = [
        "--max_train_steps=300",
        "--optim.learning_rate=1e12",
        "--optim.max_grad_norm=null",
        "--optim.lr_warmup_steps=30",
    ]
    with pytest.raises(FloatingPointError):
        trained(tmp_path, [*options, "--optim.lr_warmup_steps=30"])
    assert names(RunFolder(tmp_path / "run")) == ["diverged"]


def test_labels_that_do_not_match_the_images(tmp_path):
    write_shuffled_digits(tmp_path / "shuffled")
    run = trained(tmp_path, ["--max_train_steps=1000", f"--data.source={tmp_path / 'shuffled'}"])
    assert names(run, samples=True) == ["classes ignored"]


def write_shuffled_digits(folder: Path) -> None:
    """Write scikit-learn's digits as class folders, with the labels shuffled."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    labels = np.random.default_rng(0).permutation(digits.target)
    for number, (image, label) in enumerate(zip(digits.images, labels, strict=True)):
        path = folder / ("train" if number < 1437 else "test") / str(label) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 255 / 16).round().astype(np.uint8)).save(path)
