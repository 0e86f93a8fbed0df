"""Of small models every plan that the search can name passes what a run and its workers check, and is counted."""

from dataclasses import replace

import pytest
from small_cases import NARROW_LATENT, SHAPE, small_case

from datahall.compute.execute_experts import check_experts
from datahall.compute.execute_pipeline import check_stages
from datahall.compute.execute_tensor import check_tensor_cuts
from datahall.compute.handed import countable
from datahall.compute.layout import check_runnable
from datahall.search.space import space
from datahall.workloads import entry

LATENT = replace(SHAPE, latent=NARROW_LATENT)
MIXED = replace(SHAPE, layers=4, experts=12, experts_per_token=2, dense_layers=1, dense_ffn=128)
SHAPES = {"dense": SHAPE, "latent": LATENT}


@pytest.mark.parametrize(("name", "method"), [("dense", "full"), ("dense", "lora"), ("latent", "full")])
@pytest.mark.parametrize("workers", [1, 2, 4, 6, 8])
def test_every_plan_of_a_model_runs(name, workers, method):
    case = small_case(replace(SHAPES[name], layers=8), global_batch=24)
    case = replace(case, application=replace(case.application, method=method, lora_rank=4 if method == "lora" else 0))
    workload = entry.build(case)
    plans = space(case, "fp32", [workers])
    assert len(plans)
    for cell in plans.cells():
        _check(case, workload, plans.plan(cell))


@pytest.mark.parametrize("workers", [2, 4, 8, 12])
def test_every_plan_of_a_mixture_runs(workers):
    case = small_case(MIXED, global_batch=24)
    workload, plans = entry.build(case), space(case, "fp32", [workers])
    found = set()
    for plan in map(plans.plan, plans.cells()):
        _check(case, workload, plan)
        found.add((plan.expert, plan.tensor > 1))
    assert {expert for expert, _ in found} == {expert for expert in (1, 2, 3, 4, 6, 12) if workers % expert == 0}
    assert workers < 4 or (2, True) in found


def _check(case, workload, plan):
    check_runnable(plan)
    if plan.pipeline > 1:
        check_stages(workload, plan)
    if plan.tensor > 1:
        check_tensor_cuts(workload, plan)
    if plan.expert > 1:
        check_experts(workload, plan)
    assert countable(case.model, plan), plan
