"""Hosts as namespaces: what goes over the link is counted, delayed and lost as asked, and nothing is left behind."""

import subprocess
import sys
import time

import pytest

from datahall.network.execute_namespaces import LinkShape, hosts, missing
from datahall.network.links_estimate import wire_bytes

pytestmark = [pytest.mark.system, pytest.mark.skipif(bool(missing()), reason=missing())]

RECEIVER = """
import socket, sys
with socket.create_server((sys.argv[1], 7001)) as server:
    print("listening", flush=True)
    connection = server.accept()[0]
    total = 0
    while piece := connection.recv(65536):
        total += len(piece)
    connection.sendall(total.to_bytes(8, "big"))
"""
SENDER = """
import socket, sys
connection = socket.create_connection((sys.argv[1], 7001))
connection.sendall(bytes(int(sys.argv[2])))
connection.shutdown(socket.SHUT_WR)
assert int.from_bytes(connection.recv(8), "big") == int(sys.argv[2])
"""
PAYLOAD = 2_000_000


def namespaces() -> set[str]:
    listed = subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True).stdout
    return {line.split()[0] for line in listed.splitlines()}


@pytest.mark.parametrize(
    "shape", [LinkShape(1e9), LinkShape(100e6, 0.01), LinkShape(100e6, 0.01, jitter_s=0.002, loss_share=0.005)]
)
def test_a_transfer_arrives_and_its_headers_are_those_of_the_model(shape: LinkShape) -> None:
    with hosts(2, shape) as made:
        python = [sys.executable, "-c"]
        receiver = subprocess.Popen(
            made.inside(1, [*python, RECEIVER, made.address(1)]), stdout=subprocess.PIPE, text=True
        )
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == "listening\n"
        before = made.counters(0)
        start_s = time.monotonic()
        subprocess.run(made.inside(0, [*python, SENDER, made.address(1), str(PAYLOAD)]), check=True)
        took_s = time.monotonic() - start_s
        receiver.wait(30)
        sent = made.counters(0).sent_bytes - before.sent_bytes
        used_s = made.forwarder_cpu_s()
        inside = made.name(0)
    assert took_s >= PAYLOAD * 8 / shape.bits_per_s * 0.99 - 0.01  # a token bucket lets one burst pass at once
    expected = wire_bytes(PAYLOAD, 0.0, 0)
    again = 1 + 4 * shape.loss_share  # lost segments are sent again, and answers to them are longer
    assert expected * 0.99 < sent < expected * again * 1.01
    assert (used_s > 0) == shape.needs_forwarder
    assert inside not in namespaces()


def fail_on_three_hosts(names: set[str]) -> None:
    with hosts(3, LinkShape(1e8, 0.001)) as made:
        names.update(made.name(host) for host in range(3))
        raise RuntimeError(f"on purpose, while there are {len(names & namespaces())}")


def test_hosts_are_removed_when_the_block_fails() -> None:
    names: set[str] = set()
    with pytest.raises(RuntimeError, match="while there are 3"):
        fail_on_three_hosts(names)
    assert not names & namespaces()
