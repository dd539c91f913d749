"""Distances grow as images get worse, with the features of a judge trained on the data."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torchmetrics.image.fid import FrechetInceptionDistance

from hf_ddpm.cli import parse_config
from hf_ddpm.data.table import load_images
from hf_ddpm.evaluation.features import Extractor, build_extractor
from hf_ddpm.metrics.frechet import RunningStatistics, frechet_distance
from hf_ddpm.metrics.kernel import kernel_distance
from hf_ddpm.models.judge import load_judge
from hf_ddpm.training.judge import train_judge
from hf_ddpm.training.options import JudgeConfig


@pytest.fixture(scope="module")
def judge(tmp_path_factory) -> str:
    """A judge of digits after some seconds of training."""
    folder = tmp_path_factory.mktemp("taught") / "run"
    options = ["--data.test_split=test", "--data.image_size=8", "--data.batch_size=64", "--model.widths=[16, 16, 32]"]
    options += ["--model.depths=[1, 1, 1]", "--optim.learning_rate=5e-3", "--max_train_steps=120"]
    options += ["--num_threads=1", "--mixed_precision=fp32"]
    train_judge(parse_config(JudgeConfig, [*options, f"--output_dir={folder}"]))
    return str(folder)


@pytest.fixture(scope="module")
def extractor(judge) -> Extractor:
    built = build_extractor(f"judge:{judge}", device="cpu", min_judge_accuracy=0.8)
    assert built.name == "judge"
    return built


def images_of(split: str) -> torch.Tensor:
    table = load_images("digits", split, image_size=8)
    return table.images(torch.arange(len(table)))


def with_noise(images: torch.Tensor, level: int) -> torch.Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (images + 20 * level * noise).round().clamp(0, 255).to(torch.uint8)


def blurred(images: torch.Tensor, level: int) -> torch.Tensor:
    blur = ImageFilter.GaussianBlur(0.5 * level)
    return torch.stack(
        [torch.from_numpy(np.array(Image.fromarray(image[0].numpy()).filter(blur)))[None] for image in images]
    )


def blacked_out(images: torch.Tensor, level: int) -> torch.Tensor:
    images = images.clone()
    images[:, :, : 2 * level, : 2 * level] = 0
    return images


@pytest.mark.parametrize("degrade", [with_noise, blurred, blacked_out])
def test_distances_grow_with_what_is_done_to_images(extractor, degrade):
    real, held_out = extractor(images_of("train")).features.numpy(), images_of("test")
    frechet, kernel = [], []
    for level in range(4):
        features = extractor(degrade(held_out, level) if level else held_out).features.numpy()
        moments = []
        for rows in (features, real):
            moments.append(RunningStatistics(extractor.dim))
            moments[-1].update(rows)
        frechet.append(frechet_distance(*(running.result() for running in moments)))
        kernel.append(kernel_distance(features, real))
    assert frechet == sorted(frechet) and frechet[3] > 3 * frechet[0], frechet
    assert kernel == sorted(kernel) and kernel[3] > 3 * abs(kernel[0]), kernel


def test_the_distance_of_judge_features_is_that_of_torchmetrics(judge, extractor):
    class JudgeFeatures(torch.nn.Module):
        num_features = extractor.dim

        def __init__(self):
            super().__init__()
            self.judge = load_judge(judge)

        def forward(self, images):
            return self.judge(images).features

    theirs, ours = FrechetInceptionDistance(feature=JudgeFeatures(), input_img_size=(1, 8, 8)), []
    for images, real in ((images_of("train"), True), (with_noise(images_of("test"), 1), False)):
        ours.append(RunningStatistics(extractor.dim))
        for batch in images.split(100):
            theirs.update(batch, real=real)
            ours[-1].update(extractor(batch).features.numpy())
    distance = frechet_distance(*(running.result() for running in ours))
    assert distance == pytest.approx(theirs.compute().item(), rel=1e-4)
