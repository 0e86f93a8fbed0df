"""A log laid beside its plan: the measured step, the component that differs, and what the ledger makes of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from called import Said
from called import datahall as called

from datahall.base.errors import UsageError
from datahall.base.label import Label
from datahall.base.metric import Metric
from datahall.compute.plan import ComputePlan
from datahall.decisions.proposal import Proposal
from datahall.report.comparison import compare
from datahall.report.naming import named
from datahall.ui.compare import measured
from datahall.ui.logs.detect import read_log

from .test_logs import deepspeed_lines, foundry_lines, megatron_lines, torchtitan_lines, trainer_lines

Make = Callable[..., Proposal]
PLAN = ComputePlan(data=16, zero_stage=3, micro_batch=1, accumulation=4)  # 64 sequences of 4,096 tokens on 16 devices


def log_of(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "train.log"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "text", [torchtitan_lines(4096), megatron_lines(), deepspeed_lines(), trainer_lines(), foundry_lines()]
)
def test_five_logs_of_one_run_give_one_step_time(make_proposal: Make, tmp_path: Path, text: str) -> None:
    result = measured(make_proposal(PLAN), read_log(log_of(tmp_path, text)))
    assert result.metrics["step_time"].value == pytest.approx(4.0, rel=0.01)


def test_the_component_that_differs_is_named(make_proposal: Make, tmp_path: Path) -> None:
    proposal = make_proposal(PLAN, step_s=3.0)  # forecast: 2.1 compute, 0.6 transfer; the log has 2.8 and 1.0
    compared = compare(proposal.forecast, measured(proposal, read_log(log_of(tmp_path, megatron_lines()))), 0.02)
    assert named(compared).startswith("compute differs most: 18 % of the step more")


def test_a_component_outside_its_interval_is_named_before_one_within(make_proposal: Make, tmp_path: Path) -> None:
    """A slow link of 0.6 s, hidden by 0.9 s less of a compute of which the forecast is unsure."""
    proposal = make_proposal(PLAN, step_s=4.0)  # the log has 2.8 compute, 1.0 transfer; 4 s in all
    unsure = Metric("compute", "seconds", 3.7, 2.5, 5.0, Label.TRANSFERRED)
    metrics = {**proposal.forecast.metrics, "compute": unsure}
    metrics["transfer"] = Metric("transfer", "seconds", 0.4, 0.3, 0.6, Label.TRANSFERRED)
    forecast = replace(proposal.forecast, metrics=metrics)
    compared = compare(forecast, measured(proposal, read_log(log_of(tmp_path, megatron_lines()))), 0.02)
    assert compared.bottleneck.deviating == "transfer"
    assert named(compared).startswith("transfer differs most: 15 % of the step more than was forecast; compute, ")
    assert "within its interval, takes 23 % of the step less" in named(compared)


def test_parts_that_are_off_by_little_are_not_blamed(make_proposal: Make, tmp_path: Path) -> None:
    """Of a step as it was forecast the optimiser takes 0.2 s instead of 0.1, which no interval covers."""
    proposal = make_proposal(PLAN)
    metrics = {name: replace(metric, low=0.0, high=9.0) for name, metric in proposal.forecast.metrics.items()}
    metrics["optimiser"] = Metric("optimiser", "seconds", 0.1, 0.1, 0.1, Label.TRANSFERRED)
    log = read_log(log_of(tmp_path, megatron_lines()))
    compared = compare(replace(proposal.forecast, metrics=metrics), measured(proposal, log), 0.02)
    assert not compared.row("optimiser").within_interval
    assert named(compared).startswith("What is told apart lies within its interval or is off by less than 5.0 %")
    assert "transfer is furthest off, 5.0 % of the step more" in named(compared)


def test_where_the_told_parts_explain_little_the_rest_is_said(make_proposal: Make, tmp_path: Path) -> None:
    def said(loading_s: float) -> str:
        record = {"throughput(tps)": 1e3, "time_metrics/end_to_end(s)": 8.0, "time_metrics/data_loading(s)": loading_s}
        log = read_log(log_of(tmp_path, "".join(json.dumps({"step": n, **record}) + "\n" for n in range(1, 20))))
        return named(compare(proposal.forecast, measured(proposal, log), 0.02), log.more)

    proposal = make_proposal(PLAN)  # 4 s a step, 0.08 s of input
    assert said(0.08).startswith("The step takes 4 s more than was forecast, and what is told apart (input) explains")
    assert "(input) explains 0.6 % of that" in said(0.105)  # outside its interval, and not worth a name
    assert said(0.105).startswith("The step")
    assert "profiler" in said(0.08)
    assert "JSON" not in said(0.08)  # which is on
    assert said(1.08).startswith("input differs most of what is told apart: 12 % of the step more than was forecast. ")
    assert "explains 25 % of that" in said(1.08)
    assert said(3.08) == "input differs most: 38 % of the step more than was forecast."
    fast = make_proposal(PLAN, step_s=20.0)
    proposal = replace(proposal, forecast=fast.forecast)
    assert said(0.9).startswith("The step takes 12 s less than was forecast, and what is told apart (input) explains")
    assert "explains none of that" in said(0.9)


def test_a_log_that_tells_only_its_input_does_not_say_that_input_binds(make_proposal: Make, tmp_path: Path) -> None:
    record = {"throughput(tps)": 3277.0, "time_metrics/end_to_end(s)": 5.0, "time_metrics/data_loading(s)": 1.2}
    log = read_log(log_of(tmp_path, "".join(json.dumps({"step": n, **record}) + "\n" for n in range(20))))
    proposal = make_proposal(PLAN)  # 4 s a step, at most 0.2 s of input
    found = compare(proposal.forecast, measured(proposal, log), 0.02).bottleneck
    assert (found.binding, found.deviating) == ("", "input")
    assert 0.15 < found.excess_share < 0.24  # of the step, not of what the log tells of it
    assert found.sentence.startswith("input is above its forecast by ")


def test_what_a_log_times_together_is_said(make_proposal: Make, tmp_path: Path) -> None:
    log = read_log(log_of(tmp_path, megatron_lines()))
    plain = replace(PLAN, zero_stage=1)
    (hosts,) = measured(make_proposal(plain), log).notes
    assert "held on its hosts" in hosts
    cut = replace(plain, data=4, tensor=2, pipeline=2, accumulation=16)
    said = measured(make_proposal(cut), log).notes[0]
    assert "tensor ranks exchange" in said
    assert "the pipeline's waiting" in said


def test_a_log_without_components_says_how_to_get_them(make_proposal: Make, tmp_path: Path) -> None:
    result = measured(make_proposal(PLAN), read_log(log_of(tmp_path, megatron_lines(timers=False))))
    assert "timing-log-level" in result.notes[0]


def test_a_log_of_another_batch_is_refused(make_proposal: Make, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="global batch is 128"):
        measured(make_proposal(PLAN), read_log(log_of(tmp_path, megatron_lines(batch=128))))


def test_deepspeed_counts_tensor_ranks_into_its_batch(make_proposal: Make, tmp_path: Path) -> None:
    printed = "[2026-03-01 10:00:00,000] [INFO] [config.py:1000:print]   train_batch_size ............. {}\n"
    cut = make_proposal(ComputePlan(data=8, tensor=2, micro_batch=1, accumulation=8))
    nominal = read_log(log_of(tmp_path, printed.format(128) + deepspeed_lines(32.0)))
    assert measured(cut, nominal).metrics["step_time"].value == 4.0
    with pytest.raises(UsageError, match="global batch is 128"):
        measured(make_proposal(PLAN), nominal)


def test_the_command_remembers_and_the_next_forecast_uses_it(tmp_path: Path) -> None:
    def datahall(*arguments: str) -> Said:
        return called(*arguments, DATAHALL_HOME=str(tmp_path / "home"))

    asked = ["plan", "--model", "llama-3.1-8b", "--site", "8xA40", "--set", "application.tokens=1e9", "--json"]
    plan = tmp_path / "plan.json"
    before = json.loads(datahall(*asked, "--out", str(plan)).stdout)
    forecast = _step(before)
    batch = json.loads(plan.read_text())["case"]["application"]["global_batch"]
    log = log_of(tmp_path, megatron_lines(seconds=1.25 * forecast, batch=batch))
    compared = datahall("compare", "--log", str(log), str(plan), "--json")
    answer = json.loads(compared.stdout)
    assert compared.code == 0
    assert answer["program"] == "megatron-lm"
    assert 1.15 < answer["next"]["factor"] < 1.25
    after = json.loads(datahall(*asked).stdout)
    assert _step(after) == pytest.approx(forecast * answer["next"]["factor"], rel=1e-6)
    assert any("Corrected by" in note for note in after["forecast"]["notes"])
    assert _metric(after, "step_time")["label"] in ("calibrated", "transferred")
    width = [_metric(one, "step_time")["high"] / _metric(one, "step_time")["low"] for one in (before, after)]
    assert width[1] <= width[0] * (1 + 1e-9)
    again = json.loads(datahall("compare", "--log", str(log), str(plan), "--json").stdout)
    assert again["next"]["comparisons"] == 1  # the same log is one comparison
    slow = log_of(tmp_path, megatron_lines(seconds=5 * forecast, batch=batch))
    assert datahall("compare", "--log", str(slow), str(plan), "--no-ledger").code == 4


def test_a_run_that_missed_its_interval_lies_in_that_of_the_next_forecast(tmp_path: Path) -> None:
    asked = ["plan", "--model", "llama-3.1-8b", "--site", "dgx-h100", "--set", "application.tokens=1e9"]
    asked += ["--set", "site.stack=megatron-lm", "--json"]
    first = tmp_path / "first.json"
    before = json.loads(called(*asked, "--out", first, DATAHALL_HOME=str(tmp_path)).stdout)
    batch = json.loads(first.read_text())["case"]["application"]["global_batch"]
    log = log_of(tmp_path, megatron_lines(seconds=2 * _step(before), batch=batch))
    missed = called("compare", "--log", log, first, "--json", DATAHALL_HOME=str(tmp_path))
    assert missed.code == 4
    assert json.loads(missed.stdout)["next"]["missed"]
    answer = json.loads(called(*asked, DATAHALL_HOME=str(tmp_path)).stdout)
    assert any("outside the interval forecast without them" in note for note in answer["forecast"]["notes"])
    after = _metric(answer, "step_time")
    assert after["low"] < 2 * _step(before) < after["high"]
    assert after["label"] == "calibrated"
    assert after["high"] / after["low"] > _metric(before, "step_time")["high"] / _metric(before, "step_time")["low"]


def test_a_case_that_names_the_stack_is_corrected_from_its_own_forecast(tmp_path: Path) -> None:
    """The uncorrected forecast of a named stack is another: whoever names it later is led to what was measured too."""

    def step(*arguments: str) -> float:
        asked = ("plan", "--model", "llama-3.1-8b", "--site", "dgx-h100", "--set", "application.tokens=1e9", "--json")
        return _step(json.loads(called(*asked, *arguments, DATAHALL_HOME=str(tmp_path)).stdout))

    plan, named_stack = tmp_path / "plan.json", ("--set", "site.stack=megatron-lm")
    step("--out", str(plan))
    of_stack = step(*named_stack)
    batch = json.loads(plan.read_text())["case"]["application"]["global_batch"]
    log = log_of(tmp_path, megatron_lines(seconds=1.2 * of_stack, batch=batch))
    said = called("compare", "--log", log, plan, "--json", DATAHALL_HOME=str(tmp_path))
    assert "site.stack=megatron-lm" in said.stderr
    assert json.loads(said.stdout)["next"]["label"] == "transferred"
    assert 1.05 * of_stack < step(*named_stack) < 1.2 * of_stack


def _metric(answer: dict, name: str) -> dict:
    return next(metric for metric in answer["forecast"]["metrics"] if metric["name"] == name)


def _step(answer: dict) -> float:
    return _metric(answer, "step_time")["value"]
