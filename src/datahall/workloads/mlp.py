"""A perceptron that tells made-up classes apart: `application.entry: datahall.workloads.mlp:build`.

Its widths are read from the case's model: `hidden` inputs, `layers` blocks of `ffn`, `vocab` classes.  The data are
noisy copies of one pattern a class, made from the case's seed, so that no download is needed; they teach nothing.
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

_SAMPLES = 4096
_NOISE = 2.0


def build(case: Case) -> Workload:
    """The perceptron of the case and its samples."""
    shape, seed = case.model, case.application.seed
    torch.manual_seed(seed)
    data = Patterns(shape.hidden, shape.vocab, seed)
    return Workload(
        name=shape.name,
        model=Perceptron(shape),
        data=data,
        loss=lambda model, batch: functional.cross_entropy(model(batch[0]), batch[1]),
        metrics={"accuracy": lambda model: accuracy(model, data)},
        cut_points=tuple(f"blocks.{index}" for index in range(shape.layers)),
        cut=PerceptronPart,
        split=lambda batch: batch,
        criterion=functional.cross_entropy,
        tensor_cuts={"blocks.*.up": "column", "blocks.*.down": "row", "head": "gathered"},
    )


class Patterns:
    """Vectors of `width` numbers and their class."""

    def __init__(self, width: int, classes: int, seed: int) -> None:
        chance = np.random.default_rng([seed, width, classes])
        self.classes = chance.integers(classes, size=_SAMPLES)
        patterns = chance.standard_normal((classes, width))
        noise = _NOISE * chance.standard_normal((_SAMPLES, width))
        self.vectors = (patterns[self.classes] + noise).astype(np.float32)

    def __len__(self) -> int:
        return _SAMPLES

    def batch(self, ids: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Vectors (len(ids), width) and classes (len(ids))."""
        chosen = np.asarray(ids)
        return torch.from_numpy(self.vectors[chosen]), torch.from_numpy(self.classes[chosen])


class Perceptron(nn.Module):
    """Blocks of two layers with a residual, then a layer of classes."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(PerceptronBlock(shape.hidden, shape.ffn) for _ in range(shape.layers))
        self.head = nn.Linear(shape.hidden, shape.vocab)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            vectors = block(vectors)
        return self.head(vectors)


class PerceptronBlock(nn.Module):
    """Up, ReLU, down, added to the input."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, inner)
        self.down = nn.Linear(inner, width)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return vectors + self.down(functional.relu(self.up(vectors)))


class PerceptronPart(nn.Module):
    """Blocks `start` to `stop` - 1, with the head if last, under the whole model's names."""

    def __init__(self, model: Perceptron, start: int, stop: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleDict({str(index): model.blocks[index] for index in range(start, stop)})
        self.head = model.head if stop == len(model.blocks) else None

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        for block in self.blocks.values():
            vectors = block(vectors)
        return vectors if self.head is None else self.head(vectors)


@torch.no_grad()
def accuracy(model: nn.Module, data: Patterns) -> float:
    """Share of the samples whose class the model finds (of those it is trained on)."""
    vectors, classes = data.batch(range(len(data)))
    return (model(vectors).argmax(1) == classes).float().mean().item()
