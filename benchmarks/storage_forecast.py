"""How well writing, reading and resharding are forecast: a sweep, half of it to fit on, the other half to be judged by.

    python benchmarks/storage_forecast.py FOLDER [--count 150] [--seed 1]

Swept: size, shards, codec, tier (memory, the disk under FOLDER, a link of 200 MB/s), clients (1, 2, 4 processes at the
same time on this host) and what they do (`storage_sweep`).  The forecast is `storage.estimate` alone: `fixed_s`,
`busy_threads`, `coded_s`, `reshard_s`; its constants are fitted to every other configuration.  The model was made on
sweeps of seed 0; the table is of another seed.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares
from storage_sweep import CODECS, LINK_BYTES_PER_S, SIZES, TIERS, WAYS, Setting, draw, ratios, sweep

from datahall.storage.estimate import busy_threads, coded_s, fixed_s, reshard_s
from datahall.storage.execute_reader import READ_THREADS

CORES = os.cpu_count() or 1
# Where the fit begins: orders of magnitude of two cores and an NVMe; the names are what they are physically.
START = {
    "begin write": 4e-3, "begin read": 4e-3, "begin together": 1e-2,  # s of planning, apart or in a group
    "file memory write": 3e-4, "file disk write": 2e-3,  # s to open, synchronise and close one
    "disk write": 1.5e9, "disk read": 1.5e9,  # bytes/s of the whole disk
    **{f"codec {codec} write": rate for codec, rate in zip(CODECS, (1.2e9, 3e8, 3e8), strict=True)},  # of a thread
    **{f"codec {codec} read": rate for codec, rate in zip(CODECS, (2.2e9, 6e8, 6e8), strict=True)},
    "cut": 2e9,  # bytes/s of a thread
    "overlap disk": 0.5, "overlap link": 0.5,  # share of the shorter of coding and moving that is not covered
    "cores": 0.9 * CORES,  # that the clients' threads get
}  # fmt: skip
PRIOR = 0.1  # how strongly a constant is held where it began: an e-fold off costs as much as one setting 10 % off


def forecast(constants: dict[str, float], settings: list[Setting], ratio: dict[str, float]) -> np.ndarray:
    """Seconds of each setting; a constant that a setting does not have is endless, or nothing."""

    def column(name: str, absent: float) -> np.ndarray:
        return np.array([constants.get(name.format(s=s), absent) for s in settings])

    shards, clients = (np.array([getattr(s, name) for s in settings]) for name in ("shards", "clients"))
    threads = np.where([s.way == "write" for s in settings], shards, READ_THREADS)
    read = np.array([s.read_bytes for s in settings])
    link = np.array([LINK_BYTES_PER_S if s.tier == "link" else np.inf for s in settings])
    begin = column("begin {s.joined}", 0.0)
    busy = busy_threads(threads, clients, constants["cores"])
    cut = np.array([s.cut_bytes for s in settings])
    load = coded_s(
        read,
        np.array([ratio[s.codec] for s in settings]),
        column("codec {s.codec} {s.direction}", np.inf) * busy,
        threads,
        clients,
        np.inf,
        np.minimum(column("{s.tier} {s.direction}", np.inf), link),
        fixed_s(begin, column("file {s.file} {s.direction}", 0.0), shards, clients, CORES),
        column("overlap {s.tier}", 0.0),
    )
    return reshard_s(load, cut, constants["cut"] * busy)


def fit(settings: list[Setting], seconds: np.ndarray, ratio: dict[str, float]) -> dict[str, float]:
    """The constants that fit best, robustly on the logarithm, drawn a little towards where they began."""
    start = np.log(list(START.values()))

    def misses(x: np.ndarray) -> np.ndarray:
        fitted = forecast(dict(zip(START, np.exp(x), strict=True)), settings, ratio)
        return np.concatenate([np.log(fitted / seconds), PRIOR * (x - start)])

    solved = least_squares(misses, start, loss="soft_l1", f_scale=0.1)
    return dict(zip(START, np.exp(solved.x), strict=True))


def table(settings: list[Setting], seconds: np.ndarray, ratio: dict[str, float]) -> str:
    """Errors of both halves, of the unseen one by what was swept, and the constants."""
    seen, unseen = list(range(0, len(settings), 2)), list(range(1, len(settings), 2))
    constants = fit([settings[n] for n in seen], seconds[seen], ratio)
    errors = forecast(constants, settings, ratio) / seconds - 1
    lines = ["| judged on | configurations | median error | 90th percentile | bias |", "|---|---|---|---|---|"]

    def row(name: str, chosen: list[int]) -> None:
        if chosen:
            e = np.abs(errors[chosen])
            shown = f"{100 * np.median(e):.1f} % | {100 * np.quantile(e, 0.9):.1f} %"
            lines.append(f"| {name} | {len(chosen)} | {shown} | {100 * np.median(errors[chosen]):+.1f} % |")

    row("the half that was fitted", seen)
    row("**the other half** (bar: 15 %)", unseen)
    for name, values in (
        ("way", WAYS),
        ("megabytes", SIZES),
        ("tier", TIERS),
        ("clients", (1, 2, 4)),
        ("codec", CODECS),
        ("shards", (1, 2, 4)),
    ):
        for value in values:
            row(f"of it {name} {value}", [n for n in unseen if getattr(settings[n], name) == value])
    lines += ["", "| constant | fitted |", "|---|---|"]
    lines += [f"| {name} | {value:.3g} |" for name, value in constants.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Sweep, fit, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=300.0, help="a sweep that takes longer is cut short")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="write what was measured as JSON")
    arguments = parser.parse_args()
    settings = draw(arguments.count, arguments.seed)
    rounds, ratio = sweep(settings, arguments.folder, arguments.rounds, arguments.seconds), ratios()
    settings = settings[: len(rounds)]
    if arguments.keep:
        told = {"settings": [vars(s) for s in settings], "seconds": rounds, "ratios": ratio}
        arguments.keep.write_text(json.dumps(told))
    print("# Forecast of writing, reading and resharding\n")
    print(f"`python benchmarks/storage_forecast.py FOLDER --seed {arguments.seed}` printed this: {CORES} cores,")
    print(f"{arguments.rounds} rounds, {len(START)} constants.  Resharding is from two ranks by rows to 1, 2 or 4.\n")
    print(table(settings, np.array([np.median(seconds) for seconds in rounds]), ratio))


if __name__ == "__main__":
    main()
