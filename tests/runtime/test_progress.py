"""Long work shows a bar on a terminal and lines elsewhere; short work shows nothing."""

import contextlib
import os
import pty
import termios
import time

import pytest

from hf_ddpm.runtime import progress
from hf_ddpm.runtime.progress import Progress


@contextlib.contextmanager
def terminal():
    """A real terminal as stderr; what was written to it."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 80))  # a bar of no width is none
    with os.fdopen(slave, "w") as stream, contextlib.redirect_stderr(stream):

        def read() -> str:
            os.set_blocking(master, False)
            try:
                return os.read(master, 1_000_000).decode()
            except BlockingIOError:
                return ""

        yield read
    os.close(master)


def wait_for(read, words: str) -> str:
    """Text that is written until it has these words, for a minute at most."""
    text = ""
    for _ in range(6000):
        text += read()
        if words in text:
            break
        time.sleep(0.01)
    assert words in text
    return text


def test_a_terminal_shows_a_bar(monkeypatch):
    monkeypatch.setattr(progress, "BAR_AFTER", 0.0)
    with terminal() as read:
        with Progress("samples", 8, "image", done=2) as bar:
            wait_for(read, "2/8")
            bar.advance(6)
            bar.note = "loss=0.5"
        text = wait_for(read, "8/8")
    assert "samples: 100%" in text and "loss=0.5" in text


def test_work_that_counts_nothing_shows_its_time_and_leaves_nothing(monkeypatch):
    monkeypatch.setattr(progress, "BAR_AFTER", 0.0)
    with terminal() as read:
        with Progress("loading the model"):
            wait_for(read, "loading the model: 00:0")
        wait_for(read, "   \r")  # blanks over it


def test_a_log_gets_lines(monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_EVERY", 0.01)
    bar = Progress("training", 1200, "step", done=400)
    bar.note = "loss=0.04"
    text = wait_for(lambda: capsys.readouterr().err, "loss=0.04\n")
    bar.close()
    assert "training: 400 of 1,200 steps after 0 min, loss=0.04\n" in text and "\r" not in text


def test_short_work_shows_nothing(monkeypatch):
    monkeypatch.setattr(progress, "BAR_AFTER", 600.0)
    with terminal() as read:
        with Progress("loading the model") as bar:
            bar.advance()
        assert read() == ""


@pytest.mark.parametrize(("rank", "shown"), [("0", True), ("1", False)])
def test_only_the_first_process_shows_it(monkeypatch, rank, shown):
    monkeypatch.setenv("RANK", rank)
    bar = Progress("samples", 3)
    assert (bar._thread is not None) == shown
    bar.close()
    assert bar._thread is None or not bar._thread.is_alive()


def test_a_reader_that_is_gone_does_not_matter(monkeypatch):
    monkeypatch.setattr(progress, "LINE_EVERY", 0.01)
    reading, writing = os.pipe()
    os.close(reading)
    stream = os.fdopen(writing, "w")
    with contextlib.redirect_stderr(stream), Progress("training", 3) as bar:
        time.sleep(0.05)
        bar.advance()
        assert bar._thread.is_alive()
    with pytest.raises(BrokenPipeError):
        stream.close()


def test_an_error_ends_it():
    with pytest.raises(ZeroDivisionError), Progress("training") as bar:
        raise ZeroDivisionError
    assert not bar._thread.is_alive()
