"""What a config.json says of rotary positions: base, share of each head and scaling, in the layouts of either age.

They change no count and no forecast: they are carried for exports and for weights.  What is not one number is 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

from datahall.case.hf_dense import Config, Fields

_LLAMA3 = {"low_freq_factor": 1, "high_freq_factor": 4, "original_max_position_embeddings": 8192}  # Llama 3.1's own
# Shares that families' own configuration classes in transformers take where a file states none.
_SHARES = {
    "gpt_neox": 0.25, "stablelm": 0.25, "phi": 0.5, "nemotron": 0.5, "glm": 0.5, "glm4": 0.5, "glm4_moe": 0.5,
    "persimmon": 0.5,
}  # fmt: skip


def rotary_of(c: Config, kind: str, fields: Fields) -> Fields:
    """Base, share and scaling of a config of family `kind`, read to `fields`: base and share 0 where not one number."""
    share = 1.0 if fields.get("latent") else _share(c, kind, fields["head_dim"])  # latent heads have a part for it
    return {**_base(c), "rotary_share": share}


def _base(c: Config) -> Fields:
    """Base and scaling, where one base says all: not where windowed layers have one of their own."""
    stated: Any = c.get("rope_parameters") or {}
    scaling: Any = c.get("rope_scaling") or stated
    base = c.get("rope_theta", stated.get("rope_theta", c.get("rotary_emb_base")))
    several = c.get("rope_local_base_freq") or c.get("no_rope_layers")
    if several or not isinstance(base, int | float) or not 1.0 < base < math.inf:
        return {}
    kind, factor = str(scaling.get("rope_type") or scaling.get("type") or "default"), scaling.get("factor")
    if kind == "llama3" and any(scaling.get(key) != value for key, value in _LLAMA3.items()):
        kind = "llama3-like"
    factor = f" {factor:g}" if isinstance(factor, int | float) else ""
    return {"rotary_base": float(base), "rotary_scaling": "" if kind == "default" else f"{kind}{factor}"}


def _share(c: Config, kind: str, head_dim: int) -> float:
    """The share of each head's elements that positions turn; 0 where layers differ in it or it cannot be."""
    share = _stated_share(c.get("rope_parameters") or c.get("rope_scaling") or {})
    if share is None:
        share = c.get("partial_rotary_factor", c.get("rotary_pct"))
    if share is None and c.get("rotary_dim"):
        share = c["rotary_dim"] / head_dim
    if share is None:
        share = _SHARES.get(kind, 1.0)
    return float(share) if isinstance(share, int | float) and 0.0 < share <= 1.0 else 0.0


def _stated_share(stated: Mapping[str, Any]) -> Any:
    """What transformers 5 keeps beside the base, once or for each kind of layers; None if nothing, 0 if several."""
    parts = [cast(Mapping[str, Any], part) for part in stated.values() if isinstance(part, Mapping)]
    if not any("partial_rotary_factor" in part for part in parts):
        return stated.get("partial_rotary_factor")
    shares = {part.get("partial_rotary_factor", 1.0) for part in parts}
    return shares.pop() if len(shares) == 1 else 0.0
