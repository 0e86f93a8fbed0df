"""The local fit finds the truth that made the data, and its intervals cover what it has not seen."""

import math

import numpy as np
import pytest

from datahall.calibrate.local import (
    LocalCalibration,
    Observation,
    Sensitivity,
    conformal_quantile,
    fit_local,
    log_errors,
)

TRUTH = {"matmul": 1.6, "launch": 0.7, "message": 2.5}


def observations(count, seed, noise=0.03):
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        terms = {
            "compute": {"matmul": float(rng.lognormal(-2, 0.8)), "launch": float(rng.lognormal(-3, 0.5))},
            "transfer": {"message": float(rng.lognormal(-3, 0.8))},
        }
        measured = {
            component: sum(TRUTH[term] * value for term, value in parts.items()) * math.exp(rng.normal(0, noise))
            for component, parts in terms.items()
        }
        made.append(Observation(linear(terms), measured, (float(rng.normal()),)))
    return made


def linear(terms):
    """Terms that simply scale with their multipliers, so that each is its own derivative."""

    def forecast_at(multipliers):
        scaled = {
            component: {name: multipliers.get(name, 1.0) * value for name, value in parts.items()}
            for component, parts in terms.items()
        }
        return {component: Sensitivity(sum(parts.values()), parts) for component, parts in scaled.items()}

    return forecast_at


def wide_open(name):
    return 0.6


def total_error(calibration, observation):
    return log_errors(calibration.multipliers, observation, "step_time")["step_time"]


def test_multipliers_come_back():
    fitted = fit_local(observations(40, seed=1), wide_open)
    for term, value in TRUTH.items():
        assert fitted.multipliers[term] == pytest.approx(value, rel=0.1)


def test_the_error_on_unseen_configurations_becomes_smaller():
    fitted, unseen = fit_local(observations(12, seed=2), wide_open), observations(50, seed=3)
    before = np.median([abs(total_error(LocalCalibration(), one)) for one in unseen])
    after = np.median([abs(total_error(fitted, one)) for one in unseen])
    assert after < 0.25 * before


def test_intervals_cover_unseen_configurations_about_as_often_as_they_say():
    held = []
    for seed in range(30):
        fitted = fit_local(observations(12, seed=seed, noise=0.15), wide_open)
        for one in observations(20, seed=1000 + seed, noise=0.15):
            held.append(abs(total_error(fitted, one)) <= fitted.spread("step_time", one.position, 1.0))
    assert 0.85 <= np.mean(held) <= 0.99


def test_a_term_that_no_run_shows_stays_at_the_probe():
    hidden = linear({"compute": {"matmul": 1.0, "attention": 0.0}})
    seen = [Observation(hidden, {"compute": 2.0}, (0.0,)) for _ in range(4)]
    fitted = fit_local(seen, wide_open)
    assert fitted.multipliers["attention"] == pytest.approx(1.0)
    assert fitted.multipliers["matmul"] == pytest.approx(2.0, rel=0.05)


def test_a_surprise_is_put_down_to_the_constant_that_was_guessed():
    both = linear({"compute": {"matmul": 1.0, "element": 1.0}})
    seen = [Observation(both, {"compute": 3.0}, (0.0,)) for _ in range(4)]
    fitted = fit_local(seen, lambda name: 0.6 if name == "element" else 0.1)
    assert fitted.multipliers["element"] > 1.7 > 1.2 > fitted.multipliers["matmul"]


def test_intervals_widen_with_distance_and_never_shrink():
    fitted = fit_local(observations(12, seed=5), wide_open)
    inside, outside = fitted.positions[0], (fitted.positions[0][0] + 20.0,)
    assert fitted.widening(inside) == pytest.approx(1.0)
    assert fitted.spread("step_time", outside, 1.0) > 3 * fitted.spread("step_time", inside, 1.0)


def test_too_few_errors_widen_the_quantile():
    assert conformal_quantile([0.2] * 19) == pytest.approx(0.2)
    assert conformal_quantile([0.2] * 4) > 0.2
    assert conformal_quantile([]) == math.inf
