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
    if case.application.method == "lora" and engine in _NO_ADAPTERS:
        return np.zeros(len(plans), dtype=bool)
    try:
        return _ENGINES[engine](case, plans)
    except KeyError:
        raise UsageError(
            f'"{engine}" is not an engine that plans are made for.', hint=f"Use {', '.join(ENGINES)}."
        ) from None


def _torchtitan(case: Case, plans: Space) -> Any:
    """It shards gradients and parameters or neither, always over context ranks, and chooses fp8 by configuration."""
    numbers = plans.numbers
    whole = (numbers.zero_stage == 0) & (numbers.context == 1)
    return (whole | (numbers.zero_stage >= 2)) & (plans.precision == "bf16")


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
    """Pipeline and expert parallelism are model code; groups of ranks need ZeRO-3."""
    numbers = plans.numbers
    grouped = (numbers.shard_group == 0) | (numbers.zero_stage == 3)
    plain = (numbers.pipeline == 1) & (numbers.expert == 1)
    return plain & grouped & np.full(len(plans), plans.precision in ("bf16", "fp16", "fp32"))


_ENGINES: dict[str, Callable[[Case, Space], Any]] = {
    "torchtitan": _torchtitan,
    "megatron": _megatron,
    "deepspeed": _deepspeed,
}
