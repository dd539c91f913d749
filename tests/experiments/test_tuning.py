"""Tuning: the rounds, continuing after a stop, what is refused, and what is saved with the model."""

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, UNet2DModel

from hf_ddpm.dcgan_pipeline import DCGANGenerator, DCGANPipeline
from hf_ddpm.experiments.halving import best_of, plan_rounds, survivors
from hf_ddpm.experiments.tuned_defaults import report_tuning, save_defaults
from hf_ddpm.experiments.tuning import tune
from hf_ddpm.experiments.tuning_options import BEFORE, TuneConfig, TuningGrid
from hf_ddpm.hub.share import write_shared
from hf_ddpm.models.judge import Judge, JudgeRecord, build_network, save_judge
from hf_ddpm.pipeline import CFGDDPMPipeline
from hf_ddpm.results import MetricValue
from hf_ddpm.run_folder import STATE
from hf_ddpm.runtime.lock import OutputLock
from hf_ddpm.runtime.signals import Stopped
from hf_ddpm.tuning_results import FILE, Candidate, Tuning

NAMES = ["0", "1", "2"]
FOUND = {"num_inference_steps": 3, "guidance_scale": 2.0, "guidance_interval": [0.2, 0.8]}


@pytest.fixture(scope="module")
def judges(tmp_path_factory) -> list[str]:
    folders = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        network = build_network(widths=[4, 4], depths=[1, 1], channels=1, class_names=NAMES)
        record = JudgeRecord(
            accuracy=0.99, num_test_images=100, seed=seed, sha256="", image_size=8, channels=1, class_names=NAMES,
            source="digits", data_fingerprint="0",
        )  # fmt: skip
        folders.append(tmp_path_factory.mktemp("judge"))
        save_judge(Judge(network, record), folders[-1])
    return [f"judge:{folder}" for folder in folders]


@pytest.fixture
def model(tiny_pipeline, tmp_path) -> Path:
    """The pipeline of a run, which samples in 4 steps."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("data: {source: digits, labels: [0, 1, 2], max_images: 20}\n")
    pipeline = tiny_pipeline(names=NAMES)
    pipeline.set_sampling_defaults({"num_inference_steps": 4})
    pipeline.save_pretrained(run / "pipeline")
    return run / "pipeline"


@pytest.fixture
def options(judges, model, tmp_path):
    def build(**changed) -> TuneConfig:
        grid = {"num_inference_steps": [2, 3], "guidance_scale": [1.0, 2.0], "guidance_interval": [(0.0, 1.0)]}
        given = {
            "model": str(model), "features": judges[0], "heldout_features": judges[1], "num_images": 8, "num_seeds": 2,
            "output_dir": tmp_path / "run" / "results" / "tuning", "num_threads": 1, "grid": TuningGrid(**grid),
        }  # fmt: skip
        return TuneConfig(**{**given, **changed})

    return build


def candidate(name: str, *distances: float, calls: int = 10, recall: float = 0.9) -> Candidate:
    metrics = {"fd": MetricValue.over_seeds(list(distances), n=10), "recall": MetricValue.over_seeds([recall] * 2, n=10)}
    return Candidate(
        name=name, scheduler="DDIM", num_inference_steps=5, guidance_scale=1.0, network_calls=calls, metrics=metrics
    )


# Which candidates are kept


@pytest.mark.parametrize(
    ("given", "rounds"),
    [
        ((28, 1000), [(28, 100), (14, 125), (7, 250), (4, 500), (2, 1000)]),
        ((5, 500), [(5, 250), (3, 500)]),
        ((4, 100), [(4, 100), (2, 100)]),
        ((2, 50), [(2, 50)]),
    ],
)
def test_rounds_halve_candidates_and_double_images(given, rounds):
    assert plan_rounds(*given) == rounds


def test_fewer_calls_win_where_no_difference_is_measurable():
    best, equal = candidate("best", 1.0, 2.0, 3.0, calls=40), candidate("equal", 1.2, 2.5, 2.6, calls=20)
    worse, cheap = candidate("worse", 1.1, 2.11, 3.1, calls=10), candidate("cheap", 9.0, 9.0, 9.0, calls=5)
    assert best_of([cheap, worse, equal, best], "fd").name == "equal"  # `worse` is measurably worse, by 0.1 in every seed
    assert [one.name for one in survivors([best, worse, equal, cheap], 2, "fd")] == ["best", "equal"]
    assert [one.name for one in survivors([best, worse, cheap], 2, "fd")] == ["best", "worse"]


def test_a_recall_is_asked_for():
    good, near = candidate("good", 1.0, 1.1, recall=0.7), candidate("near", 2.0, 2.1, recall=0.8)
    able = candidate("able", 3.0, 3.1, recall=0.9)
    assert best_of([good, near, able], "fd", 0.85).name == "able"
    assert best_of([good, near], "fd", 0.85) is None
    assert [one.name for one in survivors([good, near, able], 2, "fd", 0.85)] == ["near", "able"]


def test_candidates_are_each_a_way_to_sample(options):
    usual = options(grid=TuningGrid())
    names = [point.name for point in usual.candidates(can_be_guided=True)]
    assert len(names) == len(set(names)) == 28 and names[0] == BEFORE
    assert "dpmsolver++_steps-10_s-1" in names and "dpmsolver++_steps-25_s-3_interval-0.2-0.8" in names
    assert not any("s-1_interval" in name for name in names)
    steps = usual.candidates(can_be_guided=False)
    assert [(point.num_inference_steps, point.guidance_scale) for point in steps] == [
        (None, None), (10, None), (15, None), (25, None),
    ]  # fmt: skip


# A whole tuning


def test_rounds_are_paired_and_the_end_is_of_another_judge_on_another_split(options, model, judges, capsys):
    config = options(write_defaults="never")
    assert tune(config, only_estimate=True) is None
    plan = "5 candidates in 2 rounds (candidates x images: 5 x 8, 3 x 8) of 2 seeds each, and 2 x 8 at the end"
    assert plan in capsys.readouterr().out and not Path(config.output_dir).exists()
    before = {path: path.read_bytes() for path in model.rglob("*") if path.is_file()}
    tuning = tune(config)
    text = report_tuning(config, tuning)
    assert before == {path: path.read_bytes() for path in model.rglob("*") if path.is_file()}
    assert text.endswith("is left as it is") and tuning.statement in text
    first, last = tuning.rounds
    assert len(first.candidates) == 5
    assert {one.name for one in last.candidates} == set(first.kept) and last.kept == [tuning.chosen.name]
    assert (first.seeds, last.seeds, tuning.protocol["heldout_seeds"]) == ([0, 1], [2, 3], [4, 5])
    assert {one.name: one.network_calls for one in first.candidates} == {
        BEFORE: 8, "dpmsolver++_steps-2_s-1": 2, "dpmsolver++_steps-2_s-2": 4, "dpmsolver++_steps-3_s-1": 3,
        "dpmsolver++_steps-3_s-2": 6,
    }  # fmt: skip
    assert tuning.protocol["features_sha256"] != tuning.protocol["heldout_features_sha256"]
    heldout = json.loads((Path(config.output_dir) / "heldout/cells/defaults.json").read_text())["protocol"]
    assert (heldout["reference_split"], heldout["features_from"], heldout["seeds"]) == ("test", judges[1], [4, 5])
    pairs = zip(tuning.chosen.metrics["fd_judge"].values, tuning.before.metrics["fd_judge"].values, strict=True)
    assert tuning.difference.values == [one - other for one, other in pairs]
    assert Tuning.read(Path(config.output_dir) / FILE).to_json() == tuning.to_json()
    assert tune(options(write_defaults="gain")).to_json() == tuning.to_json(), "it is finished"
    with pytest.raises(ValueError, match="--num_images is 9: the tuning in .* was started with 8"):
        tune(options(num_images=9))


def test_what_is_found_becomes_the_default_and_is_in_the_card(options, model):
    (model / "LICENSE").write_text("MIT")
    weights = (model / "unet/diffusion_pytorch_model.safetensors").read_bytes()
    (model / "pipeline.py").write_text("# of an earlier version\n")
    config = options()
    tuning = tune(config)
    chosen = replace(tuning.chosen, name="ddim_steps-3", scheduler="DDIMScheduler")
    found = replace(tuning, verdict="gain", chosen=chosen, scheduler="ddim", sampling_defaults=FOUND)
    (Path(config.output_dir) / FILE).write_text(found.to_json())
    assert f"defaults: written to {model}" in report_tuning(config, tune(config))
    for loaded in (CFGDDPMPipeline.from_pretrained(model), DiffusionPipeline.from_pretrained(model, trust_remote_code=True)):
        assert loaded.sampling_defaults == FOUND and isinstance(loaded.scheduler, DDIMScheduler)
        assert loaded.scheduler.config.timestep_spacing == "trailing"
    assert (model / "unet/diffusion_pytorch_model.safetensors").read_bytes() == weights
    assert (model / "LICENSE").read_text() == "MIT"
    assert str(model) not in (model / "model_index.json").read_text()
    card = (model / "README.md").read_text()
    assert "## How it samples best" in card and "Gain on the held-out judge" in card and "results/tuning/tuning.json" in card
    write_shared(model, model.parents[1] / "shared", weights="float16")
    assert "## How it samples best" in (model.parents[1] / "shared/README.md").read_text()
    assert CFGDDPMPipeline.from_pretrained(model.parents[1] / "shared").sampling_defaults == FOUND
    assert "there already" in report_tuning(config, tune(config))
    assert "is left as it is" in report_tuning(config, replace(found, verdict="no gain"))
    with OutputLock(model.parent) as lock:
        lock.take()
        with pytest.raises(ValueError, match=f"model is .*: process {os.getpid()} on .* is writing there"):
            save_defaults(model, replace(found, sampling_defaults={"num_inference_steps": 2}))
    weight = next(loaded.unet.parameters())
    weight.data += 1
    loaded.unet.save_pretrained(model / "unet")
    with pytest.raises(ValueError, match="its weights have changed since they were measured"):
        save_defaults(model, found)


@pytest.mark.usefixtures("listening_to_ctrl_c")
def test_a_stopped_tuning_continues_to_the_same_result(options, tmp_path):
    calls: list[int] = []
    stop_at = [0]

    def count(module, inputs, output):
        if isinstance(module, UNet2DModel):
            calls.append(1)
            if len(calls) == stop_at[0]:
                os.kill(os.getpid(), signal.SIGINT)

    hook = torch.nn.modules.module.register_module_forward_hook(count)
    try:
        whole = tune(options(output_dir=tmp_path / "whole"))
        stop_at[0] = len(calls) * 2 // 3
        calls.clear()
        with pytest.raises(Stopped, match="the same command"):
            tune(options(output_dir=tmp_path / "parts"))
        stop_at[0] = 0
        calls.clear()
        parts = tune(options(output_dir=tmp_path / "parts"))
    finally:
        hook.remove()
    assert parts.rounds == whole.rounds and parts.chosen == whole.chosen and parts.difference == whole.difference


def test_candidates_are_guided_as_is_saved_and_stay_so(options, model):
    pipeline = CFGDDPMPipeline.from_pretrained(model)
    pipeline.set_sampling_defaults({"guidance": "apg"})
    pipeline.save_pretrained(model)
    tuning = tune(options(grid=TuningGrid(num_inference_steps=[2], guidance_scale=[2.0], guidance_interval=[(0.0, 1.0)])))
    assert {one.guidance for one in tuning.rounds[0].candidates} == {"apg"}
    assert (tuning.chosen.num_inference_steps, tuning.sampling_defaults["guidance"]) == (2, "apg")


def test_a_model_without_guidance_has_its_steps_tuned(options, tiny_pipeline, tmp_path):
    pipeline = tiny_pipeline(names=None)
    pipeline.set_sampling_defaults({"num_inference_steps": 4})
    pipeline.save_pretrained(tmp_path / "run" / "pipeline")
    tuning = tune(options(grid=TuningGrid(num_inference_steps=[2, 3]), min_recall=0.0))
    assert {one.num_inference_steps for one in tuning.rounds[0].candidates} == {2, 3, 4}
    assert all(one.guided == "none" for one in tuning.rounds[0].candidates)
    assert "guidance_scale" not in tuning.sampling_defaults
    with pytest.raises(ValueError, match="--grid.guidance_scale is .*: the model is unconditional and has no guide"):
        tune(options(output_dir=tmp_path / "other"))


# Refusals


def test_what_has_nothing_to_tune_is_refused(options, tiny_unet, model, tmp_path):
    DCGANPipeline(DCGANGenerator(8, 1, latent_dim=6, width=4)).save_pretrained(tmp_path / "gan")
    CFGDDPMPipeline(tiny_unet(3), DDIMScheduler(), default_num_inference_steps=4).save_pretrained(tmp_path / "few")
    for name, reason in (("gan", "it is a GAN"), ("few", "it is distilled")):
        with pytest.raises(ValueError, match=f"model is .*{name}.*: {reason}"):
            tune(options(model=str(tmp_path / name)))
    (model / STATE).parent.mkdir()
    (model / STATE).write_text("{}")
    for refused, reason in ((model, "it is a checkpoint"), ("ada/digits", "nothing is written to the Hub")):
        with pytest.raises(ValueError, match=f"{reason}.*--write_defaults never"):
            tune(options(model=str(refused)))
    assert not (tmp_path / "run/results").exists()


def test_the_same_judge_is_refused_wherever_it_is(options, judges, tmp_path):
    with pytest.raises(ValueError, match="--heldout_features is .*: candidates were chosen in these"):
        options(heldout_features=judges[0])
    copy = shutil.copytree(judges[0].removeprefix("judge:"), tmp_path / "copy")
    with pytest.raises(ValueError, match="heldout_features is .*copy': its weights are those of judge:"):
        tune(options(heldout_features=f"judge:{copy}"))


def test_a_recall_that_none_has_can_be_lowered(options):
    grid = TuningGrid(num_inference_steps=[2], guidance_scale=[1.0])
    with pytest.raises(ValueError, match="--min_recall is 1.0: no candidate has it, the highest of the last round is"):
        tune(options(min_recall=1.0, grid=grid))
    assert tune(options(min_recall=None, grid=grid)).rounds[-1].kept


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_seeds": 1}, "--num_seeds is 1: give at least 2"),
        ({"min_recall": 1.5}, "--min_recall is 1.5: give a number from 0 to 1"),
        ({"inception_weights": Path("a.pth")}, "--inception_weights is .*: no features are of Inception"),
        ({"batch_size": 0}, "--batch_size is 0"),
    ],
)
def test_options_that_cannot_work_are_refused(options, wrong, message):
    with pytest.raises(ValueError, match=message):
        options(**wrong)
    with pytest.raises(ValueError, match="--grid.guidance_interval is .*: give"):
        TuningGrid(guidance_interval=[(0.5, 0.5)])


def test_a_second_tuning_in_the_same_folder_is_refused(options, tmp_path):
    with OutputLock(tmp_path / "run/results/tuning") as lock:
        lock.take()
        with pytest.raises(ValueError, match=f"output_dir is .*: process {os.getpid()} on .* is writing there"):
            tune(options())
