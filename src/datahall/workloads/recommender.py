"""A recommender of embeddings: `application.entry: datahall.workloads.recommender:build`.

Two tables (users, items) of `vocab` rows of `hidden` numbers, whose product with a small perceptron gives the chance of
a click.  Most rows have no gradient in a step.  Tensor ranks share the tables' rows, a pipeline has up to three stages.
Clicks are made up from hidden tastes and the case's seed.  Its gradients are dense tensors here; sparse rows over a
parameter server are the network room's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from datahall.base.workload import Workload
from datahall.case.model import ModelShape
from datahall.case.question import Case

_SAMPLES = 8192
_TASTES = 8


def build(case: Case) -> Workload:
    """The recommender of the case and its clicks."""
    shape, seed = case.model, case.application.seed
    torch.manual_seed(seed)
    data = Clicks(shape.vocab, seed)
    return Workload(
        name=shape.name,
        model=Recommender(shape),
        data=data,
        loss=lambda model, batch: functional.binary_cross_entropy_with_logits(model(batch[0]), batch[1]),
        metrics={"accuracy": lambda model: accuracy(model, data)},
        cut_points=("users", "items", "tower"),
        cut=RecommenderPart,
        split=lambda batch: batch,
        criterion=functional.binary_cross_entropy_with_logits,
        tensor_cuts={"users": "vocabulary", "items": "vocabulary", "tower.0": "column", "tower.2": "row"},
    )


class Clicks:
    """Pairs of user and item, and whether the user clicked.  Popular items come often."""

    def __init__(self, rows: int, seed: int) -> None:
        chance = np.random.default_rng([seed, rows])
        users = chance.integers(rows, size=_SAMPLES)
        items = np.minimum(chance.zipf(1.3, size=_SAMPLES), rows) - 1
        tastes = chance.standard_normal((2, rows, _TASTES))
        liked = (tastes[0, users] * tastes[1, items]).sum(1)
        self.pairs = np.stack([users, items], axis=1)
        self.clicked = (liked > 0).astype(np.float32)

    def __len__(self) -> int:
        return _SAMPLES

    def batch(self, ids: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Pairs (len(ids), 2) and clicks (len(ids))."""
        chosen = np.asarray(ids)
        return torch.from_numpy(self.pairs[chosen]), torch.from_numpy(self.clicked[chosen])


class Recommender(nn.Module):
    """Pairs (batch, 2) to logits of a click (batch)."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.users = nn.Embedding(shape.vocab, shape.hidden)
        self.items = nn.Embedding(shape.vocab, shape.hidden)
        self.tower = nn.Sequential(nn.Linear(2 * shape.hidden, shape.ffn), nn.ReLU(), nn.Linear(shape.ffn, 1))

    def forward(self, pairs: torch.Tensor) -> torch.Tensor:
        user, item = self.users(pairs[:, 0]), self.items(pairs[:, 1])
        return _click(user, item, self.tower)


class RecommenderPart(nn.Module):
    """Users, items and tower, or some of them in a row, under the whole model's names.

    Between parts travel 2 x hidden numbers: the user's, and the item's or (in 32 bits, exact to 16 million rows) its
    number and zeros.
    """

    def __init__(self, model: Recommender, start: int, stop: int) -> None:
        super().__init__()
        self.width = model.users.embedding_dim
        self.users = model.users if start == 0 else None
        self.items = model.items if start <= 1 < stop else None
        self.tower = model.tower if stop == 3 else None

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        if self.users is not None:
            user, number = self.users(given[:, 0]), given[:, 1:]
            room = torch.zeros(len(user), self.width - 1, device=user.device)
            given = torch.cat([user, number.to(user.dtype), room], dim=1)
        if self.items is not None:
            item = self.items(given[:, self.width].long())
            given = torch.cat([given[:, : self.width], item], dim=1)
        if self.tower is None:
            return given
        user, item = given.split(self.width, dim=1)
        return _click(user, item, self.tower)


def _click(user: torch.Tensor, item: torch.Tensor, tower: nn.Module) -> torch.Tensor:
    """Logits of a click (batch)."""
    return (user * item).sum(1) + tower(torch.cat([user, item], dim=1)).squeeze(1)


@torch.no_grad()
def accuracy(model: nn.Module, data: Clicks) -> float:
    """Share of the clicks that the model gets right (of those it is trained on)."""
    pairs, clicked = data.batch(range(len(data)))
    return ((model(pairs) > 0) == (clicked > 0)).float().mean().item()
