"""Two processes on one CPU, started by torchrun as the README has it: training, sampling, a killed process and its resume.

Starting a process costs seconds of imports, so one pair of processes does everything that can be done in a row.
"""

import io
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from hf_ddpm.cli import parse_config
from hf_ddpm.run_folder import RunFolder
from hf_ddpm.training.loop import train
from hf_ddpm.training.options import TrainConfig

ROOT = Path(__file__).parents[2]
STEPS = 6
OPTIONS = [
    f"--max_train_steps={STEPS}",
    "--checkpoint.every_steps=2",
    "--logging.sample_every_steps=3",
    "--data.test_split=test",
    "--data.horizontal_flip=true",
]
DROPOUT = "--model.overrides.dropout=0.1"
SAMPLES = ["--num_images=5", "--num_inference_steps=3", "--scheduler=ddim", "--batch_size=2"]

# Reads jobs (program, arguments) from a JSON file, and does one after the other in each process. Notes what is read.
WORKER = """
import hashlib, importlib.util, json, os, pathlib, signal, sys

os.environ["HF_DATASETS_CACHE"] = sys.argv[2]
import hf_ddpm.training.loop as loop
from hf_ddpm.cli import parse_config
from hf_ddpm.training.options import TrainConfig

spec = importlib.util.spec_from_file_location("sample_script", sys.argv[3])
sample_script = importlib.util.module_from_spec(spec)
sys.modules["sample_script"] = sample_script
spec.loader.exec_module(sample_script)
take_step, to_model_range = loop.train_step, loop.to_model_range
read = []

def noting(images):
    read.extend(hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in images)
    return to_model_range(images)

def dying(state, run, step):
    result = take_step(state, run, step)
    if state.step == 5 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    return result

loop.to_model_range = noting
for program, arguments in json.loads(pathlib.Path(sys.argv[1]).read_text()):
    read.clear()
    if program == "sample":
        sample_script.main(arguments)
        continue
    loop.train_step = dying if program == "die" else take_step
    try:
        folder = loop.train(parse_config(TrainConfig, arguments)).parent
    except FloatingPointError as error:
        print(error)
        continue
    (folder / f"read-{os.environ['RANK']}.json").write_text(json.dumps(read))
"""


def start_pair(jobs: list[tuple[str, list[str]]], folder: Path) -> subprocess.CompletedProcess:
    """Do jobs in two processes that torchrun starts."""
    (folder / "jobs.json").write_text(json.dumps(jobs))
    (folder / "worker.py").write_text(WORKER)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0", "--standalone"]
    arguments = [folder / "worker.py", folder / "jobs.json", folder / "cache", ROOT / "train_scripts" / "sample.py"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, timeout=500)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("two_processes")


@pytest.fixture(scope="module")
def pair(folder, tiny_options) -> subprocess.CompletedProcess:
    """Everything that two processes do in this module, but for the resume."""

    def run(name: str, *options: str) -> list[str]:
        return [*tiny_options, *OPTIONS, f"--output_dir={folder / name}", *options]

    def sample(name: str, *options: str) -> list[str]:
        return ["--model", str(folder / "pair" / "pipeline"), *SAMPLES, f"--output_dir={folder / name}", *options]

    jobs = [
        ("train", run("pair", "--data.batch_size=16", "--logging.trackers=[tensorboard]")),
        ("train", run("stream", "--data.batch_size=16", "--data.streaming=true", "--data.test_split=null")),
        ("train", run("whole", "--data.batch_size=8", DROPOUT)),
        ("train", run("diverged", "--data.batch_size=4", "--optim.learning_rate=1e30")),
        ("sample", sample("png")),
        ("sample", sample("npz", "--format=npz")),
        ("sample", sample("one", "--num_images=1")),
        ("die", run("killed", "--data.batch_size=8", DROPOUT)),
    ]
    return start_pair(jobs, folder)


def metrics(run_dir: Path) -> list[dict]:
    """Lines of metrics.jsonl without what the clock says."""
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in record.items() if name != "images_per_second"} for record in records]


def losses(run_dir: Path) -> torch.Tensor:
    return torch.tensor([record["loss"] for record in metrics(run_dir) if "loss" in record])


def test_the_killed_process_ends_the_pair(pair):
    assert pair.returncode != 0
    assert "exitcode  : -9" in pair.stderr


def test_the_total_batch_is_what_counts(pair, folder, tiny_options):
    """Batch 32 = 2 x 16 accumulated = two processes x 16."""
    for name, options in {
        "single": ["--data.batch_size=32"],
        "accumulated": ["--data.batch_size=16", "--optim.gradient_accumulation_steps=2"],
    }.items():
        train(parse_config(TrainConfig, [*tiny_options, *OPTIONS, f"--output_dir={folder / name}", *options]))
        torch.testing.assert_close(losses(folder / name), losses(folder / "pair"), atol=2e-3, rtol=0)
        for field in ("images_seen", "epoch", "lr"):
            assert [r.get(field) for r in metrics(folder / name)] == [r.get(field) for r in metrics(folder / "pair")]
        tests = [torch.tensor([r["test_loss"] for r in metrics(folder / n) if "test_loss" in r]) for n in (name, "pair")]
        torch.testing.assert_close(*tests, atol=2e-3, rtol=0)


def test_one_process_writes_the_run_folder(pair, folder):
    run_dir = folder / "pair"
    steps = [record["step"] for record in metrics(run_dir) if "loss" in record]
    assert steps == list(range(1, STEPS + 1)), "each step is logged once"
    assert list(RunFolder(run_dir).sample_grids()) == [3, 6]
    assert len(list((run_dir / "trackers").rglob("events.out.tfevents.*"))) == 1
    assert json.loads((run_dir / "environment.json").read_text())["num_processes"] == 2


@pytest.mark.parametrize("name", ["pair", "stream"])
def test_the_processes_read_disjoint_images(pair, folder, name):
    read = [json.loads((folder / name / f"read-{rank}.json").read_text())[: STEPS * 16] for rank in (0, 1)]
    assert len(read[0]) == len(read[1]) == STEPS * 16
    assert not set(read[0]) & set(read[1])
    assert len(set(read[0])) == len(read[0]), "within an epoch no image comes twice"


def test_another_number_of_processes_goes_on_with_the_same_images(pair, folder, tiny_options):
    """Checkpoints of the pair, continued by one process with the same total batch."""
    shutil.copytree(folder / "pair", folder / "alone")
    start = folder / "alone" / "checkpoints" / "step-00000004"
    options = [*OPTIONS, "--data.batch_size=32", f"--output_dir={folder / 'alone'}", f"--resume={start}"]
    train(parse_config(TrainConfig, [*tiny_options, *options]))
    assert [r.get("images_seen") for r in metrics(folder / "alone")] == [
        r.get("images_seen") for r in metrics(folder / "pair")
    ]
    torch.testing.assert_close(losses(folder / "alone"), losses(folder / "pair"), atol=2e-3, rtol=0)


def test_both_processes_say_which_samples_broke_the_run(pair, folder):
    assert pair.stdout.count("the step was not applied") == 2, "every process stops"
    (file,) = (folder / "diverged").glob("diverged-step-*.json")
    entries = json.loads(file.read_text())["micro_steps"]
    assert [entry["process"] for entry in entries] == [0, 1]
    assert len({row for entry in entries for row in entry["sample_ids"]}) == 8


def test_samples_do_not_depend_on_the_number_of_processes(pair, folder, load_script):
    model = str(folder / "pair" / "pipeline")
    load_script("sample").main(["--model", model, *SAMPLES, f"--output_dir={folder / 'npz1'}", "--format=npz"])
    load_script("sample").main(["--model", model, *SAMPLES, f"--output_dir={folder / 'png1'}"])
    single, pair_of = (np.load(folder / name / "samples.npz") for name in ("npz1", "npz"))
    assert pair_of["images"].shape == (5, 8, 8, 1)
    assert abs(single["images"].astype(int) - pair_of["images"].astype(int)).max() <= 1
    for field in ("class_labels", "seeds"):
        assert single[field].tolist() == pair_of[field].tolist()
    names = [sorted(path.name for path in (folder / name).iterdir()) for name in ("png1", "png")]
    assert names[0] == names[1] and len(names[0]) == 6
    assert len(list((folder / "one").glob("0*.png"))) == 1, "fewer images than processes"


def test_a_killed_pair_continues_bit_for_bit(pair, folder, tiny_options):
    assert [path.name for path in (folder / "killed" / "checkpoints").glob("step-*")], "it had saved"
    assert not (folder / "killed" / "pipeline").exists()
    options = [*tiny_options, *OPTIONS, "--data.batch_size=8", DROPOUT, f"--output_dir={folder / 'killed'}", "--resume=auto"]
    resumed = start_pair([("train", options)], folder)
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed from" in resumed.stdout
    assert metrics(folder / "killed") == metrics(folder / "whole")
    last = f"checkpoints/step-{STEPS:08d}"
    for file in ("training/model.safetensors", "training/optimizer.safetensors", "unet/diffusion_pytorch_model.safetensors"):
        before, after = (load_file(folder / name / last / file) for name in ("whole", "killed"))
        assert before.keys() == after.keys()
        for tensor in before:
            assert torch.equal(before[tensor], after[tensor]), tensor


def test_an_exception_in_one_process_ends_both(tiny_options, tmp_path):
    """An image that only the second process reads is damaged: its line is the first error, and nobody waits for ever."""
    rows = [{"bytes": png_of(row), "path": None} for row in range(80)]
    rows[41] = {"bytes": rows[41]["bytes"][:40], "path": "cats/41.png"}
    (tmp_path / "data").mkdir()
    datasets.Dataset.from_dict({"image": rows}, features=datasets.Features({"image": datasets.Image()})).to_parquet(
        tmp_path / "data" / "train.parquet"
    )
    options = ["--data.streaming=true", "--data.shuffle_buffer=1", f"--data.source={tmp_path / 'data'}"]
    options += ["--data.test_split=null", "--data.batch_size=4", "--max_train_steps=10", "--checkpoint.every_steps=1"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    command = [
        *launcher,
        str(ROOT / "train_scripts" / "train.py"),
        *tiny_options,
        f"--output_dir={tmp_path / 'run'}",
        *options,
    ]
    started = time.monotonic()
    run = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300)
    assert run.returncode != 0 and time.monotonic() - started < 200
    error = "train.py (process 1): the image at row 41 of split 'train' of --data.source"
    assert error in run.stderr and "(file 'cats/41.png') cannot be decoded" in run.stderr
    assert "Traceback" not in run.stderr[: run.stderr.index(error)], "the first error is shown first"
    assert RunFolder(tmp_path / "run").checkpoints(), "and what was saved is still there"


def png_of(value: int) -> bytes:
    """A gray image of 8 x 8 pixels of one value."""
    file = io.BytesIO()
    Image.new("L", (8, 8), value).save(file, format="png")
    return file.getvalue()
