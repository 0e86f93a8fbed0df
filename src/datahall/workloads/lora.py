"""LoRA (arXiv 2106.09685): thin trained matrices beside frozen ones.  What they cost is counted in `compute.adapters`.

Our language model's matrices only.  The first product starts at random and the second at zero, so that an adapted model
begins as the model that it adapts.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from datahall.base.errors import Refused
from datahall.case.question import Training
from datahall.compute.adapters import ALL, adapters_of

_ATTENTION = ("query", "key", "value", "output")
_MLP = ("gate", "up", "down")


class LoraLinear(nn.Module):
    """A frozen linear layer and its adapter: y = W x + (alpha / rank) B (A x)."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.base = base
        self.scale = alpha / rank
        self.reduce = nn.Parameter(torch.empty(rank, base.in_features))
        self.expand = nn.Parameter(torch.zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.reduce, a=math.sqrt(5))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        narrow = functional.linear(inputs, self.reduce) * self.scale
        return self.base(inputs) + functional.linear(narrow, self.expand)

    def merged(self) -> torch.Tensor:
        """The weight of one linear layer that computes the same."""
        return self.base.weight + self.scale * self.expand @ self.reduce


def add_adapters(model: nn.Module, application: Training) -> None:
    """Freeze `model` and put the adapters that the case asks for into its `blocks`; without any, do nothing."""
    adapters = adapters_of(application)
    if adapters is None:
        return
    if getattr(model, "shape", None) is not None and model.shape.latent:  # pyright: ignore[reportAttributeAccessIssue]
        raise Refused("adapters beside latent attention are not counted.", where="application.method")
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    names = (*_ATTENTION, *_MLP) if adapters.targets == ALL else _ATTENTION
    alpha = application.lora_alpha or 2 * adapters.rank
    for block in model.get_submodule("blocks").children():
        for part in (block.get_submodule("attention"), block.get_submodule("mlp")):
            for name, layer in list(part.named_children()):
                if name in names and isinstance(layer, nn.Linear):
                    setattr(part, name, LoraLinear(layer, adapters.rank, alpha))
