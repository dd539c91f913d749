"""A run and a judge so small that measuring takes seconds."""

from pathlib import Path

import datasets
import pytest
import torch

from hf_ddpm.cli import parse_config
from hf_ddpm.data.cache import load_images
from hf_ddpm.models.judge import Judge, JudgeRecord, build_network, save_judge
from hf_ddpm.training.judge import measure_accuracy
from hf_ddpm.training.loop import train
from hf_ddpm.training.options import TrainConfig


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory, tiny_options) -> Path:
    """The folder of a run of two steps on the embedded digits, with both of its checkpoints."""
    folder = tmp_path_factory.mktemp("evaluated")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        options = [*tiny_options, "--max_train_steps=2", "--checkpoint.every_steps=1", f"--output_dir={folder / 'run'}"]
        train(parse_config(TrainConfig, options))
    return folder / "run"


@pytest.fixture(scope="session")
def tiny_judge(tmp_path_factory) -> Path:
    """A judge of digits that has learnt nothing; its record says so."""
    folder = tmp_path_factory.mktemp("judge")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        test = load_images("digits", "test", image_size=8)
    torch.manual_seed(0)
    network = build_network(widths=[4, 6], depths=[1, 1], channels=1, class_names=test.class_names)
    about = {"seed": 0, "sha256": "", "image_size": 8, "channels": 1, "class_names": test.class_names, "source": "digits"}
    record = JudgeRecord(accuracy=0.0, num_test_images=len(test), data_fingerprint=test.fingerprint, **about)
    record = JudgeRecord(**{**record.__dict__, "accuracy": measure_accuracy(Judge(network, record), test)})
    save_judge(Judge(network, record), folder / "judge")
    return folder / "judge"


@pytest.fixture(autouse=True)
def private_reference_cache(tmp_path, monkeypatch) -> None:
    """Keep summaries of references out of the user's cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "hf_home"))
