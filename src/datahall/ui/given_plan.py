"""The plan that options of `datahall run` give: workers, split, exchange of gradients, checkpoints.

It chooses nothing: what is not said keeps its default.
"""

from __future__ import annotations

import math
from dataclasses import replace

from datahall.base.errors import UsageError
from datahall.case.question import Case
from datahall.compute.context import check_pieces
from datahall.compute.numbers import PlanNumbers
from datahall.compute.plan import ComputePlan
from datahall.decisions.plan import Plan
from datahall.network.compress import codec_of
from datahall.network.plan import NetworkPlan
from datahall.storage.plan import StoragePlan
from datahall.virtual.input_cache import with_reading
from datahall.virtual.step_time import step_time
from datahall.virtual.transferred import default_calibration


def shortened(case: Case, steps: int | None) -> Case:
    """The case with as many tokens as `steps` steps take; the case itself for None."""
    if steps is None:
        return case
    application = case.application
    tokens = float(steps * application.global_batch * application.sequence)
    return replace(case, application=replace(application, tokens=tokens))


def given_plan(
    case: Case,
    workers: int,
    micro_batch: int | None,
    checkpoint_every: int,
    split: tuple[str, ...] = (),
    exchange: tuple[str, ...] = (),
) -> Plan:
    """The plan of `workers` processes cut by `split`, all of them data-parallel where it says nothing.

    `exchange` are fields of a NetworkPlan.  UsageError when the global batch cannot be divided so.
    """
    fields = dict(_field(text) for text in split)
    network = network_of(exchange)
    batch = case.application.global_batch
    of_one_copy = math.prod(int(fields.get(name, 1)) for name in ("context", "tensor", "pipeline"))
    copies = max(1, workers // of_one_copy)
    share, rest = divmod(batch, copies)
    size = micro_batch or share
    if rest or not share or share % size:
        raise UsageError(
            f"a global batch of {batch} sequences cannot be divided among {copies} workers in pieces of {size}.",
            where="--workers, --micro-batch",
            hint="Choose numbers whose product divides the global batch.",
        )
    precision = case.application.precision or "fp32"
    compute = ComputePlan(data=copies, micro_batch=size, accumulation=share // size, precision=precision)
    compute = replace(compute, **{"sequence_parallel": False, **fields})  # pyright: ignore[reportArgumentType]
    if compute.devices != workers:
        raise UsageError(
            f"this split needs {compute.devices} workers, not {workers}.",
            where="--split, --workers",
            hint="Workers are data x context x tensor x pipeline.",
        )
    check_pieces(case.application.sequence, compute.context)
    storage = StoragePlan(interval_steps=checkpoint_every)
    if case.application.data is not None:
        step = step_time(default_calibration(case).inputs(case, compute), PlanNumbers.of(compute))
        storage = with_reading(case, compute, storage, float(step.total))
    return Plan(compute, storage, network, case.hash())


def network_of(exchange: tuple[str, ...]) -> NetworkPlan:
    """The NetworkPlan whose fields are given as KEY=VALUE; UsageError for what it does not have."""
    fields: dict[str, str | int | float] = {}
    for text in exchange:
        name, _, value = text.partition("=")
        try:
            fields[name] = value if name in _EXCHANGE_WORDS else _EXCHANGE_NUMBERS[name](value)
        except (KeyError, ValueError) as error:
            raise UsageError(
                f"{text!r} does not say how gradients travel.",
                where="--exchange",
                hint=f"Write compression=bf16 or one of {', '.join(f'{known}=...' for known in _EXCHANGE_NUMBERS)}.",
            ) from error
    plan = NetworkPlan(**fields)  # pyright: ignore[reportArgumentType]
    codec_of(plan)
    if plan.local_steps < 1:
        raise UsageError(f"workers cannot meet every {plan.local_steps} steps.", where="--exchange")
    return plan


_EXCHANGE_WORDS = ("compression", "algorithm")
_EXCHANGE_NUMBERS = {
    "local_steps": int, "compression_rank": int, "bucket_bytes": int,
    "kept_share": float, "outer_momentum": float, "outer_rate": float,
}  # fmt: skip
_SPLIT_NUMBERS = {
    "tensor": 1,
    "pipeline": 1,
    "virtual_stages": 1,
    "zero_stage": 0,
    "shard_group": 0,
    "context": 1,
    "expert": 1,
}  # the least
_SPLIT_WORDS = {
    "schedule": ("gpipe", "1f1b", "interleaved", "zero-bubble"),
    "recompute": ("none", "selective", "full"),
    "precision": ("fp32", "bf16", "fp16"),
    "sequence_parallel": ("false", "true"),
}


def _field(text: str) -> tuple[str, int | str | bool]:
    name, equals, value = text.partition("=")
    if equals and name in _SPLIT_NUMBERS and value.isdecimal() and int(value) >= _SPLIT_NUMBERS[name]:
        return name, int(value)
    if equals and value in _SPLIT_WORDS.get(name, ()):
        return name, value == "true" if name == "sequence_parallel" else value
    if name in _SPLIT_WORDS:
        raise UsageError(
            f"{name} cannot be {value!r}.",
            where="--split",
            hint=f"Write {name}={_SPLIT_WORDS[name][-1]}, or one of {', '.join(_SPLIT_WORDS[name])}.",
        )
    raise UsageError(
        f"{text!r} does not say how to cut a model.",
        where="--split",
        hint=f"Write {', '.join(f'{name}=2' for name in _SPLIT_NUMBERS)}, or a word for {', '.join(_SPLIT_WORDS)}.",
    )
