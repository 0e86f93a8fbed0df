"""The engine PyTorch: DistributedDataParallel over gloo, one process alone without it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from datahall.real.engines.engine import ADAM, Layers, Team
from datahall.workloads.digits import network


class PyTorch:
    """One worker on PyTorch; see engine.Engine."""

    def __init__(self, team: Team, layers: Layers) -> None:
        torch.set_num_threads(team.threads)
        self.workers = team.workers
        if self.workers > 1:
            dist.init_process_group(
                "gloo", init_method=f"file://{team.rendezvous}", rank=team.rank, world_size=team.workers
            )
        self.network = network(layers)
        self.model: nn.Module = self.network
        if self.workers > 1:
            self.model = DistributedDataParallel(self.network, gradient_as_bucket_view=True)
        rate, first, second, epsilon = ADAM
        self.optimiser = torch.optim.Adam(
            self.network.parameters(), lr=rate, betas=(first, second), eps=epsilon, fused=True
        )
        self.numbers = torch.zeros(sum(one.numel() for one in self.network.parameters()))

    def step(self, images: np.ndarray, classes: np.ndarray) -> Any:
        loss = functional.cross_entropy(self.model(torch.from_numpy(images)), torch.from_numpy(classes))
        loss.backward()
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return loss.detach()

    def finish(self) -> None:
        """Steps on a processor are done when they return."""

    def exchange(self) -> None:
        if self.workers > 1:
            dist.all_reduce(self.numbers)

    def scores(self, images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return self.network(torch.from_numpy(images)).numpy()

    def layers(self) -> list[tuple[np.ndarray, np.ndarray]]:
        dense = [module for module in self.network if isinstance(module, nn.Linear)]
        return [(one.weight.detach().numpy().T.copy(), one.bias.detach().numpy().copy()) for one in dense]

    def close(self) -> None:
        """Nothing: the connections end with the process, and nobody waits for anybody any more."""
