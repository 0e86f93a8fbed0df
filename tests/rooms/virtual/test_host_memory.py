"""What hosts hold beside their devices: counted item by item, and a bound where a site states it."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from datahall.base.errors import NoPlan
from datahall.base.label import Label
from datahall.base.metric import percentile_90
from datahall.case import from_model_and_site
from datahall.case.question import Case
from datahall.compute.host_memory import (
    JAX,
    ON_PROCESSOR,
    PYTORCH,
    HostBytes,
    HostWidths,
    communicators,
    devices_of_a_node,
    host_log_half_width,
    host_memory,
    on_tpu,
)
from datahall.compute.numbers import PlanNumbers, stack_plans
from datahall.compute.plan import ComputePlan
from datahall.decisions.plan import Plan
from datahall.network.plan import NetworkPlan
from datahall.search.price import whole_plan
from datahall.search.rank import search
from datahall.search.why import explain
from datahall.storage.plan import StoragePlan
from datahall.virtual.host_memory import fits_host, habits_of, holds_saves, host_bytes, room_bytes
from datahall.virtual.training import forecast

BACKGROUND = StoragePlan(interval_steps=100, shards=4, asynchronous=True)


def a_case(model: str = "llama-3.1-8b", site: str = "2x8xH100-SXM") -> Case:
    return from_model_and_site(model, site, tokens=1e9)


def on_host(case: Case, memory_bytes: float) -> Case:
    return replace(case, site=replace(case.site, host_memory_bytes=memory_bytes))


def held_by(case: Case, plan: ComputePlan, storage: StoragePlan = BACKGROUND) -> HostBytes:
    return host_bytes(case, storage, PlanNumbers.of(plan))


def forecast_of(case: Case, compute: ComputePlan, storage: StoragePlan = BACKGROUND):
    fitted = replace(compute, accumulation=case.application.global_batch // compute.data)
    return forecast(case, Plan(fitted, storage, NetworkPlan(), case.hash()))


@pytest.mark.parametrize("most", [1, 4, 6, 8])
def test_devices_of_a_node_are_as_many_on_each_with_tensor_ranks_side_by_side(most: int) -> None:
    devices, tensor = np.meshgrid(np.arange(1, 49), [1, 2, 3, 4, 8, 16])
    found = devices_of_a_node(devices, most, tensor, 48)
    for total, ranks, count in zip(devices.ravel(), tensor.ravel(), found.ravel(), strict=True):
        wanted = next(
            c for c in range(min(most, total), 0, -1) if total % c == 0 and (c % ranks == 0 or ranks % c == 0)
        )
        assert count == wanted == devices_of_a_node(int(total), most, int(ranks), 48), (total, ranks)


def test_tensor_ranks_lie_on_two_nodes_where_there_is_no_third() -> None:
    assert devices_of_a_node(12, 6, 4, 3) == 4
    assert devices_of_a_node(12, 6, 4, 2) == 6
    found = devices_of_a_node(np.array([12, 12, 4]), 6, np.array([4, 2, 4]), 2)
    assert found.tolist() == [6, 6, 4]


def test_a_background_save_holds_what_each_rank_has_of_the_checkpoint() -> None:
    case = a_case()
    whole = 12.0 * case.model.parameters()
    assert held_by(case, ComputePlan(data=16)).checkpoint == pytest.approx(8 * whole, rel=1e-12)
    assert held_by(case, ComputePlan(data=16, zero_stage=1)).checkpoint == pytest.approx(whole / 2, rel=1e-12)
    assert held_by(case, ComputePlan(data=4, tensor=4)).checkpoint == pytest.approx(2 * whole, rel=1e-12)
    full = held_by(case, ComputePlan(data=16, zero_stage=1, precision="fp32")).checkpoint
    assert full == pytest.approx(8 * (4.0 + 8.0 / 16) / 12.0 * whole, rel=1e-12)  # there is no master copy to share out
    adapted = replace(case, application=replace(case.application, method="lora", lora_rank=16))
    assert 0 < held_by(adapted, ComputePlan(data=16)).checkpoint < 0.01 * 8 * whole


def test_expert_ranks_copy_their_own_experts() -> None:
    case = a_case("mixtral-8x7b")
    every, own = (held_by(case, ComputePlan(data=16, expert=expert)).checkpoint for expert in (1, 8))
    assert every == pytest.approx(8 * 12.0 * case.model.parameters(), rel=1e-12)
    assert own < 0.2 * every


def test_a_save_that_holds_the_loop_needs_less_and_none_needs_nothing() -> None:
    case, plan = a_case(), ComputePlan(data=16, zero_stage=1)
    copied = held_by(case, plan).checkpoint
    held = held_by(case, plan, replace(BACKGROUND, asynchronous=False)).checkpoint
    assert held == min(copied, 8 * 4 * 4.0 * case.model.vocab * case.model.hidden)
    alone = held_by(case, ComputePlan(data=16), replace(BACKGROUND, asynchronous=False)).checkpoint
    assert 0 < alone < 0.2 * held_by(case, ComputePlan(data=16)).checkpoint
    assert held_by(case, plan, StoragePlan()).checkpoint == 0


def test_more_workers_and_more_read_ahead_hold_more() -> None:
    plan = PlanNumbers.of(ComputePlan(data=8, micro_batch=4))

    def read(loaders: int, **given: float) -> float:
        habits = replace(PYTORCH, loaders=loaders)
        return float(host_memory(plan, 8192, habits, devices=8, processes=8, **given).input)  # pyright: ignore[reportArgumentType]

    batch = 16 * 4 * 8192
    assert read(0) == 8 * batch
    assert read(4) == pytest.approx(8 * (4 * PYTORCH.loader_bytes + 9 * batch))
    assert read(2, ahead=3) - read(2) == 8 * 3 * batch
    assert read(2, shards_open_bytes=1e8) - read(2) == pytest.approx(8e8)


def test_initial_weights_and_copies_are_not_there_at_once() -> None:
    case, plan = a_case(), ComputePlan(data=16, zero_stage=1)
    tuned = replace(case, application=replace(case.application, weights="somewhere"))
    read = 8 * 4.0 * case.model.parameters()
    found = held_by(tuned, plan)
    assert found.checkpoint + found.initial_weights == pytest.approx(read)
    assert held_by(tuned, ComputePlan(data=16)).initial_weights == 0  # its copies of checkpoints are more
    assert held_by(case, plan).initial_weights == 0


@pytest.mark.parametrize(
    ("plan", "readers"),
    [
        (ComputePlan(data=16), 8),
        (ComputePlan(data=16, zero_stage=2), 8),
        (ComputePlan(zero_stage=3), 1),
        (ComputePlan(data=16, zero_stage=3), 1),
        (ComputePlan(data=2, tensor=8), 1),
        (ComputePlan(data=8, pipeline=2), 1),
        (ComputePlan(data=16, expert=8), 1),
    ],
)
def test_weights_that_a_plan_spreads_are_read_once_a_node(plan: ComputePlan, readers: int) -> None:
    """Eight copies of a large model left half of a node's devices idle, so that its host would hold the others."""
    case = a_case("mixtral-8x7b")
    tuned = replace(case, application=replace(case.application, weights="somewhere"))
    read = held_by(tuned, plan, StoragePlan()).initial_weights
    assert read == pytest.approx(readers * 4.0 * case.model.parameters())


def test_a_large_model_is_tuned_on_all_devices_of_a_host() -> None:
    case = from_model_and_site("llama-3.1-70b", "dgx-h100", tokens=1e8)
    application = replace(case.application, method="lora", lora_rank=16, weights="somewhere", sequence=4096)
    best = search(replace(case, application=replace(application, global_batch=64)))
    assert best.compute(0).devices == 8


def test_what_a_tpu_s_host_keeps_does_not_depend_on_the_framework() -> None:
    pod = a_case("gpt2", "16xTPU-v5p")
    other = replace(pod, site=replace(pod.site, stack="PyTorch/XLA 2.5"))
    found = held_by(other, ComputePlan(data=16))
    assert (found.context, found.communication) == (2**32, 0)
    assert found.interpreter == PYTORCH.interpreter_bytes


def test_a_processor_s_host_that_is_too_small_is_spoken_of() -> None:
    case = on_host(a_case("gpt2", "local"), 2**30)
    plan = ComputePlan(precision="fp32")
    assert any("may not fit its hosts" in note for note in forecast_of(case, plan).notes)
    assert not any("its hosts" in note for note in forecast_of(on_host(case, 2**50), plan).notes)


def test_processes_and_groups_are_counted() -> None:
    assert communicators(PlanNumbers.of(ComputePlan())) == 0
    assert communicators(PlanNumbers.of(ComputePlan(data=8))) == 2
    assert communicators(PlanNumbers.of(ComputePlan(data=2, tensor=2, pipeline=2))) == 4
    found = held_by(a_case(), ComputePlan(data=8))
    assert found.context == 8 * PYTORCH.context_bytes
    assert found.interpreter == pytest.approx(9 * PYTORCH.interpreter_bytes)
    assert found.communication == pytest.approx(8 * 2 * 8 * 2 * 9.18 * 2**20, rel=1e-3)
    pod = a_case("gpt2", "16xTPU-v5p")
    assert habits_of(pod) == on_tpu(JAX)
    one = held_by(pod, ComputePlan(data=16))
    assert (one.context, one.communication) == (2**32, 0)
    assert one.checkpoint == pytest.approx(4 * 12.0 * pod.model.parameters())  # of all four of its host


def test_the_metric_is_the_sum_of_its_items_with_an_interval_that_none_of_them_exceeds() -> None:
    case, plan = a_case(), ComputePlan(data=16, zero_stage=1)
    metric, held = forecast_of(case, plan).metrics["host_memory"], held_by(case, plan)
    assert metric.value == pytest.approx(float(held.total))
    assert metric.label is Label.ASSUMED
    assert metric.value / metric.low == pytest.approx(metric.high / metric.value)
    assert metric.value < percentile_90(metric) < metric.high
    half = float(host_log_half_width(held, HostWidths()))
    assert np.log(metric.high / metric.value) == pytest.approx(half)
    assert 0 < half < np.log(4.0)
    surer = host_log_half_width(held, replace(HostWidths(), context=1.01))
    assert surer < half


def test_a_processor_s_host_holds_what_its_processes_do_and_nothing_twice() -> None:
    case = a_case("gpt2", "local")
    cores = replace(case, site=replace(case.site, nodes=1, devices_per_node=2, scale_up_domain=2, host_cores=2))
    found = forecast_of(cores, ComputePlan(data=2, precision="fp32"), StoragePlan(interval_steps=100)).metrics
    peak, host = found["peak_memory"], found["host_memory"]
    batches = host.value - 2 * (ON_PROCESSOR.interpreter_bytes + peak.value)
    assert 0 <= batches < 1e6
    assert host.label >= peak.label
    assert host.high / host.value < peak.high / peak.value  # idle workers are surer than what they train
    copied = forecast_of(cores, ComputePlan(data=2, precision="fp32")).metrics["host_memory"].value - host.value
    assert copied == pytest.approx(2 * 12.0 * case.model.parameters())


def test_no_plan_is_chosen_that_the_stated_hosts_may_not_hold() -> None:
    case = a_case("tinyllama-1.1b", "8xA40")
    free = search(case)
    asked = percentile_90(explain(free).metrics["host_memory"])
    small = on_host(case, asked / 3.0)
    bound = search(small)
    assert bound.qualified < free.qualified
    stopped = next(count for reason, count in bound.reasons.items() if "of a host" in reason)
    assert stopped >= free.qualified - bound.qualified
    for place in (0, len(bound.order) // 2, len(bound.order) - 1):
        assert percentile_90(explain(bound, place).metrics["host_memory"]) <= room_bytes(small)
    assert search(on_host(case, 1e15)).qualified == free.qualified
    assert search(small, only_best=True).compute(0) == bound.compute(0)
    with pytest.raises(NoPlan, match=r"hosts"):
        search(on_host(case, 1e9))


def test_what_helps_a_host_names_initial_weights_only_where_there_are_some() -> None:
    case = on_host(a_case("tinyllama-1.1b", "8xA40"), 1e9)
    tuned = replace(case, application=replace(case.application, weights="somewhere"))
    said = [next(n for n in forecast_of(one, ComputePlan(data=8)).notes if "its hosts" in n) for one in (case, tuned)]
    assert ["initial weights" in note for note in said] == [False, True]
    assert all("ZeRO makes copies of checkpoints smaller" in note for note in said)
    with pytest.raises(NoPlan) as stopped:
        search(tuned)
    assert "initial weights" in stopped.value.hint


def test_the_mask_of_many_plans_is_that_of_each() -> None:
    case = on_host(a_case("mixtral-8x7b", "2x8xH100-SXM"), 1.5e12)
    plans = [
        ComputePlan(data=16 // tensor // pipeline, tensor=tensor, pipeline=pipeline, expert=expert, zero_stage=zero)
        for tensor, pipeline, expert, zero in ((1, 1, 1, 0), (2, 1, 1, 0), (1, 1, 8, 0), (4, 2, 1, 1), (1, 1, 1, 3))
    ]
    mask = fits_host(case, BACKGROUND, stack_plans(plans))
    alone = [bool(fits_host(case, BACKGROUND, PlanNumbers.of(plan))) for plan in plans]
    assert mask.tolist() == alone
    assert len(set(alone)) == 2
    for plan, fits in zip(plans, alone, strict=True):
        said = forecast_of(case, plan)
        assert (percentile_90(said.metrics["host_memory"]) <= room_bytes(case)) == fits
        assert any("may not fit its hosts" in note for note in said.notes) == (not fits)


def test_what_is_held_against_the_hosts_is_what_the_whole_plan_will_hold() -> None:
    case = on_host(a_case(), 2e12)
    plan = whole_plan(case, ComputePlan(data=16), 1.0)
    assert host_bytes(case, plan.storage, PlanNumbers.of(plan.compute)).total == held_by(case, plan.compute).total


def test_where_only_a_copy_would_overflow_hosts_checkpoints_hold_the_loop() -> None:
    """70B parameters on two nodes of 256 GB: 430 GB of copies a node, or 34 GB of tensors under way."""
    case = on_host(a_case("llama-2-70b"), 256e9)
    ranking = search(case)
    plan, found = ranking.plan(), explain(ranking)
    assert plan.storage.interval_steps
    assert not plan.storage.asynchronous
    assert percentile_90(found.metrics["host_memory"]) <= room_bytes(case)
    written = found.metrics["checkpoint_write"].value
    assert found.metrics["checkpoint"].value == written > 1.0  # the loop waits for all of it
    said = next(note for note in found.notes if "hold the loop" in note)
    assert not any("may not fit its hosts" in note for note in found.notes)
    enough = float(re.findall(r"hosts of ([0-9.]+) GiB would", said)[0]) * 2**30
    assert search(on_host(case, 1.01 * enough)).plan().storage.asynchronous
    assert not search(on_host(case, 0.97 * enough)).plan().storage.asynchronous
    free = explain(search(on_host(case, 0.0)))
    assert not any("hold the loop" in note for note in free.notes)
    assert free.metrics["total_time"].value < found.metrics["total_time"].value


@pytest.mark.parametrize(("memory_bytes", "disk_bytes_per_s", "cores"), [(300e9, 5e8, 8), (300e9, 30e9, 64)])
def test_of_plans_that_save_either_way_each_is_priced_as_its_forecast_is(
    memory_bytes: float, disk_bytes_per_s: float, cores: int
) -> None:
    case = a_case("llama-3.1-8b")
    disk = replace(case.site.disk, write_bytes_per_s=disk_bytes_per_s, read_bytes_per_s=disk_bytes_per_s)
    case = on_host(replace(case, site=replace(case.site, disk=disk, host_cores=cores)), memory_bytes)
    ranking = search(case)
    saved: set[bool] = set()
    for place in np.unique(np.linspace(0, len(ranking.order) - 1, 60).astype(int)):
        alone, plan = explain(ranking, int(place)), ranking.plan(int(place))
        total_s = ranking.prices.total_s[ranking.order[place]]
        assert total_s == pytest.approx(alone.metrics["total_time"].value, rel=1e-9)
        assert percentile_90(alone.metrics["host_memory"]) <= room_bytes(case)
        saved.add(plan.storage.asynchronous)
    assert saved == {True, False}


def test_many_devices_write_fewer_files_each_and_hold_less_while_they_do() -> None:
    """Four files of a rank are under way on 256 devices, two on 512: what suffices is asked of each number apart."""
    case = on_host(a_case("llama-2-70b", "64x8xH100-SXM"), 75e9)
    plans = [ComputePlan(data=devices) for devices in (128, 256, 512)]
    mask = holds_saves(case, stack_plans(plans))
    assert mask.tolist() == [bool(holds_saves(case, PlanNumbers.of(plan))) for plan in plans] == [False, False, True]
    for plan, holds in zip(plans, mask, strict=True):
        whole = whole_plan(case, plan, 10.0)
        assert not whole.storage.asynchronous
        held = forecast_of(case, plan, whole.storage).metrics["host_memory"]
        assert (percentile_90(held) <= room_bytes(case)) == holds
