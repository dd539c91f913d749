"""A Hub on this machine, and tiny saved pipelines with the folder of a run around them."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import huggingface_hub
import pytest
import yaml
from diffusers import DDPMScheduler
from huggingface_hub import HfApi
from PIL import Image

from hf_ddpm.hub.push import Patience, push_folder

MODULE = "tests_hub_hub_server"


def write_run(run_dir: Path, **data_options) -> None:
    """Write a run folder of 300 steps over 1000 images, all but its `pipeline/`."""
    run_dir.mkdir(exist_ok=True)
    config = {
        "output_dir": str(run_dir),
        "seed": 7,
        "max_train_steps": 300,
        "mixed_precision": "bf16",
        "data": {"source": "digits", "train_split": "train", "batch_size": 20, **data_options},
        "objective": {"prediction_type": "v_prediction", "loss": "l2", "class_dropout_prob": None},
    }
    (run_dir / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    environment = {
        "command": [
            "/home/ada/code/train_scripts/train.py",
            "--data.source=/home/ada/my pictures",
            "--output_dir",
            str(run_dir),
        ],
        "commit": "0123456789abcdef",
        "python": "3.11.7",
        "packages": {"torch": "2.14.1", "datasets": None},
        "processor": "A|B (R) Processor",
        "gpu": None,
        "num_processes": 2,
        "num_threads": 1,
    }
    (run_dir / "environment.json").write_text(json.dumps(environment), encoding="utf-8")
    lines = [
        {"step": 150, "images_seen": 6000, "epoch": 6.0, "loss": 0.5, "images_per_second": 100.0},
        {"step": 300, "images_seen": 12000, "epoch": 12.0, "loss": 0.25, "images_per_second": 300.0},
        {"step": 300, "test_loss": 0.375},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (run_dir / "metrics.jsonl").write_text(text, encoding="utf-8")
    (run_dir / "samples").mkdir()
    for step in (150, 300):
        Image.new("L", (8, 8), step // 2).save(run_dir / "samples" / f"step-{step:08d}.png")


@pytest.fixture(scope="session")
def saved_pipeline(tiny_pipeline, tmp_path_factory) -> Callable[..., Path]:
    """Save a pipeline of these classes, once a session."""
    saved: dict[str, Path] = {}

    def save(names: dict[int, str] | None, null_label: int | None) -> Path:
        key = repr((names, null_label))
        if key not in saved:
            saved[key] = tmp_path_factory.mktemp("pipeline")
            scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
            pipeline = tiny_pipeline(scheduler, names=names and list(names.values()), null=null_label is not None)
            pipeline.save_pretrained(saved[key])
        return saved[key]

    return save


@pytest.fixture
def make_run(saved_pipeline, tmp_path) -> Callable[..., Path]:
    """Make a run folder, and return its `pipeline/`."""

    def make(names: dict[int, str] | None = None, null_label: int | None = None, **data_options) -> Path:
        folder = shutil.copytree(saved_pipeline(names, null_label), tmp_path / "run" / "pipeline")
        write_run(tmp_path / "run", **data_options)
        return folder

    return make


@pytest.fixture(scope="session")
def hub_server_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location(MODULE, Path(__file__).with_name("hub_server.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[MODULE] = module  # dataclasses look their types up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def hub(hub_server_module) -> Iterator:
    with hub_server_module.HubServer() as server:
        yield server
        assert server.refusals == []


@pytest.fixture
def pipeline_dir(make_run) -> Path:
    return make_run({0: "cat", 1: "dog"}, 2)


@pytest.fixture
def api(hub, monkeypatch):
    """The real client, pointed at the local Hub."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    huggingface_hub.close_session()
    yield HfApi(endpoint=hub.address, token=hub.token)
    assert huggingface_hub.get_session().event_hooks["response"] == []
    huggingface_hub.close_session()


@pytest.fixture
def push(api, pipeline_dir):
    return lambda repo_id="ada/pets", **options: push_folder(
        pipeline_dir,
        repo_id,
        **{"api": api, "patience": Patience(timeout=20.0, tries=3, first_wait=0.01, longest_wait=2.0), **options},
    )
