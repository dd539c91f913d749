"""Sweeps: points, refusals, continuing after a stop, the tables, and the script."""

import csv
import json
import os
import shlex
import shutil
import signal
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel
from huggingface_hub import constants

import hf_ddpm.experiments.sweep as sweep_module
from hf_ddpm.cli import parse_config
from hf_ddpm.evaluation.options import EvaluationConfig, SamplingConfig
from hf_ddpm.evaluation.protocol import evaluate
from hf_ddpm.experiments.facts import ComparisonFacts
from hf_ddpm.experiments.options import GridPoint, SweepConfig, SweepGrid
from hf_ddpm.experiments.sweep import count_nfe, evaluation_command, point_config, sweep
from hf_ddpm.experiments.tables import plain_name, sweep_csv, sweep_markdown, varying_axes
from hf_ddpm.models.judge import Judge, JudgeRecord, build_network, save_judge
from hf_ddpm.run_folder import STATE, RunFolder
from hf_ddpm.runtime.lock import OutputLock
from hf_ddpm.runtime.signals import Stopped
from hf_ddpm.schedulers import build_scheduler
from hf_ddpm.training.power_average import PowerAverages, write_snapshot

NAMES = ["0", "1", "2"]
NUM_IMAGES, STEPS = 8, 2


@pytest.fixture(scope="module")
def tiny_pipeline(tiny_pipeline):
    return partial(tiny_pipeline, names=NAMES)


@pytest.fixture(scope="module")
def judge(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("judge")
    torch.manual_seed(0)
    network = build_network(widths=[4, 4], depths=[1, 1], channels=1, class_names=NAMES)
    record = JudgeRecord(
        accuracy=0.99, num_test_images=100, seed=0, sha256="", image_size=8, channels=1, class_names=NAMES,
        source="digits", data_fingerprint="0",
    )  # fmt: skip
    save_judge(Judge(network, record), folder)
    return folder


@pytest.fixture(scope="module")
def run(tiny_pipeline, tmp_path_factory) -> Path:
    """A run with two checkpoints; the last one is also its pipeline."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "config.yaml").write_text("data: {source: digits, labels: [0, 1, 2], max_images: 20}\n")
    for step, name in ((2, "checkpoints/step-00000002"), (10, "checkpoints/step-00000010"), (10, "pipeline")):
        tiny_pipeline(seed=step).save_pretrained(folder / name)
    return folder


@pytest.fixture(autouse=True)
def private_references(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "hf_home"))


@pytest.fixture
def options(judge, run, tmp_path):
    def build(name: str = "out", *, sampling: SamplingConfig | None = None, model=run / "pipeline", **grid) -> SweepConfig:
        seeds, images = grid.pop("num_seeds", 2), {} if "num_images" in grid else {"num_images": NUM_IMAGES}
        steps = {} if "num_inference_steps" in grid else {"num_inference_steps": STEPS}
        return SweepConfig(
            model=str(model), features=f"judge:{judge}", num_seeds=seeds, output_dir=tmp_path / name, num_threads=1,
            sampling=sampling or SamplingConfig(**steps), grid=SweepGrid(**grid), **images,
        )  # fmt: skip

    return build


def stop_at(call: int):
    """SIGINT to this process at the U-Net's call of this number."""
    calls = []

    def hook(module, inputs, output):
        if isinstance(module, UNet2DModel):
            calls.append(module)
            if len(calls) == call:
                os.kill(os.getpid(), signal.SIGINT)

    return torch.nn.modules.module.register_module_forward_hook(hook)


# Points


def test_each_point_is_what_evaluate_measures(options, tmp_path):
    config = options(guidance_scale=[1.0, 2.0], scheduler=["ddim", "dpmsolver++"])
    rows = sweep(config)
    assert [row.cell for row in rows] == ["ddim_s-1", "ddim_s-2", "dpmsolver++_s-1", "dpmsolver++_s-2"]
    cell = config.points()[2]
    evaluate(replace(point_config(config, cell), output=tmp_path / "alone.json"))
    alone = json.loads((tmp_path / "alone.json").read_text())
    kept = json.loads((tmp_path / "out" / "cells" / "dpmsolver++_s-1.json").read_text())
    for part in ("metrics", "floor", "ceiling", "per_class", "notes"):
        assert kept[part] == alone[part], part
    assert kept["protocol"].keys() - {"network_calls"} == alone["protocol"].keys()
    same = kept["protocol"].keys() - {"network_calls", "command", "seconds"}
    assert {name: kept["protocol"][name] for name in same} == {name: alone["protocol"][name] for name in same}


def test_the_command_of_a_point_repeats_it(options):
    config = options(
        "o u t", num_seeds=1, guidance_scale=[2.5], scheduler=["ddim"], sampling=SamplingConfig(eta=0.5, batch_size=7)
    )
    config.bits_per_dim_timesteps, config.data.labels = None, ["0", 1, "it's"]
    (cell,) = config.points()
    program, name, *arguments = shlex.split(evaluation_command(point_config(config, cell), 1))
    assert (program, name) == ("hf-ddpm", "evaluate")
    assert parse_config(EvaluationConfig, arguments) == point_config(config, cell)
    assert evaluation_command(point_config(config, cell), 2).startswith("torchrun --nproc_per_node 2 -m hf_ddpm evaluate --")


def test_checkpoints_and_noise(options, run, tmp_path):
    config = options(checkpoint=["noise", "all"], guidance_scale=[1.0, 2.0])
    rows = sweep(config)
    assert [(row.checkpoint, row.guidance_scale) for row in rows] == [
        (2, 1.0), (2, 2.0), (10, 1.0), (10, 2.0), ("noise", None),
    ]  # fmt: skip
    first, last, noise = (json.loads((tmp_path / "out/cells" / f"{name}.json").read_text()) for name in CHECKPOINT_CELLS)
    assert first["protocol"]["model_sha256"] != last["protocol"]["model_sha256"]
    assert first["protocol"]["model"] == str(run / "checkpoints" / "step-00000002")
    assert noise["protocol"]["model"] == "uniform noise" and noise["protocol"]["scheduler"] is None
    # The ceiling is the first seed's noise.
    for name, value in noise["ceiling"].items():
        assert noise["metrics"][name]["values"][0] == pytest.approx(value, rel=1e-6), name
    values = noise["metrics"]["fd_judge"]["values"]
    assert values[0] != values[1]


def test_averages_of_any_length(options, run, tiny_pipeline, tmp_path):
    folder = RunFolder(shutil.copytree(run, tmp_path / "run"))
    averages = PowerAverages(dict(tiny_pipeline(seed=0).unet.named_parameters()))
    for step in range(1, 17):
        averages.update(dict(tiny_pipeline(seed=step).unet.named_parameters()), step)
        write_snapshot(averages, folder, step, 1)
    config = options(sigma_rel=[0.05, 0.15], model=folder.pipeline, num_seeds=1)
    rows = sweep(config)
    assert [(row.cell, row.sigma_rel) for row in rows] == [("sigma_rel-0.05", 0.05), ("sigma_rel-0.15", 0.15)]
    assert varying_axes(rows) == ["sigma_rel"] and "| sigma_rel | fd_judge" in sweep_markdown(rows, command="x")
    cells = [json.loads((tmp_path / "out/cells" / f"{row.cell}.json").read_text())["protocol"] for row in rows]
    assert [cell["model"] for cell in cells] == [str(folder.average(length)) for length in (0.05, 0.15)]
    assert cells[0]["model_sha256"] != cells[1]["model_sha256"]
    assert [row.metrics for row in sweep(config)] == [row.metrics for row in rows], "continued, with the same averages"
    with pytest.raises(ValueError, match="sigma_rel is 0.001: 16 snapshots give lengths from"):
        sweep(options("other", sigma_rel=[0.001], model=folder.pipeline))
    with pytest.raises(ValueError, match="has no snapshots of averages: train with"):
        sweep(options("other", sigma_rel=[0.05]))
    with pytest.raises(ValueError, match="--grid.sigma_rel: --model .* belongs to no run"):
        sweep(options("other", sigma_rel=[0.05], model=tmp_path))


CHECKPOINT_CELLS = ("step-2_s-1", "step-10_s-1", "noise")


def test_function_evaluations_are_counted(tiny_pipeline):
    pipeline = tiny_pipeline()

    def calls(steps: int, scale: float) -> int:
        return count_nfe(pipeline, SamplingConfig(num_inference_steps=steps, guidance_scale=scale))

    assert [calls(4, scale) for scale in (0.0, 1.0, 1.5)] == [4, 4, 8]
    pipeline.scheduler = build_scheduler("heun", pipeline.scheduler.config)
    assert calls(4, 1.0) == 7  # two per step except the last
    assert not pipeline.unet._forward_hooks


# Continuing


# A point starts with one call per step, to count them; a seed has one per step and two for the losses.
COUNTING, SEED = STEPS, STEPS + 2


@pytest.mark.usefixtures("listening_to_ctrl_c")
@pytest.mark.parametrize("call", [COUNTING + 1, 2 * COUNTING + 2 * SEED + 1])
def test_a_stopped_sweep_continues_to_the_same_table(options, tmp_path, call):
    whole = sweep_csv(sweep(options("whole", guidance_scale=[1.0, 2.0])))
    hook = stop_at(call)
    try:
        with pytest.raises(Stopped, match="the same command"):
            sweep(options("parts", guidance_scale=[1.0, 2.0]))
    finally:
        hook.remove()
    assert not (tmp_path / "parts/cells/s-2.json").exists()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "parts/cells").glob("s-*.json")}
    assert sweep_csv(sweep(options("parts", guidance_scale=[1.0, 2.0]))) == whole
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())  # finished points are not repeated
    assert sorted(path.name for path in (tmp_path / "parts/cells").iterdir()) == ["s-1.json", "s-2.json"]


@pytest.mark.usefixtures("listening_to_ctrl_c")
def test_finished_seeds_of_a_stopped_point_are_kept(options, tmp_path):
    config = options(guidance_scale=[2.0], num_seeds=3)
    hook = stop_at(COUNTING + SEED + 1)
    try:
        with pytest.raises(Stopped):
            sweep(config)
    finally:
        hook.remove()
    (partial,) = (tmp_path / "out/cells").iterdir()
    content = json.loads(partial.read_text())
    assert len(content["scores"]) == 1
    content["scores"][0]["metrics"]["recall"] = 7.0  # a mark
    partial.write_text(json.dumps(content))
    sweep(config)
    assert json.loads((tmp_path / "out/cells/s-2.json").read_text())["metrics"]["recall"]["values"][0] == 7.0


def test_another_sweep_in_the_same_folder_is_refused(options, tmp_path):
    sweep(options(num_seeds=1, guidance_scale=[1.0]))
    for changed, message in (
        (options(num_seeds=1, guidance_scale=[1.0, 2.0]), r"--grid.guidance_scale is \[1.0, 2.0\]: .* started with \[1.0\]"),
        (options(num_seeds=2, guidance_scale=[1.0]), "--num_seeds is 2: .* started with 1"),
        (
            options(num_seeds=1, guidance_scale=[1.0], sampling=SamplingConfig(num_inference_steps=3)),
            "num_inference_steps is 3",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            sweep(changed)
    sampling = SamplingConfig(num_inference_steps=STEPS, batch_size=3)
    sweep(options(num_seeds=1, guidance_scale=[1.0], sampling=sampling))  # the size of a batch changes nothing
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.txt").touch()
    with pytest.raises(ValueError, match="it contains something else"):
        sweep(options("foreign", guidance_scale=[1.0]))


def test_a_folder_that_another_sweep_is_writing_is_refused(options, tmp_path):
    with OutputLock(tmp_path / "out") as lock:
        lock.take()
        with pytest.raises(ValueError, match=rf"^output_dir is '.*out': process {os.getpid()} on .* is writing there"):
            sweep(options(guidance_scale=[1.0]))


def test_a_sweep_that_began_meanwhile_is_not_continued_with_other_options(options, tmp_path, monkeypatch):
    """Both find the folder new."""
    begin = sweep_module.init_distributed

    def overtaken(*args):
        monkeypatch.setattr(sweep_module, "init_distributed", begin)
        sweep(options(guidance_scale=[1.0]))
        return begin(*args)

    monkeypatch.setattr(sweep_module, "init_distributed", overtaken)
    with pytest.raises(ValueError, match="--num_seeds is 3: the sweep in .* was started with 2"):
        sweep(options(guidance_scale=[1.0], num_seeds=3))


@pytest.mark.parametrize(("given", "said"), [({"num_seeds": 1}, "seeds"), ({"num_images": [9]}, "num_images")])
def test_a_cell_of_other_options_is_not_reported_under_these(options, tmp_path, given, said):
    sweep(options("other", **{"guidance_scale": [1.0], **given}))
    (cell,) = (tmp_path / "other" / "cells").iterdir()
    config = options("out", guidance_scale=[1.0])
    sweep(config)
    cell.replace(tmp_path / "out" / "cells" / "s-1.json")
    with pytest.raises(ValueError, match=rf"s-1\.json was measured with {said} .* and not .*, remove it or give another"):
        sweep(config)


def test_a_checkpoint_is_not_reported_under_a_step_that_it_is_not_of(options, run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run/checkpoints/step-00000010/training").mkdir()
    (tmp_path / "run/checkpoints/step-00000010" / STATE).write_text('{"step": 8}')
    with pytest.raises(ValueError, match="--grid.checkpoint is .*step-00000010: its name is not that of its state"):
        sweep(options(checkpoint=["all"], model=tmp_path / "run" / "pipeline"))
    assert not (tmp_path / "out").exists()


def test_a_model_that_has_changed_is_refused(tiny_pipeline, options, tmp_path):
    tiny_pipeline(seed=5).save_pretrained(tmp_path / "pipeline")
    config = options(num_seeds=1, guidance_scale=[1.0], model=tmp_path / "pipeline")
    config.data.source, config.data.labels, config.data.max_images = "digits", [0, 1, 2], 20
    sweep(config)
    tiny_pipeline(seed=6).save_pretrained(tmp_path / "pipeline")
    with pytest.raises(ValueError, match="its weights have changed since"):
        sweep(config)


# Refusals


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({}, "--grid is None: give an axis"),
        ({"guidance_scale": []}, r"--grid.guidance_scale is \[\]: give at least one value"),
        ({"guidance_scale": [1.0, 2.0, 1]}, "1.0 is listed twice"),
        ({"guidance_scale": [float("nan")]}, "give finite numbers"),
        ({"num_inference_steps": [0]}, "give numbers of at least 1"),
        ({"num_images": [1, 10]}, "give numbers from 2 to 1000000"),
        ({"checkpoint": ["last"]}, "give steps"),
        ({"checkpoint": ["all", 2]}, "all includes every step"),
        ({"checkpoint": ["all"], "sigma_rel": [0.1]}, "--grid.sigma_rel is .*leave --grid.checkpoint out"),
        ({"checkpoint": [2], "recipe": [Path("a.yaml")]}, "--model is .*leave it out, or leave --grid.recipe out"),
        ({"train_seed": [0]}, r"--grid.train_seed is \[0\]: it applies to --grid.recipe alone"),
        ({"num_images": [5]}, "--num_images is 5: density and coverage need at least 6"),
        ({"scheduler": ["magic"]}, "scheduler is 'magic': give one of ddpm, ddim"),
        ({"checkpoint": [3]}, r"--grid.checkpoint is \[3\]: the run has the checkpoints 2, 10"),
        ({"num_inference_steps": [2, 2000]}, "num_inference_steps is 2000"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_written(options, tmp_path, grid, message):
    with pytest.raises(ValueError, match=message) as caught:
        sweep(options(**grid))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_axes_and_recipes_exclude_each_other_and_their_plain_options(tmp_path):
    recipe = tmp_path / "a.yaml"
    recipe.write_text("max_train_steps: 1\n")

    def refusal(grid: SweepGrid, **options) -> str:
        with pytest.raises(ValueError) as caught:
            SweepConfig(features="inception", output_dir=tmp_path / "out", grid=grid, **options)
        return str(caught.value)

    assert "--grid.checkpoint is [2]: it is about the run of --model" in refusal(SweepGrid(checkpoint=[2], recipe=[recipe]))
    assert "--model is None: give a pipeline, or recipes" in refusal(SweepGrid(guidance_scale=[1.0]))
    assert "the file does not exist" in refusal(SweepGrid(recipe=[tmp_path / "b.yaml"]))
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "a.yaml").touch()
    assert "two have the same name" in refusal(SweepGrid(recipe=[recipe, tmp_path / "c" / "a.yaml"]))
    assert "train_overrides.seed is 3" in refusal(SweepGrid(recipe=[recipe]), train_overrides={"seed": 3})
    assert "--num_images is 50: leave it out" in refusal(SweepGrid(num_images=[60]), model="m", num_images=50)
    sampling = SamplingConfig(guidance_scale=2.0)
    assert "--sampling.guidance_scale is 2.0" in refusal(SweepGrid(guidance_scale=[1.0]), model="m", sampling=sampling)


def test_a_scale_without_a_null_label_is_refused(tiny_pipeline, options, tmp_path):
    tiny_pipeline(null=False).save_pretrained(tmp_path / "plain")
    config = options(guidance_scale=[1.0, 2.0], model=tmp_path / "plain")
    config.data.source = "digits"
    with pytest.raises(ValueError, match="guidance_scale is 2.0: the model has no null label"):
        sweep(config)
    assert not (tmp_path / "out").exists()


def test_a_pipeline_outside_a_run_has_no_checkpoints(options, tmp_path):
    with pytest.raises(ValueError, match="belongs to no run with checkpoints"):
        sweep(options(checkpoint=["all"], model=tmp_path))


# Tables


def test_tables(options):
    config = options(num_images=[8, 12], guidance_scale=[1.0, 1.5])
    rows = sweep(config)
    assert varying_axes(rows) == ["guidance_scale", "num_images"]
    table = list(csv.DictReader(sweep_csv(rows).splitlines()))
    assert [(line["guidance_scale"], line["num_images"]) for line in table] == [
        ("1.0", "8"), ("1.0", "12"), ("1.5", "8"), ("1.5", "12"),
    ]  # fmt: skip
    for line, row in zip(table, rows, strict=True):
        kept = json.loads((Path(config.output_dir) / "cells" / f"{line['cell']}.json").read_text())
        for name, values in kept["metrics"].items():
            assert float(line[name]) == values["mean"] and float(line[f"{name}_stderr"]) == values["stderr"]
            assert int(line[f"{name}_n"]) == values["n"]
        assert float(line["fd_judge_floor"]) == kept["floor"]["fd_judge"]
        assert float(line["fd_judge_ceiling"]) == kept["ceiling"]["fd_judge"]
        assert int(line["network_calls"]) == row.network_calls == STEPS * (1 if row.guidance_scale == 1 else 2)
        assert (line["scheduler"], line["num_seeds"]) == ("DDPMScheduler", "2")
    report = sweep_markdown(rows, command="python sweep.py --x 'a b'")
    lines = [line for line in report.splitlines() if line.startswith("|")]
    assert lines[0].startswith(
        "| guidance_scale | num_images | network_calls | fd_judge | precision | recall | class_accuracy"
    )
    assert len(lines) == 2 + 4 + 2 * 2 and len({line.count("|") for line in lines}) == 1
    assert [line.split("|")[1].strip() for line in lines[6:]] == [
        "real images (8)", "uniform noise (8)", "real images (12)", "uniform noise (12)",
    ]  # fmt: skip
    assert "python sweep.py --x 'a b'" in report and "2 seeds of 8, 12 images each" in report


def test_noise_is_measured_once_whatever_the_sampling_options(options):
    config = options(checkpoint=["noise"], guidance_scale=[1.0, 2.0], scheduler=["ddim", "ddpm"], num_images=[8, 12])
    assert [(cell.name, cell.num_images, cell.is_noise) for cell in config.points()] == [
        ("noise_n-8", 8, True), ("noise_n-12", 12, True),
    ]  # fmt: skip
    assert isinstance(config.points()[0], GridPoint)


@pytest.mark.parametrize(
    ("metric", "name"), [("fid1k_train", "fid_train"), ("fid250_test", "fid_test"), ("fd_inception_6726825d", None)]
)
def test_a_fid_of_other_numbers_of_images_is_one_column(metric, name):
    assert plain_name(metric) == (name or metric)


# The script


def test_models_of_recipes_are_trained_and_measured(judge, tmp_path, load_script, monkeypatch, capsys, tiny_options):
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text("max_train_steps: 2\ndata: {source: digits, labels: [0, 1, 2], max_images: 20}\n")
    network = {"block_out_channels": [8, 16], "norm_num_groups": 4}
    overrides = dict(option.removeprefix("--").split("=") for option in tiny_options if "data.source" not in option)
    arguments = [
        f"--grid.recipe=[{recipe}]", "--grid.train_seed=[0, 3]", f"--features=judge:{judge}", "--num_images=8",
        "--num_seeds=1", "--sampling.num_inference_steps=1", f"--output_dir={tmp_path / 'out'}", "--num_threads=1",
        f"--train_overrides={json.dumps(overrides | {'model.overrides': network})}",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["sweep.py", *arguments])
    main = load_script("sweep").main
    main(arguments)
    written = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    lines = list(csv.DictReader((tmp_path / "out/sweep.csv").read_text().splitlines()))
    assert [(line["cell"], line["recipe"], line["train_seed"]) for line in lines] == [
        ("tiny_seed-0", "tiny", "0"), ("tiny_seed-3", "tiny", "3"),
    ]  # fmt: skip
    assert lines[0]["fd_judge"] != lines[1]["fd_judge"]
    assert (tmp_path / "out/runs/tiny-seed-3/pipeline/model_index.json").is_file()
    assert "seed: 3" in (tmp_path / "out/runs/tiny-seed-3/config.yaml").read_text()
    assert (tmp_path / "out/sweep.md").read_text() in capsys.readouterr().out
    page = (tmp_path / "out/comparison.md").read_text()
    assert "2 trainings per recipe (seeds 0, 3)" in page and "comparison/tiny-seed-0.png" in page
    assert [path.name for path in (tmp_path / "out/comparison").glob("tiny*")] == ["tiny-seed-0.png"]
    facts = ComparisonFacts.from_json((tmp_path / "out/comparison.json").read_text())
    (mean,) = facts.means
    assert mean.metrics["fd_judge"].values == pytest.approx([float(line["fd_judge"]) for line in lines])
    assert [run.samples for run in facts.runs] == ["comparison/tiny-seed-0.png", None]
    main(arguments)  # nothing is trained or measured again
    assert [path for path in written if path.read_bytes() != written[path]] == []


def test_intervals_of_guidance_are_lines_of_the_figure(judge, run, tmp_path, load_script):
    arguments = [
        f"--model={run / 'pipeline'}", f"--features=judge:{judge}", "--num_images=8", "--num_seeds=1", "--num_threads=1",
        "--grid.num_inference_steps=[1, 2]", "--grid.guidance_interval=[[0, 1], [0.2, 0.8]]",
        f"--output_dir={tmp_path / 'out'}",
    ]  # fmt: skip
    load_script("sweep").main(arguments)
    assert "| 2 | 0.2 to 0.8 |" in (tmp_path / "out/sweep.md").read_text()
    assert (tmp_path / "out/network_calls.png").is_file()


def test_a_mistake_is_one_line(judge, run, tmp_path, load_script, capsys):
    with pytest.raises(SystemExit) as caught:
        load_script("sweep").main(
            [f"--model={run / 'pipeline'}", f"--features=judge:{judge}", f"--output_dir={tmp_path / 'out'}",
             "--grid.checkpoint=[7]"]
        )  # fmt: skip
    assert caught.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
