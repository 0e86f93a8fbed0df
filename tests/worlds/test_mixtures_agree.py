"""Mixtures and latent attention on tensor and context ranks: the training of one process, counts as forecast."""

from dataclasses import replace

import pytest
from small_cases import SHAPE, small_case

from datahall.case.model import LatentAttention
from datahall.compute.handed import handed_over
from datahall.compute.layout import Layout
from datahall.compute.plan import ComputePlan
from datahall.decisions.plan import Plan
from datahall.network.plan import NetworkPlan
from datahall.real import parity, training
from datahall.storage.plan import StoragePlan
from datahall.virtual.training import forecast

STEPS = 3
COUNTED = ("samples", "tokens", "steps", "matmul_flops", "attention_flops", "collective_bytes", "collective_calls")
LATENT = replace(
    SHAPE,
    layers=4,
    latent=LatentAttention(query_rank=24, key_value_rank=16, rope_dim=8, nope_dim=8, value_dim=8),  # narrower values
)
MIXTURE = replace(
    SHAPE,
    layers=4,
    ffn=48,
    experts=4,
    experts_per_token=2,
    shared_experts=1,
    shared_ffn=32,
    router_balance=True,
    dense_layers=1,
    dense_ffn=128,
)
BOTH = replace(MIXTURE, latent=replace(LATENT.latent, query_rank=0, value_dim=16), experts_per_token=1)
SHAPES = {"both": (BOTH, ()), "latent": (LATENT, pytest.mark.soak), "mixture": (MIXTURE, pytest.mark.soak)}
ALONE = ComputePlan(micro_batch=8, precision="fp32")
TENSOR = ComputePlan(tensor=2, micro_batch=4, accumulation=2, precision="fp32", sequence_parallel=False)
GRID = replace(TENSOR, pipeline=2, micro_batch=2, accumulation=4)
RING = ComputePlan(context=2, micro_batch=4, accumulation=2, precision="fp32", sequence_parallel=False)
SPLITS = {
    "tensor": TENSOR,
    "sequence": replace(TENSOR, sequence_parallel=True),
    "tensor recomputed": replace(TENSOR, recompute="full"),
    "sequence recomputed": replace(TENSOR, sequence_parallel=True, recompute="full"),
    "cores recomputed": replace(TENSOR, recompute="selective"),
    "data x sequence": replace(TENSOR, data=2, micro_batch=2, sequence_parallel=True),
    "zero1 x tensor": replace(TENSOR, data=2, micro_batch=2, zero_stage=1),
    "zero2 x sequence": replace(TENSOR, data=2, micro_batch=2, zero_stage=2, sequence_parallel=True),
    "zero3 x tensor": replace(TENSOR, data=2, micro_batch=2, zero_stage=3),
    "zero3 x sequence": replace(TENSOR, data=2, micro_batch=2, zero_stage=3, sequence_parallel=True),
    "tensor x pipeline": GRID,
    "sequence x pipeline": replace(GRID, sequence_parallel=True),
    "sequence x interleaved": replace(GRID, sequence_parallel=True, virtual_stages=2, schedule="interleaved"),
    "zero-bubble x sequence": replace(GRID, schedule="zero-bubble", sequence_parallel=True),
    "zero3 x sequence x pipeline": replace(GRID, data=2, accumulation=2, zero_stage=3, sequence_parallel=True),
    "context": RING,
    "context recomputed": replace(RING, recompute="full"),
    "context, cores recomputed": replace(RING, recompute="selective"),
    "zero1 x context": replace(RING, data=2, micro_batch=2, zero_stage=1),
    "zero3 x context": replace(RING, data=2, micro_batch=2, zero_stage=3),
    "context x sequence": replace(RING, tensor=2, sequence_parallel=True),
    "zero3 x context x tensor": replace(RING, tensor=2, zero_stage=3),
    "context x pipeline": replace(RING, pipeline=2, micro_batch=2, accumulation=4),
    "context x grid": replace(GRID, context=2, sequence_parallel=True),
}
NARROW = {
    "sequence bf16": replace(SPLITS["sequence"], precision="bf16"),
    "tensor recomputed bf16": replace(SPLITS["tensor recomputed"], precision="bf16"),
    "zero3 x tensor bf16": replace(SPLITS["zero3 x tensor"], precision="bf16"),
    "sequence x pipeline bf16": replace(SPLITS["sequence x pipeline"], precision="bf16"),
    "context bf16": replace(RING, precision="bf16"),
}


@pytest.fixture(scope="module", params=[pytest.param(name, marks=SHAPES[name][1]) for name in SHAPES])
def case(request):
    few = small_case(SHAPES[request.param][0])
    tokens = STEPS * few.application.global_batch * few.application.sequence
    return replace(few, application=replace(few.application, tokens=tokens), site=replace(few.site, nodes=8))


@pytest.fixture(scope="module")
def alone(case, tmp_path_factory):
    return _run(case, ALONE, tmp_path_factory)


def test_one_process_counts_as_was_forecast(case, alone):
    _counts_agree(case, ALONE, alone)


@pytest.mark.parametrize("name", ["tensor", *[pytest.param(one, marks=pytest.mark.soak) for one in list(SPLITS)[1:]]])
def test_a_split_is_the_training_of_one_process(case, alone, tmp_path_factory, name):
    run = _run(case, SPLITS[name], tmp_path_factory)
    assert parity.between(run, alone).holds
    _counts_agree(case, SPLITS[name], run)


@pytest.mark.soak
@pytest.mark.parametrize("name", NARROW)
def test_narrow_products_are_counted_alike(case, tmp_path_factory, name):
    _counts_agree(case, NARROW[name], _run(case, NARROW[name], tmp_path_factory))


def _run(case, compute, folders):
    plan = Plan(compute, StoragePlan(), NetworkPlan(), case.hash())
    return training.run(case, plan, folders.mktemp("run") / "run", keep_weights=True)


def _counts_agree(case, compute, run):
    layout = Layout.of(compute)
    for worker in run.steps[-1].workers:
        stage = layout.place(worker.rank).stage
        assert worker.kinds == handed_over(case.model, case.application.sequence, compute, stage)
    planned = forecast(case, Plan(compute, StoragePlan(), NetworkPlan(), case.hash())).counts
    assert {name: planned[name] for name in COUNTED} == {name: run.result.counts[name] for name in COUNTED}
