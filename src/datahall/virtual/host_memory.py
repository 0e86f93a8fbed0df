"""The memory of a host under a plan: processes, input and the copies of checkpoints, with an interval and a label.

Joins the rooms' figures for a site; `compute.host_memory` has the formula.  Devices' own memory is `training`'s.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Final

import numpy as np

from datahall.base.label import Label, weakest
from datahall.base.metric import TO_P90, Metric
from datahall.base.units import human
from datahall.case.question import Case
from datahall.catalog.compatibility import framework_of
from datahall.compute.anatomy import Anatomy
from datahall.compute.counts import ShapeCounts
from datahall.compute.host_memory import (
    JAX,
    ON_PROCESSOR,
    PYTORCH,
    HostBytes,
    HostHabits,
    HostWidths,
    devices_of_a_node,
    host_log_half_width,
    host_memory,
    largest_tensor_bytes,
    on_tpu,
)
from datahall.compute.memory import held_parameters, sharded
from datahall.compute.numbers import PlanNumbers
from datahall.decisions.plan import Plan
from datahall.storage.input import open_shards
from datahall.storage.order import MIX
from datahall.storage.plan import StoragePlan
from datahall.virtual.checkpoints import checkpoint_bytes, shards_of, staged_bytes

KEPT_FOR_OTHERS: Final = 0.1  # of the memory of a host, for the system and other programs
_WORD: Final = 4  # bytes of a parameter as a process reads it
_COPIED: Final = StoragePlan(interval_steps=1, asynchronous=True)  # as far as it is held in host memory
_COPIES_REMEDY: Final = " ZeRO makes copies of checkpoints smaller, and a save that holds the loop needs none."


def host_bytes(
    case: Case, storage: StoragePlan, numbers: PlanNumbers, own: Anatomy | None = None, training_bytes: Any = 0.0
) -> HostBytes:
    """What the fullest host holds, item by item; `training_bytes` are the peak of a process that computes on it."""
    site, application = case.site, case.application
    devices = on_a_host(case, numbers)
    shared = site.accelerator.one_process_a_host
    return host_memory(
        numbers,
        application.sequence,
        habits_of(case),
        devices=devices,
        processes=np.minimum(1, devices) if shared else devices,
        launchers=0 if shared or _computes(case) else 1,
        copied_bytes=_copied(case, storage, numbers, own),
        read_bytes=_WORD * case.model.parameters() if application.weights and not _computes(case) else 0.0,
        ahead=storage.ahead,
        shards_open_bytes=_open_bytes(case),
        training_bytes=training_bytes if _computes(case) else 0.0,
    )


def host_metric(case: Case, plan: Plan, own: Anatomy | None, peak: Metric) -> Metric:
    """The metric `host_memory`; where processors train, its label and most of its interval are those of `peak`."""
    held, widths = host_bytes(case, plan.storage, PlanNumbers.of(plan.compute), own, peak.value), HostWidths()
    if _computes(case) and peak.value > 0:
        widths = replace(widths, training=peak.high / peak.value)
    half = float(host_log_half_width(held, widths))
    label = weakest([peak.label, Label.TRANSFERRED]) if _computes(case) else Label.ASSUMED
    value = float(held.total)
    return Metric("host_memory", "bytes", value, value * math.exp(-half), value * math.exp(half), label)


def fits_host(case: Case, storage: StoragePlan, numbers: PlanNumbers) -> Any:
    """Whether hosts suffice nine times in ten, as the site states them; a mask for arrays, True where it does not.

    Where processors train, memory is the devices' own, and was looked at.
    """
    if not case.site.host_memory_bytes or _computes(case):
        return True
    return _asked_bytes(case, storage, numbers) <= room_bytes(case)


def holds_copies(case: Case, numbers: PlanNumbers) -> Any:
    """Whether hosts suffice, as in `fits_host`, where each checkpoint is copied to them and written beside training."""
    return fits_host(case, _COPIED, numbers)


def holds_saves(case: Case, numbers: PlanNumbers) -> Any:
    """The same where training waits for each checkpoint, so that only the tensors under way are in their memory."""
    return fits_host(case, replace(_COPIED, shards=shards_of(numbers.devices), asynchronous=False), numbers)


def room_bytes(case: Case) -> float:
    """What a job can have of a host's memory, as the site states it."""
    return (1.0 - KEPT_FOR_OTHERS) * case.site.host_memory_bytes


def host_notes(case: Case, plan: Plan, asked_bytes: float) -> tuple[str, ...]:
    """What to say where `asked_bytes` are more than the site's hosts have to give, or only copies would have been."""
    has, numbers = case.site.host_memory_bytes, PlanNumbers.of(plan.compute)
    if has and asked_bytes > room_bytes(case):
        return (
            f"It may not fit its hosts: nine times in ten {human(asked_bytes, 'bytes')} of host memory suffice, and a"
            f" host has {human(has, 'bytes')}, a tenth of it for others."
            f"{_COPIES_REMEDY if plan.storage.asynchronous else ''}{weights_remark(case)}",
        )
    if plan.storage.asynchronous or not plan.storage.interval_steps or np.all(holds_copies(case, numbers)):
        return ()
    enough = human(_asked_bytes(case, _COPIED, numbers) / (1.0 - KEPT_FOR_OTHERS), "bytes")
    return (
        "Checkpoints hold the loop while they are written: copies to write beside training from may not fit hosts of"
        f" {human(has, 'bytes')}; hosts of {enough} would do.",
    )


def weights_remark(case: Case) -> str:
    """A sentence, behind others, on who reads the initial weights, where there are some."""
    read = " Every process reads the initial weights, or one a node where the plan spreads them."
    return read if case.application.weights else ""


def on_a_host(case: Case, numbers: PlanNumbers) -> Any:
    """Devices of the plan on the fullest host; workers that share a processor's cores may be more than these."""
    site = case.site
    apart = devices_of_a_node(numbers.devices, site.devices_per_node, numbers.tensor, site.nodes)
    return np.maximum(apart, np.ceil(np.asarray(numbers.devices) / site.nodes)) if _computes(case) else apart


def habits_of(case: Case) -> HostHabits:
    """What a process of the case's stack keeps on its devices' hosts."""
    kind = case.site.accelerator.kind
    if kind == "cpu":
        return ON_PROCESSOR
    habits = JAX if framework_of(case.site.stack, kind) == "jax" else PYTORCH
    return on_tpu(habits) if kind == "tpu" else habits


def _asked_bytes(case: Case, storage: StoragePlan, numbers: PlanNumbers) -> Any:
    """What suffices nine times in ten."""
    held = host_bytes(case, storage, numbers)
    return held.total * np.exp(TO_P90 * host_log_half_width(held, HostWidths()))


def _computes(case: Case) -> bool:
    """Whether hosts themselves compute."""
    return case.site.accelerator.kind == "cpu"


def _open_bytes(case: Case) -> float:
    """Bytes of data that a process has open while it reads shards; a processor's peak has them in it."""
    data = case.application.data
    return 0.0 if data is None or _computes(case) else open_shards(MIX) * max(data.prepared_bytes, default=0)


def _copied(case: Case, storage: StoragePlan, numbers: PlanNumbers, own: Anatomy | None) -> Any:
    """Bytes of a checkpoint that wait in host memory for each device: all, or a tensor for each file under way."""
    if not storage.interval_steps:
        return 0.0
    counts = ShapeCounts.of(case.model)
    held = staged_bytes(case, numbers, own) if own is not None or _computes(case) else _saved(case, counts, numbers)
    if storage.asynchronous:
        return held
    if _computes(case):
        return 0.0  # tensors are written from where they are
    return np.minimum(held, storage.shards * largest_tensor_bytes(counts, numbers))


def _saved(case: Case, counts: ShapeCounts, numbers: PlanNumbers) -> Any:
    """What a device holds of the checkpoint: 32-bit weights and two moments, shared out as device memory has them.

    In 16 bits the weights are the optimiser's master copy, which ZeRO shares out from stage 1 on.
    """
    parameters = held_parameters(counts, numbers)
    states = sharded(parameters, numbers, 1)
    weights = np.where(np.asarray(numbers.linear_bits) < 32, states, sharded(parameters, numbers, 3))
    return checkpoint_bytes(case) / 12.0 / case.model.parameters() * (4.0 * weights + 8.0 * states)
