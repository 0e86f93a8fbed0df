"""Running statistics and an optimiser with groups: the same in every split, and after a resume by another."""

from dataclasses import replace
from pathlib import Path

import normed_perceptron
import pytest
from safetensors.torch import load_file
from small_cases import SHAPE, small_case

from datahall.compute.execute_anatomy import read_anatomy
from datahall.compute.plan import ComputePlan
from datahall.decisions.plan import Plan
from datahall.network.plan import NetworkPlan
from datahall.real import parity, training
from datahall.storage.plan import StoragePlan
from datahall.workloads import entry

DATA = ComputePlan(data=2, micro_batch=4, precision="fp32")
ALONE = ComputePlan(micro_batch=2, accumulation=4, precision="fp32")
STEPS = 4
SUPPORT = str(Path(normed_perceptron.__file__).parent)


@pytest.fixture(scope="module")
def case():
    return small_case(replace(SHAPE, layers=4, vocab=10), entry="normed_perceptron:build")


@pytest.fixture(scope="module")
def by_data(case, tmp_path_factory):
    return run(case, DATA, tmp_path_factory.mktemp("data"))


def test_data_parallelism_hands_statistics_round_once_a_step(case, by_data):
    workload = entry.build(case, [SUPPORT])
    anatomy = read_anatomy(workload, DATA, workload.data.batch(range(4)), 4, lambda work: (work(), (0, 0))[1])
    statistics = [one for name, one in workload.model.named_buffers() if "running" in name]
    batches = [one for name, one in workload.model.named_buffers() if "tracked" in name]
    assert sorted(anatomy.buffers) == sorted([4 * sum(one.numel() for one in statistics), 8 * len(batches)])
    for step in by_data.steps:
        for worker in step.workers:
            assert worker.kinds == anatomy.handed_over(DATA, 0)


def test_zero_1_has_the_statistics_and_groups_of_data_parallelism(case, by_data, tmp_path):
    agree(run(case, replace(DATA, zero_stage=1), tmp_path), by_data, by_metric=True)


@pytest.mark.soak
def test_zero_3_has_the_statistics_and_groups_of_data_parallelism(case, by_data, tmp_path):
    agree(run(case, replace(DATA, zero_stage=3), tmp_path), by_data, by_metric=True)


@pytest.mark.soak
def test_a_pipeline_has_the_statistics_and_groups_of_one_process(case, tmp_path):
    two, one = run(case, replace(ALONE, pipeline=2, zero_stage=1), tmp_path / "two"), run(case, ALONE, tmp_path / "one")
    agree(two, one, by_metric=True)


@pytest.mark.soak
@pytest.mark.parametrize("last", [DATA, replace(DATA, zero_stage=3)])
@pytest.mark.parametrize("first", [DATA, replace(DATA, zero_stage=1), replace(DATA, zero_stage=3)])
def test_another_split_goes_on_where_one_stopped(case, by_data, tmp_path, first, last):
    run(case, first, tmp_path, steps=STEPS // 2, every=STEPS // 2)
    agree(run(case, last, tmp_path), by_data)


def agree(made, other, *, by_metric=False):
    assert parity.between(made, other).holds
    found, wanted = (load_file(one.folder / "weights.safetensors") for one in (made, other))
    assert found.keys() == wanted.keys()
    assert any(name.endswith("running_mean") for name in found)
    for name, value in wanted.items():
        assert found[name].sub(value).abs().max() < 1e-5, name
    if by_metric:
        assert made.metrics["validation_loss"] == pytest.approx(other.metrics["validation_loss"], abs=1e-5)


def run(case, compute, folder, steps=STEPS, every=0):
    plan = Plan(compute, StoragePlan(interval_steps=every), NetworkPlan(), case.hash())
    return training.run(case, plan, folder, steps=steps, keep_weights=True, import_paths=[SUPPORT])
