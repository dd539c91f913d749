"""Output that cannot be written is dropped, and the program that writes it continues."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hf_ddpm.runtime.output import _lenient, keep_output_from_failing

ROOT = Path(__file__).parents[2]


@pytest.fixture
def stream_to():
    """The replacement of a standard stream that has this descriptor."""
    descriptors = []

    def build(descriptor: int, encoding: str = "utf-8") -> io.TextIOWrapper:
        descriptors.append(descriptor)
        stream = open(descriptor, "w", encoding=encoding, closefd=False)  # noqa: SIM115
        return _lenient(stream)

    yield build
    for descriptor in descriptors:
        os.close(descriptor)


def test_a_pipe_without_a_reader(stream_to):
    read, write = os.pipe()
    stream = stream_to(write)
    print("seen", file=stream, flush=True)
    assert os.read(read, 100) == b"seen\n"
    os.close(read)
    for _ in range(10_000):
        print("nobody reads this line", file=stream)
    stream.flush()


def test_a_full_pipe_that_does_not_wait(stream_to):
    read, write = os.pipe()
    os.set_blocking(write, False)
    stream = stream_to(write)
    for _ in range(10_000):
        print("more than a pipe holds", file=stream, flush=True)
    assert os.read(read, 4) == b"more"
    os.close(read)


def test_the_lines_of_both_streams_are_in_order_in_one_log():
    program = "import sys; from hf_ddpm.runtime.output import keep_output_from_failing as keep; keep(); "
    program += "print('data'); print('training', file=sys.stderr); print('pipeline')"
    command = [sys.executable, "-c", program]
    log = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True).stdout
    assert log.split() == ["data", "training", "pipeline"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a disk that is always full")
def test_a_full_disk(stream_to):
    stream = stream_to(os.open("/dev/full", os.O_WRONLY))
    print("lost", file=stream, flush=True)
    stream.close()


def test_a_character_that_the_terminal_cannot_show(stream_to):
    read, write = os.pipe()
    print("class 'é'", file=stream_to(write, "ascii"), flush=True)
    assert os.read(read, 100) == b"class '\\xe9'\n"
    os.close(read)


def test_streams_that_are_not_the_program_s_own_stay(capsys):
    before = sys.stdout, sys.stderr
    keep_output_from_failing()
    assert (sys.stdout, sys.stderr) == before


PROGRAM = """
import contextlib, os, sys
from tqdm import tqdm
from hf_ddpm.cli import user_errors
with user_errors():
    for _ in tqdm(range(100), mininterval=0):
        print("a line", flush=True)
    with open(sys.argv[1], "w") as file:
        for number in (1, 2):
            with contextlib.suppress(OSError):
                os.write(number, b"stray")
        file.write("done")
"""


@pytest.mark.parametrize("redirection", ["2>&1 | true", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_program_ends_as_if_its_output_were_read(tmp_path, redirection):
    """The shell starts the program with output that is closed, or whose reader ends at once."""
    command = f'set -o pipefail; "{sys.executable}" -c "$PROGRAM" {tmp_path / "file"} {redirection}'
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PROGRAM": PROGRAM}
    ended = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert (tmp_path / "file").read_text() == "done"
