"""From the workers' logs to a measurement: steps by component, losses, samples, counts.

Worker clocks are one clock (the machine's monotonic one), so the arrival of every worker at a collective is compared
directly.  Only the committed history counts: of a step that was run again after a restart, the last run.

A step's seconds, per worker, add up: compute (forward and backward), waiting (from my last gradient to everybody's),
transfer (from everybody's last gradient to the end of the exchange), input, optimiser, and "other", the rest (mainly
writing the log); with fast recovery also agreeing on who takes part.  A checkpoint's stall is apart from the step: the
call after it, and of a background save the wait for its copy before the next update.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datahall.base.event import Event, read_events
from datahall.base.score import NORMAL_90

COMPONENTS: tuple[str, ...] = ("compute", "transfer", "waiting", "input", "optimiser", "other")
AGREEING = "agreeing"  # a phase and a component that only runs with fast recovery have
_COMPONENT_OF = {"forward": "compute", "backward": "compute", "input": "input", "optimiser": "optimiser"}
_COMPONENT_OF[AGREEING] = AGREEING
STEADY_FROM = 2  # steps of an attempt that are still warming up


@dataclass(frozen=True, slots=True)
class WorkerStep:
    """One worker's step: when it began, what each component took, its phases for a time line, what it handed over."""

    rank: int
    begin_s: float
    end_s: float
    seconds: Mapping[str, float]
    checkpoint_s: float
    phases: tuple[tuple[str, float, float], ...]
    transfers: tuple[tuple[int, float, float], ...]
    loss: float | None  # None where it was not noted, or is on another pipeline stage
    collective_calls: int
    collective_bytes: int
    cpu_s: float
    kinds: Mapping[str, tuple[int, int]]  # calls and bytes by kind of collective
    received: tuple[tuple[int, ...], ...] = ()  # rows of each of its experts, by mixture, by the routers' own record

    @property
    def step_s(self) -> float:
        """The step without a checkpoint, to the beginning of the next one."""
        return sum(self.seconds.values())


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the committed history, on all its workers."""

    number: int
    attempt: int
    position: int  # in its attempt, from 0
    workers: tuple[WorkerStep, ...]

    @property
    def loss(self) -> float:
        """The mean loss over the global batch; NaN where nobody noted one."""
        known = [worker.loss for worker in self.workers if worker.loss is not None]
        return sum(known) / len(known) if known else float("nan")

    @property
    def steady(self) -> bool:
        """Past the warm-up of its attempt."""
        return self.position >= STEADY_FROM


def read_steps(folder: Path) -> tuple[Step, ...]:
    """The committed steps of the run in `folder`, in order."""
    by_step: dict[tuple[int, int], dict[int, Event]] = {}
    followers: dict[tuple[int, int, int], float] = {}
    for rank, events in _logs(folder):
        for event in events:
            if event.kind == "step":
                by_step.setdefault((event.data["step"], event.data["attempt"]), {})[rank] = event
                begin = (event.data["attempt"], event.data["step"] - 1, rank)
                followers[begin] = event.data["marks"][0][1]
            elif event.kind == "loop_ended":
                followers[event.data["attempt"], event.data["step"], rank] = event.time_s
    latest = {number: attempt for number, attempt in sorted(by_step)}
    first_of = {attempt: min(n for n, a in by_step if a == attempt) for _, attempt in by_step}
    return tuple(
        Step(number, attempt, number - first_of[attempt], _merge(number, attempt, by_step[number, attempt], followers))
        for number, attempt in sorted(latest.items())
    )


def read_samples(folder: Path) -> dict[int, list[int]]:
    """The samples that each committed step read, by the loader's own log, in the order of the global batch."""
    by_step: dict[int, dict[int, dict[int, list[int]]]] = {}
    for path in sorted((folder / "workers").glob("loader-*.jsonl"), key=_rank_of):
        for line in path.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                entry = json.loads(line)
                attempt = by_step.setdefault(entry["step"], {}).setdefault(entry["attempt"], {})
                attempt.setdefault(_rank_of(path), []).extend(entry["ids"])
    last = {step: attempts[max(attempts)] for step, attempts in by_step.items()}
    return {step: [ids for rank in sorted(last[step]) for ids in last[step][rank]] for step in sorted(last)}


def read_kind(folder: Path, kind: str) -> list[Event]:
    """All workers' events of one kind, by time."""
    found = [event for _, events in _logs(folder) for event in events if event.kind == kind]
    return sorted(found, key=lambda event: event.time_s)


def stalls(steps: Sequence[Step]) -> list[float]:
    """Seconds that each checkpoint held the loop, on the worker that it held longest."""

    def seconds(worker: WorkerStep, wanted: str) -> float:
        return sum(end - begin for phase, begin, end in worker.phases if phase == wanted)

    found: list[float] = []
    for step, after in zip(steps, [*steps[1:], None], strict=False):
        waited = {worker.rank: seconds(worker, "copying") for worker in after.workers} if after else {}
        held = [(seconds(worker, "checkpoint"), waited.get(worker.rank, 0.0)) for worker in step.workers]
        if any(call for call, _ in held):
            found.append(max(call + wait for call, wait in held))
    return found


def slowing(steps: Sequence[Step], saves: Sequence[tuple[float, float]]) -> list[float]:
    """Seconds by which the steps beside each background save were longer, against the middle one of the others.

    `saves` are their beginnings and ends; nothing where no steady step is beside none of them.
    """
    steady = [step.workers[0] for step in steps if step.steady]
    beside = [[worker for worker in steady if began <= worker.begin_s < ended] for began, ended in saves]
    taken = {id(worker) for group in beside for worker in group}
    others = [worker.step_s for worker in steady if id(worker) not in taken]
    return [sum(worker.step_s - median(others) for worker in group) for group in beside if group] if others else []


def median(values: Sequence[float]) -> float:
    """The middle value, or the mean of the two in the middle; 0 of none."""
    ordered = sorted(values)
    half = len(ordered) // 2
    if not ordered:
        return 0.0
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """A 90 % interval of the median from order statistics (no assumption about the distribution)."""
    ordered = sorted(values)
    if not ordered:
        return 0.0, 0.0
    spread = NORMAL_90 * len(ordered) ** 0.5 / 2
    low = max(0, int(len(ordered) / 2 - spread))
    high = min(len(ordered) - 1, int(len(ordered) / 2 + spread))
    return ordered[low], ordered[high]


def _logs(folder: Path) -> Iterable[tuple[int, list[Event]]]:
    for path in sorted((folder / "workers").glob("[0-9]*.jsonl"), key=_rank_of):
        yield _rank_of(path), list(read_events(path))


def _rank_of(path: Path) -> int:
    return int(path.stem.removeprefix("loader-"))


def _merge(
    number: int, attempt: int, events: Mapping[int, Event], followers: Mapping[tuple[int, int, int], float]
) -> tuple[WorkerStep, ...]:
    arrivals: dict[int, float] = {}
    for event in events.values():
        group = event.data.get("group", 0)
        found = [at for phase, at in event.data["marks"] if phase == "exchange"]
        arrivals[group] = max([*found, arrivals.get(group, 0.0)])
    return tuple(
        _worker_step(
            rank, event.data, arrivals[event.data.get("group", 0)], followers.get((attempt, number, rank), event.time_s)
        )
        for rank, event in sorted(events.items())
    )


def _worker_step(rank: int, data: Mapping[str, Any], everybody_s: float, next_begin_s: float) -> WorkerStep:
    marks: list[tuple[str, float]] = [(phase, at) for phase, at in data["marks"]]
    ends = [at for _, at in marks[1:]] + [next_begin_s]
    phases = [(phase, begin, end) for (phase, begin), end in zip(marks, ends, strict=True)]
    seconds: dict[str, float] = dict.fromkeys(COMPONENTS, 0.0)
    checkpoint_s = 0.0
    for phase, begin, end in phases:
        if phase == "exchange":
            arrived = min(max(everybody_s, begin), end)
            seconds["waiting"] += arrived - begin
            seconds["transfer"] += end - arrived
        elif phase in ("checkpoint", "copying"):
            checkpoint_s += end - begin
        else:
            component = _COMPONENT_OF.get(phase, "other")
            seconds[component] = seconds.get(component, 0.0) + end - begin
    _take_out_blocked(seconds, data)
    return WorkerStep(
        rank=rank,
        begin_s=marks[0][1],
        end_s=next_begin_s,
        seconds=seconds,
        checkpoint_s=checkpoint_s,
        phases=tuple(phases),
        transfers=tuple((count, handed, done) for count, handed, done in data["transfers"]),
        loss=data["loss"],
        collective_calls=data["calls"],
        collective_bytes=data["bytes"],
        cpu_s=data["cpu_s"],
        kinds={kind: (calls, count) for kind, (calls, count) in data.get("kinds", {}).items()},
        received=tuple(tuple(rows) for rows in data.get("received", ())),
    )


def _take_out_blocked(seconds: dict[str, float], data: Mapping[str, Any]) -> None:
    """Seconds in which a worker was blocked by a transfer are neither arithmetic nor the optimiser's.

    Blocked by what its stage does together (tensor ranks, ZeRO, experts, context ranks) it is in a transfer; by what
    comes from or goes to another stage it waits for that.
    """
    blocked = min(data.get("blocked_s", 0.0), seconds["compute"])
    for_stages = min(data.get("stages_s", 0.0), blocked)
    seconds["compute"] -= blocked
    seconds["waiting"] += for_stages
    seconds["transfer"] += blocked - for_stages
    updating = min(data.get("update_blocked_s", 0.0), seconds["optimiser"])
    seconds["optimiser"] -= updating
    seconds["transfer"] += updating
