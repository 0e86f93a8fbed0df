"""Every split that can exist is a plan of the space, once; what is left out has a reason that the docs state."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from small_cases import MIXTURE, SHAPE, small_case

import datahall.search.space as spaces
from datahall.base.errors import DatahallError
from datahall.case import from_model_and_site
from datahall.case.question import Goal
from datahall.compute.layout import check_runnable
from datahall.compute.numbers import stack_plans
from datahall.compute.plan import ComputePlan
from datahall.compute.possible import check_possible
from datahall.decisions.choice import preferred
from datahall.search import shortlist
from datahall.search.engines import runnable
from datahall.search.price import Best, floors_of, nearest, price
from datahall.search.rank import goal_values, search
from datahall.search.space import divisors, space
from datahall.virtual.transferred import default_calibration

DENSE = replace(SHAPE, layers=5)  # which no number of stages above one divides
CASES = {
    "dense": small_case(DENSE, global_batch=12, sequence=48),
    "mixture": small_case(MIXTURE, global_batch=6, sequence=16),
    "odd": small_case(DENSE, global_batch=6, sequence=50),  # tensor ranks get no equal parts of a sequence
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("devices", [[1], [2, 4], [8], [12]])
def test_the_space_is_every_split_that_is_possible(name: str, devices: list[int]) -> None:
    case = CASES[name]
    plans = space(case, "fp32", devices)
    found = [plans.plan(cell) for cell in plans.cells()]
    assert len(found) == len(plans) == len(set(found))
    assert set(found) == {plan for count in devices for plan in _tried(case, count) if _exists(case, plan)}


def _tried(case, count):
    """Plans with any numbers that could do, by words and numbers alone."""
    model, batch = case.model, case.application.global_batch
    degrees = [d for d in product(divisors(count), repeat=4) if np.prod(d) == count and batch % d[0] == 0]
    for (data, tensor, pipeline, context), micro_batch in product(degrees, range(1, batch + 1)):
        if (batch // data) % micro_batch:
            continue
        base = ComputePlan(
            data=data, tensor=tensor, pipeline=pipeline, context=context, micro_batch=micro_batch, precision="fp32",
            accumulation=batch // data // micro_batch,
        )  # fmt: skip
        for chunks, expert, stage, group in product(
            range(1, model.layers + 1), range(1, (model.experts or 1) + 1), range(4), range(data * context)
        ):
            for recompute, halves, shares in product(("none", "selective", "full"), (False, True), (False, True)):
                schedule = "zero-bubble" if halves else "interleaved" if chunks > 1 else "1f1b"
                yield replace(
                    base, virtual_stages=chunks, expert=expert, zero_stage=stage, shard_group=group,
                    recompute=recompute, schedule=schedule, sequence_parallel=shares,
                )  # fmt: skip


def _exists(case, plan: ComputePlan) -> bool:
    """Whether nothing refuses it and no reason of docs/planning.md speaks against it."""
    try:
        check_possible(plan, case.model, case.application.sequence, case.application.global_batch)
        check_runnable(plan)
    except DatahallError:
        return False
    if plan.pipeline == 1 and (plan.virtual_stages > 1 or plan.schedule != "1f1b"):
        return False  # the same as one stage
    if (plan.zero_stage == 0 and plan.shard_group) or plan.shard_group == 1 or (plan.zero_stage and plan.copies == 1):
        return False  # nothing is shared
    if plan.tensor == 1 and not plan.sequence_parallel:
        return False  # nor is a sequence
    if plan.schedule == "zero-bubble" and (
        plan.recompute == "full" or plan.accumulation % max(1, plan.accumulation // plan.pipeline)
    ):
        return False
    if plan.virtual_stages > 1 and plan.accumulation % plan.pipeline:
        return False
    if plan.zero_stage == 2 and plan.pipeline > 1:
        return False
    even = case.application.sequence // plan.context % plan.tensor == 0
    return plan.tensor == 1 or even or not (plan.sequence_parallel or plan.expert > 1)


def test_grids_are_cut_without_losing_a_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    case = from_model_and_site("mixtral-8x7b", "16xH100-SXM", tokens=1e9, global_batch=24)
    whole = space(case, "bf16", [8, 16])
    monkeypatch.setattr(spaces, "_MOST_CELLS", 500)
    cut = space(case, "bf16", [8, 16])
    assert max(grid.exists.size for grid in cut.grids) <= 500 < max(grid.exists.size for grid in whole.grids)
    assert len(whole) == len(cut)
    assert np.array_equal(_rows(whole), _rows(cut))


def _rows(plans):
    numbers = _numbers(plans)
    return np.unique(np.stack([getattr(numbers, name) for name in spaces._COLUMNS], axis=1), axis=0)


def _numbers(plans):
    return plans.part(plans.cells())


@pytest.mark.parametrize(
    ("site", "stack", "has"),
    [
        ("8xA40", "", True),
        ("8xA40", "pytorch 2.9", True),
        ("8xA40", "torchtitan", False),  # compiled, which its halves of backward passes are not
        ("8xA40", "megatron-core", False),
        ("8xA40", "deepspeed", False),
        ("8xA40", "axolotl 0.5", False),
        ("8xTPU-v5p", "", False),
    ],
)
def test_zero_bubble_is_for_stacks_that_have_it(site: str, stack: str, has: bool) -> None:
    case = from_model_and_site("tinyllama-1.1b", site, tokens=1e9)
    plans = space(replace(case, site=replace(case.site, stack=stack)), "bf16", [8])
    assert bool((_numbers(plans).bubble_share < 1.0).any()) == has


def test_engines_take_the_schedules_and_sequences_that_they_have() -> None:
    case = from_model_and_site("qwen3-30b-a3b", "16xH100-SXM", tokens=1e9)
    plans = _numbers(space(case, "bf16", [16]))
    halves, whole = plans.bubble_share < 1.0, (plans.tensor > 1) & (plans.sequence_parallel == 0)
    able = {engine: runnable(engine, case, plans, "bf16") for engine in ("torchtitan", "megatron", "deepspeed")}
    assert (able["torchtitan"] & halves).any()
    assert not (able["torchtitan"] & halves & ((plans.virtual_stages == 1) | (plans.zero_stage > 0))).any()
    assert not (able["megatron"] & (halves | whole)).any()
    assert (able["deepspeed"] & whole).any()
    assert not (able["deepspeed"] & (plans.tensor > 1) & ~whole).any()


@pytest.mark.parametrize("goal", ["time", "cost", "energy"])
@pytest.mark.parametrize(("model", "site"), [("llama-3.1-8b", "8xA40"), ("deepseek-v2-lite", "16xH100-SXM")])
def test_looking_for_the_best_alone_finds_the_same(model: str, site: str, goal: str) -> None:
    case = replace(from_model_and_site(model, site, tokens=1e9), goal=Goal(goal))
    whole, best = search(case), search(case, only_best=True)
    assert best.compute(0) == whole.compute(0)
    assert best.qualified < whole.qualified / 2
    bounded = replace(case, goal=Goal(goal, deadline_s=float(np.median(whole.prices.total_s))))
    assert search(bounded, only_best=True).compute(0) == search(bounded).compute(0)
    links = {name: getattr(case.site, name) for name in ("scale_up", "scale_out")}
    faster = {name: replace(link, bytes_per_s=2 * link.bytes_per_s) for name, link in links.items()}
    least = floors_of(replace(case, site=replace(case.site, **faster)), whole.space, whole.calibration)
    own = floors_of(case, whole.space, whole.calibration)
    assert all((low <= high).all() for low, high in zip(least, own, strict=True))  # so that they bound this case too
    assert search(case, plans=whole.space, only_best=True, floors=least).compute(0) == whole.compute(0)


@pytest.mark.parametrize("goal", ["time", "cost", "energy"])
def test_no_plan_is_better_than_what_it_is_left_out_for(goal: str) -> None:
    case = replace(from_model_and_site("mixtral-8x7b", "16xH100-SXM", tokens=1e9), goal=Goal(goal))
    calibration, plans = default_calibration(case), space(case, "bf16", [8, 16])
    worth = goal_values(case, price(case, plans, calibration))
    best = Best(float(np.quantile(worth, 0.3)))
    left = sum(len(part.prices) for part in nearest(case, plans, calibration, best))
    assert np.count_nonzero(worth <= best.worth) <= left < len(worth)
    cells = np.concatenate([part.prices.cells for part in nearest(case, plans, calibration, best)])
    assert np.isin(price(case, plans, calibration).cells[worth <= best.worth], cells).all()


@pytest.mark.parametrize("goal", ["time", "cost"])
def test_a_short_list_names_what_the_whole_one_names(goal: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = replace(from_model_and_site("gpt2-xl", "8xA40", tokens=1e9), goal=Goal(goal))
    whole = search(case)
    monkeypatch.setattr(shortlist, "MOST", 200)
    monkeypatch.setattr(shortlist, "_AT_ONCE", 800)
    short = search(case)
    assert len(short.order) < len(whole.order) / 4
    assert (short.qualified, short.reasons) == (whole.qualified, whole.reasons)
    for place in range(100):
        assert short.compute(place) == whole.compute(place)
    assert [short.compute(place) for place in short.front()] == [whole.compute(place) for place in whole.front()]
    assert len(short.families(1000)) == len(whole.families(1000))
    assert short.roomy() == whole.roomy()


def test_of_equals_a_zero_bubble_schedule_and_whole_sequences_lose() -> None:
    plans = [
        ComputePlan(data=2, tensor=2, pipeline=2, virtual_stages=8, schedule="interleaved"),
        ComputePlan(data=2, tensor=2, pipeline=2, sequence_parallel=False),
        ComputePlan(data=2, tensor=2, pipeline=2, schedule="zero-bubble"),
    ]
    assert preferred([1.01, 1.0, 1.0], stack_plans(plans)).tolist() == [1, 0, 2]
    same = [replace(plans[1], sequence_parallel=True), plans[1]]
    assert preferred([1.01, 1.0], stack_plans(same)).tolist() == [0, 1]
