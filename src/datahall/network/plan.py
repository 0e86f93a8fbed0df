"""How gradients and parameters travel: algorithm, bucket size, compression, how often.

The value only; `estimate` says what it takes.  "library" leaves the algorithm to NCCL or gloo, and reports name it so.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NetworkPlan:
    """How data-parallel ranks exchange gradients.

    `algorithm` is library, ring, tree, halving-doubling or hierarchical; `compression` none, bf16, int8, top-k or
    powersgd; `local_steps` > 1 exchanges parameters every so many steps (local SGD, DiLoCo) instead of gradients.
    """

    algorithm: str = "library"
    compression: str = "none"
    bucket_bytes: int = 25 * 2**20
    local_steps: int = 1
