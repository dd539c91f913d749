"""The mistakes that users make, through the public command: one line, exit code 2, and nothing written."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import pytest
import torch

ROOT = Path(__file__).parents[1]
DIGITS = ROOT / "train_scripts" / "recipes" / "digits.yaml"
PETS = datasets.ClassLabel(names=["cat", "dog"])


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """Small data sets and recipes, good and bad."""
    folder = tmp_path_factory.mktemp("sources")
    pictures = [PIL.Image.fromarray(np.full((8, 8), value, dtype=np.uint8)) for value in range(4)]

    def save(name: str, features: dict | None = None, **columns) -> None:
        dataset = datasets.Dataset.from_dict(columns)
        for column, feature in (features or {}).items():
            dataset = dataset.cast_column(column, feature)
        (folder / name).mkdir()
        dataset.to_parquet(str(folder / name / "train.parquet"))

    image = {"image": datasets.Image()}
    save("pets", image | {"label": PETS}, image=pictures, label=[0, 1, 0, 1])
    save("unlabelled", image, image=pictures)
    save("two_labels", image | {"kind": PETS, "mood": PETS}, image=pictures, kind=[0, 1, 0, 1], mood=[0, 0, 1, 1])
    save("bad_label", image, image=pictures, label=[0, 1, None, 1])
    save("no_images", text=["a", "b"])
    (folder / "cut").mkdir()
    whole = (folder / "pets" / "train.parquet").read_bytes()
    (folder / "cut" / "train.parquet").write_bytes(whole[: len(whole) // 2])
    (folder / "empty").mkdir()
    (folder / "not_a_unet").mkdir()
    (folder / "not_a_unet" / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL"}))
    (folder / "broken.yaml").write_text("data: [1, 2\nseed: {")
    (folder / "unknown.yaml").write_text("max_train_steps: 1\ndata:\n  batchsize: 3\n")
    (folder / "circle.yaml").write_text("extends: circle.yaml\n")
    return folder


@pytest.fixture
def mistake(load_script, sources, tmp_path, monkeypatch, capfd):
    """Run the command on a mistake, from the folder of the sources; its message."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(sources)
    output_dir = tmp_path / "runs" / "new"
    main = load_script("train").main

    def run(*args: str, output_dir: Path = output_dir) -> str:
        before = sorted(sources.rglob("*"))
        recipe = [] if "--config" in args else ["--config", str(DIGITS)]
        defaults = [*recipe, "--output_dir", str(output_dir), "--num_threads", "1"]
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([*defaults, *args])
        out, err = capfd.readouterr()
        assert (stopped.value.code, out) == (2, "")
        (message,) = without_progress_bars(err)
        assert not (tmp_path / "runs").exists()
        assert sorted(sources.rglob("*")) == before
        return message

    return run


def without_progress_bars(err: str) -> list[str]:
    """Lines of stderr but for the bars of data that was read before the mistake was found."""
    lines = err.replace("\r", "\n").splitlines()
    return [line for line in lines if line.strip() and not line.startswith(("Generating ", "looking at ", "decoding "))]


PETS_ONLY = ["--data.source", "./pets", "--data.test_split", "null"]

MISTAKES = {
    # what is not an option, or not a value of one
    "unknown option": (["--learning_rate", "1"], ["--learning_rate"]),
    "unknown nested option": (["--data.batchsize", "3"], ["--data.batchsize"]),
    "wrong type": (["--data.batch_size", "many"], ["--data.batch_size", "many"]),
    "wrong literal": (["--objective.loss", "l3"], ["--objective.loss", "l2", "l3"]),
    "unknown tracker": (["--logging.trackers", "[bogus]"], ["--logging.trackers", "bogus"]),
    # recipes
    "missing recipe": (["--config", "gone.yaml"], ["--config gone.yaml", "No such file"]),
    "broken recipe": (["--config", "broken.yaml"], ["--config broken.yaml", "YAML"]),
    "unknown key in a recipe": (["--config", "unknown.yaml"], ["--config unknown.yaml", "batchsize"]),
    "recipe that extends itself": (["--config", "circle.yaml"], ["remove the cycle"]),
    "two recipes": (["--config", "a.yaml", "--config", "b.yaml"], ["--config is given twice"]),
    # impossible values
    "negative batch size": (["--data.batch_size", "-1"], ["--data.batch_size is -1"]),
    "probability above 1": (["--objective.class_dropout_prob", "1.5"], ["--objective.class_dropout_prob is 1.5"]),
    "no length": (["--max_train_steps", "null"], ["--max_train_steps or --num_train_epochs", "neither"]),
    "two lengths": (["--num_train_epochs=2", "--max_train_steps=2"], ["--max_train_steps or --num_train_epochs", "both"]),
    "epsilon with zero-terminal SNR": (
        ["--objective.prediction_type", "epsilon", "--schedule.rescale_zero_terminal_snr", "true"],
        ["--objective.prediction_type is 'epsilon'"],
    ),
    "shuffle buffer without a stream": (["--data.shuffle_buffer", "5"], ["--data.shuffle_buffer is 5", "--data.streaming"]),
    "epochs of a stream": (
        ["--data.streaming", "--max_train_steps", "null", "--num_train_epochs", "1"],
        ["--num_train_epochs is 1", "--max_train_steps"],
    ),
    "another distance with the bound": (
        ["--objective.loss_weighting", "vlb", "--objective.loss", "l1"],
        ["--objective.loss is 'l1'", "l2"],
    ),
    "schedule without a bound": (
        [
            "--schedule.variance_type=learned_range",
            "--schedule.beta_schedule=linear",
            "--schedule.beta_start=1e-9",
            "--schedule.beta_end=1e-9",
        ],
        ["--schedule", "bound"],
    ),
    "push to nowhere": (["--hub.push_to_hub"], ["--hub.repo_id is None"]),
    "place to push to without a push": (["--hub.repo_id", "me/x"], ["--hub.repo_id is 'me/x'", "--hub.push_to_hub"]),
    "gamma without min-SNR": (["--objective.snr_gamma", "5"], ["--objective.snr_gamma", "--objective.loss_weighting"]),
    "negative seed": (["--seed", "-1"], ["--seed is -1"]),
    # the model
    "image size that does not halve": (["--data.image_size", "7"], ["--data.image_size is 7", "multiple of 2"]),
    "unknown preset": (["--model.preset", "digits9"], ["--model.preset is 'digits9'", "digits8"]),
    "preset folder without config.json": (["--model.preset", "./empty"], ["--model.preset is './empty'", "config.json"]),
    "preset folder of another model": (
        ["--model.preset", "./not_a_unet"],
        ["./not_a_unet'", "UNet2DModel"],
    ),
    "unknown override": (["--model.overrides.dropuot", "0.1"], ["--model.overrides.dropuot", "dropout"]),
    "override of what follows the data": (["--model.overrides.in_channels", "3"], ["--data.channels"]),
    "too many channels": (
        [*PETS_ONLY, "--model.overrides.block_out_channels", "[65536, 65536]"],
        ["--model.overrides", "parameters, at most 2,000,000,000"],
    ),
    "channels that the norm cannot group": ([*PETS_ONLY, "--model.overrides.block_out_channels", "[30, 60]"], ["30"]),
    "three levels for two blocks": (
        [*PETS_ONLY, "--model.overrides.block_out_channels", "[8, 8, 8]"],
        ["block_out_channels"],
    ),
    "zero null embedding without null label": (
        [*PETS_ONLY, "--model.null_embedding", "zero", "--objective.class_dropout_prob", "0"],
        ["--model.null_embedding"],
    ),
    # the run
    "nothing to resume": (["--resume", "latest"], ["--resume is 'latest'", "no checkpoint"]),
    "checkpoint that does not exist": (["--resume", "./gone"], ["--resume is './gone'"]),
    "folder that is no checkpoint": (["--resume", "./pets"], ["pets", "manifest.json"]),
    # the data
    "missing source": (["--data.source", "./gone"], ["--data.source is './gone'"]),
    "empty source": (["--data.source", "./empty"], ["--data.source is './empty'"]),
    "source that is a file": (["--data.source", "./broken.yaml"], ["--data.source is './broken.yaml'", "file"]),
    "source out of reach": (["--data.source", "nobody/no_such_dataset"], ["--data.source is 'nobody/no_such_dataset'"]),
    "cut parquet file": (["--data.source", "./cut"], ["train.parquet", "truncated"]),
    "no images": (["--data.source", "./no_images"], ["--data.source", "text (string)"]),
    "missing image column": ([*PETS_ONLY, "--data.image_column", "img"], ["--data.image_column is 'img'", "image, label"]),
    "missing label column": ([*PETS_ONLY, "--data.label_column", "kind"], ["--data.label_column is 'kind'", "image, label"]),
    "image column as labels": ([*PETS_ONLY, "--data.label_column", "image"], ["--data.label_column is 'image'"]),
    "two label columns": (["--data.source", "./two_labels"], ["kind or mood", "--data.label_column"]),
    "row without label": (["--data.source", "./bad_label"], ["row 2"]),
    "labels where there are none": (
        ["--data.source", "./unlabelled", "--data.class_conditional", "true"],
        ["--data.class_conditional is True, but"],
    ),
    "class id 99": (["--data.labels", "[99]"], ["--data.labels is [99]", "0..9"]),
    "unknown class name": ([*PETS_ONLY, "--data.labels", "[dgo]"], ["--data.labels is ['dgo']", "dog?"]),
    "no class": (["--data.labels", "[]"], ["--data.labels is []"]),
    "class twice": ([*PETS_ONLY, "--data.labels", "[cat, 0]"], ["--data.labels", "twice"]),
    "unknown split": ([*PETS_ONLY, "--data.train_split", "val"], ["'val'", "train"]),
    "unknown held-out split": (["--data.source", "./pets", "--data.test_split", "test"], ["'test'", "train"]),
    "class dropout without classes": (
        ["--data.class_conditional", "false", "--objective.class_dropout_prob", "0.1"],
        ["--objective.class_dropout_prob is 0.1"],
    ),
    "label column without use": (
        [
            *(*PETS_ONLY, "--data.label_column", "label", "--data.class_conditional", "false"),
            *("--objective.class_dropout_prob", "null"),
        ],
        ["--data.label_column is 'label'", "--data.class_conditional is False"],
    ),
}


@pytest.mark.parametrize(("args", "words"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_line_that_says_what_is_wrong(mistake, args, words):
    message = mistake(*args)
    assert all(word in message for word in words), message


@pytest.mark.skipif(torch.cuda.is_available(), reason="fp16 is possible on CUDA")
def test_fp16_on_a_cpu(mistake):
    assert "--mixed_precision is 'fp16'" in mistake("--mixed_precision", "fp16")


@pytest.mark.parametrize("tracker", ["trackio", "wandb"])
def test_a_tracker_that_is_not_installed(mistake, tracker):
    if importlib.util.find_spec(tracker):
        pytest.skip(f"{tracker} is installed")
    message = mistake("--logging.trackers", f"[{tracker}]")
    assert f"--logging.trackers: {tracker} is not installed" in message and "pip install" in message


def test_a_folder_that_is_not_empty_stays_as_it_is(mistake, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("precious")
    message = mistake(output_dir=tmp_path / "mine")
    assert "--output_dir" in message and "not empty" in message and "--resume auto" in message
    assert [file.read_text() for file in (tmp_path / "mine").iterdir()] == ["precious"]


def test_an_output_folder_that_is_a_file(mistake, tmp_path):
    (tmp_path / "file").write_text("precious")
    assert "is a file" in mistake(output_dir=tmp_path / "file")
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--data.batchsize", "3"], "unknown option --data.batchsize"),
        (["--data.source", "./gone", "--num_threads", "1"], "--data.source is './gone'"),
    ],
)
def test_a_mistake_in_a_process_of_its_own(tmp_path, args, words):
    program = [sys.executable, str(ROOT / "train_scripts" / "train.py"), "--config", str(DIGITS)]
    command = [*program, "--output_dir", "runs/new", *args]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("train.py: ") and words in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()
