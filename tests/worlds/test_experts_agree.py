"""Mixtures of experts in every split that runs: the weights of one process, and counts that the forecast knew."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from small_cases import LATENT, MIXTURE, SHAPE, small_case

from datahall.base.errors import Refused
from datahall.compute.adapters import adapters_of
from datahall.compute.execute import prepare
from datahall.compute.handed import handed_over
from datahall.compute.layout import Layout
from datahall.compute.plan import ComputePlan
from datahall.decisions.plan import Plan
from datahall.network.plan import NetworkPlan
from datahall.real import parity, training
from datahall.real.checkpoint import checkpoint_folder
from datahall.real.injection import Injection
from datahall.storage.execute import load
from datahall.storage.plan import StoragePlan
from datahall.virtual.training import forecast
from datahall.workloads import entry

STEPS = 3
COUNTED = ("samples", "tokens", "steps", "matmul_flops", "attention_flops", "collective_bytes", "collective_calls")
ALONE = ComputePlan(micro_batch=8, precision="fp32")
EXPERT = ComputePlan(data=2, expert=2, micro_batch=2, accumulation=2, precision="fp32")
STAGED = ComputePlan(data=2, pipeline=2, expert=2, micro_batch=2, accumulation=2, precision="fp32")
TWICE = {"schedule": "interleaved", "virtual_stages": 2}
REPLICAS = replace(EXPERT, data=4, accumulation=1)
SPLITS = {
    "two replicas": REPLICAS,
    "four ranks": replace(REPLICAS, expert=4),
    "recomputed": replace(EXPERT, recompute="full"),
    "expert x zero1": replace(EXPERT, zero_stage=1),
    "two replicas x zero1": replace(REPLICAS, zero_stage=1),
    "two replicas x zero1 in groups": replace(REPLICAS, zero_stage=1, shard_group=2),
    "expert x zero2": replace(EXPERT, zero_stage=2),
    "expert x zero3": replace(EXPERT, zero_stage=3),
    "expert x zero3 recomputed": replace(EXPERT, zero_stage=3, recompute="full"),
    "two replicas x zero3": replace(REPLICAS, zero_stage=3),
    "two replicas x zero3 recomputed": replace(REPLICAS, zero_stage=3, recompute="full"),
    "two replicas x zero3 in groups": replace(REPLICAS, zero_stage=3, shard_group=2),
    "four ranks x zero3 in groups": replace(REPLICAS, expert=4, zero_stage=3, shard_group=2),
    "expert x gpipe": replace(STAGED, schedule="gpipe"),
    "expert x 1f1b": STAGED,
    "expert x 1f1b recomputed": replace(STAGED, recompute="full"),
    "expert x interleaved": replace(STAGED, **TWICE),
    "expert x zero1 x 1f1b": replace(STAGED, zero_stage=1),
    "expert x zero1 x interleaved": replace(STAGED, zero_stage=1, **TWICE),
    "expert x zero2 x 1f1b": replace(STAGED, zero_stage=2),
    "expert x zero3 x 1f1b": replace(STAGED, zero_stage=3),
    "expert x zero3 x interleaved": replace(STAGED, zero_stage=3, **TWICE),
    "expert x zero3 x 1f1b recomputed": replace(STAGED, zero_stage=3, recompute="full"),
    "expert x zero-bubble": replace(STAGED, schedule="zero-bubble"),
    "expert x zero3 x zero-bubble": replace(STAGED, schedule="zero-bubble", zero_stage=3),
    "expert x zero1 x zero-bubble twice": replace(STAGED, schedule="zero-bubble", zero_stage=1, virtual_stages=2),
    "expert x context": replace(EXPERT, context=2, accumulation=2),
    "expert inside context": replace(EXPERT, data=1, context=2, accumulation=4),
    "four ranks x zero3 x context": replace(EXPERT, expert=4, context=2, zero_stage=3),
    "expert x tensor": replace(EXPERT, tensor=2, sequence_parallel=False),
    "expert x tensor recomputed": replace(EXPERT, tensor=2, sequence_parallel=False, recompute="full"),
    "expert x zero3 x tensor": replace(EXPERT, tensor=2, sequence_parallel=False, zero_stage=3),
    "expert x sequence": replace(EXPERT, tensor=2),
    "expert x sequence recomputed": replace(EXPERT, tensor=2, recompute="full"),
    "expert x zero1 x sequence": replace(EXPERT, tensor=2, zero_stage=1),
    "two replicas x zero2 x sequence": replace(REPLICAS, tensor=2, zero_stage=2),
    "two replicas x zero3 x sequence": replace(REPLICAS, tensor=2, zero_stage=3),
    "expert x sequence x 1f1b": replace(STAGED, tensor=2),
    "expert x context x sequence": replace(EXPERT, data=1, context=2, micro_batch=4, tensor=2),
    "data": replace(EXPERT, expert=1),
    "zero1": replace(EXPERT, expert=1, zero_stage=1),
    "zero3": replace(EXPERT, expert=1, zero_stage=3),
    "zero3 recomputed": replace(EXPERT, expert=1, zero_stage=3, recompute="full"),
    "pipeline": ComputePlan(pipeline=2, micro_batch=2, accumulation=4, precision="fp32"),
    "zero3 x pipeline": ComputePlan(data=2, pipeline=2, zero_stage=3, micro_batch=2, accumulation=2, precision="fp32"),
}
_NAMED = {**SPLITS, "two ranks": EXPERT}
NARROW = {
    "expert bf16": replace(EXPERT, precision="bf16"),
    "expert x zero1 bf16": replace(EXPERT, precision="bf16", zero_stage=1),
    "expert x zero3 bf16": replace(EXPERT, precision="bf16", zero_stage=3),
    "expert x 1f1b bf16": replace(STAGED, precision="bf16"),
    "expert x tensor bf16": replace(EXPERT, tensor=2, sequence_parallel=False, precision="bf16"),
    "expert x zero3 x sequence bf16": replace(EXPERT, tensor=2, precision="bf16", zero_stage=3),
    "expert x zero3 x 1f1b bf16": replace(STAGED, precision="bf16", zero_stage=3),
    "zero3 bf16": replace(SPLITS["zero3"], precision="bf16"),
    "pipeline bf16": replace(SPLITS["pipeline"], precision="bf16"),
}


@pytest.fixture(scope="module")
def case():
    few = small_case(MIXTURE)
    tokens = STEPS * few.application.global_batch * few.application.sequence
    return replace(few, application=replace(few.application, tokens=tokens), site=replace(few.site, nodes=4))


@pytest.fixture(scope="module")
def alone(case, tmp_path_factory):
    return _run(case, ALONE, tmp_path_factory)


def test_expert_ranks_are_the_training_of_one_process(case, alone, tmp_path_factory):
    _counts_agree(case, ALONE, alone)
    run = _run(case, EXPERT, tmp_path_factory)
    assert parity.between(run, alone).holds
    _counts_agree(case, EXPERT, run)
    _bytes_are_what_the_routers_say(case, EXPERT, run)


@pytest.mark.soak
@pytest.mark.parametrize("name", SPLITS)
def test_a_split_is_the_training_of_one_process(case, alone, tmp_path_factory, name):
    run = _run(case, SPLITS[name], tmp_path_factory)
    assert parity.between(run, alone).holds
    _counts_agree(case, SPLITS[name], run)
    if SPLITS[name].expert > 1 and SPLITS[name].recompute == "none":
        _bytes_are_what_the_routers_say(case, SPLITS[name], run)


@pytest.mark.soak
@pytest.mark.parametrize("name", ["two ranks", "zero3", "pipeline"])
def test_latent_attention_splits_alike(case, tmp_path_factory, name):
    latent = replace(case, model=replace(MIXTURE, latent=LATENT))
    one, run = (_run(latent, plan, tmp_path_factory) for plan in (ALONE, _NAMED[name]))
    assert parity.between(run, one).holds
    _counts_agree(latent, ALONE, one)
    _counts_agree(latent, _NAMED[name], run)


@pytest.mark.soak
@pytest.mark.parametrize("name", ["expert x zero1", "expert x zero3", "expert x 1f1b", "two replicas x zero3"])
def test_adapters_beside_frozen_experts_train_alike(case, tmp_path_factory, name):
    adapted = replace(case, application=replace(case.application, method="lora", lora_rank=4, lora_targets="attention"))
    one, run = (_run(adapted, plan, tmp_path_factory) for plan in (ALONE, SPLITS[name]))
    assert parity.between(run, one).holds
    _counts_agree(adapted, SPLITS[name], run)


@pytest.mark.soak
@pytest.mark.parametrize("name", NARROW)
def test_narrow_products_are_counted_alike(case, tmp_path_factory, name):
    _counts_agree(case, NARROW[name], _run(case, NARROW[name], tmp_path_factory))


@pytest.mark.soak
@pytest.mark.parametrize("name", ["two ranks", "two replicas", "two replicas x zero1", "expert x zero3 x 1f1b"])
def test_expert_ranks_go_on_from_their_checkpoint(case, alone, tmp_path_factory, name):
    killed = Injection("kill-worker", rank=1, step=2)
    storage = StoragePlan(interval_steps=1, asynchronous=True)
    run = _run(case, _NAMED[name], tmp_path_factory, storage=storage, injection=killed)
    assert len(run.lost) == 1
    assert parity.between(run, alone).holds


@pytest.mark.soak
@pytest.mark.parametrize("name", ["two replicas", "two replicas x zero3", "expert x 1f1b"])
def test_one_process_goes_on_from_what_expert_ranks_saved(case, tmp_path_factory, name):
    run = _run(case, SPLITS[name], tmp_path_factory, storage=StoragePlan(interval_steps=STEPS))
    executor = prepare(entry.build(case), ALONE, bucket_bytes=0, device=torch.device("cpu"))
    state = executor.tensors(complete=True)
    assert load(checkpoint_folder(run.folder), state).unread == ()
    weights = load_file(run.folder / "weights.safetensors")
    assert len(weights) == len(entry.build(case).model.state_dict())
    assert all(torch.equal(state[name], tensor) for name, tensor in weights.items())
    moments = [tensor for name, tensor in state.items() if name.endswith("exp_avg")]
    assert len(moments) == len(weights)
    assert all(float(moment.abs().sum()) > 0 for moment in moments)


def test_groups_that_overlap_are_refused_before_anything_starts(case, tmp_path_factory):
    with pytest.raises(Refused, match="not inside one another"):
        _run(case, replace(EXPERT, data=4, expert=3), tmp_path_factory)


@pytest.mark.soak
@pytest.mark.parametrize(
    ("shape", "compute", "why"),
    [
        (SHAPE, EXPERT, "no experts"),
        (replace(MIXTURE, experts=3), EXPERT, "no experts that 2 workers can share out evenly"),
    ],
)
def test_what_a_model_does_not_have_is_refused(case, shape, compute, why, tmp_path_factory):
    with pytest.raises(Refused, match=why):
        _run(replace(case, model=shape), replace(compute, precision="fp32"), tmp_path_factory)


def _run(case, compute, folders, storage=None, injection=None):
    plan = Plan(compute, storage or StoragePlan(), NetworkPlan(), case.hash())
    return training.run(case, plan, folders.mktemp("run") / "run", injection=injection, keep_weights=True)


def _counts_agree(case, compute, run):
    """Of each worker where nothing is the router's choice, otherwise of each group that shares the experts."""
    layout, adapters = Layout.of(compute), adapters_of(case.application)
    for step in run.steps:
        for members in _sharing(step, compute):
            stage = layout.place(members[0].rank).stage
            handed = handed_over(case.model, case.application.sequence, compute, stage, adapters)
            assert set(handed) == set(members[0].kinds)
            for kind, (calls, size) in handed.items():
                seen = [worker.kinds[kind] for worker in members]
                assert {found for found, _ in seen} == {calls}
                assert sum(found for _, found in seen) == len(members) * size
                assert kind == "all_to_all" or {found for _, found in seen} == {size}
    planned = forecast(case, Plan(compute, StoragePlan(), NetworkPlan(), case.hash())).counts
    assert {name: planned[name] for name in COUNTED} == {name: run.result.counts[name] for name in COUNTED}


def _sharing(step, compute):
    """The groups of workers that share the experts: neighbours among those with the same tensor rank."""
    apart, workers = compute.expert * compute.tensor, step.workers
    return [
        workers[first + rank : first + apart : compute.tensor]
        for first in range(0, len(workers), apart)
        for rank in range(compute.tensor)
    ]


def _bytes_are_what_the_routers_say(case, compute, run):
    """What each worker handed over, seen at the call, follows from the rows that its experts were given."""
    shape = case.model
    tokens = compute.micro_batch * compute.accumulation * case.application.sequence // compute.context // compute.tensor
    own = tokens * shape.experts_per_token
    for step in run.steps:
        received = [sum(map(sum, worker.received)) for worker in step.workers]
        assert sum(received) == compute.copies * compute.tensor * own * shape.moe_layers
        assert len(set(received)) > compute.pipeline  # the routers did choose
        for members in _sharing(step, compute):
            held = sum(any(map(any, rows)) for rows in zip(*(worker.received for worker in members), strict=True))
            for worker in members:
                counts = held * compute.accumulation * 8 * shape.experts
                rows = 2 * own * held + 2 * received[worker.rank]
                assert worker.kinds.get("all_to_all", (0, 0))[1] == counts + 4 * shape.hidden * rows
