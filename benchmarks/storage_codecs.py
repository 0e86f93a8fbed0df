"""Is the picked codec the right one?  Every codec measured on shaped tiers, the pick made from probes, side by side.

    python benchmarks/storage_codecs.py FOLDER [--weights bf16.pt] [--out docs/tables/storage-codecs.md]

Data: bf16 and fp32 weights, Adam's moments, gradients (from a short training run here, or tensors of `--weights`).
Tiers: a folder behind a link of a given rate that all threads of a client share (a clock holds the bytes back).
The pick sees the probe of a 32 MB sample and the tier's rate, never the measurements that it is judged on.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

import torch
from storage_shaped import shaped

from datahall.storage import execute
from datahall.storage.choice import CodecRate, Tier, options, pick_codec
from datahall.storage.execute_probe import probe_codecs, sample

CODECS = ("none", "lz4", "snappy", "zstd", "gzip", "planes", "blosc2", "zipnn")
RATES = (25e6, 100e6, 400e6, 1600e6)


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


def measure(folder: Path, tensors: dict[str, torch.Tensor], rate: float, codec: str, rounds: int) -> float:
    """Seconds of a save and a load of `tensors`, the best of `rounds`."""
    target = {"model": {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}}
    best = float("inf")
    with shaped(rate):
        for _ in range(rounds):
            shutil.rmtree(folder, ignore_errors=True)
            began = time.perf_counter()
            execute.save(folder, 1, {"model": tensors}, codec=codec)
            execute.load(folder, target)
            best = min(best, time.perf_counter() - began)
    shutil.rmtree(folder, ignore_errors=True)
    return best


def judge(folder: Path, kinds: dict[str, dict[str, torch.Tensor]], rounds: int) -> tuple[list[str], list[str], int]:
    """Rows of the two tables, and how many picks were within 10 % of the best."""
    rates_table: list[str] = []
    rows: list[str] = []
    right = 0
    for kind, tensors in kinds.items():
        total = sum(tensor.nbytes for tensor in tensors.values())
        probes: list[CodecRate] = probe_codecs(sample(tensors, 32 << 20), CODECS)
        for p in probes:
            speeds = f"{p.encode_bytes_per_s / 1e6:,.0f} | {p.decode_bytes_per_s / 1e6:,.0f}"
            rates_table.append(f"| {kind} | {p.codec} | {p.ratio:.2f} | {speeds} |")
        for rate in RATES:
            ordered = options(total, probes, Tier(rate, rate))
            picked = pick_codec(total, probes, Tier(rate, rate))
            contenders = {"none", picked.codec, *(o.codec for o in ordered[:4])}
            found = {codec: measure(folder, tensors, rate, codec, rounds) for codec in sorted(contenders)}
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
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    kinds = trained()
    if arguments.weights:
        held: dict[str, torch.Tensor] = torch.load(arguments.weights)
        kinds["weights bf16"] = held
        kinds["weights fp32"] = {
            name: tensor.float() for name, tensor in torch.load(arguments.weights.with_name("fp32.pt")).items()
        }
    rates_table, rows, right = judge(arguments.folder / "codecs", kinds, arguments.rounds)
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
    print(text)
    if arguments.out:
        arguments.out.write_text("# Which codec pays\n\n`python benchmarks/storage_codecs.py` printed this.\n\n" + text)


if __name__ == "__main__":
    main()
