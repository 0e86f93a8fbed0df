"""A parameter that the loss does not use: one process leaves it as it is, several are refused before they part."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import unused_perceptron
from small_cases import SHAPE, small_case

from datahall.base.errors import Refused
from datahall.compute.execute_anatomy import read_anatomy
from datahall.compute.plan import ComputePlan
from datahall.decisions.plan import Plan
from datahall.network.plan import NetworkPlan
from datahall.real import training
from datahall.storage.plan import StoragePlan
from datahall.workloads import entry

ONE = ComputePlan(micro_batch=2, accumulation=2, precision="fp32")
TWO = ComputePlan(data=2, micro_batch=2, precision="fp32")
UNUSED = r"blocks\.1\.unused\.weight got no gradient"


@pytest.fixture(scope="module")
def case():
    return small_case(replace(SHAPE, layers=4, vocab=10), entry="unused_perceptron:build")


def test_one_process_trains_beside_it(case, tmp_path):
    assert len(run(case, ONE, tmp_path).steps) == 2


@pytest.mark.parametrize(
    "compute",
    [
        TWO,
        replace(TWO, zero_stage=1),
        pytest.param(replace(TWO, zero_stage=2), marks=pytest.mark.soak),
        pytest.param(replace(TWO, zero_stage=3), marks=pytest.mark.soak),
        pytest.param(replace(ONE, pipeline=2), marks=pytest.mark.soak),
        pytest.param(replace(ONE, tensor=2, sequence_parallel=False), marks=pytest.mark.soak),
    ],
    ids=lambda compute: f"d{compute.data} z{compute.zero_stage} p{compute.pipeline} t{compute.tensor}",
)
def test_workers_name_it(case, tmp_path, compute):
    with pytest.raises(Refused, match=UNUSED):
        run(case, compute, tmp_path)


def test_a_forecast_names_it_before_anything_runs(case):
    workload = entry.build(case, [str(Path(unused_perceptron.__file__).parent)])
    with pytest.raises(Refused, match=UNUSED):
        read_anatomy(workload, TWO, workload.data.batch([0, 1]), 2, _uncounted)
    assert read_anatomy(workload, ONE, workload.data.batch([0, 1]), 2, _uncounted).parameters
    assert all(torch.isfinite(one).all() for one in workload.model.parameters())


def run(case, compute, folder):
    plan = Plan(compute, StoragePlan(), NetworkPlan(), case.hash())
    support = str(Path(unused_perceptron.__file__).parent)
    return training.run(case, plan, folder, steps=2, import_paths=[support])


def _uncounted(work):
    work()
    return 0, 0
