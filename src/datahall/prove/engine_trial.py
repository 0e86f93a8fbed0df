"""The same training on several engines and numbers of workers: probe, forecast, pick, seal, run, and lay beside.

The pick is made and sealed before the first run.  It only puts others in order; what it finds is kept in `folder`.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datahall.base.event import OnEvent
from datahall.base.metric import Metric
from datahall.calibrate import engine_costs
from datahall.calibrate.engine_costs import EngineCosts
from datahall.case.question import Case
from datahall.prove import seal
from datahall.prove.folder import write_json
from datahall.prove.telling import teller
from datahall.real.engines import probe, runs
from datahall.real.engines.engine import entry_of
from datahall.real.engines.input import check_shares
from datahall.real.engines.runs import Trained
from datahall.real.turns import load_average, turn

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class Setting:
    """One thing to try: an engine, a number of workers, a global batch."""

    engine: str
    workers: int
    batch: int


@dataclass(frozen=True, slots=True)
class Row:
    """A setting with its forecast and the runs of it; `measured` is their median, samples a second."""

    setting: Setting
    forecast: Metric
    runs: tuple[Trained, ...]

    @property
    def measured(self) -> float:
        """Median of the runs, samples a second of all workers."""
        return statistics.median(run.samples_per_s for run in self.runs)

    @property
    def held(self) -> bool:
        """Whether the measured median lies in the forecast's interval."""
        return self.forecast.low <= self.measured <= self.forecast.high


@dataclass(frozen=True, slots=True)
class Trial:
    """A finished trial: costs, rows in the order in which they were asked for, and the pick by batch."""

    costs: tuple[EngineCosts, ...]
    rows: tuple[Row, ...]
    picks: dict[int, Setting]
    sealed: str
    load: tuple[float, float]
    folder: Path

    def regret_share(self, batch: int, engine: str = "") -> float:
        """How much slower the pick is than the best measured at `batch`, as a share; within `engine` if named.

        The pick of one engine is the number of workers with its best forecast.
        """
        rows = [row for row in self.rows if row.setting.batch == batch and engine in ("", row.setting.engine)]
        picked = max(rows, key=lambda row: row.forecast.value)
        return 1 - picked.measured / max(row.measured for row in rows)

    def to_json(self) -> dict[str, Any]:
        """What was measured, as plain JSON values; the forecast has a file of its own."""
        return {
            "format_version": FORMAT_VERSION,
            "seal": self.sealed,
            "load_before": self.load[0],
            "load_after": self.load[1],
            "regret_share": {str(batch): self.regret_share(batch) for batch in self.picks},
            "rows": [_row_json(row) for row in self.rows],
        }


def try_engines(
    case: Case,
    engines: Sequence[str],
    folder: Path,
    *,
    workers: Sequence[int] = (1, 2),
    images: dict[int, float],
    rounds: int = 1,
    threads: int = 1,
    port: int = 0,
    open_ports: bool = False,
    only_pick: bool = False,
    on_event: OnEvent | None = None,
) -> Trial:
    """Forecast and then run each of `engines` with each number of `workers`, at each batch of `images`.

    `images` maps a global batch to how many images are read in all, by every engine alike.  Settings take turns,
    `rounds` times; with `only_pick` only the pick runs.  Raises what probing and running raise, and before anything
    runs UsageError for an engine that is not installed and Incompatible for a batch that cannot be shared.
    """
    settings = [Setting(engine, count, batch) for batch in images for engine in engines for count in workers]
    for one in settings:
        entry_of(one.engine)
        check_shares(one.batch, one.workers, runs.IMAGES)
    before, say = load_average(), teller(on_event)
    with turn(lambda: say("waiting_for_turn")):
        options: dict[str, Any] = {"threads": threads, "port": port, "open_ports": open_ports}
        costs = _probed(case, engines, workers, max(images), folder, options, say)
        forecasts = {one: engine_costs.forecast(costs[one.engine, one.workers], one.batch) for one in settings}
        picks = {batch: _best([one for one in settings if one.batch == batch], forecasts) for batch in images}
        sealed = seal.seal(folder, _forecast_json(case, images, costs, forecasts, picks))
        say("sealed", sha256=sealed)
        asked = list(picks.values()) if only_pick else settings
        trained = _in_turn(case, asked, rounds, images, folder, options, say)
    seal.check(folder)
    rows = tuple(Row(one, forecasts[one], runs_of) for one, runs_of in trained.items())
    trial = Trial(tuple(costs.values()), rows, picks, sealed, (before, load_average()), folder)
    write_json(folder / "measured.json", trial.to_json())
    return trial


def _best(settings: Sequence[Setting], forecasts: dict[Setting, Metric]) -> Setting:
    return max(settings, key=lambda one: forecasts[one].value)


def _probed(
    case: Case,
    engines: Sequence[str],
    workers: Sequence[int],
    largest: int,
    folder: Path,
    options: dict[str, Any],
    say: Callable[..., None],
) -> dict[tuple[str, int], EngineCosts]:
    found: dict[tuple[str, int], EngineCosts] = {}
    for engine in engines:
        for count in workers:
            place = folder / "probe" / f"{engine}-x{count}"
            findings = probe.probe(case, engine, place, workers=count, largest_share=-(-largest // count), **options)
            found[engine, count] = engine_costs.fit(findings)
            say("probed", **found[engine, count].to_json())
    return found


def _in_turn(
    case: Case,
    settings: Sequence[Setting],
    rounds: int,
    images: dict[int, float],
    folder: Path,
    options: dict[str, Any],
    say: Callable[..., None],
) -> dict[Setting, tuple[Trained, ...]]:
    """All settings one after the other, `rounds` times, so that a change of the machine's mood meets all of them."""
    trained: dict[Setting, list[Trained]] = {one: [] for one in settings}
    for number in range(rounds):
        for one in settings:
            trained[one].append(_run(case, one, images, folder, number, options))
            say("run", **asdict(one), samples_per_s=trained[one][-1].samples_per_s)
    return {one: tuple(found) for one, found in trained.items()}


def _run(
    case: Case, one: Setting, images: dict[int, float], folder: Path, number: int, options: dict[str, Any]
) -> Trained:
    place = folder / "real" / f"{one.engine}-x{one.workers}-b{one.batch}-{number}"
    steps = max(2, -int(-images[one.batch] // one.batch))
    return runs.train(case, one.engine, place, workers=one.workers, batch=one.batch, steps=steps, **options)


def _forecast_json(
    case: Case,
    images: dict[int, float],
    costs: dict[tuple[str, int], EngineCosts],
    forecasts: dict[Setting, Metric],
    picks: dict[int, Setting],
) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "case_hash": case.hash(),
        "images": {str(batch): count for batch, count in images.items()},
        "costs": [one.to_json() for one in costs.values()],
        "forecasts": [{**asdict(one), **metric.to_json()} for one, metric in forecasts.items()],
        "picks": {str(batch): asdict(one) for batch, one in picks.items()},
    }


def _row_json(row: Row) -> dict[str, Any]:
    return {
        **asdict(row.setting),
        "forecast": row.forecast.to_json(),
        "measured": row.measured,
        "held": row.held,
        "samples_per_s": [run.samples_per_s for run in row.runs],
        "samples_read": row.runs[0].samples_read,
        "different_samples": row.runs[0].different_samples,
        "test_accuracy": row.runs[0].accuracy,
        "tested": row.runs[0].tested,
        "losses": [row.runs[0].losses[0], row.runs[0].losses[-1]],
    }
