"""A parameter server over TCP: journal before acknowledgement, synchronous or with bounded staleness.

Frames are a fixed header and raw numbers; nothing is pickled and it listens on loopback only unless told otherwise.
A push is acknowledged when it is on disk; pushed again after a lost acknowledgement it counts once.  There is no
authentication: do not let it listen on a network that others share.
"""

from __future__ import annotations

import argparse
import os
import socket
import struct
import threading
import time
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datahall.base.errors import WorldFailed
from datahall.network.parameter_server import ROW_NUMBER_BYTES, VALUE_BYTES, ServerPlan, rows_of_server

HEADER = struct.Struct("<BIIQ")  # kind, worker, clock, rows
RECORD = struct.Struct("<II")  # length, checksum
PUSH_ROWS, PULL_ROWS, PUSH_ALL, PULL_ALL, DONE, ROWS = range(1, 7)
RETRY_S = 30.0

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]


class Table:
    """One server's rows and the journal behind them; threads may call `push` and `pull`."""

    def __init__(self, plan: ServerPlan, server: int, rate: float, journal: Path) -> None:
        self.plan = plan
        self.rate = rate
        self.values: Floats = np.zeros((rows_of_server(plan, server), plan.width), dtype=np.float32)
        self.clocks = [0] * plan.workers  # the last step that each worker has pushed
        self.waiting: dict[int, dict[int, tuple[Rows | None, Floats]]] = {}
        self.changed = threading.Condition()
        self.journal_path = journal
        self.received_bytes = self.sent_bytes = 0

    def recover(self) -> int:
        """Apply what the journal holds, cut off a torn end; how many pushes it held."""
        count = good = 0
        data = self.journal_path.read_bytes() if self.journal_path.exists() else b""
        while good + RECORD.size <= len(data):
            length, checksum = RECORD.unpack_from(data, good)
            body = data[good + RECORD.size : good + RECORD.size + length]
            if len(body) < length or zlib.crc32(body) != checksum:
                break
            self._take(body)
            good += RECORD.size + length
            count += 1
        if good < len(data):
            os.truncate(self.journal_path, good)
        return count

    def push(self, body: bytes) -> None:
        """Journal one push, then take it; a push that was taken before is left out."""
        _, worker, clock, _ = HEADER.unpack_from(body)
        with self.changed:
            if clock <= self.clocks[worker]:
                return
            self._write_down(body)
            self._take(body)
            self.changed.notify_all()

    def pull(self, rows: Rows | None, clock: int) -> bytes:
        """The rows (all, if None) once every worker has pushed step `clock` less the staleness."""
        with self.changed:
            self.changed.wait_for(lambda: min(self.clocks) >= clock - self.plan.staleness)
            return (self.values if rows is None else self.values[rows]).tobytes()

    def _write_down(self, body: bytes) -> None:
        """Append one record and wait for the disk; a record that did not fit is cut off again."""
        with self.journal_path.open("ab") as file:
            before = file.tell()
            try:
                file.write(RECORD.pack(len(body), zlib.crc32(body)) + body)
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                os.truncate(self.journal_path, before)
                raise

    def _take(self, body: bytes) -> None:
        kind, worker, clock, count = HEADER.unpack_from(body)
        rows, start = None, HEADER.size
        if kind == PUSH_ROWS:
            rows = np.frombuffer(body, dtype="<i8", count=count, offset=start)
            start += ROW_NUMBER_BYTES * count
        gradient = np.frombuffer(body, dtype="<f4", offset=start).reshape(count, self.plan.width)
        self.clocks[worker] = clock
        if self.plan.staleness:
            self._apply(rows, gradient, 1)
            return
        step = self.waiting.setdefault(clock, {})
        step[worker] = (rows, gradient)
        if len(step) == self.plan.workers:  # in the order of workers, so that arrival does not change the sum
            for pushed in sorted(step):
                self._apply(*step[pushed], self.plan.workers)
            del self.waiting[clock]

    def _apply(self, rows: Rows | None, gradient: Floats, share: int) -> None:
        change = (np.float32(self.rate) / np.float32(share)) * gradient
        if rows is None:
            self.values -= change
        else:
            np.subtract.at(self.values, rows, change)


def serve(table: Table, listener: socket.socket) -> None:
    """Answer workers until the process ends; one thread a connection."""
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_answer, args=(table, connection), daemon=True).start()


class Client:
    """A worker's side: pushes gradients, pulls rows, over all servers; counts the bytes of its frames."""

    def __init__(self, plan: ServerPlan, worker: int, addresses: list[tuple[str, int]]) -> None:
        self.plan = plan
        self.worker = worker
        self.addresses = addresses
        self.sent_bytes = [0] * plan.servers
        self.received_bytes = [0] * plan.servers
        self._connections: dict[int, socket.socket] = {}

    def push(self, clock: int, gradient: Floats, rows: Rows | None = None) -> None:
        """Push step `clock` (from 1); returns when every server has it on disk.  Repeated rows add up."""
        for server in range(self.plan.servers):
            mine, part = self._part(server, rows)
            kind = PUSH_ALL if rows is None else PUSH_ROWS
            values = np.ascontiguousarray(gradient[part], dtype="<f4")
            numbers = b"" if mine is None else mine.astype("<i8").tobytes()
            self._ask(server, HEADER.pack(kind, self.worker, clock, len(values)) + numbers + values.tobytes(), 0)

    def pull(self, clock: int, rows: Rows | None = None) -> Floats:
        """The rows after step `clock`, or after at least `clock` less the staleness of every worker."""
        count = self.plan.rows if rows is None else len(rows)
        result: Floats = np.empty((count, self.plan.width), dtype=np.float32)
        for server in range(self.plan.servers):
            mine, part = self._part(server, rows)
            held = rows_of_server(self.plan, server) if mine is None else len(mine)
            kind = PULL_ALL if rows is None else PULL_ROWS
            numbers = b"" if mine is None else mine.astype("<i8").tobytes()
            frame = HEADER.pack(kind, self.worker, clock, held) + numbers
            body = self._ask(server, frame, VALUE_BYTES * self.plan.width * held)
            result[part] = np.frombuffer(body, dtype="<f4").reshape(held, self.plan.width)
        return result

    def close(self) -> None:
        """Close the connections."""
        for connection in self._connections.values():
            connection.close()

    def _part(self, server: int, rows: Rows | None) -> tuple[Rows | None, slice | NDArray[np.bool_]]:
        """The server's own row numbers, and where they stand in the caller's array."""
        if rows is None:
            return None, slice(server, None, self.plan.servers)
        here = rows % self.plan.servers == server
        return rows[here] // self.plan.servers, here

    def _ask(self, server: int, frame: bytes, answer_bytes: int) -> bytes:
        deadline = time.monotonic() + RETRY_S
        while True:
            try:
                connection = self._connections.get(server) or self._connect(server)
                connection.sendall(frame)
                answer = read_exactly(connection, HEADER.size + answer_bytes)
            except OSError as error:
                self._connections.pop(server, None)
                if time.monotonic() > deadline:
                    raise WorldFailed(f"parameter server {server} has not answered for {RETRY_S:.0f} s.") from error
                time.sleep(0.05)
            else:
                self.sent_bytes[server] += len(frame)
                self.received_bytes[server] += len(answer)
                return answer[HEADER.size :]

    def _connect(self, server: int) -> socket.socket:
        connection = socket.create_connection(self.addresses[server], timeout=RETRY_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connections[server] = connection
        return connection


def read_exactly(connection: socket.socket, count: int) -> bytes:
    """So many bytes, or ConnectionError when the other side closes before."""
    data = bytearray(count)
    view, held = memoryview(data), 0
    while held < count:
        piece = connection.recv_into(view[held:])
        if not piece:
            raise ConnectionError("closed")
        held += piece
    return bytes(data)


def main(arguments: list[str] | None = None) -> None:
    """Run one server as a process; prints its port when it is ready."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("rows", "width", "workers", "servers", "staleness", "server", "port"):
        parser.add_argument(f"--{name}", type=int, default=0)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    chosen = parser.parse_args(arguments)
    plan = ServerPlan(chosen.rows, chosen.width, chosen.workers, chosen.servers, chosen.staleness)
    plan.check()
    table = Table(plan, chosen.server, chosen.rate, chosen.journal)
    table.recover()
    listener = socket.create_server((chosen.host, chosen.port), backlog=128)
    print(listener.getsockname()[1], flush=True)
    serve(table, listener)


def _answer(table: Table, connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection:
        while True:
            try:
                frame = _read_frame(table, connection)
                kind, worker, clock, count = HEADER.unpack_from(frame)
                answer = b""
                if kind in (PUSH_ROWS, PUSH_ALL):
                    table.push(frame)
                else:
                    rows = np.frombuffer(frame, dtype="<i8", offset=HEADER.size) if kind == PULL_ROWS else None
                    answer = table.pull(rows, clock)
                reply = HEADER.pack(ROWS if answer else DONE, worker, clock, count) + answer
                connection.sendall(reply)
            except OSError:
                return
            with table.changed:
                table.received_bytes += len(frame)
                table.sent_bytes += len(reply)


def _read_frame(table: Table, connection: socket.socket) -> bytes:
    header = read_exactly(connection, HEADER.size)
    kind, worker, _, count = HEADER.unpack(header)
    if worker >= table.plan.workers or count > 2**40 or kind not in (PUSH_ROWS, PULL_ROWS, PUSH_ALL, PULL_ALL):
        raise ConnectionError("not a frame of a worker")
    body = ROW_NUMBER_BYTES * count if kind in (PUSH_ROWS, PULL_ROWS) else 0
    body += VALUE_BYTES * table.plan.width * count if kind in (PUSH_ROWS, PUSH_ALL) else 0
    return header + read_exactly(connection, body)


if __name__ == "__main__":
    main()
