"""The schedules carried out between processes: right sums and exactly the counted bytes."""

import multiprocessing
import tempfile
from multiprocessing.connection import Connection

import numpy as np
import pytest

from datahall.network.algorithms import bytes_sent, schedule
from datahall.network.execute import TorchTransport, all_reduce, listen, socket_mesh

CASES = [("ring", 1), ("tree", 1), ("doubling", 1), ("halving-doubling", 1), ("hierarchical", 2)]
ELEMENTS = (1, 5, 1003)


def play(rank: int, ranks: int, over: str, store: str, pipe: Connection) -> None:
    """One process: every algorithm and size, sums and bytes back through `pipe`."""
    if over == "sockets":
        listener = listen()
        pipe.send(listener.getsockname())
        transport = socket_mesh(rank, pipe.recv(), listener)
    else:
        import torch.distributed as distributed

        distributed.init_process_group("gloo", f"file://{store}", rank=rank, world_size=ranks)
        transport = TorchTransport()
    answers = []
    for name, per_host in CASES:
        for elements in ELEMENTS:
            values = np.arange(elements, dtype=np.float32) * (rank + 1)
            traffic = all_reduce(values, rank, schedule(name, ranks, per_host), transport)
            answers.append((values.tolist(), traffic.sent_bytes))
    pipe.send(answers)


@pytest.mark.parametrize(("over", "ranks"), [("sockets", 4), ("sockets", 2), ("torch", 4)])
def test_sums_and_bytes(over: str, ranks: int) -> None:
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    with tempfile.TemporaryDirectory() as folder:
        for rank in range(ranks):
            ours, theirs = context.Pipe()
            processes.append(context.Process(target=play, args=(rank, ranks, over, f"{folder}/store", theirs)))
            processes[-1].start()
            pipes.append(ours)
        if over == "sockets":
            addresses = [pipe.recv() for pipe in pipes]
            for pipe in pipes:
                pipe.send(addresses)
        answers = [pipe.recv() for pipe in pipes]
        for process in processes:
            process.join(60)
    for rank in range(ranks):
        told = iter(answers[rank])
        for name, per_host in CASES:
            for elements in ELEMENTS:
                values, sent = next(told)
                assert values == (np.arange(elements) * (ranks * (ranks + 1) // 2)).tolist()
                assert sent == bytes_sent(schedule(name, ranks, per_host), elements)[rank]
