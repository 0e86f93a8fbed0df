"""Workers are killed, hang, and change in number; the committed history and the weights are the undisturbed run's."""

import signal
import subprocess
import sys
from dataclasses import replace

import psutil
import pytest
from small_cases import small_case, small_plan

from datahall.base.errors import UsageError, WorldFailed
from datahall.real import parity, training
from datahall.real.checkpoint import checkpoint_folder
from datahall.real.injection import Injection
from datahall.real.process import worker_environment
from datahall.storage.place import open_place
from datahall.storage.store import committed_steps, read_manifest, verify

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


@pytest.mark.parametrize(("kind", "rank", "asynchronous"), [("kill-worker", 0, False), ("hang-worker", 1, True)])
def test_a_lost_worker_costs_no_sample_and_no_bit(case, plan, undisturbed, tmp_path, kind, rank, asynchronous):
    plan = replace(plan, storage=replace(plan.storage, asynchronous=asynchronous))
    injection = Injection(kind, rank=rank, step=6)
    run = training.run(case, plan, tmp_path, steps=STEPS, injection=injection, keep_weights=True, hang_timeout_s=3)
    (loss,) = run.lost
    assert loss.rank == rank
    assert 6 <= loss.step < STEPS
    assert loss.how.startswith("killed by SIGKILL" if kind == "kill-worker" else "hung in")
    assert run.samples == undisturbed.samples
    assert run.losses == undisturbed.losses
    assert parity.between(run, undisturbed).weights_max == 0.0
    assert kept_bytes(run) == kept_bytes(undisturbed)


def kept_bytes(run):
    """What the checkpoints of a run hold, by step, tensor and chunk."""
    place = open_place(checkpoint_folder(run.folder))
    return {
        step: {
            name: [chunk.digest for piece in tensor.pieces for chunk in piece.chunks]
            for name, tensor in read_manifest(place, step).tensors.items()
        }
        for step in committed_steps(place)
    }


def test_two_workers_then_one_then_two_are_the_same_training(case, plan, undisturbed, tmp_path):
    run = training.run(case, plan, tmp_path, steps=STEPS, workers_from={4: 1, 8: 2}, keep_weights=True)
    assert [len(step.workers) for step in run.steps] == [2] * 4 + [1] * 4 + [2] * 4
    assert run.samples == undisturbed.samples
    assert parity.between(run, undisturbed).holds


@pytest.mark.soak  # the splits of tests/worlds and the proof look at it by default
def test_one_process_on_the_same_batches_is_the_same_training(case, plan, undisturbed, tmp_path):
    run = training.run(case, parity.alone(plan), tmp_path, steps=STEPS, keep_weights=True)
    found = parity.between(undisturbed, run)
    assert found.holds
    assert found.workers == 2


def test_other_samples_or_losses_are_no_parity(undisturbed):
    assert parity.between(undisturbed, undisturbed).holds
    other_samples = replace(undisturbed, samples={step: [0] for step in undisturbed.samples})
    assert not parity.between(other_samples, undisturbed).holds
    other_losses = replace(undisturbed, losses=tuple(loss * 1.001 for loss in undisturbed.losses))
    assert not parity.between(other_losses, undisturbed).holds


def test_a_disk_that_refuses_keeps_the_last_good_checkpoint(case, plan, tmp_path):
    def refuse(event):
        if event.kind == "checkpoint":
            for worker in psutil.Process().children():
                worker.rlimit(psutil.RLIMIT_FSIZE, (100_000, 100_000))  # bytes of one file, from now on

    with pytest.raises(WorldFailed, match=r"(?i)too large|no space|full"):
        training.run(case, plan, tmp_path, steps=STEPS * 100, on_event=refuse)
    committed = committed_steps(open_place(checkpoint_folder(tmp_path)))
    assert committed
    assert verify(open_place(checkpoint_folder(tmp_path)), committed[-1]).faults == ()


@pytest.mark.soak
def test_a_run_rounds_its_checkpoints_only_where_its_case_allows_it(case, tmp_path):
    def rounded(of):
        plan = small_plan(of, interval_steps=2)
        return replace(plan, storage=replace(plan.storage, codec="lossy-bf16"))

    allows = replace(case, application=replace(case.application, lossy_checkpoint="bf16"))
    training.run(allows, rounded(allows), tmp_path / "allowed", steps=2)
    assert read_manifest(open_place(checkpoint_folder(tmp_path / "allowed")), 2).codec == "lossy-bf16"
    with pytest.raises(WorldFailed, match="loses precision"):
        training.run(case, rounded(case), tmp_path / "refused", steps=2)


def test_an_interrupt_leaves_no_process_behind(tmp_path):
    script = (
        "import sys\nfrom pathlib import Path\nfrom small_cases import small_case, small_plan\n"
        "from datahall.real import training\ncase = small_case()\n"
        "training.run(case, small_plan(case, workers=2), Path(sys.argv[1]), steps=10**6,"
        " on_event=lambda event: print(event.kind, flush=True))\n"
    )
    environment = worker_environment(threads=1, interface="lo")
    run = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert any(line.strip() == b"step" for line in run.stdout)
    workers = psutil.Process(run.pid).children(recursive=True)
    assert len(workers) == 2
    run.send_signal(signal.SIGINT)
    run.stdout.close()
    assert run.wait(timeout=20) != 0
    gone, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive
    assert len(gone) == 2


def test_a_worker_that_is_lost_again_and_again_ends_the_run(case, tmp_path):
    killed = Injection("kill-worker", rank=0, step=2)
    with pytest.raises(WorldFailed, match=r"the last one was worker 0 in step \d+: killed by SIGKILL"):
        training.run(case, small_plan(case), tmp_path, steps=STEPS, injection=killed, max_restarts=0)


def test_a_batch_that_cannot_be_shared_is_refused_before_anything_starts(case, plan, tmp_path):
    with pytest.raises(UsageError, match="cannot be divided among 3 workers"):
        training.run(case, plan, tmp_path, steps=STEPS, workers_from={4: 3})
    assert not list(tmp_path.iterdir())
