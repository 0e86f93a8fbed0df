"""The MLPs of our language model: the dense one, and mixtures of experts (arXiv 1701.06538, 2401.04088).

Each token chooses its experts by a learned score, and gets their outputs weighted by the softmax over the chosen
scores; no token is dropped and no loss balances the experts.  Experts may be spread over workers; how rows travel then
is told from outside (`base.workload.Travel`).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from datahall.base.workload import Travel
from datahall.case.model import ModelShape


def mlp_of(shape: ModelShape, layer: int) -> nn.Module:
    """The MLP of one layer: a mixture, or a dense one in a dense model and in a mixture's first layers."""
    if layer >= shape.layers - shape.moe_layers:
        return Mixture(shape)
    return GatedMlp(shape.hidden, shape.dense_ffn if shape.experts else shape.ffn)


class GatedMlp(nn.Module):
    """SwiGLU (arXiv 2002.05202): two projections up, one gating the other, one down."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.gate = nn.Linear(hidden, width, bias=False)
        self.up = nn.Linear(hidden, width, bias=False)
        self.down = nn.Linear(width, hidden, bias=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.down(functional.silu(self.gate(hidden)) * self.up(hidden))


class Mixture(nn.Module):
    """Routed experts, of which each token passes through some, and shared ones that see every token.

    `received` adds up the rows that each of this worker's experts was given, until somebody takes it: the router's own
    record.
    """

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.chosen = shape.experts_per_token
        self.router = nn.Linear(shape.hidden, shape.experts, bias=False)
        self.experts = nn.ModuleDict({str(one): GatedMlp(shape.hidden, shape.ffn) for one in range(shape.experts)})
        self.shared = nn.ModuleList(GatedMlp(shape.hidden, shape.shared_ffn) for _ in range(shape.shared_experts))
        self.travel: Travel | None = None
        self.received: list[int] = [0] * shape.experts

    def spread(self, place: int, places: int, travel: Travel) -> None:
        """Keep the experts of worker `place` of `places`; rows of the others go there by `travel`."""
        share = len(self.experts) // places
        self.experts = nn.ModuleDict(list(self.experts.items())[place * share : (place + 1) * share])
        self.travel, self.received = travel, [0] * share

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        tokens = hidden.flatten(0, -2)
        # Before the routed ones: what recomputation runs last it runs in part only.
        common = [expert(tokens) for expert in self.shared]
        scores, chosen = self.router(tokens).topk(self.chosen, dim=-1)
        weights = scores.float().softmax(-1).to(scores.dtype)
        order = chosen.flatten().argsort(stable=True)
        rows = _narrowed(tokens).index_select(0, order // self.chosen)
        given = torch.bincount(chosen.flatten(), minlength=self.router.out_features)
        done = self._here(rows, given) if self.travel is None else self._there(rows, given, self.travel)
        mixed = done.index_select(0, order.argsort()).unflatten(0, chosen.shape) * weights.unsqueeze(-1)
        found = mixed.sum(-2)
        for shared in common:
            found = found + shared
        return found.view_as(hidden)

    def _here(self, rows: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        """Rows in the order of this worker's experts through them; each runs, so that each has a gradient."""
        counts = given.tolist()
        self.received = [before + count for before, count in zip(self.received, counts, strict=True)]
        parts = zip(self.experts.values(), rows.split(counts), strict=True)
        return torch.cat([expert(part) for expert, part in parts])

    def _there(self, rows: torch.Tensor, given: torch.Tensor, travel: Travel) -> torch.Tensor:
        """Rows to the workers that hold their experts, and back."""
        here = len(self.experts)
        arriving = travel.counts(given).view(-1, here)
        sent, got = given.view(-1, here).sum(1).tolist(), arriving.sum(1).tolist()
        arrived = travel.rows(rows, sent, got)
        of_expert = torch.arange(here, device=rows.device).repeat(len(got)).repeat_interleave(arriving.flatten())
        order = of_expert.argsort(stable=True)
        found = self._here(arrived.index_select(0, order), arriving.sum(0))
        return travel.rows(found.index_select(0, order.argsort()), got, sent)


def _narrowed(rows: torch.Tensor) -> torch.Tensor:
    """In the type that products are computed in, so that rows travel in it."""
    kind = rows.device.type
    return rows.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else rows
