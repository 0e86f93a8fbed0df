"""A parameter server against a ring all-reduce, forecast before it is run: one case where it wins, one where it loses.

    python benchmarks/parameter_server.py > docs/tables/parameter-server.md

Two workers and one server as processes on this machine over loopback sockets.  Sparse: an embedding table of which a
step touches few rows.  Dense: every row each step.  The probe measures one small and one large request and the ring's
own constants; forecasts are printed beside the medians.  The journal's fsync is part of the server's time.
"""

from __future__ import annotations

import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from datahall.network.algorithms import schedule
from datahall.network.execute import SocketTransport, all_reduce, listen, socket_mesh
from datahall.network.execute_parameter_server import Client
from datahall.network.parameter_server import (
    ServerPlan,
    break_even_rows,
    dense_step,
    server_step_s,
    sparse_step,
)

WIDTH, WORKERS, STEPS = 16, 2, 30
CASES = [("sparse", 200_000, 256), ("dense", 20_000, 20_000)]  # name, rows of the table, rows touched a step
PROBE_ROWS = (64, 4_096)


def worker(rank: int, pipe: Connection) -> None:
    """One worker: joins the ring, then runs what it is told until it is told to stop."""
    listener = listen()
    pipe.send(listener.getsockname())
    mesh = socket_mesh(rank, pipe.recv(), listener)
    for kind, plan, address, touched, first_clock in iter(pipe.recv, None):
        if kind == "ring":
            pipe.send(_ring_seconds(rank, plan, mesh))
        else:
            pipe.send(_server_seconds(rank, plan, address, touched, first_clock, mesh))


def _ring_seconds(rank: int, plan: ServerPlan, mesh: SocketTransport) -> float:
    gradient = np.ones(plan.rows * plan.width, dtype=np.float32)
    both = schedule("ring", WORKERS)
    return statistics.median(_timed(lambda: all_reduce(gradient, rank, both, mesh)) for _ in range(STEPS))


def _server_seconds(
    rank: int, plan: ServerPlan, address: tuple[str, int], touched: int, first_clock: int, mesh: SocketTransport
) -> tuple[float, int, int]:
    client = Client(plan, rank, [address])
    chance = np.random.default_rng(rank)
    gradient = np.ones((touched, plan.width), dtype=np.float32)
    seconds = []
    for clock in range(first_clock, first_clock + STEPS):
        rows = None if touched == plan.rows else chance.choice(plan.rows, touched, replace=False)
        seconds.append(_timed(lambda c=clock, r=rows: (client.push(c, gradient, r), client.pull(c, r))))
    client.close()
    return statistics.median(seconds), sum(client.sent_bytes), sum(client.received_bytes)


def _timed(action: object) -> float:
    start = time.perf_counter()
    action()  # type: ignore[operator]
    return time.perf_counter() - start


def main() -> None:
    """Probe, forecast, run, print."""
    context = multiprocessing.get_context("spawn")
    pipes = []
    for rank in range(WORKERS):
        ours, theirs = context.Pipe()
        context.Process(target=worker, args=(rank, theirs), daemon=True).start()
        pipes.append(ours)
    addresses = [pipe.recv() for pipe in pipes]
    for pipe in pipes:
        pipe.send(addresses)
    constants = _probe(pipes)
    print("# Parameter server against ring all-reduce\n")
    print("Printed by `benchmarks/parameter_server.py`: 2 workers, 1 server, loopback, synchronous.\n")
    print("| case | rows touched of | server bytes a step, formula | counted | ring bytes a worker ", end="")
    print("| server ms, forecast | measured | ring ms, forecast | measured | forecast's pick | faster |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---|---|")
    for name, rows, touched in CASES:
        _print_case(name, ServerPlan(rows, WIDTH, WORKERS), touched, pipes, constants)
    few = break_even_rows(CASES[0][1], WIDTH, WORKERS, 1)
    print(f"\nBy bytes alone the server wins below {few:,.0f} touched rows a worker of {CASES[0][1]:,}.")
    for pipe in pipes:
        pipe.send(None)


def _probe(pipes: list[Connection]) -> dict[str, tuple[float, float]]:
    """Fixed seconds and bytes/s of the server's two paths and of the ring, each from a small and a larger request."""
    unit = server_step_s(1.0, WIDTH, WORKERS, 1, 0.0, 1.0)
    found: dict[str, tuple[float, float]] = {}
    for name in ("sparse", "dense"):
        tables = [20_000 if name == "sparse" else rows for rows in PROBE_ROWS]
        small, large = (
            _serve(pipes, ServerPlan(rows, WIDTH, WORKERS), touched)[0]
            for rows, touched in zip(tables, PROBE_ROWS, strict=True)
        )
        rate = (PROBE_ROWS[1] - PROBE_ROWS[0]) * unit / max(large - small, 1e-6)
        found[name] = max(small - PROBE_ROWS[0] * unit / rate, 0.0) / 2, rate
    small, large = (_ring(pipes, ServerPlan(rows, WIDTH, WORKERS)) for rows in (64, 40_000))
    found["ring"] = small, (40_000 - 64) * WIDTH * 4 / max(large - small, 1e-6)
    return found


def _print_case(
    name: str, plan: ServerPlan, touched: int, pipes: list[Connection], constants: dict[str, tuple[float, float]]
) -> None:
    (message_s, server_rate), (ring_s, ring_rate) = constants[name], constants["ring"]
    server_forecast = server_step_s(touched, plan.width, plan.workers, plan.servers, message_s, server_rate)
    payload = plan.rows * plan.width * 4
    ring_forecast = ring_s + 2 * (WORKERS - 1) / WORKERS * payload / ring_rate
    carried = dense_step(plan, 0) if touched == plan.rows else sparse_step(plan, [touched] * WORKERS)
    server_s, counted = _serve(pipes, plan, touched)
    ring_measured = _ring(pipes, plan)
    pick = "server" if server_forecast < ring_forecast else "ring"
    faster = "server" if server_s < ring_measured else "ring"
    print(
        f"| {name} | {touched:,} of {plan.rows:,} | {carried.received_bytes + carried.sent_bytes:,} | "
        f"{counted // STEPS:,} | {2 * (WORKERS - 1) * payload // WORKERS:,} | {1e3 * server_forecast:.2f} | "
        f"{1e3 * server_s:.2f} | {1e3 * ring_forecast:.2f} | {1e3 * ring_measured:.2f} | "
        f"{pick} | {faster} |"
    )


def _ring(pipes: list[Connection], plan: ServerPlan) -> float:
    for pipe in pipes:
        pipe.send(("ring", plan, None, 0, 0))
    return max(pipe.recv() for pipe in pipes)


def _serve(pipes: list[Connection], plan: ServerPlan, touched: int) -> tuple[float, int]:
    """A fresh server process, `STEPS` steps of both workers: the slower worker's median seconds, and all bytes."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "datahall.network.execute_parameter_server", "--rate", "0.1", "--servers", "1"]
        command += ["--rows", str(plan.rows), "--width", str(plan.width), "--workers", str(plan.workers)]
        process = subprocess.Popen(
            [*command, "--journal", str(Path(folder) / "journal")], stdout=subprocess.PIPE, text=True
        )
        address = ("127.0.0.1", int(process.stdout.readline()))
        for pipe in pipes:
            pipe.send(("server", plan, address, touched, 1))
        found = [pipe.recv() for pipe in pipes]
        process.kill()
        process.wait()
    return max(seconds for seconds, _, _ in found), sum(sent + received for _, sent, received in found)


if __name__ == "__main__":
    main()
