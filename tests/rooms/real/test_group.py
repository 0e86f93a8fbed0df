"""Workers leave their group together; one that left a moment earlier is no loss, one that dies at work is."""

import subprocess
import sys

import pytest

WORKER = """
import os, sys, torch, torch.distributed as dist
from datahall.real.group import leave_together, lost_peer
path, rank, how = sys.argv[1], int(sys.argv[2]), sys.argv[3]
dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
dist.all_reduce(torch.ones(3))
if rank == 0:
    dist.destroy_process_group()
elif how == "leave":
    leave_together()
else:
    try:
        dist.all_reduce(torch.ones(3))
    except Exception as error:
        os._exit(75 if lost_peer(error) else 1)  # as workers end, without taking the broken group apart
"""


@pytest.mark.parametrize(("how", "code"), [("leave", 0), ("work", 75)])
def test_a_peer_that_has_closed_is_lost_only_to_one_that_still_works(how, code, tmp_path, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    command = [sys.executable, "-c", WORKER, str(tmp_path / "group")]
    workers = [subprocess.Popen([*command, str(rank), how]) for rank in range(2)]
    assert [worker.wait(60) for worker in workers] == [0, code]
