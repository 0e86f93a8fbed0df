"""Parameter servers: bytes equal the formula, a killed server loses nothing acknowledged, staleness is bounded."""

import contextlib
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datahall.base.errors import UsageError
from datahall.network.execute_parameter_server import Client, Table, serve
from datahall.network.parameter_server import (
    ServerPlan,
    break_even_rows,
    dense_step,
    server_step_s,
    sparse_step,
    uneven_run_s,
)


def start(plan: ServerPlan, folder: Path) -> tuple[list[Table], list[tuple[str, int]]]:
    tables, addresses = [], []
    for server in range(plan.servers):
        table = Table(plan, server, 0.5, folder / f"{server}.journal")
        listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=serve, args=(table, listener), daemon=True).start()
        tables.append(table)
        addresses.append(listener.getsockname())
    return tables, addresses


def together(*actions: object) -> None:
    threads = [threading.Thread(target=action) for action in actions]  # type: ignore[arg-type]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()


@pytest.mark.parametrize("servers", [1, 3])
def test_dense_and_sparse_bytes_and_values(servers: int, tmp_path: Path) -> None:
    plan = ServerPlan(rows=10, width=4, workers=2, servers=servers)
    _, addresses = start(plan, tmp_path)
    clients = [Client(plan, worker, addresses) for worker in range(2)]
    touched = [np.array([1, 4, 4, 9]), np.array([0, 4])]
    seen: dict[int, np.ndarray] = {}

    def work(worker: int) -> None:
        clients[worker].push(1, np.full((10, 4), worker + 1.0, np.float32))
        clients[worker].pull(1)
        clients[worker].push(2, np.ones((len(touched[worker]), 4), np.float32), touched[worker])
        seen[worker] = clients[worker].pull(2, touched[worker])

    together(lambda: work(0), lambda: work(1))
    expected = np.full(10, -0.5 * 1.5)
    np.subtract.at(expected, np.concatenate(touched), 0.25)
    assert seen[0][:, 0].tolist() == expected[touched[0]].tolist()
    for server in range(servers):
        counts = [int((rows % servers == server).sum()) for rows in touched]
        dense, sparse = dense_step(plan, server), sparse_step(plan, counts)
        assert sum(client.sent_bytes[server] for client in clients) == dense.received_bytes + sparse.received_bytes
        assert sum(client.received_bytes[server] for client in clients) == dense.sent_bytes + sparse.sent_bytes
    for client in clients:
        client.close()


def launch(plan: ServerPlan, journal: Path, port: int = 0) -> tuple[subprocess.Popen[str], int]:
    knobs = {"rows": plan.rows, "width": plan.width, "workers": plan.workers, "servers": 1, "port": port}
    knobs |= {"rate": 0.5, "journal": journal}
    command = [sys.executable, "-m", "datahall.network.execute_parameter_server"]
    command += [word for name, value in knobs.items() for word in (f"--{name}", str(value))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def test_a_killed_server_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    plan = ServerPlan(rows=50, width=8, workers=1)
    journal = tmp_path / "journal"
    process, port = launch(plan, journal)
    client = Client(plan, 0, [("127.0.0.1", port)])
    chance = np.random.default_rng(0)
    expected = np.zeros((50, 8), np.float32)
    for clock in range(1, 7):
        rows = chance.choice(50, 5, replace=False)
        gradient = chance.normal(size=(5, 8)).astype(np.float32)
        client.push(clock, gradient, rows)
        expected[rows] -= np.float32(0.5) * gradient
        if clock in (2, 5):
            process.kill()
            process.wait()
            with journal.open("ab") as file:  # a push that was torn by the kill was never acknowledged
                file.write(b"\x40\x00\x00\x00torn")
            process, _ = launch(plan, journal, port)
            client.push(clock, gradient, rows)  # the acknowledgement might have been lost: it counts once
    assert client.pull(6).tobytes() == expected.tobytes()
    client.close()
    process.kill()
    process.wait()


def test_staleness_is_bounded(tmp_path: Path) -> None:
    plan = ServerPlan(rows=2, width=1, workers=2, staleness=2)
    tables, addresses = start(plan, tmp_path)
    fast, slow = (Client(plan, worker, addresses) for worker in range(2))
    for clock in (1, 2):
        fast.push(clock, np.ones((2, 1), np.float32))
        fast.pull(clock)  # at most two steps ahead: answered though the other has pushed nothing
    fast.push(3, np.ones((2, 1), np.float32))
    answered = threading.Event()
    threading.Thread(target=lambda: (fast.pull(3), answered.set()), daemon=True).start()
    assert not answered.wait(0.2)
    slow.push(1, np.ones((2, 1), np.float32))
    assert answered.wait(20)
    assert tables[0].clocks == [3, 1]


def test_a_frame_of_a_stranger_is_refused(tmp_path: Path) -> None:
    _, addresses = start(ServerPlan(2, 1, 1), tmp_path)
    with socket.create_connection(addresses[0]) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):  # closed with our bytes unread
            assert connection.recv(1) == b""


def test_servers_carry_as_much_as_a_ring_at_the_break_even_and_lose_when_all_rows_are_touched() -> None:
    few = break_even_rows(10_000.0, 16.0, 4.0, 1.0)
    assert 0 < few < 10_000
    ring_bytes = 2 * 3 / 4 * 10_000 * 16 * 4
    assert 2 * 4 * few * (4 * 16 + 16) == pytest.approx(ring_bytes)


def test_staleness_hides_work_that_is_uneven_and_not_work_that_is_more() -> None:
    turns = np.array([[3.0, 1.0] * 10, [1.0, 3.0] * 10])  # now one, now the other is slow
    assert uneven_run_s(turns, 0.0, 0) == 60.0  # the slower one of each step
    assert uneven_run_s(turns, 0.0, 4) == 40.0  # everybody's own sum
    assert uneven_run_s(turns, 0.5, 0) == 60.0 + 20 * 0.5
    slow = np.array([[1.0] * 20, [3.0] * 20])
    assert uneven_run_s(slow, 0.0, 4) == uneven_run_s(slow, 0.0, 0) == 60.0


@given(st.lists(st.lists(st.floats(1, 1e6), min_size=6, max_size=6), min_size=1, max_size=4))
def test_arrays_are_their_elements(rows: list[list[float]]) -> None:
    columns = np.array(rows).T
    assert np.asarray(server_step_s(*columns)).tolist() == [server_step_s(*row) for row in rows]
    assert np.asarray(break_even_rows(*columns[:4])).tolist() == [break_even_rows(*row[:4]) for row in rows]


def test_nonsense_is_refused() -> None:
    with pytest.raises(UsageError, match="no parameter server"):
        ServerPlan(0, 1, 1).check()
