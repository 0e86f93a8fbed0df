"""How well forecasts tell what more devices bring: only what differs between runs on fewer and more of them counts."""

from __future__ import annotations

import numpy as np
import pytest

from datahall.calibrate.forecasting import Forecasts
from datahall.calibrate.judge import Judgement, scaled
from datahall.calibrate.shipped import shipped_runs
from datahall.calibrate.validate import judge_rows

RUNS = [run for run in shipped_runs()[0] if run.group in ("torchtitan", "llm-foundry")]


def judged(seconds: np.ndarray) -> dict[str, float]:
    nothing = np.zeros(len(seconds))
    found = Judgement(tuple(RUNS), Forecasts(seconds, nothing, nothing, nothing, ("",) * len(seconds)), ()).scaling()
    assert found is not None
    return found


def test_a_forecast_that_is_off_by_the_same_everywhere_scales_as_measured() -> None:
    found = judged(np.array([1.3 * run.step_s for run in RUNS]))
    assert found["mean_ape"] == pytest.approx(0.0, abs=1e-12)
    assert found["linear_mean_ape"] > 0.03


def test_the_error_is_that_of_what_a_device_keeps() -> None:
    pairs = [(RUNS[first].devices, RUNS[one].devices) for first, *more in scaled(RUNS) for one in more]
    assert len(pairs) > 20
    found = judged(np.array([run.step_s * run.devices**0.1 for run in RUNS]))
    assert found["n_pairs"] == len(pairs)
    assert found["mean_ape"] == pytest.approx(np.mean([1.0 - (few / many) ** 0.1 for few, many in pairs]))


def test_saying_that_nothing_is_lost_is_a_step_in_proportion_to_the_tokens_of_a_device() -> None:
    found = judged(np.array([run.global_batch * run.sequence / run.devices for run in RUNS]))
    assert found["mean_ape"] == pytest.approx(found["linear_mean_ape"])


def test_runs_that_nothing_was_fitted_to_scale_nearer_to_the_forecast_than_to_no_loss() -> None:
    found = judge_rows(None, unseen=True).scaling()
    assert found is not None
    assert found["median_ape"] < found["linear_median_ape"]
