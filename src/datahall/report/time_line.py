"""From the steps that workers logged to what is drawn: stretches of time by component, and the loss curve.

`real.measure` reads the logs; nothing is measured here.  A collective that is under way while its worker still computes
is "overlapped": it costs the step nothing, and only what follows is transfer.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from datahall.base.units import human
from datahall.real.measure import Step, WorkerStep, read_steps
from datahall.report.data import LossCurve, Span

_COMPONENT_OF = {
    "forward": "compute",
    "backward": "compute",
    "input": "input",
    "optimiser": "optimiser",
    "checkpoint": "checkpoint",
    "copying": "checkpoint",
}


def read_logs(folder: Path) -> tuple[Step, ...]:
    """The committed steps of the play in `folder`, or of the first of its repetitions; none if nothing was logged."""
    for place in (folder, *sorted(path for path in folder.glob("*") if path.is_dir())):
        if (place / "workers").is_dir():
            return read_steps(place)
    return ()


def spans_of(steps: Sequence[Step]) -> tuple[Span, ...]:
    """The workers' stretches of time, by worker and beginning."""
    spans = [span for step in steps for worker in step.workers for span in _spans(step, worker)]
    return tuple(sorted(spans, key=lambda span: (span.worker, span.start_s)))


def loss_curve(name: str, steps: Sequence[Step]) -> tuple[LossCurve, ...]:
    """The loss of one play by step, and where a restart went on; nothing if there are no steps."""
    if not steps:
        return ()
    resumed = [step.number for before, step in pairwise(steps) if before.attempt != step.attempt]
    numbers, losses = tuple(step.number for step in steps), tuple(step.loss for step in steps)
    return (LossCurve(name, numbers, losses, tuple(resumed)),)


def one_step(spans: Sequence[Span]) -> tuple[Span, ...]:
    """The spans of a typical step: of median length, with all workers, without a checkpoint where there is such."""
    steps: dict[int, list[Span]] = {}
    for span in spans:
        if span.step >= 0:
            steps.setdefault(span.step, []).append(span)
    if not steps:
        return ()
    workers = max(len({span.worker for span in group}) for group in steps.values())
    whole = [group for group in steps.values() if len({span.worker for span in group}) == workers]
    plain = [group for group in whole if all(span.component != "checkpoint" for span in group)]
    ordered = sorted(plain or whole, key=_length_s)
    return tuple(ordered[len(ordered) // 2])


def _spans(step: Step, worker: WorkerStep) -> list[Span]:
    starts = [begin for one in step.workers for phase, begin, _ in one.phases if phase == "exchange"]
    everybody_s = max(starts, default=0.0)
    spans: list[Span] = []
    computed_s = worker.begin_s
    for phase, begin, end in worker.phases:
        if phase == "exchange":
            computed_s = begin
            arrived = min(max(everybody_s, begin), end)
            spans.append(Span(worker.rank, "waiting", "for the last worker", begin, arrived, step.number))
            spans.append(Span(worker.rank, "transfer", "exchange", arrived, end, step.number))
        else:
            spans.append(Span(worker.rank, _COMPONENT_OF.get(phase, "other"), phase, begin, end, step.number))
    for count, handed, done in worker.transfers:
        hidden = Span(worker.rank, "overlapped", human(count, "bytes"), handed, min(done, computed_s), step.number)
        spans.append(hidden)
    return [span for span in spans if span.end_s > span.start_s]


def _length_s(spans: Sequence[Span]) -> float:
    return max(span.end_s for span in spans) - min(span.start_s for span in spans)
