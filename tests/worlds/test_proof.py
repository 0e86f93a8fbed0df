"""One small proof, whole and real: every stage leaves its evidence, counts agree, nothing is lost, the seal holds."""

import json
from pathlib import Path

import pytest

from datahall.base.event import Event
from datahall.base.label import Label
from datahall.case import load
from datahall.case.site_file import read_site
from datahall.prove import seal
from datahall.prove.effort import Effort
from datahall.prove.loop import STAGES, Settings, prove

TINY = Effort(
    quick_probe=True,
    rounds=1,
    timed_s=0.3,
    least_steps=6,
    most_steps=6,
    parity_steps=4,
    fitted=2,
    held_out=2,
    doses=(),
    controls=0,
)
SMALL = ("application.tokens=16 Ki tokens", "model.inline.hidden=64", "model.inline.layers=2", "model.inline.heads=2",
         "model.inline.kv_heads=1", "model.inline.ffn=160")  # fmt: skip


@pytest.fixture(scope="module")
def proof(tmp_path_factory):
    heard: list[Event] = []
    folder = tmp_path_factory.mktemp("proof")
    case = load(Path(__file__).parents[2] / "cases" / "first.yaml", SMALL)
    return prove(case, Settings(folder, TINY, heard.append)), heard


def test_every_stage_is_told_in_order(proof):
    _, heard = proof
    stages = [event.data["name"] for event in heard if event.kind == "stage"]
    assert stages == list(STAGES)
    assert sum(event.kind == "plans" for event in heard) >= 3  # at once, as probes land, and for the choice


def test_the_quick_probe_measured_this_machine(proof):
    done, heard = proof
    site = read_site(done.folder / "site.yaml")
    assert site.label("accelerator") is Label.MEASURED
    assert site.accelerator.peak_flops_per_s["fp32"] > 1e8
    rates = json.loads((done.folder / "rates.json").read_text())
    assert {"device", "link", "disk", "codecs", "startup", "noise"} <= set(rates)
    assert all(rate["memory_bytes_per_s"] > 1e6 for rate in rates["device"].values())
    assert "product" in {event.data["finding"]["kind"] for event in heard if event.kind == "finding"}


def test_the_evidence_is_there_and_sealed(proof):
    done, _ = proof
    for name in ("case.json", "plan.json", "site.yaml", "plans.json", "heldout.json", "comparison.json", "report.html",
                 "parity.json", "recovery.json", "memory.json", "carry_over.json", "virtual/result.json",
                 "real/result.json", "baseline/result.json", "again/again.json", "trace.json.gz"):  # fmt: skip
        assert (done.folder / name).is_file(), name
    assert seal.check(done.folder) == done.comparison.seal_sha256


def test_counts_that_datahall_decides_are_equal_in_both_worlds(proof):
    done, _ = proof
    decided = {row.name: row for row in done.comparison.counts if row.decided_by == "datahall"}
    assert {"samples", "tokens", "steps", "matmul_flops", "attention_flops", "collective_bytes"} <= set(decided)
    assert [row for row in decided.values() if row.equal is False] == []


def test_two_workers_learn_what_one_learns_and_a_kill_loses_nothing(proof):
    done, _ = proof
    assert done.comparison.parity.holds
    assert done.recovery.holds
    assert done.recovery.killed_worker >= 0


def test_the_second_choice_ran_beside_its_rivals_under_its_own_seal(proof):
    done, _ = proof
    assert seal.check(done.folder / "again") == done.again.seal_sha256
    assert len(done.again.contenders) >= 2
    chosen, *others = done.again.contenders
    assert chosen.forecast_s <= min(one.forecast_s for one in others)
    assert done.again.regret_share == chosen.measured_s / min(one.measured_s for one in done.again.contenders) - 1
    assert chosen.name in done.page.read_text()


def test_how_well_the_time_was_used_stands_on_both_sides(proof):
    done, _ = proof
    measured = {row.name: row.measured for row in done.comparison.components}
    assert 0 < measured["mfu"] < 1
    spent = measured["step_time"] * 8 / measured["total_time"]  # 16 Ki tokens in 8 steps
    assert spent * 0.5 < measured["goodput"] < min(1.0, spent * 2)


def test_comparison_json_has_the_promised_keys(proof):
    done, _ = proof
    data = json.loads((done.folder / "comparison.json").read_text())
    assert {"format_version", "seal_sha256", "machine", "components", "counts", "bottleneck", "parity", "heldout",
            "verdict"} <= set(data)  # fmt: skip
    assert {"cores", "load_before", "load_during"} <= set(data["machine"])
    keys = {"name", "unit", "forecast", "low", "high", "measured", "error_share", "in_noise"}
    assert all(keys <= set(row) for row in data["components"])
    assert {"compute", "transfer", "waiting", "input", "optimiser", "step_time", "total_time", "peak_memory", "startup",
            "checkpoint"} <= {row["name"] for row in data["components"]}  # fmt: skip
    heldout = {"n", "median_error_share_before", "median_error_share", "coverage_share", "median_half_width_share",
               "interval_score", "interval_score_before"}  # fmt: skip
    assert heldout <= set(data["heldout"])


def test_the_page_stands_alone(proof):
    done, _ = proof
    page = done.page.read_text()
    assert len(page.encode()) < 2 * 2**20
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert done.comparison.seal_sha256[:12] in page
