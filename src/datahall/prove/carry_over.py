"""The same model family at a real size on a catalogue site, as in the first answer, and what was learnt on the way.

A laptop teaches little about a cluster: counts are exact in both, rates are not carried over.  The page says so.
"""

from __future__ import annotations

from datahall.base.score import HeldOutScore
from datahall.case import from_model_and_site
from datahall.report.data import CarryOver
from datahall.search.rank import search
from datahall.search.why import explain

MODEL, SITE = "llama-3.1-8b", "dgx-h100"
SHOWN = ("step_time", "total_time", "peak_memory", "tokens_per_s", "mfu", "cost", "energy")


def carry_over(score: HeldOutScore | None) -> CarryOver:
    """The best plan of an 8B model of this family on a catalogue site, each number with its label."""
    case = from_model_and_site(MODEL, SITE)
    ranking = search(case)
    result = explain(ranking)
    compute = ranking.plan(0).compute
    plan = f"data {compute.data}, tensor {compute.tensor}, pipeline {compute.pipeline}, ZeRO {compute.zero_stage}"
    notes = ["Rates of this machine are not carried over: unknown hardware is measured, never given another's figures."]
    if score is not None:
        notes.append(f"The same functions, with rates measured here, were {score.sentence}.")
    return CarryOver(
        MODEL, SITE, plan, tuple(result.metrics[name] for name in SHOWN if name in result.metrics), tuple(notes)
    )
