"""The log of a run: what it forgets when the run is resumed, sample grids in trackers, and trackers that fail."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker, TensorBoardTracker
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hf_ddpm.run_folder import GridSettings, RunFolder
from hf_ddpm.training.tracking import RunLog, start_trackers

STEP_2, TEST_2, STEP_4 = (
    {"step": 2, "images_seen": 8, "loss": 0.5},
    {"step": 2, "test_loss": 0.4},
    {"step": 4, "loss": 0.3},
)


@pytest.fixture
def resumed(tmp_path):
    """The log of a run that continues from step 2, over a file with these lines."""

    def build(lines: list[bytes], **options) -> list[dict]:
        folder = RunFolder(tmp_path)
        folder.metrics.write_bytes(b"\n".join(lines))
        log = RunLog(Accelerator(cpu=True), folder, total_steps=4, start_step=2, **options)
        log.write(3, {"loss": 0.25})
        log.close()
        return [json.loads(line) for line in folder.metrics.read_bytes().splitlines()]

    return build


def line(values: dict) -> bytes:
    return json.dumps(values).encode()


def test_lines_that_are_not_of_the_run_are_forgotten_and_said(resumed, caplog):
    found = resumed([b"loss went down here!", line(STEP_2), b"[]", b"\xff\xfe\x00", line(STEP_4), b'{"step": 4, "lo'])
    assert found == [STEP_2, {"step": 3, "loss": 0.25}]
    (message,) = caplog.messages
    assert "left out lines 1, 3, 4, 6" in message


@pytest.mark.parametrize(("pending", "kept"), [(False, [STEP_2, TEST_2]), (True, [STEP_2])])
def test_what_an_unfinished_preview_has_logged_is_forgotten(resumed, pending, kept):
    found = resumed([line(STEP_2), line(TEST_2), line(STEP_4), b""], preview_pending=pending)
    assert found == [*kept, {"step": 3, "loss": 0.25}]


class Failing(GeneralTracker):
    """A tracker whose server fails from the second call on."""

    name, requires_logging_directory, main_process_only = "failing", False, True

    def __init__(self):
        super().__init__()
        self.calls = 0

    @property
    def tracker(self):
        return None

    def store_init_configuration(self, values):
        pass

    def log(self, values, step, **options):
        self.calls += 1
        if self.calls == 2:
            raise ConnectionError("the server is gone")


def test_a_tracker_that_fails_does_not_end_the_run(tmp_path, caplog):
    tracker = Failing()
    accelerator = Accelerator(cpu=True, log_with=tracker)
    accelerator.init_trackers("trackers")
    log = RunLog(accelerator, RunFolder(tmp_path), total_steps=4, start_step=0)
    for step in range(4):
        log.write(step, {"loss": 1.0})
    log.close()
    assert tracker.calls == 2 and len(RunFolder(tmp_path).read_metrics()) == 4
    assert caplog.messages == ["the tracker failing failed and gets no more metrics (ConnectionError: the server is gone)"]


def test_a_tracker_that_cannot_start_is_a_mistake_of_one_line():
    class Closed(Failing):
        def start(self):
            raise PermissionError("nobody has\nlogged in")

    with pytest.raises(ValueError, match="--logging.trackers: failing cannot start, .*: nobody has logged in") as refused:
        start_trackers(Accelerator(cpu=True, log_with=Closed()))
    assert "\n" not in str(refused.value)


# Sample grids

PIXELS = np.arange(12 * 10 * 3, dtype=np.uint8).reshape(12, 10, 3)
CAPTION = "step 3; rows: cat, dog; 20 steps of dpmsolver++; guidance scale 1.5; seeds 7 to 14"


def save_grid(folder: RunFolder, step: int) -> None:
    settings = GridSettings(
        columns=4, class_labels=[0, 1], class_names=["cat", "dog"], seed=7, scheduler="dpmsolver++",
        num_inference_steps=20, guidance_scale=1.5,
    )  # fmt: skip
    folder.sample_grid(step).parent.mkdir()
    folder.grid_settings.write_text(settings.to_json())
    Image.fromarray(PIXELS).save(folder.sample_grid(step))


def show_grid(path: Path, tracker: str | GeneralTracker) -> RunFolder:
    """Log a step and its grid, and another step."""
    accelerator, folder = Accelerator(cpu=True, log_with=tracker, project_dir=path), RunFolder(path)
    start_trackers(accelerator)
    save_grid(folder, 3)
    log = RunLog(accelerator, folder, total_steps=4, start_step=2)
    log.write(3, {"loss": 1.0})
    log.show_samples(3)
    log.write(4, {"loss": 0.5})
    log.close()
    return folder


def test_tensorboard_shows_a_grid_with_its_caption(tmp_path):
    show_grid(tmp_path, "tensorboard")
    events = EventAccumulator(str(tmp_path / "trackers")).Reload()
    (picture,) = events.Images("samples")
    assert picture.step == 3
    np.testing.assert_array_equal(Image.open(io.BytesIO(picture.encoded_image_string)), PIXELS)
    (text,) = events.Tensors("samples/text_summary")
    assert (text.step, text.tensor_proto.string_val[0].decode()) == (3, CAPTION)
    assert [event.step for event in events.Scalars("loss")] == [3, 4]


def test_wandb_shows_a_grid_with_its_caption(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    show_grid(tmp_path, "wandb")
    wandb.teardown()  # waits for its service, which writes the record
    (picture,) = (tmp_path / "wandb").rglob("*.png")
    np.testing.assert_array_equal(Image.open(picture), PIXELS)
    (record,) = (tmp_path / "wandb").rglob("run-*.wandb")
    assert CAPTION.encode() in record.read_bytes()


def test_trackio_shows_a_grid_with_its_caption(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when it is imported
    pytest.importorskip("trackio")
    show_grid(tmp_path, "trackio")
    (picture,) = (tmp_path / "trackio").rglob("*.png")
    np.testing.assert_array_equal(Image.open(picture).convert("RGB"), PIXELS)


def test_a_tracker_that_fails_to_show_a_grid_does_not_end_the_run(tmp_path, caplog):
    class FullDisk(TensorBoardTracker):
        def log_images(self, values, step, **options):
            raise OSError("no space left")

    folder = show_grid(tmp_path, FullDisk("trackers", tmp_path))
    assert [line["step"] for line in folder.read_metrics()] == [3, 4]
    assert caplog.messages == ["the tracker tensorboard failed and gets no more metrics (OSError: no space left)"]
