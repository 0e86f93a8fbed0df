"""Three engines side by side, one worker against two, at two batches; the pick is made and sealed before any run.

    python benchmarks/engines.py [--rounds 3] [--workers 2] [--scale 1] [--engine NAME ...]

The same batches, first weights, optimiser and number of images for all.  A worker has one thread, but JAX takes the
cores it finds.  Printed are samples a second (median of the rounds, settings taking turns), the forecast, the regret of
the pick (bar: at most 10 % slower than the best measured) and the test accuracies.  Five minutes on two idle cores.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from datahall.base.event import Event
from datahall.case.door import load
from datahall.prove.engine_trial import Trial, try_engines
from datahall.real.engines.engine import ENGINES
from datahall.ui.engines import sentences, table

CASE = Path(__file__).parents[1] / "cases" / "digits.yaml"
IMAGES = {64: 40_000, 512: 160_000}  # read in all: enough steps to time, ten and forty passes
BAR_SHARE = 0.10


def main() -> None:
    """Run the trial and print its page."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--scale", type=float, default=1.0, help="share of the images to read")
    options.add_argument("--engine", action="append", choices=list(ENGINES))
    given = options.parse_args()
    engines = given.engine or list(ENGINES)
    with tempfile.TemporaryDirectory() as name:
        began_s = time.monotonic()
        trial = try_engines(
            load(CASE),
            engines,
            Path(name),
            workers=(1, given.workers),
            images={batch: count * given.scale for batch, count in IMAGES.items()},
            rounds=given.rounds,
            on_event=tell,
        )
        print("\n".join(page(trial, engines, given.rounds, time.monotonic() - began_s)))


def page(trial: Trial, engines: list[str], rounds: int, seconds: float) -> list[str]:
    """The lines of docs/tables/engines.md."""
    held = sum(row.held for row in trial.rows)
    lines = [
        "# Three engines, one worker against two",
        "",
        f"`python benchmarks/engines.py`: {os.cpu_count()} cores, load {trial.load[0]:.1f} before and "
        f"{trial.load[1]:.1f} after, median of {rounds} rounds, {seconds:.0f} s in all. A worker has one thread "
        "(JAX uses the cores it finds). Same batches, first weights and Adam everywhere; the first five steps, "
        "in which engines compile, are trained but not timed. Forecast sealed before the first run: "
        f"`{trial.sealed[:16]}`.",
        "",
        *table(trial),
        "",
        f"{held} of {len(trial.rows)} measured medians lie in their 90 % interval.",
    ]
    for batch in trial.picks:
        lines += ["", *(f"- {line}" for line in sentences(trial, batch))]
        regret = trial.regret_share(batch)
        verdict = "held" if regret <= BAR_SHARE else "missed"
        own = ", ".join(f"{name} {100 * trial.regret_share(batch, name):.1f} %" for name in engines)
        lines += [
            f"- Regret of the pick {100 * regret:.1f} % (bar {100 * BAR_SHARE:.0f} %: {verdict}); of the number of "
            f"workers within each engine: {own}."
        ]
    return [*lines, "", *spread(trial)]


def spread(trial: Trial) -> list[str]:
    """How far the rounds of a setting lie apart, and what the shared input costs."""
    apart = [
        max(rates) / min(rates) - 1
        for rates in ([run.samples_per_s for run in row.runs] for row in trial.rows)
        if rates
    ]
    inputs = [run.input_share for row in trial.rows for run in row.runs]
    middle = sorted(apart)[len(apart) // 2]
    return [
        f"Rounds of one setting lie up to {100 * max(apart):.0f} % apart (median {100 * middle:.0f} %); the shared "
        f"input pipeline takes {100 * min(inputs):.0f} to {100 * max(inputs):.0f} % of a step."
    ]


def tell(event: Event) -> None:
    """Progress, to stderr."""
    words = " ".join(
        f"{key}={value:.4g}" if isinstance(value, float) else f"{value}" for key, value in event.data.items()
    )
    print(f"{event.time_s:7.1f} s  {event.kind}  {words}", file=sys.stderr)


if __name__ == "__main__":
    main()
