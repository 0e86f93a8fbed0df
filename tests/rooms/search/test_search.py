"""Every plan of the array search is the plan that its explanation prices; and the goal decides who wins."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datahall.base.errors import Incompatible, NoPlan, UsageError
from datahall.base.units import human
from datahall.case import from_model_and_site
from datahall.case.named_site import site_from_text
from datahall.case.question import Case, Goal
from datahall.compute.counts import ShapeCounts
from datahall.compute.memory import MemoryHabits, memory
from datahall.compute.numbers import PlanNumbers
from datahall.decisions.choice import RISK_SHARE, SAME_SHARE
from datahall.decisions.proposal import Proposal
from datahall.search.engines import engines_of, runnable
from datahall.search.price import price, whole_plan
from datahall.search.rank import search
from datahall.search.space import divisors, space
from datahall.search.why import bargain, explain, flips, left_free, losses, memory_items
from datahall.ui.export_engines import deepspeed_config, megatron_arguments, torchtitan_arguments
from datahall.virtual.calibration import Uncalibrated
from datahall.virtual.training import forecast, power_w


def a_case(model: str = "llama-3.1-8b", site: str = "8xA40", **given: object) -> Case:
    return from_model_and_site(model, site, tokens=1e9, **given)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("model", "site", "most"),
    [("llama-3.1-8b", "8xA40", 1000), ("deepseek-v2-lite", "16xH100-SXM", 150), ("gpt2-xl", "4xA100-40GB-SXM", 150)],
)
def test_the_whole_ranking_is_what_each_plan_alone_is(model: str, site: str, most: int) -> None:
    case = a_case(model, site)
    ranking = search(case)
    places = np.unique(np.linspace(0, len(ranking.order) - 1, most).astype(int))  # all of them, where there are fewer
    for place in places:
        alone, index = explain(ranking, int(place)), ranking.order[place]
        for column, name in (
            (ranking.prices.step_s, "step_time"),
            (ranking.prices.total_s, "total_time"),
            (ranking.prices.cost_usd, "cost"),
            (ranking.prices.energy_j, "energy"),
            (ranking.prices.memory_bytes, "peak_memory"),
        ):
            assert column[index] == pytest.approx(alone.metrics[name].value, rel=1e-9), (name, ranking.compute(place))


@settings(max_examples=30, deadline=None)
@given(index=st.integers(0, 10**9), recompute=st.sampled_from(["none", "selective", "full"]))
def test_memory_of_an_element_is_memory_of_the_plan(index: int, recompute: str) -> None:
    case = a_case("mixtral-8x7b", "16xH100-SXM")
    plans = space(case, "bf16", [16])
    cells = plans.cells()
    plan = replace(plans.plan(int(cells[index % len(cells)])), recompute=recompute)
    counts = ShapeCounts.of(case.model)
    alone = memory(counts, case.application.sequence, PlanNumbers.of(plan), MemoryHabits()).total
    assert float(memory_items(case, plan, Uncalibrated()).total) == pytest.approx(float(alone), rel=1e-12)


def test_a_space_holds_what_can_exist_and_nothing_else() -> None:
    case = a_case("mixtral-8x7b", "16xH100-SXM")
    plans = space(case, "bf16", [16])
    numbers = plans.part(plans.cells())
    assert len(plans) == len(plans.cells()) > 1000
    assert np.all(numbers.devices == 16)
    assert np.all(numbers.data * numbers.micro_batch * numbers.accumulation == case.application.global_batch)
    assert np.all((numbers.data * numbers.context) % numbers.expert == 0)
    assert np.all(case.model.heads % numbers.tensor == 0)
    interleaved = numbers.virtual_stages > 1
    assert np.all(numbers.accumulation[interleaved] % numbers.pipeline[interleaved] == 0)
    rows = np.stack([getattr(numbers, name) for name in COLUMNS], axis=1)
    assert len(np.unique(rows, axis=0)) == len(plans)


COLUMNS = (
    "data", "tensor", "pipeline", "virtual_stages", "context", "expert", "zero_stage", "shard_group", "micro_batch",
    "recompute", "bubble_share", "sequence_parallel",
)  # fmt: skip


def test_divisors() -> None:
    assert divisors(1) == [1]
    assert divisors(12) == [1, 2, 3, 4, 6, 12]


def test_the_choice_is_the_best_but_for_what_the_forecast_cannot_tell_apart() -> None:
    ranking = search(a_case())
    best = np.nanmin(ranking.prices.total_s)
    assert ranking.prices.total_s[ranking.order[0]] <= best * (1 + RISK_SHARE) * (1 + SAME_SHARE) ** 2 * 1.0001
    sure = ranking.prices.total_s[ranking.order[ranking.roomy()]]
    assert ranking.prices.total_s[ranking.order[0]] <= sure * (1 + SAME_SHARE) * 1.0001


def test_of_plans_as_good_one_is_taken_that_surely_fits() -> None:
    case = a_case("tinyllama-1.1b", "6xA40")
    card = replace(case.site.accelerator, memory_bytes=48 * 2**30)  # which one of the fastest plans nearly fills
    ranking = search(replace(case, site=replace(case.site, accelerator=card)))
    prices, chosen = ranking.prices, ranking.order[0]
    wasteful = np.nanargmax(np.where(prices.step_s <= prices.step_s[chosen], prices.memory_bytes, np.nan))
    assert prices.memory_bytes[wasteful] > 0.9 * ranking.case.site.accelerator.memory_bytes
    assert not ranking.narrow(0)


def test_pricing_all_and_pricing_what_fits_agree() -> None:
    case = a_case()
    plans = space(case, "bf16", [8])
    everything, fitting = (price(case, plans, Uncalibrated(), only_fitting=only) for only in (False, True))
    assert np.array_equal(everything.cells, plans.cells())
    fits = np.isin(everything.cells, fitting.cells)
    assert 0 < len(fitting) == fits.sum() < len(plans)
    assert np.array_equal(everything.total_s[fits], fitting.total_s)
    assert np.all(everything.memory_bytes[~fits] > case.site.accelerator.memory_bytes)


def test_the_goal_decides() -> None:
    case = a_case("gpt2-xl", "8xA40")
    fastest = search(replace(case, goal=Goal("time")))
    cheapest = search(replace(case, goal=Goal("cost")))
    assert fastest.compute(0).devices == 8
    assert cheapest.compute(0).devices < 8  # a device by itself waits for nobody
    price_of = [float(one.prices.cost_usd[one.order[0]]) for one in (fastest, cheapest)]
    assert price_of[1] < price_of[0]
    bound = replace(case, goal=Goal("cost", deadline_s=1.1 * float(np.nanmin(fastest.prices.total_s))))
    within = search(bound)
    assert within.prices.total_s[within.order].max() <= bound.goal.deadline_s
    assert "takes longer than" in " ".join(within.reasons)


def test_devices_left_free_are_counted_apart_and_change_what_draws_least() -> None:
    case = replace(from_model_and_site("gpt2", "4x8xH100-SXM"), goal=Goal(minimise="energy"))
    ranking = search(case, Uncalibrated())
    free = left_free(ranking)
    assert free is not None
    assert free.devices == 32 - ranking.compute(0).devices > 0
    idle_w = power_w(case.site, 0.0)
    card = case.site.accelerator
    assert 0.3 * card.power_w < idle_w < 1.6 * card.power_w * case.site.pue
    total_s = float(ranking.prices.total_s[ranking.order[0]])
    assert free.idle_j == pytest.approx(idle_w * free.devices * total_s)
    drawn = [
        float(ranking.prices.energy_j[index])
        + idle_w * (32 - ranking.compute(place).devices) * float(ranking.prices.total_s[index])
        for place, index in enumerate(ranking.order)
    ]
    assert free.energy_j == pytest.approx(min(drawn))
    assert drawn[free.place] == pytest.approx(min(drawn))
    assert ranking.compute(free.place).devices > ranking.compute(0).devices
    assert left_free(search(replace(case, goal=Goal()), Uncalibrated(), devices=[32])) is None


def test_no_plan_lists_what_stood_in_the_way() -> None:
    case = a_case()
    with pytest.raises(NoPlan, match="the fastest takes") as raised:
        search(replace(case, goal=Goal(deadline_s=1.0)))
    assert sum(raised.value.reasons.values()) > 1000
    small = replace(case, site=replace(case.site, disk=replace(case.site.disk, capacity_bytes=2e11)))
    with pytest.raises(NoPlan, match=r"3 checkpoints of .* do not fit") as raised:
        search(small)
    assert any("a disk of 186 GiB does not hold" in reason for reason in raised.value.reasons)
    assert search(replace(case, site=replace(case.site, disk=replace(case.site.disk, capacity_bytes=3e11))))
    with pytest.raises(UsageError, match="cannot minimise"):
        search(replace(case, goal=Goal("beauty")))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("between_s", [1.0, 60.0])
def test_a_run_that_failures_never_let_end_is_no_plan(between_s: float) -> None:
    case = a_case()
    failing = replace(case, site=replace(case.site, failures_per_device_s=1.0 / between_s))
    with pytest.raises(NoPlan, match="no run on 8xA40 would end") as refused:
        search(failing)
    assert any("less than 1/100 of its time" in reason for reason in refused.value.reasons)


def test_adapters_are_advised_only_where_a_frozen_model_fits() -> None:
    for model, advised in (("llama-3.1-70b", True), ("llama-3.1-405b", False)):
        with pytest.raises(NoPlan, match="does not fit") as refused:
            search(a_case(model, "8xA40"))
        assert ("LoRA" in refused.value.hint) == advised


def test_where_nothing_fits_the_longest_shorter_sequence_that_does_is_named() -> None:
    """LoRA of 8B parameters on 24 GiB: not in sequences of 8,192 or 4,096 tokens, but in 2,048."""
    case = a_case(site="RTX4090", method="lora")
    assert case.application.sequence == 8192
    with pytest.raises(NoPlan, match="does not fit") as refused:
        search(case, advise=True)
    assert "--ask site" in refused.value.hint
    assert "application.sequence=2048" in refused.value.hint
    for sequence, fits in ((4096, False), (2048, True)):
        shorter = a_case(site="RTX4090", method="lora", sequence=sequence)
        if fits:
            assert search(shorter).qualified
        else:
            with pytest.raises(NoPlan):
                search(shorter)
    for asked in (case, a_case("llama-3.1-405b", "8xA40")):  # nobody asked for advice, or none would help
        with pytest.raises(NoPlan) as refused:
            search(asked, advise=asked is not case)
        assert "sequence" not in refused.value.hint


def test_a_stated_batch_keeps_its_number_of_sequences_when_they_are_shortened() -> None:
    case = a_case(site="RTX4090", method="lora", global_batch=6)
    with pytest.raises(NoPlan) as refused:
        search(case, advise=True)
    short = int(re.findall(r"application.sequence=(\d+)", refused.value.hint)[0])
    assert search(a_case(site="RTX4090", method="lora", global_batch=6, sequence=short)).qualified


def test_a_stack_that_nothing_was_fitted_under_is_said() -> None:
    case = a_case()
    for stack, unknown in (("", False), ("torchtitan", False), ("axolotl 0.5", True)):
        notes = explain(search(replace(case, site=replace(case.site, stack=stack)))).notes
        assert any(f"No published run under {stack}" in note for note in notes) == unknown


def test_a_precision_that_the_accelerator_lacks_is_refused() -> None:
    case = a_case()
    with pytest.raises(Incompatible, match="A40 does not compute in fp8"):
        search(replace(case, application=replace(case.application, precision="fp8")))


def test_a_precision_that_the_stack_lacks_is_neither_planned_nor_offered() -> None:
    case = a_case("llama-3.1-8b", "8xB200")
    wanted = replace(case, application=replace(case.application, precision="fp4"))
    foundry = replace(wanted, site=replace(case.site, stack="llm-foundry"))
    with pytest.raises(Incompatible, match=r"llm-foundry does not train in fp4.*amp_fp8"):
        search(foundry)
    bridge = replace(wanted, site=replace(case.site, stack="Megatron-Bridge 26.02"))
    assert search(bridge).compute(0).precision == "fp4"
    for stack, offered in (("EasyLM", False), ("llm-foundry", True)):
        plain = search(replace(case, site=replace(case.site, stack=stack)), only_best=True)
        assert any(flip.change == "fp8 products" for flip in flips(plain)) == offered
    volta = a_case("gpt2", "8xV100")
    assert search(replace(volta, site=replace(volta.site, stack="torchtitan"))).compute(0).precision == "fp32"


def test_losers_say_by_which_component_and_sum_to_the_difference() -> None:
    ranking = search(a_case())
    others = losses(ranking, 5)
    assert others[0].place == 0
    assert set(others[0].more_s.values()) == {0.0}
    base = others[0].forecast.metrics["step_time"].value
    for loss in others[1:]:
        difference = loss.forecast.metrics["step_time"].value - base
        assert sum(loss.more_s.values()) == pytest.approx(difference, abs=1e-6 * base)


def test_the_front_trades_and_never_wastes() -> None:
    ranking = search(a_case("gpt2-xl", "8xA40"))
    front = ranking.front()
    points = [
        (ranking.prices.total_s[i], ranking.prices.cost_usd[i], ranking.prices.memory_bytes[i])
        for i in ranking.order[front]
    ]
    assert len(points) > 1
    for one in points:
        assert not any(all(b <= a for a, b in zip(one, other, strict=True)) and one != other for other in points)


def test_more_memory_and_faster_links_never_hurt() -> None:
    found = flips(search(a_case("llama-3.1-8b", "16xH100-SXM")))
    assert len(found) > 1
    for flip in found:
        assert flip.plan is not None
        assert flip.gain > 1 / (1 + SAME_SHARE) / 1.001, flip


def test_the_whole_plan_writes_checkpoints_as_often_as_failures_ask() -> None:
    case = a_case("llama-3.1-8b", "16xH100-SXM")
    ranking = search(case)
    often = search(replace(case, site=replace(case.site, failures_per_device_s=1e-5)))
    assert 1 <= often.plan().storage.interval_steps < ranking.plan().storage.interval_steps
    unstated = replace(case, site=replace(case.site, failures_per_device_s=0.0))
    plan = whole_plan(unstated, ranking.compute(0), 10.0)
    assert plan.storage.interval_steps == 360
    assert forecast(unstated, plan).metrics["total_time"].value > 0


EXPORTS = {"torchtitan": torchtitan_arguments, "megatron": megatron_arguments, "deepspeed": deepspeed_config}


@pytest.mark.parametrize("engine", EXPORTS)
def test_plans_for_an_engine_can_be_exported_to_it(engine: str) -> None:
    """Every plan that the search keeps for an engine is one that its export expresses (checked on a sample)."""
    ranking = search(a_case("llama-3.1-8b", "16xH100-SXM"), engine=engine)
    result = explain(ranking)
    for place in np.unique(np.linspace(0, len(ranking.order) - 1, 150).astype(int)):
        EXPORTS[engine](Proposal(ranking.case, ranking.plan(int(place)), result))
    assert ranking.reasons[f"{engine} cannot run it"] > 0


@pytest.mark.parametrize("engine", EXPORTS)
@pytest.mark.parametrize(
    ("model", "site"),
    [("llama-3.1-405b", "128xH100-SXM"), ("deepseek-v3", "64xH800"), ("mistral-7b", "16xH100-SXM")],
)
def test_an_engine_is_said_to_run_what_its_export_takes_and_nothing_else(engine: str, model: str, site: str) -> None:
    """Layers that stages do not divide, experts, schedules and whole sequences among them (a sample of all plans)."""
    case = a_case(model, site)
    plans, result = space(case, "bf16", [case.site.devices]), explain(search(a_case()))
    cells = np.random.default_rng(1).choice(plans.cells(), 300, replace=False)
    said = np.broadcast_to(runnable(engine, case, plans.part(cells), "bf16"), len(cells))
    for cell, able in zip(cells, said, strict=True):
        compute = plans.plan(cell)
        try:
            EXPORTS[engine](Proposal(case, whole_plan(case, compute, 10.0), result))
        except Incompatible:
            assert not able, compute
        else:
            assert able, compute


def test_on_gpus_without_a_stack_every_plan_that_is_kept_can_be_exported_to_some_engine() -> None:
    ranking = search(a_case("llama-3.1-8b", "16xH100-SXM"))
    for place in np.unique(np.linspace(0, len(ranking.order) - 1, 100).astype(int)):
        assert engines_of(ranking.case, ranking.compute(int(place)))
    named = replace(ranking.case, site=replace(ranking.case.site, stack="torch 2.13"))
    assert search(named).qualified > ranking.qualified  # zero-bubble, for one
    odd = replace(ranking.case, application=replace(ranking.case.application, precision="fp4"))
    odd = replace(odd, site=site_from_text("16xB200")[0])
    assert search(odd).qualified > 0
    assert engines_of(odd, search(odd).compute(0)) == ["megatron"]  # the only one whose flags can say it


@pytest.mark.parametrize(
    ("stack", "engine"), [("torchtitan 0.2", "torchtitan"), ("Megatron-LM", "megatron"), ("deepspeed", "deepspeed")]
)
def test_a_stack_that_is_an_engine_gets_plans_that_it_can_run(stack: str, engine: str) -> None:
    case = a_case("llama-3.1-70b", "64xH100-SXM")
    named = replace(case, site=replace(case.site, stack=stack))
    ranking, asked = search(named), search(named, engine=engine)
    assert ranking.qualified == asked.qualified
    assert ranking.compute(0) == asked.compute(0)
    assert any(engine in reason and "site.stack" in reason for reason in ranking.reasons)
    several = replace(case, site=replace(case.site, stack="Megatron-DeepSpeed"))
    assert search(several).qualified > search(several, engine=engine).qualified
    tuned = replace(named, application=replace(case.application, method="lora"))
    assert search(tuned).qualified  # whoever trains adapters with it has code of their own


def test_interleaved_stages_that_megatron_evens_out_are_kept() -> None:
    """126 layers with embedding and loss are 128, so that 64 stages are even: a tenth faster than what is left else."""
    best = search(a_case("llama-3.1-405b", "llama3-h100", global_batch=2048, sequence=8192), only_best=True).compute(0)
    assert best.virtual_stages > 1
    assert (126 + 2) % (best.pipeline * best.virtual_stages) == 0


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(UsageError, match="not an engine"):
        search(a_case(), engine="horovod")


def test_a_budget_that_rules_out_the_fastest_names_the_price_that_would_not() -> None:
    case = a_case("gpt2-xl", "8xA40")
    free = search(case)
    assert bargain(free) is None
    least = float(np.nanmin(free.prices.cost_usd))
    bound = search(replace(case, goal=Goal(budget_usd=1.001 * least)))
    found = bargain(bound)
    assert found is not None
    assert found.price_usd_per_h < case.site.accelerator.price_usd_per_h
    cheaper = replace(case.site.accelerator, price_usd_per_h=0.999 * found.price_usd_per_h)
    again = search(replace(bound.case, site=replace(case.site, accelerator=cheaper)))
    assert again.prices.total_s[again.order[0]] < bound.prices.total_s[bound.order[0]]


@pytest.mark.parametrize("site", ["4x8xH100-SXM", "16x8xH100-SXM"])
def test_the_fastest_plan_within_a_bound_on_energy_keeps_it(site: str) -> None:
    """On a large site that is one on fewer devices: all of them finish sooner and draw more."""
    case = a_case("gpt2", site)
    free = search(case)
    least = search(replace(case, goal=Goal(minimise="energy")))
    fastest_j, least_j = (float(one.prices.energy_j[one.order[0]]) for one in (free, least))
    assert fastest_j > 1.03 * least_j
    asked = replace(case, goal=Goal(energy_j=0.5 * (fastest_j + least_j)))
    for only_best in (False, True):
        found = search(asked, only_best=only_best)
        assert (found.prices.energy_j[found.order] <= asked.goal.energy_j).all()
        within = least.prices.total_s[least.prices.energy_j <= asked.goal.energy_j].min()
        assert found.prices.total_s[found.order[0]] <= 1.03 * within


def test_a_bound_on_energy_that_no_plan_keeps_names_the_least() -> None:
    case = a_case("gpt2-xl")
    least = search(replace(case, goal=Goal(minimise="energy")))
    least_j = float(least.prices.energy_j.min())
    with pytest.raises(NoPlan, match=f"the thriftiest draws {human(least_j, 'joules')}") as refused:
        search(replace(case, goal=Goal(energy_j=0.99 * least_j)))
    assert any(reason.startswith("draws more than") for reason in refused.value.reasons)
    unknown = replace(case.site, accelerator=replace(case.site.accelerator, power_w=0.0))
    with pytest.raises(Incompatible, match="nobody stated the power"):
        search(replace(case, site=unknown, goal=Goal(energy_j=1e9)))
