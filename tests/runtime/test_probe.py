"""Timing in turn and choosing, with a clock that tells given times."""

import itertools

import pytest
import torch

from hf_ddpm.runtime import threads
from hf_ddpm.runtime.probe import MARGIN, Timings, choose, time_in_turn
from hf_ddpm.runtime.threads import compare_threads, thread_counts


class Clock:
    """Time that passes only while a candidate runs."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def taking(self, *seconds: float):
        """A candidate whose calls take these times, the last one again and again, and that counts its calls."""
        durations = itertools.chain(seconds, itertools.repeat(seconds[-1]))

        def call() -> None:
            call.count += 1
            self.now += next(durations)

        call.count = 0
        return call


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_candidates_are_called_in_turn_after_a_call_that_is_not_counted(clock):
    slow, fast = clock.taking(5.0, 5.0, 0.2), clock.taking(3.0, 0.1)
    timings = time_in_turn({"slow": slow, "fast": fast}, seconds=100, rounds=4, clock=clock)
    assert timings.seconds["fast"] == pytest.approx([0.1] * 4)
    assert timings.relative() == pytest.approx({"slow": 1.0, "fast": 0.5})
    assert (slow.count, fast.count) == (6, 5)


def test_a_drift_of_the_machine_does_not_decide():
    """Every round is slower than the one before, and within a round the second candidate is always twice as fast."""
    timings = Timings({"a": [1.0, 2.0, 4.0], "b": [0.5, 1.0, 2.0]})
    assert timings.relative() == {"a": 1.0, "b": 0.5}


def test_a_hopeless_candidate_is_called_once(clock):
    fast, slow = clock.taking(0.2), clock.taking(3.0)
    timings = time_in_turn({"fast": fast, "slow": slow}, seconds=100, rounds=5, clock=clock)
    assert slow.count == 1 and timings.relative()["slow"] == pytest.approx(15)
    assert fast.count == 3, "and there is nothing left to compare"


def test_a_slow_first_call_that_is_short_is_forgiven(clock):
    """Kernels are made in the first call, which takes many times as long as the following ones of a tiny network."""
    steady, compiled = clock.taking(0.01), clock.taking(0.2, 0.005)
    assert choose(time_in_turn({"a": steady, "b": compiled}, seconds=100, clock=clock).relative()) == "b"


def test_the_time_is_limited_but_one_round_is_timed(clock):
    timings = time_in_turn({"a": clock.taking(10.0), "b": clock.taking(9.0)}, seconds=1, clock=clock)
    assert timings.seconds == {"a": [10.0], "b": [9.0]}


@pytest.mark.parametrize(
    ("relative", "chosen"),
    [
        ({"first": 1.0, "second": 0.99 / MARGIN}, "second"),
        ({"first": 1.0, "second": 1.01 / MARGIN}, "first"),
        ({"first": 1.0, "second": 1.0 / MARGIN, "third": 0.5}, "third"),
        ({"first": 3.0, "second": 1.1, "third": 1.0}, "second"),
        ({"only": 1.0}, "only"),
    ],
)
def test_the_first_is_preferred_unless_another_is_clearly_faster(relative, chosen):
    assert choose(relative) == chosen


@pytest.mark.parametrize(("most", "counts"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])])
def test_powers_of_two_and_all_threads_are_tried(most, counts):
    assert thread_counts(most) == counts


class Machine(Clock):
    """A step, or a call of a network, takes a time that depends on the number of threads that torch is set to."""

    def __init__(self, seconds: dict[int, float]) -> None:
        super().__init__()
        self.seconds, self.used = seconds, []

    def step(self) -> None:
        self.used.append(torch.get_num_threads())
        self.now += self.seconds[self.used[-1]]


QUIET, BUSY = {8: 1.0, 4: 1.9, 2: 3.6, 1: 7.0}, {8: 9.0, 4: 5.0, 2: 2.5, 1: 1.5}
EQUAL = {8: 1.0, 4: 1.02, 2: 1.05, 1: 1.1}


@pytest.mark.parametrize(
    ("seconds", "chosen", "tried"), [(QUIET, 8, {4, 8}), (BUSY, 1, {1, 2, 4, 8}), (EQUAL, 1, {1, 2, 4, 8})]
)
def test_threads_are_halved_while_that_is_not_much_slower(seconds, chosen, tried):
    machine = Machine(seconds)
    relative = compare_threads(machine.step, 8, seconds=100, clock=machine)
    assert choose(relative) == chosen and set(relative) == set(machine.used) == tried
    assert list(relative) == sorted(relative), "fewer are preferred"
    assert torch.get_num_threads() == 1, "as it was before"


@pytest.mark.parametrize(("seconds", "chosen", "tried"), [(QUIET, 8, [8, 4]), (BUSY, 1, [8, 4, 2, 1])])
def test_the_first_calls_of_a_network_try_threads(seconds, chosen, tried, monkeypatch):
    machine = Machine(seconds)

    class Network(torch.nn.Linear):
        def forward(self, images):
            machine.step()
            return super().forward(images)

    network = Network(1, 1)
    monkeypatch.setattr(threads, "available_threads", lambda: 8)
    threads.choose_threads_in_use(network, clock=machine)
    for _ in range(30):
        network(torch.zeros(2, 1))
    assert torch.get_num_threads() == chosen
    assert machine.used == [count for count in tried for _ in range(threads.ROUNDS + 1)] + [chosen] * (
        30 - len(tried) * (threads.ROUNDS + 1)
    )
