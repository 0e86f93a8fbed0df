"""The published runs nearest to a case: which are taken, and that no forecast beside them saw their family."""

from __future__ import annotations

from collections import Counter

import pytest

from datahall.calibrate.forecasting import forecast_runs
from datahall.calibrate.holdout import group_of, left_out_forecasts
from datahall.calibrate.nearby import nearby
from datahall.calibrate.shipped import load, shipped_runs, unseen_runs
from datahall.case.named_model import shape_of

NEAR = nearby(shape_of("gpt3-175b"), "A100-80GB-SXM", 1024, 2048, "bf16")


def test_runs_of_the_same_accelerator_are_taken_the_nearest_first_and_few_of_a_family() -> None:
    assert {one.run.accelerator.name for one in NEAR} == {"A100-80GB-SXM"}
    first = NEAR[0].run
    assert (first.model, first.devices) == ("MegaScale-175B", 1024)
    assert max(Counter(one.run.group for one in NEAR).values()) == 2
    assert not any(one.run.shape.experts for one in NEAR)
    assert "sc21" in {one.run.group for one in NEAR}


def test_another_size_or_precision_is_further_away() -> None:
    small = nearby(shape_of("llama-3.1-8b"), "H100-SXM", 8, 8192, "fp8", most=4)
    assert all(one.run.shape.parameters() < 2e10 for one in small)
    assert small[0].precision == "fp8"


def test_of_an_accelerator_without_runs_nothing_is_told() -> None:
    assert nearby(shape_of("gpt3-175b"), "TPU-v2", 512, 2048, "bf16") == []


def test_a_run_of_the_fit_is_forecast_without_its_family_and_a_later_one_as_it_was_shipped() -> None:
    trained, fitted = load(), shipped_runs()[0]
    of_fit = next(one for one in NEAR if one.run.group == "sc21")
    alone = left_out_forecasts([of_fit.run], fitted, group_of, trained.factors, start=trained.fitted.constants)
    assert of_fit.refitted
    assert (of_fit.seconds, of_fit.low, of_fit.high) == (alone.seconds[0], alone.low[0], alone.high[0])
    in_sample = forecast_runs(trained, [of_fit.run])
    assert abs(of_fit.seconds / in_sample.seconds[0] - 1.0) > 0.001
    later = next(one for one in NEAR if not one.refitted)
    assert later.run in unseen_runs()[0]
    assert later.run.group not in {run.group for run in fitted}
    assert later.seconds == pytest.approx(forecast_runs(trained, [later.run]).seconds[0])


def test_a_measured_mfu_leaves_recomputation_out() -> None:
    """The paper writes 148 TFLOP/s, with a forward pass computed again; the model's own FLOPs are three quarters."""
    of_paper = next(one for one in NEAR if one.run.key == "sc21-007")
    assert of_paper.mfu == pytest.approx(0.75 * 148e12 / 312e12, rel=0.01)
    assert of_paper.held == (of_paper.low <= of_paper.run.step_s <= of_paper.high)
