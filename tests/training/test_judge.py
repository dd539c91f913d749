"""The training of a judge through its public command, on a ResNet of a few thousand parameters and the real digits."""

import hashlib
import json
import signal
import sys
from functools import partial
from pathlib import Path

import datasets
import PIL.Image
import pytest
import torch
import yaml
from safetensors.torch import load_file

import hf_ddpm.training.judge as judge_training
from hf_ddpm.cli import parse_config
from hf_ddpm.data.description import DataDescription
from hf_ddpm.data.table import load_images
from hf_ddpm.models.judge import load_judge
from hf_ddpm.run_folder import RunFolder
from hf_ddpm.runtime.distributed import init_distributed
from hf_ddpm.runtime.signals import Stopped
from hf_ddpm.training.checkpoints import TRAINING_FILES
from hf_ddpm.training.judge import measure_accuracy, sample_augmentation, shift_images, train_judge
from hf_ddpm.training.loop import train
from hf_ddpm.training.options import JudgeConfig, TrainConfig

RECIPES = Path(__file__).parents[2] / "train_scripts" / "recipes"
OPTIONS = [
    "--data.test_split=test",
    "--data.image_size=8",
    "--data.batch_size=16",
    "--model.widths=[8, 16]",
    "--model.depths=[1, 1]",
    "--optim.lr_warmup_steps=2",
    "--logging.every_steps=1",
    "--num_threads=1",
    "--mixed_precision=fp32",
]


@pytest.fixture
def run_training(some_digits, tmp_path):
    """Train into tmp_path / name and return that folder."""

    def run(name: str, *options: str) -> Path:
        train_judge(parse_config(JudgeConfig, [*OPTIONS, some_digits, f"--output_dir={tmp_path / name}", *options]))
        return tmp_path / name

    return run


@pytest.fixture
def plain(run_training, shared) -> str:
    """sha256 of the judge that three steps without any option make."""
    if "plain" not in shared:
        shared["plain"] = load_judge(run_training("plain", "--max_train_steps=3")).record.sha256
    return shared["plain"]


@pytest.fixture
def command(message_of):
    """Run the program on a mistake; its message."""
    return partial(message_of, "train_judge", *OPTIONS)


def metrics(folder: Path) -> list[dict]:
    """Lines of metrics.jsonl without what the clock says."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in record.items() if name != "images_per_second"} for record in records]


def outcome(folder: Path) -> tuple:
    """The tensors of the last checkpoint, the log and the judge."""
    last = RunFolder(folder).last_checkpoint()
    tensors = {
        f"{file}:{name}": hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
        for file in TRAINING_FILES[1:]
        for name, tensor in load_file(last / file).items()
    }
    return tensors, metrics(folder), load_judge(folder).record


# A run


def test_a_run_leaves_a_judge_that_has_learned(run_training, capsys):
    options = ["--max_train_steps=30", "--logging.test_every_steps=10", "--optim.learning_rate=0.01", "--data.batch_size=64"]
    folder = run_training("run", "--data.source=digits", *options)
    assert {path.name for path in folder.iterdir()} == {
        "checkpoints", "config.yaml", "data.json", "environment.json", "judge", "metrics.jsonl"
    }  # fmt: skip
    assert not list(folder.rglob("*.partial"))
    judge, test = load_judge(folder), load_images("digits", "test", image_size=8)
    record = judge.record
    assert record.accuracy == measure_accuracy(judge, test) > 0.3, "chance is 0.1"
    predicted = judge(test.images(torch.arange(len(test)))).logits.argmax(1)
    assert record.accuracy == (predicted == test.class_labels).double().mean().item()
    accuracies = {line["step"]: line["test_accuracy"] for line in metrics(folder) if "test_accuracy" in line}
    assert list(accuracies) == [10, 20, 30] and accuracies[30] == record.accuracy
    assert record.num_test_images == len(test) == 360
    assert record.data_fingerprint == load_images("digits", "train", image_size=8).fingerprint
    assert (record.source, record.seed, record.image_size, record.channels) == ("digits", 0, 8, 1)
    assert record.class_names == [str(digit) for digit in range(10)]
    assert record.sha256 == hashlib.sha256((folder / "judge/model.safetensors").read_bytes()).hexdigest()
    said = capsys.readouterr().out
    assert str(folder) in said and "classes:  10: 0 (142), " in said
    assert "held out: split 'test', 360 images" in str(DataDescription.read(RunFolder(folder).data))


def test_classes_and_channels_follow_the_data(run_training):
    folder = run_training("run", "--max_train_steps=1", "--data.labels=[7, 3]", "--data.channels=3", "--data.image_size=10")
    judge = load_judge(folder)
    assert judge.record.class_names == ["7", "3"]
    assert judge(torch.zeros(2, 3, 10, 10, dtype=torch.uint8)).logits.shape == (2, 2)


def test_its_options_repeat_the_run(run_training, tmp_path):
    folder = run_training("run", "--max_train_steps=2", "--min_accuracy=0")
    again = ["--config", str(folder / "config.yaml"), f"--output_dir={tmp_path / 'again'}"]
    train_judge(parse_config(JudgeConfig, again))
    assert outcome(tmp_path / "again") == outcome(folder)


def test_a_judge_below_the_floor_is_saved_with_a_warning(run_training, caplog):
    folder = run_training("run", "--max_train_steps=1", "--min_accuracy=1")
    assert "below --min_accuracy 1: saved" in caplog.text
    assert load_judge(folder).record.accuracy < 1
    caplog.clear()
    run_training("content", "--max_train_steps=1", "--min_accuracy=0")
    assert not caplog.records


@pytest.mark.parametrize(
    "options",
    [
        ["--seed=1"],
        ["--mixed_precision=bf16"],
        ["--data.horizontal_flip=true", "--data.max_shift=0"],
        ["--optim.optimizer=adam", "--optim.lr_scheduler=multistep", "--optim.lr_milestones=[1]", "--optim.lr_gamma=0.1"],
        ["--optim.max_grad_norm=null", "--data.max_images=20", "--checkpoint.keep_every_steps=1"],
    ],
    ids=lambda options: options[0],
)
def test_options_of_a_run_take_effect(run_training, plain, options):
    changed = load_judge(run_training("changed", "--max_train_steps=3", *options)).record.sha256
    assert changed != plain


def test_epochs_are_turned_into_steps(run_training):
    folder = run_training("run", "--num_train_epochs=2", "--data.max_images=24")
    assert [line["step"] for line in metrics(folder) if "loss" in line] == [1, 2, 3]
    assert metrics(folder)[2]["epoch"] == 2


def test_a_diverging_run_stops_before_the_step_and_names_the_images(run_training, tmp_path):
    with pytest.raises(FloatingPointError, match="step was not applied"):
        run_training("run", "--max_train_steps=9", "--optim.learning_rate=1e30", "--optim.max_grad_norm=null")
    (file,) = (tmp_path / "run").glob("diverged-step-*.json")
    assert len(json.loads(file.read_text())["micro_steps"][0]["sample_ids"]) == 16


# Stopping and going on


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_stopped_run_goes_on_bit_for_bit(run_training, monkeypatch, tmp_path, accumulation):
    options = [
        "--max_train_steps=6",
        "--checkpoint.every_steps=2",
        "--data.horizontal_flip=true",
        "--logging.test_every_steps=3",
        "--logging.every_steps=2",
        f"--optim.gradient_accumulation_steps={accumulation}",
    ]
    whole = run_training("whole", *options)
    take_step = judge_training.train_step

    def signalled(state, run, step):
        result = take_step(state, run, step)
        if step == 2:
            signal.raise_signal(signal.SIGTERM)
        return result

    monkeypatch.setattr(judge_training, "train_step", signalled)
    with pytest.raises(Stopped, match="saved at step 3; continue with --resume auto"):
        run_training("run", *options)
    monkeypatch.setattr(judge_training, "train_step", take_step)
    assert not (tmp_path / "run" / "judge").exists()
    folder = run_training("run", *options, "--resume=auto")
    assert outcome(folder) == outcome(whole)
    assert not (folder / ".lock").exists()


def test_a_finished_run_can_be_made_longer_and_a_damaged_checkpoint_is_passed_over(run_training, caplog):
    options = ["--checkpoint.every_steps=2", "--optim.lr_scheduler=constant"]
    whole = run_training("whole", "--max_train_steps=6", *options)
    folder = run_training("run", "--max_train_steps=4", *options)
    weights = RunFolder(folder).last_checkpoint() / "training" / "optimizer.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    run_training("run", "--max_train_steps=6", *options, "--resume=auto")
    assert "optimizer.safetensors" in caplog.text
    tensors, _, record = outcome(folder)
    assert (tensors, record) == (outcome(whole)[0], outcome(whole)[2])


@pytest.mark.parametrize("option", ["--model.widths=[8, 20]", "--seed=1", "--data.max_images=40", "--data.image_size=9"])
def test_another_judge_is_not_gone_on_with(run_training, option):
    run_training("run", "--max_train_steps=1")
    with pytest.raises(ValueError, match="another run"):
        run_training("run", "--max_train_steps=2", "--resume=auto", option)


def test_a_floor_may_change_without_a_warning(run_training, caplog):
    run_training("run", "--max_train_steps=1")
    run_training("run", "--max_train_steps=1", "--resume=auto", "--min_accuracy=0")
    assert not caplog.records


def test_the_checkpoint_of_a_diffusion_model_is_no_beginning(run_training, some_digits, tiny_options, tmp_path):
    options = [*tiny_options, some_digits, "--max_train_steps=1"]
    train(parse_config(TrainConfig, [*options, f"--output_dir={tmp_path / 'unet'}"]))
    with pytest.raises(ValueError, match="another run"):
        run_training("run", "--max_train_steps=2", f"--resume={tmp_path / 'unet' / 'checkpoints' / 'step-00000001'}")
    judge = run_training("judge", "--max_train_steps=1")
    with pytest.raises(ValueError, match="unet/"):
        resume = f"--resume={judge / 'checkpoints' / 'step-00000001'}"
        train(parse_config(TrainConfig, [*options, resume, f"--output_dir={tmp_path / 'other'}"]))


# Refusals


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("--data.test_split=null", "--data.test_split is None"),
        ("--data.test_split=train", "--data.test_split is 'train'"),
        ("--data.test_split=gone", "split 'gone'"),
        ("--data.image_size=null", "--data.image_size is None"),
        ("--data.image_size=1025", "--data.image_size is 1025"),
        ("--data.batch_size=1", "--data.batch_size is 1"),
        ("--data.max_shift=8", "--data.max_shift is 8"),
        ("--data.max_shift=-1", "--data.max_shift is -1"),
        ("--data.labels=[7]", "--data.labels is ["),
        ("--min_accuracy=98", "--min_accuracy is 98"),
        ("--logging.test_every_steps=0", "--logging.test_every_steps is 0"),
        ("--model.widths=[8]", "--model: widths [8]"),
        ("--model.widths=[0, 8]", "--model: widths [0, 8]"),
        ("--model.depths=[1, 1000]", "--model: widths"),
        ("--data.streaming=true", "unknown option"),
        ("--data.class_conditional=false", "unknown option"),
        ("--data.shuffle_buffer=9", "unknown option"),
        ("--logging.sample_every_steps=9", "unknown option"),
        ("--ema.decay=0.9", "unknown option"),
        ("--hub.push_to_hub=true", "unknown option"),
        ("--compile=true", "unknown option"),
    ],
)
def test_a_mistake_is_one_line(command, option, named):
    assert named in command("--max_train_steps=1", option)


def test_images_without_labels_are_refused(command, tmp_path):
    pictures = datasets.Dataset.from_dict({"image": [PIL.Image.new("L", (8, 8))] * 4}).cast_column("image", datasets.Image())
    (tmp_path / "pictures").mkdir()
    for split in ("train", "test"):
        pictures.to_parquet(str(tmp_path / "pictures" / f"{split}.parquet"))
    message = command("--max_train_steps=1", f"--data.source={tmp_path / 'pictures'}")
    assert "no labels" in message and "--data.label_column" in message


def test_several_processes_are_refused(some_digits, monkeypatch, tmp_path):
    """As the second of two processes would find it, without the minute that starting them takes."""
    monkeypatch.setitem(vars(init_distributed()), "num_processes", 2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    config = parse_config(JudgeConfig, [*OPTIONS, some_digits, "--max_train_steps=1", f"--output_dir={tmp_path / 'new'}"])
    with pytest.raises(ValueError, match="2 processes: a judge is trained by one"):
        train_judge(config)
    assert not (tmp_path / "new").exists()


# Augmentation


def test_augmentation_is_a_function_of_seed_and_step():
    same, again = (sample_augmentation(5, 3, range(64), 2) for _ in range(2))
    assert torch.equal(same.shift, again.shift) and torch.equal(same.flip, again.flip)
    for other in (sample_augmentation(5, 4, range(64), 2), sample_augmentation(6, 3, range(64), 2)):
        assert not torch.equal(same.shift, other.shift) and not torch.equal(same.flip, other.flip)
    assert set(same.shift.flatten().tolist()) == {-2, -1, 0, 1, 2}
    assert (sample_augmentation(5, 3, range(64), 0).shift == 0).all()
    part = sample_augmentation(5, 3, range(20, 30), 2)
    assert torch.equal(part.shift, same.shift[20:30]) and torch.equal(part.flip, same.flip[20:30])


def test_images_are_shifted_each_by_its_own():
    images = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).reshape(2, 3, 4, 4)
    shifted = shift_images(images, torch.tensor([[0, 0], [1, -2]]))
    assert torch.equal(shifted[0], images[0])
    assert torch.equal(shifted[1][:, 1:, :2], images[1][:, :3, 2:])
    assert torch.equal(shifted[1][:, 0], shifted[1][:, 1]), "the first row is repeated"
    assert torch.equal(shifted[1][:, :, 3], shifted[1][:, :, 1]), "and so is the last column"
    assert shifted.dtype == torch.uint8 and shifted.shape == images.shape


# Recipes


@pytest.mark.parametrize("name", ["digits", "mnist", "cifar10"])
def test_a_recipe_of_a_judge_is_named_after_its_data(load_script, capsys, monkeypatch, tmp_path, name):
    monkeypatch.setattr(sys, "argv", ["train_judge.py"])
    recipe = RECIPES / f"judge_{name}.yaml"
    with pytest.raises(SystemExit) as printed:
        load_script("train_judge").main(["--config", str(recipe), f"--output_dir={tmp_path / 'new'}", "--print_config"])
    assert printed.value.code == 0
    options = yaml.safe_load(capsys.readouterr().out)
    assert name in options["data"]["source"]
    assert options["data"]["test_split"] == "test"
    assert options["data"]["horizontal_flip"] == (name == "cifar10"), "a mirrored digit is none"
    file = tmp_path / "printed.yaml"
    file.write_text(yaml.safe_dump(options))
    assert parse_config(JudgeConfig, ["--config", str(file)]) == parse_config(
        JudgeConfig, ["--config", str(recipe), f"--output_dir={tmp_path / 'new'}"]
    )
