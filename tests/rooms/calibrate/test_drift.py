"""A machine whose pace moves: what readings between runs take out of the fit, and what they add to its intervals."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from probed_rates import RATES, probed_case

from datahall.base.result import Result
from datahall.calibrate.drift import Drift, Reading, drift_of
from datahall.calibrate.machine import Machine, MeasuredRun, fit_machine
from datahall.prove.configurations import HELD_OUT, SEEN, configurations
from datahall.virtual.training import forecast

EVERY_S, LASTS_S, DRIFT, READING_NOISE, RUN_NOISE = 9.0, 60.0, 0.2, 0.03, 0.03
TRUTH = {"product fp32": 1.25, "product bf16": 0.85, "kernel": 1.6, "element fp32": 1.3, "bandwidth": 1.5}


@pytest.fixture(scope="module")
def case():
    return probed_case()


def walk(count, chance, log_sd=DRIFT):
    """The logarithm of the pace every four and a half seconds: readings and middles of runs in turn."""
    kept = math.exp(-EVERY_S / 2 / LASTS_S)
    paces = [chance.normal(0, log_sd)]
    for _ in range(count - 1):
        paces.append(kept * paces[-1] + math.sqrt(1 - kept**2) * chance.normal(0, log_sd))
    return paces


def readings_of(paces, chance):
    return [
        Reading(EVERY_S / 2 * place, cores, seconds * math.exp(pace + chance.normal(0, READING_NOISE)))
        for place, pace in enumerate(paces)
        if place % 2 == 0
        for cores, seconds in ((1, 4e-3), (2, 2.4e-3))
    ]


def played(one, pace, truth):
    """What a machine would measure at this pace whose constants are `truth` times slower than the probe says."""
    slower = Machine(RATES, local=replace(Machine(RATES).local, multipliers=truth))
    result = forecast(one.case, one.plan, slower.at(one.case, one.plan.compute))
    timed = {
        name: replace(metric, value=metric.value * math.exp(pace))
        for name, metric in result.metrics.items()
        if metric.unit == "seconds"
    }
    return MeasuredRun(one.case, one.plan.compute, Result("real", {**result.metrics, **timed}))


def divided(run, drift, number):
    cores, moment = run.compute.devices * run.compute.threads, EVERY_S * number + EVERY_S / 2
    level, unsure = drift.level(cores, moment)
    return replace(run, slower_log=level - drift.usual(cores), unsure_log_sd=unsure)


def errors(case, machine, paces, seed):
    """Log of measured over forecast, and half the interval's width, of configurations that no fit has seen."""
    found = []
    for one, pace in zip(configurations(case, HELD_OUT, len(paces), seed, ("fp32", "bf16")), paces, strict=True):
        said = forecast(one.case, one.plan, machine.at(one.case, one.plan.compute)).metrics["step_time"]
        measured = played(one, pace, TRUTH).measured.metrics["step_time"].value
        found.append((math.log(measured / said.value), math.log(said.high / said.value)))
    return np.array(found)


def proof(case, seed, count=6, log_sd=DRIFT, truth=TRUTH):
    """Fits without and with readings on the same `count` runs, and the drift that was found."""
    chance = np.random.default_rng(seed)
    paces = walk(2 * count + 1, chance, log_sd)
    drift = drift_of(readings_of(paces, chance))
    seen = configurations(case, SEEN, count, seed, ("fp32", "bf16"))
    runs = [played(one, pace + chance.normal(0, RUN_NOISE), truth) for one, pace in zip(seen, paces[1::2], strict=True)]
    known = [divided(run, drift, number) for number, run in enumerate(runs)]
    usual = float(np.mean([drift.usual(cores) - math.log(s) for cores, s in ((1, 4e-3), (2, 2.4e-3))]))
    return fit_machine(Machine(RATES), runs), fit_machine(Machine(RATES), known, drift.ahead_log_sd()), usual


def test_dividing_the_drift_out_makes_the_constants_better(case):
    """Judged at the pace of the readings' mean, so that only the constants count."""
    without, with_readings = [], []
    for seed in range(5):
        blind, known, usual = proof(case, seed, count=9)
        without += list(abs(errors(case, blind, [usual] * 6, seed)[:, 0]))
        with_readings += list(abs(errors(case, known, [usual] * 6, seed)[:, 0]))
    assert np.median(with_readings) < 0.7 * np.median(without)


def test_intervals_cover_runs_at_a_pace_that_nobody_knew(case):
    held, narrow = [], []
    for seed in range(10):
        _, known, _ = proof(case, seed, count=9)
        later = errors(case, known, list(np.random.default_rng(100 + seed).normal(0, DRIFT, 6)), seed)
        held += list(abs(later[:, 0]) <= later[:, 1])
        narrow += list(later[:, 1])
    assert np.mean(held) >= 0.8
    assert np.median(narrow) < 0.7


def test_a_small_calibration_of_a_right_probe_is_hardly_worse_than_none(case):
    """Six noisy runs of a machine that is as the probe says: nothing is to be learnt, and little is unlearnt."""
    worse = []
    for seed in range(6):
        blind, _, _ = proof(case, seed, log_sd=0.1, truth={})
        said = [
            forecast(one.case, one.plan, blind.at(one.case, one.plan.compute)).metrics["step_time"].value
            / forecast(one.case, one.plan, Machine(RATES).at(one.case, one.plan.compute)).metrics["step_time"].value
            for one in configurations(case, HELD_OUT, 6, seed, ("fp32", "bf16"))
        ]
        worse += list(np.abs(np.log(said)))
    assert np.median(worse) < 0.05
    assert max(worse) < 0.2


def test_readings_that_only_scatter_are_no_drift():
    chance = np.random.default_rng(3)
    found = drift_of(readings_of([0.0] * 41, chance))
    assert found.log_sd < 0.03
    assert all(abs(found.level(1, at)[0] - found.usual(1)) < 0.02 for at in (5.0, 50.0, 150.0))


def test_a_drift_is_followed_between_readings_and_forgotten_far_from_them():
    chance = np.random.default_rng(4)
    paces = walk(61, chance)
    found = drift_of(readings_of(paces, chance))
    assert 0.1 < found.log_sd < 0.4
    off = [found.level(2, EVERY_S / 2 * place)[0] - math.log(2.4e-3) - paces[place] for place in range(1, 61, 2)]
    assert np.std(off) < 0.4 * DRIFT
    far, unsure = found.level(1, 1e6)
    assert far == pytest.approx(found.usual(1), abs=1e-6)
    assert unsure == pytest.approx(found.log_sd)
    low, high = found.moved()
    assert -0.5 < low < -0.05 < 0.05 < high < 1.0


def test_a_run_on_more_cores_is_read_from_the_reference_on_as_many():
    times = [0.0, 10.0, 20.0, 30.0, 40.0]
    slower = [Reading(at, 4, 1.0 if at < 25 else 1.5) for at in times] + [Reading(at, 1, 2.0) for at in times]
    found = drift_of(slower)
    assert found.level(3, 40.0)[0] > found.level(2, 0.0)[0] + 0.2
    assert found.level(1, 40.0)[0] == pytest.approx(math.log(2.0), abs=1e-6)


def test_without_readings_nothing_moves():
    assert drift_of([]) == Drift()
    assert Drift().level(1, 3.0) == (0.0, 0.0)
    assert Drift().moved() == (0.0, 0.0)
    few = drift_of([Reading(float(at), 1, 1.0 + at) for at in range(3)])
    assert few.log_sd == 0.0


def test_a_fit_knows_less_from_a_run_whose_pace_is_unsure(case):
    seen = configurations(case, SEEN, 6, 0, ("fp32",))
    runs = [played(one, 0.3, {}) for one in seen]
    sure = fit_machine(Machine(RATES), runs).local.multipliers
    unsure = fit_machine(Machine(RATES), [replace(run, unsure_log_sd=0.5) for run in runs]).local.multipliers
    assert all(one >= other - 1e-9 for one, other in pairwise((sure["product fp32"], unsure["product fp32"], 1.0)))
