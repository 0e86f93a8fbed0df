"""A model without formulas: its forecast is what was rehearsed; splits follow from the step that every model has."""

import math
from dataclasses import replace

import pytest
from small_cases import small_case

from datahall.calibrate.machine import Machine
from datahall.calibrate.own_model import own_model
from datahall.compute.anatomy import Anatomy
from datahall.compute.handed_tensor import TensorCuts
from datahall.compute.inventory import Inventory
from datahall.compute.plan import ComputePlan
from datahall.decisions.plan import Plan
from datahall.network.plan import NetworkPlan
from datahall.storage.plan import StoragePlan
from datahall.virtual.training import forecast

DEVICE = {
    "linear_flops_per_s": 5e10, "wide_flops_per_s": 5e10, "attention_flops_per_s": 2e10, "word_bytes": 4.0,
    "attention_backward_share": 0.8, "causal_share": 0.5, "memory_bytes_per_s": 1e10, "stream_bytes_per_s": 8e9,
    "optimiser_bytes_per_s": 9e9, "launch_s": 2e-6, "kernel_s": 2e-6,
}  # fmt: skip
MACHINE = Machine(
    {
        "device": {f"fp32/1 threads/{processes} processes": DEVICE for processes in (1, 2)},
        "link": {"bytes_per_s": 1e9, "latency_s": 1e-4},
        "noise": {"within_run_share": 0.0},
        "machine": {"cores": 4},
    }
)
BLOCK = ((1000, 200), (1000,))
ANATOMY = Anatomy(
    Inventory((BLOCK,) * 4, ((50, 200),)),
    boundary=200,
    last_outside=((50, 200),),
    parts=(TensorCuts(forward=(200,) * 4, backward=(200,) * 4, cut_parameters=4 * 200_000, modules=8),),
    matmul_flops=7_000,
)
PER_MICRO_STEP_S, PER_SAMPLE_S, ACCUMULATE_S, UPDATE_S, INPUT_S = 0.003, 0.0005, 0.001, 0.004, 1e-6
FOUND = {
    "anatomy": ANATOMY.to_json(),
    "steps": [(size, PER_MICRO_STEP_S + PER_SAMPLE_S * size) for size in (2, 8)],
    "accumulate_s": ACCUMULATE_S,
    "update_s": UPDATE_S,
    "input_s": INPUT_S,
    "saved": [(2, 4_000, 800), (8, 16_000, 3_200)],
    "built_bytes": 4 * ANATOMY.parameters + 1e6,
}
MODEL = own_model(MACHINE, FOUND)


def test_one_process_takes_what_was_rehearsed():
    said = _forecast(ComputePlan(micro_batch=4, accumulation=2, precision="fp32")).metrics
    assert said["compute"].value == pytest.approx(2 * (PER_MICRO_STEP_S + 4 * PER_SAMPLE_S) + ACCUMULATE_S, rel=1e-6)
    assert said["optimiser"].value == pytest.approx(UPDATE_S, rel=1e-6)
    assert said["input"].value == pytest.approx(8 * INPUT_S, rel=1e-6)
    assert said["transfer"].value == said["waiting"].value == 0.0
    assert "mfu" not in said


def test_two_copies_exchange_their_gradients_over_the_measured_link():
    said = _forecast(ComputePlan(data=2, micro_batch=4, precision="fp32"))
    payload = 4 * ANATOMY.parameters
    assert said.metrics["transfer"].value == pytest.approx(payload / 1e9 + 2e-4, rel=0.01)
    assert said.counts["collective_bytes"] == said.counts["steps"] * payload
    assert said.counts["matmul_flops"] == said.counts["steps"] * ANATOMY.matmul_flops


@pytest.mark.parametrize("micro_batches", [4, 8])
def test_stages_share_the_work_and_stand_still_for_the_bubble(micro_batches):
    one = PER_MICRO_STEP_S + PER_SAMPLE_S + ACCUMULATE_S * (1 - 1 / micro_batches)
    plan = ComputePlan(pipeline=2, micro_batch=1, accumulation=micro_batches, precision="fp32")
    said = _forecast(plan, batch=micro_batches).metrics
    assert said["compute"].value == pytest.approx(micro_batches * one / 2, rel=0.1)  # a little of it is not cut
    assert said["waiting"].value > one / 2


def test_shards_hold_their_share():
    whole, shared = (_forecast(ComputePlan(data=2, micro_batch=4, precision="fp32", zero_stage=z)) for z in (0, 3))
    plain, third = (MODEL.inputs(small_case(), ComputePlan(data=2, zero_stage=z, precision="fp32")) for z in (0, 3))
    assert float(plain.counts.dense_weights * 4 + plain.counts.embedding_parameters) == ANATOMY.parameters
    assert third.habits.shard_from_stage == 2.0
    assert shared.metrics["optimiser"].value == pytest.approx(whole.metrics["optimiser"].value / 2, rel=1e-6)
    held = [math.prod(shape) for block in (*ANATOMY.inventory.blocks, ANATOMY.inventory.root) for shape in block]
    assert sum(held) == ANATOMY.parameters


def test_tensor_ranks_pay_latency_by_the_call_and_bytes_by_what_is_summed():
    wide = TensorCuts(forward=(8,), tables=(4_000, 4_000), backward=(2_000,), cut_parameters=700_000, modules=4)
    few, many = (
        own_model(MACHINE, {**FOUND, "anatomy": replace(ANATOMY, boundary=width, parts=(wide,)).to_json()})
        for width in (0, 5_000)
    )
    plan = ComputePlan(tensor=2, micro_batch=4, precision="fp32")
    said = [_forecast(plan, model=one).metrics["transfer"].value for one in (few, many)]
    exact = 4 * 2 * 1e-4 + 4 * 4 * (8 + 4_000 + 4_000 + 2_000) / 1e9  # two messages a sum, S/n bytes each
    passes = float(few.inputs(small_case(), plan).habits.tensor_exposed) * 4 * 4 / 4  # layers x sums of each / sums
    assert said == pytest.approx([passes * exact] * 2, rel=1e-3)  # whatever goes from stage to stage


def test_tensor_ranks_share_what_passes_over_the_weights():
    one = _forecast(ComputePlan(micro_batch=1, precision="fp32")).metrics["compute"].value
    two = _forecast(ComputePlan(tensor=2, micro_batch=1, precision="fp32"))
    inputs = MODEL.inputs(small_case(), ComputePlan(tensor=2, micro_batch=1, precision="fp32"))
    weights_s = 3 * 4 * (ANATOMY.parameters - ANATOMY.on_tensor_rank(2)) / 1e10
    assert two.metrics["compute"].value - float(inputs.rates.cut_s) < one - weights_s


def test_one_size_alone_is_a_cost_a_sample():
    told = {**FOUND, "steps": [(4, 0.01)], "saved": [(4, 8_000, 1_600)]}
    model = own_model(MACHINE, told)
    assert (model.micro_step_s, model.sample_s) == (0.0, 0.0025)


def _forecast(compute, batch=0, model=MODEL):
    case = small_case(global_batch=batch or compute.global_batch, entry="mine:build")
    plan = Plan(compute, StoragePlan(), NetworkPlan(), case.hash())
    return forecast(case, plan, model.at(case, compute), model.anatomy)
