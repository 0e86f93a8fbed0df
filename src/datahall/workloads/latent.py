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
        self.latent, self.heads, self.rotary_base = shape.latent, shape.heads, rotary_base
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
        plain, turned = self.latent.nope_dim, self.latent.rope_dim
        rotation = rotary_table(hidden.shape[1], turned, hidden.device, self.rotary_base)
        query = self._by_head(self.query(self.query_norm(self.query_latent(hidden))))
        compressed, shared = self.compress(hidden).split((self.latent.key_value_rank, turned), dim=-1)
        wide = self._by_head(self.expand(self.compressed_norm(compressed)))
        key, value = wide.split((plain, self.latent.value_dim), dim=-1)
        query, placed = query.split((plain, turned), dim=-1)
        place = rotate(shared.unsqueeze(1), rotation).expand(-1, self.heads, -1, -1)
        key = torch.cat((key, place), dim=-1)
        mixed = self.core(torch.cat((query, rotate(placed, rotation)), dim=-1), key, value)
        return self.output(mixed.transpose(1, 2).flatten(2))

    def _by_head(self, wide: torch.Tensor) -> torch.Tensor:
        return wide.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def check_heads(shape: ModelShape) -> None:
    """Refused for latent attention whose values are not as wide as its queries: the fused core wants one width."""
    latent = shape.latent
    if latent is not None and latent.value_dim != latent.nope_dim + latent.rope_dim:
        raise Refused(
            f"{shape.name} is planned but not run: values of {latent.value_dim} beside queries of "
            f"{latent.nope_dim + latent.rope_dim} have no fused attention here.",
            where="model.latent",
            hint="Set value_dim to nope_dim + rope_dim.",
        )
