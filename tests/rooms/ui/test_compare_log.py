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
from datahall.compute.plan import ComputePlan
from datahall.decisions.proposal import Proposal
from datahall.report.comparison import compare
from datahall.ui.compare import measured, named
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
    log = log_of(tmp_path, megatron_lines(seconds=1.3 * forecast, batch=batch))
    compared = datahall("compare", "--log", str(log), str(plan), "--json")
    answer = json.loads(compared.stdout)
    assert compared.code == 0
    assert answer["program"] == "megatron-lm"
    assert 1.15 < answer["next"]["factor"] < 1.3
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
