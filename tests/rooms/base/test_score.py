"""Scores of forecasts with intervals: against hand-worked values, scipy-free, and array equals scalar."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datahall.base.errors import UsageError
from datahall.base.score import (
    HeldOutPoint,
    coverage_accepted,
    coverage_p_value,
    heldout_from_json,
    interval_score,
    score_heldout,
)

values = st.floats(-1e6, 1e6)


def test_interval_score_is_the_width_inside_and_pays_outside():
    assert interval_score(1.0, 3.0, 2.0) == pytest.approx(2.0)
    assert interval_score(1.0, 3.0, 3.5) == pytest.approx(2.0 + 20 * 0.5)
    assert interval_score(1.0, 3.0, 0.5, nominal_share=0.5) == pytest.approx(2.0 + 4 * 0.5)


@given(st.lists(st.tuples(values, values, values), min_size=1, max_size=8))
def test_interval_score_of_an_array_is_the_scalar_score_of_each(triples):
    low, high, measured = (np.array(column) for column in zip(*triples, strict=True))
    together = interval_score(low, high, measured)
    assert [float(interval_score(*triple)) for triple in triples] == together.tolist()


def test_the_true_central_interval_scores_better_than_a_wider_or_a_narrower_one():
    draws = np.random.default_rng(7).normal(size=20_000)
    score = {half: float(np.mean(interval_score(-half, half, draws))) for half in (1.0, 1.6449, 2.5)}
    assert min(score, key=score.__getitem__) == 1.6449


def test_coverage_p_value_against_the_binomial_by_hand():
    assert coverage_p_value(0, 1) == pytest.approx(0.1)
    assert coverage_p_value(1, 1) == 1.0
    assert coverage_p_value(1, 2, 0.5) == 1.0
    assert coverage_p_value(0, 2, 0.5) == pytest.approx(0.5)


def test_coverage_of_24_is_rejected_only_far_from_nominal():
    assert coverage_accepted(22, 24)
    assert coverage_accepted(24, 24)
    assert not coverage_accepted(17, 24)


def test_coverage_of_nothing_is_refused():
    with pytest.raises(UsageError):
        coverage_p_value(0, 0)


def _point(name: str, measured: float, after: float, before: float) -> HeldOutPoint:
    return HeldOutPoint(name, measured, after, 0.9 * after, 1.1 * after, before, 0.5 * before, 1.5 * before)


def test_heldout_score_is_the_same_whatever_the_scale_of_a_configuration():
    small = score_heldout([_point("a", 1.0, 1.05, 1.3), _point("b", 1.0, 0.98, 0.8)])
    mixed = score_heldout([_point("a", 100.0, 105.0, 130.0), _point("b", 1.0, 0.98, 0.8)])
    assert small.interval_score == pytest.approx(mixed.interval_score)
    assert small.median_error_share == pytest.approx(0.035)
    assert small.median_error_share_before == pytest.approx(0.25)
    assert small.coverage_share == 1.0
    assert small.improved


def test_a_worse_fit_is_called_worse():
    score = score_heldout([_point("a", 1.0, 1.6, 1.1), _point("b", 1.0, 0.5, 1.0)])
    assert not score.improved
    assert score.sentence.startswith("worse")


def test_heldout_score_survives_json():
    score = score_heldout([_point("a", 1.0, 1.05, 1.3)])
    assert heldout_from_json(score.to_json()) == score
    assert heldout_from_json(score.to_json(with_points=False)).points == ()


def test_heldout_without_measurement_is_refused():
    with pytest.raises(UsageError):
        score_heldout([_point("a", 0.0, 1.0, 1.0)])
