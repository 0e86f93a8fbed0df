"""A network of its own for workers whose engine would listen on every interface: nothing in it but 127.0.0.1.

TensorFlow's workers open a port on every interface that obeys anybody who connects.  In a network namespace nobody else
can reach it.  Linux only, by root or where users may make namespaces.  A process holds it while workers join.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from datahall.base.errors import WorldFailed
from datahall.real.process import die_with_parent

_NEW_USER, _NEW_NET = 0x10000000, 0x40000000
_GET_FLAGS, _SET_FLAGS, _UP = 0x8913, 0x8914, 1
_INTERFACE = "16sh14x"


@contextmanager
def enclosure() -> Iterator[list[str]]:
    """The command that starts a program in a new network, to stand before it; WorldFailed if there can be none."""
    command = [sys.executable, "-m", "datahall.real.engines.enclosure"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    holder = subprocess.Popen(
        [*command, "hold", str(os.getpid())], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        told = holder.stdout.readline().strip() if holder.stdout else ""
        if told != "ready":
            raise WorldFailed(
                f"the workers cannot get a network of their own: {told or 'no answer'}.",
                where="--engine tensorflow",
                hint="Run as root or where users may make namespaces, or say --open-ports: TensorFlow's workers then "
                "listen on every interface and obey whoever connects.",
            )
        yield [*command, "join", str(holder.pid)]
    finally:
        holder.kill()
        holder.communicate()


def main() -> None:
    """`hold PARENT`: make the network, keep it until killed.  `join PID COMMAND ...`: become COMMAND inside of it."""
    if sys.argv[1] == "hold":
        _hold(int(sys.argv[2]))
    else:
        _join(int(sys.argv[2]))
        os.execvp(sys.argv[3], sys.argv[3:])  # noqa: S606 (no shell is wanted)


def _hold(parent: int) -> None:
    die_with_parent(parent)
    try:
        _make()
    except OSError as error:
        print(error.strerror, flush=True)
        return
    print("ready", flush=True)
    sys.stdin.read()


def _make() -> None:
    user, group, root = os.getuid(), os.getgid(), os.geteuid() == 0
    _call("unshare", _NEW_NET if root else _NEW_NET | _NEW_USER)
    if not root:  # the same user inside as outside
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(text)
    with socket.socket() as one:
        name, flags = struct.unpack(_INTERFACE, fcntl.ioctl(one, _GET_FLAGS, struct.pack(_INTERFACE, b"lo", 0)))
        fcntl.ioctl(one, _SET_FLAGS, struct.pack(_INTERFACE, name, flags | _UP))


def _join(holder: int) -> None:
    for kind, flag in (("user", _NEW_USER), ("net", _NEW_NET)):
        path = f"/proc/{holder}/ns/{kind}"
        if os.stat(path).st_ino == os.stat(f"/proc/self/ns/{kind}").st_ino:
            continue
        with open(path, "rb") as file:
            _call("setns", file.fileno(), flag)


def _call(name: str, *numbers: int) -> None:
    if not sys.platform.startswith("linux"):
        raise OSError(0, "this needs Linux")
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*numbers):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


if __name__ == "__main__":
    main()
