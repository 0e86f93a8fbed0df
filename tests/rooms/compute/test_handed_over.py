"""Who sits where, which layers a stage has, and what follows for bytes by simple laws."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_cases import SHAPE

from datahall.compute.handed import countable, handed_over
from datahall.compute.inventory import language_model_inventory
from datahall.compute.layout import Layout, stage_layers
from datahall.compute.plan import ComputePlan

FOUR = replace(SHAPE, layers=4)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
def test_every_worker_has_its_own_place(data, tensor, pipeline):
    layout = Layout(data, tensor, pipeline)
    places = {layout.place(rank) for rank in range(layout.workers)}
    assert len(places) == layout.workers
    assert layout.place(layout.voice) == type(next(iter(places)))(pipeline - 1, 0, 0)


@given(st.integers(1, 40), st.integers(1, 8))
def test_stages_share_all_layers(layers, stages):
    owned = [layer for stage in range(stages) for layer in stage_layers(layers, stages, stage)]
    assert owned == list(range(layers))


def test_the_inventory_has_the_shapes_parameters():
    for shape in (SHAPE, replace(SHAPE, tied_embeddings=True), replace(SHAPE, attention_bias=True)):
        assert language_model_inventory(shape).parameters == shape.parameters()


def test_stage_three_gathers_what_two_workers_lack():
    plan = ComputePlan(data=2, zero_stage=3, precision="fp32")
    handed = handed_over(FOUR, 64, plan, 0)
    assert handed["reduce_scatter"] == (5, 4 * FOUR.parameters())
    twice = handed_over(FOUR, 64, replace(plan, accumulation=2), 0)
    assert twice == {kind: (2 * calls, 2 * size) for kind, (calls, size) in handed.items()}


def test_pipeline_stages_hold_the_whole_model_between_them():
    plan = ComputePlan(data=2, pipeline=2, precision="fp32")
    held = sum(handed_over(FOUR, 64, plan, stage)["all_reduce"][1] for stage in range(2))
    assert held == 4 * FOUR.parameters()


@pytest.mark.parametrize("ranks", [1, 2])
def test_tensor_ranks_keep_norms_whole(ranks):
    norms = FOUR.hidden * (2 * FOUR.layers + 1)
    assert ranks * language_model_inventory(FOUR, ranks).parameters == FOUR.parameters() + (ranks - 1) * norms


@pytest.mark.parametrize("plan", [ComputePlan(tensor=2, pipeline=2), ComputePlan(tensor=2, data=2, pipeline=2)])
def test_stages_of_tensor_ranks_exchange_between_them_what_one_stage_would(plan):
    def exchanged(plan, stages):
        by_stage = [handed_over(FOUR, 64, plan, stage) for stage in range(stages)]
        return [sum(stage[kind][1] for stage in by_stage) for kind in ("all_gather", "reduce_scatter", "all_reduce")]

    assert exchanged(plan, 2) == exchanged(replace(plan, pipeline=1), 1)


def test_sequence_parallelism_hands_over_as_much_to_sum_and_gathers_its_shares():
    plan = ComputePlan(tensor=2, precision="fp32")
    summed = handed_over(FOUR, 64, replace(plan, sequence_parallel=False), 0)
    scattered = handed_over(FOUR, 64, plan, 0)
    assert scattered["reduce_scatter"] == summed["all_reduce"]
    logits, shares = summed["all_gather"][1], summed["all_reduce"][1] // plan.tensor
    assert scattered["all_gather"][1] == logits + shares


def test_one_worker_hands_over_nothing():
    assert handed_over(FOUR, 64, ComputePlan(), 0) == {}


def test_what_is_not_run_is_not_counted_exactly():
    assert not countable(FOUR, ComputePlan(data=2, expert=2, zero_stage=1))
    assert countable(FOUR, ComputePlan(data=2, context=2, tensor=2, pipeline=2, zero_stage=3))
