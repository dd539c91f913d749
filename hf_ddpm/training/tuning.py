"""Choose precision, memory format and threads of a run by timing training steps of its own network: `tune(...)`."""

from __future__ import annotations

import copy
import functools
import logging
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from accelerate import PartialState
from torch import Tensor

from hf_ddpm.markdown import counted
from hf_ddpm.runtime.distributed import broadcast_from_main
from hf_ddpm.runtime.probe import MARGIN, choose, time_in_turn
from hf_ddpm.runtime.threads import available_threads, compare_threads
from hf_ddpm.training.options import RunConfig

Precision = Literal["fp32", "bf16", "fp16"]
MemoryFormat = Literal["contiguous", "channels_last"]
Way = tuple[Precision, MemoryFormat | None]
"""Precision and memory format of a network; None = the format in which it is built."""

FEW = 2
"""Images of the first timed steps, which show what is hopeless."""
STEP_SECONDS = 0.2
"""The least that a timed step takes, unless it has all images of a micro-step: less is mostly overhead."""
LIMIT = 2.5
"""Seconds after which no further round of a comparison begins."""
HOPELESS = 2.0
"""A way that takes this many times as long as the first with few images is not timed with more."""
MAX_THREADS = 4096
TIMES = "time of a step: "
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How a run computes where its options leave it open."""

    mixed_precision: Precision
    memory_format: MemoryFormat | None
    """None = this kind of network has no choice."""
    num_threads: int
    """CPU threads of each process."""
    reason: str | None = None
    """Why, in a line; None = the options say so."""

    def __str__(self) -> str:
        return ", ".join(filter(None, (self.mixed_precision, self.memory_format, counted(self.num_threads, "thread"))))

    def described(self) -> dict[str, Any]:
        """What a run records beside its threads, as JSON values."""
        return {"mixed_precision": self.mixed_precision, "memory_format": self.memory_format, "tuning": self.reason}


@dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """Training steps of a network on random images: forward and backward pass, without an optimizer."""

    network: torch.nn.Module
    """On the device of the run, with any weights; nothing else uses it."""
    forward: Callable[[Any, Tensor], Tensor]
    """What the network makes of images, (B, C, H, W) float32 on its device."""
    image_shape: tuple[int, int, int]
    """(C, H, W)."""
    batch_size: int
    """Images per micro-step of the run."""

    @property
    def device(self) -> torch.device:
        """The device of the run."""
        return next(self.network.parameters()).device

    def step(self, num_images: int, mixed_precision: Precision, memory_format: MemoryFormat | None) -> Callable[[], None]:
        """A function that takes one step, and on a GPU waits for its end."""
        network, device, dtype = self._network_in(memory_format), self.device, AUTOCAST.get(mixed_precision)
        images = torch.randn(num_images, *self.image_shape, generator=torch.Generator().manual_seed(0)).to(device)

        def step() -> None:
            with torch.autocast(device.type, dtype, enabled=dtype is not None):
                outputs = self.forward(network, images)
            outputs.float().square().mean().backward()
            network.zero_grad(set_to_none=True)
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        return step

    @functools.cached_property
    def _channels_last(self) -> torch.nn.Module:
        return torch.nn.Module.to(copy.deepcopy(self.network), memory_format=torch.channels_last)

    def _network_in(self, memory_format: MemoryFormat | None) -> torch.nn.Module:
        return self._channels_last if memory_format == "channels_last" else self.network


def tune(
    config: RunConfig,
    build_trial: Callable[[torch.device], Trial],
    processes: PartialState,
    recorded: Mapping[str, Any] | None = None,
) -> Tuning:
    """Choose what the options leave open; every process has to call it.

    All processes measure at the same time, so that they load the machine as the run will, and the main one decides for all.
    The global random generators stay as they are.

    Args:
        config: the options; `auto` and, for the threads, None = choose.
        build_trial: builds the network to be timed on a device; called if something is to be measured.
        processes: those of the run.
        recorded: choices of the run that is continued, by the names of `Tuning`, which are kept unless the options give
            others; None = it is a new run.
    """
    device, recorded = processes.device, recorded or {}
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        trial = functools.cache(functools.partial(build_trial, device))
        way, why = _choose_way(config, trial, processes, recorded)
        num_threads, why_threads = _choose_threads(config, way, trial, processes, recorded)
    reasons = dict.fromkeys(filter(None, (why, why_threads)))
    reason = "; ".join(reasons).replace(f"; {TIMES}", "; ") or None
    return Tuning(mixed_precision=way[0], memory_format=way[1], num_threads=num_threads, reason=reason)


def recorded_tuning(identity: Mapping[str, Any], surroundings: Mapping[str, Any]) -> dict[str, Any]:
    """The choices in the identity of a checkpoint, by the names of `Tuning`; {} if it was saved on another machine.

    `surroundings` are those of now, by the names of the identity's `environment`. Checkpoints of versions without the option
    `memory_format` do not have that.
    """
    environment = identity["environment"]
    if any(environment.get(name) != surroundings[name] for name in ("processor", "device", "num_processes")):
        return {}
    choices = {name: identity.get(name) for name in ("mixed_precision", "memory_format")}
    valid = {"mixed_precision": get_args(Precision), "memory_format": get_args(MemoryFormat)}
    found: dict[str, Any] = {name: value for name, value in choices.items() if value in valid[name]}
    threads = environment.get("num_threads")
    return found | ({"num_threads": threads} if type(threads) is int and 0 < threads <= MAX_THREADS else {})


def compare_ways(trial: Trial, ways: list[Way]) -> dict[Way, float]:
    """How many times as long as the first way each takes, on one thread, whose speed others on the machine change least."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    few = min(FEW, trial.batch_size)
    rough = time_in_turn({way: trial.step(few, *way) for way in ways}, seconds=LIMIT / 5, rounds=2)
    relative, count = rough.relative(), _enough_images(trial, ways[0])
    promising = [way for way in ways if relative[way] <= HOPELESS]
    if len(promising) > 1 and count > few:
        relative |= time_in_turn({way: trial.step(count, *way) for way in promising}, seconds=LIMIT).relative()
    torch.set_num_threads(before)
    return relative


def compare_thread_counts(trial: Trial, way: Way, most: int) -> dict[int, float]:
    """How many times as long as with `most` threads a step takes with fewer, the fewest first; see `compare_threads`."""
    before = torch.get_num_threads()
    torch.set_num_threads(most)
    count = _enough_images(trial, way)
    torch.set_num_threads(before)
    return compare_threads(trial.step(count, *way), most, seconds=LIMIT)


def _enough_images(trial: Trial, way: Way) -> int:
    """How many images take `STEP_SECONDS`, but no more than a micro-step of the run has."""
    count = min(FEW, trial.batch_size)
    while count < trial.batch_size:
        (seconds,) = time_in_turn({way: trial.step(count, *way)}, seconds=0).seconds.values()
        if statistics.median(seconds) >= STEP_SECONDS:
            break
        count = min(4 * count, trial.batch_size)
    return count


def _choose_way(
    config: RunConfig, build: Callable[[], Trial], processes: PartialState, recorded: Mapping[str, Any]
) -> tuple[Way, str | None]:
    """Precision and memory format, and why; None = as given."""
    kind, memory_format = processes.device.type, getattr(config, "memory_format", None)
    precision = recorded.get("mixed_precision", "auto") if config.mixed_precision == "auto" else config.mixed_precision
    if memory_format == "auto" and recorded.get("mixed_precision") == precision:
        memory_format = recorded.get("memory_format") or _earlier_format(precision, kind, build)
    ways = _ways(precision, memory_format, kind)
    # What a user asks for is compared with fp32 as well, to say so if it is slow; but a run that is continued was warned.
    asked = config.mixed_precision == "bf16" and kind == "cpu" and not recorded
    compared: list[Way] = [("fp32", ways[0][1]), *ways] if asked else ways
    if len(compared) == 1:
        was_open = len(_ways(config.mixed_precision, getattr(config, "memory_format", None), kind)) > 1
        return ways[0], "as in the checkpoint" if was_open else None
    measured = compare_ways(build(), compared)
    relative = broadcast_from_main(lambda: measured, processes)
    way = choose({way: relative[way] for way in ways})
    if asked and relative[way] > MARGIN and processes.is_main_process:
        slow = f"on this CPU a training step takes {relative[way]:.1f} times as long as in fp32"
        logger.warning("--mixed_precision is 'bf16': %s, give auto or fp32", slow)
    return way, _listed({" ".join(filter(None, way)): value for way, value in relative.items()})


def _ways(precision: str, memory_format: str | None, kind: str) -> list[Way]:
    """What comes into question on this kind of device, the preferred one first."""
    fast = "bf16" if kind == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    precisions = {"cpu": ["fp32", "bf16"]}.get(kind, [fast]) if precision == "auto" else [precision]
    ways: list[Any] = []
    for each in precisions:
        # On a CPU, channels_last gains nothing in fp32.
        both = kind == "cuda" or (kind == "cpu" and each == "bf16")
        formats = get_args(MemoryFormat) if both else ["contiguous"]
        ways += [(each, it) for it in (formats if memory_format == "auto" else [memory_format])]
    return ways


def _earlier_format(precision: str, kind: str, build: Callable[[], Trial]) -> MemoryFormat:
    """What versions that did not record the memory format took: one of their runs continues bit for bit."""
    if kind != "cpu" or precision != "bf16":
        return "contiguous"
    config: Any = build().network.config
    return "channels_last" if min(config.block_out_channels) >= 64 else "contiguous"


def _choose_threads(
    config: RunConfig, way: Way, build: Callable[[], Trial], processes: PartialState, recorded: Mapping[str, Any]
) -> tuple[int, str | None]:
    """Threads of each process, and why; None = as given, or all, because there is nothing to compute on a CPU."""
    if config.num_threads is not None:
        return config.num_threads, None
    if "num_threads" in recorded:
        return recorded["num_threads"], "as in the checkpoint"
    most = broadcast_from_main(available_threads, processes)
    if processes.device.type != "cpu" or most == 1:
        return most, None
    measured = compare_thread_counts(build(), way, most)
    relative = broadcast_from_main(lambda: measured, processes)
    return choose(relative), _listed({counted(count, "thread"): value for count, value in relative.items()})


def _listed(relative: Mapping[str, float]) -> str:
    return TIMES + ", ".join(f"{name} {value:.2f}" for name, value in relative.items())
