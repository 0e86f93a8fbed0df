"""A DDP script that datahall did not launch: `metered_ddp.py folder rank`; two ranks."""

import sys
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from datahall.real.meter import Meter

folder, rank = Path(sys.argv[1]), int(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{folder / 'group'}", rank=rank, world_size=2)


def train(metered):
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 1)))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.manual_seed(rank)
    with Meter(folder / "run", model) if metered else nullcontext() as meter:
        for _ in range(6):
            model(torch.randn(8, 32)).square().mean().backward()
            optimiser.step()
            optimiser.zero_grad()
            dist.barrier()
    return torch.cat([weights.flatten() for weights in model.parameters()]), meter


plain, _ = train(metered=False)
measured, meter = train(metered=True)
assert torch.allclose(plain, measured, atol=1e-6), (plain - measured).abs().max()
if rank == 0:
    (folder / "bytes").write_text(str(meter.result.counts["collective_bytes"]))
