"""Which plans a training engine can run, so that a choice can be exported to it.

What an engine's configuration cannot say counts as not runnable, even where code could be written for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from datahall.base.errors import UsageError
from datahall.case.question import Case
from datahall.search.space import Space

ENGINES = ("torchtitan", "megatron", "deepspeed")
_NO_ADAPTERS = ("torchtitan", "megatron")  # as their training scripts come


def runnable(engine: str, case: Case, plans: Space) -> Any:
    """A mask over `plans`: which of them `engine` can run; UsageError for an engine that is not known."""
    kind = case.site.accelerator.kind
    elsewhere = kind == "tpu" if engine == "deepspeed" else kind != "gpu"
    if elsewhere or (case.application.method == "lora" and engine in _NO_ADAPTERS):
        return np.zeros(len(plans), dtype=bool)
    try:
        return _ENGINES[engine](case, plans)
    except KeyError:
        raise UsageError(
            f'"{engine}" is not an engine that plans are made for.', hint=f"Use {', '.join(ENGINES)}."
        ) from None


def _torchtitan(case: Case, plans: Space) -> Any:
    """It shards gradients and parameters or neither, always over context ranks, and chooses fp8 by configuration.

    Its expert ranks lie among those that share one copy, and their tensor ranks.
    """
    numbers = plans.numbers
    whole = (numbers.zero_stage == 0) & (numbers.context == 1)
    shared = np.where(numbers.zero_stage == 0, 1, numbers.shards) * numbers.tensor
    spread = shared % numbers.expert == 0
    return (whole | (numbers.zero_stage >= 2)) & spread & (plans.precision == "bf16")


def _megatron(case: Case, plans: Space) -> Any:
    """Stages are even but for the first and the last; its FSDP knows no pipeline, its expert ranks no fp16."""
    numbers, layers = plans.numbers, case.model.layers
    even = layers % (numbers.pipeline * numbers.virtual_stages) == 0
    left = layers - np.ceil(layers / numbers.pipeline) * (numbers.pipeline - 2)
    uneven = (left >= 2) & (numbers.virtual_stages == 1)
    sharded = (numbers.zero_stage < 2) | (numbers.pipeline == 1)
    spread = (numbers.expert == 1) | (plans.precision != "fp16")
    return (even | uneven) & sharded & spread & (plans.precision in ("bf16", "fp16", "fp8", "fp32"))


def _deepspeed(case: Case, plans: Space) -> Any:
    """Pipeline and expert parallelism are model code; all ranks share one copy; context ranks share heads out."""
    numbers = plans.numbers
    everyone = (numbers.zero_stage == 0) | (numbers.shards == numbers.data * numbers.context)
    plain = (numbers.pipeline == 1) & (numbers.expert == 1) & ((numbers.tensor == 1) | (numbers.context == 1))
    plain &= case.model.heads % numbers.context == 0
    return plain & everyone & np.full(len(plans), plans.precision in ("bf16", "fp16", "fp32"))


_ENGINES: dict[str, Callable[[Case, Space], Any]] = {
    "torchtitan": _torchtitan,
    "megatron": _megatron,
    "deepspeed": _deepspeed,
}
