"""The ledger: a correction is shrunk by how little is known, and moves every duration alike."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from datahall.base.errors import WorldFailed
from datahall.base.label import Label
from datahall.calibrate.ledger import Entry, LedgerCalibration, correction, entries, record, with_ledger
from datahall.case import from_model_and_site
from datahall.compute.numbers import PlanNumbers
from datahall.search.rank import search
from datahall.search.why import explain
from datahall.virtual.calibration import Uncalibrated
from datahall.virtual.step_time import step_time

PRIOR = math.log(1.5)


def entry(ratio: float, stack: str = "s", hardware: str = "A40", log: str = "") -> Entry:
    return Entry(hardware, stack, "case", 1.0, ratio, "2026-03-01T00:00:00+00:00", log)


def test_one_comparison_moves_part_of_the_way_and_many_move_all_of_it() -> None:
    one = correction([entry(1.4)], "A40", "s", PRIOR)
    many = correction([entry(1.4)] * 20, "A40", "s", PRIOR)
    assert one is not None
    assert many is not None
    assert 1.2 < one.factor < many.factor < 1.4
    assert many.factor == pytest.approx(1.4, rel=0.01)
    assert 1 < many.high < one.high < 1.5


@pytest.mark.parametrize("prior", [0.05, math.log(1.2), PRIOR])
@pytest.mark.parametrize("ratio", [0.2, 0.6, 0.9, 1.02, 1.2, 1.4, 2.0, 5.0])
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_a_repeat_of_what_was_measured_lies_in_the_next_interval(count: int, ratio: float, prior: float) -> None:
    for stack in ("s", "another"):
        learnt = correction([entry(ratio)] * count, "A40", stack, prior)
        assert learnt is not None
        assert learnt.factor * learnt.low <= ratio <= learnt.factor * learnt.high


def test_an_interval_that_missed_grows_and_one_that_held_does_not() -> None:
    prior = math.log(1.2)
    inside, missed = correction([entry(1.15)], "A40", "s", prior), correction([entry(2.0)], "A40", "s", prior)
    assert inside is not None
    assert missed is not None
    assert (inside.missed, missed.missed) == (False, True)
    assert inside.high <= 1.2 < missed.high
    assert missed.factor > 1.8  # a forecast that was twice too fast is no reason to believe in it


def test_both_of_two_kinds_of_runs_lie_in_the_interval() -> None:
    """Plans forecast well and plans that take twice as long: one factor cannot be right for both, and says so."""
    for known in ([1.0, 2.0], [1.0, 1.0, 2.0, 2.0], [1.0, 1.0, 1.0, 2.0, 2.0]):
        learnt = correction([entry(ratio) for ratio in known], "A40", "s", math.log(1.2))
        assert learnt is not None
        assert learnt.factor * learnt.low <= 1.0 < 2.0 <= learnt.factor * learnt.high


def test_one_disturbed_run_among_many_good_ones_moves_little() -> None:
    good = [0.97, 1.03, 1.0, 0.98, 1.02, 1.01, 0.99, 1.0, 1.0]
    without = correction([entry(ratio) for ratio in good], "A40", "s", math.log(1.2))
    with_one = correction([entry(ratio) for ratio in (*good, 5.0)], "A40", "s", math.log(1.2))
    assert without is not None
    assert with_one is not None
    assert with_one.factor == pytest.approx(without.factor, rel=0.03)
    assert not with_one.missed
    assert with_one.high < 1.2


def test_parts_of_a_step_are_no_surer_than_the_step(tmp_path: Path) -> None:
    case = from_model_and_site("llama-3.1-8b", "2x8xA40", tokens=1e9)
    for ratio in (1.3, 12.0):
        record(entry(ratio), tmp_path / f"{ratio}.jsonl")
        learnt = with_ledger(case, Uncalibrated(), tmp_path / f"{ratio}.jsonl")
        (low, high), (less, more) = learnt.spread("step_time"), learnt.spread("transfer")
        assert less <= low < high <= more
        assert learnt.spread("peak_memory") == Uncalibrated().spread("peak_memory")


def test_other_hardware_says_nothing_and_another_stack_less() -> None:
    assert correction([entry(1.4, hardware="H100-SXM")], "A40", "s", PRIOR) is None
    same, other = correction([entry(1.4)], "A40", "s", PRIOR), correction([entry(1.4, "t")], "A40", "s", PRIOR)
    assert same is not None
    assert other is not None
    assert (same.label, other.label) == (Label.CALIBRATED, Label.TRANSFERRED)
    assert other.high > same.high


def test_a_stack_is_corrected_from_the_forecast_for_that_stack() -> None:
    """Measured 1.2 s; 1.0 s was forecast without a stack and 0.8 s with it."""
    both = replace(entry(1.2), own_forecast_s=0.8)
    own, other = correction([both], "A40", "s", PRIOR), correction([both], "A40", "", PRIOR)
    assert own is not None
    assert other is not None
    assert own.factor == pytest.approx(other.factor ** (math.log(1.5) / math.log(1.2)))


def test_a_log_that_has_grown_is_one_comparison(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    for ratio, log in ((1.3, "a.log"), (1.2, "a.log"), (1.4, "b.log"), (1.2, "a.log")):
        record(replace(entry(ratio), log=log), path)
    assert [(known.log, known.measured_s) for known in entries(path)] == [("a.log", 1.2), ("b.log", 1.4)]
    assert len(path.read_text().splitlines()) == 3


def test_a_ledger_keeps_what_was_recorded_once_and_outlives_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "ledger.jsonl"
    record(entry(1.1, log="a.log"), path)
    record(entry(1.1, log="a.log"), path)
    record(entry(1.2, log="b.log"), path)
    with path.open("a") as lines:
        lines.write('{"hardware": "A40", "sta')
    assert [one.measured_s for one in entries(path)] == [1.1, 1.2]
    (tmp_path / "file").write_text("")
    with pytest.raises(WorldFailed, match="cannot be written"):
        record(entry(1.0), tmp_path / "file" / "ledger.jsonl")


def test_every_duration_takes_the_factor_longer(tmp_path: Path) -> None:
    case = from_model_and_site("llama-3.1-8b", "2x8xA40", tokens=1e9)
    record(entry(1.3), tmp_path / "ledger.jsonl")
    learnt = with_ledger(case, Uncalibrated(), tmp_path / "ledger.jsonl")
    assert isinstance(learnt, LedgerCalibration)
    for place in (0, 5, 50):
        compute = search(case).compute(place)
        numbers = PlanNumbers.of(compute)
        before, after = (step_time(one.inputs(case, compute), numbers) for one in (Uncalibrated(), learnt))
        assert float(after.total) == pytest.approx(float(before.total) * learnt.learnt.factor, rel=1e-9)
        assert float(after.transfer) == pytest.approx(float(before.transfer) * learnt.learnt.factor, rel=1e-9)
    assert with_ledger(case, Uncalibrated(), tmp_path / "none.jsonl").label == Label.CATALOGUE


def test_dollars_and_joules_stay_what_their_price_and_power_rest_on(tmp_path: Path) -> None:
    """Logs say how long steps take; they say nothing of what an hour costs or draws."""
    case = from_model_and_site("llama-3.1-8b", "2x8xA40", tokens=1e9)
    record(entry(1.3), tmp_path / "ledger.jsonl")
    found = explain(search(case, with_ledger(case, Uncalibrated(), tmp_path / "ledger.jsonl"))).metrics
    assert found["step_time"].label in (Label.CALIBRATED, Label.TRANSFERRED)
    assert found["cost"].label == found["energy"].label == Label.CATALOGUE
