"""Fixtures of tiny run folders with the files of a run, written as a run writes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hf_ddpm.cli import dump_config
from hf_ddpm.data.description import ClassCount, DataDescription
from hf_ddpm.run_folder import RunFolder
from hf_ddpm.training.options import TrainConfig


@pytest.fixture
def write_run(tmp_path) -> Callable[..., RunFolder]:
    """Write the folder of a run from its losses at equal distances, its held-out losses by step, and options by name."""

    def write(
        losses: list[float],
        tests: dict[int, float] | None = None,
        *,
        steps: int = 1000,
        total_steps: int | None = None,
        num_images: int | None = 5000,
        loss_name: str = "loss",
        config: Any = None,
        **groups: dict[str, Any],
    ) -> RunFolder:
        run = RunFolder(tmp_path / "run")
        run.path.mkdir()
        data = {"source": "digits", "test_split": "test", **groups.pop("data", {})}
        options = {"output_dir": str(run.path), "data": data, "max_train_steps": total_steps or steps, **groups}
        built = config or build(options)
        run.config.write_text(dump_config(built), encoding="utf-8")
        every = steps // max(len(losses), 1)
        lines = [
            {"step": every * number, "images_seen": 64 * every * number, loss_name: loss, "lr": 1e-3, "grad_norm": 0.5}
            for number, loss in enumerate(losses, start=1)
        ]
        lines += [{"step": step, "test_loss": loss} for step, loss in (tests or {}).items()]
        lines.sort(key=lambda line: line["step"])
        run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        run.data.write_text(describe(num_images).to_json(), encoding="utf-8")
        return run

    return write


def build(options: dict[str, Any]) -> TrainConfig:
    """The options of a run from those that differ from the defaults."""
    from hf_ddpm.commandline.options import build

    flat = {}
    for name, value in options.items():
        flat |= {f"{name}.{key}": each for key, each in value.items()} if isinstance(value, dict) else {name: value}
    return build(TrainConfig, flat)


def describe(num_images: int | None) -> DataDescription:
    names = ("cat", "dog")
    classes = [ClassCount(name, None if num_images is None else num_images // 2, 10) for name in names]
    return DataDescription(
        source="digits", train_split="train", num_train_images=num_images, test_split="test", num_test_images=20,
        streaming=num_images is None, originals=None, image_size=8, channels=1, classes=classes, no_classes_because=None,
        unused_label_columns=[], left_out=[],
    )  # fmt: skip


@pytest.fixture
def good_losses() -> list[float]:
    """The mean training losses of twentieths of a good run of digits, 1,500 steps."""
    return [0.563, 0.402, 0.349, 0.321, 0.300, 0.293, 0.284, 0.278, 0.273, 0.268,
            0.263, 0.259, 0.255, 0.253, 0.251, 0.249, 0.245, 0.243, 0.241, 0.238]  # fmt: skip


@pytest.fixture
def results_of() -> Callable[..., None]:
    """Write a results file of a run."""

    def write(run: RunFolder, *, floor: dict[str, float], protocol: dict[str, Any] | None = None, **means: float) -> Path:
        metrics = {name: {"mean": mean, "stderr": None, "n": 100, "values": [mean]} for name, mean in means.items()}
        run.results.mkdir(exist_ok=True)
        content = {"metrics": metrics, "floor": floor, "ceiling": {}, "protocol": protocol or {}}
        (run.results / "eval.json").write_text(json.dumps(content), encoding="utf-8")
        return run.results / "eval.json"

    return write
