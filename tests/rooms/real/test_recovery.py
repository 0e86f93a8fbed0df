"""Workers are killed, hang, and change in number; the committed history and the weights are the undisturbed run's."""

from dataclasses import replace

import pytest
from small_cases import small_case, small_plan

from datahall.base.errors import UsageError, WorldFailed
from datahall.real import parity, training
from datahall.real.injection import Injection

STEPS = 12


@pytest.fixture(scope="module")
def case():
    return small_case()


@pytest.fixture(scope="module")
def plan(case):
    return small_plan(case, workers=2, micro_batch=2, interval_steps=4)


@pytest.fixture(scope="module")
def undisturbed(case, plan, tmp_path_factory):
    return training.run(case, plan, tmp_path_factory.mktemp("undisturbed"), steps=STEPS, keep_weights=True)


@pytest.mark.parametrize(("rank", "asynchronous"), [(0, False), (1, True)])
def test_a_killed_worker_costs_no_sample_and_no_bit(case, plan, undisturbed, tmp_path, rank, asynchronous):
    plan = replace(plan, storage=replace(plan.storage, asynchronous=asynchronous))
    killed = Injection("kill-worker", rank=rank, step=6 - rank)
    run = training.run(case, plan, tmp_path, steps=STEPS, injection=killed, keep_weights=True)
    assert [(loss.rank, loss.how) for loss in run.lost] == [(rank, "killed by SIGKILL")]
    assert run.samples == undisturbed.samples
    assert run.losses == undisturbed.losses
    assert parity.between(run, undisturbed).weights_max == 0.0


def test_a_hanging_worker_is_named_with_its_step(case, plan, undisturbed, tmp_path):
    hanging = Injection("hang-worker", rank=1, step=6)
    run = training.run(case, plan, tmp_path, steps=STEPS, injection=hanging, hang_timeout_s=3)
    assert [loss.rank for loss in run.lost] == [1]
    assert 6 <= run.lost[0].step < STEPS
    assert "hung in" in run.lost[0].how
    assert run.samples == undisturbed.samples


def test_two_workers_then_one_then_two_are_the_same_training(case, plan, undisturbed, tmp_path):
    run = training.run(case, plan, tmp_path, steps=STEPS, workers_from={4: 1, 8: 2}, keep_weights=True)
    assert [len(step.workers) for step in run.steps] == [2] * 4 + [1] * 4 + [2] * 4
    assert run.samples == undisturbed.samples
    assert parity.between(run, undisturbed).holds


def test_one_process_on_the_same_batches_is_the_same_training(case, plan, undisturbed, tmp_path):
    run = training.run(case, parity.alone(plan), tmp_path, steps=STEPS, keep_weights=True)
    found = parity.between(undisturbed, run)
    assert found.holds
    assert found.workers == 2


def test_other_samples_are_not_parity(undisturbed, tmp_path):
    other = small_case(seed=7)
    run = training.run(other, small_plan(other, micro_batch=8), tmp_path, steps=STEPS, keep_weights=True)
    assert not parity.between(undisturbed, run).holds


def test_a_worker_that_is_lost_again_and_again_ends_the_run(case, plan, tmp_path):
    killed = Injection("kill-worker", rank=1, step=2)
    with pytest.raises(WorldFailed, match=r"the last one was worker 1 in step \d+: killed by SIGKILL"):
        training.run(case, plan, tmp_path, steps=STEPS, injection=killed, max_restarts=0)


def test_a_batch_that_cannot_be_shared_is_refused_before_anything_starts(case, plan, tmp_path):
    with pytest.raises(UsageError, match="cannot be divided among 3 workers"):
        training.run(case, plan, tmp_path, steps=STEPS, workers_from={4: 3})
    assert not list(tmp_path.iterdir())
