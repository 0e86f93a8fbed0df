"""Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1): keys and values from a narrow latent.

Training only: keys and values are written out for every head, as a fused core wants them.
"""

from __future__ import annotations

import torch
from torch import nn

from datahall.base.errors import Refused
from datahall.case.model import ModelShape
from datahall.workloads.rotary import rotary_table, rotate

_NORM_EPSILON = 1e-5


class LatentHeads(nn.Module):
    """Causal attention whose positions are in a part of each query, and in one key that all heads share."""

    def __init__(self, shape: ModelShape, rotary_base: float, core: nn.Module) -> None:
        super().__init__()
        assert shape.latent is not None
        self.latent, self.rotary_base, self.turned = shape.latent, rotary_base, shape.latent.rope_dim
        self.rotation: tuple[torch.Tensor, torch.Tensor] | None = None  # of positions that are not all
        narrow, hidden = self.latent.key_value_rank, shape.hidden
        query = shape.heads * (self.latent.nope_dim + self.latent.rope_dim)
        rank = self.latent.query_rank
        self.query_latent = nn.Linear(hidden, rank, bias=False) if rank else nn.Identity()
        self.query_norm = nn.RMSNorm(rank, eps=_NORM_EPSILON) if rank else nn.Identity()
        self.query = nn.Linear(rank or hidden, query, bias=False)
        self.compress = nn.Linear(hidden, narrow + self.latent.rope_dim, bias=False)
        self.compressed_norm = nn.RMSNorm(narrow, eps=_NORM_EPSILON)
        self.expand = nn.Linear(narrow, shape.heads * (self.latent.nope_dim + self.latent.value_dim), bias=False)
        self.core = core
        self.output = nn.Linear(shape.heads * self.latent.value_dim, hidden, bias=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        plain, turned, width = self.latent.nope_dim, self.turned, self.latent.value_dim
        rotation = self.rotation or rotary_table(hidden.shape[1], turned, hidden.device, self.rotary_base)
        query = _by_head(self.query(self.query_norm(self.query_latent(hidden))), plain + turned)
        compressed, shared = self.compress(hidden).split((self.latent.key_value_rank, turned), dim=-1)
        wide = _by_head(self.expand(self.compressed_norm(compressed)), plain + width)
        key, value = wide.split((plain, width), dim=-1)
        query, placed = query.split((plain, turned), dim=-1)
        place = rotate(shared.unsqueeze(1), rotation).expand(-1, key.shape[1], -1, -1)
        key = torch.cat((key, place), dim=-1)
        mixed = self.core(torch.cat((query, rotate(placed, rotation)), dim=-1), key, value)
        return self.output(mixed.transpose(1, 2).flatten(2))


def check_heads(shape: ModelShape) -> None:
    """Refused for latent attention whose values are wider than its queries: narrower ones the core fills with zeros."""
    latent = shape.latent
    if latent is not None and latent.value_dim > latent.nope_dim + latent.rope_dim:
        raise Refused(
            f"{shape.name} is planned but not run: values of {latent.value_dim} beside queries of "
            f"{latent.nope_dim + latent.rope_dim} have no fused attention here.",
            where="model.latent",
            hint="Set value_dim to nope_dim + rope_dim, or less.",
        )


def _by_head(wide: torch.Tensor, width: int) -> torch.Tensor:
    return wide.unflatten(-1, (-1, width)).transpose(1, 2)
