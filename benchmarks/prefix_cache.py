"""A prefix cache that wins and prefix caches that lose: said before each run, and what the run then said.

    python benchmarks/prefix_cache.py [--requests N] [--no-pretrained]

Prompts are pieces of the standard library's text.  Every batch runs with the cache and without, in turn; hits, bytes
and tokens are counted by observers of their own and must be equal.  Prints Markdown; progress goes to stderr.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch
from storage_shaped import ShapedPlace

from datahall.base.units import human
from datahall.case import load
from datahall.case.generation import Generation, PrefixWish
from datahall.case.question import Case
from datahall.prove.generation_trial import WORD_BYTES, GenerationTrial, probed, trial
from datahall.real.generation import Generator
from datahall.storage.cache import che_hit_share
from datahall.storage.eviction import POLICIES
from datahall.storage.place import LocalPlace, Place
from datahall.storage.plan import PrefixPlan
from datahall.storage.prefix import prefix_index, replay_prompts
from datahall.storage.prefix_estimate import held_token_bytes
from datahall.virtual.generation import Batches, GenerationCosts
from datahall.workloads.decoding import generating_model
from datahall.workloads.pretrained import weights_home
from datahall.workloads.prompts import batches_of

CASES = Path(__file__).parent.parent / "cases"
BLOCK = 32
BEGINS = 6  # beginnings of the prompts that have some: more than a small cache holds
SHARED, PROMPT = 256, 320
HEADER = (
    "| prompts | memory | policy | slower tier | said before | blocks found forecast | counted | bytes held forecast "
    "| counted | prefill s forecast | measured | fetching and keeping s forecast | measured | first token ms forecast "
    "| measured | token ms forecast | measured | saved s forecast | measured | agrees |\n" + "|---" * 20 + "|"
)


class Bench:
    """One model with what it takes, and the rows so far."""

    def __init__(self, case: Case, folder: Path, requests: int) -> None:
        self.case, self.folder, self.requests = case, folder, requests
        self.model = generating_model(case)
        self.done: list[GenerationTrial] = []
        shape = self.model.shape
        self.token_bytes = int(held_token_bytes(shape.layers, shape.kv_heads, shape.head_dim, WORD_BYTES))
        self.costs: dict[str, GenerationCosts] = {}

    def run(self, kind: str, begins_held: float, policy: str, tier: str = "", place: Place | None = None) -> str:
        """A row: a cache as large as so many beginnings."""
        memory = int(begins_held * SHARED) * self.token_bytes
        cache = PrefixWish(memory, policy, BLOCK, "always", tier, 1 << 30 if tier else 0)
        wanted = Generation(kind, self.requests, PROMPT, SHARED, BEGINS, 8, 3, cache)
        batches = batches_of(self.case, wanted)
        if tier not in self.costs:
            self.costs[tier] = probed(self.model, batches, wanted, place)
        where = self.folder / str(len(self.done))
        where.mkdir(parents=True)
        one = trial(self.model, batches, wanted, where, place=place, costs=self.costs[tier])
        self.done.append(one)
        row = _row(kind, memory, policy, tier or "none", one)
        print(
            f"{kind}, {human(memory, 'bytes')}, {policy}, {tier or 'no tier'}: {one.verdict.sentence()}",
            file=sys.stderr,
        )
        return row

    def rows(self, policies: Iterable[str]) -> list[str]:
        """What wins and what loses."""
        every, folder = list(policies), self.folder
        found = [self.run("shared", BEGINS + 2, policy) for policy in every]
        found += [self.run("shared", 2, policy) for policy in every]
        found.append(self.run("shared", 2, "lru", "local disk", LocalPlace(folder / "disk")))
        even = self.done[-1].verdict.turn.least_of_all_bytes_per_s
        for factor in (4.0, 0.25) if math.isfinite(even) and even else ():
            name = f"{human(factor * even, 'bytes_per_s')}, {factor:g} of break-even"
            place = ShapedPlace(folder / f"shaped-{factor}", factor * even)
            found.append(self.run("shared", 2, "lru", name, place))
        found.append(self.run("apart", 0.5, "lru"))
        found.append(self.run("apart", 0.5, "lru", "local disk", LocalPlace(folder / "disk")))
        return found

    def summary(self) -> list[str]:
        """Break-even points, errors of all rows, and whether counts were equal."""
        equal = all(count.equal for one in self.done for count in one.comparison.counts)
        tiered = [one.verdict.turn for one in self.done if one.verdict.plan.tier_bytes]
        lines = ["", *(tiered[0].sentences(tier=True) if tiered else self.done[0].verdict.turn.sentences(tier=False))]
        costs = self.costs[""]
        lines.append(
            "Half intervals, from sizes left out of the fit:"
            f" prefill {100 * costs.prompt_spread:.0f} %, a token {100 * costs.step_spread:.0f} %."
        )
        for name in ("prefill", "decode", "first_token", "total_time"):
            rows = [one.comparison.row(name) for one in self.done]
            errors = [abs(row.error_share) for row in rows if row.error_share is not None]
            inside = sum(row.within_interval for row in rows)
            lines.append(
                f"{name}: median error {100 * statistics.median(errors):.1f} %, {inside} of {len(rows)} inside."
            )
        lines.append(f"All counts equal, answers with a cache and without too: {'yes' if equal else '**no**'}.")
        return lines


def _row(kind: str, memory: int, policy: str, tier: str, one: GenerationTrial) -> str:
    row = one.comparison.row
    count = {entry.name: entry for entry in one.comparison.counts}
    cells = [kind, human(memory, "bytes"), policy, tier, "use it" if one.verdict.pays else "**do not**"]
    for name in ("hit_blocks", "bytes_held"):
        cells += [f"{count[name].forecast:,}", f"{count[name].measured:,}"]
    moved = [sum(getattr(row(name), side) for name in ("fetching", "keeping")) for side in ("forecast", "measured")]
    cells += [f"{row('prefill').forecast:.2f}", f"{row('prefill').measured:.2f}", *(f"{value:.3f}" for value in moved)]
    for name in ("first_token", "token_time"):
        cells += [f"{1e3 * row(name).forecast:.1f}", f"{1e3 * row(name).measured:.1f}"]
    cells += [f"{row('saved').forecast:+.3f}", f"{row('saved').measured:+.3f}", _agrees(one)]
    return "| " + " | ".join(cells) + " |"


def _agrees(one: GenerationTrial) -> str:
    """Whether the run saved or lost as was said.  Where nothing is found both runs read the same, and what moving took
    is the loss: the difference of their seconds is chance.
    """
    saved = one.comparison.row("saved")
    if not any(count.measured for count in one.comparison.counts if count.name == "hit_blocks"):
        return "yes, nothing found" if saved.forecast < 0 else "**no**"
    if saved.measured_low <= 0 <= saved.measured_high:
        return "within noise"
    return "yes" if saved.forecast * saved.measured > 0 else "**no**"


def independent(bench: Bench, asked: int, share_held: float = 0.2, different: int = 120) -> list[str]:
    """Prompts of one block asked for by fixed chances: Che's approximation, the replay, the real cache."""
    chance, weights = random.Random(0), [1 / (n + 1) for n in range(different)]
    batches: Batches = [[[n, *[7] * 16]] for n in chance.choices(range(different), weights, k=asked)]
    size = 16 * bench.token_bytes
    lines = ["", "| policy | blocks found by Che's approximation | by the replay | counted |", "|---|---|---|---|"]
    for policy in POLICIES:
        plan = PrefixPlan(int(share_held * different) * size, policy, 16)
        replayed = replay_prompts(prefix_index(plan, bench.token_bytes), batches, 16)
        found = sum(visit.found.blocks for batch in replayed for visit in batch)
        generator = Generator(bench.model, plan)
        for batch in batches:
            generator.batch(batch, 1)
        counted = (generator.done.prompt_tokens - generator.done.tokens_read) // 16
        che = f"{che_hit_share(weights, [size] * different, plan.memory_bytes) * asked:,.0f}" if policy == "lru" else ""
        lines.append(f"| {policy} | {che} | {found:,} | {counted:,} |")
    return lines


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=24)
    parser.add_argument("--pretrained", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    case = load(CASES / "generate.yaml")
    with tempfile.TemporaryDirectory() as scratch:
        print(f"# A prefix cache: {options.requests} prompts of {PROMPT} tokens, {torch.get_num_threads()} threads\n")
        bench = Bench(case, Path(scratch) / "small", options.requests)
        print(f"The model of `cases/generate.yaml`; {BEGINS} beginnings of {SHARED} tokens, blocks of {BLOCK}.\n")
        print(HEADER, *bench.rows(POLICIES), *bench.summary(), sep="\n", flush=True)
        print(*independent(bench, 400), sep="\n", flush=True)
        if options.pretrained:
            _pretrained(Path(scratch) / "pretrained", options.requests // 3)


def _pretrained(folder: Path, requests: int) -> None:
    weights = weights_home() / "smollm2-135m"
    if not (weights / "model.safetensors").is_file():
        print("\nSmolLM2-135M was left out: its weights are not here (`datahall weights smollm2-135m`).")
        return
    case = load(CASES / "finetune-full.yaml")
    bench = Bench(replace(case, application=replace(case.application, weights=str(weights))), folder, requests)
    rows = [
        bench.run("shared", BEGINS + 2, "lru"),
        bench.run("shared", 2, "lru", "local disk", LocalPlace(folder / "disk")),
        bench.run("apart", 0.5, "lru"),
    ]
    print(f"\nSmolLM2-135M with its own weights and tokens, {requests} prompts.\n")
    print(HEADER, *rows, *bench.summary(), sep="\n", flush=True)


if __name__ == "__main__":
    main()
