"""The proof of one case on this machine: probe, plan, seal, run, compare, calibrate, carry over, report.

This module only puts the stages in order and writes what each leaves in the run's folder; whoever wants to watch passes
`on_event`.  Nothing is estimated, measured or drawn here.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from datahall.base.event import Event, OnEvent
from datahall.base.score import HeldOutScore
from datahall.calibrate.machine import Machine
from datahall.case.question import Case
from datahall.case.site_file import write_site
from datahall.decisions.plan import Plan
from datahall.network.plan import NetworkPlan
from datahall.prove import blind, heldout, planning, recovery, seal
from datahall.prove.again import choose_again
from datahall.prove.carry_over import carry_over
from datahall.prove.configurations import HELD_OUT, SEEN, configurations
from datahall.prove.effort import Effort
from datahall.prove.folder import write_json
from datahall.prove.pace import PaceLog
from datahall.prove.planning import PricedPlan
from datahall.prove.sealed_run import memory_items, noise_share
from datahall.real import parity
from datahall.real.probe import Probed, probe
from datahall.real.training import Measurement, run
from datahall.real.turns import load_average
from datahall.report.comparison import Comparison, ParityRecord, compare
from datahall.report.comparison import Machine as ComparedMachine
from datahall.report.data import ChoiceAgain, Memory
from datahall.report.write import write_report
from datahall.virtual.calibration import Uncalibrated

STAGES = ("probe", "plan", "seal", "run", "compare", "calibrate", "choose again", "carry over", "report")


@dataclass(frozen=True, slots=True)
class Proof:
    """What a proof ends with: where it is, and what it says."""

    folder: Path
    page: Path
    comparison: Comparison
    scores: dict[str, HeldOutScore]
    speedup: tuple[float, float, float]  # baseline over plan: median, smallest and largest of the paired rounds
    recovery: recovery.Recovery
    again: ChoiceAgain
    trials: tuple[blind.Trial, ...]


@dataclass(frozen=True, slots=True)
class Settings:
    """What the stages share."""

    folder: Path
    effort: Effort
    on_event: OnEvent
    import_paths: tuple[str, ...] = ()
    seed: int = 0
    network: NetworkPlan = field(default_factory=NetworkPlan)  # how several workers exchange gradients

    def tell(self, kind: str, **data: Any) -> None:
        """Let whoever watches know."""
        self.on_event(Event(0.0, kind, data))


def prove(case: Case, settings: Settings) -> Proof:
    """Prove `case`; everything is left in `settings.folder`.  NoPlan, SealBroken and WorldFailed stop it."""
    load_before = load_average()
    write_json(settings.folder / "case.json", case.to_json())
    precisions = _precisions(case)
    _first_table(case, precisions, settings)
    probed = _probe(case, settings)
    case = replace(case, site=probed.site)
    write_json(settings.folder / "case.json", case.to_json())
    machine = Machine(probed.rates)
    chosen, priced = _plan(case, precisions, machine, settings)
    digest = _seal(case, chosen, settings)
    pace = PaceLog(settings.effort.reading_s)
    baseline, measured = _run(case, planning.baseline(case, precisions[0]), chosen, pace, settings)
    _memory(case, chosen, measured[0], machine, settings)
    settings.tell("stage", name="compare")
    split = _split_plan(priced)
    same = _parity(case, split, settings)
    recovered = _recovery(case, split, settings)
    fitted, judged = _calibrate(case, precisions, machine, pace, settings)
    again = _choose_again(case, precisions, fitted, chosen.plan, settings)
    trials = _blind(case, split, fitted, probed, settings)
    comparison = _compare(chosen, measured[0], probed, load_before, digest, same, judged)
    seal.check(settings.folder)
    write_json(settings.folder / "comparison.json", comparison.to_json())
    _carry_over(judged.scores["step_time"], settings)
    settings.tell("stage", name="report")
    page = write_report(settings.folder)
    return Proof(
        settings.folder, page, comparison, judged.scores, _speedup(baseline, measured), recovered, again, tuple(trials)
    )


def _precisions(case: Case) -> tuple[str, ...]:
    return (case.application.precision,) if case.application.precision else ("fp32", "bf16")


def _first_table(case: Case, precisions: Sequence[str], settings: Settings) -> None:
    """Before anything is measured: the plans by guessed rates, labelled so."""
    plans = planning.candidates(case, precisions, settings.network)
    priced = planning.price(case, plans, lambda _case, _compute: Uncalibrated())
    settings.tell("plans", plans=planning.considered(priced), origin=str(priced[0].forecast.metrics["step_time"].label))


def _probe(case: Case, settings: Settings) -> Probed:
    settings.tell("stage", name="probe")

    def hear(event: Event) -> None:
        settings.on_event(event)
        if event.kind == "rates" and event.data.get("link"):
            better = Machine(event.data)
            core = replace(case.site.accelerator, peak_flops_per_s=better.peaks())
            seen = replace(case, site=replace(case.site, accelerator=core))
            priced = planning.price(seen, planning.candidates(seen, ("fp32",), settings.network), better.at)
            settings.tell("plans", plans=planning.considered(priced), origin="measured so far")

    probed = probe(settings.folder / "probe", quick=settings.effort.quick_probe, on_event=hear)
    write_site(probed.site, settings.folder / "site.yaml")
    write_json(settings.folder / "rates.json", probed.to_json())
    return probed


def _plan(
    case: Case, precisions: Sequence[str], machine: Machine, settings: Settings
) -> tuple[PricedPlan, list[PricedPlan]]:
    """The chosen plan, and all that were priced."""
    settings.tell("stage", name="plan")
    found = planning.candidates(case, precisions, settings.network, machine.codecs)
    priced = planning.price(case, found, machine.at)
    first = planning.best(case, priced)
    considered = planning.considered(priced)
    flip = planning.what_would_flip(priced)
    write_json(settings.folder / "plans.json", {"plans": [one.to_json() for one in considered], "flip": flip})
    settings.tell("plans", plans=considered, origin=str(first.forecast.metrics["step_time"].label), flip=flip)
    return first, priced


def _seal(case: Case, chosen: PricedPlan, settings: Settings) -> str:
    """Write plan, memory and forecast, and hash the forecast."""
    settings.tell("stage", name="seal")
    write_json(settings.folder / "plan.json", chosen.plan.to_json())
    digest = seal.seal(
        settings.folder,
        {
            **chosen.forecast.to_json(),
            "case_hash": case.hash(),
            "plan": chosen.plan.to_json(),
            "note": "energy is modelled from the power figure of the site, never measured here",
        },
    )
    write_json(settings.folder / "virtual" / "result.json", chosen.forecast.to_json())
    settings.tell("sealed", sha256=digest, forecast=chosen.forecast)
    return digest


def _run(
    case: Case, baseline: Plan, chosen: PricedPlan, pace: PaceLog, settings: Settings
) -> tuple[list[Measurement], list[Measurement]]:
    """Baseline and plan in turn, so that a change of the machine's mood meets both."""
    settings.tell("stage", name="run")
    plans = {"baseline": baseline, "real": chosen.plan}
    measured: dict[str, list[Measurement]] = {"baseline": [], "real": []}
    for round_number in range(settings.effort.rounds):
        seal.check(settings.folder)
        pace.read()
        for place, plan in plans.items():
            where = settings.folder / (place if not round_number else f"{place}-{round_number + 1}")
            settings.tell("play", name=place, round=round_number + 1, of=settings.effort.rounds)
            one = run(case, plan, where, on_event=settings.on_event, import_paths=settings.import_paths)
            write_json(where / "result.json", one.result.to_json())
            settings.tell("played", name=place, result=one.result, losses=one.losses)
            measured[place].append(one)
    return measured["baseline"], measured["real"]


def _memory(case: Case, chosen: PricedPlan, measured: Measurement, machine: Machine, settings: Settings) -> None:
    items = memory_items(case, chosen.plan.compute, machine)
    compared = Memory(items, (measured.result.metrics["peak_memory"].value,))
    write_json(settings.folder / "memory.json", compared.to_json())


def _split_plan(priced: Sequence[PricedPlan]) -> Plan:
    """The best plan with several workers, for parity, the kill and the blind trials; with one core, the best plan."""
    several = [one for one in priced if one.plan.compute.data > 1 and one.fits]
    return (several or list(priced))[0].plan


def _parity(case: Case, split: Plan, settings: Settings) -> dict[str, Any]:
    found = parity.compare(
        case,
        replace(split, network=NetworkPlan()),  # a lossy or rarer exchange is not one process's training, by design
        settings.folder / "parity",
        steps=settings.effort.parity_steps,
        import_paths=settings.import_paths,
    ).to_json()
    write_json(settings.folder / "parity.json", found)
    settings.tell("parity", **found)
    return found


def _recovery(case: Case, split: Plan, settings: Settings) -> recovery.Recovery:
    found = recovery.kill_and_resume(case, split, settings.folder / "kill", _quiet, settings.import_paths)
    write_json(settings.folder / "recovery.json", found.to_json())
    settings.tell("recovery", **found.to_json())
    return found


def _calibrate(
    case: Case, precisions: Sequence[str], machine: Machine, pace: PaceLog, settings: Settings
) -> tuple[Machine, heldout.HeldOut]:
    settings.tell("stage", name="calibrate")
    effort, names = settings.effort, tuple(precisions)
    seen = configurations(case, SEEN, effort.fitted, settings.seed, names)
    unseen = configurations(case, HELD_OUT, effort.held_out, settings.seed, names)
    fitted = heldout.calibrate(machine, seen, effort, settings.folder / "calibrate", pace, settings.on_event)
    judged = heldout.judge(machine, fitted, unseen, effort, settings.folder / "heldout", pace, settings.on_event)
    write_json(settings.folder / "heldout.json", judged.scores["step_time"].to_json())
    settings.tell("heldout", scores=judged.scores)
    return fitted, judged


def _choose_again(
    case: Case, precisions: Sequence[str], fitted: Machine, sealed: Plan, settings: Settings
) -> ChoiceAgain:
    settings.tell("stage", name="choose again")
    plans = planning.candidates(case, precisions, settings.network)
    where, paths = settings.folder / "again", settings.import_paths
    return choose_again(case, plans, fitted, sealed, settings.effort, where, settings.on_event, paths)


def _blind(case: Case, split: Plan, fitted: Machine, probed: Probed, settings: Settings) -> list[blind.Trial]:
    if not settings.effort.doses:
        return []
    settings.tell("stage", name="blind trials")
    where, noise = settings.folder / "blind", noise_share(probed.rates)
    trials = blind.blind_trials(case, split, fitted, noise, settings.effort, where, settings.on_event)
    write_json(settings.folder / "blind.json", {"trials": [trial.to_json() for trial in trials]})
    return trials


def _compare(
    chosen: PricedPlan,
    measured: Measurement,
    probed: Probed,
    load_before: float,
    digest: str,
    same: dict[str, Any],
    judged: heldout.HeldOut,
) -> Comparison:
    name = probed.site.accelerator.name
    return compare(
        chosen.forecast,
        measured.result,
        noise_share(probed.rates),
        checkpoint_every_steps=chosen.plan.storage.interval_steps,
        seal_sha256=digest,
        machine=ComparedMachine(os.cpu_count() or 1, load_before, measured.load_during, name),
        parity=ParityRecord(**same),
        heldout=judged.scores["step_time"],
        drift=judged.drift,
    )


def _carry_over(score: HeldOutScore, settings: Settings) -> None:
    settings.tell("stage", name="carry over")
    carried = carry_over(score)
    write_json(settings.folder / "carry_over.json", carried.to_json())
    settings.tell("carry_over", carried=carried)


def _speedup(baseline: Sequence[Measurement], measured: Sequence[Measurement]) -> tuple[float, float, float]:
    ratios = sorted(
        one.result.metrics["step_time"].value / other.result.metrics["step_time"].value
        for one, other in zip(baseline, measured, strict=True)
    )
    middle = len(ratios) // 2
    median = ratios[middle] if len(ratios) % 2 else (ratios[middle - 1] + ratios[middle]) / 2
    return median, ratios[0], ratios[-1]


def _quiet(_event: Event) -> None:
    """Runs inside other stages do not speak."""
