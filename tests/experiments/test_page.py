"""Pages written by hand: what a placeholder can name, and what is refused."""

import json

import pytest

from hf_ddpm.experiments.comparison import means_over_training
from hf_ddpm.experiments.page import read_comparisons, render_page


def a_cell(recipe: str, seed: int, scale: float | None, distance: float) -> dict:
    values = {"mean": distance, "stderr": 0.25, "n": 100}
    return {
        "recipe": recipe, "train_seed": seed, "scheduler": "ddim" if scale else None, "num_inference_steps": None,
        "guidance_scale": scale, "num_images": 100, "network_calls": 20, "floor_num_images": 90,
        "metrics": {"fd_judge": values}, "floor": {"fd_judge": 0.5}, "ceiling": {},
        "per_class": {"cat": {"fd_judge": {**values, "mean": 2 * distance, "floor": 0.7}}},
    }  # fmt: skip


@pytest.fixture
def facts() -> dict:
    """Two trainings of a diffusion model, each at two scales, and of a GAN; the recipe's name has a dot."""
    cells = [a_cell("unet.v2", seed, scale, scale + seed) for seed in (0, 1) for scale in (1.0, 1.5)]
    cells += [a_cell("gan", 0, None, 9.0)]
    run = {
        "recipe": "unet.v2", "parameters": 700_000, "steps": 1200, "images_seen": 9600, "training_seconds": 75.0,
        "seconds_per_epoch": None, "final_losses": {"loss": 0.25}, "samples": "comparison/a.png",
    }  # fmt: skip
    runs = [{**run, "train_seed": 0}, {**run, "train_seed": 1, "steps": 1300}]
    return {
        "recipes": ["unet.v2", "gan"], "train_seeds": [0, 1], "distance": "fd_judge", "runs": runs, "cells": cells,
        "means": means_over_training(cells),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("placeholder", "value"),
    [
        ("ab.gan.fd_judge", "9 ± 0.25"),
        ("ab.unet.v2[train_seed=0, guidance_scale=1].fd_judge", "1 ± 0.25"),
        ("ab.unet.v2[guidance_scale=1.50,train_seed=1].fd_judge", "2.5 ± 0.25"),
        ("ab.unet.v2[guidance_scale=1.5, train_seed=mean].fd_judge", "2 ± 0.5"),
        ("ab.gan[class=cat].fd_judge", "18 ± 0.25"),
        ("ab.floor.fd_judge", "0.5"),
        ("ab.floor[num_images=100].fd_judge", "0.5"),
        ("ab.unet.v2[train_seed=1].steps", "1,300"),
        ("ab.unet.v2[train_seed=0].training_seconds", "1 min 15 s"),
        ("ab.unet.v2[train_seed=0].parameters", "0.70 M"),
        ("ab.unet.v2[train_seed=0].final_loss", "0.25"),
    ],
)
def test_a_placeholder_names_a_value(facts, placeholder, value):
    assert render_page(f"a {{{{{placeholder}}}}} b {{{{  {placeholder}\n}}}}.", {"ab": facts}) == f"a {value} b {value}."


def test_a_placeholder_names_a_table(facts):
    page = render_page("{{ab.table}}\n\n{{ab.training_table}}\n\n{{ab.class_table}}\n\n{{ab.samples}}\n", {"ab": facts})
    table, training, classes, grids = page.rstrip().split("\n\n")
    assert "| unet.v2 | mean of 2 | 1.5 |  |  | 20 | 2 ± 0.5 |" in table
    assert "| unet.v2 | 1 | 1,300 | 9,600 | 1 min 15 s | 0.25 |" in training
    assert classes.splitlines()[2].startswith("| cat | 2 ± 0.25 |")
    assert "(ab/comparison/a.png)" in grids


def test_a_placeholder_names_how_it_was_measured(facts):
    told = {
        "num_seeds": 3, "reference_split": "train", "reference_images": 60, "data_source": "digits", "data_labels": None,
        "features": "judge", "runs": [{**run, "kind": "diffusion model"} for run in facts["runs"]],
        "command": "python train_scripts/sweep.py --train_overrides '{data: {source: digits}}'",
    }  # fmt: skip
    about, command = render_page("{{ab.about}}\n\n{{ab.command}}", {"ab": facts | told}).split("\n\n")
    assert about.startswith("3 sampling seeds of 100 images each, against the train split of `digits` (60 images)")
    assert command == f"```bash\n{told['command']}\n```"


@pytest.mark.parametrize(
    ("placeholder", "message"),
    [
        ("ba.table", "no such comparison, 'ba'; near: ab"),
        ("ab.tabel", "no such table, 'tabel'; near: table"),
        ("ab.gam.fd_judge", "no such recipe, 'gam'; near: gan"),
        ("ab.gan.fd_juge", "no such metric or fact of a run, 'fd_juge'; near: fd_judge"),
        ("ab.gan[clas=cat].fd_judge", "no such axis, 'clas'; near: class"),
        ("ab.gan[class=dog].fd_judge", "no such class, 'dog'; near: cat"),
        ("ab.gan[guidance_scale=2].fd_judge", "none has guidance_scale=2, there are none"),
        ("ab.unet.v2[train_seed=4].steps", "none has train_seed=4, there are 0, 1"),
        ("ab.unet.v2.fd_judge", r"several have it, say which with \[train_seed=...\]: there are 0, 1, mean"),
        ("ab.unet.v2.steps", r"several have it, say which with \[train_seed=...\]: there are 0, 1"),
        ("ab.unet.v2[train_seed=1].fd_judge", r"say which with \[guidance_scale=...\]: there are 1.0, 1.5"),
        ("ab.ceiling.fd_judge", "there is no ceiling of it"),
        ("ab.gan[].fd_judge", "write AXIS=VALUE into the brackets"),
        ("ab", "write NAME.table"),
        ("", "write NAME.table"),
    ],
)
def test_what_is_not_there_is_refused_in_one_line(facts, placeholder, message):
    with pytest.raises(ValueError, match=message) as caught:
        render_page(f"text {{{{ {placeholder} }}}}", {"ab": facts})
    assert f"{{{{ {placeholder} }}}}" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{{ab.table", "a }} b", "{{ {{ab.table}} }}"])
def test_a_placeholder_without_an_end_is_refused(facts, text):
    with pytest.raises(ValueError):
        render_page(text, {"ab": facts})


def test_text_without_placeholders_stays_as_it_is():
    text = "# A\n\n`{x}` {% raw %} \\1 \\g<0> { {a} }\n"
    assert render_page(text, {}) == text


def test_each_folder_with_facts_is_a_comparison(facts, tmp_path):
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
    (tmp_path / "one" / "comparison.json").write_text(json.dumps(facts))
    (tmp_path / "two" / "comparison.json").write_text(json.dumps(facts))
    assert read_comparisons(tmp_path) == {"one": facts, "two": facts}
    (tmp_path / "three" / "comparison.json").write_text('{"runs": [')
    with pytest.raises(ValueError, match="three/comparison.json is damaged"):
        read_comparisons(tmp_path)
    for other in ("[1]", '{"runs": []}'):
        (tmp_path / "three" / "comparison.json").write_text(other)
        with pytest.raises(ValueError, match="three/comparison.json is no comparison"):
            read_comparisons(tmp_path)
