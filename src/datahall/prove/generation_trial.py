"""Generation with its forecast: probe, choose the cache, seal, run with it and without it in turn, lay beside.

The verdict on the cache is sealed before the first prompt is read.  It only puts others in order.
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from datahall.base.errors import UsageError
from datahall.base.event import OnEvent
from datahall.base.label import Label
from datahall.base.metric import Metric
from datahall.base.result import Result
from datahall.base.whole_file import write_text
from datahall.calibrate.generation import LEAST_SPREAD, fit_generation
from datahall.case.generation import Generation
from datahall.case.question import Case
from datahall.prove import seal
from datahall.prove.folder import write_json
from datahall.prove.telling import teller
from datahall.real.generation import Generator, counts_of
from datahall.real.generation_probe import probe_generation
from datahall.real.turns import load_average, turn
from datahall.report.comparison import Comparison, Machine, compare
from datahall.report.verdict import Verdict, miscounted, outside
from datahall.storage.place import Place, open_place
from datahall.storage.prefix_estimate import held_token_bytes
from datahall.virtual.generation import Batches, GenerationCosts, result_of, seconds_of
from datahall.virtual.prefix_choice import PrefixVerdict, choose, plans_within
from datahall.workloads.decoding import generating_model
from datahall.workloads.language_model import LanguageModel
from datahall.workloads.prompts import batches_of, text_of

WORD_BYTES = 4  # of keys and values: the model runs in 32 bits


@dataclass(frozen=True, slots=True)
class GenerationTrial:
    """A finished trial: what was said before, what was seen, and the answers as token ids."""

    verdict: PrefixVerdict
    costs: GenerationCosts
    comparison: Comparison
    answers: tuple[tuple[int, ...], ...]
    folder: Path


def generate(case: Case, folder: Path, on_event: OnEvent | None = None) -> GenerationTrial:
    """Make tokens for the prompts of `case.application.generation`; answers.jsonl in `folder` has them, also as text.

    Refused for models that are not ours.
    """
    wanted = case.application.generation or Generation()
    model, batches = generating_model(case), batches_of(case, wanted)
    place = open_place(wanted.cache.tier) if wanted.cache.tier else None
    say = teller(on_event)
    with turn(lambda: say("waiting_for_turn")):
        done = trial(model, batches, wanted, folder, place=place, say=say, case_hash=case.hash())
    text = text_of(case)
    lines = [json.dumps({"tokens": answer, "text": text(answer)}) for answer in done.answers]
    write_text(folder / "answers.jsonl", "".join(f"{line}\n" for line in lines))
    return done


def trial(
    model: LanguageModel,
    batches: Batches,
    wanted: Generation,
    folder: Path,
    *,
    place: Place | None = None,
    say: Callable[..., None] = lambda *_, **__: None,
    costs: GenerationCosts | None = None,
    case_hash: str = "",
) -> GenerationTrial:
    """The same for a model and prompts at hand; `costs` spare the probe."""
    if not batches:
        raise UsageError("there is no prompt.", where="application.generation")
    before = load_average()
    costs = costs or probed(model, batches, wanted, place)
    say("probed", **costs.to_json())
    shape = model.shape
    token_bytes = int(held_token_bytes(shape.layers, shape.kv_heads, shape.head_dim, WORD_BYTES))
    verdict = judged(costs, wanted, batches, token_bytes)
    notes = (verdict.sentence(), *verdict.turn.sentences(tier=place is not None))
    forecast = result_of(verdict.played, verdict.without, costs, notes)
    sealed = seal.seal(folder, _forecast_json(forecast, verdict, costs, case_hash))
    say("sealed", sha256=sealed, sentence=verdict.sentence())
    measured, answers = _run(model, verdict, batches, wanted.answer, place)
    seal.check(folder)
    machine = Machine(os.cpu_count() or 1, before, load_average())
    compared = compare(forecast, measured, LEAST_SPREAD / 2, seal_sha256=sealed, machine=machine)
    compared = replace(compared, verdict=judge_generation(compared))
    write_json(folder / "comparison.json", compared.to_json())
    return GenerationTrial(verdict, costs, compared, tuple(tuple(one) for one in answers), folder)


def probed(model: LanguageModel, batches: Batches, wanted: Generation, place: Place | None = None) -> GenerationCosts:
    """What this model takes here, for prompts and batches as long and as large as these."""
    longest = max(len(prompt) for batch in batches for prompt in batch)
    return fit_generation(probe_generation(model, longest, wanted.answer, max(map(len, batches)), place))


def judged(costs: GenerationCosts, wanted: Generation, batches: Batches, token_bytes: int) -> PrefixVerdict:
    """The cache that the case's wish leaves, chosen where it leaves a choice."""
    wish = wanted.cache
    memory = 0 if wish.use == "never" else int(wish.memory_bytes)
    plans = plans_within(memory, int(wish.tier_bytes), wish.policy, wish.block_tokens)
    if wish.use == "always" and wish.tier_bytes:
        plans = [plan for plan in plans if plan.tier_bytes]
    return choose(costs, plans, batches, wanted.answer, token_bytes, always=wish.use == "always")


def judge_generation(compared: Comparison) -> Verdict:
    """Counts are equal, and every part that is a tenth of the whole lies in its interval."""
    whole, always = compared.row("total_time").measured, ("first_token", "token_time")
    judged_rows = [row for row in compared.components if abs(row.measured) >= whole / 10 or row.name in always]
    wrong, missed = miscounted(compared.counts), outside(judged_rows)
    return Verdict("miscounts" if wrong else "misses" if missed else "holds", (*wrong, *missed))


def _run(
    model: LanguageModel, verdict: PrefixVerdict, batches: Batches, new_tokens: int, place: Place | None
) -> tuple[Result, list[list[int]]]:
    """Every batch with the plan and without a cache, in turn; the plan's side is the measurement."""
    cached, plain = Generator(model, verdict.plan, place), Generator(model)
    try:
        for number, batch in enumerate(batches):
            for generator in (cached, plain) if number % 2 else (plain, cached):
                generator.batch(batch, new_tokens)
        return _result(cached, plain), cached.done.answers
    finally:
        cached.close()


def _result(cached: Generator, plain: Generator) -> Result:
    done, other = cached.done, plain.done
    alike = sum(one == two for one, two in zip(done.answers, other.answers, strict=True))
    saved = other.prefill_s - done.prefill_s - done.fetching_s - done.keeping_s
    noise = LEAST_SPREAD / 2 * statistics.fmean([other.prefill_s, done.prefill_s])
    metrics: dict[str, Metric] = {}
    for name, value in seconds_of(done, saved).items():
        margin = noise if name == "saved" else 0.0
        metrics[name] = Metric(name, "seconds", value, value - margin, value + margin, Label.MEASURED)
    return Result("real", metrics, counts_of(done, cached.cache, alike))


def _forecast_json(forecast: Result, verdict: PrefixVerdict, costs: GenerationCosts, case_hash: str) -> dict[str, Any]:
    return {
        "case_hash": case_hash,
        "plan": asdict(verdict.plan),
        "turn": verdict.turn.to_json(),
        "costs": costs.to_json(),
        "result": forecast.to_json(),
        "considered": [{**asdict(one.plan), "total_s": one.played.total_s} for one in verdict.considered],
    }
