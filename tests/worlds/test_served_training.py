"""The recommender trained over parameter servers: the weights of one process, and the bytes that were counted on."""

import socket
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_cases import SHAPE, small_case

from datahall.network.execute_parameter_server import Client, Table, serve
from datahall.network.execute_served import Served, served_plan
from datahall.network.parameter_server import sparse_step
from datahall.workloads import entry

RATE, STEPS, HALF = 0.5, 6, 16
TABLES = ("users.weight", "items.weight")


@pytest.fixture(scope="module")
def case():
    return small_case(replace(SHAPE, vocab=500, hidden=8, ffn=16), entry="datahall.workloads.recommender:build")


def batch(data, step, worker):
    first = (2 * step + worker) * HALF
    return data.batch(range(first, first + HALF))


def worker(workload, data, number, plan, addresses, told):
    model, client = workload.model, Client(plan, number, addresses)
    served = Served(model, TABLES, client)
    served.fill(RATE)
    filled = [list(client.sent_bytes), list(client.received_bytes)]
    rows = []
    for step in range(STEPS):
        pairs, clicked = batch(data, step, number)
        served.pull({"users.weight": pairs[:, 0], "items.weight": pairs[:, 1]})
        rows.append(served.row_numbers())
        workload.loss(model, (pairs, clicked)).backward()
        served.push()
    served.pull({name: torch.arange(500) for name in TABLES})
    told[number] = (model, filled, rows, client)


@pytest.mark.parametrize("servers", [1, 2])
def test_two_workers_over_servers_train_what_one_process_trains(case, tmp_path, servers):
    plan = served_plan(entry.build(case).model, TABLES, workers=2, servers=servers)
    addresses = []
    for server in range(servers):
        listener = socket.create_server(("127.0.0.1", 0))
        table = Table(plan, server, RATE, tmp_path / f"{server}.journal")
        threading.Thread(target=serve, args=(table, listener), daemon=True).start()
        addresses.append(listener.getsockname())
    told = {}
    loads = [entry.build(replace(case, application=replace(case.application, seed=seed))) for seed in (0, 1)]
    both = [
        threading.Thread(target=worker, args=(loads[at], loads[0].data, at, plan, addresses, told)) for at in range(2)
    ]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join(30)
    alone = entry.build(case)
    optimiser = torch.optim.SGD(alone.model.parameters(), lr=RATE)
    for step in range(STEPS):
        parts = [batch(alone.data, step, number) for number in range(2)]
        optimiser.zero_grad()
        alone.loss(alone.model, tuple(torch.cat(pair) for pair in zip(*parts, strict=True))).backward()
        optimiser.step()
    for number in range(2):
        for mine, theirs in zip(told[number][0].parameters(), alone.model.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)
    _bytes_are_those_of_the_formula(plan, told)


def _bytes_are_those_of_the_formula(plan, told):
    """Over all steps: rows pushed and pulled at each server, and the last pull of everything."""
    for server in range(plan.servers):
        sent = received = 0
        for step in range(STEPS):
            touched = [int((told[number][2][step] % plan.servers == server).sum()) for number in range(2)]
            carried = sparse_step(plan, touched)
            sent, received = sent + carried.received_bytes, received + carried.sent_bytes
        for number in range(2):
            filled = told[number][1]
            last = int((np.arange(plan.rows) % plan.servers == server).sum())
            sent += filled[0][server] + 17 + 8 * last
            received += filled[1][server] + 17 + 4 * plan.width * last
        assert sum(told[number][3].sent_bytes[server] for number in range(2)) == sent
        assert sum(told[number][3].received_bytes[server] for number in range(2)) == received
