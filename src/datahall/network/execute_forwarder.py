"""A switch with a delay: takes frames from some interfaces and hands them on later.  Run as a program in a namespace.

It exists because not every kernel has netem.  Order is kept per output, also under jitter.  It shapes no rate (tc does)
and it needs segmentation and checksum off-loads to be off on the hosts.  Linux only, needs CAP_NET_RAW.
"""

from __future__ import annotations

import argparse
import random
import select
import socket
import sys
import time
from collections import deque
from dataclasses import dataclass, field

ETH_P_ALL = 0x0003
SOL_PACKET, PACKET_IGNORE_OUTGOING = 263, 23
SO_RCVBUFFORCE = 33
FRAME_BYTES = 2048
RECEIVE_BUFFER_BYTES = 16 * 2**20
BATCH = 64  # frames taken from one interface before the others get their turn


@dataclass(slots=True)
class Port:
    """One interface and the frames that wait to leave by it, with the time of leaving."""

    socket: socket.socket
    waiting: deque[tuple[float, bytes]] = field(default_factory=deque[tuple[float, bytes]])
    last_s: float = 0.0


def main(arguments: list[str] | None = None) -> None:
    """Forward until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("interfaces", nargs="+")
    parser.add_argument("--delay-s", type=float, required=True, help="one way")
    parser.add_argument("--jitter-s", type=float, default=0.0, help="added delay, uniform from 0 to this")
    parser.add_argument("--loss-share", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    ports = [Port(open_port(name)) for name in chosen.interfaces]
    print("forwarding", flush=True)
    try:
        forward(ports, chosen.delay_s, chosen.jitter_s, chosen.loss_share, random.Random(chosen.seed))
    except KeyboardInterrupt:
        sys.exit(130)


def open_port(interface: str) -> socket.socket:
    """A packet socket on an interface that does not hear what it sends itself."""
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    opened.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    opened.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)
    opened.bind((interface, 0))
    opened.setblocking(False)
    return opened


def forward(ports: list[Port], delay_s: float, jitter_s: float, loss_share: float, chance: random.Random) -> None:
    """Hand frames on, each to the port where its target lives, or to all others while that is unknown."""
    poll = select.poll()
    by_descriptor = {port.socket.fileno(): port for port in ports}
    for descriptor in by_descriptor:
        poll.register(descriptor, select.POLLIN)
    home: dict[bytes, Port] = {}
    while True:
        for descriptor, _ in poll.poll(_milliseconds_to_next(ports)):
            source = by_descriptor[descriptor]
            now = time.monotonic()
            for frame in _take(source.socket):
                home[frame[6:12]] = source
                if loss_share and chance.random() < loss_share:
                    continue
                leave = now + delay_s + (chance.random() * jitter_s if jitter_s else 0.0)
                target = home.get(frame[0:6])
                for port in [target] if target is not None else [p for p in ports if p is not source]:
                    port.last_s = max(port.last_s, leave)
                    port.waiting.append((port.last_s, frame))
        _release(ports)


def _take(opened: socket.socket) -> list[bytes]:
    frames: list[bytes] = []
    for _ in range(BATCH):
        try:
            frames.append(opened.recv(FRAME_BYTES))
        except BlockingIOError:
            break
    return frames


def _release(ports: list[Port]) -> None:
    now = time.monotonic()
    for port in ports:
        waiting = port.waiting
        while waiting and waiting[0][0] <= now:
            try:
                port.socket.send(waiting[0][1])
            except BlockingIOError:
                break
            except OSError:  # the interface is down or full: a switch drops
                pass
            waiting.popleft()


def _milliseconds_to_next(ports: list[Port]) -> float | None:
    leaving = [port.waiting[0][0] for port in ports if port.waiting]
    if not leaving:
        return None
    return max(0.0, (min(leaving) - time.monotonic()) * 1e3)


if __name__ == "__main__":
    main()
