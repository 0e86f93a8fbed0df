"""Expert parallelism: data ranks share out the experts of each mixture, and tokens travel to them and back.

Neighbouring data ranks form a group that holds all experts once; everything else every rank has whole.  Gradients are
summed after the backward pass, so that nothing of it is hidden: those of experts over the groups only, since the ranks
of a group have added up each other's on the way back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from datahall.base.errors import Refused
from datahall.base.workload import Mixture, Workload
from datahall.compute.execute_local import HoldsModel, LocalState, sum_in_buckets, trained
from datahall.compute.plan import ComputePlan


class ExpertParallel(HoldsModel):
    """Each worker has a share of the experts of the mixtures that the workload names, and the rest whole."""

    def __init__(self, workload: Workload, plan: ComputePlan, bucket_bytes: int, device: torch.device) -> None:
        mixtures = check_experts(workload, plan)
        super().__init__(workload, plan, device)
        whole = trained([self.module])
        self.shapes = {name: parameter.shape for name, parameter in whole.items()}
        self.group = self.grid.group("data")
        assert self.group is not None
        self.owners: dict[str, int] = {}  # the rank in the group of each expert's parameters
        for name, mixture in mixtures.items():
            self._note_owners(name, mixture, plan.expert)
            mixture.spread(self.grid.place.data % plan.expert, plan.expert, _AllToAll(self.group))
        groups = (self.grid.copies, self.grid.group("replicate"))
        self.state = _Spread(workload, [self.module], list(whole), self.owners, groups, bucket_bytes)

    def whole_weights(self) -> dict[str, torch.Tensor]:
        """As in Executor: each worker tells its experts to the others of its group."""
        found: dict[str, torch.Tensor] = {}
        for name, shape in self.shapes.items():
            mine = self.state.held.get(name)
            found[name] = torch.empty(shape, device=self.device) if mine is None else mine.detach().contiguous()
            if name in self.owners:
                dist.broadcast(found[name], group=self.group, group_src=self.owners[name])
        return found

    def _note_owners(self, name: str, mixture: Mixture, places: int) -> None:
        share = len(mixture.experts) // places
        for at, (key, expert) in enumerate(mixture.experts.items()):
            inside = (f"{name}.experts.{key}.{own}" for own, _ in expert.named_parameters())
            self.owners.update(dict.fromkeys(inside, at // share))


class _Spread(LocalState):
    """A worker's parameters, `experts` of them its own, the rest everybody's; `groups` hold the same of each."""

    def __init__(
        self,
        workload: Workload,
        modules: Sequence[nn.Module],
        names: Sequence[str],
        experts: dict[str, int],
        groups: tuple[dist.ProcessGroup | None, dist.ProcessGroup | None],
        bucket_bytes: int,
    ) -> None:
        super().__init__(workload, modules, names, groups[0], bucket_bytes)
        self.experts, self.replicas = experts, groups[1]

    def exchange(self) -> None:
        """Sum the gradients over the workers that hold the same parameters."""
        for group, routed in ((self.group, False), (self.replicas, True)):
            own = [p.grad for name, p in self.held.items() if (name in self.experts) == routed and p.grad is not None]
            if group is not None:
                sum_in_buckets(own, self.bucket_bytes, group)


class _AllToAll:
    """Rows by the library's all-to-all; gradients travel the same ways back."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group

    def counts(self, given: torch.Tensor) -> torch.Tensor:
        """As in Travel."""
        found = torch.empty_like(given)
        dist.all_to_all_single(found, given, group=self.group)
        return found

    def rows(self, rows: torch.Tensor, sent: list[int], got: list[int]) -> torch.Tensor:
        """As in Travel."""
        return _Travelled.apply(rows, sent, got, self.group)  # pyright: ignore[reportReturnType]


class _Travelled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: torch.Tensor, sent: list[int], got: list[int], group: dist.ProcessGroup
    ) -> torch.Tensor:
        ctx.sent, ctx.got, ctx.group = sent, got, group
        return _exchanged(rows, sent, got, group)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        return _exchanged(gradients[0], ctx.got, ctx.sent, ctx.group), None, None, None


def _exchanged(rows: torch.Tensor, sent: list[int], got: list[int], group: dist.ProcessGroup) -> torch.Tensor:
    found = rows.new_empty(sum(got), *rows.shape[1:])
    dist.all_to_all_single(found, rows.contiguous(), got, sent, group=group)
    return found


def check_experts(workload: Workload, plan: ComputePlan) -> dict[str, Mixture]:
    """The workload's mixtures by name; Refused unless expert ranks can share them out."""
    mixtures: dict[str, Any] = {name: workload.model.get_submodule(name) for name in workload.mixtures}
    if not mixtures or any(len(mixture.experts) % plan.expert for mixture in mixtures.values()):
        raise Refused(
            f"{workload.name} has no experts that {plan.expert} workers can share out evenly.",
            where="plan.compute.expert",
            hint="Give Workload.mixtures, and choose expert so that it divides their experts.",
        )
    return mixtures
