"""What a judgement says of picks, told from forecasts whose pick is known beforehand."""

import numpy as np
import pytest

from datahall.calibrate.forecasting import Forecasts
from datahall.calibrate.judge import Judgement, choices
from datahall.calibrate.published import PublishedRun
from datahall.calibrate.shipped import shipped_runs

RUNS, _ = shipped_runs()
PAIRS = [[RUNS[index] for index in same] for same in choices(RUNS) if len(same) == 2]


def judged(runs: list[PublishedRun], seconds: list[float]) -> dict:
    values = np.array(seconds)
    found = Forecasts(values, 0.9 * values, 1.1 * values, 0.1 * values, ("familiar",) * len(runs))
    return Judgement(tuple(runs), found, ()).to_json()


def test_regret_is_of_the_slower_plan_and_told_apart_by_quality():
    best, caveat = (next(pair for pair in PAIRS if pair[0].quality == quality) for quality in "AB")
    right = judged(best, [run.step_s for run in best])
    assert (right["n_choices"], right["regret_share"], right["regret_share_quality_a"]) == (1, 0.0, 0.0)
    slow, fast = sorted((run.step_s for run in caveat), reverse=True)
    wrong = [slow + fast - run.step_s for run in caveat]  # each plan forecast as the other was measured
    data = judged([*best, *caveat], [run.step_s for run in best] + wrong)
    assert (data["n_choices"], data["n_choices_quality_a"]) == (2, 1)
    assert slow / fast > 1.021  # no tie of two plans, of which the simpler would be taken
    assert data["regret_share"] == pytest.approx((slow / fast - 1.0) / 2)
    assert data["regret_share_quality_a"] == 0.0


def test_where_nothing_was_chosen_there_is_no_regret():
    data = judged([PAIRS[0][0]], [1.0])
    assert (data["n_choices"], data["regret_share"], data["regret_share_quality_a"]) == (0, None, None)
