"""A plan that somebody gives is forecast if it can exist, and says where it does not fit."""

from __future__ import annotations

from typing import Any

import pytest

from datahall.base.errors import Refused, UsageError
from datahall.base.result import Result
from datahall.case import from_model_and_site
from datahall.compute.plan import ComputePlan
from datahall.decisions import Plan
from datahall.network.plan import NetworkPlan
from datahall.storage.plan import StoragePlan
from datahall.virtual.training import forecast


def given(model: str = "llama-3.1-8b", **fields: Any) -> Result:
    """The forecast of a plan for two nodes of eight H100s; bf16, and data parallelism where nothing is said."""
    case = from_model_and_site(model, "2xdgx-h100", tokens=1e9, global_batch=128, sequence=4096)
    compute = ComputePlan(**({"data": 16, "accumulation": 8} | fields))
    return forecast(case, Plan(compute, StoragePlan(), NetworkPlan(), case.hash()))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"data": 0}, "data is 0"),
        ({"micro_batch": 0}, "micro_batch is 0"),
        ({"zero_stage": 5}, "no ZeRO stage 5"),
        ({"zero_stage": 3, "shard_group": 5}, "in groups of 5"),
        ({"data": 1, "pipeline": 16, "virtual_stages": 7, "accumulation": 128}, "do not fill 112 chunks"),
        ({"data": 5, "tensor": 3}, "3 tensor ranks get no equal parts"),
        ({"expert": 4}, "llama-3.1-8b, which has none"),
        ({"model": "mixtral-8x7b", "expert": 16}, "do not share 8 experts"),
        ({"data": 2, "tensor": 1, "context": 6, "accumulation": 64}, "cannot be cut into 12 equal pieces"),
        ({"accumulation": 4}, "takes 64 sequences a step, and the case asks for 128"),
    ],
)
def test_what_cannot_exist_is_refused_with_the_reason(fields: dict[str, Any], says: str) -> None:
    with pytest.raises((UsageError, Refused), match=says):
        given(**fields)


def test_a_plan_that_does_not_fit_says_so() -> None:
    assert any(note.startswith("It does not fit") for note in given(zero_stage=0).notes)
    assert not any("does not fit" in note for note in given(zero_stage=3).notes)
