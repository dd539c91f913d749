"""Fixtures that several test modules use."""

from __future__ import annotations

import importlib
import signal
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from diffusers import UNet2DModel

    from hf_ddpm.pipeline import CFGDDPMPipeline


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take minutes, so that no process is left with one of them at the end."""
    long = ("test_main_job.py", "test_two_processes.py", "test_loop.py", "test_stopping.py", "test_faults.py")
    items.sort(key=lambda item: long.index(item.path.name) if item.path.name in long else len(long))


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny tensors gain nothing from a second thread, and tests may share their cores with others."""
    torch.set_num_threads(1)


@pytest.fixture
def listening_to_ctrl_c():
    """A process that a shell put into the background ignores SIGINT, and so would the test."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def private_datasets_cache(tmp_path, monkeypatch) -> Path:
    """Keep decoded data out of the user's cache."""
    import datasets

    folder = tmp_path / "datasets_cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    return folder


@pytest.fixture(scope="session")
def load_script() -> Callable[[str], ModuleType]:
    """Import the program of a file of train_scripts/ by its name."""
    return lambda name: importlib.import_module(f"hf_ddpm.programs.{name}")


@pytest.fixture(scope="session")
def tiny_unet() -> Callable[..., UNet2DModel]:
    """Build an untrained U-Net for 8 x 8 images, always with the same weights; a call takes milliseconds."""
    from diffusers import UNet2DModel

    def build(num_class_embeds: int | None = 4, *, channels: int = 1, seed: int = 0, **arguments) -> UNet2DModel:
        torch.manual_seed(seed)
        defaults = {
            "sample_size": 8, "in_channels": channels, "out_channels": channels, "num_class_embeds": num_class_embeds,
            "block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4, "attention_head_dim": 4,
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        }  # fmt: skip
        return UNet2DModel(**{**defaults, **arguments}).eval()

    return build


@pytest.fixture(scope="session")
def tiny_pipeline(tiny_unet) -> Callable[..., CFGDDPMPipeline]:
    """Build a silent pipeline around a `tiny_unet`; `names=None`: unconditional, `null=False`: without a null label.

    `values`: arguments of the pipeline for images that are not of 8 bits.
    """
    from diffusers import DDPMScheduler

    from hf_ddpm.pipeline import CFGDDPMPipeline

    def build(
        scheduler=None, *, names=("cat", "dog", "frog"), null: bool = True, values=(), **unet_arguments
    ) -> CFGDDPMPipeline:
        unet = tiny_unet(None if names is None else len(names) + null, **unet_arguments)
        labels = () if names is None else (dict(enumerate(names)), len(names) if null else None)
        pipeline = CFGDDPMPipeline(unet, scheduler or DDPMScheduler(), *labels, **dict(values))
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    return build


@pytest.fixture(scope="session")
def tiny_options() -> list[str]:
    """Options of a run on the embedded digits whose U-Net has so few parameters that a step takes milliseconds."""
    return [
        "--data.source=digits",
        "--data.batch_size=8",
        "--model.preset=digits8",
        "--model.overrides.block_out_channels=[8, 16]",
        "--model.overrides.norm_num_groups=4",
        "--model.overrides.attention_head_dim=4",
        "--logging.every_steps=1",
        "--logging.sample_every_steps=null",
        "--num_threads=1",
        "--mixed_precision=fp32",
    ]


@pytest.fixture(autouse=True)
def private_reference_cache(tmp_path, monkeypatch) -> None:
    """Keep summaries of references out of the user's cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "hf_home"))


@pytest.fixture(scope="session")
def new_run(tmp_path_factory) -> Callable[..., Path]:
    """Train with some options; the run folder, beside which is the cache of its decoded data, `cache`."""
    import datasets

    from hf_ddpm.cli import parse_config
    from hf_ddpm.training.loop import train
    from hf_ddpm.training.options import TrainConfig

    def run(*options: str) -> Path:
        folder = tmp_path_factory.mktemp("new_run")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
            train(parse_config(TrainConfig, [*options, f"--output_dir={folder / 'run'}"]))
        return folder / "run"

    return run


@pytest.fixture(scope="session")
def tiny_run(new_run, tiny_options) -> Path:
    """The folder of a run of two steps on the embedded digits, with both of its checkpoints."""
    return new_run(*tiny_options, "--max_train_steps=2", "--checkpoint.every_steps=1")


@pytest.fixture
def refusal_of(capsys):
    """The message with which the command line of an options class is refused."""
    from hf_ddpm.cli import parse_config

    def run(config_class: type, *args: str) -> str:
        with pytest.raises(SystemExit) as stopped:
            parse_config(config_class, list(args))
        out, err = capsys.readouterr()
        assert (stopped.value.code, out) == (2, "")
        assert err.endswith("\n") and err.count("\n") == 1
        return err

    return run


@pytest.fixture(scope="session")
def tiny_judge(tmp_path_factory) -> Path:
    """An untrained judge of digits, whose record says so."""
    import datasets

    from hf_ddpm.data.table import load_images
    from hf_ddpm.models.judge import Judge, JudgeRecord, build_network, save_judge
    from hf_ddpm.training.judge import measure_accuracy

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
