"""The step of many plans in one call is the step of each; better hardware is never slower; data sheets set limits."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datahall.base.label import Label
from datahall.case import from_model_and_site, loads
from datahall.case.named_model import shape_of
from datahall.case.named_site import accelerator_of
from datahall.catalog import accelerators
from datahall.compute.adapters import AdapterNumbers
from datahall.compute.counts import ShapeCounts, stack_counts
from datahall.compute.memory import memory
from datahall.compute.mfu import model_flops_per_step
from datahall.compute.numbers import PlanNumbers, stack_plans
from datahall.compute.plan import ComputePlan
from datahall.decisions import Plan
from datahall.network.plan import NetworkPlan
from datahall.storage.plan import StoragePlan
from datahall.virtual.calibration import Uncalibrated
from datahall.virtual.constants import CONSTANTS, expected
from datahall.virtual.links import LinkRates
from datahall.virtual.pricing import Setting, setting_of, stack_settings, step_inputs
from datahall.virtual.step_time import StepSeconds, step_time
from datahall.virtual.training import forecast
from datahall.virtual.traits import traits_of
from datahall.virtual.transferred import default_calibration

MODELS = ("gpt2", "llama-3.1-8b", "llama-3.1-70b", "mixtral-8x7b", "deepseek-v3", "gpt-oss-120b")
CARDS = ("A100-80GB-SXM", "H100-SXM", "H800-SXM", "B200", "GB300", "MI300X", "RTX4090", "TPU-v5e")
STACKS = ("torchtitan", "Megatron-LM", "Megatron-Bridge 26.02", "llm-foundry", "MaxText", "")

plans = st.builds(
    ComputePlan,
    data=st.sampled_from([1, 2, 8, 64]),
    tensor=st.sampled_from([1, 2, 8]),
    pipeline=st.sampled_from([1, 2, 4]),
    virtual_stages=st.sampled_from([1, 2]),
    context=st.sampled_from([1, 2]),
    expert=st.sampled_from([1, 2]),
    zero_stage=st.integers(0, 3),
    micro_batch=st.sampled_from([1, 3]),
    accumulation=st.sampled_from([1, 16]),
    recompute=st.sampled_from(["none", "selective", "full"]),
    sequence_parallel=st.booleans(),
)
questions = st.tuples(
    st.sampled_from(MODELS), st.sampled_from(CARDS), st.sampled_from(STACKS), st.sampled_from([512, 4096, 65536]), plans
)


def setting(card: str, stack: str) -> Setting:
    entry = accelerators.accelerator(card)
    torus = {"torus_dims": 2.0, "wraps_from": 2.0} if entry.kind == "tpu" else {}
    links = LinkRates(300e9, 3e-6, 8.0, 25e9, 5e-6, **torus)
    return setting_of(accelerator_of(entry), "bf16", traits_of(stack, entry.kind), links)


def with_links(at: Setting, **changed: float) -> Setting:
    return replace(at, links=replace(at.links, **changed))


@settings(max_examples=30, deadline=None)
@given(st.lists(questions, min_size=2, max_size=5))
def test_element_i_of_the_array_answer_is_the_scalar_answer(asked: list) -> None:
    counts = [ShapeCounts.of(shape_of(model)) for model, *_ in asked]
    places = [setting(card, stack) for _, card, stack, *_ in asked]
    sequence = np.array([float(one[3]) for one in asked])
    cuts = [one[4] for one in asked]
    inputs = step_inputs(stack_counts(counts), sequence, stack_settings(places), expected())
    together = step_time(inputs, stack_plans(cuts))
    held = memory(inputs.counts, sequence, stack_plans(cuts), inputs.memory)
    for index, one in enumerate(asked):
        alone_inputs = step_inputs(counts[index], one[3], places[index], expected())
        alone = step_time(alone_inputs, PlanNumbers.of(cuts[index]))
        for field in fields(StepSeconds):
            whole = np.broadcast_to(getattr(together, field.name), len(asked))
            assert whole[index] == pytest.approx(float(getattr(alone, field.name)), rel=1e-9, abs=1e-15), field.name
        bytes_alone = memory(counts[index], one[3], PlanNumbers.of(cuts[index]), alone_inputs.memory)
        assert held.total[index] == pytest.approx(float(bytes_alone.total), rel=1e-9)


LINKS = ("up_bytes_per_s", "out_bytes_per_s")
FASTER = ("product_flops_per_s", "memory_bytes_per_s", *LINKS)


@settings(max_examples=40, deadline=None)
@given(questions, st.sampled_from(FASTER), st.floats(1.0, 10.0))
def test_more_of_a_rate_is_never_slower(one: tuple, name: str, times: float) -> None:
    model, card, stack, sequence, cut = one
    here = setting(card, stack)
    on = here.links if name in LINKS else here
    faster = {name: getattr(on, name) * times}
    there = with_links(here, **faster) if name in LINKS else replace(here, **faster)
    counts, plan = ShapeCounts.of(shape_of(model)), PlanNumbers.of(cut)
    slow, fast = (float(step_time(step_inputs(counts, sequence, at, expected()), plan).total) for at in (here, there))
    assert fast <= slow * (1 + 1e-12)


@settings(max_examples=40, deadline=None)
@given(questions)
def test_parts_are_finite_and_add_up(one: tuple) -> None:
    model, card, stack, sequence, cut = one
    step = step_time(
        step_inputs(ShapeCounts.of(shape_of(model)), sequence, setting(card, stack), expected()), PlanNumbers.of(cut)
    )
    parts = [float(getattr(step, field.name)) for field in fields(StepSeconds)]
    assert all(np.isfinite(part) and part >= 0 for part in parts)
    assert float(step.total) >= float(step.compute)


def test_every_constant_says_what_it_means_and_moves_a_step() -> None:
    assert len({constant.name for constant in CONSTANTS}) == len(CONSTANTS) < 60
    assert all(constant.expected > 0 and constant.log_sd > 0 and constant.meaning for constant in CONSTANTS)


def test_a_catalogue_site_is_forecast_by_transferred_constants_and_slower_than_the_ideal() -> None:
    case = from_model_and_site("llama-3.1-8b", "2xdgx-h100")
    batch = case.application.global_batch
    cut = ComputePlan(data=16, zero_stage=3, micro_batch=1, accumulation=batch // 16)
    result = forecast(case, Plan(cut, StoragePlan(), NetworkPlan(), case.hash()))
    step = result.metrics["step_time"]
    assert step.label is Label.TRANSFERRED
    assert step.low < step.value < step.high < 2 * step.value
    assert 0.3 < result.metrics["mfu"].value < 0.6
    flops = model_flops_per_step(ShapeCounts.of(case.model), case.application.sequence, batch)
    assert step.value > flops / (16 * 989.5e12)  # the peak of every device


def test_a_processor_of_the_catalogue_says_that_no_run_stands_behind_it() -> None:
    said = {}
    for name in ("8xXeon-8480", "8xA40"):
        case = from_model_and_site("llama-3.2-1b", name)
        cut = ComputePlan(data=8, zero_stage=3, accumulation=case.application.global_batch // 8)
        said[name] = forecast(case, Plan(cut, StoragePlan(), NetworkPlan(), case.hash()))
    processor, card = said.values()
    assert any("No measured run on a Xeon-8480" in note for note in processor.notes)
    assert not any("No measured run" in note for note in card.notes)
    step = processor.metrics["step_time"]
    assert step.high > 3 * step.value  # and what an unstated network between eight nodes adds
    assert processor.metrics["mfu"].low < 0.2  # what processors are known to reach is inside


def test_a_pipeline_over_two_nodes_pays_for_the_network_between_them() -> None:
    case = from_model_and_site("llama-3.1-8b", "2x8xA40", tokens=1e9)
    plan = ComputePlan(data=2, context=2, pipeline=4, virtual_stages=4, zero_stage=1, accumulation=64)

    def sent_s(nodes_apart: bool, rate: float) -> float:
        site = replace(case.site, scale_out=replace(case.site.scale_out, bytes_per_s=rate))
        site = site if nodes_apart else replace(site, nodes=1, devices_per_node=16, scale_up_domain=16)
        inputs = default_calibration(case).inputs(replace(case, site=site), plan)
        return float(step_time(inputs, PlanNumbers.of(plan)).pipeline_exchange)

    assert sent_s(True, 5e7) > 5 * sent_s(True, 1e9)
    assert sent_s(False, 5e7) == sent_s(False, 1e9)


def test_unfitted_cards_makers_and_adapters_widen_a_plan_s_interval() -> None:
    text = "model: llama-3.1-8b\napplication: {{kind: {}, tokens: 1e9, sequence: 4096}}\nsite: {}\n"

    def half(site: str, kind: str = "training") -> float:
        return math.log(default_calibration(loads(text.format(kind, site))).spread("step_time")[1])

    fitted, card, maker = (half(site) for site in ("8xH100-SXM", "8xA40", "8xMI300X"))
    assert fitted < card < maker
    assert half("8xH100-SXM", "fine-tuning, method: lora, lora_rank: 16") > 2 * fitted


def test_fill_and_drain_pass_the_stages_before_the_head() -> None:
    constants = {**expected(), "straggler_share": 0.0}
    plan = PlanNumbers(pipeline=4, accumulation=8, recompute=2)
    step = step_time(
        step_inputs(ShapeCounts.of(shape_of("llama-3.1-8b")), 4096, setting("H100-SXM", ""), constants), plan
    )
    assert step.logits > 0.05 * step.compute
    assert step.waiting == pytest.approx(3 * (step.compute + step.transfer - step.logits) / 8, rel=1e-3)


def test_a_last_stage_that_lacks_a_layer_has_the_head_in_its_place() -> None:
    shape = shape_of("llama-3.1-70b")
    inputs = [
        step_inputs(ShapeCounts.of(replace(shape, layers=layers)), 4096, setting("H100-SXM", ""), expected())
        for layers in (79, 80)
    ]
    plan = PlanNumbers(pipeline=8, tensor=8, accumulation=16, recompute=2)
    short, full = (step_time(one, plan) for one in inputs)
    assert short.logits < 0.2 * full.logits
    assert short.linear == pytest.approx(full.linear)  # the stages before it are as long


def test_a_lookup_moves_a_token_s_rows_and_its_gradient_the_whole_table() -> None:
    shape = shape_of("llama-3.1-8b")  # 128,256 rows of 4,096 in 16 bits: 1.05 GB
    at = setting("H100-SXM", "torchtitan")
    constants = {**expected(), "kernel_s": 1e-12, "memory_share": 1.0}

    def lookup_s(rank: float = 0.0, **cut: float) -> float:
        adapters = AdapterNumbers(rank=rank, matrices=7.0 * (rank > 0), width=1e4 * (rank > 0))
        inputs = step_inputs(ShapeCounts.of(shape), 8192, at, constants, adapters=adapters)
        return float(step_time(inputs, PlanNumbers(recompute=2, **cut)).embedding)

    rows, table = 8192 * 4096 * 2 / 3.35e12, 128256 * 4096 * 2 / 3.35e12
    assert lookup_s() == pytest.approx(5 * rows + 2 * table)
    assert lookup_s(accumulation=3) == pytest.approx(3 * lookup_s())
    assert lookup_s(tensor=8) == pytest.approx(5 * rows + 2 * table / 8)  # each rank has all tokens, and its part of it
    assert lookup_s(rank=16) == pytest.approx(2 * rows)  # a frozen table gets no gradient
    assert lookup_s(pipeline=4) == 0.0  # of the first stage, which waits for the last
    no_words = step_inputs(ShapeCounts.of(replace(shape, vocab=0)), 8192, at, constants)
    assert step_time(no_words, PlanNumbers()).embedding == 0.0


def test_device_seconds_are_those_of_the_parts() -> None:
    inputs = step_inputs(ShapeCounts.of(shape_of("mixtral-8x7b")), 4096, setting("H100-SXM", ""), expected())
    step = step_time(inputs, PlanNumbers(data=8, expert=8, recompute=2, accumulation=2))
    kinds = ("linear", "experts", "attention", "elementwise", "embedding", "logits", "recompute", "launch", "beside")
    assert sum(float(getattr(step, kind)) for kind in kinds) == pytest.approx(float(step.compute))
    assert step.embedding > 0.0


def test_an_all_reduce_over_two_domains_sends_half_of_what_a_ring_does_between_them() -> None:
    here = with_links(setting("A100-80GB-SXM", "Megatron-LM"), up_bytes_per_s=1e18, up_latency_s=0.0, out_latency_s=0.0)
    inputs = step_inputs(ShapeCounts.of(shape_of("llama-3.1-8b")), 4096, here, expected())
    plan = PlanNumbers(tensor=np.array([16, 16, 8, 8]), sequence_parallel=np.array([0, 1, 0, 1]))
    sent = step_time(inputs, plan).tensor_exchange
    assert sent[0] / sent[1] == pytest.approx((1 / 2) / (15 / 16), rel=1e-6)
    assert sent[2] == pytest.approx(sent[3])


def test_gradients_of_a_pipeline_s_first_chunks_to_finish_hide_behind_the_others() -> None:
    exposed = expected()["gradient_exposed"]

    def seconds(stack: str, **split: int) -> float:
        here = with_links(setting("H100-SXM", stack), out_bytes_per_s=2e9)  # more than one pass can hide
        inputs = step_inputs(ShapeCounts.of(shape_of("llama-3.1-70b")), 4096, here, expected())
        step = step_time(inputs, PlanNumbers(data=64, tensor=8, pipeline=4, accumulation=8, zero_stage=1, **split))
        return float(step.gradient_exchange)

    one, four = (seconds("Megatron-Bridge 26.02", virtual_stages=chunks) for chunks in (1, 4))
    whole = seconds("Megatron-Bridge 26.02", virtual_stages=20) / exposed  # all that can be hidden is
    assert exposed * whole < four < one < whole
    assert seconds("Megatron-LM", virtual_stages=1) == seconds("Megatron-LM", virtual_stages=4)  # sums at the end


def test_new_parameters_hide_behind_the_next_forward_pass_where_the_stack_gathers_them_there() -> None:
    here = with_links(setting("H100-SXM", "torchtitan"), out_bytes_per_s=2e9)
    inputs = step_inputs(ShapeCounts.of(shape_of("llama-3.1-70b")), 4096, here, expected())
    ahead = replace(inputs, habits=replace(inputs.habits, parameters_ahead=1.0))
    for stage in (0, 1, 3):  # with neither there are none: an all-reduce, or gathered in every pass
        plan = PlanNumbers(data=64, tensor=8, accumulation=8, zero_stage=stage)
        behind, beside = (float(step_time(one, plan).gradient_exchange) for one in (inputs, ahead))
        assert (beside < behind) == (stage == 1)


def test_transfers_hidden_behind_arithmetic_slow_it_on_a_gpu_and_not_where_engines_of_their_own_move_bytes() -> None:
    plan = PlanNumbers(data=64, accumulation=4, zero_stage=3, recompute=2)

    def step(card: str, units: float) -> StepSeconds:
        constants = {**expected(), "transfer_units": units, "straggler_share": 0.0}
        return step_time(
            step_inputs(ShapeCounts.of(shape_of("llama-3.1-8b")), 4096, setting(card, ""), constants), plan
        )

    free, slowed, twice = (step("H100-SXM", units) for units in (1e-9, 0.1, 0.2))
    assert slowed.beside == pytest.approx(float(slowed.total - free.total), rel=1e-6)
    assert twice.beside == pytest.approx(2 * float(slowed.beside), rel=1e-6)
    whole = step_time(
        step_inputs(
            ShapeCounts.of(shape_of("llama-3.1-8b")),
            4096,
            setting("H100-SXM", ""),
            {**expected(), "transfer_units": 0.1, "straggler_share": 0.0, "shard_exposed": 1.0},
        ),
        plan,
    )
    hidden = float(whole.shard_exchange - free.shard_exchange)  # all of it, less what arithmetic does not hide
    assert slowed.beside == pytest.approx(0.1 * hidden, rel=1e-6)
    assert step("TPU-v5e", 0.2).beside == 0.0


def test_a_run_s_interval_is_its_step_s_on_described_hardware_too() -> None:
    """A run is a step many times over: without failures nothing else makes it less certain."""
    described = (
        "model: gpt2\napplication: {kind: training, tokens: 1e9, precision: bf16}\n"
        "site: {accelerator: {name: NewCard, memory: 32 GiB, memory_bandwidth: 1 TB/s, peak: {bf16: 200 TFLOP/s}},"
        " devices_per_node: 4, device_link: 30 GB/s, disk: nvme}\n"
    )
    case = loads(described)
    for calibration in (default_calibration(case), Uncalibrated(slowest=3.0)):
        step = calibration.spread("step_time")
        assert all(calibration.spread(name) == step for name in ("total_time", "tokens_per_s", "energy", "cost"))
