"""Is the picked codec the right one?  Every codec measured on shaped tiers, the pick made from probes, side by side.

    python benchmarks/storage_codecs.py FOLDER [--weights bf16.pt]

Data: bf16 and fp32 weights, Adam's moments, gradients (from a short training run here, or tensors of `--weights`).
Tiers: a folder behind a link of a given rate that all threads of a client share (a clock holds the bytes back).
The pick sees the probe of a 32 MB sample and the tier's rate, never the measurements that it is judged on.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

import torch
from storage_shaped import shaped

from datahall.storage import execute
from datahall.storage.choice import CodecRate, Tier, options, pick_codec
from datahall.storage.execute_probe import probe_codecs, sample

CODECS = ("none", "lz4", "snappy", "zstd", "gzip", "planes", "blosc2", "zipnn")
LOSSY = ("lossy-bf16", "lossy-int8")  # on 32-bit values; beside the picks, which lose nothing
RATES = (25e6, 100e6, 400e6, 1600e6)
LEAST_ROUNDS, MOST_ROUNDS, LEAST_S = 2, 12, 1.0


def trained(steps: int = 60) -> dict[str, dict[str, torch.Tensor]]:
    """Weights, moments and gradients of a small network that learnt something (a sum of sines), by kind."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(64, 2048),
        torch.nn.GELU(),
        torch.nn.Linear(2048, 2048),
        torch.nn.GELU(),
        torch.nn.Linear(2048, 64),
    )
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3)
    for _ in range(steps):
        x = torch.randn(64, 64)
        optimiser.zero_grad()
        (net(x) - torch.sin(3 * x)).square().mean().backward()
        optimiser.step()
    repeat = 3  # the same kind of data, several times, so that a save takes long enough to be timed
    kinds: dict[str, dict[str, torch.Tensor]] = {
        "weights bf16": {},
        "weights fp32": {},
        "moments fp32": {},
        "gradients bf16": {},
    }
    for name, parameter in net.named_parameters():
        for n in range(repeat):
            noise = parameter.detach() + n * 1e-3 * torch.randn_like(parameter)
            kinds["weights fp32"][f"{name}.{n}"] = noise
            kinds["weights bf16"][f"{name}.{n}"] = noise.bfloat16()
            kinds["gradients bf16"][f"{name}.{n}"] = (
                parameter.grad if parameter.grad is not None else noise
            ).bfloat16()
        kinds["moments fp32"][f"{name}.1"] = optimiser.state[parameter]["exp_avg"]
        kinds["moments fp32"][f"{name}.2"] = optimiser.state[parameter]["exp_avg_sq"]
    return kinds


def measure(folder: Path, tensors: dict[str, torch.Tensor], rate: float, codecs: list[str]) -> dict[str, float]:
    """Seconds of a save and a load by each codec: the best of rounds in which they take turns.

    As many rounds as give the fastest codec a second: short saves are noisy.
    """
    target = {"model": {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}}
    best = dict.fromkeys(codecs, float("inf"))
    spent, rounds = 0.0, 0
    with shaped(rate):
        while rounds < LEAST_ROUNDS or (spent < LEAST_S and rounds < MOST_ROUNDS):
            for codec in codecs:
                shutil.rmtree(folder, ignore_errors=True)
                began = time.perf_counter()
                execute.save(folder, 1, {"model": tensors}, codec=codec)
                execute.load(folder, target)
                best[codec] = min(best[codec], time.perf_counter() - began)
            rounds += 1
            spent += min(best.values())
    shutil.rmtree(folder, ignore_errors=True)
    return best


def judge(folder: Path, kinds: dict[str, dict[str, torch.Tensor]]) -> tuple[list[str], list[str], int]:
    """Rows of the two tables, and how many picks were within 10 % of the best."""
    rates_table: list[str] = []
    rows: list[str] = []
    right = 0
    for kind, tensors in kinds.items():
        total = sum(tensor.nbytes for tensor in tensors.values())
        probes: list[CodecRate] = probe_codecs(sample(tensors, 32 << 20), CODECS)
        for p in (*probes, *(probe_codecs(sample(tensors, 32 << 20), LOSSY) if "fp32" in kind else ())):
            speeds = f"{p.encode_bytes_per_s / 1e6:,.0f} | {p.decode_bytes_per_s / 1e6:,.0f}"
            rates_table.append(f"| {kind} | {p.codec} | {p.ratio:.2f} | {speeds} |")
        for rate in RATES:
            shrinking = [p for p in probes if p.codec == "none" or p.ratio > 1.02]
            ordered = options(total, shrinking, Tier(rate, rate))
            picked = pick_codec(total, probes, Tier(rate, rate))
            contenders = {"none", picked.codec, *(o.codec for o in ordered[:4])}
            print(f"{kind} at {rate / 1e6:.0f} MB/s", file=sys.stderr, flush=True)
            found = measure(folder, tensors, rate, sorted(contenders))
            best = min(found, key=lambda codec: found[codec])
            excess = found[picked.codec] / found[best] - 1
            right += excess <= 0.10
            forecast = picked.total_s(1.0)
            rows.append(
                f"| {kind} | {rate / 1e6:.0f} | {picked.codec} | {forecast:.2f} | {found[picked.codec]:.2f} | {best} | "
                f"{found[best]:.2f} | {found['none']:.2f} | {100 * excess:.0f} % | "
                f"{picked.break_even_bytes_per_s / 1e6:,.0f} |"
            )
    return rates_table, rows, right


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", type=Path, help="bf16 tensors by name, written by torch.save, beside fp32.pt")
    arguments = parser.parse_args()
    kinds = trained()
    if arguments.weights:
        held: dict[str, torch.Tensor] = torch.load(arguments.weights)
        kinds["weights bf16"] = held
        kinds["weights fp32"] = {
            name: tensor.float() for name, tensor in torch.load(arguments.weights.with_name("fp32.pt")).items()
        }
    rates_table, rows, right = judge(arguments.folder / "codecs", kinds)
    text = "\n".join(
        [
            "| data | codec | ratio | save MB/s | load MB/s |",
            "|---|---|---|---|---|",
            *rates_table,
            "",
            f"Picks within 10 % of the best measured: {right} of {len(rows)}.",
            "",
            "| data | tier MB/s | picked | forecast s | measured s | best | best s | none s | excess | pays below |",
            "|---|---|---|---|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )
    print("# Which codec pays\n")
    print(
        f"`python benchmarks/storage_codecs.py FOLDER` printed this on {os.cpu_count()} cores.  A codec of ratio 1.00"
    )
    print("stores such data as they are, as `none` does: it is not a contender, what is between them is noise.\n")
    print(text)


if __name__ == "__main__":
    main()
