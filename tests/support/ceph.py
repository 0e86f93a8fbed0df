"""A Ceph of one monitor, one manager, one disk in a file and one S3 gateway, on loopback, ended by process id.

Needs root and the Debian packages ceph-mon, ceph-osd, ceph-mgr, radosgw and ceph-common.  Not for anybody's data: no
authentication inside, one copy of everything.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path

PROGRAMS = ("ceph-mon", "ceph-osd", "ceph-mgr", "radosgw", "radosgw-admin", "ceph", "monmaptool")
ATTEMPTS = 3
OFFERED = range(20_000, 32_000)
ACCESS, SECRET = "datahalltest", "only-for-the-loopback-test"


def available() -> bool:
    """Whether this machine can run it."""
    return os.geteuid() == 0 and all(shutil.which(program) for program in PROGRAMS)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now, below those that Linux hands to anybody's outgoing connections."""
    found: list[int] = []
    while len(found) < count:
        port = random.choice([one for one in OFFERED if one not in found])
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            found.append(port)
    return found


class Ceph:
    """The cluster in `folder`; `url` is where its gateway listens after `start`."""

    def __init__(self, folder: Path) -> None:
        self.parent = folder
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Bring everything up; half a minute on an idle machine.  Begins anew where a daemon does not come up."""
        for attempt in range(ATTEMPTS):
            try:
                self._start(self.parent / str(attempt))
            except (RuntimeError, subprocess.TimeoutExpired) as fault:
                self.stop()
                if attempt + 1 == ATTEMPTS:
                    raise
                warnings.warn(f"Ceph begins anew: {fault}", stacklevel=2)
            else:
                return

    def _start(self, folder: Path) -> None:
        # Ceph 16 without authentication needs the first wire protocol.
        self.folder, self.conf = folder, folder / "ceph.conf"
        self.mon, self.gateway = free_ports(2)
        self.url = f"http://127.0.0.1:{self.gateway}"
        self._write_conf()
        addresses = f"[v1:127.0.0.1:{self.mon}]"
        monmap = self.folder / "monmap"
        self._run("monmaptool", "--create", "--addv", "a", addresses, "--fsid", self.fsid, str(monmap))
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", str(monmap), "-c", str(self.conf))
        self._begin("mon", "ceph-mon", "-i", "a")
        self._until(self._monitor_answers)
        self._begin("mgr", "ceph-mgr", "-i", "a")
        disk = str(uuid.uuid4())
        self.ceph("osd", "new", disk, "0")
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", disk, "-c", str(self.conf))
        self._begin("osd", "ceph-osd", "-i", "0")
        self._until(self._osd_is_up)
        self.start_gateway()
        keys = ("--access-key", ACCESS, "--secret-key", SECRET)
        self._run("radosgw-admin", "-c", str(self.conf), "user", "create", "--uid", "t", "--display-name", "t", *keys)

    def start_gateway(self) -> None:
        """Start the S3 gateway and wait until it answers."""
        self._begin("rgw", "radosgw", "-n", "client.rgw")
        self._until(self._answers)

    def kill(self, name: str) -> None:
        """End one of mon, mgr, osd, rgw at once, as a crash would."""
        process = self.processes.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def stop(self) -> None:
        """End all processes that `start` began."""
        for name in ("rgw", "osd", "mgr", "mon"):
            if name in self.processes:
                self.kill(name)

    def ceph(self, *arguments: str) -> str:
        """The answer of `ceph ...`."""
        return self._run("ceph", "-c", str(self.conf), "--connect-timeout", "20", *arguments)

    def _write_conf(self) -> None:
        self.fsid = str(uuid.uuid4())
        f = self.folder
        for name in ("mon", "osd", "mgr", "run"):
            (f / name).mkdir(parents=True)
        self.conf.write_text(
            f"""[global]
fsid = {self.fsid}
mon host = v1:127.0.0.1:{self.mon}/0
ms bind msgr2 = false
auth cluster required = none
auth service required = none
auth client required = none
public network = 127.0.0.0/8
public addr = 127.0.0.1
cluster addr = 127.0.0.1
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 1000
mon data avail crit = 1
osd memory target = 1073741824
bluestore block size = 6442450944
mon data = {f}/mon
osd data = {f}/osd
mgr data = {f}/mgr
run dir = {f}/run
log file = {f}/run/$name.log
admin socket = {f}/run/$name.$pid.asok
pid file = {f}/run/$name.pid
crash dir = {f}/run
rgw data = {f}/run
rgw frontends = beast endpoint=127.0.0.1:{self.gateway}
rgw enable usage log = false
"""
        )

    def _run(self, *command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")
        return done.stdout

    def _begin(self, name: str, *command: str) -> None:
        with (self.folder / "run" / f"{name}.out").open("ab") as out:
            self.processes[name] = subprocess.Popen([*command, "-c", str(self.conf), "-f"], stdout=out, stderr=out)

    def _until(self, ready: Callable[[], bool], seconds: float = 120.0) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if ready():
                return
            time.sleep(0.3)
        raise RuntimeError(f"{ready.__name__} is still false after {seconds:.0f} s\n{self._last_words()}")

    def _last_words(self) -> str:
        """The end of what each daemon printed and logged, and which have ended."""
        ended = [f"{name} ended: {process.returncode}" for name, process in self.processes.items() if process.poll()]
        told = [path for path in sorted((self.folder / "run").glob("*")) if path.suffix in (".out", ".log")]
        return "\n".join([*ended, *(f"{path.name}: {path.read_text(errors='replace')[-1500:]}" for path in told)])

    def _monitor_answers(self) -> bool:
        if self.processes["mon"].poll() is not None:
            raise RuntimeError(f"the monitor ended\n{self._last_words()}")
        command = ("ceph", "-c", str(self.conf), "--connect-timeout", "5", "quorum_status")
        return subprocess.run(command, capture_output=True, timeout=90, check=False).returncode == 0

    def _osd_is_up(self) -> bool:
        # Now and then it asks the monitor before it was told the cluster's id, is refused ("wrong fsid"), and ends.
        if self.processes["osd"].poll() is not None:
            self._begin("osd", "ceph-osd", "-i", "0")
        return "1 up" in self.ceph("osd", "stat")

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(self.url, timeout=2).close()  # noqa: S310
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
        return True
