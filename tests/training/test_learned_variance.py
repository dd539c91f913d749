"""A learned variance and the variational bound, from the command line's options to samples."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_ddpm.cli import parse_config
from hf_ddpm.pipeline import CFGDDPMPipeline
from hf_ddpm.sampling import build_scheduler, generate, load_pipeline
from hf_ddpm.training.loop import train
from hf_ddpm.training.options import TrainConfig

LEARNED = "--schedule.variance_type=learned_range"
BOUND = "--objective.loss_weighting=vlb"


@pytest.fixture
def run_training(tiny_options, tmp_path):
    """Train and return the records of metrics.jsonl and the folder of the saved pipeline."""

    def run(*options: str) -> tuple[list[dict], Path]:
        folder = tmp_path / "run"
        pipeline = train(parse_config(TrainConfig, [*tiny_options, f"--output_dir={folder}", *options]))
        return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()], pipeline

    return run


def losses(records: list[dict]) -> torch.Tensor:
    return torch.tensor([record["loss"] for record in records if "loss" in record])


def sample(pipeline: CFGDDPMPipeline, scheduler: str, steps: int = 5) -> np.ndarray:
    sampler = build_scheduler(scheduler, pipeline.scheduler.config)
    switched = CFGDDPMPipeline(pipeline.unet, sampler, id2label=pipeline.id2label, null_label=pipeline.null_label)
    return next(generate(switched, class_labels=[3, 7], num_inference_steps=steps, guidance_scale=2.0)).images


@pytest.mark.parametrize("channels", [1, 3])
def test_a_hybrid_run_lowers_its_loss_and_samples(run_training, channels):
    records, folder = run_training(
        LEARNED, f"--data.channels={channels}", "--max_train_steps=45", "--optim.learning_rate=0.004",
        "--logging.every_steps=15", "--data.test_split=test", "--logging.sample_every_steps=45",
    )  # fmt: skip
    values = losses(records)
    assert values.isfinite().all() and values[-1] < 0.9 * values[0]
    (test_loss,) = [record["test_loss"] for record in records if "test_loss" in record]
    assert test_loss < 1.5, "the loss of the prediction, without that of the variance"
    pipeline = load_pipeline(str(folder))
    assert (pipeline.unet.config.in_channels, pipeline.unet.config.out_channels) == (channels, 2 * channels)
    assert pipeline.scheduler.config.variance_type == "learned_range"
    images = {name: sample(pipeline, name) for name in ("ddpm", "ddim", "dpmsolver++")}
    one_step = sample(pipeline, "ddpm", steps=1)
    assert {image.shape for image in images.values()} == {(2, 8, 8, channels)}
    with torch.no_grad():
        pipeline.unet.conv_out.bias[channels:] += 0.5
    for name, before in images.items():
        changed = (sample(pipeline, name) != before).any()
        assert changed == (name == "ddpm"), "only DDPM has a variance"
    assert (sample(pipeline, "ddpm", steps=1) == one_step).all(), "the last step adds no noise"


def test_training_lowers_the_bound(run_training):
    records, folder = run_training(
        BOUND, "--objective.prediction_type=epsilon", "--schedule.beta_schedule=linear", "--max_train_steps=40",
        "--data.batch_size=32", "--optim.learning_rate=0.004", "--objective.timestep_sampling=stratified",
    )  # fmt: skip
    values = losses(records)
    # Medians: the weight of the first timesteps is so large that single batches decide a mean.
    assert len(values) == 40 and values.isfinite().all() and values[-20:].median() < 0.8 * values[:10].median()
    assert load_pipeline(str(folder)).unet.config.out_channels == 1


def test_the_bound_stays_finite_in_bfloat16_and_at_pure_noise(run_training):
    # The weight of an error of x_0 is largest of all: some thousands at the first timesteps.
    records, _ = run_training(
        BOUND, LEARNED, "--objective.prediction_type=sample", "--schedule.rescale_zero_terminal_snr=true",
        "--mixed_precision=bf16", "--max_train_steps=30",
    )  # fmt: skip
    assert len(records) == 30 and losses(records).isfinite().all()
