"""Model families by shape, with the parameter counts that their makers published.

Shapes only: `case` turns an entry into a `ModelShape`, and a test compares its count with the published one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

from datahall.catalog import tables

_COUNTS = (
    "layers", "hidden", "heads", "kv_heads", "head_dim", "ffn", "vocab", "mlp_matrices", "experts", "experts_per_token",
    "shared_experts", "shared_ffn", "dense_layers", "dense_ffn", "norms_per_layer", "learned_positions", "window",
)  # fmt: skip
_FLAGS = ("tied_embeddings", "attention_bias", "output_bias", "mlp_bias", "norm_bias", "query_key_norm", "chunked")


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One model.  `shape` holds the fields that differ from a shape's defaults; `latent` MLA's five widths or nothing.

    `tolerance_share` is how far the shape's count may be from the published one (rounding, parts left out: see `note`).
    """

    name: str
    family: str
    shape: Mapping[str, int | float | bool | str]
    latent: tuple[int, ...]
    sequence: int
    published_parameters: float
    published_active_parameters: float | None
    tolerance_share: float
    source: str
    date: str
    note: str


def names() -> list[str]:
    """All models of the catalogue."""
    return tables.names("models")


@cache
def model(name: str) -> ModelEntry:
    """The model called `name`; UnknownName otherwise."""
    row = tables.find("models", name, "a model")
    shape: dict[str, int | float | bool | str] = {column: int(row[column]) for column in _COUNTS if row[column]}
    shape |= {column: True for column in _FLAGS if row[column] == "yes"}
    shape |= {column: float(row[column]) for column in ("window_share", "rotary_base", "rotary_share") if row[column]}
    shape |= {column: row[column] for column in ("rotary_scaling", "traits") if row[column]}
    latent = tuple(int(width) for width in row["latent"].split())
    return tables.entry(ModelEntry, row, shape=MappingProxyType(shape), latent=latent)
