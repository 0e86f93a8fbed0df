"""A loop that datahall did not launch, measured by its meter, is laid beside a plan as a run of its own would be."""

import json

import torch
from click.testing import CliRunner
from small_cases import small_case

import datahall
from datahall.base.result import Result
from datahall.compute.plan import ComputePlan
from datahall.decisions.plan import Plan
from datahall.decisions.proposal import Proposal
from datahall.network.plan import NetworkPlan
from datahall.real.meter import Meter
from datahall.storage.plan import StoragePlan
from datahall.ui.compare import compare_log
from datahall.virtual.calibration import Uncalibrated
from datahall.virtual.training import forecast
from datahall.workloads import entry

STEPS = 4
PARTS = ("compute", "transfer", "waiting", "input", "optimiser")


def test_counts_are_equal_and_the_component_that_differs_is_named(tmp_path):
    case = small_case()
    batch = case.application.global_batch
    plan = Plan(ComputePlan(micro_batch=batch, precision="fp32"), StoragePlan(), NetworkPlan(), case.hash())
    Proposal(case, plan, forecast(case, plan, Uncalibrated())).save(tmp_path / "plan.json")
    result = _trained(case, tmp_path / "mine")
    done = CliRunner().invoke(
        compare_log, ["--log", str(tmp_path / "mine"), str(tmp_path / "plan.json"), "--json"], standalone_mode=False
    )
    assert done.exception is None, done.output
    told = json.loads(done.output)
    assert done.return_value == (0 if told["components"][_at(told, "step_time")]["within_interval"] else 4)
    counts = {row["name"]: (row["forecast"], row["measured"]) for row in told["counts"]}
    for name in ("steps", "samples", "tokens", "matmul_flops", "attention_flops", "collective_bytes"):
        forecast_count, measured_count = counts[name]
        assert forecast_count == measured_count == result.counts[name], name
    names = {row["name"] for row in told["components"]}
    assert names >= {"compute", "input", "optimiser", "step_time", "peak_memory", "host_memory"}
    off = {row["name"]: abs(row["measured"] - row["forecast"]) for row in told["components"] if row["name"] in PARTS}
    assert f"{max(off, key=lambda name: off[name])} " in told["named"]


def test_the_same_from_python(tmp_path):
    case = small_case()
    batch = case.application.global_batch
    plan = Plan(ComputePlan(micro_batch=batch, precision="fp32"), StoragePlan(), NetworkPlan(), case.hash())
    expected = datahall.forecast(case, plan, Uncalibrated())
    measured = Result("real", dict(expected.metrics), dict(expected.counts))
    assert datahall.compare(expected, measured, 0.03).verdict.word == "holds"


def test_a_folder_without_a_measurement_is_refused(tmp_path):
    case = small_case()
    compute = ComputePlan(micro_batch=case.application.global_batch, precision="fp32")
    plan = Plan(compute, StoragePlan(), NetworkPlan(), case.hash())
    Proposal(case, plan, forecast(case, plan, Uncalibrated())).save(tmp_path / "plan.json")
    done = CliRunner().invoke(compare_log, ["--log", str(tmp_path), str(tmp_path / "plan.json")])
    assert "not a folder of datahall.meter" in str(done.exception)


def _at(told, name):
    return [row["name"] for row in told["components"]].index(name)


def _trained(case, folder):
    workload = entry.build(case)
    optimiser = torch.optim.AdamW(workload.model.parameters())
    batch, sequence = case.application.global_batch, case.application.sequence
    numbers = [range(step * batch, (step + 1) * batch) for step in range(STEPS)]
    with Meter(folder, workload.model, tokens_per_step=batch * sequence) as meter:
        for ids in meter.batches(workload.data.batch(one) for one in numbers):
            loss = workload.loss(workload.model, ids)
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
    return meter.result
