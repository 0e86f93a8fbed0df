"""One run with its forecast: rates of this machine, forecast, seal, run, and the two side by side.

What `datahall run` does for any split.  It does not choose the plan and learns nothing from the difference: that is
the proof's loop.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from datahall.base.event import OnEvent
from datahall.base.result import Result
from datahall.calibrate.machine import Machine
from datahall.calibrate.own_model import OwnModel, own_model
from datahall.case.local import rates_path, site_path
from datahall.case.question import Case
from datahall.case.site import Site
from datahall.case.site_file import read_site
from datahall.compute.numbers import PlanNumbers
from datahall.compute.plan import ComputePlan
from datahall.decisions.plan import Plan
from datahall.network.execute_namespaces import LinkShape
from datahall.prove import seal
from datahall.prove.bubble import Bubble, bubble_forecast, bubble_of
from datahall.prove.folder import write_json
from datahall.real.launch import Start
from datahall.real.measure import read_kind
from datahall.real.probe import probe
from datahall.real.rehearsal import rehearse
from datahall.real.summary import use_metrics
from datahall.real.training import Measurement, run
from datahall.report.comparison import Comparison, compare
from datahall.report.comparison import Machine as ComparedMachine
from datahall.report.data import Memory
from datahall.storage.input_probe import probe_reads
from datahall.storage.reading import ReadCosts
from datahall.virtual.executors import started_on_ray
from datahall.virtual.training import forecast, held_bytes

LEAST_NOISE_SHARE = 0.03
PAYLOAD_SHARE = 1448 / 1514  # of a full Ethernet frame, after its headers


@dataclass(frozen=True, slots=True)
class Here:
    """This machine: its site and its rates, with a rehearsed workload where the case brings its own model.

    `origin` says where they come from; `reads` is what a shard of the case's data takes.
    """

    site: Site
    machine: Machine | OwnModel
    origin: str
    reads: ReadCosts | None = None


@dataclass(frozen=True, slots=True)
class Placement:
    """Where workers are started, and over which network device they talk; by default subprocesses on loopback.

    `own_cluster` says whether a Ray cluster is started for this run alone.
    """

    start: Start | None = None
    interface: str = "lo"
    own_cluster: bool = False


@dataclass(frozen=True, slots=True)
class SealedRun:
    """A run, its sealed forecast and what came of both."""

    measured: Measurement
    forecast: Result
    comparison: Comparison
    memory: Memory
    bubble: Bubble | None


def machine_here(folder: Path, on_event: OnEvent | None = None) -> Here:
    """What `datahall probe` left for this machine, or else a quick probe (about 15 s), kept in `folder`."""
    stored, rates = site_path(), rates_path(site_path())
    if stored.is_file() and rates.is_file():
        found: Mapping[str, Any] = json.loads(rates.read_text(encoding="utf-8"))
        return Here(read_site(stored), Machine(found), f"rates of {rates}")
    probed = probe(folder / "probe", quick=True, on_event=on_event)
    write_json(folder / "rates.json", probed.to_json())
    return Here(probed.site, Machine(probed.rates), "a quick probe: run `datahall probe` once for better rates")


def sealed_run(
    case: Case,
    plan: Plan,
    here: Here,
    folder: Path,
    *,
    steps: int | None = None,
    link: LinkShape | None = None,
    at: Placement | None = None,
    on_event: OnEvent | None = None,
    import_paths: Sequence[str] = (),
) -> SealedRun:
    """Forecast `plan` on this machine, seal the forecast in `folder`, run it under `folder`/real, and compare.

    A model that the case brings with it is rehearsed first.  `link` as in `training.run`.
    """
    here = over_link(here, link) if link is not None else here
    here = rehearsed(case, plan, here, folder / "rehearsal", import_paths) if case.application.entry else here
    if (data := case.application.data) is not None:
        here = replace(here, reads=probe_reads(data, case.application.sequence, folder / "input-probe"))
    at = at or Placement()
    said, items = foretell(case, plan, here, steps)
    if at.start is not None:
        said = started_on_ray(said, plan.compute.devices, here.site.devices, own_cluster=at.own_cluster)
    idle = bubble_forecast(case, plan.compute, here.machine)
    sealed = seal_forecast(case, plan, here, folder, said, items, bubble_share=idle)
    told: dict[str, Any] = {"steps": steps, "link": link, "on_event": on_event, "import_paths": import_paths}
    measured = run(case, plan, folder / "real", start=at.start, interface=at.interface, **told)
    measured, compared, held = sealed.beside(measured)
    return SealedRun(measured, said, compared, held, bubble_of(plan.compute, measured, idle))


def seal_forecast(
    case: Case, plan: Plan, here: Here, folder: Path, said: Result, items: Mapping[str, float], **besides: float
) -> Sealed:
    """Write what was `said` of a run, its memory by item and what else is known `besides`, and seal it."""
    digest = seal.seal(
        folder, {**said.to_json(), "plan": plan.to_json(), "memory": items, **besides, "by": here.origin}
    )
    write_json(folder / "virtual" / "result.json", said.to_json())
    return Sealed(case, plan, here, folder, said, items, digest)


@dataclass(frozen=True, slots=True)
class Sealed:
    """A sealed forecast that waits for its measurement."""

    case: Case
    plan: Plan
    here: Here
    folder: Path
    said: Result
    items: Mapping[str, float]
    digest: str

    def beside(self, measured: Measurement) -> tuple[Measurement, Comparison, Memory]:
        """The measurement (MFU by this machine's peak) compared, and its memory; both kept in the folder, and a page.

        SealBroken where the forecast was touched meanwhile.
        """
        seal.check(self.folder)
        measured = _used_here(measured, self.case, self.plan.compute, self.here.site)
        write_json(self.folder / "real" / "result.json", measured.result.to_json())
        compared = compare(
            self.said,
            measured.result,
            noise_share(self.here.machine.rates),
            checkpoint_every_steps=self.plan.storage.interval_steps,
            seal_sha256=self.digest,
            machine=ComparedMachine(
                os.cpu_count() or 1, measured.load_before, measured.load_during, self.here.site.accelerator.name
            ),
        )
        peaks = [float(event.data["peak_bytes"]) for event in read_kind(measured.folder, "trained")]
        held = Memory(self.items, tuple(sorted(peaks)))
        write_json(self.folder / "comparison.json", compared.to_json())
        write_json(self.folder / "memory.json", held.to_json())
        _write_page(self.folder)
        return measured, compared, held


def rehearsed(case: Case, plan: Plan, here: Here, folder: Path, import_paths: Sequence[str] = ()) -> Here:
    """This machine with what steps of the case's own model take on it, measured now (some 5 s)."""
    machine = here.machine.machine if isinstance(here.machine, OwnModel) else here.machine
    found = rehearse(case, plan, folder, import_paths)
    write_json(folder / "found.json", found)
    return replace(here, machine=own_model(machine, found), origin=f"{here.origin}; your model was rehearsed")


def over_link(here: Here, link: LinkShape) -> Here:
    """This machine as hosts on such a link: its rate without headers, and a round trip for each round of a collective.

    gloo asks before it sends, so that a round costs a round trip (docs/links.md).
    """
    probed = here.machine.rates.get("link", {"latency_s": 1e-4, "bytes_per_s": 1e9})
    rate = min(link.bits_per_s / 8.0 * PAYLOAD_SHARE, probed["bytes_per_s"])
    shaped = {
        **probed,
        "latency_s": probed["latency_s"] + link.round_trip_s,
        "bytes_per_s": rate,
        "cores": rate / probed["bytes_per_s"],  # that moving bytes keeps busy; the rest of the time the link is slow
    }
    machine = here.machine.machine if isinstance(here.machine, OwnModel) else here.machine
    return replace(here, machine=replace(machine, rates={**machine.rates, "link": shaped}))


def foretell(case: Case, plan: Plan, here: Here, steps: int | None = None) -> tuple[Result, dict[str, float]]:
    """The forecast of `plan` on this machine, and its bytes of memory by item.

    The site of the case is set aside for this machine's, and its tokens for so many `steps`.
    """
    application = case.application
    if steps is not None:
        application = replace(application, tokens=float(steps * application.global_batch * application.sequence))
    told = replace(case, site=here.site, application=application)
    placed = here.machine.at(told, plan.compute)
    own = placed.anatomy if isinstance(placed, OwnModel) else None
    said = forecast(told, replace(plan, case_hash=told.hash()), placed, own, here.reads)
    return said, memory_items(told, plan.compute, here.machine)


def noise_share(rates: Any) -> float:
    """The noise floor of this machine: how far medians of equal runs lay apart, at least 3 %."""
    return max(LEAST_NOISE_SHARE, float(rates.get("noise", {}).get("between_runs_share", 0.0)))


def memory_items(case: Case, compute: ComputePlan, machine: Machine | OwnModel) -> dict[str, float]:
    """The itemised forecast of one process's memory above idle, bytes."""
    held = held_bytes(machine.inputs(case, compute), PlanNumbers.of(compute))
    return {name: float(value) for name, value in asdict(held).items() if float(value) > 0}


def _used_here(measured: Measurement, case: Case, compute: ComputePlan, site: Site) -> Measurement:
    """The measurement with its MFU against this machine's peak, whatever site the case is about."""
    metrics = {name: metric for name, metric in measured.result.metrics.items() if name != "mfu"}
    here, step = replace(case, site=site), metrics["step_time"]
    for metric in use_metrics(here, compute, measured.steps, step, metrics["total_time"].value):
        metrics[metric.name] = metric
    return replace(measured, result=replace(measured.result, metrics=metrics))


def _write_page(folder: Path) -> None:
    """The run's page, where what draws it is installed."""
    try:
        from datahall.report.write import write_report
    except ModuleNotFoundError:
        return
    write_report(folder)
