"""Measure this machine: a site file with provenance, and the rates that the forecast reads.

Each number comes from the thing that a run will use: products and attention of the engine, one process and all at
once; checkpoints through the real writer, flushed; messages through the real collective backend; start-up and noise
from real training runs.  It does not forecast, and it says nothing of machines that it did not run on.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from datahall.base.errors import WorldFailed
from datahall.base.event import Event, OnEvent
from datahall.base.label import Label
from datahall.case.local import guessed_site
from datahall.case.site import Disk, Link, Site
from datahall.real.launch import POLL_S
from datahall.real.probe_rates import cut_costs, device_rates, disk_of, link_of, memory_rate, peak_rates
from datahall.real.probe_runs import trial_runs
from datahall.real.probe_slice import slice_s
from datahall.real.process import worker_environment
from datahall.real.turns import load_average, turn

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class Probed:
    """What the probe found: the site, the rates (plain JSON values), and every single finding."""

    site: Site
    rates: Mapping[str, Any]
    findings: tuple[Mapping[str, Any], ...]

    def to_json(self) -> dict[str, Any]:
        """Rates and findings as plain JSON values; the site has a file of its own."""
        return {"format_version": FORMAT_VERSION, **self.rates, "findings": [dict(one) for one in self.findings]}


def probe(folder: Path, *, quick: bool = False, on_event: OnEvent | None = None, processes: int = 0) -> Probed:
    """Measure this machine in about a minute, or about 15 s if `quick`; working files stay in `folder`.

    `on_event` hears each finding as it lands (kind "finding") and each better table (kind "rates", with the rates so
    far).  `processes` is how many run at once (0: one per core, at most four).  WorldFailed if a process cannot run.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes = processes or min(4, cores)
    folder.mkdir(parents=True, exist_ok=True)
    began_s = time.monotonic()
    load_before = load_average()
    with turn(lambda: _say(on_event, began_s, "waiting_for_turn")):
        findings: list[dict[str, Any]] = []
        for finding in _findings(folder, processes, sorted({1, cores}), quick):
            findings.append(finding)
            _say(on_event, began_s, "finding", finding=finding)
        _say(on_event, began_s, "rates", **_rates(findings))
        findings += trial_runs(folder, processes, quick)
        kept_s = slice_s()
    machine = {"cores": cores, "load_before": load_before, "load_during": load_average()}
    rates = {
        **_rates(findings),
        "machine": machine | ({"slice_s": kept_s} if kept_s else {}),
        "seconds": time.monotonic() - began_s,
        "quick": quick,
    }
    _say(on_event, began_s, "rates", **rates)
    shutil.rmtree(folder / "disk", ignore_errors=True)
    return Probed(_site(findings, cores), rates, tuple(findings))


def _findings(folder: Path, processes: int, threads: list[int], quick: bool) -> Iterator[dict[str, Any]]:
    rendezvous = folder / "rendezvous"
    rendezvous.unlink(missing_ok=True)
    job = {
        "folder": str(folder),
        "processes": processes,
        "threads": threads,
        "quick": quick,
        "budget_s": 0.06 if quick else 0.5,
        "parent": os.getpid(),
        "rendezvous": f"file://{rendezvous.resolve()}",
    }
    path = folder / "job.json"
    path.write_text(json.dumps(job), encoding="utf-8")
    for old in folder.glob("findings-*.jsonl"):
        old.unlink()
    for old in (*folder.glob("trial-*"), *folder.glob("disk")):
        shutil.rmtree(old)
    running = [_start(path, rank) for rank in range(processes)]
    try:
        yield from _follow(folder / "findings-0.jsonl", running, folder)
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
            process.wait()


def _start(path: Path, rank: int) -> subprocess.Popen[bytes]:
    with (path.parent / f"probe-{rank}.out").open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "datahall.real.probe_worker", str(path), str(rank)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=worker_environment(threads=1, interface="lo"),
            start_new_session=True,
        )


def _follow(path: Path, running: list[subprocess.Popen[bytes]], folder: Path) -> Iterator[dict[str, Any]]:
    """The findings of rank 0 as they are written, until all processes have ended."""
    read_to = 0
    while True:
        codes = [process.poll() for process in running]
        if path.exists():
            with path.open("rb") as file:
                file.seek(read_to)
                new = file.read()
            whole = new[: new.rfind(b"\n") + 1]
            read_to += len(whole)
            yield from (json.loads(line) for line in whole.splitlines())
        failed = [rank for rank, code in enumerate(codes) if code not in (None, 0)]
        if failed:
            output = folder / f"probe-{failed[0]}.out"
            lines = output.read_text(errors="replace").strip().splitlines()[-1:]
            raise WorldFailed(
                f"process {failed[0]} of the probe failed: {' '.join(lines)}",
                where=str(output),
                hint="Read its output for the whole story.",
            )
        if all(code == 0 for code in codes):
            return
        time.sleep(POLL_S)


def _rates(findings: list[dict[str, Any]]) -> dict[str, Any]:
    rates: dict[str, Any] = {"device": device_rates(findings)}
    if any(finding["kind"] == "all_reduce" for finding in findings):
        rates["link"] = link_of(findings)
    if any(finding["kind"] == "thin_model" for finding in findings):
        rates["cut"] = cut_costs(findings)
    if any(finding["kind"] == "disk_write" for finding in findings):
        rates["disk"] = disk_of(findings)
    rates["codecs"] = [
        {key: value for key, value in finding.items() if key != "kind"}
        for finding in findings
        if finding["kind"] == "codec"
    ]
    for finding in findings:
        if finding["kind"] in ("startup", "noise", "input"):
            rates[finding["kind"]] = {key: value for key, value in finding.items() if key != "kind"}
    return rates


def _site(findings: list[dict[str, Any]], cores: int) -> Site:
    import torch  # only for the name of its version

    guess, _ = guessed_site()
    peaks = peak_rates(findings)
    core = replace(
        guess.accelerator,
        memory_bytes_per_s=memory_rate(findings),
        peak_flops_per_s=MappingProxyType(peaks),
        measured_flops_per_s=MappingProxyType(peaks),
    )
    disk = disk_of(findings)
    found = ["accelerator", "disk"]
    link = guess.scale_up
    if any(finding["kind"] == "all_reduce" for finding in findings):
        fitted = link_of(findings)
        link = Link(fitted["bytes_per_s"], fitted["latency_s"])
        found += ["scale_up", "scale_out"]
    return replace(
        guess,
        accelerator=core,
        devices_per_node=cores,
        scale_up_domain=cores,
        scale_up=link,
        scale_out=link,
        disk=Disk(disk["write_bytes_per_s"], disk["read_bytes_per_s"], disk["latency_s"], disk["capacity_bytes"]),
        stack=f"torch {torch.__version__}",
        provenance=MappingProxyType({**guess.provenance, **dict.fromkeys(found, Label.MEASURED)}),
    )


def _say(on_event: OnEvent | None, began_s: float, kind: str, **data: Any) -> None:
    if on_event is not None:
        on_event(Event(time.monotonic() - began_s, kind, data))
