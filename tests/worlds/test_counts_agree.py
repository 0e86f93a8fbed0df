"""What a plan counts, both worlds count alike: the forecast from the shape, the run by independent observers."""

from dataclasses import replace

import pytest
from small_cases import small_case, small_plan

from datahall.real import training
from datahall.virtual.training import forecast

STEPS = 3
COUNTED = ("samples", "tokens", "steps", "matmul_flops", "attention_flops", "collective_bytes")


@pytest.fixture
def case():
    few = small_case()
    tokens = STEPS * few.application.global_batch * few.application.sequence
    return replace(few, application=replace(few.application, tokens=tokens))


@pytest.mark.parametrize(
    ("workers", "micro_batch", "precision", "recompute"),
    [  # one process in fp32 without recomputation stands in test_splits_agree
        (1, 8, "bf16", "full"),
        (2, 4, "bf16", "none"),
        pytest.param(2, 2, "fp32", "full", marks=pytest.mark.soak),
    ],
)
def test_forecast_and_run_count_alike(case, tmp_path, workers, micro_batch, precision, recompute):
    plan = small_plan(case, workers=workers, micro_batch=micro_batch, precision=precision)
    plan = replace(plan, compute=replace(plan.compute, recompute=recompute))
    planned = forecast(case, plan).counts
    measured = training.run(case, plan, tmp_path / "run").result.counts
    assert {name: planned[name] for name in COUNTED} == {name: measured[name] for name in COUNTED}
