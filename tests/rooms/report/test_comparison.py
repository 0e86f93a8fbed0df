"""Comparisons of two results: rows, counts, cancelling errors, the named bottleneck, and the file they are kept in."""

import json

import pytest

from datahall.base.errors import UsageError
from datahall.base.label import Label
from datahall.base.metric import Metric, exactly
from datahall.base.result import Result
from datahall.base.score import HeldOutPoint, score_heldout
from datahall.report.comparison import Machine, ParityRecord, compare, comparison_from_json

STEP = {"compute": 0.100, "transfer": 0.020, "waiting": 0.004, "input": 0.002, "optimiser": 0.010}
COUNTS = {"samples": 3200, "steps": 100, "collective_bytes": 9_000_000, "collective_calls": 300}


def _forecast(half_width: float = 0.1, **changes: float) -> Result:
    seconds = {**STEP, "checkpoint": 0.3, **changes}
    seconds["step_time"] = sum(seconds[name] for name in STEP)
    metrics = {
        name: Metric(name, "seconds", value, (1 - half_width) * value, (1 + half_width) * value, Label.CATALOGUE)
        for name, value in seconds.items()
    }
    return Result("virtual", metrics, COUNTS)


def _measured(counts: dict[str, int] | None = None, **changes: float) -> Result:
    seconds = {**STEP, "checkpoint": 0.3, **changes}
    seconds["step_time"] = sum(seconds[name] for name in STEP)
    return Result("real", {name: exactly(name, "seconds", value) for name, value in seconds.items()}, counts or COUNTS)


def test_a_forecast_that_is_right_holds_and_names_nothing():
    comparison = compare(_forecast(), _measured(), 0.03, checkpoint_every_steps=10)
    assert comparison.verdict.word == "holds"
    assert comparison.bottleneck.binding == "compute"
    assert comparison.bottleneck.deviating == ""
    assert all(row.in_noise for row in comparison.components)


def test_error_is_a_share_of_the_measured_value_and_the_label_is_the_weaker_one():
    row = compare(_forecast(compute=0.150), _measured(), 0.03).row("compute")
    assert row.error_share == pytest.approx(0.5)
    assert not row.in_noise
    assert not row.within_interval
    assert row.label == "catalogue"


def test_nothing_measured_has_no_error_share():
    assert compare(_forecast(), _measured(waiting=0.0), 0.03).row("waiting").error_share is None


@pytest.mark.parametrize(
    ("component", "cause"),
    [
        ("transfer", "a slow link"),
        ("input", "slow input"),
        ("waiting", "a slow worker"),
        ("compute", "slow compute"),
        ("optimiser", "a slow optimiser step"),
    ],
)
@pytest.mark.parametrize("dose_s", [0.05, 0.2])
def test_what_was_slowed_is_named(component: str, cause: str, dose_s: float):
    found = compare(_forecast(), _measured(**{component: STEP[component] + dose_s}), 0.03).bottleneck
    assert (found.deviating, found.cause) == (component, cause)


@pytest.mark.parametrize("component", ["transfer", "input", "waiting", "optimiser"])
def test_a_fiftieth_of_a_second_is_named_where_the_interval_is_narrower(component: str):
    found = compare(_forecast(), _measured(**{component: STEP[component] + 0.02}), 0.03).bottleneck
    assert found.deviating == component


def test_of_a_fifth_of_compute_half_lies_inside_its_interval():
    assert compare(_forecast(), _measured(compute=STEP["compute"] + 0.02), 0.03).bottleneck.excess_s < 0.011


def test_a_slow_disk_is_named_by_the_stall_it_adds_to_each_step():
    slow = _measured(checkpoint=1.3)
    often = compare(_forecast(), slow, 0.03, checkpoint_every_steps=10)
    assert often.bottleneck.cause == "a slow disk"
    assert often.verdict.word == "misses"
    assert compare(_forecast(), slow, 0.03, checkpoint_every_steps=1000).bottleneck.cause == ""


def test_a_slow_worker_shows_as_its_compute_and_the_waiting_of_the_others():
    found = compare(_forecast(), _measured(compute=0.2, waiting=0.1), 0.03).bottleneck
    assert (found.deviating, found.cause) == ("waiting", "a slow worker")


def test_late_input_of_one_worker_is_named_rather_than_the_waiting_it_makes():
    assert compare(_forecast(), _measured(input=0.09, waiting=0.095), 0.03).bottleneck.cause == "slow input"


def test_faster_than_forecast_is_not_a_bottleneck():
    assert compare(_forecast(), _measured(compute=0.05), 0.03).bottleneck.deviating == ""


def test_a_good_total_of_errors_that_cancel_is_a_failure():
    comparison = compare(_forecast(), _measured(compute=0.080, transfer=0.040), 0.01)
    assert comparison.row("step_time").within_interval
    assert comparison.verdict.word == "cancels"
    assert any(reason.startswith("compute") for reason in comparison.verdict.reasons)
    assert any(reason.startswith("transfer") for reason in comparison.verdict.reasons)


def test_a_bad_total_misses_and_does_not_cancel():
    assert compare(_forecast(), _measured(compute=0.2), 0.01).verdict.word == "misses"


def test_a_small_component_may_be_off():
    assert compare(_forecast(), _measured(input=0.004, optimiser=0.008), 0.01).verdict.word == "holds"


def test_errors_inside_their_intervals_do_not_cancel():
    assert compare(_forecast(0.3), _measured(compute=0.080, transfer=0.024), 0.01).verdict.word == "holds"


def test_counts_must_be_equal_where_datahall_decides():
    counts = {**COUNTS, "samples": 3199, "collective_calls": 299}
    comparison = compare(_forecast(), _measured(counts), 0.03)
    rows = {row.name: row for row in comparison.counts}
    assert (rows["samples"].decided_by, rows["samples"].equal) == ("datahall", False)
    assert (rows["collective_calls"].decided_by, rows["collective_calls"].equal) == ("library", False)
    assert comparison.verdict.word == "miscounts"
    assert comparison.verdict.reasons == ("samples: 3,200 forecast, 3,199 counted",)


def test_a_count_that_nobody_observed_is_shown_and_not_judged():
    comparison = compare(_forecast(), _measured({"steps": 100}), 0.03)
    assert {row.equal for row in comparison.counts} == {True, None}
    assert comparison.verdict.holds


def test_broken_parity_fails_the_run(sample):
    assert compare(_forecast(), _measured(), 0.03, parity=sample.parity_record(False)).verdict.word == "differs"
    assert compare(_forecast(), _measured(), 0.03, parity=sample.parity_record()).verdict.holds


def test_the_file_has_the_promised_fields_and_comes_back_equal(sample):
    heldout = score_heldout([HeldOutPoint("width 128", 1.0, 1.05, 0.9, 1.2, 1.4, 0.7, 2.1)])
    comparison = compare(
        _forecast(),
        _measured(compute=0.2),
        0.03,
        checkpoint_every_steps=10,
        seal_sha256="ab" * 32,
        machine=Machine(2, 0.1, 1.9),
        parity=sample.parity_record(),
        heldout=heldout,
    )
    data = json.loads(json.dumps(comparison.to_json(), allow_nan=False))
    assert {"format_version", "seal_sha256", "machine", "components", "counts", "bottleneck", "parity"} <= data.keys()
    assert {"name", "unit", "forecast", "low", "high", "measured", "error_share", "in_noise"} <= data["components"][
        0
    ].keys()
    assert {
        "n", "median_error_share_before", "median_error_share", "coverage_share", "median_half_width_share",
        "interval_score", "interval_score_before",
    } <= data["heldout"].keys()  # fmt: skip
    assert data["machine"] == {"cores": 2, "load_before": 0.1, "load_during": 1.9, "name": ""}
    assert data["verdict"] == "misses"
    assert comparison_from_json(data) == comparison


def test_another_format_is_refused():
    with pytest.raises(UsageError, match="format_version"):
        comparison_from_json({"format_version": 99})


def test_the_record_of_parity_is_what_the_real_world_writes():
    parity = pytest.importorskip("datahall.real.parity", reason="needs the training extra", exc_type=ImportError)
    found = parity.Parity(20, 2, 1e-7, 1e-6, 1e-5, True)
    assert ParityRecord(**found.to_json()).holds
