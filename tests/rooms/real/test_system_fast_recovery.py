"""A worker dies under fast recovery: the other goes on, the new one joins, and what nobody learnt from is counted."""

import os
import subprocess
from dataclasses import replace

import psutil
import pytest
from small_cases import small_case, small_plan

from datahall.base.errors import Refused
from datahall.compute.plan import ComputePlan
from datahall.network.plan import NetworkPlan
from datahall.real import fast
from datahall.real.injection import Injection

os.environ.setdefault("RUST_LOG", "error")  # read when torchft is loaded
pytest.importorskip("torchft")
pytestmark = pytest.mark.system  # it waits for a second process to start in the middle of a run
STEPS, KILLED_IN = 900, 30


@pytest.fixture(scope="module")
def case():
    return small_case()


def test_the_others_go_on_and_the_new_worker_joins(case, tmp_path):
    plan = small_plan(case, workers=2, micro_batch=2)
    listening = set()

    def hear(event):
        if event.kind == "replaced" or (event.kind == "step" and event.data["step"] % 200 == 10):
            listening.update(_addresses())

    kill = Injection("kill-worker", rank=1, step=KILLED_IN)
    run = fast.run_fast(case, plan, tmp_path, steps=STEPS, kills=[kill], on_event=hear, keep_weights=True)
    assert [(loss.rank, loss.how) for loss in run.measured.lost] == [(1, "killed by SIGKILL")]
    assert [step.number for step in run.measured.steps] == list(range(STEPS))
    together = [len(step.workers) == 2 for step in run.measured.steps]
    assert all(together[:KILLED_IN])
    first = together.index(False)
    joined = together.index(True, first)
    assert all(together[joined:])
    assert run.measured.lost[0].step <= first <= run.measured.lost[0].step + 1
    half = case.application.global_batch // 2
    assert set(run.dropped.values()) == {half}  # the share of the one that was gone, of every step without it
    assert run.dropped_samples == half * len(run.dropped)
    assert list(run.dropped) == list(range(first, joined + 1))  # in the step that it heals in it takes no part
    read = sum(len(ids) for ids in run.measured.samples.values())
    assert read + run.dropped_samples == STEPS * case.application.global_batch
    assert run.measured.losses[-1] < run.measured.losses[0]
    assert listening <= {"127.0.0.1", "::1"}


@pytest.mark.parametrize("change", [{"network": NetworkPlan(compression="bf16")}, {"compute": ComputePlan(tensor=2)}])
def test_what_it_does_not_run_is_refused(case, tmp_path, change):
    with pytest.raises(Refused, match="plain data parallelism"):
        fast.run_fast(case, replace(small_plan(case, workers=2), **change), tmp_path, steps=2)
    assert not list(tmp_path.iterdir())


def _addresses():
    """Where this process and its workers listen."""
    found = set()
    for process in [psutil.Process(), *psutil.Process().children()]:
        try:
            found |= {one.laddr.ip for one in process.net_connections("tcp") if one.status == psutil.CONN_LISTEN}
        except (psutil.NoSuchProcess, subprocess.SubprocessError):
            continue
    return found
