"""`datahall plan`: does it fit, which split, how long, what to request, how sure; and the questions beside it.

Reads the case, searches, prints.  It runs nothing and needs no PyTorch.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from datahall.base.errors import DatahallError, UsageError
from datahall.base.metric import overlaps
from datahall.base.result import Result
from datahall.calibrate.ledger import with_ledger
from datahall.case import load, loads
from datahall.case.question import Case
from datahall.decisions.proposal import Proposal
from datahall.search.engines import ENGINES
from datahall.search.rank import Ranking, search
from datahall.search.why import Flip, Loss, explain, flips, host_items, losses, memory_items, step_items
from datahall.ui.plan_metrics import metrics_json
from datahall.virtual.calibration import Calibration
from datahall.virtual.input_cache import CacheVerdict, cache_verdict
from datahall.virtual.transferred import default_calibration

FORMAT_VERSION = 1
_TYPED = "command line"
QUESTIONS = ("site", "hardware", "link", "exchange", "checkpoint", "scaling")


@click.command("plan")
@click.argument("case", required=False, type=click.Path(path_type=Path))
@click.option("--model", help="A Hugging Face config.json, or a name of the catalogue (instead of CASE).")
@click.option(
    "--site", help='A site of the catalogue, "8xA40", "16x8xH100-SXM", or a site.yaml, probed or handwritten.'
)
@click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="PATH=VALUE",
    help='Such as application.tokens=15e9, "goal.deadline=3 days".',
)
@click.option("--ask", type=click.Choice(QUESTIONS), help="Another question: see below.")
@click.option("--for", "engine", type=click.Choice(ENGINES), default=None, help="Only plans that this engine can run.")
@click.option("--top", default=6, show_default=True, type=click.IntRange(1, 50), help="Splits to show.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the plan, for export and compare.")
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")
def plan(
    case: Path | None,
    model: str | None,
    site: str | None,
    sets: tuple[str, ...],
    ask: str | None,
    engine: str | None,
    top: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Choose the split for a CASE file, or for a --model on a --site.

    \b
    --ask site        the fewest nodes that hold it, and meet goal.deadline, goal.budget and goal.energy if stated
    --ask hardware    the catalogue's accelerators, as many devices each (within such a bound up to 16 times as many),
                      by the goal
    --ask link        is the network between nodes enough, and what is the least that is
    --ask exchange    compressed or rarer exchange of gradients, by time to the same loss
    --ask checkpoint  how often to write checkpoints
    --ask scaling     what fewer and more devices bring, and up to how many each still earns its keep
    """
    started_s = time.perf_counter()
    asked = asked_case(case, model, site, sets)
    _warn_of_own_model(asked)
    if ask is not None:
        if engine or out:
            unused = "--for" if engine else "--out"
            raise UsageError(f"--ask {ask} takes no {unused}.", hint="Ask for the plan of the site that it answers.")
        _answer(ask, asked, as_json)
        return
    ranking = search(asked, calibration_of(asked), engine=engine or "", advise=True)
    forecast, others, changes = explain(ranking), losses(ranking, top), flips(ranking)
    if out is not None:
        Proposal(asked, ranking.plan(), forecast).save(out)
        click.echo(f"wrote {out}", err=True)
    if as_json:
        click.echo(json.dumps(plan_json(ranking, others, changes), indent=2))
        return
    _show(ranking, forecast, others, changes, time.perf_counter() - started_s)


def _answer(ask: str, case: Case, as_json: bool) -> None:
    from datahall.ui.plan_ask import answer

    answer(ask, case, calibration_of, as_json=as_json)


def _show(ranking: Ranking, forecast: Result, others: Sequence[Loss], changes: Sequence[Flip], seconds: float) -> None:
    from datahall.report.terminal import show
    from datahall.ui.plan_text import told

    show(told(ranking, forecast, others, changes, seconds))


def asked_case(case: Path | None, model: str | None, site: str | None, sets: tuple[str, ...]) -> Case:
    """The case of a file, or of a model and a site, with what was set laid over it."""
    if case is not None:
        if model or site:
            raise UsageError("a case file names its own model and site.", hint="Use --set model=... or --set site=...")
        return load(case, sets)
    if not model or not site:
        missing = "--model" if not model else "--site"
        raise UsageError(f"{missing} is missing.", hint="Say `datahall plan CASE.yaml`, or --model and --site.")
    kind = "fine-tuning" if any(text.replace(" ", "") == "application.method=lora" for text in sets) else "training"
    document = {"model": model, "site": site, "application": {"kind": kind}}
    try:
        found = loads(json.dumps(document), sets, file=_TYPED)
    except DatahallError as error:
        error.where = re.sub(rf"^{_TYPED}(:\d+)?(: )?", "", error.where)  # there is no line to look at
        raise
    return replace(found, name=f"{_called(model)} on {found.site.name}") if found.name == _TYPED else found


def _called(model: str) -> str:
    """What a model of the command line is called: by its name, or by the folder that its config.json lies in."""
    if "/" not in model and not model.endswith(".json"):
        return model
    path = Path(model).expanduser()
    return path.resolve().name if path.is_dir() else path.parent.name or path.stem


def _warn_of_own_model(case: Case) -> None:
    """What is planned for a model that code builds is a transformer of the stated sizes."""
    if case.application.entry:
        click.echo(
            f"note: the case builds its own model ({case.application.entry}); this plan is for a transformer of the"
            " stated shape. `datahall run CASE --workers 2` rehearses yours and forecasts that.",
            err=True,
        )


def calibration_of(case: Case) -> Calibration:
    """The calibration for a case: the catalogue's, corrected by what this user compared before."""
    return with_ledger(case, uncorrected(case))


def uncorrected(case: Case) -> Calibration:
    """The calibration for a case without what this user's ledger knows."""
    return default_calibration(case)


def plan_json(ranking: Ranking, others: list[Loss], changes: list[Flip]) -> dict[str, Any]:
    """The answer as plain JSON values."""
    best = ranking.compute(0)
    memory = memory_items(ranking.case, best, ranking.calibration)
    seconds = step_items(ranking.case, best, ranking.calibration)
    forecast = explain(ranking)
    host = host_items(ranking, forecast)
    return {
        "format_version": FORMAT_VERSION,
        "case": ranking.case.to_json(),
        "plan": ranking.plan().to_json(),
        "forecast": forecast.to_json(),
        "memory_bytes": {name: float(getattr(memory, name)) for name in memory.__dataclass_fields__},
        "host_memory_bytes": {name: float(getattr(host, name)) for name in host.__dataclass_fields__},
        "step_seconds": {name: float(getattr(seconds, name)) for name in seconds.__dataclass_fields__},
        "plans": {"searched": len(ranking.space), "qualified": ranking.qualified, "reasons": dict(ranking.reasons)},
        "splits": [_split_json(loss) for loss in others],
        "front": _front_json(ranking),
        "cache": None if (verdict := cache_of(ranking)) is None else verdict.to_json(),
        "flips": [
            {
                "change": flip.change,
                "gain": flip.gain,
                "same_split": flip.same_split,
                "plan": None if flip.plan is None else _fields(flip.plan),
                "unable": flip.unable,
            }
            for flip in changes
        ],
    }


def cache_of(ranking: Ranking) -> CacheVerdict | None:
    """What the cache that the case allows before its data does for the chosen plan."""
    if ranking.case.application.data is None:
        return None
    plan = ranking.plan()
    return cache_verdict(ranking.case, plan.compute, plan.storage, float(ranking.prices.step_s[ranking.order[0]]))


def _split_json(loss: Loss) -> dict[str, Any]:
    return {
        "plan": _fields(loss.plan),
        "metrics": loss.forecast.to_json()["metrics"],
        "more_seconds": dict(loss.more_s),
        "place": loss.place,
    }


def _front_json(ranking: Ranking) -> list[dict[str, Any]]:
    places = ranking.front()
    forecasts = [explain(ranking, place) for place in places]
    close = overlaps([forecast.metrics["total_time"] for forecast in forecasts])
    return [
        {**_point_json(ranking, place), "metrics": metrics_json(forecast), "overlaps_previous": alike}
        for place, forecast, alike in zip(places, forecasts, close, strict=True)
    ]


def _point_json(ranking: Ranking, place: int) -> dict[str, Any]:
    index, prices = ranking.order[place], ranking.prices
    return {
        "plan": _fields(ranking.compute(place)),
        "total_s": float(prices.total_s[index]),
        "cost_usd": float(prices.cost_usd[index]),
        "energy_j": float(prices.energy_j[index]),
        "memory_bytes": float(prices.memory_bytes[index]),
    }


def _fields(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__dataclass_fields__}
