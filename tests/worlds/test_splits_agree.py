"""Every split that runs: the weights of one process, and counts that the forecast knew, by independent observers."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from small_cases import SHAPE, small_case
from split_runs import (
    ALONE,
    BRIEF,
    COPIED,
    DEEP,
    LONG,
    NARROW,
    STEPS,
    bubble_agrees,
    counts_agree,
    run_split,
    waits_agree,
)

from datahall.base.errors import Refused
from datahall.compute import execute
from datahall.compute.execute_anatomy import read_anatomy
from datahall.compute.layout import Layout
from datahall.compute.plan import ComputePlan
from datahall.real import parity
from datahall.real.checkpoint import checkpoint_folder
from datahall.real.injection import Injection
from datahall.real.observe import count_flops
from datahall.storage.execute import load, save
from datahall.storage.plan import StoragePlan
from datahall.workloads import entry

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
TOO_MANY_STAGES = {
    name for name, one in {**BRIEF, **LONG}.items() if one.pipeline * one.virtual_stages > 3 and one.tensor == 1
}
ATTENTIVE = {
    name for name in (*BRIEF, *LONG) if any(word in name for word in ("sequence", "context", "cores recomputed"))
}
OTHERS = {"mlp": [name for name in (*PLAIN, *BRIEF, *LONG) if name not in ATTENTIVE]}  # which have no sequences
OTHERS["recommender"] = [name for name in OTHERS["mlp"] if name not in TOO_MANY_STAGES]


@pytest.fixture(scope="module")
def case():
    few = small_case(replace(SHAPE, layers=4))
    tokens = STEPS * few.application.global_batch * few.application.sequence
    return replace(few, application=replace(few.application, tokens=tokens), site=replace(few.site, nodes=8))


@pytest.fixture(scope="module")
def alone(case, tmp_path_factory):
    return run_split(case, ALONE, tmp_path_factory)


@pytest.fixture(scope="module")
def tied(case, tmp_path_factory):
    """A case whose head is its table, and its training by one process."""
    tied = replace(case, model=replace(case.model, tied_embeddings=True))
    return tied, run_split(tied, ALONE, tmp_path_factory)


@pytest.fixture(scope="module")
def deep(case, tmp_path_factory):
    """A case with more layers, and its training by one process."""
    deep = replace(case, model=replace(case.model, layers=8))
    return deep, run_split(deep, ALONE, tmp_path_factory)


def test_one_process_counts_as_was_forecast(case, alone):
    counts_agree(case, ALONE, alone)


@pytest.mark.parametrize("name", [*BRIEF, *[pytest.param(name, marks=pytest.mark.soak) for name in (*LONG, *COPIED)]])
def test_a_split_is_the_training_of_one_process(case, alone, tmp_path_factory, name):
    compute = {**BRIEF, **LONG, **COPIED}[name]
    run = run_split(case, compute, tmp_path_factory)
    assert parity.between(run, alone).holds
    counts_agree(case, compute, run)
    waits_agree(compute, run)
    if compute.pipeline > 1 and compute.data == 1:
        bubble_agrees(compute, run)


@pytest.mark.soak
@pytest.mark.parametrize("name", DEEP)
def test_a_worker_of_many_stages_trains_alike(deep, tmp_path_factory, name):
    case, one = deep
    run = run_split(case, DEEP[name], tmp_path_factory)
    assert parity.between(run, one).holds
    counts_agree(case, DEEP[name], run)


@pytest.mark.soak
@pytest.mark.parametrize("name", TIED)
def test_a_head_that_is_the_table_again_splits_alike(tied, tmp_path_factory, name):
    case, one = tied
    compute = {**BRIEF, **LONG}[name]
    run = run_split(case, compute, tmp_path_factory)
    assert parity.between(run, one).holds
    counts_agree(case, compute, run)


@pytest.mark.soak
@pytest.mark.parametrize("name", NARROW)
def test_narrow_products_are_counted_alike(case, tmp_path_factory, name):
    counts_agree(case, NARROW[name], run_split(case, NARROW[name], tmp_path_factory))


@pytest.mark.soak
@pytest.mark.parametrize("name", [*BRIEF, "data x tensor x pipeline", "sequence x interleaved", "zero-bubble"])
def test_a_split_goes_on_from_its_checkpoint(case, alone, tmp_path_factory, name):
    killed = Injection("kill-worker", rank=1, step=2)
    storage = StoragePlan(interval_steps=1, asynchronous=True)  # copied beside the next step, whatever the split
    run = run_split(case, {**BRIEF, **LONG}[name], tmp_path_factory, storage=storage, injection=killed)
    assert len(run.lost) == 1
    assert parity.between(run, alone).holds


@pytest.mark.soak
@pytest.mark.parametrize("name", ["data x tensor x pipeline", "sequence x pipeline", "data x sequence"])
def test_another_split_reads_its_checkpoint_bit_by_bit(case, tmp_path_factory, name):
    run = run_split(case, LONG[name], tmp_path_factory, storage=StoragePlan(interval_steps=STEPS))
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
    one = run_split(case, ALONE, tmp_path_factory, steps=STEPS)
    return request.param, case, one


@pytest.mark.soak
@pytest.mark.parametrize("name", OTHERS["mlp"])
def test_other_models_split_alike(other, tmp_path_factory, name):
    kind, case, one = other
    if name not in OTHERS[kind]:
        return  # refused: see below
    compute = {**BRIEF, **LONG, **PLAIN}[name]
    run = run_split(case, compute, tmp_path_factory, steps=STEPS)
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
        bubble_agrees(compute, run)


@pytest.mark.soak
@pytest.mark.parametrize("name", sorted(TOO_MANY_STAGES - ATTENTIVE))
def test_a_recommender_is_not_cut_into_more_stages_than_it_has_parts(tmp_path_factory, name):
    case = small_case(replace(SHAPE, vocab=1000), entry="datahall.workloads.recommender:build")
    with pytest.raises(Refused, match="has 3 blocks for 4 stages"):
        run_split(case, {**BRIEF, **LONG}[name], tmp_path_factory, steps=STEPS)


def _flops(work):
    flops = count_flops(work)
    return flops.matmul, flops.attention
