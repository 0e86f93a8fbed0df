"""`datahall compare --log FILE PLAN`: somebody's training log beside the forecast of the plan that it ran.

A folder of `datahall.meter` is read too, with counts and every component.  What a log does not say stays blank.  The
difference goes to the local ledger, which the next forecast uses.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import click

from datahall.base.errors import EXIT_DONE, EXIT_OUTSIDE_TOLERANCE, UsageError
from datahall.base.label import Label
from datahall.base.metric import Metric
from datahall.base.result import Result, result_from_json
from datahall.calibrate.ledger import Correction, Entry, correction, entries, record
from datahall.compute.plan import ComputePlan
from datahall.decisions.proposal import Proposal, load_proposal
from datahall.report.comparison import Comparison, compare
from datahall.report.naming import named
from datahall.report.words import percent
from datahall.ui.logs.detect import read_log
from datahall.ui.logs.steps import TrainingLog, middle
from datahall.ui.plan import uncorrected
from datahall.virtual.training import forecast

_NO_HOST_NOTE = "The log does not say what the run held on its hosts; `datahall.meter` measures that."
NOISE_SHARE = 0.02  # of a steady training step, in published logs of mature stacks


@click.command("compare")
@click.option("--log", "log_path", required=True, type=click.Path(path_type=Path), help="The training log.")
@click.argument("plan", type=click.Path(path_type=Path))
@click.option("--stack", default="", help="Name of the software stack (default: the program that wrote the log).")
@click.option("--no-ledger", is_flag=True, help="Do not remember the difference.")
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")
def compare_log(log_path: Path, plan: Path, stack: str, no_ledger: bool, as_json: bool) -> int:
    """Lay a training log beside PLAN (made by `datahall plan --out`).

    Reads logs of torchtitan, Megatron-LM, DeepSpeed, Hugging Face Trainer and llm-foundry, text or JSON lines, and the
    folder that `datahall.meter` wrote, whose counts are compared as well.  Ends with 4 when the measured step lies
    outside the forecast's interval.
    """
    proposal = load_proposal(plan)
    if log_path.is_dir():
        return _metered(proposal, log_path, as_json)
    if "step_time" not in proposal.forecast.metrics:
        raise UsageError("the plan's forecast has no step_time.", where=str(plan), hint="Plan the case again.")
    log = read_log(log_path)
    compared = compare(proposal.forecast, measured(proposal, log), NOISE_SHARE)
    learnt = None if no_ledger else _remembered(proposal, log, compared, log_path, stack)
    if as_json:
        click.echo(json.dumps(_json(compared, log, learnt), indent=2))
    else:
        _show(compared, log, learnt)
    return EXIT_DONE if compared.row("step_time").within_interval else EXIT_OUTSIDE_TOLERANCE


def measured(proposal: Proposal, log: TrainingLog) -> Result:
    """What `log` says of a run of the proposal's plan, medians over its steady steps.

    UsageError when the log is of another global batch, or gives neither time nor rate.
    """
    compute, application = proposal.plan.compute, proposal.case.application
    steady = log.steady()
    batch = middle([step.global_batch for step in steady])
    if batch is not None and batch not in _batches(log, compute):
        raise UsageError(
            f"the log's global batch is {batch:.0f} sequences and the plan's is {compute.global_batch}.",
            hint="Compare a log with the plan that it ran.",
        )
    tokens = compute.global_batch * application.sequence
    seconds = [_seconds(step.seconds, step.tokens_per_s_per_device, step.samples_per_s, proposal) for step in steady]
    step_s = middle(seconds)
    if step_s is None:
        raise UsageError("the log gives neither the time of a step nor a rate.", hint=log.hint)
    values: dict[str, tuple[str, float]] = {
        "step_time": ("seconds", step_s),
        "tokens_per_s": ("tokens_per_s", tokens / step_s),
    }
    for name in ("compute", "transfer", "waiting", "input", "optimiser"):
        part = middle([step.parts.get(name) for step in steady])
        if part is not None:
            values[name] = ("seconds", part)
    held = [step.memory_bytes for step in log.steps if step.memory_bytes]
    if held:
        values["peak_memory"] = ("bytes", max(held))
    metrics = {name: Metric(name, unit, value, value, value, Label.MEASURED) for name, (unit, value) in values.items()}
    known = sorted(value for value in seconds if value is not None)
    tenth = len(known) // 10
    spread = replace(metrics["step_time"], low=known[tenth], high=known[-1 - tenth])
    notes = _notes(set(values), log, compute)
    if "host_memory" in proposal.forecast.metrics:
        notes += (_NO_HOST_NOTE,)
    return Result("real", {**metrics, "step_time": spread}, notes=notes)


def _batches(log: TrainingLog, compute: ComputePlan) -> tuple[int, ...]:
    """What the log may call the plan's batch: DeepSpeed counts its tensor ranks as if each had one."""
    return (compute.global_batch, *([compute.global_batch * compute.tensor] if log.program == "deepspeed" else []))


def _notes(told: set[str], log: TrainingLog, compute: ComputePlan) -> tuple[str, ...]:
    """What the log does not tell apart."""
    if not told & {"compute", "transfer", "input", "optimiser"}:
        return (f"The log gives only the total. {log.hint}",)
    ranks = {"tensor": compute.tensor, "context": compute.context, "expert": compute.expert}
    inside = [f"what {name} ranks exchange" for name, degree in ranks.items() if degree > 1]
    inside += ["gathered parameters"] if compute.zero_stage == 3 else []
    inside += ["the pipeline's waiting"] if compute.pipeline > 1 else []
    if "compute" not in told or not inside:
        return ()
    return (f"Compute, as this log times it, holds {', '.join(inside)} too; the forecast counts that apart.",)


def _metered(proposal: Proposal, folder: Path, as_json: bool) -> int:
    """The same for a loop that was measured by `datahall.meter` in `folder`; it is not remembered."""
    from datahall.report.terminal import comparison_table, counts_table, show

    seen = _meter_result(folder)
    _check_workers(proposal, folder)
    compared = compare(_of_steps(proposal.forecast, seen.counts["steps"]), seen, NOISE_SHARE)
    if as_json:
        click.echo(json.dumps({**compared.to_json(), "named": named(compared)}, indent=2))
    else:
        click.echo(f"{seen.counts['steps']} steps measured by datahall.meter")
        show(comparison_table(compared), counts_table(compared))
        click.echo(named(compared))
    return EXIT_DONE if compared.row("step_time").within_interval else EXIT_OUTSIDE_TOLERANCE


def _meter_result(folder: Path) -> Result:
    path = folder / "result.json"
    try:
        found = result_from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError) as error:
        reason = (error.strerror or str(error)).lower() if isinstance(error, OSError) else str(error)
        raise UsageError(
            f"this is not a folder of datahall.meter: {reason}.",
            where=str(path),
            hint="Let the `with datahall.meter(folder, model)` block end before you compare.",
        ) from error
    if not found.counts.get("steps"):
        raise UsageError("no step was measured.", where=str(path), hint="A step ends with the optimiser's.")
    return found


def _check_workers(proposal: Proposal, folder: Path) -> None:
    ran, planned = len(list((folder / "workers").glob("[0-9]*.jsonl"))), proposal.plan.compute.devices
    if ran != planned:
        raise UsageError(
            f"the plan has {planned} workers and this loop ran as {ran}, so that nothing of it is comparable.",
            where=str(folder),
            hint=f"Plan for a site of {ran}, such as `--set site.devices_per_node={ran}`, or run the loop as planned.",
        )


def _of_steps(expected: Result, steps: int) -> Result:
    """The forecast of so many steps of its run, without checkpoints; what is of the whole run is left out."""
    whole = expected.counts.get("steps", 0)
    kept = {name: count for name, count in expected.counts.items() if not name.startswith("checkpoint")}
    counts = {name: count // whole * steps for name, count in kept.items()} if whole else {}
    ends = (
        "total_time",
        "startup",
        "energy",
        "cost",
        "goodput",
        "checkpoint",
        "checkpoint_slowing",
        "checkpoint_write",
    )
    return replace(expected, counts=counts, metrics={k: v for k, v in expected.metrics.items() if k not in ends})


def _seconds(seconds: float | None, tokens: float | None, samples: float | None, proposal: Proposal) -> float | None:
    compute = proposal.plan.compute
    if seconds is not None:
        return seconds
    if tokens:
        return compute.global_batch * proposal.case.application.sequence / (tokens * compute.devices)
    return compute.global_batch / samples if samples else None


def _remembered(
    proposal: Proposal, log: TrainingLog, compared: Comparison, log_path: Path, stack: str
) -> Correction | None:
    """The entry goes to the ledger; gives back what the next forecast will make of it."""
    case, stack = proposal.case, stack or proposal.case.site.stack or log.program
    plain, own = uncorrected(case), replace(case, site=replace(case.site, stack=stack))
    same_split = replace(proposal.plan, case_hash=own.hash())
    hardware, measured_s = case.site.accelerator.name, compared.row("step_time").measured
    entry = Entry(
        hardware,
        stack,
        case.hash(),
        forecast(case, proposal.plan, plain).metrics["step_time"].value,
        measured_s,
        datetime.now(UTC).isoformat(timespec="seconds"),
        str(log_path.resolve()),
        forecast(own, same_split, uncorrected(own)).metrics["step_time"].value,
    )
    path = record(entry)
    click.echo(f"remembered in {path}", err=True)
    if not case.site.stack:
        click.echo(f'note: plan with --set "site.stack={stack}" and this counts as the same stack', err=True)
    low, high = plain.spread("step_time")
    return correction(entries(path), hardware, case.site.stack, 0.5 * math.log(high / low))


def _json(compared: Comparison, log: TrainingLog, learnt: Correction | None) -> Mapping[str, object]:
    next_forecast: dict[str, object] | None = None
    if learnt is not None:
        next_forecast = {"factor": learnt.factor, "low": learnt.low, "high": learnt.high, "comparisons": learnt.count}
        next_forecast |= {"label": str(learnt.label), "missed": learnt.missed}
    return {
        **compared.to_json(),
        "program": log.program,
        "steps": len(log.steps),
        "named": named(compared, log.more),
        "next": next_forecast,
    }


def _show(compared: Comparison, log: TrainingLog, learnt: Correction | None) -> None:
    from datahall.report.terminal import comparison_table, show

    click.echo(f"{len(log.steps)} steps logged by {log.program}")
    show(comparison_table(compared))
    click.echo(named(compared, log.more))
    for note in compared.notes:
        click.echo(note)
    if learnt is not None:
        click.echo(
            f"The next forecast for this hardware takes {learnt.factor:.2f} times as long as the uncorrected one,"
            f" {percent(1 - learnt.low)} less to {percent(learnt.high - 1)} more"
            f" ({learnt.label}, {learnt.count} compared). {learnt.remark}".rstrip()
        )
