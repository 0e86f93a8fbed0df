"""The same training on PyTorch, TensorFlow and JAX: same batches, same losses, same weights, every image counted."""

import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from datahall.base.errors import Incompatible, UnknownName, UsageError, WorldFailed
from datahall.case.door import load
from datahall.real.engines.enclosure import enclosure
from datahall.real.engines.engine import ENGINES, Entry, entry_of
from datahall.real.engines.launcher import carry_out, ports
from datahall.real.engines.runs import IMAGES, train
from datahall.real.engines.task import Task
from datahall.storage.order import Order
from datahall.workloads.digits_images import digits, first_weights

ROOT = Path(__file__).parents[3]
BATCH, STEPS = 64, 90


@pytest.fixture(scope="module")
def case():
    return load(ROOT / "cases" / "digits.yaml")


@pytest.fixture(scope="module")
def alone(case, tmp_path_factory):
    """One PyTorch process: what every other run is compared with."""
    return train(case, "pytorch", tmp_path_factory.mktemp("alone"), batch=BATCH, steps=STEPS, keep_weights=True)


@pytest.fixture
def temporary(tmp_path_factory, monkeypatch):
    """An empty folder for temporary files, this process's and that of whatever it starts."""
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def weights(run):
    with np.load(run.folder / "weights.npz", allow_pickle=False) as found:
        return np.concatenate([found[name].ravel() for name in sorted(found.files)])


@pytest.mark.parametrize("engine", list(ENGINES))
def test_two_workers_of_any_engine_train_as_one_process_of_pytorch(case, alone, engine, tmp_path, temporary):
    run = train(case, engine, tmp_path, workers=2, batch=BATCH, steps=STEPS, keep_weights=True)
    assert run.samples_read == alone.samples_read == BATCH * STEPS
    assert run.different_samples == IMAGES  # more than one pass
    np.testing.assert_allclose(run.losses, alone.losses, rtol=5e-3)
    apart = np.linalg.norm(weights(run) - weights(alone)) / np.linalg.norm(weights(alone))
    assert apart < (0.02 if engine == "tensorflow" else 1e-3)  # its Adam adds epsilon elsewhere
    noise = (alone.accuracy * (1 - alone.accuracy) / alone.tested) ** 0.5
    assert alone.accuracy > 0.88
    assert abs(run.accuracy - alone.accuracy) < 2 * noise
    read = [np.load(tmp_path / f"read-{rank}.npy", allow_pickle=False) for rank in range(2)]
    order = Order([IMAGES], 0)
    for step in range(STEPS):
        assert [*read[0][step], *read[1][step]] == order.batch(step * BATCH, BATCH)
    assert list(temporary.iterdir()) == []  # TensorFlow leaves generated source among temporary files


def test_first_weights_move_and_do_not_depend_on_the_run(alone):
    (first, _), _ = first_weights(0, (784, 256, 10))
    assert np.array_equal(first, first_weights(0, (784, 256, 10))[0][0])
    assert not np.array_equal(first, first_weights(1, (784, 256, 10))[0][0])
    assert abs(first).max() < (6 / 1040) ** 0.5 < abs(weights(alone)).max()


def test_no_test_image_is_trained_on():
    found = digits()
    seen = {image.tobytes() for image in found.images}
    assert not any(image.tobytes() in seen for image in found.test_images)
    assert sorted(set(found.classes)) == sorted(set(found.test_classes)) == list(range(10))


def test_a_missing_engine_names_what_to_install(monkeypatch):
    entry = Entry("other", "nowhere:Nothing", ("no_such_engine",), "other", "none")
    monkeypatch.setitem(ENGINES, "other", entry)
    with pytest.raises(UsageError, match=r"no_such_engine.*pip install .*\[other\]"):
        entry_of("other")
    with pytest.raises(UnknownName, match="pytorch, tensorflow, jax"):
        entry_of("torhc")


def test_a_port_in_use_is_said(case, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(WorldFailed, match=f"port {port} cannot be used"):
            train(case, "pytorch", tmp_path, workers=2, steps=4, port=port)
    assert len(set(ports(3))) == 3


def test_an_uneven_batch_is_refused_before_anything_starts(case, tmp_path):
    with pytest.raises(Incompatible, match="3 workers cannot share a batch of 64"):
        train(case, "pytorch", tmp_path / "run", workers=3, steps=4)
    assert not (tmp_path / "run").exists()


def test_a_worker_that_fails_is_named_with_its_reason(case, tmp_path):
    other = tmp_path / "other.whl"
    other.write_bytes(b"not the digits")
    task = Task("train", "pytorch", tmp_path, other, (784, 256, 10), 0, 1, 1, BATCH, 4, 1)
    with pytest.raises(WorldFailed, match=r"worker 0 of pytorch failed.*its digest is another"):
        carry_out(task)


def test_an_enclosed_program_cannot_be_reached_from_outside():
    program = (
        "import socket; one = socket.create_server(('0.0.0.0', 0)); port = one.getsockname()[1]\n"
        "socket.create_connection(('127.0.0.1', port)); print(port, flush=True); input()"
    )
    with enclosure() as before:
        inside = subprocess.Popen(
            [*before, sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        port = int(inside.stdout.readline())
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=2)
        inside.communicate("\n")
    assert inside.returncode == 0
