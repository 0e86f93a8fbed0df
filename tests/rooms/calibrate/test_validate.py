"""`datahall validate` on the shipped figures, on files of rows, and on the whole table where it is at hand."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path

import pytest
from measured_rows import ran, shipped_rows, truth, written

from datahall.calibrate.forecasting import forecast_runs
from datahall.calibrate.judge import Judgement
from datahall.calibrate.published import read_runs
from datahall.calibrate.shipped import load

KEYS = {
    "n_rows", "n_scored", "n_refused", "refused_reasons", "median_ape", "mean_ape", "p90_ape", "macro_median_ape",
    "bias", "interval_coverage_share", "median_half_width_share", "interval_score", "regret_share", "by_group",
    "by_accelerator", "rows",
}  # fmt: skip
BESIDE = {"scored_share", "scored_share_of_usable", "n_usable", "refused_kinds", "macro_mean_ape", "macro_p90_ape"}
OWN_METRICS = [
    {
        "id": key,
        "group": "own",
        "model": "llama-3.1-8b",
        "accelerator": "H100-SXM",
        "n_devices": "16",
        "seq_len": "4096",
        "global_batch": "64",
        "primary_metric": metric,
        "step_time_s": "" if key == "tokens" else "2.5",
        "tokens_per_s_per_device": "6000" if key == "tokens" else "",
        "model_tflops_per_device": "400" if key == "flops" else "",
    }
    for key, metric in (
        ("tokens", "tokens_per_s_per_device"),
        ("flops", "model_tflops_per_device"),
        ("seconds", "step_time_s"),
    )
]


def judgement_of(rows: list[dict[str, str]]) -> Judgement:
    runs, refused = read_runs(rows)
    return Judgement(tuple(runs), forecast_runs(load(), runs), tuple(refused))


def test_json_has_the_agreed_keys(tmp_path: Path) -> None:
    rows = shipped_rows("sc21") + shipped_rows("torchtitan")
    data = json.loads(ran(written(tmp_path / "some.csv", rows), "--json").stdout)
    assert set(data) >= KEYS | BESIDE
    assert data["n_rows"] == len(rows) == data["n_scored"] + data["n_refused"]
    assert set(data["by_group"]) == {"sc21", "torchtitan"}
    assert sum(group["n_scored"] for group in data["by_group"].values()) == data["n_scored"]
    for row in data["rows"]:
        assert row["low_step_s"] < row["forecast_step_s"] < row["high_step_s"]
        assert row["held"] == (row["low_step_s"] <= row["measured_step_s"] <= row["high_step_s"])


def test_macro_averages_are_means_over_groups_whatever_their_size() -> None:
    data = judgement_of([*shipped_rows("korthikanti"), *shipped_rows("sc21")]).to_json()
    assert data["macro_quality"] == "A"
    for name in ("median_ape", "mean_ape", "p90_ape"):
        groups = [scores[name] for scores in data["by_group"].values()]
        assert data[f"macro_{name}"] == pytest.approx(sum(groups) / 2, rel=1e-12)
        assert data[f"macro_{name}"] != pytest.approx(data[name], rel=1e-6)


def test_each_row_is_told_in_what_its_source_measured() -> None:
    """The seconds of a step say little to who published tokens/s, and their error is another one."""
    of = {row["id"]: row for row in judgement_of(OWN_METRICS).to_json()["rows"]}
    rate, flops, time = of["tokens"], of["flops"], of["seconds"]
    assert (rate["unit"], flops["unit"], time["unit"]) == ("tokens/s/device", "TFLOP/s/device", "s")
    assert (rate["measured"], flops["measured"], time["measured"]) == pytest.approx((6000.0, 400.0, 2.5), rel=1e-9)
    assert rate["measured_step_s"] == pytest.approx(64 * 4096 / 16 / 6000.0)
    for row in of.values():
        assert row["error_share"] == pytest.approx(row["forecast"] / row["measured"] - 1.0)
        assert row["low"] < row["forecast"] < row["high"]
        assert row["held"] == (row["low"] <= row["measured"] <= row["high"])
    assert rate["forecast"] == pytest.approx(64 * 4096 / 16 / rate["forecast_step_s"])
    assert flops["error_share"] == pytest.approx(2.5 / flops["forecast_step_s"] - 1.0)
    assert time["forecast"] == time["forecast_step_s"]


def test_bias_is_of_the_step_s_time_whatever_was_measured() -> None:
    """A forecast that is too fast is below zero on seconds and above on a rate, which would cancel in a median."""
    slow = {"tokens": "1500", "flops": "100", "seconds": "10"}
    data = judgement_of([{**row, row["primary_metric"]: slow[row["id"]]} for row in OWN_METRICS]).to_json()
    assert {row["error_share"] > 0 for row in data["rows"]} == {True, False}
    assert data["bias"] < -0.5
    late = [row["forecast_step_s"] / row["measured_step_s"] - 1.0 for row in data["rows"]]
    assert data["bias"] == data["by_group"]["own"]["bias"] == pytest.approx(statistics.median(late))


def test_each_row_has_its_source() -> None:
    rows = [*shipped_rows("sc21"), {**shipped_rows("sc21")[0], "id": "lost", "seq_len": ""}]
    data = judgement_of(rows).to_json()
    assert [row["source"] for row in data["rows"]] == [row["source"] for row in rows]
    assert all(row["source"] for row in data["rows"])


def test_a_row_without_a_group_is_one_of_its_stack_scored_or_refused() -> None:
    row = {**OWN_METRICS[2], "group": ""}
    for framework, group in (("", "unstated"), ("torchtitan", "torchtitan")):
        scored = {**row, "framework": framework}
        data = judgement_of([scored, {**scored, "seq_len": ""}, {**scored, "accelerator": "Cerebras"}]).to_json()
        assert [one["scored"] for one in data["rows"]] == [True, False, False]
        assert set(data["by_group"]) == {group}


def test_rates_are_taken_as_they_are_where_they_are_what_was_measured() -> None:
    """A step's seconds beside them were derived, and may be rounded."""
    [row] = judgement_of([{**OWN_METRICS[0], "step_time_s": "2.7"}]).to_json()["rows"]
    assert row["measured"] == pytest.approx(6000.0)
    [row] = judgement_of([{**OWN_METRICS[0], "step_time_s": "2.7", "tokens_per_s_per_device": ""}]).to_json()["rows"]
    assert (row["unit"], row["measured"]) == ("tokens/s/device", pytest.approx(64 * 4096 / 16 / 2.7))
    [row] = judgement_of([{**OWN_METRICS[2], "primary_metric": "mfu_pct"}]).to_json()["rows"]
    assert (row["unit"], row["measured"]) == ("s", 2.5)  # never the share of a peak


def test_rows_come_first_and_the_sums_last(tmp_path: Path) -> None:
    rows = shipped_rows("korthikanti")
    file = written(tmp_path / "some.csv", [*rows, {**rows[0], "id": "mine [1]", "accelerator": "Cerebras"}])
    lines = ran(file).stdout.splitlines()
    assert lines[0].split()[:5] == ["group", "run", "model", "accelerator", "outcome"]
    for row, line in zip(rows, lines[1:], strict=False):
        group, key, *_, error, _percent, held = line.split()
        assert (group, key) == ("korthikanti", row["id"])
        assert re.fullmatch(r"[+-]?\d+\.\d", error)
        assert held in {"yes", "no"}
        assert " scored " in line
    assert 'refused  uncovered: "Cerebras" is not an accelerator' in lines[len(rows) + 1]
    assert "mine [1]" in lines[len(rows) + 1]
    last = lines[lines.index(f"some.csv: {len(rows) + 1} rows, {len(rows)} scored, 1 refused") :]
    assert not [line for line in last if not line.strip()]


def test_rows_can_be_left_out(tmp_path: Path) -> None:
    file = written(tmp_path / "some.csv", shipped_rows("korthikanti"))
    whole, brief = ran(file).stdout, ran(file, "--no-rows").stdout
    assert whole == ran(file, "--rows").stdout
    assert whole.endswith(brief)
    assert brief.startswith("group ")
    assert shipped_rows("korthikanti")[0]["id"] not in brief


def test_a_file_of_which_nothing_is_scored_has_no_errors(tmp_path: Path) -> None:
    row = {**shipped_rows("korthikanti")[0], "seq_len": ""}
    result = ran(written(tmp_path / "none.csv", [row]))
    assert "1 row, 0 scored, 1 refused" in result.stdout
    assert "macro-averaged" not in result.stdout
    data = json.loads(ran(written(tmp_path / "none.csv", [row]), "--json").stdout)
    assert (data["scored_share"], data["scored_share_of_usable"], data["median_ape"]) == (0.0, None, None)


def test_nothing_is_left_of_a_file_that_was_learnt_from(tmp_path: Path) -> None:
    file = written(tmp_path / "all.csv", shipped_rows("korthikanti"))
    result = ran(file, "--calibrate-with", file)
    assert result.stdout == "all.csv: 0 rows, 0 scored, 0 refused\n"
    assert "are not scored" in result.stderr
    assert json.loads(ran(file, "--calibrate-with", file, "--json").stdout)["scored_share"] is None


def test_a_left_out_family_is_forecast_without_its_rows(tmp_path: Path) -> None:
    file = written(tmp_path / "some.csv", shipped_rows("korthikanti"))
    data = json.loads(ran(file, "--leave-out", "group", "--json").stdout)
    familiar = json.loads(ran(file, "--json").stdout)
    assert data["mean_ape"] < 0.08
    assert data["mean_ape"] != familiar["mean_ape"]


def test_only_a_row_of_the_plan_that_was_fitted_is_said_to_be_in_sample(tmp_path: Path) -> None:
    rows = shipped_rows("vtrain-single")[:3]
    other = {**rows[0], "id": "other", "micro_batch": "4"}
    notes = " ".join(json.loads(ran(written(tmp_path / "all.csv", [*rows, other]), "--json").stdout)["notes"])
    assert "3 of 4 rows are among the runs" in notes


def test_a_few_rows_correct_the_rest_and_are_not_scored(tmp_path: Path) -> None:
    rows = shipped_rows("torchtitan")
    slow = [{**row, "tokens_per_s_per_device": str(float(row["tokens_per_s_per_device"]) * 0.6)} for row in rows]
    file, few = written(tmp_path / "all.csv", slow), written(tmp_path / "few.csv", slow[:10])
    before = json.loads(ran(file, "--json").stdout)
    after = json.loads(ran(file, "--calibrate-with", few, "--json").stdout)
    assert after["n_scored"] == before["n_scored"] - 10
    assert after["median_ape"] < 0.5 * before["median_ape"]


def test_what_was_learnt_and_what_was_not_is_said(tmp_path: Path) -> None:
    rows, others = shipped_rows("torchtitan"), shipped_rows("llm-foundry")[:3]
    file, many = written(tmp_path / "all.csv", rows), written(tmp_path / "many.csv", rows[:14])
    notes = " ".join(json.loads(ran(file, "--calibrate-with", many, "--json").stdout)["notes"])
    for said in ("Learnt from 10 ", "4 more were not used", "10 rows are among those and are not scored"):
        assert said in notes
    assert "correct little" not in notes
    foreign = written(tmp_path / "foreign.csv", others)
    notes = " ".join(json.loads(ran(file, "--calibrate-with", foreign, "--json").stdout)["notes"])
    assert "they correct little" in notes
    assert "not used" not in notes


@pytest.mark.skipif(truth() is None, reason="optional: the whole table of measurements does not stand beside the code")
def test_the_whole_table() -> None:
    data = json.loads(ran(str(truth()), "--json").stdout)
    assert data["scored_share"] >= 0.95
    assert data["scored_share_of_usable"] >= 0.99
    assert data["refused_kinds"]["unstated"] >= 0.9 * data["n_refused"]
    assert data["macro_median_ape"] < 0.08
    assert 0.85 <= data["interval_coverage_share"] <= 1.0
    assert data["regret_share"] < 0.02


def test_milliseconds_taken_for_seconds_are_not_learnt_from(tmp_path: Path) -> None:
    rows = shipped_rows("torchtitan")
    late = [{**row, "tokens_per_s_per_device": str(float(row["tokens_per_s_per_device"]) / 1000)} for row in rows[:3]]
    file = written(tmp_path / "all.csv", rows[5:])
    few = written(tmp_path / "few.csv", [*late, rows[3], rows[4]])
    right = written(tmp_path / "right.csv", [rows[3], rows[4]])
    found, calm = (json.loads(ran(file, "--calibrate-with", one, "--json").stdout) for one in (few, right))
    notes = " ".join(found["notes"])
    assert "Learnt from 2 " in notes
    assert "3 rows to learn from cannot be read" in notes
    assert "Is it in tokens/s/device?" in notes
    assert [row["forecast_step_s"] for row in found["rows"]] == [row["forecast_step_s"] for row in calm["rows"]]


def test_milliseconds_taken_for_seconds_are_not_scored(tmp_path: Path) -> None:
    """One such row would be the mean's whole error."""
    good, late = {**OWN_METRICS[2], "id": "good"}, {**OWN_METRICS[2], "id": "late", "step_time_s": "2500"}
    alone = json.loads(ran(written(tmp_path / "good.csv", [good]), "--json").stdout)
    for options in ((), ("--leave-out", "group")):
        data = json.loads(ran(written(tmp_path / "both.csv", [good, late]), *options, "--json").stdout)
        assert (data["n_scored"], data["n_refused"], data["refused_kinds"]["unreadable"]) == (1, 1, 1)
        [reason] = [row["reason"] for row in data["rows"] if row["id"] == "late"]
        assert reason.endswith("Is it in seconds?")
        assert "2,500 s a step" in reason
    assert data["scaling"] == alone["scaling"]
    slow = {**good, "step_time_s": "60"}  # a bad run all the same
    assert json.loads(ran(written(tmp_path / "slow.csv", [slow]), "--json").stdout)["n_scored"] == 1


def test_a_refused_row_stands_with_its_accelerator_and_columns_are_known_however_they_are_spelt(tmp_path: Path) -> None:
    rows = shipped_rows("torchtitan")[:2]
    rows[1]["tp"] = "7"
    odd = [{name.replace("_", " ").title(): text for name, text in row.items()} for row in rows]
    data = json.loads(ran(written(tmp_path / "odd.csv", odd), "--json").stdout)
    assert (data["n_scored"], data["n_refused"]) == (1, 1)
    other = [{**row, "accelerator": row["accelerator"].replace("-", " ")} for row in rows]
    by = json.loads(ran(written(tmp_path / "other.csv", other), "--json").stdout)["by_accelerator"]
    assert len(by) == 1
