"""Workers leave their group together; one that left a moment earlier is no loss, one that dies at work is."""

import subprocess
import sys

WORKER = """
import os, pathlib, sys, torch, torch.distributed as dist
from datahall.real.group import begin_together, leave_together, lost_peer
folder, rank = pathlib.Path(sys.argv[1]), int(sys.argv[2])
begin_together(folder, rank, 2)
for how in ("leave", "work"):
    dist.init_process_group("gloo", init_method=f"file://{folder / how}", rank=rank, world_size=2)
    dist.all_reduce(torch.ones(3))
    if rank == 0:
        dist.destroy_process_group()
    elif how == "leave":
        leave_together()
        dist.destroy_process_group()
        (folder / "left").touch()
    else:
        try:
            dist.all_reduce(torch.ones(3))
        except Exception as error:
            os._exit(75 if lost_peer(error) else 1)  # as workers end, without taking the broken group apart
"""


def test_a_peer_that_has_closed_is_lost_only_to_one_that_still_works(tmp_path, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    workers = [subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path), str(rank)]) for rank in range(2)]
    assert [worker.wait(120) for worker in workers] == [0, 75]
    assert (tmp_path / "left").exists()
