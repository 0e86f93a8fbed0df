"""How fast plans are searched: complete plans a second on one core, and three named searches with their start-up.

Each named search is timed twice: until the choice and why it was made, and as `datahall plan` with all that it prints
(the front, what loses and what would flip the choice).

    python benchmarks/search_speed.py

Prints a table.  A complete plan is one with its memory, step, run, dollars and joules.  Run it on an idle machine.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

_ONE = """
import sys, time
from datahall.case import from_model_and_site
from datahall.search.rank import search
from datahall.search.why import explain
case = from_model_and_site(*sys.argv[1:3], tokens=1e12, global_batch=int(sys.argv[3]) or None)
ranking = search(case)
explain(ranking)
print(len(ranking.space), ranking.qualified)
"""

SEARCHES = (
    # model, site, global batch in sequences (0: the usual one), bar in seconds
    ("gpt3-175b", "64xA100-80GB-SXM", 1920, 5.0),
    ("llama-3.1-405b", "16384xH100-SXM", 0, 3.0),
    ("deepseek-v3", "2048xH800", 0, 5.0),
)


def main() -> None:
    """Measure and print."""
    print(f"{'complete plans a second of a core':46} {plans_per_s():>12,.0f}   bar 300,000")
    for model, site, batch, bar in SEARCHES:
        seconds, busy, said = timed([sys.executable, "-c", _ONE, model, site, str(batch)])
        searched, met = (int(word) for word in said.split())
        took = f"{seconds:>10.2f} s ({busy:.2f} s of a core)"
        print(f"{model + ' on ' + site:46} {took}   bar {bar:.0f} s   {searched:,} plans, {met:,} fit")
        whole = ["--model", model, "--site", site, "--set", "application.tokens=1e12"]
        whole += ["--set", f"application.global_batch={batch}"] if batch else []
        seconds, busy, _ = timed([sys.executable, "-m", "datahall.ui.cli", "plan", *whole])
        print(f"{'  the same, all of datahall plan':46} {seconds:>10.2f} s ({busy:.2f} s of a core)   bar {bar:.0f} s")
    print(f"{'most memory of a search':46} {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024:>12,.0f} MiB")


def plans_per_s() -> float:
    """Plans of GPT-3 175B on 64 devices, all priced whether they fit or not; the best of three."""
    from datahall.case import from_model_and_site
    from datahall.search.price import priced
    from datahall.search.space import space
    from datahall.virtual.transferred import default_calibration

    case = from_model_and_site("gpt3-175b", "64xA100-80GB-SXM", tokens=1e12)
    plans = space(case, "bf16", [64])
    best = float("inf")
    for _ in range(3):
        started = time.process_time()
        found = sum(len(one.prices) for one in priced(case, plans, default_calibration(case), only_fitting=False))
        assert found == len(plans)
        best = min(best, time.process_time() - started)
    return len(plans) / best


def timed(command: list[str]) -> tuple[float, float, str]:
    """Seconds of a whole process, start-up included, by the clock and of a core, and what it said."""
    started, before = time.perf_counter(), _children_s()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return time.perf_counter() - started, _children_s() - before, done.stdout


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
