"""Forecasts of rows: stacks and sites never seen, what widens an interval, what moves nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from measured_rows import ran, shipped_rows, written

from datahall.calibrate.design import design
from datahall.calibrate.forecasting import forecast_runs
from datahall.calibrate.published import read_runs
from datahall.calibrate.shipped import load, shipped_runs
from datahall.calibrate.shot import correct
from datahall.catalog import published_runs

ODD = {
    "framework": ["", "NeMo 26.06", "Primus", "Megatron-LM", "HF Trainer 4.5", "AXLearn", "a stack nobody knows"],
    "accelerator": ["H200", "MI300X", "Ironwood", "NVIDIA B300 SXM6", "Trainium2"],
    "dtype": ["", "bfloat16", "half", "bf16-mixed"],
    "recompute": ["", "NaN", "yes", "block", "op", "?"],
    "interconnect": ["", "EFAv2 3200 Gbps", "8x400G RoCE", "Slingshot"],
    "sharding": ["", "HSDP", "ZeRO-1", "what"],
    "devices_per_node": ["", "0", "16"],
    "vp": ["", "0", "interleaved", "99"],
    "dp": ["", "0", "-1"],
    "moe_topk": ["", "0"],
    "head_dim": ["", "80"],
    "group": ["", "new"],
}


def test_rows_of_stacks_and_sites_never_seen_are_forecast() -> None:
    generator = np.random.default_rng(11)
    rows = [dict(row) for row in published_runs.rows()]
    changed: list[dict[str, str]] = []
    for _ in range(400):
        row = rows[generator.integers(len(rows))]
        names = generator.choice(list(ODD), 4, replace=False)
        changed.append({**row, **{name: str(generator.choice(ODD[name])) for name in names}, "step_time_s": "900"})
    runs, refused = read_runs(changed)
    found = forecast_runs(load(), runs)
    assert len(runs) + len(refused) == len(changed)
    # the third without what explained its `dp`
    expected = ("has no", "MFU over", "does not fill", "does not train in", "does not compute in MXFP8")
    assert all(any(part in one.reason for part in expected) for one in refused)
    assert len(runs) > 0.85 * len(changed)
    assert np.isfinite(found.high).all()
    assert ((found.low > 0) & (found.low < found.seconds) & (found.seconds < found.high)).all()


def test_a_maker_without_fitted_runs_widens_the_interval() -> None:
    row = shipped_rows("torchtitan")[0]
    known, new = widths([{**row, "accelerator": name} for name in ("H200", "MI300X")])
    assert new > 1.1 * known


def test_adapters_which_no_fitted_run_has_widen_the_interval() -> None:
    row = shipped_rows("torchtitan")[0]
    whole, beside = widths([{**row, "task": task} for task in ("pretrain", "lora")])
    assert beside > 2.0 * whole


def test_a_stack_that_is_not_stated_widens_the_interval() -> None:
    named, blank = widths([{**shipped_rows("torchtitan")[0], "framework": name} for name in ("a stack", "")])
    assert blank > 1.3 * named


def test_blanks_widen_the_interval(tmp_path: Path) -> None:
    row = next(row for row in shipped_rows("megatron-bridge") if row["pp"] not in {"", "1"} and row["vp"])
    file = written(tmp_path / "two.csv", [row, {**row, "vp": "", "recompute": "", "micro_batch": ""}])
    stated, blank = json.loads(ran(file, "--json").stdout)["rows"]
    width = [one["high_step_s"] / one["low_step_s"] for one in (stated, blank)]
    assert width[1] > width[0]


def test_the_interval_of_a_blank_holds_every_reading_that_is_not_unlikely() -> None:
    row = {**shipped_rows("torchtitan")[0], "framework": "Megatron-LM", "group": "elsewhere", "model": "mine"}
    rows = [{**row, "recompute": said} for said in ("", "none", "full")]  # blank: full in one run of five
    found = forecast_runs(load(), read_runs(rows)[0])
    assert found.seconds[1] < found.seconds[0] < found.seconds[2]
    assert found.low[0] < found.seconds[1]
    assert found.seconds[2] <= found.high[0] * 1.02  # what neighbours say of one reading they say less of another
    assert found.high[0] < 1.02 * found.high[2]


def test_a_blank_stack_is_averaged_over_the_usual_ones() -> None:
    row = {**shipped_rows("torchtitan")[0], "group": "elsewhere", "model": "mine", "note": ""}
    runs, _ = read_runs([{**row, "framework": name} for name in ("", "PyTorch", "Megatron-Core", "torchtitan")])
    blank, *named = runs
    by_stack = {traits.issue: 0.0 for traits in (variant.traits for variant in blank.variants)}
    for variant in blank.variants:
        by_stack[variant.traits.issue] += variant.weight
    assert by_stack == pytest.approx({"eager": 0.5, "fused": 0.35, "compiled": 0.15})
    constants = load().fitted.constants
    seconds = design([replace(run, group="g") for run in runs]).seconds(constants)
    assert seconds[0] == pytest.approx(np.average(seconds[1:], weights=[0.5, 0.35, 0.15]), rel=1e-9)
    assert len(set(seconds[1:].round(6))) == len(named)


def test_likely_readings_leave_a_share_of_the_weight_outside() -> None:
    one = read_runs([shipped_rows("torchtitan")[0]])[0][0]
    weights = (0.5, 0.04, 0.4, 0.06)
    several = replace(one, variants=tuple(replace(one.variants[0], weight=weight) for weight in weights))
    arrays = design([one, several])
    values = np.array([7.0, 2.0, 1.0, 3.0, 4.0])  # of the second run: 1 with 0.04, 2 with 0.5, 3 with 0.4, 4 with 0.06
    low, high = arrays.likely_readings(values, 0.05)
    assert (low.tolist(), high.tolist()) == ([7.0, 2.0], [7.0, 4.0])
    low, high = arrays.likely_readings(values, 0.03)
    assert (low.tolist(), high.tolist()) == ([7.0, 1.0], [7.0, 4.0])
    low, high = arrays.likely_readings(values, 0.10)
    assert (low.tolist(), high.tolist()) == ([7.0, 2.0], [7.0, 3.0])


def widths(rows: list[dict[str, str]]) -> list[float]:
    found = forecast_runs(load(), read_runs(rows)[0])
    return np.log(found.high / found.low).tolist()


def test_near_releases_of_a_stack_tell_more_of_its_mixtures_than_far_ones() -> None:
    runs = [run for run in shipped_runs()[0] if run.shape.experts and run.accelerator.name == "B200"]
    trained = load()
    new = next(run for run in runs if run.traits.release == "26.04.01")
    slow = [
        replace(new, traits=replace(new.traits, release=release), step_s=2.0 * new.step_s)
        for release in ("26.04", "20.04")
    ]
    near, far = (correct(trained.fitted, [one], [new]).log_correction[0] for one in slow)
    assert near > far > 0


def test_rows_shown_tell_less_of_a_family_that_was_never_fitted() -> None:
    """Of the one, what the fit could not know is what ten rows say; of the other, they say all that there is."""
    runs = [run for run in shipped_runs()[0] if run.group == "megatron-bridge"][:40]
    strange = [replace(run, group="mine") for run in runs]
    fitted, new = (forecast_runs(load(), some[10:], some[:10]) for some in (runs, strange))
    assert set(fitted.condition) == {"shot-familiar"}
    assert set(new.condition) == {"shot"}
    wider = np.log(new.high / new.low) / np.log(fitted.high / fitted.low)
    assert np.all(wider > 1.02)
    assert np.allclose(new.seconds, fitted.seconds)


def test_rows_of_another_stack_and_accelerator_move_nothing() -> None:
    runs = shipped_runs()[0]
    foreign = [replace(run, step_s=3.0 * run.step_s) for run in runs if run.group == "maxtext"][:10]
    others = [run for run in runs if run.group == "llm-foundry"]
    plain = forecast_runs(load(), others)
    shown = forecast_runs(load(), others, foreign)
    assert shown.seconds == pytest.approx(plain.seconds, rel=1e-12)
    akin = [run for run in others if run.accelerator.name == "H100-SXM"]
    slow = [replace(run, step_s=1.5 * run.step_s) for run in akin[:10]]
    assert (forecast_runs(load(), akin, slow).seconds > forecast_runs(load(), akin).seconds).all()


def test_held_out_errors_ship_with_the_constants() -> None:
    from datahall.catalog.calibrations import calibration

    held = calibration("training")["held_out"]
    groups = [group for group in held["group_zero_shot"] if group not in {"paper", "vtrain-single"}]
    assert np.mean([held["group_zero_shot"][group]["median_ape"] for group in groups]) < 0.15
    assert np.mean([held["group_zero_shot"][group]["mean_ape"] for group in groups]) < 0.20
    assert np.mean([held["group_ten_shot"][group]["median_ape"] for group in groups]) < 0.07
    assert np.mean([held["group_ten_shot"][group]["mean_ape"] for group in groups]) < 0.11
