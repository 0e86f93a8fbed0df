"""Rotary positions (arXiv 2104.09864): queries and keys turned by where they stand."""

from __future__ import annotations

from functools import lru_cache

import torch

ROTARY_BASE = 10_000.0


@lru_cache(maxsize=8)  # every layer asks for the same
def rotary_table(
    sequence: int, head_dim: int, device: torch.device, base: float = ROTARY_BASE
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of the angles, shape (sequence, head_dim / 2)."""
    pairs = torch.arange(0, head_dim, 2, device=device, dtype=torch.float32)
    angles = torch.outer(torch.arange(sequence, device=device), base ** (-pairs / head_dim))
    return angles.cos(), angles.sin()


def rotate(heads: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """`heads` (batch, heads, sequence, head_dim) with the pairs (i, i + head_dim / 2) turned by their positions."""
    cos, sin = (table.to(heads.dtype) for table in rotation)
    first, second = heads.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
