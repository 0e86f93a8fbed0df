"""A plan's compression is really carried out by the training loop; what the loop cannot do is refused."""

from dataclasses import replace

import pytest
from small_cases import small_case, small_plan

from datahall.base.errors import Refused
from datahall.network.algorithms import bytes_sent, schedule
from datahall.network.plan import NetworkPlan
from datahall.real import training


def test_bf16_hands_over_half_of_the_bytes(tmp_path):
    case = small_case()
    plan = replace(
        small_plan(case, workers=2, micro_batch=2, interval_steps=4), network=NetworkPlan(compression="bf16")
    )
    run = training.run(case, plan, tmp_path, steps=4)
    assert run.result.counts["collective_bytes"] == 4 * 2 * case.model.parameters()
    assert run.losses[-1] < run.losses[0]


def test_a_named_algorithm_is_carried_out_send_by_send(tmp_path):
    case = small_case()
    plan = replace(small_plan(case, workers=2, micro_batch=2, interval_steps=4), network=NetworkPlan(algorithm="ring"))
    run = training.run(case, plan, tmp_path, steps=4)
    assert run.losses[-1] < run.losses[0]
    sent = bytes_sent(schedule("ring", 2), case.model.parameters())[0]  # one bucket; the counter sees each send
    assert run.result.counts["collective_bytes"] == 4 * sent


def test_local_updates_are_refused(tmp_path):
    case = small_case()
    plan = replace(small_plan(case, workers=2, micro_batch=2, interval_steps=4), network=NetworkPlan(local_steps=4))
    with pytest.raises(Refused, match="local updates are not run"):
        training.run(case, plan, tmp_path, steps=2)
