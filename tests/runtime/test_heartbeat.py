"""A process that does not answer is named, and the others end instead of waiting for hours."""

import logging
import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
from torch.distributed import TCPStore

from hf_ddpm.runtime import heartbeat

ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(monkeypatch) -> TCPStore:
    """The store of a launcher, and waiting times of fractions of a second."""
    monkeypatch.setattr(heartbeat, "INTERVAL", 0.02)
    monkeypatch.setattr(heartbeat, "NOTICE", 0.2)
    return TCPStore("localhost", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=5))


@pytest.fixture
def ends(monkeypatch) -> list[int]:
    """The exit codes with which a process would end."""
    codes: list[int] = []
    monkeypatch.setattr(heartbeat.os, "_exit", codes.append)
    return codes


def watch(store: TCPStore, rank: int, world_size: int = 2, *, patience: float = 1e9) -> heartbeat.Heartbeat:
    thread = heartbeat.Heartbeat(rank, world_size, "localhost", store.port, patience)
    thread.start()
    return thread


def wait_until(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


def test_a_process_that_never_started_is_named_and_ends_the_wait(store, ends, caplog):
    saved = []
    with heartbeat.before_giving_up(lambda: saved.append("step")):
        thread = watch(store, 0, 3, patience=0.5)
        wait_until(lambda: ends)
        thread.stop()
    assert set(ends) == {1} and saved
    for rank in (1, 2):
        assert f"waiting for process {rank} (not seen so far): no sign of it" in caplog.text
    assert "process 1 (not seen so far) does not answer: this process ends" in caplog.text


def test_a_process_that_answers_or_has_ended_is_not_waited_for(store, ends, caplog):
    pair = [watch(store, rank, patience=0.5) for rank in (0, 1)]
    wait_until(lambda: pair[0]._signs and pair[1]._signs)
    pair[1].stop()
    wait_until(lambda: pair[0]._signs[1] == heartbeat.ENDED)
    time.sleep(1)
    pair[0].stop()
    assert not ends and not caplog.records


def test_a_process_that_answers_again_is_said(store, ends, caplog):
    caplog.set_level(logging.INFO)
    first = watch(store, 0)
    wait_until(lambda: "waiting for process 1" in caplog.text)
    second = watch(store, 1)
    wait_until(lambda: "process 1 answers again" in caplog.text)
    for thread in (second, first):
        thread.stop()
    assert not ends


def test_the_first_process_that_is_alive_speaks_for_all(store, ends, caplog):
    threads = [watch(store, rank, 3) for rank in (1, 2)]
    wait_until(lambda: all(0 in thread._named for thread in threads))
    for thread in threads:
        thread.stop()
    assert caplog.text.count("waiting for process 0") == 1


def test_what_fails_before_giving_up_is_said(store, ends, caplog):
    def fail():
        raise OSError("the disk is full")

    with heartbeat.before_giving_up(fail):
        thread = watch(store, 0, patience=0.3)
        wait_until(lambda: ends)
        thread.stop()
    assert "the disk is full" in caplog.text


@pytest.mark.parametrize("text", ["soon", "0", "-3", "nan"])
def test_an_impossible_patience_is_refused(monkeypatch, text):
    monkeypatch.setenv("HF_DDPM_PATIENCE", text)
    with pytest.raises(ValueError, match="HF_DDPM_PATIENCE is .* give seconds above 0"):
        heartbeat.watch_processes()


PROGRAM = """
import os, signal, time
from hf_ddpm.cli import user_errors
from hf_ddpm.runtime import heartbeat
from hf_ddpm.runtime.distributed import gather, init_distributed

heartbeat.INTERVAL, heartbeat.NOTICE = 0.1, 1.0
with user_errors():
    processes = init_distributed(1)
    gather([0], processes)
    if processes.process_index == 1:
        time.sleep(0.5)  # and several signs of life
        os.kill(os.getpid(), signal.SIGSTOP)
    with heartbeat.before_giving_up(lambda: print("saved")):
        gather([0], processes)
"""


def test_a_stopped_process_does_not_hold_up_the_other_for_hours(store):
    """The other one waits in a collective, where it would handle no signal and no exception."""
    address = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    address |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RESTART_COUNT": "0", "HF_DDPM_PATIENCE": "2"}
    pair = []
    for rank in "01":
        environment = {**os.environ, **address, "RANK": rank, "LOCAL_RANK": rank, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", PROGRAM]
        pair.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    try:
        output, errors = pair[0].communicate(timeout=120)
    finally:
        for process in pair:
            process.send_signal(signal.SIGKILL)
            process.communicate()
    assert pair[0].returncode == 1, errors
    assert output == "saved\n"
    assert f"process 1 (pid {pair[1].pid} on " in errors and "does not answer: this process ends" in errors
