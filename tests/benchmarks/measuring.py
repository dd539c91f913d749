"""What the benchmarks share: the machine, tables, programs that take turns in training, and busy neighbours."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self
from unittest.mock import patch

import torch

from hf_ddpm.markdown import table
from hf_ddpm.models.unet import unet_arguments
from hf_ddpm.run_folder import RunFolder
from hf_ddpm.runtime.environment import describe_environment
from hf_ddpm.runtime.probe import Timings

ROOT = Path(__file__).parents[2]
PATIENCE = 300
"""Seconds until a program that takes no step is given up."""


def print_machine(*settings: str) -> None:
    """Print processor, versions, the load before the measurement and its settings, in one line."""
    known = describe_environment(torch.device("cuda" if torch.cuda.is_available() else "cpu"), 1)
    device = known["gpu"] or f"{known['processor']}, {known['cpu_count']} cores, {torch.backends.cpu.get_cpu_capability()}"
    versions = [f"{name} {known['packages'][name]}" for name in ("torch", "diffusers")]
    commit = f"commit {(known['commit'] or 'unknown')[:8]}"
    print("; ".join([device, *versions, commit, f"load {os.getloadavg()[0]:.1f}", *settings]), flush=True)


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table of Markdown."""
    print(f"\n{table(header, rows)}", flush=True)


def images_per_second(timings: Timings[str], name: str, batch_size: int) -> str:
    """Of a candidate that handles one batch a call: the median over rounds."""
    return f"{batch_size / statistics.median(timings.seconds[name]):.3g}"


@contextlib.contextmanager
def timed_calls(owner: object, name: str) -> Iterator[list[tuple[float, float]]]:
    """Meanwhile note when each call of a function of a module or class begins, and the seconds that it takes."""
    function, calls = getattr(owner, name), list[tuple[float, float]]()

    def timed(*args, **kwargs):
        started = time.perf_counter()
        result = function(*args, **kwargs)
        calls.append((started, time.perf_counter() - started))
        return result

    with patch.object(owner, name, timed):
        yield calls


def digits_options(preset: str, batch_size: int) -> list[str]:
    """Options of train.py that train a network on the embedded digits, in its size and colours."""
    arguments = unet_arguments(preset)
    options = {
        "model.preset": preset, "data.source": "digits", "data.image_size": arguments["sample_size"],
        "data.channels": arguments["in_channels"], "data.test_split": "null", "data.batch_size": batch_size,
    }  # fmt: skip
    return [f"--{name}={value}" for name, value in options.items()]


class TrainingProgram:
    """A training program in a process of its own, which is stopped (SIGSTOP) but for its `turn`."""

    def __init__(self, command: Sequence[str], output: Path, log: Path, step: bytes, variables: Mapping[str, str]) -> None:
        """Start it, and stop it after its third step.

        Args:
            command: of the program, after the name of the Python that runs it.
            output: file for what it prints.
            log: file to which it writes the number of each step; may be `output`.
            step: pattern of such a number in the log.
            variables: of its environment, besides those of this process.
        """
        self._name = Path(command[0]).name
        self._output, self._log, self._step, self._read, self._last = output, log, re.compile(step), 0, 0
        with output.open("wb") as file:
            environment = {**os.environ, **variables}
            self.process = subprocess.Popen(
                [sys.executable, *command], stdout=file, stderr=subprocess.STDOUT, env=environment, cwd=output.parent
            )
        try:
            self._wait_for(3)
        except BaseException:
            self.__exit__()
            raise
        self.process.send_signal(signal.SIGSTOP)

    def turn(self, seconds: float) -> float:
        """Let it train for about this long; returns the seconds per step, those in which it was stopped not counted."""
        begun = self._steps()
        self.process.send_signal(signal.SIGCONT)
        first, started = self._wait_for(begun + 1)  # this one was begun before
        last, ended = first, started
        while ended < started + seconds:
            last, ended = self._wait_for(last + 1)
        self.process.send_signal(signal.SIGSTOP)
        return (ended - started) / (last - first)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()

    def _wait_for(self, step: int) -> tuple[int, float]:
        """Wait until this step is done; returns the number of the last one, and the time."""
        give_up = time.perf_counter() + PATIENCE
        while (done := self._steps()) < step:
            if self.process.poll() is not None or time.perf_counter() > give_up:
                lines = self._output.read_text(encoding="utf-8", errors="replace").strip().splitlines()
                raise RuntimeError(f"{self._name} takes no steps: {lines[-1] if lines else 'it prints nothing'}")
            time.sleep(0.002)
        return done, time.perf_counter()

    def _steps(self) -> int:
        """The number of the last step that is in the log."""
        if self._log.exists():
            with self._log.open("rb") as file:
                file.seek(self._read)
                found = self._step.findall(file.read())
                self._read = max(self._read, file.tell() - 100)  # the last line may be half written
                self._last = max([self._last, *map(int, found)])
        return self._last


def our_training(folder: Path, options: Sequence[str]) -> TrainingProgram:
    """Start train.py with options, without checkpoints and pictures; it writes the new folder."""
    folder.mkdir()
    fixed = (
        "--logging.every_steps=1 --logging.sample_every_steps=null --checkpoint.every_steps=null --max_train_steps=10000000"
    )
    run = RunFolder(folder / "run")
    command = [str(ROOT / "train_scripts" / "train.py"), *fixed.split(), f"--output_dir={run.path}", *options]
    variables = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder / "cache")}
    return TrainingProgram(command, folder / "output.txt", run.metrics, rb'"step": (\d+)', variables)


def take_turns(programs: Mapping[str, TrainingProgram], *, rounds: int, seconds: float) -> Timings[str]:
    """Let programs train in turn, about `seconds` each in every round; the timings are seconds per step."""
    taken: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            taken[name].append(program.turn(seconds))
    return Timings(taken)


@contextlib.contextmanager
def busy_neighbours(count: int) -> Iterator[None]:
    """Meanwhile this many other processes compute, each as much as one core can."""
    neighbours = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.wait()
