"""This machine as a site: the file that `datahall probe` left, or a first guess that is labelled `assumed`.

A device is one core here, because one worker process gets one thread.  The guess reads /proc and measures nothing; it
exists so that a first table can be shown at once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from datahall.base.label import Label
from datahall.case import site_file
from datahall.case.site import Accelerator, Disk, Link, Site

GUESSED_HZ = 2.5e9
FP32_FLOP_PER_CYCLE = 32  # two 256-bit fused multiply-adds


def site_path() -> Path:
    """Where `datahall probe` leaves what it measured: `$DATAHALL_SITE`, or `site.yaml` in the user's data directory."""
    stated = os.environ.get("DATAHALL_SITE")
    if stated:
        return Path(stated)
    data = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(data) / "datahall" / "site.yaml"


def rates_path(site: Path) -> Path:
    """Where the probe leaves the rates that belong to the site file `site`."""
    return site.with_suffix(".rates.json")


def local_site() -> tuple[Site, Mapping[str, str]]:
    """The probed site of this machine if there is one, else a guess; and the reasons of the guess, by field path."""
    path = site_path()
    if os.access(path, os.R_OK):  # also False where a folder on the way is another user's
        return site_file.read_site(path), MappingProxyType({})
    return guessed_site()


def guessed_site() -> tuple[Site, Mapping[str, str]]:
    """This machine from what the system says of itself, every rate `assumed`."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    peak = GUESSED_HZ * FP32_FLOP_PER_CYCLE
    core = Accelerator(
        name=f"core of {_cpu_name()}",
        kind="cpu",
        vendor="",
        memory_bytes=_memory_bytes() / cores,
        memory_bytes_per_s=20e9 / cores,
        peak_flops_per_s=MappingProxyType({"fp32": peak, "bf16": peak}),
        power_w=100.0 / cores,
    )
    link = Link(4e9, 30e-6)
    rates = ("accelerator", "scale_up", "scale_out", "disk", "accelerator.power_w", "failures_per_device_s")
    site = Site("local", core, 1, cores, cores, link, link, Disk(1e9, 2e9, 1e-3), host_cores=cores,
                provenance=MappingProxyType(dict.fromkeys(rates, Label.ASSUMED)))  # fmt: skip
    reason = "a guess for an ordinary core; `datahall probe` measures it"
    return site, MappingProxyType({f"site.{path}": reason for path in rates[:-1]})


def _cpu_name() -> str:
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        return "this machine"
    return found[1].strip() if found else "this machine"


def _memory_bytes() -> float:
    try:
        found = re.search(r"MemTotal:\s*(\d+) kB", Path("/proc/meminfo").read_text(encoding="utf-8"))
    except OSError:
        found = None
    return int(found[1]) * 1024.0 if found else 4e9
