"""What checkpoints cost a loop, from logged phases: call and wait are one stall, slowed steps are told apart."""

import pytest

from datahall.real.measure import Step, WorkerStep, slowing, stalls


def _worker(rank, begin_s, compute_s, *, call_s=0.0, wait_s=0.0):
    at, phases = begin_s, []
    for phase, seconds in (("forward", compute_s), ("copying", wait_s), ("optimiser", 0.1), ("checkpoint", call_s)):
        if seconds:
            phases.append((phase, at, at + seconds))
            at += seconds
    seconds = {"compute": compute_s, "optimiser": 0.1}
    return WorkerStep(rank, begin_s, at, seconds, call_s + wait_s, tuple(phases), (), 1.0, 0, 0, 0.0, {})


def _steps(*rows):
    """One step for each row of (begin, compute, call, wait) by worker."""
    return tuple(
        Step(number, 0, number, tuple(_worker(rank, b, c, call_s=s, wait_s=w) for rank, (b, c, s, w) in enumerate(row)))
        for number, row in enumerate(rows)
    )


def test_the_wait_before_the_next_update_belongs_to_the_checkpoint_before():
    steps = _steps(
        [(0.0, 1.0, 0.2, 0.0), (0.0, 1.0, 0.1, 0.0)],
        [(2.0, 1.0, 0.3, 0.0), (2.0, 1.0, 0.1, 0.5)],  # the second worker waits for the first checkpoint's copy
        [(4.0, 1.0, 0.0, 0.4), (4.0, 1.0, 0.0, 0.0)],
        [(6.0, 1.0, 0.0, 0.0), (6.0, 1.0, 0.0, 0.0)],
    )
    assert stalls(steps) == pytest.approx([0.6, 0.7])
    assert stalls(()) == []


def test_steps_beside_a_save_are_held_against_the_others():
    rows = [[(2.0 * number, 1.5 if number in (4, 5, 8) else 1.0, 0.0, 0.0)] for number in range(12)]
    steps = _steps(*rows)
    assert slowing(steps, [(7.9, 11.0), (15.9, 17.0)]) == pytest.approx([1.0, 0.5])
    assert slowing(steps, []) == []
    assert slowing(steps, [(0.0, 100.0)]) == []  # no step is beside none
