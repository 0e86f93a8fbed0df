"""Full and LoRA fine-tuning of a real pretrained model: forecast beside measurement, and what adapters save.

    python benchmarks/fine_tuning.py [--steps 6] [--workers 1 2]

Fetches the weights once (93 MB), probes the machine quickly, seals each forecast before its run, and prints the table
of docs/tables/fine-tuning.md.  About five minutes on two idle cores.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from datahall.base.units import human
from datahall.calibrate.machine import Machine
from datahall.case.door import load
from datahall.real.probe import probe
from datahall.real.training import run
from datahall.ui.given_plan import given_plan, shortened
from datahall.virtual.training import forecast
from datahall.workloads.fetch import fetch

CASES = Path(__file__).parents[1] / "cases"
SHOWN = ("step_time", "compute", "transfer", "waiting", "optimiser", "peak_memory")
COUNTED = ("matmul_flops", "attention_flops", "collective_bytes")


def main() -> None:
    """Run the cases and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    asked = parser.parse_args()
    fetch("smollm2-135m", tell)
    with tempfile.TemporaryDirectory(prefix="datahall-tune-") as scratch:
        tell("probing")
        probed = probe(Path(scratch) / "probe", quick=True)
        print("# Fine-tuning SmolLM2-135M: forecast and measurement\n")
        print(
            f"{asked.steps} steps of 4 sequences of 128 tokens, fp32, one thread a worker; forecasts from a quick probe"
        )
        print("alone, sealed before each run, nothing fitted.  Intervals are of 90 %.\n")
        print("| method | workers | quantity | forecast | interval | measured | inside |")
        print("|---|---|---|---|---|---|---|")
        for workers in asked.workers:
            for method in ("full", "lora"):
                one(method, workers, asked.steps, Machine(probed.rates), probed.site, Path(scratch))


def one(method: str, workers: int, steps: int, machine: Machine, site: object, scratch: Path) -> None:
    """Forecast, run and print one configuration."""
    case = shortened(load(CASES / f"finetune-{method}.yaml"), steps)
    case = replace(case, site=site)  # pyright: ignore[reportArgumentType]
    plan = given_plan(case, workers, None, 0)
    expected = forecast(case, plan, machine.at(case, plan.compute))
    tell(f"{method}, {workers} workers: {human(expected.metrics['step_time'].value, 'seconds')} a step forecast")
    measured = run(case, plan, scratch / f"{method}-{workers}")
    for name in SHOWN:
        told, seen = expected.metrics[name], measured.result.metrics[name]
        if max(told.value, seen.value) < 1e-3:
            continue
        inside = "yes" if told.low <= seen.value <= told.high else "no"
        shown = [human(value, told.unit) for value in (told.value, told.low, told.high, seen.value)]
        line = f"| {method} | {workers} | {name} | {shown[0]} | {shown[1]} to {shown[2]} | {shown[3]} | {inside} |"
        print(line, flush=True)
    for name in COUNTED:
        told_count, seen_count = expected.counts[name], measured.result.counts[name]
        equal = "equal" if told_count == seen_count else "NOT EQUAL"
        print(f"| {method} | {workers} | {name} | {told_count:,} | | {seen_count:,} | {equal} |")
    losses = f"{measured.losses[0]:.3f} to {measured.losses[-1]:.3f}"
    print(f"| {method} | {workers} | loss, then held out | | | {losses}, {measured.metrics['validation_loss']:.3f} | |")


def tell(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
