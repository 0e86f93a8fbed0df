"""What is read off a built model equals the formulas where there are formulas: every split of the language model."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from small_cases import SHAPE, small_case

from datahall.base.errors import Refused
from datahall.case.model import LatentAttention
from datahall.compute.anatomy import Anatomy, anatomy_from_json
from datahall.compute.execute_anatomy import read_anatomy
from datahall.compute.handed import handed_over
from datahall.compute.inventory import Inventory, element_count, language_model_inventory
from datahall.compute.plan import ComputePlan
from datahall.compute.step import step_table
from datahall.real.observe import count_flops
from datahall.workloads import entry

FOUR_LAYERS = replace(SHAPE, layers=4)
SPLITS = [
    ComputePlan(data=2, micro_batch=2, accumulation=2, precision="fp32"),
    ComputePlan(data=2, zero_stage=1, micro_batch=2, precision="fp32"),
    ComputePlan(data=4, shard_group=2, zero_stage=3, micro_batch=2, accumulation=2, precision="bf16"),
    ComputePlan(tensor=2, micro_batch=2, accumulation=2, precision="fp32", sequence_parallel=False),
    ComputePlan(data=2, tensor=2, micro_batch=2, precision="bf16", sequence_parallel=False),
    ComputePlan(tensor=2, micro_batch=2, accumulation=2, precision="bf16"),
    ComputePlan(tensor=2, pipeline=2, micro_batch=2, accumulation=2, precision="fp32", sequence_parallel=False),
    ComputePlan(data=2, tensor=2, pipeline=2, micro_batch=1, accumulation=2, precision="bf16"),
    ComputePlan(pipeline=2, micro_batch=2, accumulation=4, precision="fp32"),
    ComputePlan(data=2, pipeline=2, micro_batch=2, accumulation=2, precision="fp32", recompute="none"),
    ComputePlan(pipeline=2, virtual_stages=2, micro_batch=2, accumulation=4, precision="fp32", schedule="interleaved"),
]


LATENT = replace(FOUR_LAYERS, latent=LatentAttention(24, 16, rope_dim=8, nope_dim=8, value_dim=8))
BOTH = replace(
    LATENT, ffn=48, experts=4, experts_per_token=2, shared_experts=1, shared_ffn=32, dense_layers=1, dense_ffn=128
)


@pytest.mark.parametrize(
    ("shape", "plan"),
    [(FOUR_LAYERS, plan) for plan in SPLITS] + [(shape, plan) for shape in (LATENT, BOTH) for plan in SPLITS[3::2]],
)
def test_the_language_model_seen_from_outside_is_its_formulas(shape, plan):
    case = small_case(shape)
    found = _read(case, plan)
    sequence = case.application.sequence
    expected = language_model_inventory(case.model)
    assert found.inventory.before == expected.before
    assert [element_count(shape) for shape in found.inventory.root] == [element_count(s) for s in expected.root]
    for stage in range(plan.pipeline):
        assert found.handed_over(plan, stage) == handed_over(case.model, sequence, plan, stage)
    rows = step_table(case.model, sequence, plan).rows
    core = sum(row.flops for row in rows if row.name.startswith("attention core"))
    assert plan.accumulation * found.attention_flops == core
    assert plan.accumulation * found.matmul_flops == sum(row.flops for row in rows) - core
    assert anatomy_from_json(found.to_json()) == found


def perceptron_inventory(shape):
    """Those of workloads.mlp, block by block."""
    block = ((shape.ffn, shape.hidden), (shape.ffn,), (shape.hidden, shape.ffn), (shape.hidden,))
    return Inventory(tuple(block for _ in range(shape.layers)), ((shape.vocab, shape.hidden), (shape.vocab,)))


def recommender_inventory(shape):
    """Those of workloads.recommender: two tables and the tower."""
    table = (shape.vocab, shape.hidden)
    tower = ((shape.ffn, 2 * shape.hidden), (shape.ffn,), (1, shape.ffn), (1,))
    return Inventory(((table,), (table,), tower), ())


@pytest.mark.parametrize(("kind", "inventory"), [("mlp", perceptron_inventory), ("recommender", recommender_inventory)])
def test_other_models_have_the_parameters_that_they_should(kind, inventory):
    case = small_case(FOUR_LAYERS, entry=f"datahall.workloads.{kind}:build")
    found = _read(case, SPLITS[0])
    assert found.inventory == inventory(case.model)
    assert found.handed_over(SPLITS[0], 0) == {"all_reduce": (1, 4 * inventory(case.model).parameters)}
    assert found.handed_over(ComputePlan(), 0) == {}


def test_a_model_without_cuts_is_refused():
    bare = replace(entry.build(small_case(FOUR_LAYERS)), cut=None, tensor_cuts={})
    for plan in (SPLITS[3], SPLITS[8]):
        with pytest.raises(Refused, match="does not say how"):
            _read(None, plan, bare)


@pytest.mark.parametrize(
    "plan",
    [
        ComputePlan(pipeline=2, accumulation=2, recompute="full", schedule="zero-bubble"),
        ComputePlan(pipeline=2, virtual_stages=2, accumulation=2),
        ComputePlan(pipeline=2, accumulation=2, schedule="interleaved"),
        ComputePlan(pipeline=2, accumulation=5, schedule="zero-bubble"),
    ],
)
def test_what_a_schedule_cannot_do_is_refused(plan):
    with pytest.raises(Refused):
        _read(small_case(FOUR_LAYERS), plan)


@pytest.mark.parametrize("kind", ["mlp", "recommender"])
def test_a_model_without_a_sequence_is_not_cut_along_it(kind):
    case = small_case(FOUR_LAYERS, entry=f"datahall.workloads.{kind}:build")
    with pytest.raises(Refused, match="cannot share the sequence"):
        _read(case, ComputePlan(tensor=2, micro_batch=2))


def _read(case, plan, workload=None) -> Anatomy:
    workload = workload or entry.build(case)

    def counted(work):
        flops = count_flops(work)
        return flops.matmul, flops.attention

    batch = workload.data.batch(range(plan.micro_batch))
    return read_anatomy(workload, plan, batch, plan.micro_batch, counted)


@pytest.mark.parametrize("ends", [(0, 3), (0, 2, 3), (0, 1, 3), (0, 1, 2, 3)])
def test_the_parts_of_a_recommender_make_the_whole(ends):
    case = small_case(replace(SHAPE, vocab=1000), entry="datahall.workloads.recommender:build")
    workload = entry.build(case)
    pairs, _ = workload.data.batch(range(8))
    handed = pairs
    for start, stop in pairwise(ends):
        handed = workload.cut(workload.model, start, stop)(handed)
    assert torch.equal(handed, workload.model(pairs))
