"""How gradients and parameters travel: algorithm, bucket size, compression, how often.

The value only; `estimate` says what it takes.  "library" leaves the algorithm to NCCL or gloo, and reports name it so.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NetworkPlan:
    """How data-parallel ranks exchange gradients.

    `algorithm` is library, ring, tree, doubling, halving-doubling or hierarchical; `compression` none, bf16, int8,
    top-k (`kept_share` of the entries) or powersgd (of `compression_rank`); `local_steps` > 1 exchanges parameters
    every so many steps instead of gradients: their mean (local SGD), or with `outer_momentum` an outer Nesterov step
    on the mean change (DiLoCo).
    """

    algorithm: str = "library"
    compression: str = "none"
    bucket_bytes: int = 25 * 2**20
    local_steps: int = 1
    compression_rank: int = 4
    kept_share: float = 0.01
    outer_momentum: float = 0.0
    outer_rate: float = 1.0
