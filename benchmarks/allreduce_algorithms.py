"""All-reduce algorithms between processes on this machine: fitted on every other size, judged on the rest.

    python benchmarks/allreduce_algorithms.py > docs/tables/allreduce-algorithms.md

Plain TCP sockets on loopback, 2, 4 and 8 processes; beside them gloo's own all-reduce, whose algorithm is decided by
the library and is not forecast.  One set of constants per number of processes; the lower quartile over rounds of the
slowest rank, since other load only adds.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import tempfile
import time
from multiprocessing.connection import Connection

import numpy as np
import torch
import torch.distributed as distributed

from datahall.network.algorithms import LIBRARY, Schedule, schedule
from datahall.network.execute import all_reduce, listen, socket_mesh
from datahall.network.links_estimate import load

NAMES = ("ring", "tree", "doubling", "halving-doubling", "hierarchical")
SIZES = [2**power for power in range(6, 22)]  # elements of 4 bytes
REPEATS = 24
RANKS = (2, 4, 8)
Times = dict[tuple[str, int], float]


def plan_of(name: str, ranks: int) -> Schedule:
    """The schedule; a hierarchical one takes the ranks for two hosts, though here they are on one."""
    return schedule(name, ranks, ranks // 2 if name == "hierarchical" else 1)


def rank_main(rank: int, ranks: int, store: str, pipe: Connection) -> None:
    """One process: all algorithms in turn for each size, several times; medians back through the pipe."""
    torch.set_num_threads(1)
    listener = listen()
    pipe.send(listener.getsockname())
    transport = socket_mesh(rank, pipe.recv(), listener)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    plans: dict[str, Schedule] = {name: plan_of(name, ranks) for name in NAMES}
    seconds: dict[tuple[str, int], list[float]] = {}
    for repeat in range(REPEATS + 1):  # all sizes in every round, so that other load falls on all alike
        for elements in SIZES:
            values, tensor = np.ones(elements, dtype=np.float32), torch.ones(elements)
            for name in (*NAMES, LIBRARY):
                distributed.barrier()
                start = time.perf_counter()
                if name == LIBRARY:
                    distributed.all_reduce(tensor)
                else:
                    all_reduce(values, rank, plans[name], transport)
                took = time.perf_counter() - start
                if repeat:
                    seconds.setdefault((name, elements), []).append(took)
    pipe.send(seconds)


def measure(ranks: int) -> Times:
    """The lower quartile over rounds of the slowest rank's seconds."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        pipes, processes = [], []
        for rank in range(ranks):
            ours, theirs = context.Pipe()
            processes.append(context.Process(target=rank_main, args=(rank, ranks, f"{folder}/store", theirs)))
            processes[-1].start()
            pipes.append(ours)
        addresses = [pipe.recv() for pipe in pipes]
        for pipe in pipes:
            pipe.send(addresses)
        found = [pipe.recv() for pipe in pipes]
        for process in processes:
            process.join(60)
    slowest = {key: sorted(map(max, zip(*(one[key] for one in found), strict=True))) for key in found[0]}
    return {key: seconds[len(seconds) // 4] for key, seconds in slowest.items()}


def features(name: str, ranks: int, elements: int) -> list[float]:
    """What multiplies the constants: one call, rounds, messages, bytes of the busiest rank, bytes of the host."""
    counts = load(plan_of(name, ranks), elements, [0] * ranks)
    return [1.0, counts.inside_rounds, counts.messages, counts.inside_bytes, counts.moved_bytes]


def fit(ranks: int, times: Times, sizes: list[int]) -> np.ndarray:
    """Constants of at least zero that make the smallest relative squared error on these sizes."""
    rows = [(features(name, ranks, size), times[name, size]) for size in sizes for name in NAMES]
    matrix = np.array([row for row, _ in rows]) / np.array([[seconds] for _, seconds in rows])
    used = list(range(matrix.shape[1]))
    while True:
        found = np.linalg.lstsq(matrix[:, used], np.ones(len(rows)), rcond=None)[0]
        if (found >= 0).all():
            break
        used.pop(int(np.argmin(found)))
    constants = np.zeros(matrix.shape[1])
    constants[used] = found
    return constants


def crossover(prices: dict[int, dict[str, float]]) -> str:
    """The algorithms in order of the sizes at which they are fastest."""
    order: list[str] = []
    for size in sorted(prices):
        best = min(prices[size], key=lambda name: prices[size][name])
        if not order or not order[-1].startswith(best + " "):
            order.append(f"{best} from {4 * size:,} B")
    return ", ".join(order)


def report(ranks: int) -> None:
    """Measure, fit on every other size, and print the other half."""
    times = measure(ranks)
    fitted, judged = SIZES[::2], SIZES[1::2]
    constants = fit(ranks, times, fitted)
    forecast = {size: {name: float(np.dot(features(name, ranks, size), constants)) for name in NAMES} for size in SIZES}
    errors, losses = [], []
    print(f"\n## {ranks} processes on {os.cpu_count()} cores\n")
    print("| bytes | " + " | ".join(f"{name}: forecast / measured µs" for name in NAMES), end="")
    print(" | decided by the library (gloo), µs | forecast's pick | best | pick over best |")
    print("|---:|" + "---:|" * (len(NAMES) + 1) + "---|---|---:|")
    for size in judged:
        measured = {name: times[name, size] for name in NAMES}
        errors += [abs(forecast[size][name] / measured[name] - 1) for name in NAMES]
        pick = min(NAMES, key=lambda name: forecast[size][name])
        best = min(NAMES, key=lambda name: measured[name])
        losses.append(measured[pick] / measured[best])
        cells = [f"{1e6 * forecast[size][name]:.0f} / {1e6 * measured[name]:.0f}" for name in NAMES]
        print(f"| {4 * size:,} | " + " | ".join(cells), end="")
        print(f" | {1e6 * times[LIBRARY, size]:.0f} | {pick} | {best} | {losses[-1]:.2f} |")
    named = dict(zip(("call_s", "round_s", "message_s", "s_per_byte", "host_s_per_byte"), constants, strict=True))
    middle, worst = 100 * statistics.median(errors), 100 * max(errors)
    print(f"\nMedian error on sizes not fitted {middle:.0f} %, worst {worst:.0f} %; ", end="")
    print(f"the pick costs {100 * (statistics.mean(losses) - 1):.0f} % over the best on average.")
    print(f"Fastest, forecast: {crossover({s: forecast[s] for s in judged})}.")
    print(f"Fastest, measured: {crossover({s: {n: times[n, s] for n in NAMES} for s in judged})}.")
    print("Constants: " + ", ".join(f"{name} {value:.3g}" for name, value in named.items()) + ".")


if __name__ == "__main__":
    print("# All-reduce algorithms over sockets: forecast on sizes that the fit did not see\n")
    print("Printed by `benchmarks/allreduce_algorithms.py`; a machine shared with other work, so expect noise.")
    for count in RANKS:
        report(count)
