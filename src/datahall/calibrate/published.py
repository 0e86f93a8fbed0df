"""Reading rows of published training runs: shape, plan, accelerator, links, stack, measurement.

Columns are those of common tables of measurements (`model, layers, hidden, ..., step_time_s, tokens_per_s_per_device`).
A row that cannot be read, or whose measurement is impossible, is refused with its reason, never guessed.  Nothing is
forecast here.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datahall.base.errors import DatahallError, Impossible, Refused, Unstated, UsageError
from datahall.calibrate.published_plan import Variant, variants_of
from datahall.calibrate.published_shape import Cells, shape_of_row, whole
from datahall.calibrate.published_site import link_figures, network_stated, precision_of
from datahall.calibrate.refusals import Refusal, kind_of
from datahall.case.model import ModelShape
from datahall.catalog import compatibility, stacks
from datahall.catalog.accelerators import AcceleratorEntry, accelerator_described
from datahall.compute.adapters import Adapters
from datahall.compute.plan import ComputePlan
from datahall.virtual.links import LinkRates
from datahall.virtual.traits import StackTraits, readings_of, traits_of

UNITS: Mapping[str, str] = {  # of what is measured: the seconds of a step, or a rate of each device
    "step_time_s": "s",
    "tokens_per_s_per_device": "tokens/s/device",
    "model_tflops_per_device": "TFLOP/s/device",
}

_COLUMNS = {"model", "accelerator", "n_devices"}
_NUMBERS = ("n_devices", "seq_len", "global_batch", "step_time_s", "tokens_per_s_per_device")
_RANKS = ("devices_per_node", "dp", "tp", "pp", "cp", "ep", "micro_batch")  # 0: without; -1: what is left
_UNITS = (  # what a cell may state in a unit that would be taken for the column's
    ("step_time_s", r"\d\s*(?:ms|m?illi|us|µs|micro|min|h\b|hours?)", "seconds"),
    ("global_batch", r"\btok", "sequences"),
)
_MOST_ROUNDED = 0.05  # of a batch that its ranks do not share out evenly
_USUAL_RANK = 16  # of adapters where nobody states it; a step hardly depends on it


@dataclass(frozen=True, slots=True)
class PublishedRun:
    """`step_s` is the measurement; `metric` what was really measured, one of UNITS; `memory_bytes` 0 if unknown.

    `step_flops` are the model FLOPs of a step on each device as its source counts them, where a rate of them is what
    was measured.  With `adapters` (LoRA) the model itself is frozen.
    """

    key: str
    group: str
    model: str
    quality: str
    shape: ModelShape
    sequence: int
    global_batch: int
    devices: int
    accelerator: AcceleratorEntry
    links: LinkRates
    network_stated: bool
    traits: StackTraits
    variants: tuple[Variant, ...]
    step_s: float
    metric: str
    step_flops: float = 0.0
    memory_bytes: float = 0.0
    adapters: Adapters | None = None
    source: str = ""

    @property
    def stack(self) -> str:
        """The family of software that ran it."""
        return self.traits.family

    @property
    def release(self) -> str:
        """Which release of its stack ran it: the one that is named, else that of the group of runs it stands in."""
        return self.traits.release or f"of {self.group}"

    @property
    def share_of_peak(self) -> float:
        """The dense peak's share that its products with weights alone would need: an MFU, somewhat low."""
        flops = (4.0 if self.adapters else 6.0) * self.shape.active_parameters() * self.global_batch * self.sequence
        peak = self.accelerator.peak_flops_per_s[self.variants[0].plan.precision]
        return flops / (self.devices * self.step_s * peak)

    def reading(self, seconds: float) -> float:
        """What its source would have written, in the unit of its metric, had a step taken so many seconds."""
        if self.metric == "tokens_per_s_per_device":
            return self.global_batch * self.sequence / self.devices / seconds
        return self.step_flops / 1e12 / seconds if self.metric == "model_tflops_per_device" else seconds


def read_rows(path: Path) -> tuple[Mapping[str, str], ...]:
    """The rows of a CSV file as text; UsageError where it cannot be read or lacks the columns."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = list(file)
            blank = next((place for place, line in enumerate(lines) if line.strip(" \t\r\n,")), len(lines))
            reader = csv.DictReader(lines[blank:])
            _check_columns(reader.fieldnames or (), f"{path}:{blank + 1}")
            rows = tuple({_column(str(name)): text for name, text in row.items() if name} for row in reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        saved = "Save it as CSV in UTF-8." if isinstance(error, UnicodeDecodeError) else ""
        raise UsageError(f"this file of measurements cannot be read: {error}.", where=str(path), hint=saved) from error
    hint = "One row a run, commas between cells, columns as in docs/accuracy.md."
    if not rows:
        raise UsageError("this file has no row of measurements.", where=str(path), hint=hint)
    if lacking := _COLUMNS - set(rows[0]):
        raise UsageError(f"this file lacks the columns {', '.join(sorted(lacking))}.", where=str(path), hint=hint)
    return rows


def _column(name: str) -> str:
    """The name of a column as it is known, however it is written ("Seq Len", "n-devices")."""
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def _check_columns(names: Sequence[str], where: str) -> None:
    """Refuse a column that stands twice: a row has one value of each, and the last would hide the others."""
    places: dict[str, list[int]] = {}
    for place, name in enumerate(names, start=1):
        places.setdefault(_column(name), []).append(place)
    for name, found in places.items():
        if name and len(found) > 1:
            which = ", ".join(map(str, found))
            raise UsageError(
                f"the column {name} stands {len(found)} times (columns {which}), and a row can have only one of them.",
                where=where,
                hint="Keep the right one, or give the others names of their own.",
            )


def read_runs(rows: Sequence[Mapping[str, str]]) -> tuple[list[PublishedRun], list[Refusal]]:
    """Runs and refusals, in the order of the rows."""
    runs: list[PublishedRun] = []
    refused: list[Refusal] = []
    for index, row in enumerate(rows):
        cells = Cells({str(name): str(text or "").strip() for name, text in row.items() if name})
        try:
            runs.append(_run(cells, index))
        except DatahallError as error:
            card, kind = _accelerator_named(cells)
            named = (_key(cells, index), _group(cells, kind), cells.text("model"), card)
            refused.append(Refusal(*named, kind_of(error), error.what, cells.text("source")))
    return runs, refused


def _run(cells: Cells, index: int) -> PublishedRun:
    quality = cells.text("quality") or "A"
    if quality.upper().startswith("C"):
        raise Unstated(f"quality {quality}: its source says too little to score it.")
    _check_readable(cells)
    if not cells.text("accelerator"):
        raise Unstated("accelerator is not stated.")
    card = accelerator_described(cells.text("accelerator"))
    precision = precision_of(cells.text("dtype"), card)
    framework = compatibility.framework_of(cells.text("framework"), card.kind)
    compatibility.check(card.name, precision, framework)
    stacks.check_trained(precision, cells.text("framework"), card.kind)
    written = f"{cells.text('framework')} {cells.text('dtype')}"
    stacks.check_block_scaled(precision, written, card.name, card.architecture)
    shape = shape_of_row(cells)
    sequence = whole(cells.number("seq_len"), "seq_len")
    devices = whole(cells.number("n_devices"), "n_devices")
    remark = f"{cells.text('note')} {cells.text('group')} {cells.text('dtype')}"
    likely = readings_of(cells.text("framework"), card.kind, remark, card.architecture)
    traits = likely[0][0]
    figures = link_figures(card, cells.text("interconnect"), devices, int(cells.number("devices_per_node") or 0))
    variants = variants_of(cells, shape, devices, precision, likely, figures)
    batch = variants[0].plan.global_batch
    _check_batch(cells.number("global_batch"), batch, variants[0].plan)
    seconds, metric = _measured(cells, shape, sequence, batch, devices)
    model_rate = cells.number("model_tflops_per_device") if metric == "model_tflops_per_device" else None
    _check_held(shape, sequence, [variant.plan for variant in variants], card, remark + cells.text("recompute"))
    run = PublishedRun(
        key=_key(cells, index),
        group=_group(cells, card.kind),
        model=cells.text("model"),
        quality=quality[:1].upper(),
        shape=shape,
        sequence=sequence,
        global_batch=batch,
        devices=devices,
        accelerator=card,
        links=figures,
        network_stated=network_stated(card, cells.text("interconnect")),
        traits=traits,
        variants=variants,
        step_s=seconds,
        metric=metric,
        step_flops=(model_rate or 0.0) * 1e12 * seconds,
        memory_bytes=(cells.number("memory_gb_per_device") or 0.0) * 2**30,
        adapters=_adapters(cells),
        source=cells.text("source"),
    )
    if run.share_of_peak > 1.0:
        raise Impossible(f"its measurement would be an MFU over 100 % in {precision}: a figure of the row is wrong.")
    return run


def _key(cells: Cells, index: int) -> str:
    return cells.text("id") or f"row {index + 1}"


def _group(cells: Cells, kind: str) -> str:
    """The group of a row on an accelerator of `kind`, scored or refused: its stack where it states none."""
    return cells.text("group") or traits_of(cells.text("framework"), kind).family


def _accelerator_named(cells: Cells) -> tuple[str, str]:
    """The catalogue's name and kind of a row's accelerator, so that refused rows stand with scored ones."""
    text = cells.text("accelerator")
    try:
        card = accelerator_described(text)
    except DatahallError:
        return text, "gpu"
    return card.name, card.kind


def _check_readable(cells: Cells) -> None:
    """Refuse a count or a measurement that is stated and is no number above zero, or one of another unit."""
    for name in _NUMBERS:
        if cells.text(name) and cells.number(name) is None:
            raise UsageError(f'{name} is "{cells.text(name)}", which is no number above zero.')
    for name in _RANKS:
        if cells.text(name) and cells.number(name) is None and not re.fullmatch(r"0+(\.0*)?|-1", cells.text(name)):
            raise UsageError(f'{name} is "{cells.text(name)}", which is no number.')
    for name, other, unit in _UNITS:
        if re.search(other, cells.text(name), re.IGNORECASE):
            raise UsageError(f'{name} is "{cells.text(name)}"; it is read in {unit}.')


def _check_batch(stated: float | None, planned: int, plan: ComputePlan) -> None:
    """Refuse a batch that is far from what its ranks and micro-batches can make up."""
    if stated and abs(planned / stated - 1.0) > _MOST_ROUNDED:
        raise Impossible(
            f"a batch of {stated:.0f} sequences is no whole number of micro-batches of {plan.micro_batch} on each of"
            f" {plan.data} data-parallel ranks."
        )


def _adapters(cells: Cells) -> Adapters | None:
    """The adapters that the task of a row names, None where the whole model is trained."""
    task = cells.text("task").lower()
    if re.search(r"qlora|q-lora|4.?bit", task):
        raise Refused("frozen weights in 4 bits, which have to be widened before each product, are not forecast.")
    if not re.search(r"lora|adapter|peft", task):
        return None
    rank = re.search(r"rank\D{0,3}(\d+)", f"{task} {cells.text('note').lower()}")
    if rank and not int(rank[1]):
        raise Impossible("adapters of rank 0 train nothing.")
    return Adapters(int(rank[1]) if rank else _USUAL_RANK)


def _measured(cells: Cells, shape: ModelShape, sequence: int, batch: int, devices: int) -> tuple[float, str]:
    """Seconds of a step, and what was measured: the row's `primary_metric`, else the best of the columns that it has.

    Seconds that the source derived from its rate of model FLOPs are taken, which it alone knows how it counted; a share
    of a peak (MFU, HFU) is scored as what was derived from it.
    """
    time_s, rate = cells.number("step_time_s"), cells.number("tokens_per_s_per_device")
    flops_per_s = (cells.number("model_tflops_per_device") or 0) * 1e12
    found: dict[str, float] = {}  # seconds by each column, the best first
    if time_s and cells.number("global_batch"):
        found["step_time_s"] = time_s
    if rate:
        found["tokens_per_s_per_device"] = batch * sequence / (rate * devices)
    if flops_per_s:
        found["model_tflops_per_device"] = batch * sequence * _token_flops(shape, sequence) / (flops_per_s * devices)
    if not found and time_s:
        raise Unstated("its batch is not stated, without which the seconds of a step say nothing.")
    if not found:
        raise Unstated("it has neither step time nor tokens/s nor model FLOP/s; an MFU alone has no one definition.")
    primary, (best, seconds) = cells.text("primary_metric"), next(iter(found.items()))
    if "token" in primary and best != "model_tflops_per_device":
        return found.get("tokens_per_s_per_device", seconds), "tokens_per_s_per_device"
    return seconds, primary if primary == "model_tflops_per_device" and flops_per_s else best


def _token_flops(shape: ModelShape, sequence: int) -> float:
    """Model FLOPs of a token as most sources count them: six a weight without the embedding, attention not halved."""
    active = shape.active_parameters() - (0 if shape.tied_embeddings else shape.vocab * shape.hidden)
    return 6.0 * active + 12.0 * shape.layers * shape.heads * shape.head_dim * sequence


def _check_held(
    shape: ModelShape, sequence: int, plans: Sequence[ComputePlan], card: AcceleratorEntry, remark: str
) -> None:
    """Refuse a split under which not even weights in 16 bits and one sequence's input of each layer can be held.

    The least that training keeps without the host: weights over all devices, everything else repeated, cut by tensor,
    context and pipeline ranks.
    """
    if "offload" in remark.lower() or "host" in remark.lower():
        return
    least = min(
        2.0 * shape.parameters() / plan.devices
        + 2.0 * shape.layers * sequence * shape.hidden / (plan.pipeline * plan.context * plan.tensor)
        for plan in plans
    )
    if least > card.memory_bytes:
        raise Impossible("its split cannot hold the model, however much is repeated: another than it states was run.")
