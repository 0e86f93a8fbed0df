"""How fast a link has to be: data-parallel steps over ever faster links, each forecast and sealed before it is run.

    python benchmarks/link_knee.py [--steps 16]      (root; about four minutes)

Two hosts as network namespaces, their link shaped by tc.  The gradients of a small language model travel in buckets of
1 MB while the backward pass runs; the knee is the slowest link that makes the step at most 10 % longer than the fastest
one.  One probe of this machine, nothing is fitted.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path

from datahall.base.units import human
from datahall.calibrate.machine import Machine
from datahall.case.local import guessed_site
from datahall.case.model import ModelShape
from datahall.case.question import Case, Goal, Training
from datahall.compute.plan import ComputePlan
from datahall.decisions.plan import Plan
from datahall.network.execute_namespaces import LinkShape
from datahall.network.links_estimate import smallest_rate_bits_per_s
from datahall.network.plan import NetworkPlan
from datahall.prove.sealed_run import Here, SealedRun, sealed_run
from datahall.real.measure import median
from datahall.real.probe import probe
from datahall.real.turns import load_average
from datahall.storage.plan import StoragePlan

RATES = (50e6, 100e6, 200e6, 400e6, 800e6, 1.6e9, 3.2e9)  # bit/s
SHAPE = ModelShape("knee-lm", layers=4, hidden=192, heads=6, kv_heads=2, head_dim=32, ffn=512, vocab=256)
BATCH, SEQUENCE, BUCKET_BYTES = 16, 96, 2**20
ENOUGH = 1.1
COMPUTE = ComputePlan(data=2, micro_batch=BATCH // 2, precision="fp32", sequence_parallel=False)


def main() -> None:
    """Probe, forecast and run each rate, print the table and the knee."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=16)
    steps = parser.parse_args().steps
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the namespaces are removed
    application = Training(float(BATCH * SEQUENCE * steps), BATCH, SEQUENCE)
    case = Case("knee", SHAPE, application, guessed_site()[0], Goal())
    plan = Plan(COMPUTE, StoragePlan(), NetworkPlan(bucket_bytes=BUCKET_BYTES), case.hash())
    load = load_average()
    done: dict[float, SealedRun] = {}
    with tempfile.TemporaryDirectory(prefix="datahall-knee-") as folder:
        probed = probe(Path(folder) / "probe")
        here = Here(probed.site, Machine(probed.rates), "probe")
        for rate in RATES:
            print(human(rate, "count") + "b/s", file=sys.stderr, flush=True)
            done[rate] = sealed_run(case, plan, here, Path(folder) / str(int(rate)), link=LinkShape(rate))
    _print(done)
    print(f"Load average {load:.1f} before, {load_average():.1f} after.")


def _print(done: dict[float, SealedRun]) -> None:
    print("# How fast a link has to be: forecast beside measurement\n\nPrinted by `benchmarks/link_knee.py`.\n")
    print("| link | step, 90 % interval | measured | error | of the fastest, forecast | measured | transfer |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    said = {rate: one.forecast.metrics["step_time"] for rate, one in done.items()}
    seen = {rate: one.measured.result.metrics["step_time"].value for rate, one in done.items()}
    told, met = min(metric.value for metric in said.values()), min(seen.values())
    for rate, one in done.items():
        transfers = (one.forecast.metrics["transfer"].value, one.measured.result.metrics["transfer"].value)
        step = said[rate]
        print(
            f"| {human(rate, 'count')}b/s | {1e3 * step.value:.0f} ({1e3 * step.low:.0f} to {1e3 * step.high:.0f}) | "
            f"{1e3 * seen[rate]:.0f} | {step.value / seen[rate] - 1:+.0%} | {step.value / told:.2f} | "
            f"{seen[rate] / met:.2f} | {1e3 * transfers[0]:.0f}/{1e3 * transfers[1]:.0f} |"
        )
    knees = _knee({rate: step.value for rate, step in said.items()}), _knee(seen)
    errors = [abs(said[rate].value / seen[rate] - 1) for rate in done]
    counted = next(iter(done.values())).forecast.counts
    sent = counted["collective_bytes"] / counted["steps"]  # of two workers in a ring each sends what it hands over
    window = 2 / 3 * next(iter(done.values())).forecast.metrics["compute"].value  # the backward pass
    hiding = float(smallest_rate_bits_per_s(sent, window))
    print(
        f"\nMedian error of the step {median(errors):.0%}.  The slowest link within 10 % of the fastest: forecast "
        f"{human(knees[0], 'count')}b/s, measured {human(knees[1], 'count')}b/s.  By bytes over the backward pass "
        f"alone ({human(sent, 'bytes')} in {1e3 * window:.0f} ms) {human(hiding, 'count')}b/s would do.  "
        "Milliseconds; transfer forecast/measured.\n"
    )


def _knee(steps: dict[float, float]) -> float:
    """The slowest link on which the step is at most so much longer than on the fastest."""
    return min(rate for rate, step in steps.items() if step <= ENOUGH * min(steps.values()))


if __name__ == "__main__":
    main()
