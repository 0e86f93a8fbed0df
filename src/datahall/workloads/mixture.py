"""The MLPs of our language model: the dense one, and mixtures of experts (arXiv 1701.06538, 2401.04088).

Each token chooses its experts by a learned score, and gets their outputs weighted by the softmax over the chosen
scores; no token is dropped.  Loads are balanced without a loss, by a bias that only choosing sees (arXiv 2408.15664): a
parameter whose gradient is its expert's load, so that every split and checkpoint treats it as any other.  Experts may
be spread over workers; how rows travel then is told from outside (`base.workload.Travel`).
"""

from __future__ import annotations

from typing import Any

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


_FAVOUR = 100.0  # of a score, for each of a balance: AdamW's rate of 0.001 moves it by 0.1 a step


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
        self.balance = nn.Parameter(torch.zeros(shape.experts)) if shape.router_balance else None
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
        chosen, weights, given = self._choose(self.router(tokens))
        order = chosen.flatten().argsort(stable=True)
        rows = _narrowed(tokens).index_select(0, order // self.chosen)
        done = self._here(rows, given) if self.travel is None else self._there(rows, given, self.travel)
        mixed = done.index_select(0, order.argsort()).unflatten(0, chosen.shape) * weights.unsqueeze(-1)
        found = mixed.sum(-2)
        for shared in common:
            found = found + shared
        return found.view_as(hidden)

    def _choose(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The experts of each token, what their outputs count for, and the rows that each expert is given."""
        favoured = scores.detach() if self.balance is None else scores.detach() + _FAVOUR * self.balance.detach()
        chosen = favoured.topk(self.chosen, dim=-1).indices
        given = torch.bincount(chosen.flatten(), minlength=scores.shape[-1])
        if self.chosen > 1:
            weights = scores.gather(-1, chosen).float().softmax(-1)
        else:  # of all scores (arXiv 2101.03961): of one alone the weight is 1, and the router would learn nothing
            weights = scores.float().softmax(-1).gather(-1, chosen)
        if self.balance is not None:
            weights = _Balanced.apply(weights, self.balance, given)
        return chosen, weights.to(scores.dtype), given

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


class _Balanced(torch.autograd.Function):
    """The weights as they are; backward, the balance of an expert with more than its share of rows gets a gradient."""

    @staticmethod
    def forward(ctx: Any, weights: torch.Tensor, balance: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        ctx.excess = (given / given.sum() - 1.0 / len(given)).to(balance.dtype)
        return weights.view_as(weights)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        return gradients[0], ctx.excess, None


def _narrowed(rows: torch.Tensor) -> torch.Tensor:
    """In the type that products are computed in, so that rows travel in it."""
    kind = rows.device.type
    return rows.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else rows
