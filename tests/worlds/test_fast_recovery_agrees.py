"""A run with fast recovery beside its sealed forecast: what agreeing takes and what a lost worker costs stand there."""

import os

import pytest
from small_cases import small_case, small_plan

from datahall.calibrate.machine import Machine
from datahall.case.local import guessed_site
from datahall.prove import seal
from datahall.prove.fast_run import sealed_fast_run
from datahall.prove.sealed_run import Here
from datahall.real.injection import Injection

os.environ.setdefault("RUST_LOG", "error")  # read when torchft is loaded
pytest.importorskip("torchft")
pytestmark = pytest.mark.system  # it rehearses, and waits for processes to start
DEVICE = {
    "linear_flops_per_s": 5e10, "wide_flops_per_s": 5e10, "attention_flops_per_s": 2e10, "word_bytes": 4.0,
    "memory_bytes_per_s": 1e10, "optimiser_bytes_per_s": 9e9, "launch_s": 2e-6, "kernel_s": 2e-6,
}  # fmt: skip


@pytest.mark.parametrize("kills", [[], [Injection("kill-worker", rank=1, step=30)]])
def test_agreeing_and_losses_are_forecast_and_measured(tmp_path, kills):
    case = small_case()
    plan = small_plan(case, workers=2, micro_batch=2)
    here = Here(guessed_site()[0], Machine({"device": {"fp32/1 threads/1 processes": DEVICE}}), "a test")
    both = sealed_fast_run(case, plan, here, tmp_path / "run", steps=900 if kills else 20, kills=kills)
    compared = both.sealed.comparison
    assert seal.check(tmp_path / "run") == compared.seal_sha256
    agreeing = compared.row("agreeing")
    assert agreeing.forecast > 0 < agreeing.measured
    assert agreeing.measured < compared.row("step_time").measured
    counts = {row.name: row for row in compared.counts}
    assert counts["collective_bytes"].equal
    assert counts["steps"].equal
    rows = {row.name for row in compared.components}
    if not kills:
        assert counts["samples"].equal
        assert counts["tokens"].equal
        assert not {"longest_step", "dropped_per_loss"} & rows
        return
    assert [loss.rank for loss in both.done.measured.lost] == [1]
    assert compared.row("longest_step").measured == both.done.longest_step_s > agreeing.measured
    assert compared.row("dropped_per_loss").measured == both.done.dropped_samples > 0
    assert counts["samples"].forecast is None  # what was read depends on who died when
