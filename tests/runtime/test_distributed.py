"""Sharing work among processes, without starting any."""

from types import SimpleNamespace

import pytest
import torch

from hf_ddpm.runtime.distributed import gather, init_distributed, shard


@pytest.mark.parametrize("count", [0, 1, 2, 7, 100])
@pytest.mark.parametrize("num_processes", [1, 2, 3, 8])
def test_shares_cover_everything_once_in_order_and_evenly(count, num_processes):
    processes = [SimpleNamespace(num_processes=num_processes, process_index=rank) for rank in range(num_processes)]
    shares = [list(range(count)[shard(count, process)]) for process in processes]
    assert [item for part in shares for item in part] == list(range(count))
    sizes = [len(part) for part in shares]
    assert max(sizes) - min(sizes) <= 1


def test_a_program_started_alone_is_a_group_of_one():
    processes = init_distributed(num_threads=1)
    assert (processes.num_processes, processes.process_index) == (1, 0)
    assert torch.get_num_threads() == 1
    assert gather(["a", "b"], processes) == ["a", "b"]
