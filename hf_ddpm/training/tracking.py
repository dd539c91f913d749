"""Logging of a run: progress bar, metrics.jsonl and trackers."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any

from accelerate import Accelerator
from tqdm.auto import tqdm

from hf_ddpm.run_folder import RunFolder
from hf_ddpm.runtime.files import append, write_whole


class RunLog:
    """Progress bar, `metrics.jsonl` and trackers of one run; does nothing in processes other than the main one."""

    def __init__(self, accelerator: Accelerator, folder: RunFolder, *, total_steps: int, start_step: int) -> None:
        """Open the log after `start_step` of `total_steps` optimizer steps, and drop its lines of later steps."""
        self._accelerator, self._active = accelerator, accelerator.is_main_process
        self._file = folder.metrics
        if self._active:
            self._forget_steps_after(start_step)
        self._bar = tqdm(
            total=total_steps, initial=start_step, desc="training", unit="step", disable=not self._active, dynamic_ncols=True
        )
        self._images_since, self._time_since = 0, time.perf_counter()

    def advance(self, images: int) -> None:
        """Count one optimizer step of this many images."""
        self._images_since += images
        self._bar.update()

    def write(self, step: int, values: dict[str, Any], *, with_speed: bool = False) -> None:
        """Log JSON numbers after `step` steps; `with_speed` adds `images_per_second` since the last call with it."""
        if not self._active:
            return
        if with_speed:
            now = time.perf_counter()
            speed = self._images_since / (now - self._time_since)
            values = {**values, "images_per_second": round(speed, 2)}
            self._images_since, self._time_since = 0, now
            losses = {name: f"{value:.4f}" for name, value in values.items() if name.endswith("loss")}
            self._bar.set_postfix({**losses, "images/s": f"{speed:.0f}"})
        append(self._file, json.dumps({"step": step, **values}) + "\n")
        self._accelerator.log(values, step=step)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Within this part the clock of `images_per_second` stands still."""
        started = time.perf_counter()
        yield
        self._time_since += time.perf_counter() - started

    def close(self) -> None:
        """Finish the bar and the trackers."""
        self._bar.close()
        for tracker in self._accelerator.trackers:
            tracker.finish()

    def _forget_steps_after(self, step: int) -> None:
        if not self._file.exists():
            return
        kept = []
        for line in self._file.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except ValueError:  # the line that a killed run was writing
                continue
            if record["step"] <= step:
                kept.append(line + "\n")
        write_whole(self._file, "".join(kept))
