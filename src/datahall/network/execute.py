"""Carry an all-reduce schedule out between processes: over torch.distributed, or over plain TCP sockets.

Both play the same value that `algorithms.interpret` checks.  The counts that they return are what really was handed
over.  Nothing is listened to beyond the address that the caller gives (loopback by default), nothing is pickled.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from datahall.base.errors import WorldFailed
from datahall.network.algorithms import Message, Schedule, chunk_bounds, messages

LOOPBACK = "127.0.0.1"
CONNECT_TIMEOUT_S = 60.0


class Transport(Protocol):
    """Moves byte pieces of one round to and from peers; `exchange` returns when all of them are there."""

    def exchange(self, out: list[tuple[int, memoryview]], into: list[tuple[int, memoryview]]) -> None:
        """Send every (peer, bytes) of `out` and fill every (peer, bytes) of `into`."""
        ...


@dataclass(frozen=True, slots=True)
class Traffic:
    """What one rank handed over in one all-reduce."""

    sent_bytes: int
    messages: int


def all_reduce(values: NDArray[np.float32], rank: int, plan: Schedule, transport: Transport) -> Traffic:
    """Sum `values` over all ranks in place as `plan` says.  Every rank calls it with an array of equal length."""
    bounds = chunk_bounds(values.size, plan.chunks)
    sent_bytes = sent = 0
    for mine in rounds_of(plan, rank):
        outgoing = [m for m in mine if m.source == rank]
        incoming = [m for m in mine if m.target == rank]
        pieces = [values[bounds[m.first] : bounds[m.last + 1]] for m in outgoing]
        buffers = [np.empty(bounds[m.last + 1] - bounds[m.first], dtype=np.float32) for m in incoming]
        transport.exchange(
            [(m.target, piece.view(np.uint8).data) for m, piece in zip(outgoing, pieces, strict=True) if piece.size],
            [
                (m.source, buffer.view(np.uint8).data)
                for m, buffer in zip(incoming, buffers, strict=True)
                if buffer.size
            ],
        )
        for message, buffer in zip(incoming, buffers, strict=True):
            place = values[bounds[message.first] : bounds[message.last + 1]]
            if message.reduce:
                place += buffer
            else:
                place[:] = buffer
        sent_bytes += sum(piece.nbytes for piece in pieces)
        sent += sum(1 for piece in pieces if piece.size)
    return Traffic(sent_bytes, sent)


def rounds_of(plan: Schedule, rank: int) -> list[list[Message]]:
    """The messages that `rank` sends or receives, round by round."""
    rounds: dict[int, list[Message]] = {}
    for message in messages(plan):
        if rank in (message.source, message.target):
            rounds.setdefault(message.step, []).append(message)
    return [rounds[step] for step in sorted(rounds)]


class TorchTransport:
    """Rounds over torch.distributed's send and receive (gloo on CPU); the process group must be initialised."""

    def __init__(self, group: Any = None) -> None:
        import torch.distributed

        self._distributed: Any = torch.distributed
        self._group = group

    def exchange(self, out: list[tuple[int, memoryview]], into: list[tuple[int, memoryview]]) -> None:
        """One round by isend and irecv."""
        import torch

        waits: list[Any] = []
        for peer, piece in into:
            waits.append(self._distributed.irecv(torch.frombuffer(piece, dtype=torch.uint8), peer, self._group))
        for peer, piece in out:
            waits.append(self._distributed.isend(torch.frombuffer(piece, dtype=torch.uint8), peer, self._group))
        for wait in waits:
            wait.wait()


class SocketTransport:
    """Rounds over one TCP connection between each two ranks, both directions at once."""

    def __init__(self, peers: dict[int, socket.socket]) -> None:
        self._peers = peers
        for connection in peers.values():
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setblocking(False)

    def exchange(self, out: list[tuple[int, memoryview]], into: list[tuple[int, memoryview]]) -> None:
        """One round; pieces to or from the same peer travel in the order given."""
        sending = _queues(out)
        receiving = _queues(into)
        with selectors.DefaultSelector() as selector:
            for peer in sorted({*sending, *receiving}):
                selector.register(self._peers[peer], _wanted(peer, sending, receiving), peer)
            while selector.get_map():
                for key, events in selector.select():
                    peer = key.data
                    if events & selectors.EVENT_WRITE:
                        _push(self._peers[peer], peer, sending)
                    if events & selectors.EVENT_READ:
                        _pull(self._peers[peer], peer, receiving)
                    wanted = _wanted(peer, sending, receiving)
                    if not wanted:
                        selector.unregister(key.fileobj)
                    elif wanted != key.events:
                        selector.modify(key.fileobj, wanted, peer)

    def close(self) -> None:
        """Close the connections."""
        for connection in self._peers.values():
            connection.close()


def socket_mesh(rank: int, addresses: Sequence[tuple[str, int]], listener: socket.socket) -> SocketTransport:
    """Connect every two ranks: `listener` is this rank's listening socket, at `addresses[rank]`.

    Each rank calls the lower ones, and says who it is in four bytes.  WorldFailed when one does not answer in time.
    """
    peers: dict[int, socket.socket] = {}
    for lower in range(rank):
        connection = _connect(addresses[lower])
        connection.sendall(rank.to_bytes(4, "big"))
        peers[lower] = connection
    listener.settimeout(CONNECT_TIMEOUT_S)
    for _ in range(rank + 1, len(addresses)):
        try:
            connection, _ = listener.accept()
        except TimeoutError as error:
            raise WorldFailed(f"rank {rank} waited {CONNECT_TIMEOUT_S:.0f} s for a peer that did not call.") from error
        peers[int.from_bytes(_exactly(connection, 4), "big")] = connection
    return SocketTransport(peers)


def listen(host: str = LOOPBACK, port: int = 0) -> socket.socket:
    """A listening socket on loopback unless the caller names another address; port 0 takes a free one."""
    return socket.create_server((host, port), backlog=128)


def _connect(address: tuple[str, int]) -> socket.socket:
    deadline = time.monotonic() + CONNECT_TIMEOUT_S
    while True:
        try:
            connection = socket.create_connection(address, timeout=CONNECT_TIMEOUT_S)
        except OSError as error:
            if time.monotonic() > deadline:
                raise WorldFailed(f"no rank answers at {address[0]}:{address[1]}: {error}.") from error
            time.sleep(0.05)
        else:
            return connection


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            raise WorldFailed("a rank closed its connection before it said who it is.")
        data += piece
    return data


def _queues(pieces: list[tuple[int, memoryview]]) -> dict[int, list[memoryview]]:
    queues: dict[int, list[memoryview]] = {}
    for peer, piece in pieces:
        queues.setdefault(peer, []).append(piece)
    return queues


def _wanted(peer: int, sending: dict[int, list[memoryview]], receiving: dict[int, list[memoryview]]) -> int:
    write = selectors.EVENT_WRITE if sending.get(peer) else 0
    return write | (selectors.EVENT_READ if receiving.get(peer) else 0)


def _push(connection: socket.socket, peer: int, sending: dict[int, list[memoryview]]) -> None:
    queue = sending.get(peer)
    if queue:
        _advance(queue, connection.send(queue[0]))


def _pull(connection: socket.socket, peer: int, receiving: dict[int, list[memoryview]]) -> None:
    queue = receiving.get(peer)
    if queue:
        count = connection.recv_into(queue[0])
        if not count:
            raise WorldFailed(f"rank {peer} closed its connection in the middle of an all-reduce.")
        _advance(queue, count)


def _advance(queue: list[memoryview], count: int) -> None:
    if count == len(queue[0]):
        queue.pop(0)
    else:
        queue[0] = queue[0][count:]
