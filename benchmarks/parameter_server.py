"""A parameter server against a ring all-reduce, forecast before it is run: one case where it wins, one where it loses.

    python benchmarks/parameter_server.py > docs/tables/parameter-server.md

Two workers, first with one server, then with two, as processes on this machine over loopback sockets.  Sparse: an
embedding table of which a step touches few rows.  Dense: every row each step.  Uneven: sparse, and in turn one of the
workers needs ten times as long for its own work; synchronous against bounded staleness.  The probe measures one small
and one large request to as many servers and the ring's own constants; forecasts are printed beside the medians.  The
journal's fsync is part of a server's time.
"""

from __future__ import annotations

import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
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
    uneven_run_s,
)

WIDTH, WORKERS, STEPS = 16, 2, 30
SERVERS = (1, 2)
CASES = [("sparse", 200_000, 256), ("dense", 20_000, 20_000)]  # name, rows of the table, rows touched a step
PROBE_ROWS = (64, 4_096)
UNEVEN_S = np.array([[0.020, 0.002] * (STEPS // 2), [0.002, 0.020] * (STEPS // 2)])  # of each worker's steps
STALENESS = (0, 4)


def worker(rank: int, pipe: Connection) -> None:
    """One worker: joins the ring, then runs what it is told until it is told to stop."""
    listener = listen()
    pipe.send(listener.getsockname())
    mesh = socket_mesh(rank, pipe.recv(), listener)
    for kind, plan, addresses, touched in iter(pipe.recv, None):
        if kind == "ring":
            pipe.send(_ring_seconds(rank, plan, mesh))
        elif kind == "uneven":
            pipe.send(_uneven_seconds(rank, plan, addresses, touched, mesh))
        else:
            pipe.send(_server_seconds(rank, plan, addresses, touched))


def _ring_seconds(rank: int, plan: ServerPlan, mesh: SocketTransport) -> float:
    gradient = np.ones(plan.rows * plan.width, dtype=np.float32)
    both = schedule("ring", WORKERS)
    return statistics.median(_timed(lambda: all_reduce(gradient, rank, both, mesh)) for _ in range(STEPS))


def _server_seconds(
    rank: int, plan: ServerPlan, addresses: list[tuple[str, int]], touched: int
) -> tuple[float, int, int]:
    client = Client(plan, rank, addresses)
    chance = np.random.default_rng(rank)
    gradient = np.ones((touched, plan.width), dtype=np.float32)
    seconds = []
    for clock in range(1, STEPS + 1):
        rows = None if touched == plan.rows else chance.choice(plan.rows, touched, replace=False)
        seconds.append(_timed(lambda c=clock, r=rows: (client.push(c, gradient, r), client.pull(c, r))))
    client.close()
    return statistics.median(seconds), sum(client.sent_bytes), sum(client.received_bytes)


def _uneven_seconds(
    rank: int, plan: ServerPlan, addresses: list[tuple[str, int]], touched: int, mesh: SocketTransport
) -> tuple[float, int, int]:
    """All steps together, from the moment at which both workers are there."""
    client = Client(plan, rank, addresses)
    chance = np.random.default_rng(rank)
    gradient = np.ones((touched, plan.width), dtype=np.float32)
    all_reduce(np.ones(WORKERS, dtype=np.float32), rank, schedule("ring", WORKERS), mesh)
    start = time.perf_counter()
    for clock, work_s in enumerate(UNEVEN_S[rank], 1):
        time.sleep(work_s)
        rows = chance.choice(plan.rows, touched, replace=False)
        client.push(clock, gradient, rows)
        client.pull(clock, rows)
    took_s = time.perf_counter() - start
    client.close()
    return took_s, sum(client.sent_bytes), sum(client.received_bytes)


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
    print("# Parameter server against ring all-reduce\n")
    print("Printed by `benchmarks/parameter_server.py`: 2 workers, loopback, synchronous; bytes of all servers.\n")
    print("| case | servers | rows touched of | server bytes a step, formula | counted | ring bytes a worker ", end="")
    print("| server ms, forecast | measured | ring ms, forecast | measured | forecast's pick | faster |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|---|")
    for servers in SERVERS:
        constants = _probe(pipes, servers)
        for name, rows, touched in CASES:
            _print_case(name, ServerPlan(rows, WIDTH, WORKERS, servers), touched, pipes, constants)
    few = (f"{break_even_rows(CASES[0][1], WIDTH, WORKERS, servers):,.0f} ({servers})" for servers in SERVERS)
    print(f"\nBy bytes alone servers win below so many touched rows a worker of {CASES[0][1]:,}: {', '.join(few)}.")
    _print_uneven(pipes)
    for pipe in pipes:
        pipe.send(None)


def _probe(pipes: list[Connection], servers: int) -> dict[str, tuple[float, float]]:
    """Fixed seconds and bytes/s of the servers' two paths and of the ring, each from a small and a larger request."""
    unit = server_step_s(1.0, WIDTH, WORKERS, servers, 0.0, 1.0)
    found: dict[str, tuple[float, float]] = {}
    for name in ("sparse", "dense"):
        tables = [20_000 if name == "sparse" else rows for rows in PROBE_ROWS]
        small, large = (
            _serve(pipes, ServerPlan(rows, WIDTH, WORKERS, servers), touched)[0]
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
    expected = _all_bytes(plan, touched)
    server_s, counted = _serve(pipes, plan, touched)
    ring_measured = _ring(pipes, plan)
    pick = "server" if server_forecast < ring_forecast else "ring"
    faster = "server" if server_s < ring_measured else "ring"
    print(
        f"| {name} | {plan.servers} | {touched:,} of {plan.rows:,} | {expected:,} | "
        f"{counted // STEPS:,} | {2 * (WORKERS - 1) * payload // WORKERS:,} | {1e3 * server_forecast:.2f} | "
        f"{1e3 * server_s:.2f} | {1e3 * ring_forecast:.2f} | {1e3 * ring_measured:.2f} | "
        f"{pick} | {faster} |"
    )


def _print_uneven(pipes: list[Connection]) -> None:
    _, rows, touched = CASES[0]
    print(
        f"\n{STEPS} steps of uneven work (20 and 2 ms in turn, one worker's long step beside the other's short one):\n"
    )
    print("| staleness | ms, forecast | measured |\n|---:|---:|---:|")
    message_s, rate = _probe(pipes, 1)["sparse"]
    exchange_s = server_step_s(touched, WIDTH, WORKERS, 1, message_s, rate)
    for staleness in STALENESS:
        forecast_s = uneven_run_s(UNEVEN_S, exchange_s, staleness)
        took_s, _ = _serve(pipes, ServerPlan(rows, WIDTH, WORKERS, 1, staleness), touched, "uneven")
        print(f"| {staleness} | {1e3 * forecast_s:.0f} | {1e3 * took_s:.0f} |")


def _all_bytes(plan: ServerPlan, touched: int) -> int:
    """In and out of all servers in a step, by the formulas; frames go to every server."""
    if touched == plan.rows:
        each = [dense_step(plan, server) for server in range(plan.servers)]
    else:
        each = [sparse_step(plan, [touched] * WORKERS), *[sparse_step(plan, [0] * WORKERS)] * (plan.servers - 1)]
    return sum(one.received_bytes + one.sent_bytes for one in each)


def _ring(pipes: list[Connection], plan: ServerPlan) -> float:
    for pipe in pipes:
        pipe.send(("ring", plan, None, 0))
    return max(pipe.recv() for pipe in pipes)


def _serve(pipes: list[Connection], plan: ServerPlan, touched: int, kind: str = "server") -> tuple[float, int]:
    """Fresh server processes, `STEPS` steps of both workers: the slower worker's seconds (median), and all bytes."""
    command = [sys.executable, "-m", "datahall.network.execute_parameter_server", "--rate", "0.1"]
    command += ["--rows", str(plan.rows), "--width", str(plan.width), "--workers", str(plan.workers)]
    command += ["--staleness", str(plan.staleness)]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as ended:
        addresses = []
        for server in range(plan.servers):
            which = ["--servers", str(plan.servers), "--server", str(server)]
            journal = str(Path(folder) / f"journal-{server}")
            process = subprocess.Popen([*command, *which, "--journal", journal], stdout=subprocess.PIPE, text=True)
            ended.callback(process.wait)
            ended.callback(process.kill)
            addresses.append(("127.0.0.1", int(process.stdout.readline())))
        for pipe in pipes:
            pipe.send((kind, plan, addresses, touched))
        found = [pipe.recv() for pipe in pipes]
    return max(seconds for seconds, _, _ in found), sum(sent + received for _, sent, received in found)


if __name__ == "__main__":
    main()
