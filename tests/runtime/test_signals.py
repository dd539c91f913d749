"""Requests to stop: what is polled, what is raised, and what a second signal does."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest

from hf_ddpm.runtime.signals import Stopped, ending_signals_raise, stop_requests

ROOT = Path(__file__).parents[2]
EACH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])


@pytest.fixture(autouse=True)
def listening():
    """A process that a shell put into the background ignores SIGINT, and so would the test; nothing else is left behind."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    signal.signal(signal.SIGINT, before)


@EACH
def test_a_signal_is_a_request_that_is_said_and_polled(capfd, number):
    with pytest.raises(Stopped, match="saved") as stopped, stop_requests("ending after this step") as stop:
        assert not stop.requested
        signal.raise_signal(number)
        assert stop.requested and stop.signal_number == number
        raise Stopped(stop.signal_number, "saved")
    assert stopped.value.signal_number == number
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert line.startswith(f"{signal.Signals(number).name}: ending after this step;")


def test_without_a_signal_nothing_happens(capfd):
    with stop_requests("ending") as stop, stop.raising():
        pass
    assert not stop.requested
    assert capfd.readouterr().err == ""


def test_a_request_that_nobody_answers_is_not_lost():
    done = []
    with pytest.raises(Stopped), stop_requests("ending"):
        signal.raise_signal(signal.SIGTERM)
        done.append("work")
    assert done == ["work"]


@EACH
def test_a_part_that_is_not_worth_finishing_ends_at_once(number):
    done = []
    with pytest.raises(Stopped) as stopped, stop_requests("ending") as stop:
        with stop.raising():
            pass
        with stop.raising():
            signal.raise_signal(number)
            done.append("not reached")
    assert stopped.value.signal_number == number and not done


def test_such_a_part_is_not_begun_after_a_signal():
    done = []
    with pytest.raises(Stopped), stop_requests("ending") as stop:
        signal.raise_signal(signal.SIGTERM)
        with stop.raising():
            done.append("not reached")
    assert not done


def test_an_error_is_not_hidden_by_a_request():
    with pytest.raises(ZeroDivisionError), stop_requests("ending"):
        signal.raise_signal(signal.SIGTERM)
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("number", "default"), [(signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)]
)
def test_a_signal_that_was_ignored_stays_so(number, default):
    """SIGINT in a background job, SIGHUP under nohup."""
    signal.signal(number, signal.SIG_IGN)
    with stop_requests("ending") as stop, ending_signals_raise():
        signal.raise_signal(number)
        assert not stop.requested
    assert signal.getsignal(number) is signal.SIG_IGN
    signal.signal(number, default)


def test_outside_the_main_thread_nothing_is_asked():
    seen = []

    def work():
        with stop_requests("ending") as stop, ending_signals_raise():
            seen.append((stop.requested, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, signal.SIG_DFL)]


@EACH
def test_an_ending_signal_ends_what_does_not_poll(number):
    done = []
    with pytest.raises(Stopped) as stopped, ending_signals_raise():
        signal.raise_signal(number)
        done.append("not reached")
    assert stopped.value.signal_number == number and not done


@EACH
def test_a_signal_within_a_callback_is_neither_shown_nor_lost(capfd, number):
    """Python locks each module that it imports, and drops what is raised while such a lock is removed."""

    def callback(_):
        signal.raise_signal(number)

    with pytest.raises(Stopped) as stopped, ending_signals_raise():
        gone = set()
        weak = weakref.ref(gone, callback)
        del gone
        assert weak() is None
        for _ in range(1000):
            time.sleep(0.01)
    assert stopped.value.signal_number == number
    assert capfd.readouterr().err == ""


def test_other_errors_in_a_callback_are_shown(monkeypatch):
    shown = []
    monkeypatch.setattr(sys, "unraisablehook", lambda dropped: shown.append(dropped.exc_type))
    with ending_signals_raise():
        gone = set()
        weak = weakref.ref(gone, lambda _: 1 / 0)
        del gone
    assert weak() is None and shown == [ZeroDivisionError]


@EACH
@pytest.mark.parametrize("then", ["nothing", "work", "error"])
def test_a_signal_that_another_package_catches_is_not_lost(number, then):
    done = []
    with pytest.raises(Stopped) as stopped, ending_signals_raise():
        with contextlib.suppress(BaseException):
            signal.raise_signal(number)
        if then == "error":
            raise ImportError("half a module")
        if then == "work":
            with stop_requests("ending"):
                done.append("not reached")
    assert stopped.value.signal_number == number and not done
    with ending_signals_raise(), stop_requests("ending"):
        done.append("the next program is not concerned")
    assert done


@EACH
@pytest.mark.parametrize(("apart", "code", "printed"), [(0.0, 0, "still here"), (0.3, None, "")])
def test_a_second_signal_ends_now_but_an_echo_is_no_second_one(number, apart, code, printed):
    program = f"""
import signal, time
import hf_ddpm.runtime.signals as signals
signals.SAME_REQUEST_SECONDS = 0.2
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    with signals.stop_requests("ending") as stop:
        signal.raise_signal({int(number)})
        time.sleep({apart})
        signal.raise_signal({int(number)})
        print("still here")
except signals.Stopped:
    pass
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == (128 + number if code is None else code), ended.stderr
    assert ended.stdout.strip() == printed
