"""Two processes on one CPU, started by torchrun as the README has it: training, sampling, signals, deaths and restarts.

Starting a process costs seconds of imports, so one pair of processes, which torchrun starts again once, does everything.
"""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

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
AUTO = ["--mixed_precision=auto", "--num_threads=null"]
DROPOUT = "--model.overrides.dropout=0.1"
SAMPLES = ["--num_images=5", "--num_inference_steps=3", "--scheduler=ddim", "--batch_size=2"]

# Reads jobs from a JSON file and does one after the other in each process: [what, arguments]. Notes the images that are read
# and how jobs end. Does the jobs of the second list after the restart.
WORKER = """
import hashlib, importlib.util, json, os, pathlib, signal, sys

folder, scripts = map(pathlib.Path, sys.argv[1:])
os.environ["HF_DATASETS_CACHE"] = str(folder / "cache")
import hf_ddpm.training.loop as loop
from hf_ddpm.cli import parse_config
from hf_ddpm.pipeline import CFGDDPMPipeline
from hf_ddpm.runtime.signals import Stopped
from hf_ddpm.training import preview
from hf_ddpm.training.options import TrainConfig

import torch
from small_net import SmallNet, plain_loss
from torch.utils.data import TensorDataset

preview.COLUMNS = preview.MAX_INFERENCE_STEPS = 2
rank, restarts = int(os.environ["RANK"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
take_step, to_model_range, sample = loop.train_step, loop.to_model_range, CFGDDPMPipeline.__call__
read, ends, notes, at_step = [], [], [], {}

def program(name, arguments):
    spec = importlib.util.spec_from_file_location(name, scripts / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name], sys.argv = module, [f"{name}.py"]
    spec.loader.exec_module(module)
    module.main(arguments)

def train(arguments):
    read.clear()
    run = loop.train(parse_config(TrainConfig, arguments)).parent
    (run / f"read-{rank}.json").write_text(json.dumps(read))

def noting(images, *value_range):
    read.extend(hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in images)
    return to_model_range(images, *value_range)

def train_step(state, run, step):
    result = take_step(state, run, step)
    if rank == 1 and state.step in at_step:
        at_step.pop(state.step)()
    return result

def objects(where):
    torch.manual_seed(rank)  # the weights of the main process count
    places = torch.randint(255, (40, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    dataset = TensorDataset(places + rank if where == "others" else places)
    return {"dataset": dataset, "network": SmallNet(num_class_embeds=None), "loss": plain_loss, "callbacks": [Note()]}

class Note:
    def on_checkpoint(self, event):
        notes.append([event.step, event.loss, event.is_main_process, event.checkpoint.name])

def signalled(*args, **kwargs):
    if rank == 1:
        signal.raise_signal(signal.SIGTERM)
    return sample(*args, **kwargs)

loop.to_model_range, loop.train_step = noting, train_step
for what, arguments in json.loads((folder / "jobs.json").read_text())[restarts]:
    if what == "train":
        train(arguments)
    elif what == "train objects":
        where, *options = arguments
        options = [option for option in options if not option.startswith(("--data.source", "--model."))]
        config = parse_config(TrainConfig, options)
        try:
            loop.train(config, **objects(where))
        except ValueError as error:
            notes.append(str(error))
        (folder / f"notes-{rank}.json").write_text(json.dumps(notes))
    elif what == "train and diverge":
        try:
            train(arguments)
        except FloatingPointError as error:
            ends.append(str(error))
    elif what == "train and stop":
        at_step[1] = lambda: signal.raise_signal(signal.SIGTERM)
        try:
            train(arguments)
        except Stopped as stopped:
            ends.append([stopped.signal_number, str(stopped)])
    elif what == "train and die":
        (folder / f"ends-{rank}.json").write_text(json.dumps(ends))
        at_step[5] = lambda: os.kill(os.getpid(), signal.SIGKILL)
        train(arguments)
    elif what == "sample":
        program("sample", arguments)
    elif what == "sample and stop":
        CFGDDPMPipeline.__call__ = signalled
        try:
            program("sample", arguments)
        except SystemExit as stopped:
            ends.append(stopped.code)
        CFGDDPMPipeline.__call__ = sample
    elif what == "train with a mistake":
        print("THE MISTAKE", file=sys.stderr, flush=True)
        program("train", arguments)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("two_processes")


@pytest.fixture(scope="module")
def pair(folder, tiny_options) -> subprocess.CompletedProcess:
    """Everything that two processes do in this module."""

    def run(name: str, *options: str) -> list[str]:
        return [*tiny_options, *OPTIONS, f"--output_dir={folder / name}", *options]

    def sample(name: str, *options: str) -> list[str]:
        return ["--model", str(folder / "pair" / "pipeline"), *SAMPLES, f"--output_dir={folder / name}", *options]

    small = ("--data.batch_size=8", "--ema.snapshot_every_steps=3", DROPOUT)
    given = ("--data.batch_size=8", "--data.test_split=null")
    one_by_one = ["--num_images=9", "--num_inference_steps=2", "--batch_size=1"]
    jobs = [
        ("train", run("pair", "--data.batch_size=16", "--logging.trackers=[tensorboard]")),
        ("train", run("stream", "--data.batch_size=16", "--data.streaming=true", "--data.test_split=null")),
        ("train", run("whole", *small)),
        (
            "train",
            run("tuned", "--data.batch_size=4", "--mixed_precision=auto", "--num_threads=null", "--max_train_steps=1"),
        ),
        ("train objects", ["same", *run("objects", *given)]),
        ("train objects", ["others", *run("others", *given)]),
        ("train and diverge", run("diverged", "--data.batch_size=4", "--optim.learning_rate=1e30")),
        ("train and stop", run("stopped", *small)),
        ("train", run("stopped", *small, "--resume=auto")),
        ("sample", sample("png")),
        ("sample", sample("npz", "--format=npz")),
        ("sample", sample("one", "--num_images=1")),
        ("sample and stop", sample("some", *one_by_one)),
        ("train and die", run("killed", *small)),
    ]
    after_the_restart = [
        ("train", run("killed", *small)),
        ("train with a mistake", run("mistake", *damaged_stream(folder / "damaged"))),
    ]
    (folder / "jobs.json").write_text(json.dumps([jobs, after_the_restart]))
    (folder / "worker.py").write_text(WORKER)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--max-restarts=1", "--standalone"]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "shared")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [*launch, folder / "worker.py", folder, ROOT / "train_scripts"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)


def damaged_stream(source: Path) -> list[str]:
    """Options of a run on a stream with a damaged image that only the second process reads."""
    rows = [{"bytes": png_of(row), "path": None} for row in range(80)]
    rows[41] = {"bytes": rows[41]["bytes"][:40], "path": "cats/41.png"}
    source.mkdir()
    features = datasets.Features({"image": datasets.Image()})
    datasets.Dataset.from_dict({"image": rows}, features=features).to_parquet(source / "train.parquet")
    options = ["--data.streaming=true", "--data.shuffle_buffer=1", f"--data.source={source}", "--data.test_split=null"]
    return [*options, "--data.batch_size=4", "--max_train_steps=10", "--checkpoint.every_steps=1"]


def png_of(value: int) -> bytes:
    """A gray image of 8 x 8 pixels of one value."""
    file = io.BytesIO()
    Image.new("L", (8, 8), value).save(file, format="png")
    return file.getvalue()


def metrics(run_dir: Path) -> list[dict]:
    """Lines of metrics.jsonl without what the clock says."""
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in record.items() if name != "images_per_second"} for record in records]


def losses(run_dir: Path) -> torch.Tensor:
    return torch.tensor([record["loss"] for record in metrics(run_dir) if "loss" in record])


def ends(folder: Path) -> list[tuple]:
    """How each job that ended early did so, in the two processes."""
    return list(zip(*(json.loads((folder / f"ends-{rank}.json").read_text()) for rank in (0, 1)), strict=True))


def assert_equal_runs(first: Path, second: Path) -> None:
    """Log, tensors and snapshots of averages are bit for bit the same."""
    assert metrics(first) == metrics(second)
    assert list(RunFolder(first).snapshots()) == [3, 6]
    for step, snapshot in RunFolder(first).snapshots().items():
        assert snapshot.read_bytes() == RunFolder(second).snapshot(step).read_bytes()
    last = f"checkpoints/step-{STEPS:08d}"
    for file in ("training/model.safetensors", "training/optimizer.safetensors", "unet/diffusion_pytorch_model.safetensors"):
        tensors, others = (load_file(run / last / file) for run in (first, second))
        assert tensors.keys() == others.keys()
        for name in tensors:
            assert torch.equal(tensors[name], others[name]), name


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
    (events,) = (run_dir / "trackers").rglob("events.out.tfevents.*")
    assert [event.step for event in EventAccumulator(str(events)).Reload().Images("samples")] == [3, 6]
    assert json.loads((run_dir / "environment.json").read_text())["num_processes"] == 2
    assert (run_dir / "data.json").is_file()


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
    assert all("the step was not applied" in message for message in ends(folder)[0]), "every process stops"
    (file,) = (folder / "diverged").glob("diverged-step-*.json")
    entries = json.loads(file.read_text())["micro_steps"]
    assert [entry["process"] for entry in entries] == [0, 1]
    assert len({row for entry in entries for row in entry["sample_ids"]}) == 8


def test_both_processes_take_the_same_choice(pair, folder):
    """All time steps together, and one decides: with different precisions the runs would differ, or wait for each other."""
    environment = json.loads((folder / "tuned" / "environment.json").read_text())
    assert environment["mixed_precision"] in ("fp32", "bf16") and "fp32 contiguous 1.00" in environment["tuning"]
    assert pair.stdout.count(f"settings: {environment['mixed_precision']}, {environment['memory_format']}, ") == 1


def test_objects_of_a_program_are_trained_in_both(pair, folder):
    notes = [json.loads((folder / f"notes-{rank}.json").read_text()) for rank in (0, 1)]
    for (step, loss, is_main, name), other in zip(notes[0][:-1], notes[1][:-1], strict=True):
        assert is_main and other == [step, loss, False, name], "both are called, and see the same loss"
    assert [note[0] for note in notes[0][:-1]] == [2, 4, 6]
    assert (
        notes[0][-1]
        == notes[1][-1]
        == ("dataset: the processes have different images or labels, make them the same in every process")
    )
    logged = {line["step"]: line["loss"] for line in metrics(folder / "objects") if "loss" in line}
    assert [logged[note[0]] for note in notes[0][:-1]] == [note[1] for note in notes[0][:-1]]


def test_a_signal_to_one_process_stops_both(pair, folder):
    # The signal comes after the exchange of step 1, so that the other process learns of it in step 2.
    stopped = [signal.SIGTERM, "stopped and saved at step 2; continue with --resume auto"]
    assert ends(folder)[1:] == [(stopped, stopped), (143, 143)]
    assert_equal_runs(folder / "stopped", folder / "whole")
    assert {path.name[:5] for path in (folder / "some").iterdir()} == {"00000", "00004"}, "one batch each"


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


def test_a_killed_process_ends_the_pair_which_starts_again_and_continues_bit_for_bit(pair, folder):
    assert "(exitcode: -9)" in pair.stderr
    assert pair.stderr.count("started again by the launcher: --resume auto") == 2, "once per run after the restart"
    assert f"resumed from {folder / 'killed' / 'checkpoints'}" in pair.stdout
    assert_equal_runs(folder / "killed", folder / "whole")


def test_an_exception_in_one_process_ends_both(pair, folder):
    """The line of the process with the damaged image is the first error, and the other process does not wait for it."""
    assert pair.returncode != 0
    errors = pair.stderr[pair.stderr.index("THE MISTAKE") :]
    error = "train.py (process 1): the image at row 41 of split 'train' of --data.source"
    assert error in errors and "(file 'cats/41.png') cannot be decoded" in errors
    assert "Traceback" not in errors[: errors.index(error)], "the first error is shown first"
    assert RunFolder(folder / "mistake").checkpoints(), "and what was saved is still there"
