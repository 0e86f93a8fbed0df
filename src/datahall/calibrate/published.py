"""Reading rows of published training runs: shape, plan, accelerator, links, stack, measurement.

Columns are those of common tables of measurements (`model, layers, hidden, ..., step_time_s, tokens_per_s_per_device`).
What a row does not state becomes several `Variant`s with a weight each, so that it is averaged over and widens the
interval.  A row that cannot be read is refused with its reason, never guessed.  Nothing is forecast here.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from datahall.base.errors import DatahallError, UsageError
from datahall.calibrate.published_shape import Cells, shape_of_row, whole
from datahall.case.model import ModelShape
from datahall.catalog import accelerators, links
from datahall.catalog.accelerators import AcceleratorEntry
from datahall.compute.plan import ComputePlan
from datahall.virtual.traits import StackTraits, recompute_of, traits_of

_NOISE = re.compile(r"\([^)]*\)|[-\s]*(?:NVL\d+|HBM\w+|SXM\d?|HGX|DGX)\b", re.IGNORECASE)
_PRECISIONS = {
    "mxfp8": "fp8",
    "fp8": "fp8",
    "nvfp4": "fp4",
    "mxfp4": "fp4",
    "fp4": "fp4",
    "fp16": "fp16",
    "bf16": "bf16",
}


@dataclass(frozen=True, slots=True)
class LinkFigures:
    """Line rates of a run's links per device and direction, and the devices that the fast link joins."""

    up_bytes_per_s: float
    up_latency_s: float
    domain: int
    out_bytes_per_s: float
    out_latency_s: float


@dataclass(frozen=True, slots=True)
class Variant:
    """One reading of a row: a plan with its recomputation, as likely as `weight`."""

    plan: ComputePlan
    weight: float


@dataclass(frozen=True, slots=True)
class PublishedRun:
    """`step_s` is the measurement; `metric` what was really measured; `memory_bytes` 0 if unknown."""

    key: str
    group: str
    model: str
    quality: str
    shape: ModelShape
    sequence: int
    global_batch: int
    devices: int
    accelerator: AcceleratorEntry
    links: LinkFigures
    traits: StackTraits
    variants: tuple[Variant, ...]
    step_s: float
    metric: str
    memory_bytes: float = 0.0

    @property
    def stack(self) -> str:
        """The family of software that ran it."""
        return self.traits.family


@dataclass(frozen=True, slots=True)
class Refusal:
    """A row that is not scored, and why."""

    key: str
    group: str
    accelerator: str
    reason: str


def read_rows(path: Path) -> tuple[Mapping[str, str], ...]:
    """The rows of a CSV file as text; UsageError where it cannot be read or lacks the columns."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = tuple(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"this file of measurements cannot be read: {error}.", where=str(path)) from error
    lacking = {"model", "accelerator", "n_devices"} - set(rows[0] if rows else ())
    if lacking:
        raise UsageError(
            f"this file lacks the columns {', '.join(sorted(lacking))}.",
            where=str(path),
            hint="One row a run, columns as in docs/accuracy.md.",
        )
    return rows


def read_runs(rows: Sequence[Mapping[str, str]]) -> tuple[list[PublishedRun], list[Refusal]]:
    """Runs and refusals, in the order of the rows."""
    runs: list[PublishedRun] = []
    refused: list[Refusal] = []
    for index, row in enumerate(rows):
        cells = Cells({str(name): str(text or "").strip() for name, text in row.items() if name})
        try:
            runs.append(_run(cells, index))
        except DatahallError as error:
            key = cells.text("id") or f"row {index + 1}"
            refused.append(Refusal(key, cells.text("group"), cells.text("accelerator"), error.what))
    return runs, refused


@cache
def find_accelerator(name: str) -> AcceleratorEntry:
    """The catalogue's accelerator for a published name, packaging words aside; UnknownName otherwise."""
    try:
        return accelerators.accelerator(name)
    except DatahallError as error:
        for shorter in (re.sub(r"\([^)]*\)", "", name).strip(), _NOISE.sub("", name).strip()):
            try:
                return accelerators.accelerator(shorter)
            except DatahallError:
                continue
        raise error


def _run(cells: Cells, index: int) -> PublishedRun:
    quality = cells.text("quality") or "A"
    if quality.upper().startswith("C"):
        raise UsageError(f"quality {quality}: its source says too little to score it.")
    card = find_accelerator(cells.text("accelerator"))
    precision = _precision(cells.text("dtype"), card)
    shape = shape_of_row(cells)
    sequence = whole(cells.number("seq_len"), "seq_len")
    devices = whole(cells.number("n_devices"), "n_devices")
    traits = traits_of(cells.text("framework"), card.kind, f"{cells.text('note')} {cells.text('group')}")
    figures = link_figures(card, cells.text("interconnect"), devices, int(cells.number("devices_per_node") or 0))
    variants = _variants(cells, shape, devices, precision, traits, figures)
    batch = variants[0].plan.global_batch
    seconds, metric = _measured(cells, shape, sequence, batch, devices)
    return PublishedRun(
        key=cells.text("id") or f"row {index + 1}",
        group=cells.text("group") or traits.family,
        model=cells.text("model"),
        quality=quality[:1].upper(),
        shape=shape,
        sequence=sequence,
        global_batch=batch,
        devices=devices,
        accelerator=card,
        links=figures,
        traits=traits,
        variants=variants,
        step_s=seconds,
        metric=metric,
        memory_bytes=(cells.number("memory_gb_per_device") or 0.0) * 2**30,
    )


def _precision(text: str, card: AcceleratorEntry) -> str:
    first = re.split(r"[/ ,(]", text.lower())[0]
    known = _PRECISIONS.get(first, first) or "bf16"
    peaks = card.peak_flops_per_s
    if known in peaks:
        return known
    if known in {"bf16", "fp16"} and ("bf16" in peaks or "fp16" in peaks):
        return "bf16" if "bf16" in peaks else "fp16"
    raise UsageError(f"{card.name} has no {first or 'stated precision'}.")


def link_figures(card: AcceleratorEntry, text: str, devices: int, per_node: int) -> LinkFigures:
    """Line rates from what a row says of its interconnect, the accelerator's usual ones where it says nothing."""
    up, out = links.link(card.scale_up_link), links.link(card.scale_out_link)
    node = per_node or card.node_devices
    out_rate = out.bytes_per_s * max(1, card.node_scale_out_links) / card.node_devices
    domain = card.scale_up_devices
    if card.kind == "gpu" and node < domain:
        domain = max(node, 1) if card.scale_up_devices <= 8 else domain
    stated = _stated_bits_per_s(text, card.node_devices if card.kind == "gpu" else node)
    if stated:
        out_rate = stated / 8
    slices = re.search(r"slice of (\d+)", text)
    if slices:
        domain = int(slices[1])
    return LinkFigures(up.bytes_per_s, up.latency_s, max(1, min(domain, devices)), out_rate, out.latency_s)


def _stated_bits_per_s(text: str, node: int) -> float:
    """Bits per second and device that `text` states for the way out of a node; 0 where it does not."""
    several = re.search(r"(\d+)\s*x\s*(?:HDR|NDR|EDR|XDR)?[^\d]{0,20}(\d{2,3})\s*(?:Gb|IB)", text)
    if several:
        return int(several[1]) * int(several[2]) * 1e9 / node
    if re.search(r"8x HDR", text):
        return 200e9
    one = re.search(r"(\d{2,4})\s*Gb(?:ps|/s|it/s)?\s*/\s*(node|GPU|device|chip)", text, re.IGNORECASE)
    if one:
        return int(one[1]) * 1e9 / (node if one[2].lower() == "node" else 1)
    return 0.0


def _variants(
    cells: Cells, shape: ModelShape, devices: int, precision: str, traits: StackTraits, figures: LinkFigures
) -> tuple[Variant, ...]:
    tensor, pipeline = int(cells.number("tp") or 1), int(cells.number("pp") or 1)
    context, expert = int(cells.number("cp") or 1), int(cells.number("ep") or 1)
    inner = tensor * pipeline * context
    data = int(cells.number("dp") or 0) or devices // inner
    if data < 1 or (abs(data * inner - devices) > 0 and data * inner * max(expert, 1) != devices):
        data = devices // inner
    if data < 1 or data * inner != devices:
        raise UsageError(f"{tensor} x {pipeline} x {context} ranks do not divide {devices} devices.")
    if tensor > 1 and pipeline > shape.layers:
        raise UsageError(f"{pipeline} pipeline stages for {shape.layers} layers.")
    zero, shard_group = _sharding(cells.text("sharding"), figures, tensor)
    batches = _batches(cells, data, pipeline, traits)
    recomputes = recompute_of(cells.text("recompute"), traits, shape.experts > 0)
    chunks = _chunks(cells.text("vp"), shape.layers, pipeline, traits)
    variants = [
        Variant(
            ComputePlan(
                data=data,
                tensor=tensor,
                pipeline=pipeline,
                virtual_stages=chunk,
                context=context,
                expert=min(expert, data * context * tensor),
                zero_stage=zero,
                shard_group=shard_group,
                micro_batch=micro,
                accumulation=accumulation,
                precision=precision,
                recompute=recompute,
                schedule="dualpipe" if "dualpipe" in cells.text("framework").lower() else "1f1b",
                sequence_parallel=traits.sequence_parallel or "sequence" in cells.text("recompute"),
            ),
            batch_weight * weight * chunk_weight,
        )
        for micro, accumulation, batch_weight in batches
        for recompute, weight in recomputes
        for chunk, chunk_weight in chunks
    ]
    return tuple(variants)


def _sharding(text: str, figures: LinkFigures, tensor: int) -> tuple[int, int]:
    low = text.lower()
    if "2d" in low or "within slice" in low:
        return 3, max(1, figures.domain // tensor)
    if "in node" in low:
        return 3, 8
    if "zero2" in low or "no reshard" in low:
        return 2, 0
    if "zero1" in low:
        return 1, 0
    if "fsdp" in low or "zero3" in low:
        return 3, 0
    return 0, 0


def _batches(cells: Cells, data: int, pipeline: int, traits: StackTraits) -> list[tuple[int, int, float]]:
    """Micro-batch, accumulation and weight; several where a row leaves them open."""
    micro, whole_batch = cells.number("micro_batch"), cells.number("global_batch")
    if whole_batch and whole_batch < data:
        raise UsageError(f"a batch of {whole_batch:.0f} sequences cannot be spread over {data} data-parallel ranks.")
    if micro and whole_batch:
        local = max(1, round(whole_batch / data))
        if traits.issue == "xla" and pipeline == 1:  # a batch per device, gathered over the tensor ranks
            return [(local, 1, 1.0)]
        if pipeline > 1 and traits.local_batch_in_pipeline and micro >= local:
            sizes = [size for size in (1, 2, 4) if size <= max(1, local // pipeline)]
            return [(size, max(1, local // size), 1 / len(sizes)) for size in sizes]
        return [(min(int(micro), local), max(1, round(local / micro)), 1.0)]
    if whole_batch:
        local = max(1, round(whole_batch / data))
        sizes = [size for size in (1, 2, 4) if size * pipeline <= local] or [1]
        if pipeline == 1:
            sizes = [local]
        return [(size, max(1, round(local / size)), 1 / len(sizes)) for size in sizes]
    if micro:
        return [(int(micro), 1 if pipeline == 1 else 4 * pipeline, 1.0)]
    return [(size, 1 if pipeline == 1 else 4 * pipeline, 1 / 3) for size in (2, 4, 8)]


def _chunks(text: str, layers: int, pipeline: int, traits: StackTraits) -> list[tuple[int, float]]:
    """Virtual stages and their weights: stated, or one and a few where interleaving may have been on."""
    if pipeline == 1:
        return [(1, 1.0)]
    most = max(1, layers // pipeline)
    try:
        stated = int(float(text))
    except ValueError:
        stated = 0
    if stated:
        return [(max(1, min(stated, math.ceil(layers / pipeline))), 1.0)]
    if text:  # "interleaved", without a number
        options = [count for count in (2, 4) if count <= most] or [1]
        return [(count, 1 / len(options)) for count in options]
    if most == 1 or not traits.interleaves:
        return [(1, 1.0)]
    return [(1, 0.4), (2, 0.3), (min(5, most), 0.3)]


def _measured(cells: Cells, shape: ModelShape, sequence: int, batch: int, devices: int) -> tuple[float, str]:
    """Seconds of a step from the best of the columns that a row has, and what was measured: a time or a rate."""
    tokens = batch * sequence
    if cells.number("step_time_s"):
        primary = cells.text("primary_metric")
        return float(cells.number("step_time_s") or 0), primary if "token" in primary else "step_time_s"
    if cells.number("tokens_per_s_per_device"):
        return tokens / (float(cells.number("tokens_per_s_per_device") or 0) * devices), "tokens_per_s_per_device"
    rate = (cells.number("model_tflops_per_device") or 0) * 1e12
    if not rate:
        raise UsageError("it has neither step time nor tokens/s nor model FLOP/s; an MFU alone has no one definition.")
    active = shape.active_parameters() - (0 if shape.tied_embeddings else shape.vocab * shape.hidden)
    flops = 6.0 * active + 12.0 * shape.layers * shape.heads * shape.head_dim * sequence
    return tokens * flops / (rate * devices), "model_tflops_per_device"
