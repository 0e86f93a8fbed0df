"""Handwritten digits in PyTorch: `application.entry: datahall.workloads.digits:build`, as cases/digits.yaml names it.

A dense layer with ReLU and one of classes, trained with Adam.  `hidden` of the case's model is the image's size, `ffn`
the width between, `vocab` the number of classes.  The same network on other engines is in `real/engines`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from datahall.base.workload import Workload
from datahall.case.question import Case
from datahall.workloads.digits_images import Digits, digits, first_weights

LEARNING_RATE = 1e-3


def build(case: Case) -> Workload:
    """The network of the case, its first weights from the case's seed, and the training images."""
    shape, found = case.model, digits()
    return Workload(
        name=shape.name,
        model=network(first_weights(case.application.seed, (shape.hidden, shape.ffn, shape.vocab))),
        data=Images(found),
        loss=lambda model, batch: functional.cross_entropy(model(batch[0]), batch[1]),
        metrics={"test_accuracy": lambda model: accuracy(model, found)},
        optimiser=lambda parameters: torch.optim.Adam(parameters, lr=LEARNING_RATE),
    )


class Images:
    """The training images, numbered."""

    def __init__(self, found: Digits) -> None:
        self.images, self.classes = torch.from_numpy(found.images), torch.from_numpy(found.classes)

    def __len__(self) -> int:
        return len(self.classes)

    def batch(self, ids: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (len(ids), 784) and classes (len(ids))."""
        chosen = torch.as_tensor(ids)
        return self.images[chosen], self.classes[chosen]


def network(layers: Sequence[tuple[np.ndarray, np.ndarray]]) -> nn.Sequential:
    """Dense layers with these weights (inputs, outputs) and biases, ReLU between them."""
    modules: list[nn.Module] = []
    for weights, biases in layers:
        dense = nn.Linear(*weights.shape)
        with torch.no_grad():
            dense.weight.copy_(torch.from_numpy(weights.T.copy()))
            dense.bias.copy_(torch.from_numpy(biases))
        modules += [nn.ReLU(), dense]
    return nn.Sequential(*modules[1:])


@torch.no_grad()
def accuracy(model: nn.Module, found: Digits) -> float:
    """Share of the test images whose class the model finds."""
    guessed = model(torch.from_numpy(found.test_images)).argmax(1)
    return (guessed == torch.from_numpy(found.test_classes)).float().mean().item()
