"""Logging of a run: progress bar, metrics.jsonl and trackers."""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker, TensorBoardTracker
from PIL import Image

from hf_ddpm.run_folder import RunFolder
from hf_ddpm.runtime.files import append, write_whole
from hf_ddpm.runtime.pictures import open_picture
from hf_ddpm.runtime.progress import Progress
from hf_ddpm.text import one_line

TRAINING_LINE = "images_seen"  # in the lines of training, and in none of a preview

logger = logging.getLogger(__name__)


def start_trackers(accelerator: Accelerator) -> None:
    """Start the trackers of a run; a `ValueError` if one cannot, as wandb where nobody has logged in."""
    try:
        accelerator.init_trackers("trackers")
    except Exception as error:  # whatever a tracker of another package raises
        names = ", ".join(tracker.name for tracker in accelerator.trackers)
        reason = one_line(f"{type(error).__name__}: {error}")
        raise ValueError(f"--logging.trackers: {names} cannot start, set it up or leave it out ({reason})") from error


class RunLog:
    """Progress bar, `metrics.jsonl` and trackers of one run; does nothing in processes other than the main one."""

    def __init__(
        self,
        accelerator: Accelerator,
        folder: RunFolder,
        *,
        total_steps: int,
        start_step: int,
        preview_pending: bool = False,
    ) -> None:
        """Open the log after `start_step` of `total_steps` optimizer steps, and drop its lines of what will be repeated.

        These are the later steps and, with `preview_pending`, the lines of an unfinished preview of `start_step`.
        """
        self._active, self._folder, self._file = accelerator.is_main_process, folder, folder.metrics
        self._trackers: list[GeneralTracker] = list(accelerator.trackers) if self._active else []
        if self._active and self._file.exists():
            kept = [
                record
                for record in folder.read_metrics()
                if record["step"] < start_step + (not preview_pending or TRAINING_LINE in record)
            ]
            write_whole(self._file, "".join(json.dumps(record) + "\n" for record in kept))
        self._bar = Progress("training", total_steps, done=start_step, shown=self._active)
        self._images_since, self._time_since = 0, time.perf_counter()

    def advance(self, images: int) -> None:
        """Count one optimizer step of this many images."""
        self._images_since += images
        self._bar.advance()

    def write(self, step: int, values: dict[str, Any], *, with_speed: bool = False) -> None:
        """Log JSON numbers after `step` steps; `with_speed` adds `images_per_second` since the last call with it."""
        if not self._active:
            return
        if with_speed:
            now = time.perf_counter()
            speed = self._images_since / (now - self._time_since)
            values = {**values, "images_per_second": round(speed, 2)}
            self._images_since, self._time_since = 0, now
            losses = [f"{name}={value:.4f}" for name, value in values.items() if name.endswith("loss")]
            self._bar.note = ", ".join([*losses, f"images/s={speed:.0f}"])
        append(self._file, json.dumps({"step": step, **values}) + "\n")
        self._call_trackers(lambda tracker: tracker.log(values, step=step))

    def show_samples(self, step: int) -> None:
        """Send the saved grid of the samples of a step to the trackers, with a caption."""
        settings = self._folder.read_grid_settings() if self._trackers else None
        if settings is None:
            return
        with open_picture(self._folder.sample_grid(step)) as opened:
            grid = opened.convert("RGB")
        caption = one_line(f"step {step}; {settings.describe()}")
        self._call_trackers(lambda tracker: _log_picture(tracker, "samples", grid, caption, step))

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Within this part the clock of `images_per_second` stands still."""
        started = time.perf_counter()
        yield
        self._time_since += time.perf_counter() - started

    def close(self) -> None:
        """Finish the bar and the trackers."""
        self._bar.close()
        self._call_trackers(lambda tracker: tracker.finish())

    def _call_trackers(self, call: Callable[[GeneralTracker], object]) -> None:
        """Call each tracker; one that fails (its server, its disk) gets no more metrics, and the run continues."""
        for tracker in list(self._trackers):
            try:
                call(tracker)
            except Exception as error:  # whatever a tracker of another package raises
                self._trackers.remove(tracker)
                reason = f"{type(error).__name__}: {error}"
                logger.warning("the tracker %s failed and gets no more metrics (%s)", tracker.name, reason)


def _log_picture(tracker: GeneralTracker, name: str, picture: Image.Image, caption: str, step: int) -> None:
    """Send an RGB picture to a tracker that shows pictures; TensorBoard shows the caption among its texts."""
    if isinstance(tracker, TensorBoardTracker):
        tracker.log_images({name: np.asarray(picture)[None]}, step=step, dataformats="NHWC")
        tracker.log({name: caption}, step=step)
    elif tracker.name in ("trackio", "wandb"):  # whose interfaces are the same
        tracker.log({name: importlib.import_module(tracker.name).Image(picture, caption=caption)}, step=step)
