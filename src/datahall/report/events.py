"""Read workers' event logs: stretches of time by component, and losses by step.

A span is an event of kind "span" with worker, component, name, start_s, end_s (or seconds, counted back from the
event's time) and step; a loss is an event with step and loss.  Other kinds are left to others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from datahall.base.event import Event, read_events
from datahall.report.data import LossCurve, Span

RESUMED_KINDS = frozenset({"resume", "resumed", "restart", "restarted"})


def read_logs(folder: Path) -> tuple[Event, ...]:
    """All events of the logs in `folder`, by time; none if there is no folder."""
    events = [event for path in sorted(folder.rglob("*events.jsonl")) for event in read_events(path)]
    return tuple(sorted(events, key=lambda event: event.time_s))


def spans_of(events: Iterable[Event]) -> tuple[Span, ...]:
    """The spans among `events`, by worker and time."""
    spans = [_span(event) for event in events if "component" in event.data]
    return tuple(sorted(spans, key=lambda span: (span.worker, span.start_s)))


def losses_of(name: str, events: Sequence[Event]) -> tuple[LossCurve, ...]:
    """The loss curve of one play, the lowest worker's, or nothing.  A step that was repeated counts as last seen."""
    seen = [event for event in events if "loss" in event.data and "step" in event.data]
    if not seen:
        return ()
    worker = min(int(event.data.get("worker", 0)) for event in seen)
    losses = {
        int(event.data["step"]): float(event.data["loss"]) for event in seen if event.data.get("worker", 0) == worker
    }
    resumed = {int(event.data.get("step", 0)) for event in events if event.kind in RESUMED_KINDS}
    return (
        LossCurve(name, tuple(sorted(losses)), tuple(losses[step] for step in sorted(losses)), tuple(sorted(resumed))),
    )


def one_step(spans: Sequence[Span]) -> tuple[Span, ...]:
    """The spans of a typical step: the one whose length is the median among steps with the most workers."""
    steps: dict[int, list[Span]] = {}
    for span in spans:
        if span.step >= 0:
            steps.setdefault(span.step, []).append(span)
    if not steps:
        return ()
    workers = max(len({span.worker for span in group}) for group in steps.values())
    whole = [group for group in steps.values() if len({span.worker for span in group}) == workers]
    whole.sort(key=lambda group: max(span.end_s for span in group) - min(span.start_s for span in group))
    return tuple(whole[len(whole) // 2])


def _span(event: Event) -> Span:
    data = event.data
    end_s = float(data.get("end_s", event.time_s))
    start_s = float(data["start_s"]) if "start_s" in data else end_s - float(data.get("seconds", 0.0))
    component = str(data["component"])
    return Span(
        int(data.get("worker", 0)),
        component,
        str(data.get("name", component)),
        start_s,
        end_s,
        int(data.get("step", -1)),
    )
