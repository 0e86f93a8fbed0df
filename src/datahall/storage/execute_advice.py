"""Which codec to write checkpoints with here, and how often: measured, with the break-even rate of each.

The interval is Young's, since a plan's own (Daly's, with the stall of a background save) needs a case: `datahall plan`.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from datahall.base.units import human, human_time
from datahall.storage import execute
from datahall.storage.choice import CodecRate, Option, Tier, options, pick_codec
from datahall.storage.execute_probe import probe_codecs, probe_tier, sample
from datahall.storage.execute_tensor import DTYPES
from datahall.storage.place import open_place
from datahall.storage.store import committed_steps, read_manifest

_NEEDS = {"lz4": "lz4", "snappy": "cramjam", "zstd": "zstandard", "planes": "zstandard", "blosc2": "blosc2"}
CANDIDATES = ("none", "lz4", "snappy", "zstd", "planes", "blosc2")
SAMPLE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Advice:
    """What was measured and what follows.  `raw_bytes` is the checkpoint that the seconds are for."""

    sampled: str
    raw_bytes: int
    tier: Tier
    rates: tuple[CodecRate, ...]
    options: tuple[Option, ...]
    picked: Option
    interval_s: float | None

    def to_json(self) -> dict[str, Any]:
        """The advice as plain JSON values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The advice as people read it."""
        write, read = (human(r, "bytes_per_s") for r in (self.tier.write_bytes_per_s, self.tier.read_bytes_per_s))
        found = [
            f"this tier: writes {write} with fsync, reads {read}; an empty checkpoint {human_time(self.tier.latency_s)}"
        ]
        found += [f"data: {self.sampled}, {human(self.raw_bytes, 'bytes')}", ""]
        found.append(
            f"{'codec':<8} {'ratio':>6} {'encode':>12} {'decode':>12} {'write':>9} {'read':>9}  writes faster below"
        )
        rates = {rate.codec: rate for rate in self.rates}
        for option in self.options:
            rate = rates[option.codec]
            speeds = [human(r, "bytes_per_s") for r in (rate.encode_bytes_per_s, rate.decode_bytes_per_s)]
            even = human(option.break_even_bytes_per_s, "bytes_per_s") if option.break_even_bytes_per_s else "never"
            times = [human_time(option.write_s), human_time(option.read_s)]
            found.append(
                f"{option.codec:<8} {rate.ratio:>6.2f} {speeds[0]:>12} {speeds[1]:>12} {times[0]:>9} {times[1]:>9}  "
                f"{even if option.codec != 'none' else ''}"
            )
        pays = (
            "compression does not pay here"
            if self.picked.codec == "none"
            else f"write with codec {self.picked.codec!r}"
        )
        found += ["", pays]
        if self.interval_s is not None:
            found.append(
                f"save every {human_time(self.interval_s)} (Young: sqrt(2 x write time x time between failures))"
            )
        return found


def advise(
    path: str | Path, reads_per_write: float = 1.0, bytes_per_s: float | None = None, mtbf_s: float | None = None
) -> Advice:
    """Measure the tier at `path` (or take `bytes_per_s`) and the codecs, and choose."""
    sampled, tensors, raw = _data(path)
    tier = probe_tier(path) if bytes_per_s is None else Tier(bytes_per_s, bytes_per_s)
    usable = [name for name in CANDIDATES if name not in _NEEDS or importlib.util.find_spec(_NEEDS[name])]
    rates = probe_codecs(tensors, usable)
    # a tier that was measured through the writer has what writing without a codec takes in its own rate already
    free = CodecRate("none", 1.0, math.inf, math.inf)
    priced = [free if rate.codec == "none" and bytes_per_s is None else rate for rate in rates]
    ordered = options(raw, priced, tier, reads_per_write)
    picked = pick_codec(raw, priced, tier, reads_per_write)
    interval = math.sqrt(2 * picked.write_s * mtbf_s) if mtbf_s is not None else None
    return Advice(sampled, raw, tier, tuple(rates), tuple(ordered), picked, interval)


def _data(path: str | Path) -> tuple[str, dict[str, torch.Tensor], int]:
    """A sample to measure codecs on: of the newest checkpoint, or made up in the likeness of bf16 weights."""
    place = open_place(path)
    steps = committed_steps(place)
    if not steps:
        made_up = torch.empty(SAMPLE_BYTES // 2).normal_(0, 0.02, generator=torch.Generator().manual_seed(0))
        return "no checkpoint here, so made-up bf16 weights", {"weights": made_up.bfloat16()}, 1 << 30
    manifest = read_manifest(place, steps[-1])
    kept: dict[str, torch.Tensor] = {}
    budget = 8 * SAMPLE_BYTES
    for name, tensor in sorted(manifest.tensors.items(), key=lambda entry: entry[1].bytes):
        if tensor.bytes <= budget:
            kept[name] = torch.empty(tensor.shape, dtype=DTYPES[tensor.dtype])
            budget -= tensor.bytes
    execute.load(place, kept, step=steps[-1])
    return f"a sample of step {steps[-1]}", sample(kept, SAMPLE_BYTES), manifest.raw_bytes
