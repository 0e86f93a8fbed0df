"""The observer counts what goes through process groups and functional collectives, and can be taken away again."""

import pytest
import torch
import torch.distributed as dist
from torch.distributed import _functional_collectives as functional

from datahall.real.observe_collectives import CollectiveCounter


@pytest.fixture
def group(tmp_path, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield dist.group.WORLD
    dist.destroy_process_group()


def exchange(group):
    dist.all_reduce(torch.ones(10))
    dist.all_gather_into_tensor(torch.empty(6), torch.ones(6))
    functional.all_reduce(torch.ones(5, dtype=torch.float64), "sum", group).sum()


def test_calls_and_bytes_are_counted_until_the_counter_is_taken_away(group):
    counter = CollectiveCounter()
    for _ in range(2):
        counter.watch()
        exchange(group)
        counter.release()
        exchange(group)
    assert counter.by_kind == {"all_reduce": [4, 2 * (40 + 40)], "all_gather": [2, 2 * 24]}
    assert (counter.calls, counter.bytes) == (6, 208)
    assert counter.blocked_s > 0
