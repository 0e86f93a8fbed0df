"""Of plans that the forecast cannot tell apart the simplest is taken, and otherwise the best."""

import numpy as np

from datahall.compute.numbers import stack_plans
from datahall.compute.plan import ComputePlan
from datahall.decisions.choice import RISK_SHARE, SAME_SHARE, complexity, preferred

DATA, TENSOR, STAGES = ComputePlan(data=8), ComputePlan(data=4, tensor=2), ComputePlan(data=2, pipeline=4)


def test_a_clear_winner_is_taken_however_complicated() -> None:
    assert preferred([1.1, 1.05, 1.0], stack_plans([DATA, TENSOR, STAGES])).tolist() == [2, 1, 0]


def test_of_equals_the_simplest_is_taken_in_any_unit() -> None:
    near = np.array([1.0 + 0.4 * SAME_SHARE, 1.0 + 0.2 * SAME_SHARE, 1.0])
    for unit in (1e-9, 1.0, 1e9):
        assert preferred(unit * near, stack_plans([DATA, TENSOR, STAGES]))[0] == 0


def test_of_equals_one_that_may_not_fit_comes_last() -> None:
    assert preferred([1.0, 1.0], stack_plans([DATA, TENSOR]), np.array([1, 0])).tolist() == [1, 0]


def test_of_equals_in_cost_the_one_that_is_sooner_done_is_taken() -> None:
    cost, seconds = [788.0, 793.0, 1000.0], [63 * 3600.0, 16 * 3600.0, 3600.0]
    assert preferred(cost, stack_plans([DATA, TENSOR, STAGES]), 0, seconds).tolist() == [1, 0, 2]


def test_each_kind_of_parallelism_and_recomputation_is_more_to_set_up() -> None:
    more = [DATA, ComputePlan(data=8, recompute="full"), ComputePlan(data=8, zero_stage=3), TENSOR, STAGES]
    assert np.all(np.diff(complexity(stack_plans(more))) > 0)


def test_equals_are_counted_from_the_least_that_surely_fits() -> None:
    narrow, seconds, plans = np.array([1, 0, 0]), [60.9, 123.7, 62.2], stack_plans([DATA, STAGES, TENSOR])
    assert preferred([2.200, 2.230, 2.250], plans, narrow, seconds).tolist() == [2, 1, 0]
    assert preferred([1.8, 2.230, 2.250], plans, narrow, seconds)[0] == 0  # clearly better, if it fits


def test_a_plan_that_may_not_fit_has_to_be_clearly_better() -> None:
    plans, narrow = stack_plans([DATA, STAGES]), np.array([1, 0])
    worth_it = (1 + RISK_SHARE) * (1 + SAME_SHARE)
    assert preferred([1.0, 0.99 * worth_it], plans, narrow)[0] == 1
    assert preferred([1.0, 1.01 * worth_it], plans, narrow)[0] == 0
