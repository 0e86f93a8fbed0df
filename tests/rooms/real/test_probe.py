"""The probe's arithmetic on known times, and the whole of it on this machine."""

import json

import pytest

from datahall.base.label import Label
from datahall.base.line import fit_line
from datahall.case.site_file import read_site
from datahall.real import probe_kernels
from datahall.real.probe_kernels import ATTENTION, PRODUCTS, undisturbed
from datahall.real.probe_rates import cut_costs, device_rates, link_of
from datahall.real.probe_slice import slices
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


def test_a_slice_is_what_lies_between_two_gaps():
    times = [start + 1e-4 * look for start in (0.0, 0.011, 0.020, 0.030) for look in range(41)]
    assert list(slices(times)) == pytest.approx([0.004, 0.004])


def test_a_links_rate_follows_from_all_reduces_of_a_ring():
    sums = [
        {"kind": "all_reduce", "bytes": size, "seconds": 4 * (10e-6 + size / 3 / 1e9), "processes": 3} for size in SIZES
    ]
    link = link_of(sums)
    assert link["latency_s"] == pytest.approx(10e-6, rel=1e-6)
    assert link["bytes_per_s"] == pytest.approx(1e9, rel=1e-6)
    assert "gather_passes" not in link  # nobody measured it


def test_a_library_that_sums_the_whole_to_scatter_it_takes_twice_the_ring():
    whole_s = {size: 2 * (10e-6 + size / 2 / 1e9) for size in SIZES}
    kinds = {"all_reduce": 1.0, "all_gather": 0.5, "reduce_scatter": 1.0}
    found = [
        {"kind": kind, "bytes": size, "seconds": share * seconds, "processes": 2}
        for kind, share in kinds.items()
        for size, seconds in whole_s.items()
    ]
    link = link_of(found)
    assert (link["gather_passes"], link["scatter_passes"]) == pytest.approx((1.0, 2.0), rel=1e-6)


def test_what_cutting_costs_a_layer_is_what_thin_models_take_longer_for_each_less_their_sums():
    """Whole: 1 ms and 2 ms a layer.  Cut: 5 ms and 9 ms a layer more, 11 with a shared sequence; a sum takes 1 ms."""
    sums = [{"kind": "all_reduce", "bytes": size, "seconds": 1e-3 + size / 1e9, "processes": 2} for size in SIZES]
    thin = [
        {"kind": "thin_model", "layers": layers, "ranks": ranks, "shared": shared, "seconds": start + layers * layer}
        for layers in (1, 3)
        for ranks, shared, start, layer in (
            (1, False, 1e-3, 2e-3), (2, False, 6e-3, 11e-3), (2, True, 6e-3, 13e-3)
        )
    ]  # fmt: skip
    found = cut_costs([*sums, *thin])
    assert (found["layer_s"], found["shared_layer_s"]) == pytest.approx((5e-3, 7e-3), rel=1e-3)
    assert (found["micro_step_s"], found["shared_micro_step_s"]) == pytest.approx((5e-3, 5e-3), rel=1e-3)
    hasty = [{**one, "seconds": 1e-3} for one in thin]
    assert cut_costs([*sums, *hasty])["layer_s"] == 0.0


def test_a_line_is_found_again_and_never_falls_below_zero():
    assert fit_line([1, 2, 5], [3 + 2 * x for x in (1, 2, 5)]) == pytest.approx((3, 2))
    intercept, slope = fit_line([1, 2, 3], [3, 2, 1])
    assert slope == 0
    assert 1 < intercept < 3
    intercept, slope = fit_line([1, 2, 3], [1, 4, 9])
    assert intercept == 0
    assert 1 < slope < 3


def test_narrow_products_and_short_attention_cost_what_they_were_seen_to_cost():
    """A machine of 100 GFLOP/s, 200 wide: twice the time; each sequence and head 20 us forward and 90 us backward."""
    about = {"dtype": "fp32", "threads": 1, "processes": 1}
    findings = [{**about, "kind": kind, "bytes_per_s": 1e10} for kind in ("add", "copy", "optimiser")]
    findings.append({**about, "kind": "update", "bytes": 28e6, "tensors": 100, "seconds": 2.8e-3 + 3e-3})
    findings += [{**about, "kind": "launch", "seconds": 1e-6}, {**about, "kind": "tiny_product", "seconds": 3e-6}]
    for shape in PRODUCTS:
        tokens, inner, outer = shape
        for kind, flops in (("product", 2 * tokens * inner * outer), ("product_backward", 4 * tokens * inner * outer)):
            seconds = flops / 1e11 * (1 + 200 * (1 / inner + 1 / outer) / 2)
            findings.append({**_found(kind, shape, flops, seconds), **about})
    for shape in ATTENTION:
        batch, heads, sequence, width = shape
        flops = 2 * batch * heads * sequence * sequence * width
        findings.append({**_found("attention", shape, flops, flops / 3e10 + batch * heads * 20e-6), **about})
        flops = 5 * flops // 2
        findings.append({**_found("attention_backward", shape, flops, flops / 2e10 + batch * heads * 90e-6), **about})
    rates = device_rates(findings)["fp32/1 threads/1 processes"]
    assert rates["linear_flops_per_s"] == pytest.approx(1e11)
    assert rates["narrow_width"] == pytest.approx(200)
    assert rates["attention_flops_per_s"] == pytest.approx(3e10)
    assert rates["attention_backward_share"] == pytest.approx(2 / 3)
    assert rates["attention_head_s"] == pytest.approx(20e-6)
    assert rates["attention_head_backward_s"] == pytest.approx(90e-6)
    assert rates["kernel_s"] == pytest.approx(2e-6)


def _found(kind, shape, flops, seconds):
    return {"kind": kind, "shape": list(shape), "flops": flops, "seconds": seconds, "flops_per_s": flops / seconds}


def test_threads_that_waited_for_a_busy_core_are_measured_again(monkeypatch):
    monkeypatch.setattr(probe_kernels, "_PAUSE_S", 0.0)
    alone = [{"kind": "product", "seconds": 1e-3}, {"kind": "launch", "seconds": 1e-6}]
    rounds = [[0.09, 2e-6], [0.6e-3, 3e-6], [0.1e-3, 1e-6]]

    def measure(given):
        return lambda: (
            {"kind": kind, "seconds": s} for kind, s in zip(("product", "launch"), next(given), strict=True)
        )

    found = undisturbed(measure(iter(rounds)), alone)
    assert [one["seconds"] for one in found] == [0.6e-3, 2e-6]  # of two rounds: the second disturbed nothing
    assert [one["seconds"] for one in undisturbed(measure(iter(rounds)), [])] == [0.09, 2e-6]  # nothing to compare with
    slow = undisturbed(measure(iter([[0.9, 1e-6]] * 9)), alone)
    assert slow[0]["seconds"] == 0.9  # a machine that is always like this is taken as it is


def test_a_call_is_repeated_until_its_interval_is_known():
    timing = time_call(lambda: sum(range(2000)), budget_s=0.2)
    assert timing.low <= timing.seconds <= timing.high
    assert timing.repeats >= 7


@pytest.mark.soak  # a quarter of a minute; tests/worlds/test_proof.py looks at what such a probe finds
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
