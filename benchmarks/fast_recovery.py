"""Fast recovery beside its sealed forecast: agreeing in each step, and what each of some kills costs.

    python benchmarks/fast_recovery.py [--runs 8]      (five minutes)

Agreeing is rehearsed once, on a model of its own; it sets every constant.  The runs that are judged have other models,
batches and moments of the kill, and nothing is fitted to them.  Rates are a quick probe's.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("RUST_LOG", "error")

from datahall.base.score import coverage_p_value
from datahall.base.units import human, human_interval
from datahall.calibrate.machine import Machine
from datahall.case.local import guessed_site
from datahall.case.model import ModelShape
from datahall.case.question import Case, Goal, Training
from datahall.compute.plan import ComputePlan
from datahall.decisions.plan import Plan
from datahall.network.plan import NetworkPlan
from datahall.prove.fast_run import agreement_here, forecast_fast, sealed_fast_run
from datahall.prove.sealed_run import Here
from datahall.real.injection import Injection
from datahall.real.probe import probe
from datahall.real.turns import load_average
from datahall.storage.plan import StoragePlan

SHOWN = ("step_time", "agreeing", "longest_step", "dropped_per_loss")
HIDDEN, LAYERS, SEQUENCE, BATCH = (64, 128, 192), (2, 3, 4), (64, 128), (4, 8)
RUN_S, FIRST_S = 22.0, 1.0  # a run steps so long, and its worker dies at least so long after the first step


def main() -> None:
    """Rehearse, run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=8)
    wanted = parser.parse_args().runs
    chance, load = random.Random(4), load_average()
    inside = {name: [0, 0] for name in SHOWN}
    lines: list[str] = []
    with tempfile.TemporaryDirectory(prefix="datahall-fast-") as scratch:
        folder = Path(scratch)
        tell("probing, then rehearsing")
        probed = probe(folder / "probe", quick=True)
        here = Here(probed.site, Machine(probed.rates), "a quick probe")
        agreement = agreement_here(drawn(chance)[1], folder / "agreement")
        for number in range(wanted):
            case, plan = drawn(chance)
            lines += judged(case, plan, here, agreement, folder / str(number), chance, inside)
            tell(f"{number + 1} of {wanted}")
    print("| model, batch | quantity | forecast | 90 % interval | measured | inside |")
    print("|---|---|---:|---:|---:|---|")
    print("\n".join(lines))
    print("\n| quantity | inside, of runs | expected | binomial p |\n|---|---:|---:|---:|")
    for name, (held, count) in inside.items():
        if count:
            print(f"| {name} | {held} of {count} | {0.9 * count:.1f} | {coverage_p_value(held, count):.2f} |")
    print(
        f"\nRehearsed: quorum {human(agreement.quorum_s, 'seconds')}, commit {human(agreement.commit_s, 'seconds')}, "
        f"a death noticed in {human(agreement.noticed_s, 'seconds')}, start {human(agreement.start_s, 'seconds')}; "
        f"two workers, one killed a run; load average {load:.1f} before, {load_average():.1f} after."
    )


def drawn(chance: random.Random) -> tuple[Case, Plan]:
    """A case that differs from the rehearsal's, and its plan."""
    hidden, layers = chance.choice(HIDDEN), chance.choice(LAYERS)
    sequence, batch = chance.choice(SEQUENCE), chance.choice(BATCH)
    heads = hidden // 32
    shape = ModelShape(f"h{hidden}-l{layers}", layers, hidden, heads, heads, 32, 2 * hidden, 256)
    case = Case(
        f"h{hidden} l{layers} s{sequence} b{batch}", shape, Training(1e9, batch, sequence), guessed_site()[0], Goal()
    )
    compute = ComputePlan(data=2, micro_batch=batch // 2, precision="fp32")
    return case, Plan(compute, StoragePlan(interval_steps=0), NetworkPlan(), case.hash())


def judged(case, plan, here, agreement, folder, chance, inside) -> list[str]:
    """One run with a kill at a random step; lines of the table, `inside` counted on."""
    said, _ = forecast_fast(case, plan, here, agreement, steps=10)
    step_s = said.metrics["step_time"].value
    steps = int(RUN_S / step_s)
    at = chance.randrange(int(FIRST_S / step_s) + 2, int(FIRST_S / step_s) + 2 + max(1, steps // 10))
    kill = Injection("kill-worker", rank=chance.randrange(2), step=at)
    both = sealed_fast_run(case, plan, here, folder, steps=steps, kills=[kill], agreement=agreement)
    lines: list[str] = []
    for row in both.sealed.comparison.components:
        if row.name in SHOWN:
            inside[row.name][0] += row.within_interval
            inside[row.name][1] += 1
            lines.append(
                f"| {case.name} | {row.name} | {human(row.forecast, row.unit)} | "
                f"{human_interval(row.low, row.high, row.unit)} | {human(row.measured, row.unit)} | "
                f"{'yes' if row.within_interval else 'no'} |"
            )
    return lines


def tell(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
