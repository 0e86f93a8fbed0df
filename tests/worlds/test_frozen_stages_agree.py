"""Stages that are frozen, wholly or in part: the weights of one process, and the counts of an anatomy read before."""

from dataclasses import replace
from pathlib import Path

import frozen_perceptron
import pytest
from small_cases import SHAPE, small_case
from split_runs import ALONE, BRIEF, LONG, STEPS

from datahall.base.errors import Refused
from datahall.compute.execute_anatomy import read_anatomy
from datahall.compute.layout import Layout
from datahall.decisions.plan import Plan
from datahall.network.plan import NetworkPlan
from datahall.real import parity, training
from datahall.real.observe import count_flops
from datahall.storage.plan import StoragePlan

SUPPORT = Path(frozen_perceptron.__file__).parent
PLANS = {**BRIEF, **LONG}
NAMES = [
    "tensor",
    "gpipe",
    "four stages",
    "interleaved",
    "data x tensor x pipeline",
    "zero1 x pipeline",
    "zero2 x pipeline",
    "zero2 x tensor",
    "zero-bubble",
    "zero-bubble, four stages",
    "zero-bubble x zero2",
]


@pytest.fixture(scope="module")
def case():
    few = small_case(replace(SHAPE, layers=4, vocab=10), entry="frozen_perceptron:build")
    return replace(few, site=replace(few.site, nodes=8))


@pytest.fixture(scope="module")
def alone(case, tmp_path_factory):
    return run(case, ALONE, tmp_path_factory)


@pytest.mark.soak
@pytest.mark.parametrize("name", NAMES)
def test_what_is_frozen_splits_alike(case, alone, tmp_path_factory, name):
    compute = PLANS[name]
    made = run(case, compute, tmp_path_factory)
    assert parity.between(made, alone).holds
    anatomy, layout = anatomy_of(case, compute), Layout.of(compute)
    for worker in made.steps[-1].workers:
        assert worker.kinds == anatomy.handed_over(compute, layout.place(worker.rank).stage)
    assert made.result.counts["matmul_flops"] == STEPS * compute.accumulation * anatomy.matmul_flops


@pytest.mark.soak
def test_a_frozen_front_trains_alike_though_it_is_not_forecast(case, alone, tmp_path_factory):
    compute = PLANS["zero-bubble x zero3"]
    assert parity.between(run(case, compute, tmp_path_factory), alone).holds
    with pytest.raises(Refused, match="first block is frozen"):
        anatomy_of(case, compute)


def test_gradients_go_back_only_as_far_as_something_is_trained(case):
    sends = [
        anatomy_of(case, LONG["four stages"]).handed_over(LONG["four stages"], stage)["send"] for stage in range(4)
    ]
    assert [calls for calls, _ in sends] == [8, 8, 8, 8]


def anatomy_of(case, compute):
    workload = frozen_perceptron.build(case)
    batch = workload.data.batch(range(compute.micro_batch))
    return read_anatomy(workload, compute, batch, compute.micro_batch, flops_of)


def flops_of(work):
    flops = count_flops(work)
    return flops.matmul, flops.attention


def run(case, compute, folders):
    plan = Plan(compute, StoragePlan(), NetworkPlan(), case.hash())
    folder = folders.mktemp("run") / "run"
    return training.run(case, plan, folder, steps=STEPS, keep_weights=True, import_paths=[str(SUPPORT)])
