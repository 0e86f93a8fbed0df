"""What fast recovery adds to a forecast: element i is the scalar answer, and the limits are what they must be."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from small_cases import small_case, small_plan

from datahall.virtual.calibration import Uncalibrated
from datahall.virtual.fast_recovery import (
    Agreement,
    agreeing_s,
    dropped_samples,
    longest_step_s,
    recovering_fast,
)
from datahall.virtual.training import forecast

SECONDS = st.floats(1e-4, 100.0)
FOUND = Agreement(quorum_s=0.012, commit_s=0.003, noticed_s=1.2, start_s=5.0)


@given(st.lists(st.tuples(SECONDS, SECONDS, SECONDS, st.floats(0.0, 1.0)), min_size=1, max_size=5))
def test_element_i_is_the_scalar_answer(rows):
    first, second, third, moment = (np.array(column) for column in zip(*rows, strict=True))
    arrays = (agreeing_s(first, second, third), longest_step_s(first, second, moment),
              dropped_samples(8, 2, first, second, third))  # fmt: skip
    for i, (a, b, c, u) in enumerate(rows):
        alone = agreeing_s(a, b, c), longest_step_s(a, b, u), dropped_samples(8, 2, a, b, c)
        assert [float(array[i]) for array in arrays] == [float(one) for one in alone]


def test_long_arithmetic_hides_the_quorum_and_never_the_commit():
    assert agreeing_s(1.0, 0.012, 0.003) == 0.003
    assert agreeing_s(0.0, 0.012, 0.003) == 0.015


def test_a_death_costs_a_step_at_least_and_silence_at_most():
    assert longest_step_s(10.0, 1.2, 0.0) == 20.0  # noticed long before the step is done again
    assert longest_step_s(0.01, 1.2, 1.0) == 0.01 + 1.2
    assert dropped_samples(8, 2, 1.0, 2.0, 0.1) == 4.0  # back before the others went on: only the step it joins in


def test_the_forecast_grows_by_what_is_agreed_and_its_parts_still_make_the_step():
    case = small_case()
    plan = small_plan(case, workers=2, micro_batch=2)
    expected = forecast(case, plan, Uncalibrated())
    said = recovering_fast(expected, plan.compute, FOUND, Uncalibrated(), 1e10)
    parts = ("compute", "transfer", "waiting", "input", "optimiser")
    rest = expected.metrics["step_time"].value - sum(expected.metrics[name].value for name in parts)
    found = sum(said.metrics[name].value for name in (*parts, "agreeing")) + rest
    assert abs(found - said.metrics["step_time"].value) < 1e-9
    assert said.metrics["step_time"].value > expected.metrics["step_time"].value
    assert said.counts == expected.counts
    for name in ("agreeing", "longest_step", "dropped_per_loss", "goodput", "total_time"):
        metric = said.metrics[name]
        assert metric.low <= metric.value <= metric.high, name
        assert metric.label >= Uncalibrated().label
    assert said.metrics["dropped_per_loss"].low >= case.application.global_batch / 2
