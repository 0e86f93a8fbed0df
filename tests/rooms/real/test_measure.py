"""Where a step's seconds go, by what its worker wrote down."""

import pytest

from datahall.base.event import Event
from datahall.real.measure import read_steps

MARKS = [["input", 0.0], ["forward", 0.1], ["exchange", 1.1], ["optimiser", 1.3], ["idle", 1.4]]


def test_blocked_by_its_own_stage_is_transfer_and_by_another_is_waiting(tmp_path):
    """Of a second of forward and backward passes 0.5 s was blocked, 0.3 s of that between stages."""
    (tmp_path / "workers").mkdir()
    step = {"rank": 0, "attempt": 0, "step": 0, "marks": MARKS, "transfers": [], "loss": 1.0, "calls": 0, "bytes": 0}
    blocked = {"cpu_s": 0.5, "blocked_s": 0.5, "stages_s": 0.3, "update_blocked_s": 0.04}
    (tmp_path / "workers" / "0.jsonl").write_text(Event(1.4, "step", {**step, **blocked}).to_line() + "\n")
    ((worker,),) = (one.workers for one in read_steps(tmp_path))
    seconds = {"compute": 0.5, "waiting": 0.3, "transfer": 0.2 + 0.2 + 0.04, "input": 0.1, "optimiser": 0.06}
    assert {name: worker.seconds[name] for name in seconds} == pytest.approx(seconds)
    assert worker.step_s == pytest.approx(1.4)
