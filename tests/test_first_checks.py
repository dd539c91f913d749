"""Mistakes that need no heavy library are reported before one is imported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hf_ddpm import first_checks
from hf_ddpm.schedulers import SCHEDULERS

SCRIPTS = Path(__file__).parents[1] / "train_scripts"
TRAIN = ["--output_dir", "new"]
MONITOR = [*TRAIN, "--evaluation.every_steps=1", "--evaluation.features"]
EVALUATE = ["--output=new.json", "--model=model"]
SWEEP = ["--output_dir=new", "--grid.guidance_scale=[1, 2]"]
MISTAKES = (
    ("train", [*TRAIN, "--data.source=./missing"], "--data.source is './missing'"),
    ("train", [*TRAIN, "--data.labels=[&a [*a]]"], "--data.labels"),
    ("train", [*TRAIN, "--model.preset=digits9"], "--model.preset is 'digits9'"),
    ("train", [*TRAIN, "--model.init_from=./missing"], "--model.init_from is './missing'"),
    ("train", ["--output_dir=occupied"], "--output_dir is 'occupied': not empty"),
    ("train", [*TRAIN, "--resume=latest"], "--resume is 'latest'"),
    ("train", [*TRAIN, "--resume=step-00000001"], "--resume is 'step-00000001'"),
    ("train", [*MONITOR, "judge:missing"], "judge 'missing': no such folder"),
    ("train", [*MONITOR, "inception", "--evaluation.scheduler=ddmi"], "--evaluation.scheduler is 'ddmi'"),
    ("distill", [*TRAIN, "--teacher=./missing"], "--teacher is './missing': no such folder"),
    ("train_gan", [*TRAIN, "--data.source=./missing"], "--data.source is './missing'"),
    ("train_gan", [*TRAIN, "--resume=latest"], "--resume is 'latest'"),
    ("train_judge", ["--output_dir=occupied"], "--output_dir is 'occupied': not empty"),
    ("sample", [*TRAIN, "--model=./missing"], "--model is './missing'"),
    ("sample", [*TRAIN, "--model=model", "--scheduler=ddmi"], "--scheduler is 'ddmi'"),
    ("sample", [*TRAIN, "--model=model", "--class_labels=[2, dgo]"], "nearest: dog"),
    ("evaluate_model", [*EVALUATE, "--features=incpetion"], "--features is 'incpetion'"),
    ("evaluate_model", [*EVALUATE, "--features=judge:missing"], "judge 'missing'"),
    ("evaluate_model", [*EVALUATE, "--features=inception", "--data.source=./missing"], "--data.source is './missing'"),
    ("sweep", [*SWEEP, "--model=./missing", "--features=inception"], "--model is './missing'"),
    ("sweep", [*SWEEP, "--model=model", "--features=judge:missing"], "judge 'missing'"),
    ("sweep", [*SWEEP, "--model=model", "--features=inception", "--grid.scheduler=[ddmi]"], "scheduler is 'ddmi'"),
    ("figures", ["reverse", "--output=new", "--model=./missing"], "--model is './missing'"),
    ("push_to_hub", ["--model=./missing", "--repo_id=me/it"], "--model is 'missing'"),
)  # fmt: skip
MISTAKES_IN_DATA = (
    ("train", [*TRAIN, "--data.train_split=trian"], "split 'trian'"),
    ("train", [*TRAIN, "--data.label_column=lable"], "--data.label_column is 'lable'"),
    ("train", [*TRAIN, "--data.labels=[3, 77]"], "77 is outside 0..9"),
    ("train", [*TRAIN, "--data.source=some/thing"], "could not be read from the Hub"),
    ("train_gan", [*TRAIN, "--data.train_split=trian"], "split 'trian'"),
    ("train_judge", [*TRAIN, "--data.test_split=tset"], "split 'tset'"),
)
RECIPES = {"train": "digits", "distill": "distill_digits", "train_gan": "gan_digits", "train_judge": "judge_digits"}
MAKE_MISTAKES = f"""
import importlib.util, json, sys
for program, args in json.loads(sys.argv[1]):
    spec = importlib.util.spec_from_file_location(program, {str(SCRIPTS)!r} + f"/{{program}}.py")
    module = sys.modules[program] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        module.main(args)
    except SystemExit as stopped:
        print(stopped.code, *[name for name in ("torch", "datasets", "diffusers") if name in sys.modules])
"""


def test_mistakes_that_need_no_heavy_import_are_reported_before_it(tmp_path):
    (tmp_path / "occupied").mkdir()
    (tmp_path / "occupied" / "notes.txt").touch()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model_index.json").write_text('{"id2label": {"0": "cat", "1": "2", "2": "dog"}}')
    commands = [
        (program, [f"--config={SCRIPTS}/recipes/{RECIPES[program]}.yaml", *args] if program in RECIPES else args)
        for program, args, _ in (*MISTAKES, *MISTAKES_IN_DATA)
    ]
    run = subprocess.run(
        [sys.executable, "-c", MAKE_MISTAKES, json.dumps(commands)],
        cwd=tmp_path, env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    messages = run.stderr.splitlines()
    assert len(messages) == len(MISTAKES) + len(MISTAKES_IN_DATA), run.stderr
    answers = iter(zip(messages, run.stdout.splitlines(), strict=True))
    for mistakes, exit_code_and_imports in ((MISTAKES, "2"), (MISTAKES_IN_DATA, "2 datasets")):
        for (program, _, words), (message, answer) in zip(mistakes, answers, strict=False):
            assert words in message, program
            assert answer == exit_code_and_imports, f"{program}, {words}: {answer}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "occupied"]


def test_the_names_of_schedulers_are_those_that_can_be_built():
    assert tuple(SCHEDULERS) == first_checks.SCHEDULER_NAMES


@pytest.mark.parametrize("source", ["digits", ".", "owner/name", "mnist"])
def test_sources_that_may_exist_pass(source):
    first_checks.check_source(source)


@pytest.mark.parametrize("source", ["", "./nowhere", "/nowhere", "~/nowhere", "a/b/c", "imagefolder"])
def test_sources_that_cannot_exist_are_refused(source):
    with pytest.raises(ValueError, match="which is not an existing folder"):
        first_checks.check_source(source)


@pytest.mark.parametrize("features", ["inception", "dinov2", "dinov2:owner/name", "judge:."])
def test_features_that_may_exist_pass(features):
    first_checks.check_features(features)


@pytest.mark.parametrize("features", ["", "judge", "judge:", "dinov2:", "inception:x", "fid"])
def test_features_with_unknown_names_are_refused(features):
    with pytest.raises(ValueError, match="give inception, dinov2"):
        first_checks.check_features(features)


def test_an_accent_in_a_class_may_be_encoded_in_two_ways(tmp_path):
    (tmp_path / "model_index.json").write_text('{"id2label": {"0": "e\\u0301", "1": "b"}}')
    first_checks.check_class_labels(str(tmp_path), ["\u00e9", "e\u0301", "1"])
    with pytest.raises(ValueError, match="no such name"):
        first_checks.check_class_labels(str(tmp_path), ["e"])
