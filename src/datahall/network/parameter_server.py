"""Parameter servers: what they are asked to do, the exact bytes they carry, and when they beat an all-reduce.

Rows of a table are dealt over servers (row modulo servers).  Workers push gradients and pull rows; `synchronous`
applies a step when all have pushed, bounded staleness lets a worker run ahead of the slowest by so many steps.
`execute_parameter_server` carries it out; the frame's size here is the one on its wire.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datahall.base.errors import UsageError
from datahall.base.formula import formula

Number = float | NDArray[np.float64]

FRAME_BYTES = 17  # kind 1, worker 4, clock 4, rows 8
ROW_NUMBER_BYTES = 8
VALUE_BYTES = 4  # fp32


@dataclass(frozen=True, slots=True)
class ServerPlan:
    """A table of `rows` x `width` fp32 values over `servers`; `staleness` 0 is synchronous."""

    rows: int
    width: int
    workers: int
    servers: int = 1
    staleness: int = 0

    def check(self) -> None:
        """UsageError unless every number makes sense."""
        if min(self.rows, self.width, self.workers, self.servers) < 1 or self.staleness < 0:
            raise UsageError(
                f"{self} is no parameter server.",
                where="network.parameter_server",
                hint="Rows, width, workers and servers are at least 1, staleness at least 0.",
            )


@dataclass(frozen=True, slots=True)
class Carried:
    """Bytes of one step at one server: what comes in from all workers and what goes out to them."""

    received_bytes: int
    sent_bytes: int


def rows_of_server(plan: ServerPlan, server: int) -> int:
    """How many of the table's rows live on a server."""
    return len(range(server, plan.rows, plan.servers))


def dense_step(plan: ServerPlan, server: int) -> Carried:
    """One step in which every worker pushes a gradient of the whole table and pulls all of it."""
    values = VALUE_BYTES * plan.width * rows_of_server(plan, server)
    one = Carried(2 * FRAME_BYTES + values, 2 * FRAME_BYTES + values)
    return Carried(plan.workers * one.received_bytes, plan.workers * one.sent_bytes)


def sparse_step(plan: ServerPlan, touched: list[int]) -> Carried:
    """One step at one server in which worker w pushes and pulls `touched[w]` rows of it."""
    total = sum(touched)
    values = VALUE_BYTES * plan.width * total
    frames = 2 * FRAME_BYTES * len(touched)
    return Carried(frames + 2 * ROW_NUMBER_BYTES * total + values, frames + values)


@formula(
    equation="t = 2 m + max(n (k (4 w + 16)) / s, n k 4 w / s) / B, k touched rows a worker, w values a row",
    source="our own: the servers' links carry all workers' rows; m a request and its answer",
    holds="rows spread evenly over servers, both directions at once, server arithmetic not the limit",
)
def server_step_s(
    touched_rows: Number, width: Number, workers: Number, servers: Number, message_s: Number, bytes_per_s: Number
) -> Number:
    """Seconds of one synchronous push and pull of so many rows a worker over links of so many bytes/s."""
    inward = workers * touched_rows * (VALUE_BYTES * width + 2 * ROW_NUMBER_BYTES) / servers
    return 2.0 * message_s + 2.0 * inward / bytes_per_s


@formula(
    equation="p_w(c) = e_w(c-1) + work_w(c) + x/2, e_w(c) = max(p_w(c), max_v p_v(c-s)) + x/2",
    source="our own: the rule of bounded staleness (Ho et al. 2013, stale synchronous parallel) played step by step",
    holds="pushes and pulls of x seconds together whoever else asks; work known",
)
def uneven_run_s(work_s: NDArray[np.float64], exchange_s: float, staleness: int) -> float:
    """Seconds until the last of the workers has done all its steps; `work_s` has a row a worker, a column a step."""
    workers, steps = work_s.shape
    pushed = np.zeros((workers, steps))
    ended = np.zeros(workers)
    for step in range(steps):
        pushed[:, step] = ended + work_s[:, step] + exchange_s / 2
        behind = pushed[:, step - staleness].max() if step >= staleness else 0.0
        ended = np.maximum(pushed[:, step], behind) + exchange_s / 2
    return float(ended.max())


@formula(
    equation="k* = 2 (n-1)/n S / B against the servers' n k (4 w + 16) 2 / (s B)",
    source="our own: equate the two, latencies left out",
    holds="the all-reduce moves the dense gradient",
)
def break_even_rows(rows: Number, width: Number, workers: Number, servers: Number) -> Number:
    """Touched rows a worker below which servers move less through their busiest link than a dense ring all-reduce."""
    ring = 2.0 * (workers - 1.0) / workers * rows * width * VALUE_BYTES
    return ring * servers / (2.0 * workers * (VALUE_BYTES * width + 2 * ROW_NUMBER_BYTES))
