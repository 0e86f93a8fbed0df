"""A plan's compression is really carried out by the training loop; what the loop cannot do is refused."""

from dataclasses import replace

import pytest
from small_cases import small_case, small_plan

from datahall.base.errors import Refused
from datahall.compute.plan import ComputePlan
from datahall.network.algorithms import bytes_sent, schedule
from datahall.network.plan import NetworkPlan
from datahall.real import parity, training
from datahall.real.injection import Injection
from datahall.virtual.training import forecast


def test_bf16_hands_over_half_of_the_bytes(tmp_path):
    case = small_case()
    plan = replace(
        small_plan(case, workers=2, micro_batch=2, interval_steps=4), network=NetworkPlan(compression="bf16")
    )
    run = training.run(case, plan, tmp_path, steps=4)
    assert run.result.counts["collective_bytes"] == 4 * 2 * case.model.parameters()
    assert run.result.counts["collective_bytes"] == _foretold(case, plan, 4)
    assert run.losses[-1] < run.losses[0]


def test_a_named_algorithm_is_carried_out_send_by_send(tmp_path):
    case = small_case()
    plan = replace(small_plan(case, workers=2, micro_batch=2, interval_steps=4), network=NetworkPlan(algorithm="ring"))
    run = training.run(case, plan, tmp_path, steps=4)
    assert run.losses[-1] < run.losses[0]
    sent = bytes_sent(schedule("ring", 2), case.model.parameters())[0]  # one bucket; the counter sees each send
    assert run.result.counts["collective_bytes"] == 4 * sent


@pytest.fixture(scope="module")
def local():
    case = small_case()
    network = NetworkPlan(local_steps=4, outer_momentum=0.5, outer_rate=0.7)
    return case, replace(small_plan(case, workers=2, micro_batch=2, interval_steps=4), network=network)


def test_local_updates_meet_every_so_often(local, tmp_path):
    case, plan = local
    run = training.run(case, plan, tmp_path, steps=8)
    handed = [worker.collective_bytes for step in run.steps for worker in step.workers[:1]]
    assert handed == 2 * [0, 0, 0, 4 * case.model.parameters()]
    assert sum(handed) == _foretold(case, plan, 8)
    assert run.losses[-1] < run.losses[0]


@pytest.mark.soak
@pytest.mark.parametrize("compression", ["none", "bf16"])
def test_local_updates_go_on_from_a_checkpoint_bit_for_bit(local, tmp_path, compression):
    case, plan = local
    plan = replace(plan, network=replace(plan.network, compression=compression))
    calm = training.run(case, plan, tmp_path / "calm", steps=12, keep_weights=True)
    plan = replace(plan, storage=replace(plan.storage, asynchronous=True))  # copied beside steps that update alone
    killed = Injection("kill-worker", rank=1, step=6)
    again = training.run(case, plan, tmp_path / "killed", steps=12, injection=killed, keep_weights=True)
    assert len(again.lost) == 1
    assert again.samples == calm.samples
    assert parity.between(again, calm).weights_max == 0.0


@pytest.mark.soak
@pytest.mark.parametrize("compression", ["int8", "top-k", "powersgd"])
@pytest.mark.parametrize("local_steps", [1, 2])
def test_every_codec_hands_over_what_was_foretold(tmp_path, compression, local_steps):
    case = small_case()
    network = NetworkPlan(compression=compression, local_steps=local_steps)
    plan = replace(small_plan(case, workers=2, micro_batch=2), network=network)
    run = training.run(case, plan, tmp_path, steps=4)
    assert run.result.counts["collective_bytes"] == _foretold(case, plan, 4)
    assert run.losses[-1] < run.losses[0] + 0.1


def _foretold(case, plan, steps):
    tokens = float(steps * case.application.global_batch * case.application.sequence)
    case = replace(case, application=replace(case.application, tokens=tokens))
    return forecast(case, replace(plan, case_hash=case.hash())).counts["collective_bytes"]


def test_a_checkpoint_between_two_meetings_is_refused(tmp_path):
    case = small_case()
    plan = replace(small_plan(case, workers=2, micro_batch=2, interval_steps=6), network=NetworkPlan(local_steps=4))
    with pytest.raises(Refused, match="between two meetings"):
        training.run(case, plan, tmp_path, steps=2)
    plan = replace(small_plan(case), compute=ComputePlan(tensor=2, micro_batch=4), network=NetworkPlan(local_steps=4))
    with pytest.raises(Refused, match="plain data parallelism"):
        training.run(case, plan, tmp_path, steps=2)
