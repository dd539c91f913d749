"""A sweep over recipes of both programs: equal times, the page that compares them, and its parts."""

import csv
import json
import random
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from hf_ddpm.cli import parse_config
from hf_ddpm.evaluation.options import EvaluationConfig, SamplingConfig
from hf_ddpm.experiments.comparison import MAX_PICTURE, mean_losses, small_png
from hf_ddpm.experiments.equal_time import STEPS, with_equal_time
from hf_ddpm.experiments.facts import ComparisonFacts
from hf_ddpm.experiments.options import SweepConfig, SweepGrid
from hf_ddpm.experiments.page import comparison_page
from hf_ddpm.experiments.sweep import evaluation_command, point_config, sweep
from hf_ddpm.training.options import GANConfig, TrainConfig

DATA = {"source": "digits", "max_images": 40, "batch_size": 4}
GAN = {
    "max_train_steps": 2,
    "data": {**DATA, "image_size": 8},
    "model": {"latent_dim": 4, "generator_width": 4, "discriminator_width": 4, "label_channels": 2},
    "logging": {"every_steps": 1, "sample_every_steps": None},
    "num_threads": 1,
}


@pytest.fixture
def recipes(tmp_path) -> list[Path]:
    """One of train.py and one of train_gan.py."""
    model = {
        "preset": "digits8",
        "overrides": {"block_out_channels": [8, 16], "norm_num_groups": 4, "attention_head_dim": 4},
    }
    tiny = {**GAN, "model": model, "num_train_epochs": 1, "max_train_steps": None, "data": {**DATA, "test_split": "test"}}
    for name, options in (("tiny", tiny), ("gan", {"program": "train_gan", **GAN})):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(options))
    return [tmp_path / "tiny.yaml", tmp_path / "gan.yaml"]


def config_of(tmp_path, recipes, **options) -> SweepConfig:
    grid = {"recipe": recipes, **options.pop("grid", {})}
    return SweepConfig(features="judge:j", output_dir=tmp_path / "out", grid=SweepGrid(**grid), **options)


# The script


def test_recipes_of_both_programs_are_compared_at_equal_time(recipes, tiny_judge, tmp_path, load_script, monkeypatch):
    out = tmp_path / "out"
    arguments = [
        f"--grid.recipe=[{', '.join(map(str, recipes))}]", "--grid.guidance_scale=[2]", "--train_minutes=0.0001",
        f"--features=judge:{tiny_judge}", "--min_judge_accuracy=null", "--num_images=20", "--num_seeds=2",
        "--sampling.scheduler=ddim", "--sampling.num_inference_steps=1", "--num_threads=1", f"--output_dir={out}",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["train_scripts/sweep.py", *arguments])
    (out / "calibration").mkdir(parents=True)
    (out / "calibration" / "config.yaml").write_text("left by a start that was killed")
    load_script("sweep").main(arguments)

    lines = list(csv.DictReader((out / "sweep.csv").read_text().splitlines()))
    axes = ("cell", "scheduler", "num_inference_steps", "guidance_scale", "network_calls")
    assert [tuple(line[axis] for axis in axes) for line in lines] == [
        ("tiny_s-2", "ddim", "1", "2.0", "2"), ("gan", "", "", "", "1"),
    ]  # fmt: skip
    timed = json.loads((out / STEPS).read_text())["recipes"]
    for name, about in timed.items():
        assert about["steps"] == max(1, int(0.006 / about["seconds_per_step"]))
        kept = yaml.safe_load((out / "runs" / f"{name}-seed-0" / "config.yaml").read_text())
        assert (kept["max_train_steps"], kept["num_train_epochs"]) == (about["steps"], None)
    assert not (out / "calibration").exists()

    page, text = (out / "comparison.md").read_text(), (out / "comparison.json").read_text()
    facts = json.loads(text)
    assert page == comparison_page(ComparisonFacts.from_json(text)) and ComparisonFacts.from_json(text).to_json() == text
    assert str(tmp_path) not in text and str(tiny_judge.parent) not in text and not re.search(r'["\s=:]/\w', text)
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", page):
        assert 0 < (out / picture).stat().st_size < MAX_PICTURE
    tiny, gan = facts["runs"]
    for run, name in ((tiny, "tiny"), (gan, "gan")):
        rows = [json.loads(row) for row in (out / "runs" / f"{name}-seed-0" / "metrics.jsonl").read_text().splitlines()]
        rows = [row for row in rows if "images_per_second" in row]
        assert run["training_seconds"] == pytest.approx(sum(4 / row["images_per_second"] for row in rows))
        assert run["steps"] == len(rows) == timed[name]["steps"] and run["train_images"] == 40
    assert gan["kind"] == "GAN" and gan["final_losses"].keys() == {"d_loss", "g_loss"}
    assert facts["cells"][1]["per_class"]["3"].keys() == {"fd_judge", "class_accuracy"}


# Points and recipes of GANs


def test_a_gan_is_one_point_whatever_the_axes_of_steps_and_guidance(tmp_path, recipes):
    grid = {"guidance_scale": [1.0, 2.0], "scheduler": ["ddim", "ddpm"], "num_images": [8, 9], "train_seed": [0, 1]}
    sampling = SamplingConfig(num_inference_steps=7, eta=0.5, dtype="bfloat16")
    config = config_of(tmp_path, recipes[::-1], grid=grid, sampling=sampling, bits_per_dim_images=4)
    cells = [cell for cell in config.points() if cell.is_gan]
    assert [cell.name for cell in cells] == ["gan_seed-0_n-8", "gan_seed-0_n-9", "gan_seed-1_n-8", "gan_seed-1_n-9"]
    assert len(config.points()) == 4 + 2 * 2 * 2 * 2
    options = point_config(config, cells[0])
    assert options.sampling == SamplingConfig(dtype="bfloat16")  # evaluate refuses a GAN with other options than these
    assert options.bits_per_dim_images is None and options.num_images == 8


def test_the_program_is_what_the_recipe_says_or_extends_and_not_what_a_comment_says(tmp_path, capsys):
    texts = {
        "a": "program: train_gan\nmax_train_steps: 2\n",
        "b": "extends: a.yaml\n",
        "c": "# `python train_scripts/train_gan.py`\nmax_train_steps: 2\n",
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    runs = config_of(tmp_path, [tmp_path / f"{name}.yaml" for name in texts]).runs()
    assert [(run.program, run.is_gan) for run in runs] == [("train_gan", True), ("train_gan", True), ("train", False)]
    (tmp_path / "d.yaml").write_text("max_train_steps: 2\nmodel: {latent_dim: 4}\n")
    with pytest.raises(SystemExit):
        config_of(tmp_path, [tmp_path / "d.yaml"]).trainings()
    assert "a recipe of another program needs the key `program`" in capsys.readouterr().err
    (tmp_path / "a.yaml").write_text("program: train_judge\n")
    with pytest.raises(ValueError, match="a.yaml.: it is a recipe of train_judge, give recipes of train or train_gan"):
        config_of(tmp_path, [tmp_path / "a.yaml"])


def test_what_only_a_diffusion_model_has_is_refused_for_gans_alone(tmp_path, recipes):
    for options in ({"grid": {"guidance_scale": [1.0]}}, {"bits_per_dim_images": 4}):
        with pytest.raises(ValueError, match="all recipes are of GANs"):
            config_of(tmp_path, recipes[1:], **options)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"image_size": 16}, "the recipes have images of 8 and 16 pixels"),
        ({"labels": [1, 2]}, "the recipes have different data"),
        ({"channels": 3}, "the recipes have images of 1 and 3 channels"),
    ],
)
def test_recipes_of_other_data_are_refused_before_anything_is_trained(tmp_path, recipes, changed, message):
    config = config_of(tmp_path, recipes)
    tiny = parse_config(TrainConfig, [f"--config={recipes[0]}", "--output_dir=a", "--data.channels=1"])
    arguments = [f"--config={recipes[1]}", "--output_dir=b", *(f"--data.{name}={value}" for name, value in changed.items())]
    gan = parse_config(GANConfig, arguments)
    trainings = dict(zip(config.runs(), (tiny, gan), strict=True))
    with pytest.raises(ValueError, match=message):
        sweep(config, trainings)
    assert not (tmp_path / "out").exists()


# Pictures


def test_loss_curves_are_means_over_the_trainings_of_a_recipe(tmp_path, recipes):
    tiny, tiny_too, gan, gan_too = config_of(tmp_path, recipes, grid={"train_seed": [0, 1]}).runs()
    first, second = ({"step": step, "loss": loss, "lr": 0.1} for step, loss in ((5, 2.0), (10, 1.0)))
    last = {"step": 5, "d_loss": 1.5, "g_loss": 0.5}
    losses = {tiny: [first, second], tiny_too: [{**first, "loss": 3.0}], gan: [last], gan_too: [last]}
    assert mean_losses(losses) == {"tiny, mean of 2": [{"step": 5, "loss": 2.5}], "gan, mean of 2": [last]}
    assert mean_losses({tiny: [first]}) == {"tiny": [{"step": 5, "loss": 2.0}]}


# Equal times


def test_timings_are_kept_and_milestones_are_refused(tmp_path, recipes):
    options = parse_config(GANConfig, [f"--config={recipes[1]}", f"--output_dir={tmp_path}"])
    config = config_of(tmp_path, recipes[1:], train_minutes=1.5)
    path = tmp_path / "out" / STEPS
    (run,) = config.runs()
    run.folder.path.mkdir(parents=True)
    with pytest.raises(ValueError, match="--train_minutes is 1.5: the sweep in .* was started without it"):
        with_equal_time(config, {run: options})
    path.write_text(json.dumps({"train_minutes": 1.5, "recipes": {"gan": {"seconds_per_step": 1.0, "steps": 90}}}))
    (training,) = with_equal_time(config, {run: options}).values()
    assert training.max_train_steps == 90
    optim = replace(options.optim, lr_scheduler="multistep", lr_milestones=[1], lr_gamma=0.5)
    with pytest.raises(ValueError, match=r"--optim.lr_milestones is \[1\]: gan.yaml gives them in the unit of its length"):
        with_equal_time(config, {run: replace(options, optim=optim)})
    for other in (2.0, None):
        other = config_of(tmp_path, recipes[1:], train_minutes=other)
        with pytest.raises(ValueError, match=r"--train_minutes is .*started with 1.5"):
            with_equal_time(other, {run: options})
    path.write_text('{"train_minutes": 1.5, "recipes": {"gan": {"steps": 0}}}')
    with pytest.raises(ValueError, match="train_steps.json is damaged"):
        with_equal_time(config, {run: options})


def test_one_length_at_a_time(tmp_path, recipes):
    for minutes in (0.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="--train_minutes is"):
            config_of(tmp_path, recipes, train_minutes=minutes)
    with pytest.raises(ValueError, match="--train_overrides.max_train_steps is 3: --train_minutes sets the length"):
        config_of(tmp_path, recipes, train_minutes=1, train_overrides={"max_train_steps": 3})


def test_large_pictures_are_scaled_down_and_small_ones_unchanged(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "small.png")
    assert small_png(tmp_path / "small.png") == (tmp_path / "small.png").read_bytes()
    noise = np.frombuffer(random.Random(0).randbytes(580 * 580 * 3), np.uint8).reshape(580, 580, 3)
    Image.fromarray(noise).save(tmp_path / "large.png")
    content = small_png(tmp_path / "large.png")
    assert len(content) < MAX_PICTURE
    (tmp_path / "less.png").write_bytes(content)
    with Image.open(tmp_path / "less.png") as image:
        assert image.width == image.height > 300


def test_the_command_of_a_gan_point_gives_its_options(tmp_path, recipes):
    config = config_of(tmp_path, recipes[1:], num_images=20)
    options = point_config(config, config.points()[0])
    arguments = evaluation_command(options, 1).split()[2:]
    assert parse_config(EvaluationConfig, arguments) == options
