"""A plan on two real workers: what the logs of independent observers say about it."""

import socket

import pytest
from small_cases import small_case, small_plan

from datahall.base.errors import UsageError, WorldFailed
from datahall.compute.handed import bucket_sizes
from datahall.compute.host_memory import ON_PROCESSOR
from datahall.compute.inventory import language_model_inventory
from datahall.real import training
from datahall.real.measure import read_kind

BUCKET_BYTES = 100_000


@pytest.fixture(scope="module")
def case():
    return small_case()


@pytest.fixture(scope="module")
def heard():
    return []


@pytest.fixture(scope="module")
def two_workers(case, heard, tmp_path_factory):
    """Ten steps, beside somebody who holds the port that the environment names, where a run before was killed."""
    plan = small_plan(case, workers=2, micro_batch=2, interval_steps=4, bucket_bytes=BUCKET_BYTES)
    folder = tmp_path_factory.mktemp("two")
    (folder / "rendezvous-0").write_bytes(b"\x05\0\0\0\0\0\0\0stale")
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MASTER_ADDR", "127.0.0.1")
        patch.setenv("MASTER_PORT", str(taken.getsockname()[1]))
        return training.run(case, plan, folder, steps=10, on_event=heard.append)


def test_a_port_that_others_hold_and_a_meeting_point_of_before_stop_nobody(two_workers):
    assert two_workers.result.counts["steps"] == 10
    assert not two_workers.lost


def test_the_loss_goes_down(two_workers):
    assert two_workers.losses[-1] < two_workers.losses[0] - 0.5
    assert two_workers.metrics["validation_loss"] < 5.0


def test_counts_are_what_was_decided(two_workers, case):
    counts = two_workers.result.counts
    assert counts["steps"] == 10
    assert counts["samples"] == 10 * case.application.global_batch
    assert counts["collective_bytes"] == 10 * 4 * case.model.parameters()
    assert counts["checkpoints"] == 2


def test_flops_of_one_worker_follow_from_the_shape(two_workers, case):
    shape, tokens = case.model, 4 * case.application.sequence
    weights = shape.parameters() - shape.vocab * shape.hidden - (2 * shape.layers + 1) * shape.hidden
    assert two_workers.result.counts["matmul_flops"] == 10 * 6 * weights * tokens
    attended = shape.layers * shape.heads * shape.head_dim * case.application.sequence * tokens
    assert two_workers.result.counts["attention_flops"] == 10 * (4 + 10) * attended


def test_components_add_up_to_the_step(two_workers):
    for step in two_workers.steps[:-1]:
        for worker in step.workers:
            assert worker.step_s + worker.checkpoint_s == pytest.approx(worker.end_s - worker.begin_s, abs=1e-5)


def test_gradients_travel_in_the_buckets_that_were_counted_on(two_workers, case):
    expected = bucket_sizes(language_model_inventory(case.model).by_readiness, BUCKET_BYTES)
    assert len(expected) > 2
    for step in two_workers.steps:
        for worker in step.workers:
            if step.steady:
                # Which of two neighbours' gradients is ready first is autograd's decision: a norm may move on.
                handed = sorted(worker.transfers, key=lambda transfer: transfer[1])
                assert [count for count, _, _ in handed] == pytest.approx(expected, abs=4 * case.model.hidden)


def test_every_sample_is_read_once(two_workers):
    read = [sample for ids in two_workers.samples.values() for sample in ids]
    assert len(set(read)) == len(read) == 80


def test_events_are_heard_in_order(two_workers, heard):
    kinds = [event.kind for event in heard]
    assert "trained" in kinds
    assert kinds[0] == "launched"
    assert kinds[-1] == "finished"
    assert [event.data["step"] for event in heard if event.kind == "step"] == list(range(10))


def test_host_memory_is_what_all_workers_hold_of_it(two_workers):
    """What is measured of a worker above idle, and the idle worker: nothing is read twice or counted twice."""
    idle, peak = (
        [event.data[name] for event in read_kind(two_workers.folder, kind)]
        for kind, name in (("ready", "idle_bytes"), ("trained", "peak_bytes"))
    )
    assert len(idle) == len(peak) == 2
    held = two_workers.result.metrics["host_memory"]
    assert held.value == sum(idle) + sum(peak)
    assert held.value > 2 * two_workers.result.metrics["peak_memory"].value
    assert all(0.5 < size / ON_PROCESSOR.interpreter_bytes < 2 for size in idle)


def test_a_plan_of_another_case_is_refused(case, tmp_path):
    with pytest.raises(UsageError, match="another case"):
        training.run(small_case(seed=1), small_plan(case), tmp_path, steps=1)


def test_a_workload_that_is_not_there_is_the_users_error(tmp_path):
    case = small_case(entry="nowhere_to_be_found:build")
    with pytest.raises(UsageError, match="cannot load nowhere_to_be_found"):
        training.run(case, small_plan(case), tmp_path, steps=1)


@pytest.mark.parametrize("program", ["/bin/false", "/nowhere/python"])
def test_a_worker_that_cannot_start_is_named(case, tmp_path, monkeypatch, program):
    monkeypatch.setattr("sys.executable", program)
    with pytest.raises(WorldFailed, match=r"worker 0 (could not start|cannot be started)"):
        training.run(case, small_plan(case), tmp_path, steps=1)
