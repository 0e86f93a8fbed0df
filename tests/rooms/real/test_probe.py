"""The probe's arithmetic on known times, and the whole of it on this machine."""

import json

import pytest

from datahall.base.label import Label
from datahall.case.site_file import read_site
from datahall.real.probe_rates import link_of
from datahall.real.probe_timing import fit_alpha_beta, time_call
from datahall.ui.cli import main

SIZES = [4**power for power in range(4, 13)]


def test_latency_and_rate_are_found_again():
    fitted = fit_alpha_beta(SIZES, [20e-6 + size / 2e9 for size in SIZES])
    assert fitted.latency_s == pytest.approx(20e-6, rel=1e-6)
    assert fitted.bytes_per_s == pytest.approx(2e9, rel=1e-6)
    assert fitted.worst_error_share < 1e-6


def test_sizes_that_the_fit_did_not_see_judge_it():
    seconds = [20e-6 + size / 2e9 for size in SIZES]
    seconds[1] *= 2
    fitted = fit_alpha_beta(SIZES, seconds)
    assert fitted.latency_s == pytest.approx(20e-6, rel=1e-6)
    assert fitted.worst_error_share == pytest.approx(0.5, abs=0.01)


def test_a_links_rate_follows_from_all_reduces_of_a_ring():
    sums = [
        {"kind": "all_reduce", "bytes": size, "seconds": 4 * (10e-6 + size / 3 / 1e9), "processes": 3} for size in SIZES
    ]
    link = link_of(sums)
    assert link["latency_s"] == pytest.approx(10e-6, rel=1e-6)
    assert link["bytes_per_s"] == pytest.approx(1e9, rel=1e-6)


def test_a_call_is_repeated_until_its_interval_is_known():
    timing = time_call(lambda: sum(range(2000)), budget_s=0.2)
    assert timing.low <= timing.seconds <= timing.high
    assert timing.repeats >= 7


def test_the_quick_probe_writes_a_site_and_its_rates(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["probe", "--quick", "--out", str(tmp_path / "site.yaml")])
    assert ended.value.code == 0
    site = read_site(tmp_path / "site.yaml")
    assert site.label("accelerator") is Label.MEASURED
    assert site.accelerator.peak_flops_per_s["fp32"] > 1e8
    rates = json.loads((tmp_path / "site.rates.json").read_text())
    assert {"device", "link", "disk", "codecs", "startup", "noise"} <= set(rates)
    assert all(rate["memory_bytes_per_s"] > 1e6 for rate in rates["device"].values())
    assert "product" in capsys.readouterr().err
