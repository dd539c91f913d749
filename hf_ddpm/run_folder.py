"""The layout of a run folder: `RunFolder("runs/digits").checkpoint(1000)`; `RunFolder.of(model)` finds the run of a model.

```
config.yaml  environment.json  data.json  metrics.jsonl
checkpoints/step-00001000/  samples/step-00001000.png  samples/grid.json
snapshots/step-00001000.safetensors  averages/sigma_rel-0.08/
pipeline/  judge/  results/*.json
```
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hf_ddpm.runtime.reading import read_json, read_yaml

PREFIX = "step-"
STATE = "training/state.json"
"""File of a checkpoint with the step, among others."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class GridSettings:
    """How the grids of samples of a run are sampled, the same way every time: `samples/grid.json`."""

    columns: int
    """Images per row."""
    class_labels: Sequence[Any]
    """Class id, set of label ids or number of each row; None = no class."""
    class_names: list[str] | None
    """The same in words; None = no classes."""
    seed: int
    """Image i, counted row by row, has the seed `seed + i`."""
    scheduler: str | None
    """Name in `hf_ddpm.schedulers.SCHEDULERS`, or the class of that of a distilled model; None = a GAN, which takes no
    steps."""
    num_inference_steps: int | None
    """Denoising steps; None = a GAN."""
    guidance_scale: float | None
    """s in u + s (c - u); None = no guidance."""

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    def describe(self) -> str:
        """How the samples were made, in words."""
        last_seed = self.seed + self.columns * len(self.class_labels) - 1
        rows = [f"rows: {', '.join(self.class_names)}"] if self.class_names else []
        steps = [] if self.scheduler is None else [f"{self.num_inference_steps} steps of {self.scheduler}"]
        guidance = [] if self.guidance_scale is None else [f"guidance scale {self.guidance_scale:g}"]
        return "; ".join([*rows, *steps, *guidance, f"seeds {self.seed} to {last_seed}"])


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run; nothing is read or created unless a method says so."""

    path: Path
    """The run folder, the `--output_dir` of training."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))

    @classmethod
    def of(cls, model: str | Path) -> RunFolder | None:
        """The run, with a config.yaml, of a `pipeline/`, checkpoint, other folder or Hub id; None = none on this disk.

        A model with the record of its run beside it is its own run. A relative path gives a relative path if the run is
        below the working folder.
        """
        if not Path(model).is_dir():
            return None
        folder = Path(os.path.abspath(model))
        places = [*([folder] if (folder / "model_index.json").is_file() else []), *folder.parents[:2]]
        found = next((place for place in places if cls(place).config.is_file()), None)
        if found is not None and not Path(model).is_absolute() and found.is_relative_to(Path.cwd()):
            found = found.relative_to(Path.cwd())
        return None if found is None else cls(found)

    @property
    def was_started(self) -> bool:
        """Whether a run has written here: its options, and something else that only runs write."""
        written = (self.environment, self.metrics, self.path / "checkpoints", self.judge, self.grid_settings)
        return self.config.is_file() and (any(path.exists() for path in written) or bool(self.sample_grids()))

    @property
    def config(self) -> Path:
        """The resolved options, YAML."""
        return self.path / "config.yaml"

    @property
    def environment(self) -> Path:
        """Package versions, hardware and threads, JSON."""
        return self.path / "environment.json"

    @property
    def data(self) -> Path:
        """What the run learns from, `hf_ddpm.data.description.DataDescription` as JSON; not in runs of earlier versions."""
        return self.path / "data.json"

    @property
    def metrics(self) -> Path:
        """One JSON object per logged step."""
        return self.path / "metrics.jsonl"

    def read_metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, each with a `step` and other numbers by name, in the order of the file; [] = no file.

        Lines that are anything else are left out, and a warning says which: a killed run cuts its last line.
        """
        content = self.metrics.read_bytes() if self.metrics.exists() else b""
        records = {number: _read_record(line) for number, line in enumerate(content.split(b"\n"), start=1) if line.strip()}
        damaged = [number for number, record in records.items() if record is None]
        if damaged:
            more = f" and {len(damaged) - 5} more" if len(damaged) > 5 else ""
            listed = ("lines " if len(damaged) > 1 else "line ") + ", ".join(map(str, damaged[:5])) + more
            logger.warning("%s: left out %s, not a step with its numbers", self.metrics, listed)
        return [record for record in records.values() if record is not None]

    @property
    def pipeline(self) -> Path:
        """The trained pipeline with its model card."""
        return self.path / "pipeline"

    def has_published(self, model: Path) -> bool:
        """Whether a model is the result of this run: its `pipeline/`, or the folder itself, if it is a copy to share."""
        return Path(model).resolve() in (self.pipeline.resolve(), self.path.resolve())

    @property
    def judge(self) -> Path:
        """The trained judge, in the run of a judge."""
        return self.path / "judge"

    @property
    def results(self) -> Path:
        """Folder of evaluation results that enter the model card."""
        return self.path / "results"

    @property
    def report(self) -> Path:
        """The page about the run."""
        return self.path / "report.html"

    def checkpoint(self, step: int) -> Path:
        """Folder of the checkpoint of an optimizer step."""
        return self.path / "checkpoints" / f"{PREFIX}{step:08d}"

    def checkpoints(self) -> dict[int, Path]:
        """Published checkpoints by optimizer step, oldest first."""
        return _by_step(path for path in (self.path / "checkpoints").glob(f"{PREFIX}*") if path.is_dir())

    def last_checkpoint(self) -> Path | None:
        """The newest published checkpoint; None = there is none."""
        return next(reversed(self.checkpoints().values()), None)

    def sample_grid(self, step: int) -> Path:
        """Picture of the samples of an optimizer step."""
        return self.path / "samples" / f"{PREFIX}{step:08d}.png"

    def sample_grids(self) -> dict[int, Path]:
        """Saved pictures of samples by optimizer step, oldest first."""
        return _by_step((self.path / "samples").glob(f"{PREFIX}*.png"))

    def snapshot(self, step: int) -> Path:
        """Two averages of the weights at an optimizer step, see `hf_ddpm.training.power_average`."""
        return self.path / "snapshots" / f"{PREFIX}{step:08d}.safetensors"

    def snapshots(self) -> dict[int, Path]:
        """Snapshots of averages by optimizer step, oldest first."""
        return _by_step((self.path / "snapshots").glob(f"{PREFIX}*.safetensors"))

    def average(self, sigma_rel: float, step: int | None = None) -> Path:
        """The pipeline of an average of this length, made of the snapshots up to a step; None = up to the newest one."""
        end = "" if step is None else f"_{PREFIX}{step}"
        return self.path / "averages" / f"sigma_rel-{sigma_rel:g}{end}"

    @property
    def grid_settings(self) -> Path:
        """How the pictures of samples were sampled, `GridSettings` as JSON; not in runs of earlier versions."""
        return self.path / "samples" / "grid.json"

    def read_grid_settings(self) -> GridSettings | None:
        """How the pictures of samples were sampled; None = the run does not say. ValueError: the file is damaged."""
        if not self.grid_settings.is_file():
            return None
        try:
            return GridSettings(**read_json(self.grid_settings))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{self.grid_settings} is damaged: it does not say how the samples were made") from error

    def last_sample_grid(self) -> Path | None:
        """The newest picture of samples; None = there is none."""
        return next(reversed(self.sample_grids().values()), None)

    def diverged(self, step: int) -> Path:
        """Record of the samples of a step whose loss or gradient was not finite."""
        return self.path / f"diverged-{PREFIX}{step:08d}.json"

    def read_options(self) -> dict[str, Any]:
        """The options in config.yaml; ValueError: the file is damaged, OSError: it cannot be read."""
        try:
            options = read_yaml(self.config)
        except ValueError as error:
            raise ValueError(f"{self.config} is damaged: {error}") from error
        if not isinstance(options, dict):
            raise ValueError(f"{self.config} is damaged: it is not the YAML of a run's options")
        return options


def _read_record(line: bytes) -> dict[str, Any] | None:
    """A line of metrics.jsonl; None = it is not a JSON object of a `step`, a whole number, and numbers."""
    try:
        record = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not all(_is_number(value) for value in record.values()):
        return None
    step = record.get("step")
    return record if isinstance(step, int) and step >= 0 else None


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63)


def _by_step(paths: Iterable[Path]) -> dict[int, Path]:
    numbers = ((path.stem.removeprefix(PREFIX), path) for path in paths)
    return dict(sorted((int(number), path) for number, path in numbers if number.isdecimal()))


def find_name_fault(checkpoint: Path) -> str | None:
    """What is wrong with the step in the name of a checkpoint, which may have been renamed; None = nothing.

    A folder without a state, or with any other name, has no such fault.
    """
    named, state = re.fullmatch(rf"{PREFIX}(\d+)", checkpoint.name), checkpoint / STATE
    if named is None or not state.is_file():
        return None
    try:
        step = read_json(state)["step"]
    except (ValueError, KeyError, TypeError):
        return f"{STATE} is not the state of a run"
    if type(step) is int and step == int(named[1]):
        return None
    return f"its name is not that of its state, which is of step {step!r}"
