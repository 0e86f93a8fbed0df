"""From a run's steps to the metrics and counts of `base.result`.

Per step metrics are means over the middle half of the steady steps, ordered by their time: components then add up to
the step's time, and the few steps in which the machine did something else do not count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from datahall.base.errors import UsageError
from datahall.base.label import Label, weakest
from datahall.base.metric import Metric, exactly
from datahall.base.score import NORMAL_90
from datahall.case.question import Case
from datahall.compute.adapters import adapter_parameters
from datahall.compute.counts import ShapeCounts
from datahall.compute.layout import Layout
from datahall.compute.mfu import step_mfu
from datahall.compute.plan import ComputePlan
from datahall.real.measure import COMPONENTS, Step, WorkerStep, median, median_interval, read_kind, slowing, stalls


def view_rank(steps: Iterable[Step]) -> int:
    """The worker that waited longest over steady steps."""
    waited: dict[int, float] = {}
    for step in steps:
        if step.steady:
            for worker in step.workers:
                waited[worker.rank] = waited.get(worker.rank, 0.0) + worker.seconds["waiting"]
    return max(waited, key=lambda rank: (waited[rank], -rank), default=0)


def step_metrics(steps: Sequence[Step], view: int, tokens_per_step: int, period: int = 1) -> list[Metric]:
    """Components, step_time, cpu_time and (where a step has tokens) tokens_per_s, as worker `view` saw them.

    `period` steps belong together where workers exchange only every so often: means are over whole periods.
    """
    seen = middle_half([step.workers[view] for step in steps if step.steady and view < len(step.workers)], period)
    seen = seen or [step.workers[0] for step in steps]
    found = [_mean("step_time", [worker.step_s for worker in seen])]
    names = dict.fromkeys((*COMPONENTS, *(name for worker in seen for name in worker.seconds)))
    found += [_mean(name, [worker.seconds.get(name, 0.0) for worker in seen]) for name in names]
    found.append(_mean("cpu_time", [worker.cpu_s for worker in seen]))
    whole = found[0]
    if tokens_per_step and whole.low > 0:
        rate, low, high = (tokens_per_step / seconds for seconds in (whole.value, whole.high, whole.low))
        found.append(Metric("tokens_per_s", "tokens_per_s", rate, low, high, Label.MEASURED))
    return found


def run_metrics(folder: Path, steps: Sequence[Step]) -> list[Metric]:
    """checkpoint, checkpoint_write, checkpoint_slowing, startup, peak_memory, host_memory and (of shards) input_wait,
    as far as the run has them.
    """
    found: list[Metric] = []
    committed = [event.data for event in read_kind(folder, "checkpoint")]
    commits = [data["seconds"] for data in committed]
    slowed = slowing(steps, [(d["began_s"], d["began_s"] + d["seconds"]) for d in committed if "began_s" in d])
    if commits:
        found.append(_median("checkpoint", stalls(steps)))
        found.append(_median("checkpoint_write", commits))
    if slowed:
        found.append(_median("checkpoint_slowing", slowed))
    if steps:
        if read_kind(folder, "read"):
            found.append(exactly("input_wait", "seconds", _longest_wait_s(steps)))
        found.append(exactly("startup", "seconds", max(worker.begin_s for worker in steps[0].workers)))
    trained = {event.data["rank"]: event.data for event in read_kind(folder, "trained")}
    found.append(exactly("peak_memory", "bytes", max((data["peak_bytes"] for data in trained.values()), default=0)))
    hosts: Counter[str] = Counter()
    for data in trained.values():
        hosts[data["host"]] += data["host_bytes"]
    if hosts:
        found.append(exactly("host_memory", "bytes", max(hosts.values())))
    return found


def use_metrics(case: Case, compute: ComputePlan, steps: Sequence[Step], step: Metric, ended_s: float) -> list[Metric]:
    """How well the time was used: mfu, where the site states a peak (its label is the peak's), and goodput.

    A model that the case brings with it has no mfu: its FLOPs do not follow from the case's shape.

    Goodput is the share of the seconds from launch to the end in which the committed steps moved the training forward:
    start, checkpoints, and steps that were run again do not count.
    """
    found: list[Metric] = []
    peak = 0.0 if case.application.entry else case.site.accelerator.peak_flops_per_s.get(compute.precision, 0.0)
    peak *= min(compute.processors, case.site.devices)
    counts, sequence = ShapeCounts.of(case.model), case.application.sequence
    adapters = adapter_parameters(case.model, case.application)
    try:
        low, value, high = (
            step_mfu(counts, sequence, compute.global_batch, seconds, peak, adapters)
            for seconds in (step.high, step.value, step.low)
        )
        label = weakest((Label.MEASURED, case.site.label("accelerator")))
        found.append(Metric("mfu", "share", value, low, high, label))
    except (UsageError, ZeroDivisionError):
        pass  # the stated peak is missing or was passed: a share of it would say nothing
    if compute.expert > 1 and steps:
        found.append(_busiest(steps, compute))
    forward_s = sum(max(worker.step_s for worker in each.workers) for each in steps)
    if ended_s > 0:
        found.append(exactly("goodput", "share", min(1.0, forward_s / ended_s)))
    return found


def counts_of(
    folder: Path,
    steps: Sequence[Step],
    samples: Mapping[int, Sequence[int]],
    tokens_per_sample: int,
    compute: ComputePlan | None = None,
) -> dict[str, int]:
    """Exact counts of the committed history, from the observers' logs.

    FLOPs and collectives are those of one worker: the one that speaks for the plan `compute`, by default the first.
    Where workers share experts, what each has to do is the router's choice: the mean over those that share them.
    """
    read = sum(len(samples.get(step.number, ())) for step in steps)
    counts = {"steps": len(steps), "samples": read, "tokens": read * tokens_per_sample}
    flops = {event.data["rank"]: event.data for event in read_kind(folder, "flops")}
    speaking = [_speaking(step, compute) for step in steps]
    members = compute.expert if compute else 1
    known = [flops[worker.rank] for worker in speaking[-1] if worker.rank in flops] if steps else []
    if known:
        counts["matmul_flops"] = sum(one["matmul"] for one in known) * len(steps) // members
        counts["attention_flops"] = sum(one["attention"] for one in known) * len(steps) // members
    counts["collective_bytes"] = sum(worker.collective_bytes for each in speaking for worker in each) // members
    counts["collective_calls"] = sum(worker.collective_calls for each in speaking for worker in each) // members
    if (read := read_kind(folder, "read")) and all(step.attempt == 0 for step in steps):
        counts["shards_opened"] = sum(event.data["opened"] for event in read)
        counts["cache_hits"] = sum(event.data["opened"] - event.data["fetched"] for event in read)
    committed = {event.data["step"]: event.data["bytes"] for event in read_kind(folder, "checkpoint")}
    counts["checkpoint_bytes"] = sum(committed.values())
    counts["checkpoints"] = len(committed)
    return counts


def _longest_wait_s(steps: Sequence[Step]) -> float:
    """Seconds of the run that the worker which waited longest for its data did so."""
    waited: dict[int, float] = {}
    for step in steps:
        for worker in step.workers:
            waited[worker.rank] = waited.get(worker.rank, 0.0) + worker.seconds["input"]
    return max(waited.values())


def _busiest(steps: Sequence[Step], compute: ComputePlan) -> Metric:
    """Of the rows of the last stage's first ranks that share the experts, the busiest's: mean of mixtures and steps."""
    shares: list[float] = []
    for step in steps:
        for rows in zip(*(worker.received for worker in _speaking(step, compute)), strict=True):
            each = [sum(of_experts) for of_experts in rows]
            shares += [max(each) / sum(each)] if sum(each) else []  # another stage has this mixture
    return replace(_mean("busiest_share", shares), unit="share")


def _speaking(step: Step, compute: ComputePlan | None) -> Sequence[WorkerStep]:
    """The ones whose mean speaks for plan `compute`: one, or those that share the experts; without it the first."""
    if compute is None:
        return step.workers[:1]
    first = Layout.of(compute, len(step.workers)).voice
    return step.workers[first : first + compute.expert * compute.tensor : compute.tensor]


def middle_half(workers: Sequence[WorkerStep], period: int = 1) -> list[WorkerStep]:
    """The steps left when the quickest and the slowest quarter of periods are put aside; all without a whole period."""
    periods = [list(workers[at : at + period]) for at in range(0, len(workers) - period + 1, period)] or [list(workers)]
    ordered = sorted(periods, key=lambda steps: sum(worker.step_s for worker in steps))
    aside = len(ordered) // 4
    return [worker for steps in ordered[aside : len(ordered) - aside] for worker in steps]


def _mean(name: str, values: Sequence[float]) -> Metric:
    """The mean with the 90 % interval of a mean."""
    count = max(1, len(values))
    mean = sum(values) / count
    spread = (sum((value - mean) ** 2 for value in values) / max(1, count - 1)) ** 0.5
    half = NORMAL_90 * spread / count**0.5
    return Metric(name, "seconds", mean, max(0.0, mean - half), mean + half, Label.MEASURED)


def _median(name: str, values: Sequence[float]) -> Metric:
    return Metric(name, "seconds", median(values), *median_interval(values), Label.MEASURED)
