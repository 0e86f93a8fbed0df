"""One run with its forecast beside it: sealed before the run, compared after it, on a machine that was probed.

The whole loop (baseline, parity, held-out configurations) is `loop`'s; this is what a single `datahall run` shows.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from datahall.base.result import Result
from datahall.calibrate.machine import Machine
from datahall.case.local import local_site, rates_path, site_path
from datahall.case.question import Case
from datahall.decisions.plan import Plan
from datahall.prove import seal
from datahall.prove.folder import write_json
from datahall.prove.loop import memory_items, noise_share
from datahall.real.training import Measurement
from datahall.report.comparison import Comparison, compare
from datahall.report.comparison import Machine as ComparedMachine
from datahall.report.write import write_report
from datahall.virtual.training import forecast


@dataclass(frozen=True, slots=True)
class Sealed:
    """A forecast of one run, and what it rests on."""

    case: Case
    plan: Plan
    machine: Machine
    forecast: Result
    sha256: str


def probed_machine(case: Case) -> Machine | None:
    """What `datahall probe` found of this machine; None where it was not run, or the case is of another site."""
    rates = rates_path(site_path())
    if not rates.is_file() or case.site != local_site()[0]:
        return None
    return Machine(json.loads(rates.read_text(encoding="utf-8")))


def seal_forecast(case: Case, plan: Plan, machine: Machine, folder: Path) -> Sealed:
    """Write the forecast of the run into `folder` and hash it."""
    expected = forecast(case, plan, machine.at(case, plan.compute))
    told = {**expected.to_json(), "case_hash": case.hash(), "plan": plan.to_json()}
    digest = seal.seal(folder, told)
    write_json(folder / "virtual" / "result.json", expected.to_json())
    return Sealed(case, plan, machine, expected, digest)


def lay_beside(sealed: Sealed, measured: Measurement, folder: Path) -> Comparison:
    """Compare the run with its sealed forecast and write the page; SealBroken if the forecast was changed meanwhile."""
    seal.check(folder)
    site = sealed.case.site
    here = ComparedMachine(os.cpu_count() or 1, measured.load_before, measured.load_during, site.accelerator.name)
    compared = compare(
        sealed.forecast,
        measured.result,
        noise_share(sealed.machine.rates),
        checkpoint_every_steps=sealed.plan.storage.interval_steps,
        seal_sha256=sealed.sha256,
        machine=here,
    )
    write_json(folder / "comparison.json", compared.to_json())
    items = memory_items(sealed.case, sealed.plan, sealed.machine, measured.result)
    write_json(folder / "memory.json", items.to_json())
    write_report(folder)
    return compared
