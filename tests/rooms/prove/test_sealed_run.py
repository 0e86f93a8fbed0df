"""A run of a split with its forecast: sealed before, every term of the split in it, both printed."""

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner
from small_cases import SHAPE, small_case

from datahall.calibrate.machine import Machine
from datahall.case.local import guessed_site, rates_path
from datahall.case.site_file import write_site
from datahall.compute.plan import ComputePlan
from datahall.decisions.plan import Plan
from datahall.network.execute_namespaces import LinkShape
from datahall.network.plan import NetworkPlan
from datahall.prove.sealed_run import Here, foretell, over_link
from datahall.storage.plan import StoragePlan
from datahall.ui.run import run

DEVICE = {
    "linear_flops_per_s": 5e10, "wide_flops_per_s": 5e10, "attention_flops_per_s": 2e10, "word_bytes": 4.0,
    "attention_backward_share": 0.8, "causal_share": 0.5, "memory_bytes_per_s": 1e10, "stream_bytes_per_s": 8e9,
    "optimiser_bytes_per_s": 9e9, "launch_s": 2e-6, "kernel_s": 2e-6,
}  # fmt: skip
RATES = {
    "device": {f"fp32/1 threads/{processes} processes": DEVICE for processes in (1, 2)},
    "link": {"bytes_per_s": 2e9, "latency_s": 2e-5},
    "startup": {"seconds": 3.0},
    "noise": {"within_run_share": 0.03, "between_runs_share": 0.02},
    "input": {"seconds_per_token": 1e-7},
    "machine": {"cores": 2},
}
CASE = """
model: {inline: {name: sealed, layers: 2, hidden: 64, heads: 4, kv_heads: 2, head_dim: 16, ffn: 128, vocab: 256}}
application: {kind: training, tokens: 4096, global_batch: 8, sequence: 64, precision: fp32}
site: local
goal: {minimise: time}
"""


@pytest.fixture(scope="module")
def here():
    return Here(replace(guessed_site()[0], devices_per_node=2), Machine(RATES), "a test")


def test_a_pipeline_is_sealed_run_and_compared(here, tmp_path, monkeypatch):
    monkeypatch.setenv("DATAHALL_SITE", str(tmp_path / "site.yaml"))
    write_site(here.site, tmp_path / "site.yaml")
    rates_path(tmp_path / "site.yaml").write_text(json.dumps(RATES))
    (tmp_path / "case.yaml").write_text(CASE)
    words = ["--workers", "2", "--split", "pipeline=2", "--micro-batch", "2", "--steps", "4", "--runs"]
    done = CliRunner().invoke(run, [str(tmp_path / "case.yaml"), *words, str(tmp_path / "runs")])
    assert done.exit_code == 0, done.output
    assert "bubble: by the formula 20 %, by the order of the work done 20 %" in done.output
    assert "Memory of a process above idle" in done.output
    (folder,) = (tmp_path / "runs").iterdir()
    assert (folder / "seal.json").stat().st_mtime_ns < (folder / "real" / "workers" / "0.jsonl").stat().st_mtime_ns
    compared = json.loads((folder / "comparison.json").read_text())
    counts = {row["name"]: row["equal"] for row in compared["counts"] if row["decided_by"] == "datahall"}
    assert counts
    assert all(equal is not False for equal in counts.values())


def test_more_workers_than_cores_take_turns(here):
    cuts = (ComputePlan(data=n, micro_batch=2, accumulation=4 // n, precision="fp32") for n in (2, 4))
    two, four = (_step(here, cut) for cut in cuts)
    assert four.metrics["compute"].value == pytest.approx(two.metrics["compute"].value, rel=0.01)


def test_each_split_holds_what_it_says(here):
    plain, first, third = (_items(here, zero_stage=stage) for stage in (0, 1, 3))
    assert plain["weights"] == first["weights"] == 2 * third["weights"]
    assert plain["optimiser"] == 2 * first["optimiser"] == 2 * third["optimiser"]
    one, every = (_pipe(here, schedule)["activations"] for schedule in ("1f1b", "gpipe"))
    # Micro-batches in flight, and what a layer works with.
    assert every / one == pytest.approx((4 + 0.6) / (2 + 0.6), rel=0.01)


def test_a_link_makes_the_exchange_as_long_as_its_bytes(here):
    slow = over_link(here, LinkShape(100e6, 0.01))
    plan = ComputePlan(data=2, micro_batch=4, precision="fp32")
    whole = 4 * small_case().model.parameters() * 8 / 100e6
    transfer = _step(slow, plan).metrics["transfer"].value
    assert whole + 0.02 < transfer < 1.1 * whole + 0.03
    rarer = _step(slow, plan, NetworkPlan(local_steps=10)).metrics["transfer"].value
    assert rarer == pytest.approx(transfer / 10, rel=0.1)


def _step(here, compute, network=None):
    case = small_case()
    return foretell(case, Plan(compute, StoragePlan(), network or NetworkPlan(), case.hash()), here)[0]


def _items(here, **split):
    case = small_case()
    compute = ComputePlan(data=2, micro_batch=4, precision="fp32", **split)
    return foretell(case, Plan(compute, StoragePlan(), NetworkPlan(), case.hash()), here)[1]


def _pipe(here, schedule):
    case = small_case(replace(SHAPE, vocab=2))  # so that scores weigh next to nothing
    compute = ComputePlan(pipeline=2, micro_batch=2, accumulation=4, precision="fp32", schedule=schedule)
    return foretell(case, Plan(compute, StoragePlan(), NetworkPlan(), case.hash()), here)[1]
