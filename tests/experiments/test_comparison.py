"""A sweep over recipes of both programs: equal times, the page that compares them, and its parts."""

import csv
import json
import random
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from hf_ddpm.cli import parse_config
from hf_ddpm.evaluation.options import EvaluationConfig, SamplingConfig
from hf_ddpm.experiments.comparison import MAX_PICTURE, means_over_training, small_png
from hf_ddpm.experiments.comparison_page import comparison_markdown, duration, sample_grids, samples_table, training_table
from hf_ddpm.experiments.equal_time import STEPS, Training, with_equal_time
from hf_ddpm.experiments.options import GAN_OPTIONS, GridConfig, SweepConfig, trains_a_gan
from hf_ddpm.experiments.sweep import cell_config, evaluation_command, sweep
from hf_ddpm.training.gan import train_gan
from hf_ddpm.training.options import GANConfig, GANModelConfig, GANObjectiveConfig, TrainConfig

RECIPES = Path(__file__).parents[2] / "train_scripts" / "recipes"
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
    for name, options in (("tiny", tiny), ("gan", GAN)):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(options))
    return [tmp_path / "tiny.yaml", tmp_path / "gan.yaml"]


def config_of(tmp_path, recipes, **options) -> SweepConfig:
    grid = {"recipe": recipes, **options.pop("grid", {})}
    return SweepConfig(features="judge:j", output_dir=tmp_path / "out", grid=GridConfig(**grid), **options)


# The door


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
    assert page == comparison_markdown(facts)
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


# Cells and recipes of GANs


def test_a_gan_is_one_cell_whatever_the_axes_of_steps_and_guidance(tmp_path, recipes):
    grid = {"guidance_scale": [1.0, 2.0], "scheduler": ["ddim", "ddpm"], "num_images": [8, 9], "train_seed": [0, 1]}
    sampling = SamplingConfig(num_inference_steps=7, eta=0.5, dtype="bfloat16")
    config = config_of(tmp_path, recipes[::-1], grid=grid, sampling=sampling, bits_per_dim_images=4)
    cells = [cell for cell in config.cells() if cell.is_gan]
    assert [cell.name for cell in cells] == ["gan_seed-0_n-8", "gan_seed-0_n-9", "gan_seed-1_n-8", "gan_seed-1_n-9"]
    assert len(config.cells()) == 4 + 2 * 2 * 2 * 2
    options = cell_config(config, cells[0])
    assert options.sampling == SamplingConfig(dtype="bfloat16")  # evaluate refuses a GAN with other options than these
    assert options.bits_per_dim_images is None and options.num_images == 8


def test_the_options_that_tell_a_gan_from_a_diffusion_model():
    def names(kind) -> set[str]:
        return set(kind.__dataclass_fields__)

    train = TrainConfig.__dataclass_fields__
    assert GAN_OPTIONS["model"] == names(GANModelConfig) and GAN_OPTIONS["objective"] == names(GANObjectiveConfig)
    for group, options in GAN_OPTIONS.items():
        assert not options & names(train[group].default_factory)


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.yaml")), ids=lambda recipe: recipe.stem)
def test_the_program_of_a_recipe_is_found(recipe):
    assert trains_a_gan(recipe) == ("train_gan.py" in recipe.read_text())


def test_the_program_is_found_without_options_or_header_of_its_own(tmp_path):
    def is_gan(text: str) -> bool:
        (tmp_path / "b.yaml").write_text(text)
        return trains_a_gan(tmp_path / "b.yaml")

    (tmp_path / "a.yaml").write_text(yaml.safe_dump(GAN))
    assert is_gan("extends: a.yaml\nmax_train_steps: 3\n")
    assert is_gan("# `python train_scripts/train_gan.py --config b.yaml`\nmax_train_steps: 3\n")
    assert not is_gan("# `python train_scripts/train.py`, unlike train_scripts/train_gan.py\nmax_train_steps: 3\n")
    assert not is_gan("max_train_steps: 3\n# train_scripts/train_gan.py\n")


def test_what_only_a_diffusion_model_has_is_refused_for_gans_alone(tmp_path, recipes):
    for options in ({"grid": {"guidance_scale": [1.0]}}, {"bits_per_dim_images": 4}):
        with pytest.raises(ValueError, match="no recipe but of GANs"):
            config_of(tmp_path, recipes[1:], **options)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"image_size": 16}, "the recipes are of images of 8 and 16 pixels"),
        ({"labels": [1, 2]}, "the recipes have different data"),
        ({"channels": 3}, "the recipes are of images of 1 and 3 channels"),
    ],
)
def test_recipes_of_other_data_are_refused_before_anything_is_trained(tmp_path, recipes, changed, message):
    config = config_of(tmp_path, recipes)
    tiny = parse_config(TrainConfig, [f"--config={recipes[0]}", "--output_dir=a", "--data.channels=1"])
    arguments = [f"--config={recipes[1]}", "--output_dir=b", *(f"--data.{name}={value}" for name, value in changed.items())]
    gan = parse_config(GANConfig, arguments)
    first, second = config.runs()
    trainings = {
        first: Training(options=tiny, program=pytest.fail, image_size=8),
        second: Training(options=gan, program=pytest.fail, image_size=gan.data.image_size),
    }
    with pytest.raises(ValueError, match=message):
        sweep(config, trainings)
    assert not (tmp_path / "out").exists()


# Equal times


def test_what_has_been_timed_is_kept_and_milestones_are_refused(tmp_path, recipes):
    def trainings(config, *options) -> dict:
        (run,) = config.runs()
        parsed = parse_config(GANConfig, [f"--config={recipes[1]}", f"--output_dir={run.folder}", *options])
        return {run: Training(options=parsed, program=train_gan)}

    config = config_of(tmp_path, recipes[1:], train_minutes=1.5)
    path = tmp_path / "out" / STEPS
    config.runs()[0].folder.mkdir(parents=True)
    with pytest.raises(ValueError, match="--train_minutes is 1.5: the sweep in .* was begun without"):
        with_equal_time(config, trainings(config))
    path.write_text(json.dumps({"train_minutes": 1.5, "recipes": {"gan": {"seconds_per_step": 1.0, "steps": 90}}}))
    (training,) = with_equal_time(config, trainings(config)).values()
    assert training.options.max_train_steps == 90
    multistep = ("--optim.lr_scheduler=multistep", "--optim.lr_milestones=[1]", "--optim.lr_gamma=0.5")
    with pytest.raises(ValueError, match=r"--optim.lr_milestones is \[1\]: those of gan.yaml"):
        with_equal_time(config, trainings(config, *multistep))
    for other in (2.0, None):
        other = config_of(tmp_path, recipes[1:], train_minutes=other)
        with pytest.raises(ValueError, match=r"--train_minutes is .*begun with 1.5"):
            with_equal_time(other, trainings(other))
    path.write_text('{"train_minutes": 1.5, "recipes": {"gan": {"steps": 0}}}')
    with pytest.raises(ValueError, match="train_steps.json is damaged"):
        with_equal_time(config, trainings(config))


def test_one_length_at_a_time(tmp_path, recipes):
    for minutes in (0.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="--train_minutes is"):
            config_of(tmp_path, recipes, train_minutes=minutes)
    with pytest.raises(ValueError, match="--train_overrides.max_train_steps is 3: --train_minutes says how long"):
        config_of(tmp_path, recipes, train_minutes=1, train_overrides={"max_train_steps": 3})


# The page


def a_cell(recipe: str, seed: int, scale: float | None, distance: float) -> dict:
    values = {"mean": distance, "stderr": 0.1, "n": 100}
    return {
        "cell": f"{recipe}_{seed}_{scale}", "recipe": recipe, "train_seed": seed, "scheduler": "ddim" if scale else None,
        "num_inference_steps": 20 if scale else None, "guidance_scale": scale, "num_images": 100, "network_calls": 20,
        "num_seeds": 3, "floor_num_images": 90, "metrics": {"fd_judge": values, "recall": values},
        "floor": {"fd_judge": 0.5}, "ceiling": {"fd_judge": 300.0},
        "per_class": {"cat": {"fd_judge": {**values, "n": 50, "floor": 0.7}}},
    }  # fmt: skip


def some_facts(seeds: tuple[int, ...] = (0,)) -> dict:
    """A comparison of a diffusion model at two scales and of a GAN."""
    cells = [a_cell("unet", seed, scale, scale + seed) for seed in seeds for scale in (1.0, 1.5)]
    cells += [a_cell("gan", seed, None, 9.0) for seed in seeds]
    runs = [
        {
            "name": f"{recipe}-seed-{seed}", "recipe": recipe, "train_seed": seed,
            "kind": "GAN" if recipe == "gan" else "diffusion model", "parameters": 1_234_567, "steps": 1200,
            "images_seen": 76800, "train_images": 1437, "images_per_second": 300.0, "seconds_per_epoch": 4.79,
            "training_seconds": 192.4, "samples": f"comparison/{recipe}-seed-{seed}.png",
            "final_losses": {"d_loss": 1.2, "g_loss": 0.9} if recipe == "gan" else {"loss": 0.25},
            "processor": "a CPU", "gpu": None, "num_processes": 1, "num_threads": 1,
        }
        for recipe in ("unet", "gan") for seed in seeds
    ]  # fmt: skip
    return {
        "recipes": ["unet", "gan"], "train_seeds": list(seeds), "train_minutes": None, "distance": "fd_judge",
        "features": "judge", "data_source": "digits", "data_labels": None, "reference_split": "train",
        "reference_images": 1437, "num_seeds": 3, "runs": runs, "cells": cells, "means": [], "notes": [],
        "losses": "comparison/losses.png", "figures": ["guidance.png"], "command": "python sweep.py",
    }  # fmt: skip


def test_the_table_has_every_measurement_floor_and_ceiling():
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in samples_table(some_facts()).splitlines()]
    assert lines[0] == ["recipe", "s (w = s - 1)", "parameters", "seconds an epoch", "network calls", "fd_judge", "recall"]
    costs = ["1.23 M", "4.79", "20"]
    assert lines[2:] == [
        ["unet", "1", *costs, "1 ± 0.1", "1 ± 0.1"], ["unet", "1.5", *costs, "1.5 ± 0.1", "1.5 ± 0.1"],
        ["gan", "", *costs, "9 ± 0.1", "9 ± 0.1"], ["real images (90)", *[""] * 4, "0.5", ""],
        ["uniform noise (100)", *[""] * 4, "300", ""],
    ]  # fmt: skip


def test_a_page_says_of_what_its_errors_are_and_what_training_took():
    page = comparison_markdown(some_facts())
    assert "one training run" in page and "over the sampling seeds" in page
    assert "| unet | 1,200 | 76,800 | 3 min 12 s | 0.25 |" in page
    assert "| gan | 1,200 | 76,800 | 3 min 12 s | d 1.2, g 0.9 |" in page
    assert "| cat | 1 ± 0.1 | 1.5 ± 0.1 | 9 ± 0.1 | 0.7 |" in page
    assert "minutes on this machine" not in page
    timed = {**some_facts(), "train_minutes": 2.5}
    assert "as it makes in 2.5 minutes on this machine" in comparison_markdown(timed)
    several = some_facts((0, 1))
    assert "2 training runs" in comparison_markdown(several) and "one training run" not in comparison_markdown(several)
    assert "| training seed |" in training_table(several)
    without = some_facts()
    without["cells"] = [{**cell, "per_class": {}} for cell in without["cells"]]
    assert "## Classes" not in comparison_markdown(without)
    without["runs"] = [{**run, "samples": None} for run in without["runs"]]
    assert "## Samples" in page and "## Samples" not in comparison_markdown(without)


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_one_sampling_seed_has_no_errors(seeds):
    page = comparison_markdown({**some_facts(seeds), "num_seeds": 1})
    assert "1 sampling seed of 100 images" in page and "no errors" in page and "over its sampling seeds" not in page
    assert "no errors" not in comparison_markdown(some_facts(seeds))


def test_means_over_training_seeds_follow_the_runs():
    facts = some_facts((0, 1, 5))
    facts["means"] = means_over_training(facts["cells"])
    at_one = facts["means"][0]
    assert (at_one["recipe"], at_one["guidance_scale"], at_one["train_seed"]) == ("unet", 1.0, "mean")
    assert at_one["metrics"]["fd_judge"] == {"mean": pytest.approx(3.0), "stderr": pytest.approx((7 / 3) ** 0.5), "n": 3}
    assert len(facts["means"]) == 3 and means_over_training(some_facts()["cells"]) == []
    lines = samples_table(facts).splitlines()
    assert [line.split("|")[2].strip() for line in lines[2:-2]] == [*"001155", *["mean of 3"] * 2, *"015", "mean of 3"]
    assert len({line.count("|") for line in lines}) == 1


def test_grids_stand_side_by_side_in_lines_of_about_equal_length():
    facts = some_facts()
    facts["runs"] = [{**facts["runs"][0], "recipe": str(number)} for number in range(5)] + [
        {**facts["runs"][0], "samples": None}
    ]
    grids = sample_grids(facts, "digits/")
    assert [block.splitlines()[0].count("|") - 1 for block in grids.split("\n\n")] == [3, 2]
    assert grids.count("(digits/comparison/unet-seed-0.png)") == 5
    assert sample_grids({**facts, "runs": []}) == ""


def test_pictures_are_small_and_those_that_are_stay_as_they_are(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "small.png")
    assert small_png(tmp_path / "small.png") == (tmp_path / "small.png").read_bytes()
    noise = np.frombuffer(random.Random(0).randbytes(580 * 580 * 3), np.uint8).reshape(580, 580, 3)
    Image.fromarray(noise).save(tmp_path / "large.png")
    content = small_png(tmp_path / "large.png")
    assert len(content) < MAX_PICTURE
    (tmp_path / "less.png").write_bytes(content)
    with Image.open(tmp_path / "less.png") as image:
        assert image.width == image.height > 300


def test_durations():
    assert [duration(seconds) for seconds in (0.456, 59.4, 60, 3599, 7380.0)] == [
        "0.456 s", "59.4 s", "1 min 0 s", "59 min 59 s", "2 h 3 min",
    ]  # fmt: skip


def test_the_options_of_a_gan_cell_are_those_that_its_command_gives(tmp_path, recipes):
    config = config_of(tmp_path, recipes[1:], num_images=20)
    options = cell_config(config, config.cells()[0])
    arguments = evaluation_command(options, 1).split()[2:]
    assert parse_config(EvaluationConfig, arguments) == options
