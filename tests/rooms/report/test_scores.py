"""Scores as text: whole through a pipe, within a terminal of any width, sums last."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
from measured_rows import shipped_rows

from datahall.calibrate.forecasting import forecast_runs
from datahall.calibrate.judge import Judgement
from datahall.calibrate.published import read_runs
from datahall.calibrate.shipped import load
from datahall.report.columns import aligned
from datahall.report.scores import told


@pytest.fixture(scope="module")
def judged() -> dict[str, Any]:
    rows = [*shipped_rows("korthikanti"), *shipped_rows("sc21"), *shipped_rows("megatron-bridge")[:12]]
    lost = [{**rows[-1], "id": "lost", "seq_len": ""}, {**rows[-1], "id": "odd", "accelerator": "Cerebras"}]
    runs, refused = read_runs([*rows, *lost])
    return Judgement(tuple(runs), forecast_runs(load(), runs), tuple(refused)).to_json()


def lines(data: dict[str, Any], width: int | None, *, rows: bool = True) -> list[str]:
    return [line for part in told(data, "some", width, rows=rows) for line in (part.heading, *part.lines)]


@pytest.mark.parametrize("width", [80, 100, 140, 200])
def test_it_fits_the_terminal_and_every_run_is_there(judged: dict[str, Any], width: int) -> None:
    said = lines(judged, width)
    assert max(map(len, said)) <= width
    for row in judged["rows"]:
        [own] = [line for line in said if f" {row['id']} " in line]
        assert row["model"] in own  # these names are short enough for all widths


def test_tables_of_scores_fit_80_columns_whatever_the_figures_and_names(judged: dict[str, Any]) -> None:
    data = copy.deepcopy(judged)
    wide = dict.fromkeys(("median_ape", "mean_ape", "p90_ape", "median_half_width_share"), 0.888)
    wide |= {"n_scored": 1259, "n_refused": 12, "bias": -0.777, "interval_coverage_share": 1.0}
    data["by_group"] = {"of-a-name-that-nobody-would-give-to-a-group-of-runs-2026": wide, "short": wide}
    data["by_condition"] = dict.fromkeys(("repeated", "familiar", "unseen", "shot", "shot-familiar"), wide)
    said = lines(data, 80, rows=False)
    assert max(map(len, said)) <= 80
    assert any(re.match("of-a-na.*….*-2026 ", line) for line in said)
    for name in ("stack and accelerator fitted ", "rows shown, family not fitted "):  # not cut
        assert any(line.startswith(name) for line in said)


def test_through_a_pipe_each_row_is_one_whole_line(judged: dict[str, Any]) -> None:
    said = lines(judged, None)
    for row in judged["rows"]:
        [own] = [line for line in said if f" {row['id']} " in line]
        names = ("group", "model", "accelerator", "unit") if row["scored"] else ("group", "model", "reason", "kind")
        assert all(row[name] in own for name in names)
        assert ("scored" if row["scored"] else "refused") in own
        assert not own.endswith(" ")


def test_a_narrow_terminal_names_in_a_heading_what_rows_have_in_common(judged: dict[str, Any]) -> None:
    said = lines(judged, 80)
    assert "korthikanti, A100-80GB-SXM, in s: 8 scored" in said
    assert "megatron-bridge, Cerebras: 1 refused" in said


def test_only_models_are_cut_and_only_where_they_must_be(judged: dict[str, Any]) -> None:
    data = copy.deepcopy(judged)
    data["rows"][0]["model"] = long = "a-model-with-a-name-that-is-longer-than-a-terminal-has-place-for-175B"
    narrow, wide = (next(line for line in lines(data, width) if data["rows"][0]["id"] in line) for width in (80, None))
    assert len(narrow) <= 80
    assert re.search("a-model-.*….*-175B ", narrow)
    assert long in wide


def test_all_sums_that_were_asked_for_are_last(judged: dict[str, Any]) -> None:
    judged = {**judged, "bias": -0.0123}  # its own is near zero, which has no sign
    *_, last = told(judged, "some", None, rows=True)
    assert last.heading == "some: 32 rows, 30 scored, 2 refused"
    said = {line[2:16].strip() or "and": line[18:] for line in last.lines}

    def percent(name: str) -> str:
        return f"{100 * judged[name]:.1f} %"

    assert said["coverage"] == f"{percent('scored_share')} of the rows are scored"
    assert said["refused"] == "1 unstated, 1 uncovered"
    for label, prefix in (("absolute error", ""), ("macro-averaged", "macro_")):
        for word, name in (("median", "median_ape"), ("mean", "mean_ape"), ("p90", "p90_ape")):
            assert f"{word} {percent(prefix + name)}" in said[label]
    assert said["bias"].startswith("-1.2 %")
    half = percent("median_half_width_share")
    assert said["90 % intervals"] == f"{percent('interval_coverage_share')} held, median half-width {half}"
    assert said["interval score"].startswith(f"{judged['interval_score']:.3f}")
    assert f"{percent('scored_share_of_usable')} of the 31 neither impossible nor unstated" in last.lines[1]


def test_sources_are_told_with_the_rows(judged: dict[str, Any]) -> None:
    said = lines(judged, None)
    start = said.index("group            rows  source")
    for row in judged["rows"]:
        assert any(line.startswith(row["group"]) and line.endswith(row["source"]) for line in said[start:])
    assert any(re.match(r"sc21 +10  ", line) for line in said[start:])
    assert not [line for line in lines(judged, None, rows=False) if line.endswith("  source")]
    nowhere = [{**row, "source": ""} for row in judged["rows"]]
    assert not [line for line in lines({**judged, "rows": nowhere}, None) if line.endswith("  source")]


def test_one_row_is_one(judged: dict[str, Any]) -> None:
    kept = {"n_pairs": 1, "median_ape": 0.1, "mean_ape": 0.1, "linear_median_ape": 0.2, "linear_mean_ape": 0.2}
    one = {**judged, "n_rows": 1, "n_choices": 1, "n_choices_quality_a": 1, "regret_share": 0.0, "scaling": kept}
    said = lines(one, None)
    assert any(line.startswith("some: 1 row, ") for line in said)
    assert any(line.endswith("mean of 1 pick") for line in said)
    assert any(line.endswith("1 pair of runs)") for line in said)


def test_regret_is_told_where_there_is_a_choice(judged: dict[str, Any]) -> None:
    none = {**judged, "regret_share": None, "n_choices": 0}
    assert not [line for line in lines(none, None) if "regret" in line]
    chosen = {**judged, "regret_share": 0.0123, "n_choices": 7}
    assert [line for line in lines(chosen, None) if "1.2 % slower than the best measured plan, mean of 7" in line]
    apart = {**chosen, "n_choices_quality_a": 3, "regret_share_quality_a": 0.004}
    assert [line for line in lines(apart, None) if line.strip() == "0.4 % over the 3 between rows of quality A alone"]
    assert not [line for line in lines({**apart, "n_choices_quality_a": 7}, None) if "alone" in line]


def test_macro_averages_of_rows_without_quality_a_do_not_claim_it(judged: dict[str, Any]) -> None:
    assert any("(over groups, quality A)" in line for line in lines(judged, None))
    assert any("(over groups)" in line for line in lines({**judged, "macro_quality": None}, None))


def test_figures_have_no_exponent(judged: dict[str, Any]) -> None:
    data = copy.deepcopy(judged)
    data["rows"][0] |= {"measured": 123456.0, "forecast": 0.00001234, "low": 0.00000999, "high": 98765.0}
    own = next(line for line in lines(data, None) if data["rows"][0]["id"] in line)
    assert "123500  0.00001234  0.00000999 to 98800" in own


def test_a_sentence_is_wrapped_below_itself() -> None:
    rows = [["name", "1", "2.5"], ["b", "a sentence that is longer than the line"]]
    assert aligned(rows, {1, 2}, 34) == (
        "name  1  2.5",
        "b     a sentence that is longer",
        "      than the line",
    )
    assert aligned(rows, {1, 2}) == ("name  1  2.5", "b     a sentence that is longer than the line")


def test_repeats_of_fitted_runs_are_scored_apart_from_others(judged: dict[str, Any]) -> None:
    assert set(judged["by_condition"]) == {row["condition"] for row in judged["rows"] if row["scored"]} == {"repeated"}
    assert not any("repeats of fitted runs" in line for line in lines(judged, 100))  # those of all rows say it
    rows = shipped_rows("sc21")
    longer = [{**row, "id": f"{row['id']}-new", "seq_len": "4096"} for row in rows[:4]]
    runs, refused = read_runs([*rows, *longer])
    both = Judgement(tuple(runs), forecast_runs(load(), runs), tuple(refused)).to_json()
    counts = {name: scores["n_scored"] for name, scores in both["by_condition"].items()}
    assert counts == {"repeated": len(rows), "familiar": 4}
    assert both["by_condition"]["familiar"]["median_half_width_share"] > both["median_half_width_share"]
    assert sum("repeats of fitted runs" in line for line in lines(both, 100)) == 1
