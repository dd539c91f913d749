"""A GAN is evaluated by the same program as a diffusion model, without what applies to diffusion only."""

import numpy as np
import pytest
import torch

from hf_ddpm.cli import parse_config
from hf_ddpm.dcgan_pipeline import DCGANGenerator, DCGANPipeline
from hf_ddpm.evaluation.options import EvaluationConfig
from hf_ddpm.evaluation.protocol import evaluate
from hf_ddpm.experiments.options import SweepConfig
from hf_ddpm.experiments.sweep import sweep
from hf_ddpm.results import Results


@pytest.fixture
def options(tiny_judge, tmp_path) -> list[str]:
    """Command line of a measurement of a fresh GAN in the folder of a run."""
    torch.manual_seed(0)
    network = DCGANGenerator(8, 1, latent_dim=6, width=4, num_classes=10)
    names = {digit: str(digit) for digit in range(10)}
    DCGANPipeline(network, names).save_pretrained(tmp_path / "run" / "pipeline")
    (tmp_path / "run" / "config.yaml").write_text("data: {source: digits, image_size: 8, train_split: train}")
    return [
        f"--model={tmp_path / 'run' / 'pipeline'}",
        f"--features=judge:{tiny_judge}",
        "--min_judge_accuracy=null",
        "--num_images=24",
        "--num_seeds=2",
        "--device=cpu",
        "--num_threads=1",
    ]


def test_the_metrics_of_a_gan(options, load_script, tmp_path, capsys):
    output = tmp_path / "run" / "results" / "eval.json"
    load_script("evaluate_model").main([*options, f"--output={output}"])
    results = Results.read(output)
    assert {"fd_judge", "class_accuracy", "recall", "nearest_train_distance"} < results.metrics.keys()
    assert not {"simple_loss_train", "simple_loss_test"} & results.metrics.keys(), "it has no denoising loss"
    assert not {"scheduler", "num_inference_steps", "guidance_scale", "eta"} & results.protocol.keys()
    assert "24 images, one call of a GAN" in output.with_suffix(".md").read_text()
    assert not (tmp_path / "run" / "pipeline" / "README.md").exists(), "the cards tell of diffusion models"
    again = evaluate(
        parse_config(EvaluationConfig, [*options, "--sampling.batch_size=5", f"--output={tmp_path / 'b.json'}"])
    )
    for name, value in results.metrics.items():
        np.testing.assert_allclose(again.metrics[name].values, value.values, rtol=1e-3, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    "option",
    ["sampling.num_inference_steps=20", "sampling.guidance_scale=1", "sampling.eta=1", "sampling.scheduler=ddim",
     "bits_per_dim_images=4"],
)  # fmt: skip
def test_options_of_diffusion_are_refused(options, tmp_path, option):
    name = option.split("=")[0].split(".")[-1]
    with pytest.raises(ValueError, match=f"{name} is .*: the model is a GAN"):
        evaluate(parse_config(EvaluationConfig, [*options, f"--{option}", f"--output={tmp_path / 'c.json'}"]))
    assert not (tmp_path / "c.json").exists()


def test_a_sweep_takes_the_recipe_of_a_gan_and_not_its_pipeline(options, tmp_path):
    config = parse_config(SweepConfig, [*options, "--grid.guidance_scale=[1, 2]", f"--output_dir={tmp_path / 'sweep'}"])
    with pytest.raises(ValueError, match="it is a GAN, measure it with hf-ddpm evaluate, or sweep over its recipe"):
        sweep(config)
