"""Join the processes that a launcher started, and share work: `gather([f(i) for i in range(n)[shard(n, p)]], p)`."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import gather_object

from hf_ddpm.runtime.heartbeat import watch_processes
from hf_ddpm.runtime.signals import StopRequest
from hf_ddpm.runtime.threads import available_threads

Item = TypeVar("Item")

# How long a process waits for another that decodes a data set or generates samples; one that is silent is lost sooner,
# see hf_ddpm.runtime.heartbeat.
PATIENCE = timedelta(hours=2)


def init_distributed(num_threads: int | None = None) -> PartialState:
    """Join the processes of torchrun or accelerate launch, also without an accelerator; one on its own is a group of one.

    `num_threads`: CPU threads; None = this process's share of the machine's cores, whatever OMP_NUM_THREADS says. Raises
    `ValueError` if the launcher started more processes than can see each other. A process that is stopped or missing is
    named after a minute, and ends the others after ten, or after HF_DDPM_PATIENCE seconds.
    """
    watch_processes()
    AcceleratorState._reset_state()  # a second run in one program may have another precision
    processes = PartialState(cpu=not has_accelerator(), timeout=PATIENCE, **_fresh_store())
    atexit.register(processes.destroy_process_group)  # does nothing if the group is gone already
    started, seen = int(os.environ.get("WORLD_SIZE", "1")), processes.num_processes
    if started != seen:
        raise ValueError(f"the launcher started {started} processes, but this one sees {seen}: take torchrun")
    torch.set_num_threads(num_threads or available_threads())
    return processes


def has_accelerator() -> bool:
    """Whether there is a device other than the CPU."""
    return torch.cuda.is_available() or torch.backends.mps.is_available()


def shard(count: int, processes: PartialState) -> slice:
    """This process's part of `count` items: the parts are disjoint, in order, and their sizes differ by at most one."""
    rank, world_size = processes.process_index, processes.num_processes
    return slice(count * rank // world_size, count * (rank + 1) // world_size)


def gather(items: list[Item], processes: PartialState) -> list[Item]:
    """Every process's items, those of the main process first; every process has to call it, and gets them all."""
    return items if processes.num_processes == 1 else gather_object(items)


def broadcast_from_main(compute: Callable[[], Item], processes: PartialState) -> Item:
    """What the main process computes, in all processes; every process has to call it, and the others only wait."""
    return gather([compute()] if processes.is_main_process else [], processes)[0]


def any_process_stopped(stop: StopRequest, processes: PartialState) -> int | None:
    """The signal that asked a process to stop, None = continue; every process has to call it, and all get the same."""
    if processes.num_processes == 1:
        return stop.signal_number
    number = torch.tensor(stop.signal_number or 0, device=processes.device)
    torch.distributed.all_reduce(number, op=torch.distributed.ReduceOp.MAX)
    return int(number.item()) or None


def _fresh_store() -> dict[str, Any]:
    """Where processes that torchrun has restarted meet, as arguments of `init_process_group`; {} = torch's default."""
    # The launcher's store still has the addresses of the processes that have died, and the new ones would wait for those.
    restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if restarts == "0" or os.environ.get("WORLD_SIZE", "1") == "1" or torch.distributed.is_initialized():
        return {}
    store, rank, world_size = next(torch.distributed.rendezvous("env://", timeout=PATIENCE))
    return {"store": torch.distributed.PrefixStore(f"restart {restarts}", store), "rank": rank, "world_size": world_size}
