"""What may change between a checkpoint and the run that continues it."""

import json
from dataclasses import asdict

import numpy as np
import PIL.Image
import pytest
import yaml

from hf_ddpm.cli import parse_config
from hf_ddpm.data.load_splits import load_train_split, options_of_run
from hf_ddpm.figures.options import ModelDataConfig
from hf_ddpm.figures.real_images import data_of_model
from hf_ddpm.run_folder import STATE, RunFolder
from hf_ddpm.training.checkpoints import write_manifest
from hf_ddpm.training.loop import train
from hf_ddpm.training.options import TrainConfig
from hf_ddpm.training.resume_checks import check_changes


def identity(**changes) -> dict:
    """A run's identity with some of its options, given by their dotted names, changed."""
    options = asdict(TrainConfig(output_dir="runs/a", max_train_steps=10))
    options |= {"data_fingerprint": "abc", "environment": {"packages": {"torch": "2"}, "num_processes": 1, "num_threads": 1}}
    for name, value in changes.items():
        *groups, last = name.split("__")
        target = options
        for group in groups:
            target = target[group]
        target[last] = value
    return options


def test_a_checkpoint_from_before_blocks_of_random_numbers_resumes_with_a_warning():
    (warning,) = check_changes(identity(), identity(randomness_version=2))
    assert warning == "randomness_version was 1 and is now 2"


def test_nothing_changed():
    assert check_changes(identity(), identity()) == []


@pytest.mark.parametrize(("now", "same"), [("unet", True), ("tiny_unet", False)])
def test_a_checkpoint_from_before_there_were_architectures_is_a_unet(now, same):
    saved = identity()
    del saved["model"]["architecture"]
    if same:
        assert check_changes(saved, identity()) == []
    else:
        with pytest.raises(ValueError, match="model.architecture was 'unet' and is 'tiny_unet'"):
            check_changes(saved, identity(model__architecture=now))


def test_a_tuple_and_the_list_it_was_saved_as_are_equal():
    assert check_changes(identity(optim__betas=[0.9, 0.99]), identity(optim__betas=(0.9, 0.99))) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model__preset", "mnist28"),
        ("model__overrides", {"dropout": 0.1}),
        ("model__null_embedding", "zero"),
        ("schedule__num_train_timesteps", 100),
        ("schedule__beta_schedule", "linear"),
        ("objective__prediction_type", "epsilon"),
        ("data__image_size", 16),
        ("data_fingerprint", "other"),
        ("seed", 1),
    ],
)
def test_another_model_or_other_data_are_refused(name, value):
    with pytest.raises(ValueError, match="--resume") as refused:
        check_changes(identity(), identity(**{name: value}))
    assert name.replace("__", ".") in str(refused.value) and "\n" not in str(refused.value)


def test_all_refusals_are_listed():
    with pytest.raises(ValueError, match="model.preset was 'digits8' and is 'mnist28'; seed was 0 and is 1"):
        check_changes(identity(), identity(model__preset="mnist28", seed=1, max_train_steps=99))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("optim__learning_rate", 1.0),
        ("optim__gradient_accumulation_steps", 2),
        ("data__batch_size", 4),
        ("data__horizontal_flip", True),
        ("data__vertical_flip", True),
        ("data__random_crop", 2),
        ("ema__decay", 0.5),
        ("mixed_precision", "bf16"),
        ("environment__num_threads", 2),
        ("model__gradient_checkpointing", True),
        ("environment__packages__torch", "3"),
        ("environment__num_processes", 2),
    ],
)
def test_what_changes_the_bits_is_warned_about(name, value):
    (warning,) = check_changes(identity(), identity(**{name: value}))
    assert warning.startswith(name.replace("__", ".") + " was ") and repr(value) in warning


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("output_dir", "runs/b"),
        ("resume", "auto"),
        ("max_train_steps", 20),
        ("num_train_epochs", 3),
        ("logging__every_steps", 1),
        ("checkpoint__every_steps", 1),
        ("checkpoint__keep", 5),
        ("data__source", "./moved"),
        ("data__test_split", "test"),
        ("data__channels", 1),
        ("num_threads", 2),
        ("data__labels", ["0", "1"]),
        ("data__value_range", (0.0, 65535.0)),
        ("data__pixel_type", "uint16"),
    ],
)
def test_what_changes_nothing_is_allowed_in_silence(name, value):
    assert check_changes(identity(), identity(**{name: value})) == []


def test_an_option_that_a_newer_version_added_is_warned_about():
    saved = identity()
    del saved["optim"]["max_grad_norm"]
    (warning,) = check_changes(saved, identity())
    assert warning.startswith("optim.max_grad_norm was None")


def test_a_run_on_gray_images_and_others_says_how_it_resumes(tmp_path, tiny_options):
    """Earlier versions took the channels of the first image: their runs of mixtures resume if gray is asked for."""
    rng, folder = np.random.default_rng(0), tmp_path / "data"
    folder.mkdir()
    for row, shape in enumerate([(8, 8), (8, 8, 3), (8, 8)]):
        PIL.Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(folder / f"{row}.png")
    options = [*tiny_options, f"--data.source={folder}", f"--output_dir={tmp_path / 'run'}"]
    train(parse_config(TrainConfig, [*options, "--max_train_steps=1", "--data.channels=1"]))
    resumed = [*options, "--max_train_steps=2", "--resume=auto"]
    with pytest.raises(ValueError, match="data_fingerprint was .* if that is gray, add --data.channels 1"):
        train(parse_config(TrainConfig, resumed))
    pipeline = train(parse_config(TrainConfig, [*resumed, "--data.channels=1"]))
    assert (pipeline.parent / "checkpoints" / "step-00000002").is_dir()


def test_a_run_that_sorted_numbers_as_text_says_how_it_resumes(tmp_path, tiny_options, caplog):
    """Earlier versions did: their runs resume if the classes are named in that order."""
    for label in ("2", "10", "0"):
        (tmp_path / "data" / label).mkdir(parents=True)
        pixels = np.random.default_rng(int(label)).integers(0, 256, (8, 8), dtype=np.uint8)
        PIL.Image.fromarray(pixels).save(tmp_path / "data" / label / "0.png")
    options = [*tiny_options, f"--data.source={tmp_path / 'data'}", f"--output_dir={tmp_path / 'run'}"]
    train(parse_config(TrainConfig, [*options, "--max_train_steps=1", "--data.labels=[0, 10, 2]"]))
    resumed = [*options, "--max_train_steps=2", "--resume=auto"]
    with pytest.raises(ValueError, match=r"sorted numbers as text: add --data.labels '\[0, 10, 2\]'"):
        train(parse_config(TrainConfig, resumed))
    pipeline = train(parse_config(TrainConfig, [*resumed, "--data.labels=[0, 10, 2]"]))
    assert (pipeline.parent / "checkpoints" / "step-00000002").is_dir()
    assert "bit for bit" not in caplog.text


def test_a_run_that_rounded_16_bits_resumes_as_it_was(tmp_path, tiny_options, caplog):
    """Versions without the option `pixel_type` rounded to 8 bits; what they recorded lacks all options of pixels."""
    (tmp_path / "data").mkdir()
    for row in range(3):
        pixels = np.random.default_rng(row).integers(0, 65536, (8, 8)).astype(np.uint16)
        PIL.Image.fromarray(pixels).save(tmp_path / "data" / f"{row}.png")
    options = [*tiny_options, f"--data.source={tmp_path / 'data'}", f"--output_dir={tmp_path / 'run'}"]
    train(parse_config(TrainConfig, [*options, "--max_train_steps=1", "--data.pixel_type=uint8"]))
    run = RunFolder(tmp_path / "run")
    checkpoint = run.checkpoint(1)
    state = json.loads((checkpoint / STATE).read_text())
    config = yaml.safe_load(run.config.read_text())
    for name in ("pixel_type", "resize", "vertical_flip", "random_crop"):
        del state["identity"]["data"][name], config["data"][name]
    (checkpoint / STATE).write_text(json.dumps(state))
    (checkpoint / "manifest.json").unlink()
    write_manifest(checkpoint)
    run.config.write_text(yaml.safe_dump(config))
    assert options_of_run(str(checkpoint))["pixel_type"] == "uint8", "for evaluations and figures"
    assert data_of_model(ModelDataConfig(), str(checkpoint)).resize is None
    run.config.write_text(yaml.safe_dump({**config, "data": {**config["data"], "resize": "pad"}}))
    assert data_of_model(ModelDataConfig(), str(checkpoint)).resize == "pad"
    assert data_of_model(ModelDataConfig(resize="crop"), str(checkpoint)).resize == "crop"
    run.config.write_text(yaml.safe_dump(config))
    resumed = ["--config", str(run.config), "--max_train_steps=2", "--resume=auto"]
    pipeline = train(parse_config(TrainConfig, resumed))
    assert (pipeline.parent / "checkpoints" / "step-00000002").is_dir() and "bit for bit" not in caplog.text
    with pytest.raises(ValueError, match="data_fingerprint was"):
        train(parse_config(TrainConfig, [*resumed, "--max_train_steps=3", "--data.pixel_type=uint16"]))
    new = parse_config(TrainConfig, [*options, "--max_train_steps=1"])
    assert load_train_split(new.data, image_size=8).pixel_type == "uint16"


def test_only_a_mixture_gets_that_advice():
    with pytest.raises(ValueError, match="new --output_dir$"):
        check_changes(identity(), identity(data_fingerprint="other"))
    with pytest.raises(ValueError, match="--data.channels 1"):
        check_changes(identity(), identity(data_fingerprint="other"), lambda: ["took gray: add --data.channels 1"])
