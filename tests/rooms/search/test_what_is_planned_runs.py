"""Of small models every plan that the search can name passes what a run checks first, and its counts are known.

What workers check as they build the model (stages, cuts) is not asked here: `tests/worlds/test_splits_agree.py` runs.
"""

from dataclasses import replace

import pytest
from small_cases import SHAPE, small_case

from datahall.case.model import LatentAttention
from datahall.compute.handed import countable
from datahall.compute.layout import check_runnable
from datahall.search.space import space

LATENT = replace(SHAPE, latent=LatentAttention(query_rank=24, key_value_rank=16, rope_dim=8, nope_dim=8, value_dim=8))
SHAPES = {"dense": SHAPE, "latent": LATENT}


@pytest.mark.parametrize(("name", "method"), [("dense", "full"), ("dense", "lora"), ("latent", "full")])
@pytest.mark.parametrize("workers", [1, 2, 4, 8])
def test_every_plan_of_a_model_runs(name, workers, method):
    case = small_case(SHAPES[name])
    case = replace(case, application=replace(case.application, method=method, lora_rank=4 if method == "lora" else 0))
    plans = space(case, "fp32", [workers])
    assert len(plans)
    for index in range(len(plans)):
        plan = plans.plan(index)
        check_runnable(plan)
        assert countable(case.model, plan), plan
