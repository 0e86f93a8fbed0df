"""The machine's calibration: sensitivities are the forecast's, a fit finds the truth, intervals follow the fit."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from probed_rates import DEVICE, RATES, probed_case
from small_cases import MIXTURE

from datahall.base.errors import Refused
from datahall.base.label import Label
from datahall.base.result import Result
from datahall.calibrate.machine import Machine, MeasuredRun, fit_machine
from datahall.calibrate.machine_constants import CONSTANTS, sensitivities
from datahall.calibrate.memory_fit import fit_memory
from datahall.case.local import guessed_site
from datahall.case.model import ModelShape
from datahall.case.question import Case, Goal, Training
from datahall.compute.estimate import DeviceRates
from datahall.compute.numbers import PlanNumbers
from datahall.compute.plan import ComputePlan
from datahall.compute.step import step_table
from datahall.decisions.plan import Plan
from datahall.network.plan import NetworkPlan
from datahall.prove.configurations import HELD_OUT, SEEN, configurations
from datahall.storage.plan import StoragePlan
from datahall.virtual.calibration import trainable_share
from datahall.virtual.step_time import step_time
from datahall.virtual.training import forecast


@pytest.fixture(scope="module")
def case():
    return probed_case()


def played(one, truth):
    """What a machine would measure whose constants are `truth` times slower than the probe says."""
    slower = Machine(RATES, local=replace(Machine(RATES).local, multipliers=truth))
    result = forecast(one.case, one.plan, slower.at(one.case, one.plan.compute))
    return MeasuredRun(one.case, one.plan.compute, Result("real", result.metrics))


@given(st.lists(st.floats(0.9, 3.0), min_size=len(CONSTANTS), max_size=len(CONSTANTS)), st.integers(0, 2))
@settings(max_examples=15, deadline=None)
def test_sensitivities_are_those_of_the_forecast(factors, which):
    case = Case("x", ModelShape("lm", 3, 192, 6, 3, 32, 512, 256), Training(1e5, 8, 96), guessed_site()[0], Goal())
    one = configurations(case, SEEN, 3, 0, ("fp32",))[which]
    names = [f"{name} fp32" if name in {"product", "element"} else name for name in CONSTANTS]
    multipliers = dict(zip(names, factors, strict=True))

    def seconds(changed):
        machine = Machine(RATES, local=replace(Machine(RATES).local, multipliers=changed))
        return forecast(one.case, one.plan, machine.at(one.case, one.plan.compute)).metrics

    probed = Machine(RATES).probed(one.case, one.plan.compute)
    found = sensitivities(probed, PlanNumbers.of(one.plan.compute), one.plan.compute, multipliers)
    for component, part in found.items():
        assert part.seconds == pytest.approx(seconds(multipliers)[component].value, rel=1e-6)
        for name, slope in part.slopes.items():
            nudged = seconds({**multipliers, name: multipliers[name] * 1.02})[component].value
            assert nudged - part.seconds == pytest.approx(0.02 * slope, rel=0.03, abs=1e-9)
    assert ("threads" in found["compute"].slopes) == (one.plan.compute.threads > 1)


def test_a_fit_recovers_a_slower_machine_and_says_calibrated(case):
    slower = {"product fp32": 1.3, "product bf16": 1.4, "kernel": 3.0, "element fp32": 1.6}
    truth = {**slower, "optimiser": 0.6, "bandwidth": 1.5}
    fitted = fit_machine(
        Machine(RATES), [played(one, truth) for one in configurations(case, SEEN, 14, 1, ("fp32", "bf16"))]
    )
    assert fitted.label is Label.CALIBRATED
    for one in configurations(case, HELD_OUT, 8, 1, ("fp32", "bf16")):
        measured = played(one, truth).measured.metrics["step_time"].value
        before = forecast(one.case, one.plan, Machine(RATES).at(one.case, one.plan.compute)).metrics["step_time"]
        after = forecast(one.case, one.plan, fitted.at(one.case, one.plan.compute)).metrics["step_time"]
        assert abs(math.log(after.value / measured)) < 0.06
        assert abs(math.log(after.value / measured)) < abs(math.log(before.value / measured))
        assert after.low < measured < after.high


def test_a_precision_that_the_probe_did_not_measure_is_refused(case):
    one = configurations(case, SEEN, 1, 0, ("fp16",))[0]
    with pytest.raises(Refused, match="fp16"):
        forecast(one.case, one.plan, Machine(RATES).at(one.case, one.plan.compute))


def test_memory_constants_come_back_and_cover_a_left_out_run():
    points = [(s, a, s + 1.7 * a + 60e6) for s, a in ((1e8, 5e7), (2e8, 3e8), (4e8, 1e8), (1e9, 8e8), (3e8, 3e8))]
    fitted = fit_memory(points)
    assert fitted.bytes(5e8, 2e8) == pytest.approx(5e8 + 1.7 * 2e8 + 60e6, rel=0.03)


def test_a_plan_of_another_case_is_not_forecast(case):
    one = configurations(case, SEEN, 1, 0, ("fp32",))[0]
    plan = Plan(one.plan.compute, StoragePlan(), NetworkPlan(), "0" * 64)
    with pytest.raises(Exception, match="another case"):
        forecast(one.case, plan, Machine(RATES).at(one.case, one.plan.compute))


def test_a_thread_more_is_a_core_more_in_the_peak_that_mfu_is_a_share_of(case):
    doubled = {**DEVICE, "linear_flops_per_s": 1.6e11, "wide_flops_per_s": 1.6e11, "attention_flops_per_s": 1e11}
    quick = {
        **RATES,
        "device": {**RATES["device"], "fp32/2 threads/1 processes": {**doubled, "memory_bytes_per_s": 1e12}},
    }
    core = replace(case.site.accelerator, peak_flops_per_s={"fp32": 8e10})
    one = replace(case, site=replace(case.site, accelerator=core, devices_per_node=2))
    compute = ComputePlan(data=1, threads=2, micro_batch=16, precision="fp32")
    plan = Plan(compute, StoragePlan(), NetworkPlan(), one.hash())
    assert 0.5 < forecast(one, plan, Machine(quick).at(one, compute)).metrics["mfu"].value <= 1.0


def test_an_update_pays_for_each_tensor_that_is_trained(case):
    """Adapters are many small tensors; a flat buffer (ZeRO stage 1) is one, and stages share them out."""
    rates = {**RATES, "device": {"fp32/1 threads/1 processes": {**DEVICE, "update_tensor_s": 1e-5}}}
    lora = replace(case, application=replace(case.application, method="lora", lora_rank=4))

    def update_s(asked, **split):
        return Machine(rates).probed(asked, ComputePlan(precision="fp32", **split)).habits.update_s

    layers = case.model.layers
    assert update_s(case) == pytest.approx(1e-5 * (layers * 9 + 3))
    assert update_s(lora) == pytest.approx(1e-5 * layers * 4 * 2)
    assert update_s(case, data=2, zero_stage=1) == pytest.approx(1e-5)
    assert update_s(case, pipeline=2) == pytest.approx(1e-5 * (layers * 9 + 3) / 2)


def test_frozen_weights_have_no_buckets(case):
    lora = replace(case, application=replace(case.application, method="lora", lora_rank=4))
    alone, together = ComputePlan(precision="fp32"), ComputePlan(data=2, precision="fp32")

    def reserved(asked, plan):
        return Machine(RATES).probed(asked, plan).memory.reserved_bytes

    full, adapted = (reserved(asked, together) - reserved(asked, alone) for asked in (case, lora))
    assert full > 4 * case.model.parameters()
    assert adapted == pytest.approx(full * trainable_share(lora))


def test_what_buckets_hide_makes_arithmetic_longer_and_not_the_step_shorter(case):
    compute = ComputePlan(data=2, micro_batch=4, accumulation=2, precision="fp32")

    def seconds(bucket_bytes, cores):
        rates = {**RATES, "machine": {"cores": cores}}
        plan = Plan(compute, StoragePlan(), NetworkPlan(bucket_bytes=bucket_bytes), case.hash())
        return forecast(case, plan, Machine(rates).at(case, compute)).metrics

    one, many = seconds(10**9, 2), seconds(10**6, 2)
    assert many["transfer"].value < 0.3 * one["transfer"].value
    assert many["compute"].value > one["compute"].value
    assert many["step_time"].value == pytest.approx(one["step_time"].value, rel=0.05)  # more messages
    free = seconds(10**6, 4)  # a core for each worker's transfers
    assert free["compute"].value == seconds(10**9, 4)["compute"].value
    assert free["step_time"].value < many["step_time"].value


@pytest.mark.parametrize("split", [{"tensor": 2}, {"tensor": 2, "sequence_parallel": True}, {"tensor": 2, "expert": 2}])
def test_products_take_as_long_as_their_flops_where_nothing_else_does(split):
    """A router is whole on every tensor rank; only beside expert ranks does each route its own tokens alone."""
    case = Case("x", MIXTURE, Training(1e5, 8, 32), guessed_site()[0], Goal())
    plan = replace(ComputePlan(micro_batch=4, precision="fp32", sequence_parallel=False), **split)
    plan = replace(plan, data=plan.expert)
    free = DeviceRates(1e9, 1e9, 1e9, 1e30)
    seconds = step_time(replace(Machine(RATES).probed(case, plan), rates=free), PlanNumbers.of(plan))
    products = {"attention projections", "mlp", "router", "experts", "shared experts"}
    rows = step_table(MIXTURE, 32, plan).rows
    flops = sum(row.flops for row in rows if row.name.removesuffix(" forward").removesuffix(" backward") in products)
    assert 1e9 * float(seconds.linear + seconds.experts) == pytest.approx(flops, rel=1e-9)
