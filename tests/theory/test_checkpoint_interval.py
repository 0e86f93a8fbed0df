"""Young's and Daly's intervals against a simulation of failures, event by event."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from datahall.virtual.failures import daly_interval_s, wall_over_work, young_interval_s
from datahall.virtual.interruptions import run_with_failures

MTBF, STALL, RESTART = 4 * 3600.0, 60.0, 300.0


def draws(mean_s: float, seed: int) -> Iterator[float]:
    generator = np.random.default_rng(seed)
    while True:
        yield from generator.exponential(mean_s, 1000).tolist()


def simulated(interval_s: float, stall_s: float, write_s: float, mtbf_s: float, seed: int = 0) -> float:
    work = 2000 * mtbf_s
    return run_with_failures(work, interval_s, stall_s, write_s, RESTART, draws(mtbf_s, seed)).wall_s / work


@pytest.mark.parametrize("mtbf_s", [3600.0, MTBF, 24 * 3600.0])
@pytest.mark.parametrize("interval_s", [300.0, 1200.0, 5400.0])
def test_the_simulated_run_takes_what_the_closed_formula_says(mtbf_s: float, interval_s: float) -> None:
    expected = float(wall_over_work(interval_s, STALL, RESTART, mtbf_s))
    found = np.mean([simulated(interval_s, STALL, STALL, mtbf_s, seed) for seed in range(3)])
    assert found - 1 == pytest.approx(expected - 1, rel=0.06)


@pytest.mark.parametrize("mtbf_s", [3600.0, MTBF, 24 * 3600.0])
def test_no_other_interval_beats_dalys_by_more_than_noise(mtbf_s: float) -> None:
    best = float(daly_interval_s(STALL, mtbf_s))
    at_best = simulated(best, STALL, STALL, mtbf_s)
    for factor in (0.25, 0.5, 2.0, 4.0):
        assert simulated(factor * best, STALL, STALL, mtbf_s) > at_best  # the same failures for both
    assert best == pytest.approx(float(young_interval_s(STALL, mtbf_s)), rel=0.25)


def test_a_background_save_costs_its_stall_and_at_each_failure_its_window() -> None:
    interval, write = 1200.0, 120.0
    inline = simulated(interval, write, write, MTBF)
    background = simulated(interval, 6.0, write, MTBF)
    ideal = simulated(interval, 6.0, 6.0, MTBF)
    assert ideal < background < inline
    window = (write - 6.0) / MTBF  # a failure falls back as far as the commit was late
    assert background - ideal == pytest.approx(window, rel=0.5)


def test_without_failures_only_the_stalls_are_added() -> None:
    played = run_with_failures(10_000.0, 1000.0, 10.0, 10.0, 300.0, iter([1e12]))
    assert (played.wall_s, played.failures, played.repeated_s) == (10_090.0, 0, 0.0)


def test_a_failure_in_the_window_falls_back_to_the_checkpoint_before() -> None:
    def later(first: float) -> Iterator[float]:
        yield first
        yield 1e12

    # the second save begins at 200, is committed at 250; the first was at 150
    kept = run_with_failures(300.0, 100.0, 0.0, 50.0, 0.0, later(260.0))
    lost = run_with_failures(300.0, 100.0, 0.0, 50.0, 0.0, later(240.0))
    assert (kept.failures, kept.repeated_s, kept.wall_s) == (1, 60.0, 360.0)
    assert (lost.failures, lost.repeated_s, lost.wall_s) == (1, 140.0, 440.0)
