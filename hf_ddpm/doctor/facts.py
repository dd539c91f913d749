"""What the files of a run say, read without torch: `read_facts(RunFolder("runs/digits"))`."""

from __future__ import annotations

import functools
import logging
import math
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from hf_ddpm.commandline.commands import start_here
from hf_ddpm.doctor.trend import Curve
from hf_ddpm.hub.facts import RunFacts, read_run
from hf_ddpm.run_folder import RunFolder
from hf_ddpm.runtime.lock import LOCK
from hf_ddpm.runtime.reading import read_json

Kind = Literal["diffusion model", "GAN", "judge"]

GROUPS = ("data", "ema", "model", "objective", "optim", "schedule")
SCHEDULER = Path("scheduler") / "scheduler_config.json"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A run, as far as its files describe it. What is missing or damaged is None or empty."""

    folder: RunFolder
    kind: Kind
    run: RunFacts
    is_running: bool
    """Whether a program is writing there now."""
    diverged: dict[int, dict[str, Any]]
    """Records of steps that were not applied because they were not finite, by the number of steps before."""
    saved_scheduler: dict[str, Any]
    """Config of the scheduler in `pipeline/`."""

    def option(self, group: str, name: str) -> Any:
        """An option of a group, or with "" of none; None = off or unknown."""
        return self.run.option(group, name) if group else self.run.config.get(name)

    def number(self, group: str, name: str) -> float | None:
        """An option that is a finite number; None = off, unknown, or something else."""
        value = self.option(group, name)
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return float(value) if is_number and math.isfinite(value) else None

    @functools.cached_property
    def losses(self) -> Curve:
        """The training loss, each line the mean over the steps since the one before; empty for a GAN, which has two."""
        return Curve.of(self.run.log, "loss")

    @functools.cached_property
    def test_losses(self) -> Curve:
        """The loss on held-out images with the averaged weights; empty = no split is held out, or no preview was due."""
        return Curve.of(self.run.log, "test_loss")

    @property
    def step(self) -> int:
        """Optimizer steps done, as far as the log and the checkpoints say."""
        logged = max((int(line["step"]) for line in self.run.log), default=0)
        return max(logged, *self.folder.checkpoints(), 0)

    @property
    def total_steps(self) -> int | None:
        """Length of the run in optimizer steps; None = unknown."""
        steps, epochs = self.number("", "max_train_steps"), self.number("", "num_train_epochs")
        if steps is not None:
            return int(steps)
        line = self.run.last("images_seen")
        if epochs is None or line is None or not self.num_images or line["images_seen"] <= 0:
            return None
        return math.ceil(epochs * self.num_images * line["step"] / line["images_seen"])

    @property
    def num_images(self) -> int | None:
        """Training images; None = unknown."""
        return self.run.num_images

    @property
    def epochs(self) -> float | None:
        """Passes over the data; None = unknown."""
        line = self.run.last("images_seen")
        return None if line is None or not self.num_images else line["images_seen"] / self.num_images

    @property
    def has_held_out_split(self) -> bool:
        """Whether there are images that were not trained on."""
        split = self.option("data", "test_split")
        return split is not None and split != self.option("data", "train_split")

    @property
    def model(self) -> Path | None:
        """The newest saved pipeline: `pipeline/` of a finished run, or its last checkpoint; None = there is none."""
        finished = self.total_steps is None or self.step >= self.total_steps
        checkpoints = list(reversed(self.folder.checkpoints().values()))
        models = [self.folder.pipeline, *checkpoints] if finished else [*checkpoints, self.folder.pipeline]
        return next((path for path in models if (path / "model_index.json").is_file()), None)

    @property
    def resume_command(self) -> str:
        """The command that continues the run."""
        name = {"diffusion model": "train", "GAN": "gan", "judge": "judge"}[self.kind]
        program = start_here().command(name, self.run.machine.num_processes or 1)
        return f"{program} --config {shlex.quote(str(self.folder.config))} --resume auto"


def read_facts(folder: RunFolder) -> Facts:
    """Read the files of a run; a `ValueError` of one line: there is no run, or its config.yaml is damaged."""
    if not folder.config.is_file():
        raise ValueError(f"run is {str(folder.path)!r}: {_no_run(folder)}")
    for name, group in folder.read_options().items():
        if name in GROUPS and not isinstance(group, dict | None):
            raise ValueError(f"{folder.config} is damaged: {name} is not a group of options")
    run = read_run(folder, left_out_of="this examination")
    return Facts(
        folder=folder,
        kind=_kind(run.config),
        run=run,
        is_running=_is_locked(folder.path / LOCK),
        diverged=_read_diverged(folder),
        saved_scheduler=_read_mapping(folder.pipeline / SCHEDULER) or {},
    )


def _no_run(folder: RunFolder) -> str:
    if not folder.path.is_dir():
        return "no such folder exists"
    run = RunFolder.of(folder.path)
    remedy = "the folder of a run has a config.yaml" if run is None else f"this is part of a run, give {run.path}"
    return f"this is not the folder of a run: {remedy}"


def _kind(config: dict[str, Any]) -> Kind:
    model = config.get("model") or {}
    return "GAN" if "latent_dim" in model else "judge" if "widths" in model else "diffusion model"


def _is_locked(path: Path) -> bool:
    """Whether another process holds a lock; nothing is created."""
    if not path.is_file() or path.is_symlink():
        return False
    try:
        lock = FileLock(path, timeout=0)
        lock.acquire()
    except Timeout:
        return True
    except OSError:
        return False
    lock.release()
    return False


def _read_diverged(folder: RunFolder) -> dict[int, dict[str, Any]]:
    start, end = folder.diverged(0).name.split("0" * 8)
    found = {path.name[len(start) : -len(end)]: path for path in folder.path.glob(f"{start}*{end}")}
    records = {int(step): _read_mapping(path) for step, path in found.items() if step.isdecimal()}
    return dict(sorted((step, record) for step, record in records.items() if record is not None))


def _read_mapping(path: Path) -> dict[str, Any] | None:
    """The content of a JSON file; None = there is none, or it is damaged, as a warning says."""
    if not path.is_file():
        return None
    try:
        value = read_json(path)
        if isinstance(value, dict):
            return value
        reason = "it is not a mapping"
    except (ValueError, OSError) as error:
        reason = str(error)
    logger.warning("left out of this examination: %s is damaged: %s", path, reason)
    return None
