"""A compute plan as plain numbers, one or an array of them, so that many plans are priced in one call.

Words become codes here and nowhere else.  Nothing is decided or estimated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from datahall.base.errors import UsageError
from datahall.compute.plan import ComputePlan

RECOMPUTE_CODES = {"none": 0, "selective": 1, "full": 2, "keep-qkv": 3, "keep-attention": 4}
BUBBLE_SHARES = {"gpipe": 1.0, "1f1b": 1.0, "interleaved": 1.0, "zero-bubble": 1 / 3, "zbv": 1 / 3, "dualpipe": 0.5}
PRECISION_BITS = {"fp32": 32, "tf32": 32, "bf16": 16, "fp16": 16, "fp8": 8, "int8": 8, "fp4": 4}


@dataclass(frozen=True, slots=True)
class PlanNumbers:
    """ComputePlan in numbers: every field a number or an array, all arrays of equal shape (or broadcasting).

    `recompute` is 0 none, 1 selective, 2 full, 3 and 4 less of it; `zero_stage` 0 to 3; `shard_group` ranks that share
    one copy (0: all); `bubble_share` scales the pipeline bubble of 1F1B; `sequence_parallel` 0 or 1; `linear_bits` is
    the width of the operands of the linear layers' products; `keeps_all` 1 where a pipeline holds all micro-batches
    until the last (GPipe).
    """

    data: Any = 1
    tensor: Any = 1
    pipeline: Any = 1
    virtual_stages: Any = 1
    context: Any = 1
    expert: Any = 1
    zero_stage: Any = 0
    shard_group: Any = 0
    micro_batch: Any = 1
    accumulation: Any = 1
    recompute: Any = 0
    bubble_share: Any = 1.0
    sequence_parallel: Any = 1
    linear_bits: Any = 16
    keeps_all: Any = 0

    @classmethod
    def of(cls, plan: ComputePlan) -> PlanNumbers:
        """The numbers of one plan; UsageError on a word that is not known."""
        try:
            recompute, bubble = RECOMPUTE_CODES[plan.recompute], BUBBLE_SHARES[plan.schedule]
            bits = PRECISION_BITS[plan.precision]
        except KeyError as error:
            raise UsageError(f"a plan cannot say {error.args[0]!r} here.", hint=f"Known: {_known()}.") from error
        same = {field.name: getattr(plan, field.name) for field in fields(cls) if hasattr(plan, field.name)}
        same.update(recompute=recompute, bubble_share=bubble, linear_bits=bits)
        same["sequence_parallel"] = int(plan.sequence_parallel)
        same["keeps_all"] = int(plan.schedule == "gpipe")
        return cls(**same)

    @property
    def devices(self) -> Any:
        """Devices that one copy of the run uses."""
        return self.data * self.tensor * self.pipeline * self.context

    @property
    def shards(self) -> Any:
        """Ranks that share one copy of what ZeRO shards (data and context ranks together)."""
        every = self.data * self.context
        return np.where(np.asarray(self.shard_group) > 0, np.minimum(self.shard_group, every), every)

    @property
    def expert_shards(self) -> Any:
        """Of these, the ranks that share one copy of the experts that one expert rank holds."""
        return np.maximum(1.0, self.shards / self.expert)

    @property
    def puts_off(self) -> Any:
        """Whether gradients of weights wait until the pipeline drains (zero-bubble)."""
        return np.asarray(self.bubble_share) < 0.5

    @property
    def fill_share(self) -> Any:
        """Fill and drain of the pipeline as a share of 1F1B's with one stage a worker.

        A zero-bubble schedule with fewer micro-batches than stages has fewer halves of backward passes to fill it with.
        """
        stages, few = np.asarray(self.pipeline), np.maximum(0.0, self.pipeline - np.asarray(self.accumulation))
        lacking = np.where(np.asarray(self.bubble_share) < 1.0, few / np.maximum(stages - 1.0, 1.0), 0.0)
        return self.bubble_share / np.asarray(self.virtual_stages) * (1.0 + lacking)


def stack_plans(plans: Sequence[ComputePlan]) -> PlanNumbers:
    """Several plans as arrays, element i being `plans[i]`."""
    numbers = [PlanNumbers.of(plan) for plan in plans]
    names = [field.name for field in fields(PlanNumbers)]
    return PlanNumbers(**{name: np.array([float(getattr(one, name)) for one in numbers]) for name in names})


def _known() -> str:
    return ", ".join([*RECOMPUTE_CODES, *BUBBLE_SHARES, *PRECISION_BITS])
