"""Files are whole or as they were, and a failure names the file."""

import resource
import signal

import pytest
from PIL import Image

import hf_ddpm.training.tracking as tracking
from hf_ddpm.cli import parse_config
from hf_ddpm.files import naming, write_whole
from hf_ddpm.training.loop import train
from hf_ddpm.training.options import TrainConfig


@pytest.fixture
def full_disk(monkeypatch):
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


def test_a_log_that_cannot_grow_is_named(tmp_path, tiny_options, monkeypatch, full_disk):
    write = tracking.RunLog.write

    def write_on_a_full_disk(log, step, *args, **kwargs):
        full_disk(30 if step == 3 else resource.RLIM_INFINITY)
        write(log, step, *args, **kwargs)

    monkeypatch.setattr(tracking.RunLog, "write", write_on_a_full_disk)
    options = [*tiny_options, "--max_train_steps=4", "--checkpoint.every_steps=1", f"--output_dir={tmp_path / 'run'}"]
    with pytest.raises(OSError) as stopped:
        train(parse_config(TrainConfig, options))
    assert str(stopped.value).startswith(f"{tmp_path / 'run' / 'metrics.jsonl'} cannot be written, ")
    full_disk(resource.RLIM_INFINITY)
    monkeypatch.undo()
    assert train(parse_config(TrainConfig, [*options, "--resume=auto"])).is_dir()
