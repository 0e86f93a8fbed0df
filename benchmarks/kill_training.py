"""`kill -9` of a random worker at a random moment, many times in a row: what it costs, and whether anything is lost.

    python benchmarks/kill_training.py [--kills 50]      (a quarter of an hour; exit code 1 when anything was lost)

A small language model, two workers, a checkpoint every so many steps.  The moment is drawn from the whole run, start-up
and checkpoints included, and the signal comes from outside.  Undisturbed runs come first and again between the kills,
since a shared machine is faster in one quarter of an hour than in the next; from the step, checkpoint and start-up of
the last few the cost of each kill is forecast (`virtual.interruptions`, many draws) before its worker dies, and what it
cost is counted from them.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path

import psutil

from datahall.base.event import Event
from datahall.base.score import REJECT_BELOW, coverage_p_value
from datahall.case.local import guessed_site
from datahall.case.model import ModelShape
from datahall.case.question import Case, Goal, Training
from datahall.compute.plan import ComputePlan
from datahall.decisions.plan import Plan
from datahall.network.plan import NetworkPlan
from datahall.real import parity
from datahall.real.launch import POLL_S
from datahall.real.measure import median, read_kind
from datahall.real.training import Measurement, run
from datahall.real.turns import load_average
from datahall.storage.plan import StoragePlan
from datahall.virtual.interruptions import run_with_failures

WORKERS, STEPS, INTERVAL, CALM_RUNS, DRAWS = 2, 240, 20, 6, 4000
KILLS_A_CALM_RUN = 2  # kills between undisturbed runs
RESTART_BAR_S = 10.0
WARMING = 5  # steps after a start
MOMENTS = 0.05, 0.98  # of an undisturbed run, between which a worker is killed
DETECTION_S = 3 * POLL_S  # the launcher looks this often, and once more after the others have ended
SHAPE = ModelShape("killed", layers=2, hidden=96, heads=4, kv_heads=2, head_dim=24, ffn=256, vocab=256)


@dataclass(frozen=True)
class Calm:
    """What undisturbed runs took: seconds of each one's start, of a step, of a checkpoint's stall, of each whole run.

    `warm_s` is how much longer than others the first steps after a start take, all together.
    """

    startups_s: tuple[float, ...]
    warm_s: float
    step_s: float
    stall_s: float
    total_s: tuple[float, ...]

    @property
    def startup_s(self) -> float:
        """The start's median."""
        return median(self.startups_s)


@dataclass(frozen=True)
class Kill:
    """A kill, seconds that it cost beyond the undisturbed runs before it, and what was forecast (median, low, high)."""

    rank: int
    step: int
    lost_samples: int
    repeated_samples: int
    weights_share: float
    weights_max: float
    to_step_s: float
    cost_s: float
    forecast_s: tuple[float, float, float]

    @property
    def inside(self) -> bool:
        """Whether the cost lay in its interval."""
        return self.forecast_s[1] <= self.cost_s <= self.forecast_s[2]


def main() -> int:
    """Run, print the table; 1 when a kill cost a sample or changed the weights."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    wanted = parser.parse_args().kills
    application = Training(float(8 * 64 * STEPS), 8, 64)
    case = Case("killed", SHAPE, application, guessed_site()[0], Goal())
    compute = ComputePlan(data=WORKERS, micro_batch=4, precision="fp32")
    plan = Plan(compute, StoragePlan(interval_steps=INTERVAL), NetworkPlan(), case.hash())
    load = load_average()
    with tempfile.TemporaryDirectory(prefix="datahall-kills-") as folder:
        calm_runs = [_run(case, plan, Path(folder) / f"calm-{number}") for number in range(CALM_RUNS)]
        chance = random.Random(20)
        kills: list[Kill] = []
        for number in range(wanted):
            if number and number % KILLS_A_CALM_RUN == 0:
                calm_runs.append(_run(case, plan, Path(folder) / f"calm-{len(calm_runs)}"))
            calm = _calm(calm_runs[-CALM_RUNS:])
            kills.append(_killed(case, plan, Path(folder) / str(number), calm_runs[0], calm, chance))
            print(f"{number + 1}/{wanted} {kills[-1]}", file=sys.stderr, flush=True)
    return _print(kills, _calm(calm_runs), load)


def _run(case: Case, plan: Plan, folder: Path, on_event=None) -> Measurement:
    return run(case, plan, folder, keep_weights=True, count_flops=False, on_event=on_event)


def _calm(runs: list[Measurement]) -> Calm:
    def middle(name: str) -> float:
        return median([one.result.metrics[name].value for one in runs])

    trained = tuple(_trained_s(one) for one in runs)
    return Calm(
        tuple(one.result.metrics["startup"].value for one in runs),
        median([_warming_s(one) for one in runs]),
        median([_steady_s(one) for one in runs]),
        middle("checkpoint"),
        trained,
    )


def _steady_s(measured: Measurement) -> float:
    """Seconds of a step, the mean of all that follow the warming up, without their checkpoints."""
    seen = [step.workers[0].step_s for step in measured.steps[WARMING:]]
    return sum(seen) / len(seen)


def _warming_s(measured: Measurement) -> float:
    """How much longer the first steps took than as many others."""
    seen = [step.workers[0].step_s for step in measured.steps[:WARMING]]
    return max(0.0, sum(seen) - WARMING * _steady_s(measured))


def _trained_s(measured: Measurement) -> float:
    """Seconds from launch to the end of the last step."""
    return max(worker.end_s for worker in measured.steps[-1].workers)


def _forecast(calm: Calm) -> tuple[float, float, float]:
    """Seconds that one kill costs: the median and a 90 % interval over moments, the start again, and whole runs."""
    chance = random.Random(1)
    work, interval = STEPS * calm.step_s, INTERVAL * calm.step_s
    costs: list[float] = []
    for _ in range(DRAWS):
        moment = chance.uniform(*MOMENTS) * median(calm.total_s)
        spread = _next(calm.total_s, chance) - median(calm.total_s)
        restart = max(0.0, _next(calm.startups_s, chance)) + calm.warm_s + DETECTION_S
        if moment < calm.startup_s:
            costs.append(moment + DETECTION_S + spread)
            continue
        draws = chain([moment - calm.startup_s], repeat(float("inf")))
        played = run_with_failures(work, interval, calm.stall_s, calm.stall_s, restart, draws)
        calm_wall = work + (STEPS // INTERVAL - 1) * calm.stall_s
        costs.append(played.wall_s - calm_wall + spread)
    costs.sort()
    return median(costs), costs[int(0.05 * DRAWS)], costs[int(0.95 * DRAWS) - 1]


def _next(seen: tuple[float, ...], chance: random.Random) -> float:
    """One more of what was `seen` a few times: Student's predictive distribution, wide where few were seen."""
    free = len(seen) - 1
    mean = sum(seen) / len(seen)
    spread = (sum((one - mean) ** 2 for one in seen) / free * (1 + 1 / len(seen))) ** 0.5
    return mean + spread * chance.gauss(0, 1) / (chance.gammavariate(free / 2, 2) / free) ** 0.5


def _killed(case: Case, plan: Plan, folder: Path, calm_run: Measurement, calm: Calm, chance: random.Random) -> Kill:
    """One run in which a worker is killed at a moment drawn from the whole run; what it will cost is forecast first."""
    forecast_s = _forecast(calm)
    moment, rank = chance.uniform(*MOMENTS) * median(calm.total_s), chance.randrange(WORKERS)
    told: dict[str, float] = {}

    def kill() -> None:
        workers = [one for one in psutil.Process().children() if "datahall.real.worker" in one.cmdline()]
        victims = [one for one in workers if one.cmdline()[-1] == str(rank)]
        if victims:
            told["killed"] = time.monotonic() - told["origin"]
            os.kill(victims[0].pid, signal.SIGKILL)

    def hear(event: Event) -> None:
        if event.kind == "launched" and "origin" not in told:
            told["origin"] = time.monotonic() - event.time_s
            threading.Timer(moment, kill).start()

    measured = _run(case, plan, folder, hear)
    again = [event.time_s for event in read_kind(folder, "step") if event.data["attempt"] == 1]
    if not again:  # its steps were over before its moment
        return _killed(case, plan, folder.with_name(folder.name + "-again"), calm_run, calm, chance)
    expected = [sample for step in sorted(calm_run.samples) for sample in calm_run.samples[step]]
    read = [sample for step in sorted(measured.samples) for sample in measured.samples[step]]
    found = parity.between(measured, calm_run)
    return Kill(
        measured.lost[0].rank,
        measured.lost[0].step,
        len(set(expected) - set(read)),
        len(read) - len(set(read)),
        found.weights_share,
        found.weights_max,
        min(again) - told["killed"],
        _trained_s(measured) - median(calm.total_s),
        forecast_s,
    )


def _print(kills: list[Kill], calm: Calm, load: float) -> int:
    print("| what | forecast, 90 % interval (medians) | measured | bar |")
    print("|---|---:|---:|---:|")
    nothing_lost = _print_state(kills)
    _print_seconds(kills, calm)
    print(
        f"\nTwo workers, {STEPS} steps of {1e3 * calm.step_s:.0f} ms, a checkpoint every {INTERVAL} steps, start-up "
        f"{calm.startup_s:.1f} s; {len(calm.total_s)} undisturbed runs of {min(calm.total_s):.1f} to "
        f"{max(calm.total_s):.1f} s; load average {load:.1f} before, {load_average():.1f} after."
    )
    return 0 if nothing_lost else 1


def _print_state(kills: list[Kill]) -> bool:
    """Samples and weights; whether they are those of an undisturbed run."""
    lost, repeated = sum(kill.lost_samples for kill in kills), sum(kill.repeated_samples for kill in kills)
    same = sum(kill.weights_max == 0.0 for kill in kills)
    worst, tolerance = max(kill.weights_share for kill in kills), parity.WEIGHT_TOLERANCE_SHARE
    print(f"| kills in a row | | {len(kills)}, {sum(kill.step == 0 for kill in kills)} of them before step 1 | 50 |")
    print(f"| samples lost, repeated | 0, 0 | {lost}, {repeated} | 0, 0 |")
    print(
        f"| final weights as undisturbed | | bit for bit in {same} of {len(kills)}, worst {worst:.1e} | {tolerance:g} |"
    )
    return not (lost or repeated or worst > tolerance)


def _print_seconds(kills: list[Kill], calm: Calm) -> None:
    costs, restarts = [kill.cost_s for kill in kills], [kill.to_step_s for kill in kills]
    middle, low, high = (median(ends) for ends in zip(*(kill.forecast_s for kill in kills), strict=True))
    inside = sum(kill.inside for kill in kills)
    accepted = coverage_p_value(inside, len(kills))

    def goodput(cost: float) -> str:
        return f"{STEPS * calm.step_s / (median(calm.total_s) + cost):.2f}"

    print(
        f"| seconds that a kill costs | {middle:.1f} ({low:.1f} to {high:.1f}) | {median(costs):.1f} "
        f"({min(costs):.1f} to {max(costs):.1f}), {inside} of {len(kills)} inside, p {accepted:.2f} | "
        f"{0.9 * len(kills):.0f} expected, p {REJECT_BELOW:g} |"
    )
    print(
        f"| goodput of the run with its kill | {goodput(middle)} ({goodput(high)} to {goodput(low)}) | "
        f"{goodput(median(costs))} | |"
    )
    print(
        f"| seconds from kill to the end of the next step | | median {median(restarts):.1f}, longest "
        f"{max(restarts):.1f} | {RESTART_BAR_S:g} |"
    )


if __name__ == "__main__":
    sys.exit(main())
