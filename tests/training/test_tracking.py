"""The log of a run: what it forgets when the run is resumed, and trackers that fail."""

import json

import pytest
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker

from hf_ddpm.run_folder import RunFolder
from hf_ddpm.training.tracking import RunLog

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
