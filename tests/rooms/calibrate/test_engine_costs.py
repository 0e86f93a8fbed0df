"""Samples a second from a probe's findings: the line comes back, the pick and the break-even follow from it."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datahall.base.errors import Refused
from datahall.calibrate.engine_costs import EngineCosts, break_even_batch, fit, forecast, pick, samples_per_s

ONE = EngineCosts("a", 1, 1, step_s=1e-3, sample_s=10e-6, exchange_s=0.0, spread_share=0.1, least=8, most=640)
TWO = EngineCosts("a", 2, 1, step_s=1.5e-3, sample_s=11e-6, exchange_s=0.5e-3, spread_share=0.2, least=8, most=320)
SECONDS = st.floats(1e-6, 1e-1)


def findings(step_s, sample_s, exchange_s, workers, bend=0.0):
    steps = [
        {"block": block, "size": size, "step_s": (step_s + sample_s * size) * (1 + bend * (size == 50))}
        for block in range(5)
        for size in (8, 50, 320)
    ]
    return {"engine": "a", "workers": workers, "threads": 1, "steps": steps, "exchange_s": [exchange_s] * 5}


@given(step_s=SECONDS, sample_s=SECONDS, exchange_share=st.floats(0, 1))
def test_a_line_comes_back_as_it_was(step_s, sample_s, exchange_share):
    exchange_s = exchange_share * step_s
    costs = fit(findings(step_s, sample_s, exchange_s, workers=2))
    assert costs.step_s + costs.exchange_s == pytest.approx(step_s, rel=1e-5, abs=1e-6 * sample_s)
    assert costs.sample_s == pytest.approx(sample_s, rel=1e-5, abs=1e-6 * step_s)
    assert costs.exchange_s == pytest.approx(exchange_s, rel=1e-5, abs=1e-6 * sample_s)


def test_a_left_out_size_off_the_line_widens_the_interval():
    assert fit(findings(1e-3, 1e-5, 0.0, workers=1)).spread_share == pytest.approx(0.1)
    bent = fit(findings(1e-3, 1e-5, 0.0, workers=1, bend=0.5))
    assert bent.spread_share == pytest.approx(1 / 3, rel=0.01)
    metric = forecast(bent, 64)
    assert metric.low < metric.value < metric.high


def test_one_worker_exchanges_nothing():
    assert fit(findings(1e-3, 1e-5, 9e-4, workers=1)).exchange_s == 0.0


@given(st.lists(st.tuples(st.integers(1, 4096), st.integers(1, 64), SECONDS, SECONDS, SECONDS), min_size=1))
def test_an_element_of_the_array_answer_is_the_scalar_answer(rows):
    together = samples_per_s(*(np.array(column) for column in zip(*rows, strict=True)))
    assert together.tolist() == [float(samples_per_s(*row)) for row in rows]


def test_more_workers_pay_from_the_break_even_batch_on():
    batch = break_even_batch(ONE, TWO)
    assert batch == pytest.approx(1e-3 / 4.5e-6)
    at = [float(samples_per_s(batch, one.workers, one.step_s, one.sample_s, one.exchange_s)) for one in (ONE, TWO)]
    assert at[0] == pytest.approx(at[1])
    assert pick([ONE, TWO], 2 * (round(batch) // 2) - 32) is ONE
    assert pick([ONE, TWO], 2 * (round(batch) // 2) + 32) is TWO


def test_workers_that_share_nothing_never_pay():
    slow = EngineCosts("a", 2, 1, step_s=2e-3, sample_s=20e-6, exchange_s=0.0, spread_share=0.1, least=8, most=320)
    assert math.isinf(break_even_batch(ONE, slow))


def test_a_batch_that_was_not_probed_is_refused():
    with pytest.raises(Refused, match="probed with 8 to 320 samples a worker, not with 500"):
        forecast(TWO, 1000)
