"""Expert parallelism: neighbouring workers share out the experts of each mixture; tokens travel to them and back.

Everything else each of them has as without expert ranks.  The gradient of an expert is the sum over all tokens of its
group, since gradients travel as their tokens did; it is then summed over the workers that hold the same expert.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from datahall.base.errors import Refused
from datahall.base.workload import Mixture, Workload
from datahall.compute.execute_grid import Grid
from datahall.compute.plan import ComputePlan


class Experts:
    """The experts of a workload's mixtures, shared out over groups of neighbours; without expert ranks none.

    `owners` says of each of their parameters which worker of the group holds it.
    """

    def __init__(self, workload: Workload, plan: ComputePlan, grid: Grid) -> None:
        self.ranks, self.place = plan.expert, 0
        self.owners: dict[str, int] = {}
        neighbours = grid.neighbours(plan.expert)
        self.group = None if neighbours is None else neighbours.get_group()
        if neighbours is None or self.group is None:
            return
        self.place = neighbours.get_local_rank()
        for name, mixture in check_experts(workload, plan).items():
            self._note_owners(name, mixture)
            mixture.spread(self.place, self.ranks, _AllToAll(self.group))

    def complete(self, found: Mapping[str, torch.Tensor], shapes: Mapping[str, torch.Size]) -> dict[str, torch.Tensor]:
        """`found` with the experts of `shapes` that others hold; all workers of the group call together."""
        whole = dict(found)
        for name, shape in shapes.items():
            if name in self.owners:
                mine = found.get(name)
                empty = next(iter(found.values())).new_empty(shape)
                whole[name] = empty if mine is None else mine.contiguous()
                dist.broadcast(whole[name], group=self.group, group_src=self.owners[name])
        return whole

    def parameters(self, modules: Sequence[nn.Module]) -> list[nn.Parameter]:
        """Those of this worker's experts in some modules, frozen ones too."""
        return [one for module in modules for name, one in module.named_parameters() if name in self.owners]

    def _note_owners(self, name: str, mixture: Mixture) -> None:
        share = len(mixture.experts) // self.ranks
        for at, (key, expert) in enumerate(mixture.experts.items()):
            inside = (f"{name}.experts.{key}.{own}" for own, _ in expert.named_parameters())
            self.owners.update(dict.fromkeys(inside, at // share))


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
