"""Files are whole or as they were, and a failure names the file."""

import resource
import signal

import pytest
from accelerate import Accelerator
from PIL import Image

from hf_ddpm.run_folder import RunFolder
from hf_ddpm.runtime.files import naming, write_whole
from hf_ddpm.training.tracking import RunLog


@pytest.fixture
def full_disk():
    """Call it: from then on a file may have no more than so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that the write fails and does not kill
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "new" / "file.txt"
    for text in ("before\n", "after ü\n"):
        write_whole(path, text)
        assert path.read_text(encoding="utf-8") == text
    write_whole(tmp_path / "new" / "image.png", Image.new("L", (3, 2)).save)
    with Image.open(tmp_path / "new" / "image.png") as image:
        assert image.size == (3, 2)
    assert sorted(file.name for file in path.parent.iterdir()) == ["file.txt", "image.png"]


def test_on_a_full_disk_the_old_file_stays(tmp_path, full_disk):
    path = tmp_path / "file.txt"
    write_whole(path, "before")
    full_disk(100)
    with pytest.raises(OSError) as stopped:
        write_whole(path, "x" * 1000)
    message = str(stopped.value)
    assert message.startswith(f"{path} cannot be written, File too large: ") and "bytes are free" in message
    assert path.read_text() == "before" and len(list(tmp_path.iterdir())) == 1


def test_other_errors_pass_unchanged(tmp_path):
    with pytest.raises(KeyError, match="3"), naming(tmp_path):
        raise KeyError(3)


def test_a_log_that_cannot_grow_is_named(tmp_path, full_disk):
    log = RunLog(Accelerator(cpu=True), RunFolder(tmp_path), total_steps=4, start_step=0)
    log.write(1, {"loss": 0.5})
    full_disk((tmp_path / "metrics.jsonl").stat().st_size)
    with pytest.raises(OSError) as stopped:
        log.write(2, {"loss": 0.25})
    assert str(stopped.value).startswith(f"{tmp_path / 'metrics.jsonl'} cannot be written, ")
    full_disk(resource.RLIM_INFINITY)
    log.close()
