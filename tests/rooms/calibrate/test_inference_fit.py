"""The calibration of inference: refitted alike, judged on what was left out, told by the docs as it is."""

from __future__ import annotations

from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pytest

from datahall.calibrate import inference_refit
from datahall.calibrate.inference_fit import EXPECTED, Loads, fit, sweep_weights
from datahall.calibrate.inference_holdout import PARTS, left_out_residuals, ratios
from datahall.calibrate.inference_table import shipped_markdown
from datahall.calibrate.inference_unseen import rate_residuals
from datahall.calibrate.refit import differing
from datahall.catalog.calibrations import calibration
from datahall.catalog.published_inference import figures, unseen_figures
from datahall.virtual.serving_constants import ServingConstants, shipped

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = calibration("inference")


def test_what_ships_is_what_the_shipped_figures_give() -> None:
    assert differing(SHIPPED, inference_refit.refitted()) == {}, "scripts/refit writes it again"


def test_a_fit_finds_the_constants_that_made_its_figures() -> None:
    truth = ServingConstants(0.55, 0.62, 60e-6, 70e-6)
    made = Loads.of(figures()).log_seconds(truth)
    told = [replace(figure, token_s=float(np.exp(one))) for figure, one in zip(figures(), made, strict=True)]
    found = fit(told)
    off, before = (np.abs(np.log(np.array(astuple(one)) / astuple(truth))) for one in (found, EXPECTED))
    assert np.all(off < 0.8 * before), "the priors hold them back, that of a layer most: few copies have no all-reduce"
    assert np.abs(Loads.of(told).log_seconds(found) - made).mean() < 0.1
    assert fit([]) == EXPECTED


def test_many_figures_of_a_sweep_weigh_as_one() -> None:
    weights = sweep_weights(figures())
    sweeps = {(figure.model, figure.accelerator, figure.engine) for figure in figures()}
    assert weights.sum() == pytest.approx(len(sweeps))
    assert astuple(fit([*figures(), *figures()])) == pytest.approx(astuple(fit(figures())))


@pytest.mark.parametrize("part", ["family", "maker"])
def test_what_is_left_out_has_no_say_in_its_forecast(part: str) -> None:
    key = PARTS[part]
    name = key(figures()[0])
    told = [replace(figure, token_s=9.0 * figure.token_s) if key(figure) == name else figure for figure in figures()]
    mine = np.array([key(figure) == name for figure in figures()])
    before, after = left_out_residuals(figures(), key), left_out_residuals(told, key)
    assert before[mine] - after[mine] == pytest.approx(np.log(9.0))
    assert np.abs(before[~mine] - after[~mine]).max() > 1e-3, "but in that of all others"


def test_ratios_are_of_one_load_under_one_engine() -> None:
    pairs = ratios(figures())
    assert len(pairs) == SHIPPED["held_out"]["summary"]["ratio"]["n_scored"]
    assert {pair.one_maker for pair in pairs} == {True, False}
    doubled = [replace(f, token_s=2 * f.token_s) if f.accelerator == "MI325X" else f for f in figures()]
    moved = [after.log_residual - before.log_residual for before, after in zip(pairs, ratios(doubled), strict=True)]
    for pair, change in zip(pairs, moved, strict=True):
        if pair.accelerators == ("H200-SXM", "MI325X"):  # both left out: nothing else moves
            assert change == pytest.approx(np.log(2.0))


def test_constants_are_physical_and_intervals_hold_on_what_was_left_out() -> None:
    constants = shipped().constants
    assert 0.5 < constants.product_share < 0.9
    assert 0.5 < constants.memory_share < 0.95
    assert 5e-6 < constants.layer_s < 1e-4
    assert 5e-6 < constants.reduce_s < 1e-4
    summary = SHIPPED["held_out"]["summary"]
    for part in PARTS:
        assert summary[part]["n_scored"] == len(figures())
        assert 0.85 < summary[part]["interval_coverage_share"] < 0.97, part
        assert summary[part]["median_ape"] < 0.25, part
    assert 0.85 < summary["unseen"]["interval_coverage_share"] < 0.97
    validity = SHIPPED["validity"]
    assert set(validity["accelerators"]) == {figure.accelerator for figure in figures()}
    assert validity["prompt_tokens"] == [1, 8192]


def test_rates_that_were_kept_are_forecast_one_by_one_as_together() -> None:
    together = rate_residuals(unseen_figures(), shipped().constants)
    alone = rate_residuals(unseen_figures()[7:8], shipped().constants)
    assert alone == pytest.approx(together[7:8])
    assert np.median(np.abs(np.expm1(together))) == pytest.approx(
        SHIPPED["held_out"]["summary"]["unseen"]["median_ape"], abs=1e-4
    )


def test_the_docs_show_the_table_of_the_shipped_calibration() -> None:
    shown = (ROOT / "docs" / "tables" / "inference-accuracy.md").read_text()
    assert shown == shipped_markdown(), "scripts/refit writes the table again"
