"""Every split that runs: the weights of one process, and counts that the forecast knew, by independent observers."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from small_cases import SHAPE, small_case

from datahall.base.errors import Refused
from datahall.compute import execute
from datahall.compute.execute_anatomy import read_anatomy
from datahall.compute.handed import handed_over
from datahall.compute.layout import Layout
from datahall.compute.numbers import PlanNumbers
from datahall.compute.plan import ComputePlan
from datahall.compute.schedule import idle_share
from datahall.decisions.plan import Plan
from datahall.network.plan import NetworkPlan
from datahall.real import parity, training
from datahall.real.checkpoint import checkpoint_folder
from datahall.real.injection import Injection
from datahall.real.measure import read_kind
from datahall.real.observe import count_flops
from datahall.storage.execute import load, save
from datahall.storage.plan import StoragePlan
from datahall.virtual.step_time import bubble_share
from datahall.virtual.training import forecast
from datahall.workloads import entry

STEPS = 3
COUNTED = ("samples", "tokens", "steps", "matmul_flops", "attention_flops", "collective_bytes", "collective_calls")
ALONE = ComputePlan(micro_batch=8, precision="fp32")
BRIEF = {
    "zero1": ComputePlan(data=2, zero_stage=1, micro_batch=2, accumulation=2, precision="fp32"),
    "zero3": ComputePlan(data=2, zero_stage=3, micro_batch=2, accumulation=2, precision="fp32"),
    "tensor": ComputePlan(tensor=2, micro_batch=4, accumulation=2, precision="fp32", sequence_parallel=False),
    "zero3 x tensor": ComputePlan(
        data=2, tensor=2, zero_stage=3, micro_batch=2, accumulation=2, precision="fp32", sequence_parallel=False
    ),
    "context": ComputePlan(context=2, micro_batch=4, accumulation=2, precision="fp32"),
    "interleaved": ComputePlan(
        pipeline=2, virtual_stages=2, micro_batch=2, accumulation=4, precision="fp32", schedule="interleaved"
    ),
}
GRID = ComputePlan(tensor=2, pipeline=2, micro_batch=2, accumulation=4, precision="fp32", sequence_parallel=False)
LONG = {
    "zero2": replace(BRIEF["zero3"], zero_stage=2),
    "zero3 recomputed": replace(BRIEF["zero3"], recompute="full"),
    "cores recomputed": replace(BRIEF["zero3"], recompute="selective"),
    "hybrid": replace(BRIEF["zero3"], data=4, shard_group=2, accumulation=1),
    "gpipe": ComputePlan(pipeline=2, micro_batch=2, accumulation=4, precision="fp32", schedule="gpipe"),
    "1f1b": ComputePlan(pipeline=2, micro_batch=2, accumulation=4, precision="fp32"),
    "four stages": ComputePlan(pipeline=4, micro_batch=1, accumulation=8, precision="fp32"),
    "data x tensor": replace(BRIEF["tensor"], data=2, micro_batch=2),
    "data x pipeline": ComputePlan(data=2, pipeline=2, micro_batch=2, accumulation=2, precision="fp32"),
    "sequence": replace(BRIEF["tensor"], sequence_parallel=True),
    "tensor recomputed": replace(BRIEF["tensor"], recompute="full"),
    "sequence recomputed": replace(BRIEF["tensor"], sequence_parallel=True, recompute="full"),
    "data x sequence": replace(BRIEF["tensor"], data=2, micro_batch=2, sequence_parallel=True),
    "tensor x pipeline": GRID,
    "sequence x pipeline": replace(GRID, sequence_parallel=True),
    "sequence x interleaved": replace(
        GRID, sequence_parallel=True, virtual_stages=2, schedule="interleaved", accumulation=4
    ),
    "data x tensor x pipeline": replace(GRID, data=2, accumulation=2),
    "data x sequence x pipeline": replace(GRID, data=2, accumulation=2, sequence_parallel=True),
}
LONG |= {f"zero{stage} x tensor": replace(BRIEF["zero3 x tensor"], zero_stage=stage) for stage in (1, 2)}
LONG |= {f"zero{stage} x pipeline": replace(LONG["data x pipeline"], zero_stage=stage) for stage in (1, 2, 3)}
LONG |= {
    "zero-bubble": replace(LONG["1f1b"], schedule="zero-bubble"),
    "zero-bubble, four stages": replace(LONG["four stages"], schedule="zero-bubble"),
    "zero-bubble x sequence": replace(GRID, data=2, accumulation=2, schedule="zero-bubble", sequence_parallel=True),
    "zero-bubble x zero1": replace(LONG["data x pipeline"], schedule="zero-bubble", zero_stage=1),
    "zero1 x sequence x pipeline": replace(GRID, data=2, accumulation=2, zero_stage=1, sequence_parallel=True),
    "zero3 x sequence": replace(BRIEF["zero3 x tensor"], sequence_parallel=True),
    "zero3 x tensor x pipeline": replace(GRID, data=2, accumulation=2, zero_stage=3),
    "zero3 x sequence x pipeline": replace(GRID, data=2, accumulation=2, zero_stage=3, sequence_parallel=True),
    "zero3 x gpipe": replace(LONG["zero3 x pipeline"], schedule="gpipe"),
    "zero3 x interleaved": replace(BRIEF["interleaved"], data=2, micro_batch=1, zero_stage=3),
    "zero1 in groups": replace(LONG["hybrid"], zero_stage=1),
    "zero2 in groups": replace(LONG["hybrid"], zero_stage=2),
}
RING = replace(BRIEF["context"], sequence_parallel=False)
LONG |= {
    "data x context": replace(RING, data=2, micro_batch=2),
    "four contexts": replace(RING, context=4),
    "context recomputed": replace(RING, recompute="full"),
    "context, cores recomputed": replace(RING, recompute="selective"),
    "zero1 x context": replace(RING, data=2, micro_batch=2, zero_stage=1),
    "zero2 x context": replace(RING, zero_stage=2),
    "zero3 x context": replace(RING, data=2, micro_batch=2, zero_stage=3),
    "zero3 x context in groups": replace(RING, data=2, micro_batch=2, zero_stage=3, shard_group=2),
    "zero1 x context in groups": replace(RING, data=4, micro_batch=1, zero_stage=1, shard_group=4),
    "context x tensor": replace(RING, tensor=2),
    "context x sequence": replace(RING, tensor=2, sequence_parallel=True),
    "zero3 x context x tensor": replace(RING, tensor=2, zero_stage=3),
    "context x pipeline": replace(RING, pipeline=2, micro_batch=2, accumulation=4),
    "context x interleaved": replace(BRIEF["interleaved"], context=2),
    "zero3 x context x pipeline": replace(RING, pipeline=2, micro_batch=2, accumulation=4, zero_stage=3),
    "context x grid": replace(GRID, context=2),
}
NARROW = {
    "zero3 bf16": replace(BRIEF["zero3"], precision="bf16"),
    "tensor bf16": replace(BRIEF["tensor"], precision="bf16"),
    "pipeline bf16": replace(LONG["1f1b"], precision="bf16"),
    "zero3 x tensor bf16": replace(BRIEF["zero3 x tensor"], precision="bf16"),
    "zero3 x pipeline bf16": replace(LONG["zero3 x pipeline"], precision="bf16"),
    "sequence x pipeline bf16": replace(LONG["sequence x pipeline"], precision="bf16"),
    "context bf16": replace(RING, precision="bf16"),
    "zero3 x context bf16": replace(LONG["zero3 x context"], precision="bf16"),
    "context x pipeline bf16": replace(LONG["context x pipeline"], precision="bf16"),
    "tensor recomputed bf16": replace(LONG["tensor recomputed"], precision="bf16"),
    "zero3 x grid bf16": replace(LONG["zero3 x sequence x pipeline"], precision="bf16"),
}

COPIED = {  # four tensor ranks, two heads of keys and values
    "copied": ComputePlan(tensor=4, micro_batch=4, accumulation=2, precision="fp32", sequence_parallel=False),
    "copied sequence": ComputePlan(tensor=4, micro_batch=4, accumulation=2, precision="fp32"),
    "copied x zero1": ComputePlan(data=2, tensor=4, micro_batch=2, accumulation=2, precision="fp32", zero_stage=1),
    "copied x zero3": ComputePlan(data=2, tensor=4, micro_batch=2, accumulation=2, precision="fp32", zero_stage=3),
    "copied x pipeline": ComputePlan(tensor=4, pipeline=2, micro_batch=2, accumulation=4, precision="fp32"),
    "copied recomputed": ComputePlan(tensor=4, micro_batch=8, precision="fp32", recompute="full"),
}
TIED = [
    "zero1",
    "sequence",
    "interleaved",
    "sequence x interleaved",
    "zero1 x sequence x pipeline",
    "zero3 x tensor x pipeline",
]
PLAIN = {"data": ComputePlan(data=2, micro_batch=2, accumulation=2, precision="fp32")}
# For a recommender, which is two tables and a tower:
TOO_MANY_STAGES = ("interleaved", "zero3 x interleaved", "four stages", "zero-bubble, four stages")
ATTENTIVE = {name for name in (*BRIEF, *LONG) if "sequence" in name or "context" in name} | {"cores recomputed"}
OTHERS = {"mlp": [name for name in (*PLAIN, *BRIEF, *LONG) if name not in ATTENTIVE]}  # which have no sequences
OTHERS["recommender"] = [name for name in OTHERS["mlp"] if name not in TOO_MANY_STAGES]


@pytest.fixture(scope="module")
def case():
    few = small_case(replace(SHAPE, layers=4))
    tokens = STEPS * few.application.global_batch * few.application.sequence
    return replace(few, application=replace(few.application, tokens=tokens), site=replace(few.site, nodes=8))


@pytest.fixture(scope="module")
def alone(case, tmp_path_factory):
    return _run(case, ALONE, tmp_path_factory)


@pytest.fixture(scope="module")
def tied(case, tmp_path_factory):
    """A case whose head is its table, and its training by one process."""
    tied = replace(case, model=replace(case.model, tied_embeddings=True))
    return tied, _run(tied, ALONE, tmp_path_factory)


def test_one_process_counts_as_was_forecast(case, alone):
    _counts_agree(case, ALONE, alone)


@pytest.mark.parametrize("name", [*BRIEF, *[pytest.param(name, marks=pytest.mark.soak) for name in (*LONG, *COPIED)]])
def test_a_split_is_the_training_of_one_process(case, alone, tmp_path_factory, name):
    compute = {**BRIEF, **LONG, **COPIED}[name]
    run = _run(case, compute, tmp_path_factory)
    assert parity.between(run, alone).holds
    _counts_agree(case, compute, run)
    if compute.pipeline > 1 and compute.data == 1:
        _bubble_agrees(compute, run)


@pytest.mark.soak
@pytest.mark.parametrize("name", TIED)
def test_a_head_that_is_the_table_again_splits_alike(tied, tmp_path_factory, name):
    case, one = tied
    compute = {**BRIEF, **LONG}[name]
    run = _run(case, compute, tmp_path_factory)
    assert parity.between(run, one).holds
    _counts_agree(case, compute, run)


@pytest.mark.soak
@pytest.mark.parametrize("name", NARROW)
def test_narrow_products_are_counted_alike(case, tmp_path_factory, name):
    _counts_agree(case, NARROW[name], _run(case, NARROW[name], tmp_path_factory))


@pytest.mark.parametrize(
    "compute",
    [
        ComputePlan(data=4, expert=2, zero_stage=1),
        ComputePlan(data=2, expert=2, pipeline=2),
    ],
)
def test_what_is_only_planned_is_refused_before_anything_starts(case, compute, tmp_path_factory):
    with pytest.raises(Refused, match="planned but not run"):
        _run(case, replace(compute, micro_batch=2), tmp_path_factory)


@pytest.mark.soak
@pytest.mark.parametrize("name", [*BRIEF, "data x tensor x pipeline", "sequence x interleaved", "zero-bubble"])
def test_a_split_goes_on_from_its_checkpoint(case, alone, tmp_path_factory, name):
    killed = Injection("kill-worker", rank=1, step=2)
    storage = StoragePlan(interval_steps=1, asynchronous=True)  # copied beside the next step, whatever the split
    run = _run(case, {**BRIEF, **LONG}[name], tmp_path_factory, storage=storage, injection=killed)
    assert len(run.lost) == 1
    assert parity.between(run, alone).holds


@pytest.mark.soak
@pytest.mark.parametrize("name", ["data x tensor x pipeline", "sequence x pipeline", "data x sequence"])
def test_another_split_reads_its_checkpoint_bit_by_bit(case, tmp_path_factory, name):
    run = _run(case, LONG[name], tmp_path_factory, storage=StoragePlan(interval_steps=STEPS))
    workload = entry.build(case)
    whole = execute.prepare(workload, ALONE, bucket_bytes=0, device=torch.device("cpu"))
    state = whole.tensors(complete=True)
    assert load(checkpoint_folder(run.folder), state).step == STEPS
    assert all(bool(state[key].any()) for key in state if key.startswith("optimiser."))
    for key, kept in load_file(run.folder / "weights.safetensors").items():
        assert torch.equal(state[key], kept)
    path = tmp_path_factory.mktemp("again")
    save(path, STEPS, state)
    again = {key: torch.zeros_like(tensor) for key, tensor in state.items()}
    load(path, again)
    assert all(torch.equal(again[key], tensor) for key, tensor in state.items())


@pytest.fixture(scope="module", params=OTHERS)
def other(request, tmp_path_factory):
    """A case with another model than ours, and its training by one process."""
    shape = replace(SHAPE, layers=4, vocab=10 if request.param == "mlp" else 1000)
    case = small_case(shape, entry=f"datahall.workloads.{request.param}:build")
    case = replace(case, site=replace(case.site, nodes=8))
    one = _run(case, ALONE, tmp_path_factory, steps=STEPS)
    return request.param, case, one


@pytest.mark.soak
@pytest.mark.parametrize("name", OTHERS["mlp"])
def test_other_models_split_alike(other, tmp_path_factory, name):
    kind, case, one = other
    if name not in OTHERS[kind]:
        return  # refused: see below
    compute = {**BRIEF, **LONG, **PLAIN}[name]
    run = _run(case, compute, tmp_path_factory, steps=STEPS)
    assert parity.between(run, one).holds
    workload, layout = entry.build(case), Layout.of(compute)
    batch = workload.data.batch(range(compute.micro_batch))
    anatomy = read_anatomy(workload, compute, batch, compute.micro_batch, _flops)
    for step in run.steps:
        for worker in step.workers:
            assert worker.kinds == anatomy.handed_over(compute, layout.place(worker.rank).stage)
    if compute.recompute == "none":
        assert run.result.counts["matmul_flops"] == STEPS * compute.accumulation * anatomy.matmul_flops
    if compute.pipeline > 1 and compute.data == 1:
        _bubble_agrees(compute, run)


@pytest.mark.soak
@pytest.mark.parametrize("name", TOO_MANY_STAGES)
def test_a_recommender_is_not_cut_into_more_stages_than_it_has_parts(tmp_path_factory, name):
    case = small_case(replace(SHAPE, vocab=1000), entry="datahall.workloads.recommender:build")
    with pytest.raises(Refused, match="has 3 blocks for 4 stages"):
        _run(case, {**BRIEF, **LONG}[name], tmp_path_factory, steps=STEPS)


def _run(case, compute, folders, steps=None, storage=None, injection=None):
    plan = Plan(compute, storage or StoragePlan(), NetworkPlan(), case.hash())
    folder = folders.mktemp("run") / "run"
    return training.run(case, plan, folder, steps=steps, injection=injection, keep_weights=True)


def _flops(work):
    flops = count_flops(work)
    return flops.matmul, flops.attention


def _counts_agree(case, compute, run):
    layout = Layout.of(compute)
    for worker in run.steps[-1].workers:
        stage = layout.place(worker.rank).stage
        assert worker.kinds == handed_over(case.model, case.application.sequence, compute, stage)
    planned = forecast(case, Plan(compute, StoragePlan(), NetworkPlan(), case.hash())).counts
    assert {name: planned[name] for name in COUNTED} == {name: run.result.counts[name] for name in COUNTED}


def _bubble_agrees(compute, run):
    """By the order in which the workers really did their work."""
    orders = {
        event.data["rank"]: [tuple(one) for one in event.data["actions"]] for event in read_kind(run.folder, "order")
    }
    idle = idle_share([orders[rank] for rank in sorted(orders)], compute.pipeline * compute.virtual_stages)
    fine = compute.virtual_stages / PlanNumbers.of(compute).bubble_share
    assert idle == pytest.approx(bubble_share(compute.pipeline, compute.accumulation, fine))
