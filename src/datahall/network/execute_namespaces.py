"""Hosts on one machine: network namespaces joined by links of a chosen rate, delay, jitter and loss.

Rate is shaped by tc (token bucket), delay made by `execute_forwarder` in a namespace between the hosts.  All hosts
share this machine's cores and memory; only the network is separate.  Linux, root, iproute2 and ethtool are needed.
Names are unique, and only what was created here is removed.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from datahall.base.errors import UsageError, WorldFailed

INTERFACE = "eth0"
NO_SHAPING_BITS_PER_S = float("inf")
OFFLOADS = ("tso", "gso", "gro", "tx", "rx")
QUEUE_BYTES = 4 * 2**20  # as much as one connection has in flight: shaping delays and does not drop


@dataclass(frozen=True, slots=True)
class LinkShape:
    """One link from a host to the others: bits/s in each direction, seconds there and back, jitter one way, loss.

    The rate counts Ethernet frames without preamble and checksum, as interface counters do.
    """

    bits_per_s: float
    round_trip_s: float = 0.0
    jitter_s: float = 0.0
    loss_share: float = 0.0

    @property
    def needs_forwarder(self) -> bool:
        """Whether a rate alone does not make this link."""
        return bool(self.round_trip_s or self.jitter_s or self.loss_share)


@dataclass(frozen=True, slots=True)
class Counters:
    """Bytes that an interface has counted in both directions."""

    sent_bytes: int
    received_bytes: int


@dataclass(frozen=True, slots=True)
class Hosts:
    """Namespaces that can reach each other over shaped links."""

    prefix: str
    count: int
    forwarder: subprocess.Popen[bytes] | None

    def name(self, host: int) -> str:
        """The namespace of a host."""
        return f"{self.prefix}h{host}"

    def address(self, host: int) -> str:
        """The address of a host's only interface."""
        return f"10.77.0.{host + 1}"

    def inside(self, host: int, command: Sequence[str]) -> list[str]:
        """The command line that runs `command` on a host."""
        return ["ip", "netns", "exec", self.name(host), *command]

    def counters(self, host: int) -> Counters:
        """What the host's interface has counted so far."""
        folder = f"/sys/class/net/{INTERFACE}/statistics"
        names = ("tx_bytes", "rx_bytes")
        text = _run(*self.inside(host, ["cat", *(f"{folder}/{name}" for name in names)]))
        return Counters(*(int(line) for line in text.split()))

    def forwarder_cpu_s(self) -> float:
        """CPU seconds that the forwarder has used; 0 when the link needs none."""
        if self.forwarder is None:
            return 0.0
        with open(f"/proc/{self.forwarder.pid}/stat", encoding="ascii") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def missing() -> str:
    """Why this machine cannot make hosts; empty when it can."""
    if sys.platform != "linux":
        return "network namespaces exist on Linux only"
    if os.geteuid() != 0:
        return "making network namespaces needs root"
    lacking = [tool for tool in ("ip", "tc", "ethtool") if shutil.which(tool) is None]
    return f"missing programs: {', '.join(lacking)} (Debian packages iproute2 and ethtool)" if lacking else ""


@contextmanager
def hosts(count: int, shape: LinkShape) -> Iterator[Hosts]:
    """Hosts 0 to count - 1, each on a link of this shape; removed when the block ends.

    UsageError when this machine cannot make them; WorldFailed when a step of making them fails.
    """
    reason = missing()
    if reason:
        raise UsageError(f"{reason}.", where="slow links")
    prefix = f"dh{secrets.token_hex(3)}"
    middle = f"{prefix}m"
    made: list[str] = []
    forwarder: subprocess.Popen[bytes] | None = None
    try:
        for name in (middle, *(f"{prefix}h{host}" for host in range(count))):
            _run("ip", "netns", "add", name)
            made.append(name)
            _run("ip", "netns", "exec", name, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
            _run("ip", "-n", name, "link", "set", "lo", "up")
        for host in range(count):
            _connect(middle, f"{prefix}h{host}", host, shape, both_ends=count > 2)
        forwarder = _join(middle, [f"p{host}" for host in range(count)], shape)
        yield Hosts(prefix, count, forwarder)
    finally:
        if forwarder is not None:
            forwarder.terminate()
            forwarder.wait(10)
        for name in made:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def _connect(middle: str, host: str, index: int, shape: LinkShape, *, both_ends: bool) -> None:
    """A veth pair from a host to the middle, addressed, without off-loads, shaped at its sending ends."""
    port = f"p{index}"
    _run("ip", "-n", host, "link", "add", INTERFACE, "type", "veth", "peer", "name", port, "netns", middle)
    _run("ip", "-n", host, "addr", "add", f"10.77.0.{index + 1}/24", "dev", INTERFACE)
    for namespace, interface in ((host, INTERFACE), (middle, port)):
        switches = [word for name in OFFLOADS for word in (name, "off")]
        _run("ip", "netns", "exec", namespace, "ethtool", "-K", interface, *switches)
        _run("ip", "-n", namespace, "link", "set", interface, "up")
    _run("ip", "netns", "exec", host, "sysctl", "-qw", "net.ipv4.tcp_slow_start_after_idle=0")
    if shape.bits_per_s != NO_SHAPING_BITS_PER_S:
        for namespace, interface in ((host, INTERFACE), (middle, port))[: 2 if both_ends else 1]:
            _shape(namespace, interface, shape.bits_per_s)


def _shape(namespace: str, interface: str, bits_per_s: float) -> None:
    burst = max(16 * 1514, round(bits_per_s / 8 * 1e-3))  # a millisecond of the rate
    rate = ["rate", f"{round(bits_per_s)}bit", "burst", str(burst), "limit", str(QUEUE_BYTES)]
    _run("tc", "-n", namespace, "qdisc", "add", "dev", interface, "root", "tbf", *rate)


def _join(middle: str, ports: list[str], shape: LinkShape) -> subprocess.Popen[bytes] | None:
    """Join the ports in the middle: by the kernel's bridge, or by our forwarder where there is more than a rate."""
    if not shape.needs_forwarder:
        _run("ip", "-n", middle, "link", "add", "bridge0", "type", "bridge")
        for port in ports:
            _run("ip", "-n", middle, "link", "set", port, "master", "bridge0")
        _run("ip", "-n", middle, "link", "set", "bridge0", "up")
        return None
    knobs = ["--delay-s", str(shape.round_trip_s / 2), "--jitter-s", str(shape.jitter_s)]
    program = [sys.executable, "-m", "datahall.network.execute_forwarder", *ports, *knobs]
    command = ["ip", "netns", "exec", middle, *program, "--loss-share", str(shape.loss_share)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    stdout = process.stdout
    if stdout is None or stdout.readline().strip() != b"forwarding":
        process.kill()
        error = process.communicate()[1].decode(errors="replace")
        raise WorldFailed(f"the forwarder between the hosts did not start: {error.strip()[-300:]}")
    return process


def _run(*command: str) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise WorldFailed(f"`{' '.join(command)}` failed: {done.stderr.strip()[-300:]}", where="slow links")
    return done.stdout
