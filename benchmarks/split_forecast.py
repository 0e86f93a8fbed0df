"""The sealed forecast of every split beside its measurement: step by component, peak memory by item, the bubble.

    python benchmarks/split_forecast.py [--model mlp] [--steps 12] [NAME ...]      (about five minutes)

One probe of this machine, then each split of a language model whose shape the constants of
`calibrate.eager_splits` have not seen.  Nothing is fitted here: every forecast rests on the probe alone.  A perceptron
and a recommender of embeddings have no formulas; each of their splits is rehearsed before its forecast is sealed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from datahall.base.metric import Metric
from datahall.calibrate.machine import Machine
from datahall.case.local import guessed_site
from datahall.case.model import ModelShape
from datahall.case.question import Case, Goal, Training
from datahall.compute.plan import ComputePlan
from datahall.decisions.plan import Plan
from datahall.network.plan import NetworkPlan
from datahall.prove.sealed_run import Here, SealedRun, sealed_run
from datahall.real.measure import median
from datahall.real.probe import probe
from datahall.real.turns import load_average
from datahall.storage.plan import StoragePlan

TWO = ComputePlan(data=2, micro_batch=4, accumulation=2, precision="fp32", sequence_parallel=False)
PIPE = ComputePlan(pipeline=2, micro_batch=4, accumulation=4, precision="fp32", sequence_parallel=False)
SPLITS = {
    "one process": replace(TWO, data=1, accumulation=4),
    "data x 2": TWO,
    "ZeRO-1": replace(TWO, zero_stage=1),
    "ZeRO-2": replace(TWO, zero_stage=2),
    "ZeRO-3": replace(TWO, zero_stage=3),
    "ZeRO-3 recomputed": replace(TWO, zero_stage=3, recompute="full"),
    "ZeRO-3 bf16": replace(TWO, zero_stage=3, precision="bf16"),
    "tensor x 2": replace(TWO, data=1, tensor=2, micro_batch=8),
    "GPipe, 2 stages": replace(PIPE, schedule="gpipe"),
    "1F1B, 2 stages": PIPE,
    "interleaved, 2 x 2": replace(PIPE, virtual_stages=2, schedule="interleaved"),
    "data x 4": replace(TWO, data=4, accumulation=1),
    "hybrid 2 x 2": replace(TWO, data=4, zero_stage=3, shard_group=2, accumulation=1),
    "1F1B, 4 stages": replace(PIPE, pipeline=4, micro_batch=2, accumulation=8),
    "data x tensor": replace(TWO, tensor=2, accumulation=2),
    "data x pipeline": replace(PIPE, data=2, micro_batch=2),
    "sequence x 2": replace(TWO, data=1, tensor=2, micro_batch=8, sequence_parallel=True),
    "tensor x pipeline": replace(PIPE, tensor=2),
    "sequence x pipeline": replace(PIPE, tensor=2, sequence_parallel=True),
    "zero-bubble, 2 stages": replace(PIPE, schedule="zero-bubble"),
    "zero-bubble, 2 x 2": replace(PIPE, virtual_stages=2, schedule="zero-bubble"),
    "ZeRO-3 x zero-bubble": replace(PIPE, data=2, micro_batch=2, zero_stage=3, schedule="zero-bubble"),
    "context x 2": replace(TWO, data=1, context=2, micro_batch=8),
    "data x context": replace(TWO, context=2, micro_batch=4),
    "ZeRO-3 x context": replace(TWO, data=1, context=2, micro_batch=8, zero_stage=3),
    "ZeRO-1 x tensor": replace(TWO, tensor=2, zero_stage=1),
    "ZeRO-3 x tensor": replace(TWO, tensor=2, zero_stage=3),
    "ZeRO-1 x pipeline": replace(PIPE, data=2, micro_batch=2, zero_stage=1),
    "ZeRO-2 x pipeline": replace(PIPE, data=2, micro_batch=2, zero_stage=2),
    "ZeRO-3 x pipeline": replace(PIPE, data=2, micro_batch=2, zero_stage=3),
    "cores recomputed": replace(TWO, recompute="selective"),
}
# For a recommender: two tables and a tower.
TOO_MANY_STAGES = ("interleaved, 2 x 2", "zero-bubble, 2 x 2", "1F1B, 4 stages")
MIXED = {
    "expert x 2": replace(TWO, expert=2),
    "data x 4, expert x 2": replace(TWO, data=4, expert=2, accumulation=1),
    "ZeRO-1 x expert": replace(TWO, expert=2, zero_stage=1),
    "ZeRO-3 x expert": replace(TWO, expert=2, zero_stage=3),
    "expert x pipeline": replace(PIPE, data=2, expert=2, micro_batch=2),
    "expert x tensor": replace(TWO, tensor=2, expert=2, sequence_parallel=True),
    "expert x context": replace(TWO, context=2, expert=2),
    "ZeRO-1 x expert x pipeline": replace(PIPE, data=2, expert=2, micro_batch=2, zero_stage=1),
}
# Mixtures, without expert ranks.
WHOLE = ("one process", "data x 2", "ZeRO-1", "ZeRO-3", "1F1B, 2 stages", "tensor x 2", "sequence x 2", "context x 2")
PLAIN = tuple(
    name for name in SPLITS if not any(word in name for word in ("recomputed", "bf16", "sequence", "context"))
)
COMPONENTS = ("compute", "transfer", "waiting", "optimiser")


@dataclass(frozen=True)
class Subject:
    """A model, its batch, and by which splits it is run; `many` times the samples of SPLITS in a micro-batch."""

    shape: ModelShape
    sequence: int
    many: int
    what: str
    entry: str = ""
    splits: tuple[str, ...] = tuple(SPLITS)

    @property
    def batch(self) -> int:
        """Samples a step."""
        return 16 * self.many


SUBJECTS = {
    "language-model": Subject(
        ModelShape("held-out", layers=4, hidden=192, heads=6, kv_heads=2, head_dim=32, ffn=512, vocab=256),
        96,
        1,
        "Language model",
    ),
    "mlp": Subject(
        ModelShape("perceptron", layers=4, hidden=384, heads=1, kv_heads=1, head_dim=64, ffn=1024, vocab=10),
        1,
        16,
        "Perceptron",
        "datahall.workloads.mlp:build",
        PLAIN,
    ),
    "recommender": Subject(
        ModelShape("recommender", layers=1, hidden=32, heads=1, kv_heads=1, head_dim=32, ffn=64, vocab=40_000),
        1,
        64,
        "Recommender of embeddings",
        "datahall.workloads.recommender:build",
        tuple(name for name in PLAIN if name not in TOO_MANY_STAGES),
    ),
    "mixture": Subject(
        ModelShape(
            "mixture",
            layers=4,
            hidden=160,
            heads=6,
            kv_heads=6,
            head_dim=32,
            ffn=256,
            vocab=256,
            experts=4,
            experts_per_token=2,
            dense_layers=1,
            dense_ffn=448,
            router_balance=True,
        ),
        112,
        1,
        "Mixture of experts",
        splits=(*WHOLE, *MIXED),
    ),
}


def main() -> int:
    """Probe, forecast and run every split, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"Of {', '.join([*SPLITS, *MIXED])}.")
    parser.add_argument("--model", choices=list(SUBJECTS), action="append")
    parser.add_argument("--steps", type=int, default=12)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="datahall-splits-") as folder:
        probed = probe(Path(folder) / "probe")
        here = Here(probed.site, Machine(probed.rates), "probe")
        for number, model in enumerate(given.model or ["language-model"]):
            print("" if number == 0 else "\n", end="")
            _judge(SUBJECTS[model], given.names, given.steps, here, Path(folder) / model)
    return 0


def _judge(subject: Subject, names: list[str], steps: int, here: Here, folder: Path) -> None:
    load = load_average()
    tokens = float(subject.batch * subject.sequence * steps)
    application = Training(tokens, subject.batch, subject.sequence, entry=subject.entry)
    case = Case("held-out", subject.shape, application, guessed_site()[0], Goal())
    done: dict[str, SealedRun] = {}
    for name in names or subject.splits:
        print(subject.what, name, file=sys.stderr, flush=True)
        split = {**SPLITS, **MIXED}[name]
        compute = replace(split, micro_batch=split.micro_batch * subject.many)
        plan = Plan(compute, StoragePlan(), NetworkPlan(), case.hash())
        done[name] = sealed_run(case, plan, here, folder / name.replace(" ", "-"))
    _steps(done)
    _memory(done)
    _bubbles(done)
    _scaling(done)
    millions = next(iter(done.values())).memory.items["weights"] / 4e6
    print(
        f"\n{subject.what} of {millions:.1f} M parameters, {subject.batch} samples of {subject.sequence} a step; "
        f"{steps} steps each; {here.site.devices} cores; load average {load:.1f} before, {load_average():.1f} "
        "after.  Milliseconds and MB; forecast/measured."
    )


def _steps(done: dict[str, SealedRun]) -> None:
    print("| split | step, 90 % interval | measured | error | " + " | ".join(COMPONENTS) + " | counts |")
    print("|---|---:|---:|---:|" + "---:|" * len(COMPONENTS) + "---|")
    errors: list[float] = []
    inside = 0
    for name, one in done.items():
        said, seen = one.forecast.metrics, one.measured.result.metrics
        step = said["step_time"]
        errors.append(step.value / seen["step_time"].value - 1.0)
        inside += step.low <= seen["step_time"].value <= step.high
        parts = " | ".join(_pair(said[part], seen[part]) for part in COMPONENTS)
        wrong = [row.name for row in one.comparison.counts if row.equal is False and row.decided_by == "datahall"]
        print(
            f"| {name} | {1e3 * step.value:.0f} ({1e3 * step.low:.0f} to {1e3 * step.high:.0f}) | "
            f"{1e3 * seen['step_time'].value:.0f} | {errors[-1]:+.0%} | {parts} | {', '.join(wrong) or 'equal'} |"
        )
    typical = median([abs(error) for error in errors])
    print(f"\nMedian error of the step {typical:.0%}; {inside} of {len(done)} inside the 90 % interval.\n")


def _memory(done: dict[str, SealedRun]) -> None:
    items = ("weights", "gradients", "optimiser", "activations", "buffers")
    print("| split | " + " | ".join(items) + " | all | measured peak | error |")
    print("|---|" + "---:|" * (len(items) + 3))
    errors: list[float] = []
    for name, one in done.items():
        total, peak = sum(one.memory.items.values()), max(one.memory.measured_peak_bytes)
        errors.append(total / peak - 1.0)
        parts = " | ".join(f"{one.memory.items.get(item, 0.0) / 1e6:.0f}" for item in items)
        print(f"| {name} | {parts} | {total / 1e6:.0f} | {peak / 1e6:.0f} | {errors[-1]:+.0%} |")
    print(f"\nMedian error of the peak {median([abs(error) for error in errors]):.0%}.\n")


def _bubbles(done: dict[str, SealedRun]) -> None:
    if all(one.bubble is None for one in done.values()):
        return
    print("| pipeline | bubble by the formula | by the order of the work done | clock, forecast | clock, measured |")
    print("|---|---:|---:|---:|---:|")
    for name, one in done.items():
        if one.bubble is not None:
            bubble = one.bubble
            print(
                f"| {name} | {bubble.formula:.1%} | {bubble.by_order:.1%} | {bubble.clock_forecast:.1%} | "
                f"{bubble.by_clock:.1%} |"
            )


def _scaling(done: dict[str, SealedRun]) -> None:
    """What two and four workers bring beside one process, data-parallel: forecast and measurement."""
    if "one process" not in done or "data x 2" not in done:
        return
    print("\n| workers | times as fast as one, forecast | measured | error |")
    print("|---|---:|---:|---:|")
    alone = done["one process"]
    for name in ("data x 2", "data x 4"):
        if name in done:
            said, seen = (
                one.metrics["step_time"].value / many.metrics["step_time"].value
                for one, many in (
                    (alone.forecast, done[name].forecast),
                    (alone.measured.result, done[name].measured.result),
                )
            )
            print(f"| {name} | {said:.2f} | {seen:.2f} | {said / seen - 1.0:+.0%} |")


def _pair(said: Metric, seen: Metric) -> str:
    return f"{1e3 * said.value:.0f}/{1e3 * seen.value:.0f}"


if __name__ == "__main__":
    sys.exit(main())
