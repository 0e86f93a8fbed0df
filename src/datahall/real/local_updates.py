"""Local SGD and DiLoCo in the training loop: workers update on their own and meet every `local_steps` steps.

The executor of plain data parallelism without its exchange, and `network.execute_compress.LocalUpdates` after the
update.  A checkpoint falls on a meeting (`training.check_exchange`), where the parameters are one, and keeps every
worker's own optimiser beside them.  What a codec left out of an exchange is not kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from datahall.base.workload import Workload
from datahall.compute.execute import DataParallel, Mark, in_checkpoint
from datahall.compute.execute_buffers import buffers_of
from datahall.decisions.plan import Plan
from datahall.network.execute_compress import LocalUpdates
from datahall.real.record import Recorder

_OWN = "optimiser."
_OUTER = "outer.momentum"


class LocallyUpdated:
    """One copy of the model per worker that is made equal to the others' every `local_steps` steps."""

    logs_samples = True
    group_key = 0
    stage_group: dist.ProcessGroup | None = None
    actions: list[tuple[str, int, int]] | None = None

    def __init__(self, workload: Workload, plan: Plan, device: torch.device, recorder: Recorder) -> None:
        self.recorder = recorder
        self.inner = DataParallel(workload, plan.compute, 0, device, None, alone=True)
        self.data_rank, self.data_world = dist.get_rank(), dist.get_world_size()
        self.parameters = [parameter for parameter in self.inner.module.parameters() if parameter.requires_grad]
        self.updates = LocalUpdates(self.parameters, plan.network)
        self.mesh = init_device_mesh(device.type, (self.data_world,))
        self.every, self.done = plan.network.local_steps, 0

    @property
    def optimiser(self) -> torch.optim.Optimizer:
        """As in Executor."""
        return self.inner.optimiser

    def gradients(self, batches: Iterable[Any], micro_steps: int, mark: Mark) -> float:
        """As in Executor; nothing is exchanged here."""
        return self.inner.gradients(batches, micro_steps, mark)

    def rehearse(self, batches: Iterable[Any]) -> None:
        """As in Executor."""
        self.inner.rehearse(batches)

    def update(self) -> None:
        """One step of the optimiser, and a meeting when it is time."""
        self.inner.update()
        self.done += 1
        if self.done % self.every == 0:
            self.recorder.mark("exchange")
            self.updates.exchange()
            self.recorder.mark("optimiser")

    def tensors(self, *, complete: bool = False) -> dict[str, torch.Tensor]:
        """Parameters and outer momentum, which all have; every worker's own optimiser and buffers as rows of wholes."""
        found = self.inner.tensors(complete=complete)
        own = [*(name for name in found if name.startswith(_OWN)), *in_checkpoint(buffers_of([self.inner.module]))]
        for name in own:
            found[name] = DTensor.from_local(found[name].unsqueeze(0).contiguous(), self.mesh, (Shard(0),))
        return {**found, _OUTER: self.updates.momentum}

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """As in Executor.  It begins a new period, so the checkpoint must be of a meeting."""
        own = {
            name: tensor.to_local().squeeze(0) if isinstance(tensor, DTensor) else tensor
            for name, tensor in tensors.items()
        }
        momentum = own.pop(_OUTER)
        self.inner.restore(own)
        self.updates.begin(momentum)

    def whole_weights(self) -> dict[str, torch.Tensor]:
        """As in Executor; a period that the run's end cut short is settled first."""
        if self.done % self.every:
            self.updates.exchange()
            self.done = 0
        return self.inner.whole_weights()
