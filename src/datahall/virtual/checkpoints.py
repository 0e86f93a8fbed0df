"""What a run's checkpoints take on a site, and which codec pays there.

Joins the storage room's formulas with a site's disk and a plan's split; nothing else prices a checkpoint.  How often to
write is `failures`'.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np

from datahall.base.errors import UsageError
from datahall.base.formula import formula
from datahall.base.units import human
from datahall.case.question import Case
from datahall.catalog import codecs, links
from datahall.compute.adapters import adapters_of, trained_parameters
from datahall.compute.anatomy import Anatomy
from datahall.compute.numbers import PlanNumbers
from datahall.storage.choice import CodecRate, Option, Tier, options, pick_codec
from datahall.storage.estimate import coded_s, slowed_s, stall_s
from datahall.storage.plan import DEFAULT_SHARDS, StoragePlan

_MOST_FILES: Final = 1024  # of a checkpoint, unless there are more ranks than that
_OVERLAP: Final = 0.25  # of the shorter of coding and moving, not covered: `storage.choice`'s
_HOST_LINK: Final = "pcie4-x16"  # between a device and its host, which no site states
_LINK_SHARE: Final = 0.8
_CALL_S: Final = 0.01  # to begin a background save: some hundred tensors are looked at
_WRITE_COPIES: Final = 1.5  # what digesting and handing over take of a core, in copies of the same bytes


@dataclass(frozen=True, slots=True)
class CheckpointSeconds:
    """Of one checkpoint: until it is committed, that it holds the loop, by which it slows steps, until it is read.

    Numbers or arrays.
    """

    write: Any
    stall: Any
    slowed: Any
    read: Any

    @property
    def cost(self) -> Any:
        """Seconds by which a run is longer for each."""
        return self.stall + self.slowed

    def with_those(self, which: Any, others: CheckpointSeconds) -> CheckpointSeconds:
        """These, with the elements of `others` where the mask `which` says."""
        if np.all(which):
            return others
        pairs = ((getattr(self, field.name), getattr(others, field.name)) for field in fields(self))
        return CheckpointSeconds(*(np.where(which, other, mine) for mine, other in pairs))


def checkpoint_bytes(case: Case, own: Anatomy | None = None, optimisers: int = 1) -> int:
    """Bytes of a full checkpoint: 32-bit master weights and Adam's two moments, 12 bytes a trained parameter.

    Of a model of the user's `own`: its weights and whatever its optimiser keeps.  Workers with local updates have so
    many `optimisers` of their own, and one momentum of what they do together.
    """
    parameters, state = (
        (own.parameters, own.state_bytes)
        if own is not None
        else (trained_parameters(case.model, adapters_of(case.application)), 8.0)
    )
    return round(parameters * (4.0 + optimisers * state + 4.0 * (optimisers > 1)))


@formula(
    equation="bytes = (keep + 1) x checkpoint / max(1, devices / devices of a disk)",
    source="ours: the committed ones, and the one that is being written; a codec is not counted on",
    holds="ranks hold equal shares; what else lies on the disk is not known",
)
def disk_bytes(checkpoint: Any, keep: int, devices: Any, devices_per_disk: Any) -> Any:
    """Bytes that a run's checkpoints take on one disk: its capacity is a constraint, and no term of any time."""
    return (keep + 1.0) * checkpoint / np.maximum(1.0, np.asarray(devices) / devices_per_disk)


def on_one_disk(case: Case, devices: Any, keep: int) -> Any:
    """`disk_bytes` of the case's checkpoints on its site."""
    per_disk = np.inf if case.site.disk.shared else case.site.devices_per_node
    return disk_bytes(float(checkpoint_bytes(case)), keep, devices, per_disk)


def checkpoint_seconds(
    case: Case,
    storage: StoragePlan,
    numbers: PlanNumbers,
    measured: Sequence[CodecRate] = (),
    own: Anatomy | None = None,
    *,
    hidden_s: Any,
    threads: int = 1,
    optimisers: int = 1,
) -> CheckpointSeconds:
    """Every rank writes its share through its node's disk, or through the one disk of a site that shares it.

    In the background the copy is made beside the `hidden_s` until the next update, and all of it beside steps that take
    `threads` of the host's cores for each rank.  `optimisers` as in `checkpoint_bytes`.
    """
    disk, clients = case.site.disk, _clients(case, numbers)
    rate = _rate_of(storage.codec, codec_rates(case, numbers, storage.shards, measured))
    raw = float(checkpoint_bytes(case, own, optimisers)) / numbers.devices
    at = (storage.shards, clients, np.inf)
    write = coded_s(raw, rate.ratio, rate.encode_bytes_per_s, *at, disk.write_bytes_per_s, disk.latency_s, _OVERLAP)
    read = coded_s(raw, rate.ratio, rate.decode_bytes_per_s, *at, disk.read_bytes_per_s, disk.latency_s, _OVERLAP)
    if not storage.asynchronous:
        return CheckpointSeconds(write, write, 0.0, read)
    staged, copy_rate = staged_bytes(case, numbers, own), _copy_bytes_per_s(case)
    coding = _threads(case, numbers, storage.shards) * raw / rate.encode_bytes_per_s
    work = (staged + _WRITE_COPIES * raw) / copy_rate + coding
    ranks = np.minimum(numbers.devices, case.site.devices_per_node)
    slowed = slowed_s(work, ranks, threads, case.site.host_cores or np.inf) + _read_s(case, staged)
    return CheckpointSeconds(write, stall_s(staged, copy_rate, hidden_s, _CALL_S), slowed, read)


def staged_bytes(case: Case, numbers: PlanNumbers, own: Anatomy | None = None) -> Any:
    """Bytes that a rank copies before a background save: what it holds of the checkpoint, whoever writes it."""
    held = checkpoint_bytes(case, own) / 12.0 / (1.0 * numbers.tensor * numbers.pipeline)
    zero = np.asarray(numbers.zero_stage)
    return held * (4.0 / np.where(zero >= 3, numbers.shards, 1.0) + 8.0 / np.where(zero >= 1, numbers.shards, 1.0))


def codec_rates(case: Case, numbers: PlanNumbers, shards: int, measured: Sequence[CodecRate] = ()) -> list[CodecRate]:
    """What one rank can code as the case allows, with a thread for each shard within its share of the cores.

    `measured` rates are a core's.

    Without a codec there is nothing to add: a disk's rates are those of the real writer and reader.
    """
    threads = _threads(case, numbers, shards)
    found = [CodecRate("none", 1.0, np.inf, np.inf)]
    lossy = f"lossy-{case.application.lossy_checkpoint}"
    for core in measured or _of_the_catalogue():
        if core.codec.startswith("lossy-") and core.codec != lossy:
            continue  # the case does not allow it
        encode, decode = threads * core.encode_bytes_per_s, threads * core.decode_bytes_per_s
        found.append(CodecRate(core.codec, core.ratio, encode, decode))
    return found


def shards_of(devices: Any) -> Any:
    """Files of each rank: a few, since one thread does not fill a disk, and fewer where there are many ranks."""
    return np.clip(_MOST_FILES // devices, 1, DEFAULT_SHARDS)


def picked_codec(case: Case, numbers: PlanNumbers, shards: int, measured: Sequence[CodecRate] = ()) -> str:
    """The codec with which a checkpoint is written fastest; none, unless another saves enough to be seen."""
    raw = float(checkpoint_bytes(case)) / numbers.devices
    return pick_codec(raw, codec_rates(case, numbers, shards, measured), _tier(case, numbers, shards), 0.0).codec


def codec_sentence(
    case: Case,
    storage: StoragePlan,
    numbers: PlanNumbers,
    measured: Sequence[CodecRate] = (),
    own: Anatomy | None = None,
) -> str:
    """Which codec the plan writes with, and below which rate of the disk one pays."""
    tier = _tier(case, numbers, storage.shards)
    raw = float(checkpoint_bytes(case, own)) / numbers.devices
    found = options(raw, codec_rates(case, numbers, storage.shards, measured), tier, 0.0)
    coded: list[Option] = [option for option in found if option.codec != "none"]
    shown = next((option for option in coded if option.codec == storage.codec), coded[0])
    threads = round(tier.clients * float(_threads(case, numbers, storage.shards)))
    even = human(float(f"{shown.break_even_bytes_per_s * tier.clients:.2g}"), "bytes_per_s")
    disk = human(case.site.disk.write_bytes_per_s, "bytes_per_s")
    where = "The site's shared disk" if case.site.disk.shared else "A node's disk"
    how = f"with codec {storage.codec}" if storage.codec != "none" else "without a codec"
    return f"Checkpoints are written {how}. {where} writes {disk}; {shown.codec} pays below {even} ({threads} threads)."


def _rate_of(codec: str, rates: Sequence[CodecRate]) -> CodecRate:
    for rate in rates:
        if rate.codec == codec:
            return rate
    raise UsageError(
        f"the plan's codec {codec!r} is not allowed by its case, or nobody has measured it.",
        where="storage.codec",
        hint=f"Codecs: {', '.join(rate.codec for rate in rates)}; rounding needs application.lossy_checkpoint.",
    )


def _tier(case: Case, numbers: PlanNumbers, shards: int) -> Tier:
    disk = case.site.disk
    clients = int(_clients(case, numbers))
    return Tier(disk.write_bytes_per_s, disk.read_bytes_per_s, disk.latency_s, _OVERLAP, clients, shards)


def _clients(case: Case, numbers: PlanNumbers) -> Any:
    """Ranks that share a disk."""
    devices = numbers.devices
    return devices if case.site.disk.shared else np.minimum(devices, case.site.devices_per_node)


def _of_the_catalogue() -> list[CodecRate]:
    entries = [codecs.codec(name) for name in codecs.names()]
    return [CodecRate(e.name, e.ratio, e.encode_bytes_per_s, e.decode_bytes_per_s) for e in entries]


def _threads(case: Case, numbers: PlanNumbers, shards: int) -> Any:
    """Threads of a rank that have a core: one a shard, within its share of the host's cores."""
    if not case.site.host_cores:
        return float(shards)  # a host that nobody describes has a few cores for each device
    return np.minimum(float(shards), case.site.host_cores / np.minimum(numbers.devices, case.site.devices_per_node))


def _read_s(case: Case, staged: Any) -> Any:
    """Seconds of a device's memory that the copy takes; on a processor they are in the core's own."""
    device = case.site.accelerator
    return 0.0 if device.kind == "cpu" else staged / device.memory_bytes_per_s


def _copy_bytes_per_s(case: Case) -> float:
    """From a device to its host's memory; on a processor one copy in memory, which reads and writes."""
    device = case.site.accelerator
    if device.kind == "cpu":
        return device.memory_bytes_per_s / 2.0
    return _LINK_SHARE * links.link(_HOST_LINK).bytes_per_s
