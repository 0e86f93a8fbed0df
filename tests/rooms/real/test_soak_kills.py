"""Workers killed at random moments, many times in a row (make soak): nothing lost, nothing repeated, same weights."""

import os
import random

import pytest
from small_cases import small_case, small_plan

from datahall.real import parity, training
from datahall.real.injection import Injection
from datahall.real.measure import median, read_kind

STEPS = 60
KILLS = int(os.environ.get("DATAHALL_SOAK_KILLS", "50"))
RESTART_S = 10.0  # the bar on an otherwise idle machine; printed, not asserted, since the clock judges no test


@pytest.mark.soak
def test_fifty_kills_in_a_row(tmp_path, capsys):
    case = small_case()
    plan = small_plan(case, workers=2, micro_batch=2, interval_steps=10)
    undisturbed = training.run(case, plan, tmp_path / "undisturbed", steps=STEPS, keep_weights=True)
    chance = random.Random(20)
    restarts = []
    for number in range(KILLS):
        kill = Injection("kill-worker", rank=chance.randrange(2), step=chance.randrange(STEPS - 5))
        folder = tmp_path / str(number)
        run = training.run(case, plan, folder, steps=STEPS, injection=kill, keep_weights=True)
        assert [loss.rank for loss in run.lost] == [kill.rank]
        assert run.samples == undisturbed.samples
        assert run.losses == undisturbed.losses
        assert parity.between(run, undisturbed).weights_max == 0.0
        again = [event.time_s for event in read_kind(folder, "ready") if event.data["attempt"] == 1]
        restarts.append(max(again) - run.lost[0].time_s)
    with capsys.disabled():
        print(
            f"\n{KILLS} kills, no sample lost or repeated, weights bit-identical; restart from kill to ready: "
            f"median {median(restarts):.1f} s, longest {max(restarts):.1f} s (bar {RESTART_S:.0f} s)"
        )
