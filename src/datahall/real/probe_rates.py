"""From single findings of the probe to the rates that a forecast reads.

Rates are of one device (a core with one thread) unless a key says otherwise; nothing is assumed that was not found.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from typing import Any

from datahall.base.line import fit_line
from datahall.network.estimate import all_gather_s, reduce_scatter_s
from datahall.real.measure import median
from datahall.real.probe_timing import fit_alpha_beta

_SHARDED = {
    "all_gather": ("gather_passes", all_gather_s),
    "reduce_scatter": ("scatter_passes", reduce_scatter_s),
}
Findings = Sequence[dict[str, Any]]
ATTENTION_CAUSAL_SHARE = 0.5
_SUMS = 4.0  # of tensor ranks in a layer: two forward, two backward
_BEYOND_BEST = 2.0  # no rate is more than twice the best that was seen, whatever a busy machine makes of the line


def device_rates(findings: Findings) -> dict[str, dict[str, float]]:
    """By "<dtype>/<threads> threads/<processes> processes": the numbers that compute.estimate.DeviceRates has.

    Products are forward and both backward ones together, as wide ones reach it, with the width at which they take twice
    as long; attention is in causal FLOPs with what each sequence and head costs besides; `memory_bytes_per_s` is
    element-wise work on activations of a small model, `stream_bytes_per_s` a copy that no cache holds.
    """
    settings = sorted({(f["dtype"], f["threads"], f["processes"]) for f in findings if f["kind"] == "product"})
    return {
        f"{dtype}/{threads} threads/{processes} processes": _rates(dtype, _of(findings, threads, processes))
        for dtype, threads, processes in settings
    }


def peak_rates(findings: Findings) -> dict[str, float]:
    """The best product rate of one thread by dtype, FLOP/s, whatever the other cores did meanwhile."""
    products = [f for f in findings if f["kind"] == "product"]
    return {
        dtype: max(f["flops_per_s"] / f["threads"] for f in products if f["dtype"] == dtype)
        for dtype in sorted({f["dtype"] for f in products})
    }


def memory_rate(findings: Findings) -> float:
    """Bytes per second that one thread reads and writes outside of caches."""
    return next(f["bytes_per_s"] for f in _of(findings, 1, 1) if f["kind"] == "copy")


def link_of(findings: Findings) -> dict[str, float]:
    """Latency and rate of a link from all-reduces between n processes.

    A ring (arXiv 1909.09756, appendix; Patarasuk and Yuan 2009) takes 2 (n - 1) messages of S / n bytes each, whatever
    the library really does.
    """
    sums = sorted((f for f in findings if f["kind"] == "all_reduce"), key=lambda f: f["bytes"])
    count = sums[0]["processes"]
    fitted = fit_alpha_beta([f["bytes"] for f in sums], [f["seconds"] for f in sums])
    messages = 2 * (count - 1)
    latency_s, bytes_per_s = fitted.latency_s / messages, fitted.bytes_per_s * messages / count
    return {
        "latency_s": latency_s,
        "bytes_per_s": bytes_per_s,
        "all_reduce_latency_s": fitted.latency_s,
        "all_reduce_bytes_per_s": fitted.bytes_per_s,
        "median_error_share": fitted.median_error_share,
        "worst_error_share": fitted.worst_error_share,
        "processes": count,
        **_passes(findings, bytes_per_s, latency_s),
    }


def _passes(findings: Findings, bytes_per_s: float, latency_s: float) -> dict[str, float]:
    """How many times a ring's formula gathering and scattering take, the median over sizes."""
    times: dict[str, list[float]] = {}
    for finding in findings:
        if finding["kind"] in _SHARDED:
            name, formula = _SHARDED[finding["kind"]]
            expected_s = formula(finding["bytes"], finding["processes"], bytes_per_s, latency_s)
            times.setdefault(name, []).append(finding["seconds"] / expected_s)
    return {name: median(seen) for name, seen in times.items()}


def cut_costs(findings: Findings) -> dict[str, float]:
    """Seconds that cutting over tensor ranks costs a layer, and a micro-step besides, but for sums between the ranks.

    Names that begin with "shared" are of ranks that share the sequence as well.
    """
    sums_s = _SUMS * link_of(findings)["all_reduce_latency_s"]
    thin = {(f["ranks"] > 1, f["shared"], f["layers"]): f["seconds"] for f in findings if f["kind"] == "thin_model"}
    few, many = sorted({layers for _, _, layers in thin})
    found: dict[str, float] = {}
    for name, shared in (("", False), ("shared_", True)):
        more = {layers: thin[True, shared, layers] - thin[False, False, layers] for layers in (few, many)}
        layer_s = (more[many] - more[few]) / (many - few)
        found[f"{name}layer_s"] = max(0.0, layer_s - sums_s)
        found[f"{name}micro_step_s"] = max(0.0, more[few] - few * layer_s)
    return found


def disk_of(findings: Findings) -> dict[str, float]:
    """Latency and rates of checkpoints of all processes together, through the real writer and reader."""
    writes = sorted((f for f in findings if f["kind"] == "disk_write"), key=lambda f: f["bytes"])
    reads = sorted((f for f in findings if f["kind"] == "disk_read"), key=lambda f: f["bytes"])
    write = fit_alpha_beta([f["bytes"] for f in writes], [f["seconds"] for f in writes], refit=True)
    read = fit_alpha_beta([f["bytes"] for f in reads], [f["seconds"] for f in reads], refit=True)
    return {
        "latency_s": write.latency_s,
        "write_bytes_per_s": write.bytes_per_s,
        "read_latency_s": read.latency_s,
        "read_bytes_per_s": read.bytes_per_s,
        "median_error_share": write.median_error_share,
        "capacity_bytes": float(shutil.disk_usage(tempfile.gettempdir()).free),
    }


def _of(findings: Findings, threads: int, processes: int) -> list[dict[str, Any]]:
    return [f for f in findings if f.get("threads") == threads and f.get("processes") == processes]


def _rates(dtype: str, findings: Findings) -> dict[str, float]:
    def rate(kind: str) -> list[float]:
        return [f["bytes_per_s"] for f in findings if f["kind"] == kind]

    def seconds(kind: str) -> float:
        return next((f["seconds"] for f in findings if f["kind"] == kind), 0.0)

    own = [f for f in findings if f.get("dtype") == dtype]
    launch_s = seconds("launch")
    return {
        "word_bytes": 2.0 if dtype == "bf16" else 4.0,
        **_product_rates(own),
        **_attention_rates(own),
        "memory_bytes_per_s": median(rate("add")),
        "stream_bytes_per_s": median(rate("copy")),
        "optimiser_bytes_per_s": median(rate("optimiser")),
        "update_tensor_s": _tensor_s(findings, median(rate("optimiser"))),
        "launch_s": launch_s,
        "kernel_s": max(0.0, seconds("tiny_product") - launch_s),
    }


def _tensor_s(findings: Findings, bytes_per_s: float) -> float:
    """What each tensor costs an update besides its bytes."""
    update = next(f for f in findings if f["kind"] == "update")
    return max(0.0, (update["seconds"] - update["bytes"] / bytes_per_s) / update["tensors"])


def _product_rates(findings: Findings) -> dict[str, float]:
    """Seconds a FLOP over the mean of the inverse widths are a line (`virtual.micro_step`) that starts at wide ones."""
    widths: list[float] = []
    seconds_per_gflop: list[float] = []
    for shape in sorted({tuple(f["shape"]) for f in findings if f["kind"] == "product"}):
        three = [f for f in findings if f["kind"].startswith("product") and tuple(f["shape"]) == shape]
        widths.append((1.0 / shape[1] + 1.0 / shape[2]) / 2.0)
        seconds_per_gflop.append(sum(f["seconds"] for f in three) / sum(f["flops"] for f in three) * 1e9)
    wide, slope = fit_line(widths, seconds_per_gflop)
    wide = max(wide, min(seconds_per_gflop) / _BEYOND_BEST)
    best = max(f["flops_per_s"] for f in findings if f["kind"] == "product")
    return {
        "linear_flops_per_s": 1e9 / wide,
        "wide_flops_per_s": 1e9 / min(seconds_per_gflop),
        "best_flops_per_s": best,
        "narrow_width": slope / wide,
    }


def _attention_rates(findings: Findings) -> dict[str, float]:
    """Of one sequence and head, seconds over FLOPs are a line: the rate, and what it costs however short it is."""
    head_s, per_flop = _per_head([f for f in findings if f["kind"] == "attention"])
    back_s, back_per_flop = _per_head([f for f in findings if f["kind"] == "attention_backward"])
    return {
        "attention_flops_per_s": 1.0 / per_flop,
        "attention_backward_share": per_flop / back_per_flop,
        "attention_head_s": head_s,
        "attention_head_backward_s": back_s,
        "causal_share": ATTENTION_CAUSAL_SHARE,
    }


def _per_head(findings: Findings) -> tuple[float, float]:
    heads = [f["shape"][0] * f["shape"][1] for f in findings]
    flops = [f["flops"] / count for f, count in zip(findings, heads, strict=True)]
    seconds = [f["seconds"] / count for f, count in zip(findings, heads, strict=True)]
    head_s, per_flop = fit_line(flops, seconds)
    return head_s, max(per_flop, min(s / f for s, f in zip(seconds, flops, strict=True)) / _BEYOND_BEST)
