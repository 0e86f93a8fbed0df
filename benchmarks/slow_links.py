"""Exchanges over slow links made real: forecasts sealed before the run, bytes by the interface's counter, equal loss.

    python benchmarks/slow_links.py [--links 0 1 2] [--seeds 1 2 3] [--results FILE]   (root; minutes)
    python benchmarks/slow_links.py --table --results FILE                             print docs/tables/slow-links.md

Two hosts as network namespaces on one machine share its cores; the network between them is real.  Per link: probe the
link and the machine, forecast bytes and step time of every way, seal, train each way to the same validation loss.
How many steps each way needs is learnt on loopback with another seed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datahall.network.choose import Candidate, LinkModel, Option, options
from datahall.network.execute_namespaces import Hosts, LinkShape, hosts
from datahall.network.links_estimate import wire_bytes
from datahall.network.plan import NetworkPlan

LINKS = (
    ("1 Gbit/s", LinkShape(1e9)),
    ("100 Mbit/s, 10 ms", LinkShape(100e6, 0.010)),
    ("20 Mbit/s, 50 ms", LinkShape(20e6, 0.050)),
)
PLANS = {
    "plain": NetworkPlan(),
    "bf16": NetworkPlan(compression="bf16"),
    "int8": NetworkPlan(compression="int8"),
    "top-k 1 %": NetworkPlan(compression="top-k"),
    "PowerSGD r4": NetworkPlan(compression="powersgd"),
    "local SGD 16": NetworkPlan(local_steps=16),
    "DiLoCo 16": NetworkPlan(local_steps=16, outer_momentum=0.5),
    "DiLoCo 16 int8": NetworkPlan(local_steps=16, outer_momentum=0.3, compression="int8"),
}
SHAPES = [(256, 32), (512, 512), (512,), (512, 512), (512,), (256, 512), (256,)]
TARGET, MOST_STEPS, LEARNING_SEEDS = 3.0, 320, (100,)
HEADER_BYTES, SEGMENT_BYTES = 66, 1448
LARGE_ELEMENTS, SMALL_ELEMENTS = 500_000, 4_000
WORKER = Path(__file__).with_name("slow_links_worker.py")


@dataclass(frozen=True)
class Workers:
    """Two ranks that obey orders."""

    processes: list[subprocess.Popen[str]]

    def order(self, **what: Any) -> list[dict[str, Any]]:
        """Give all ranks an order and wait for their answers."""
        for process in self.processes:
            process.stdin.write(json.dumps(what) + "\n")
            process.stdin.flush()
        return [json.loads(process.stdout.readline()) for process in self.processes]


@contextmanager
def workers(made: Hosts | None) -> Iterator[Workers]:
    """A rank on each host, or both on loopback."""
    started = []
    for rank in range(2):
        address = made.address(0) if made else "127.0.0.1"
        command = [sys.executable, str(WORKER), str(rank), "2", address, "29677"]
        environment = dict(os.environ, GLOO_SOCKET_IFNAME="eth0" if made else "lo", OMP_NUM_THREADS="1")
        inside = made.inside(rank, command) if made else command
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(inside, stdin=pipe, stdout=pipe, text=True, env=environment))
    try:
        for process in started:
            if "ready" not in (process.stdout.readline() or ""):
                raise SystemExit("a worker did not start")
        yield Workers(started)
    finally:
        for process in started:
            process.stdin.close()
            process.wait(30)


def learn_steps() -> dict[str, float]:
    """Steps to the target loss over those of plain, on loopback with seeds that are not judged."""
    steps: dict[str, list[int]] = {name: [] for name in PLANS}
    with workers(None) as both:
        for name, plan in PLANS.items():
            for seed in LEARNING_SEEDS:
                both.order(do="prepare", plan=asdict(plan), seed=seed)
                steps[name].append(both.order(do="train", seed=seed, target=TARGET, max_steps=MOST_STEPS)[0]["steps"])
    print("steps on loopback:", steps, flush=True)
    plain = statistics.mean(steps["plain"])
    return {name: statistics.mean(found) / plain for name, found in steps.items()}


def probe(both: Workers, made: Hosts, shape: LinkShape) -> tuple[LinkModel, dict[str, Any]]:
    """The link as gloo meets it: rate from a large reduction, a round from a small one, answers from the counters."""
    found = both.order(do="probe", plans={name: asdict(plan) for name, plan in PLANS.items()})
    worst = {key: max(one[key] for one in found) for key in found[0] if key != "codec_s"}
    payload, sent = _reduced(both, made, LARGE_ELEMENTS, 3)
    segments = payload / SEGMENT_BYTES
    answers = max(0.0, (sent - payload - HEADER_BYTES * segments) / HEADER_BYTES / segments)
    rounds_s = worst["small_reduce_s"]
    rate = 8 * sent / (worst["large_reduce_s"] - rounds_s)
    codec = {name: max(part["codec_s"][name] for part in found) for name in PLANS}
    small, small_sent = _reduced(both, made, SMALL_ELEMENTS, 10)
    notices = (small_sent - float(wire_bytes(small, small, 2, acks_per_segment=answers))) / 2
    link = LinkModel(min(rate, shape.bits_per_s), rounds_s / 2, answers, round_bytes=max(0.0, notices))
    return link, {**worst, "codec_s": codec}


def _reduced(both: Workers, made: Hosts, elements: int, times: int) -> tuple[float, float]:
    """Payload and bytes on the wire of one all-reduce of so many elements; between two ranks it sends its payload."""
    before = made.counters(0)
    payload = both.order(do="reduce", elements=elements, times=times)[0]["bytes"]
    return payload / times, (made.counters(0).sent_bytes - before.sent_bytes) / times


def seal(forecasts: Sequence[Option]) -> str:
    """A hash over everything that was forecast."""
    text = json.dumps([asdict(forecast) for forecast in forecasts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def study(place: int, seeds: Sequence[int], factors: dict[str, float], out: Path, names: Sequence[str]) -> None:
    """Probe, seal and run one link; a line of JSON per run is added to `out`."""
    title, shape = LINKS[place]
    with hosts(2, shape) as made, workers(made) as both:
        for seed in seeds:
            link, found = probe(both, made, shape)
            candidates = [Candidate(n, p, factors[n], found["codec_s"][n]) for n, p in PLANS.items()]
            forecasts = options(SHAPES, 2, link, found["compute_s"], candidates)
            shut = seal(forecasts)
            by_name = {forecast.candidate.name: forecast for forecast in forecasts}
            for name in names:
                run = _run(both, made, PLANS[name], seed)
                forecast = by_name[name]
                line = {
                    "link": title, "seed": seed, "name": name, "seal": shut, "pick": forecasts[0].candidate.name,
                    "forecast_wire_bytes": forecast.wire_bytes, "forecast_step_s": forecast.step_s,
                    "forecast_equal_s": forecast.equal_loss_s, "probe": found, "link_model": asdict(link), **run,
                }  # fmt: skip
                with out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
                print(title, seed, name, {k: run[k] for k in ("steps", "seconds", "wire_bytes")}, flush=True)


def _run(both: Workers, made: Hosts, plan: NetworkPlan, seed: int) -> dict[str, Any]:
    both.order(do="prepare", plan=asdict(plan), seed=seed)
    before, used = made.counters(0), made.forwarder_cpu_s()
    done = both.order(do="train", seed=seed, target=TARGET, max_steps=MOST_STEPS)
    after = made.counters(0)
    first, second = done
    return {
        "steps": first["steps"],
        "seconds": first["seconds"],
        "loss": first["curve"][-1][2],
        "wire_bytes": (after.sent_bytes - before.sent_bytes) / first["steps"],
        "forwarder_cpu_s": made.forwarder_cpu_s() - used,
        "equal_ranks": first["fingerprint"] == second["fingerprint"],
    }


def table(lines: Sequence[dict[str, Any]]) -> str:
    """The results as Markdown: medians over seeds."""
    text = []
    for title, _ in LINKS:
        mine = [line for line in lines if line["link"] == title]
        if not mine:
            continue
        names = [name for name in PLANS if any(line["name"] == name for line in mine)]
        cell = {name: [line for line in mine if line["name"] == name] for name in names}
        seconds = {name: _median(cell[name], "seconds") for name in names}
        pick = statistics.mode(line["pick"] for line in mine)
        if pick not in seconds or "plain" not in seconds:
            continue
        best = min(seconds, key=lambda name: seconds[name])
        seeds = len({line["seed"] for line in mine})
        text += [
            f"## {title}",
            "",
            f"{seeds} seeds, median. Pick before the run: {pick}; best measured: {best}; pick over best "
            f"{seconds[pick] / seconds[best]:.2f}; plain over pick {seconds['plain'] / seconds[pick]:.1f}.",
            "",
            "| exchange | KB a step, forecast | on the wire | error | ms a step, forecast | measured | error | "
            "steps | seconds to the loss | plain / this | forwarder CPU |",
            "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
        ]
        text += [_row(name, cell[name], seconds["plain"]) for name in names] + [""]
    return "\n".join(text)


def _row(name: str, runs: Sequence[dict[str, Any]], plain_s: float) -> str:
    wire, wire_forecast = _median(runs, "wire_bytes"), _median(runs, "forecast_wire_bytes")
    step = statistics.median(run["seconds"] / run["steps"] for run in runs)
    forecast = _median(runs, "forecast_step_s")
    seconds = _median(runs, "seconds")
    cpu = statistics.median(run["forwarder_cpu_s"] / run["seconds"] for run in runs)
    return (
        f"| {name} | {wire_forecast / 1e3:.1f} | {wire / 1e3:.1f} | {100 * (wire_forecast / wire - 1):+.1f} % | "
        f"{1e3 * forecast:.0f} | {1e3 * step:.0f} | {100 * (forecast / step - 1):+.0f} % | "
        f"{_median(runs, 'steps'):.0f} | {seconds:.1f} | {plain_s / seconds:.1f} | {100 * cpu:.0f} % |"
    )


def _median(runs: Sequence[dict[str, Any]], key: str) -> float:
    return statistics.median(run[key] for run in runs)


def main() -> None:
    """Learn the step factors (or take them from the results' first line), run the links, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--links", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3])
    parser.add_argument("--names", nargs="*", default=list(PLANS))
    parser.add_argument("--results", type=Path, default=Path("slow-links.jsonl"))
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--learn", action="store_true", help="learn the step factors only")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the namespaces are removed
    held = [json.loads(line) for line in chosen.results.read_text().splitlines()] if chosen.results.exists() else []
    if chosen.table:
        latest = {(line["link"], line["seed"], line["name"]): line for line in held if "link" in line}
        print("# Slow links made real: forecast beside measurement\n\nPrinted by `benchmarks/slow_links.py --table`.\n")
        print(table(list(latest.values())))
        return
    factors = next((line["factors"] for line in held if "factors" in line), None)
    if factors is None:
        factors = learn_steps()
        with chosen.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"factors": factors}) + "\n")
    print("steps over plain's:", {name: round(factor, 2) for name, factor in factors.items()}, flush=True)
    for place in [] if chosen.learn else chosen.links:
        study(place, chosen.seeds, factors, chosen.results, chosen.names)


if __name__ == "__main__":
    main()
