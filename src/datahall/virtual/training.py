"""A whole training run in the virtual world: steps, checkpoints, failures, energy and cost, with intervals and labels.

`forecast` gives the same metrics as the real world.  Which plan to choose is `search`'s; how constants were fitted is
`calibrate`'s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from datahall.base.errors import UsageError
from datahall.base.label import Label, weakest
from datahall.base.metric import Metric, percentile_90
from datahall.base.result import Result
from datahall.base.units import human
from datahall.case.question import Case
from datahall.case.site import Accelerator, Site
from datahall.compute.adapters import adapter_parameters
from datahall.compute.anatomy import Anatomy
from datahall.compute.memory import MemoryBytes, memory
from datahall.compute.mfu import step_mfu
from datahall.compute.numbers import PlanNumbers
from datahall.compute.possible import check_possible
from datahall.decisions.plan import Plan
from datahall.storage.reading import ReadCosts
from datahall.virtual.calibration import Calibration, peak_flops_per_s
from datahall.virtual.checkpoints import CheckpointSeconds, checkpoint_seconds, codec_sentence
from datahall.virtual.failures import daly_interval_s, wall_over_work
from datahall.virtual.gradient_plan import is_plain, optimisers, with_exchange
from datahall.virtual.host_memory import host_metric, host_notes
from datahall.virtual.input_cache import result_with_reading
from datahall.virtual.reading import Waited, read_beside
from datahall.virtual.run_counts import run_counts
from datahall.virtual.step_time import StepInputs, StepSeconds, step_time
from datahall.virtual.transferred import default_calibration
from datahall.virtual.unstated import NETWORK_NOTE, network_unstated, unsure_of_network

RESTART_S = 300.0  # reschedule, load, first step: used only where failures are stated
_IDLE_POWER_SHARE = 0.3  # of the device's power limit, while it waits
_HOST_POWER_SHARE = 0.6  # servers, fans, switches beside each device's own power

# what turns a forecast of seconds into one of joules and dollars, by the label of its figure
PRICED = {"energy": "accelerator.power_w", "cost": "accelerator.price_usd_per_h"}


@dataclass(frozen=True, slots=True)
class RunSeconds:
    """Where the seconds of a run go; numbers, or arrays with an element a plan."""

    steps: Any
    checkpoints: Any
    failures: Any
    startup: Any

    @property
    def total(self) -> Any:
        """Seconds from launch to the end."""
        return self.steps + self.checkpoints + self.failures + self.startup

    @property
    def goodput_share(self) -> Any:
        """Share of the time that trains."""
        return self.steps / self.total


def forecast(
    case: Case,
    plan: Plan,
    calibration: Calibration | None = None,
    own: Anatomy | None = None,
    costs: ReadCosts | None = None,
) -> Result:
    """What playing `plan` for `case` will give, each metric with a 90 % interval and the weakest label of its inputs.

    `own` is the anatomy of a model that the case brings with it; its calibration knows what a step of it takes.
    `costs` are of a shard of the case's data, where somebody measured them.  Raises UsageError (Refused for pieces of a
    sequence) where the plan does not belong to the case, cannot exist for it or needs other devices than the site has
    (where its calibration does not know how workers share them), Incompatible where the precision is lacking.
    """
    plan.check_belongs_to(case)
    if own is None:
        check_possible(plan.compute, case.model, case.application.sequence, case.application.global_batch)
    calibration = calibration or default_calibration(case)
    bare, numbers = calibration.inputs(case, plan.compute), PlanNumbers.of(plan.compute)
    inputs = with_exchange(case, plan, bare, own)
    _check_devices(case, plan, inputs)
    seconds = step_time(inputs, numbers)
    written = _written(case, plan, seconds, inputs, own)
    read = None if case.application.data is None else read_beside(case, plan, seconds, costs)
    mean, seconds = (seconds, seconds) if read is None else _beside_reading(seconds, read.waited())
    run = run_seconds(case, plan, float(mean.total), float(written.cost), float(inputs.habits.startup_s))
    values = _values(case, plan, inputs, seconds, run, written)
    if own is None:
        values |= _mfu(case, plan, inputs, float(seconds.total))
    label = _label(case, calibration)
    spread = unsure_of_network(
        case, calibration, bare, lambda other: step_time(with_exchange(case, plan, other, own), numbers), seconds
    )
    metrics = _metrics(case, values, spread, label)
    metrics["goodput"] = _goodput(run, spread, label)
    metrics |= _busiest(plan, float(inputs.habits.expert_wait), label)
    metrics["host_memory"] = host = host_metric(case, plan, own, metrics["peak_memory"])
    notes = _notes(case, plan, run, inputs, own, calibration) + host_notes(case, plan, percentile_90(host))
    counts = run_counts(case, plan, own)
    result = Result("virtual", MappingProxyType(metrics), MappingProxyType(counts), notes)
    if read is None:
        return result
    return result_with_reading(result, case, plan, read, costs, calibration.spread("step_time"))


def run_seconds(case: Case, plan: Plan, step_s: float, save_s: float, startup_s: float = 60.0) -> RunSeconds:
    """Steps, checkpoints that make the run longer by `save_s` each, and failures of the whole run."""
    work = case.application.steps * step_s
    rate = case.site.failures_per_device_s * plan.compute.processors
    interval = plan.storage.interval_steps * step_s
    if not interval and rate > 0:
        interval = float(daly_interval_s(save_s, 1.0 / rate))
    if not interval:
        return RunSeconds(work, 0.0, 0.0, startup_s)
    return run_parts(work, interval, save_s, rate, startup_s)


def run_parts(work_s: Any, interval_s: Any, save_s: Any, failures_per_s: Any, startup_s: Any) -> RunSeconds:
    """A run of `work_s` seconds of steps that takes `save_s` longer for each `interval_s`; numbers or arrays."""
    checkpoints = work_s / interval_s * save_s
    between = 1.0 / np.maximum(failures_per_s, 1e-300)
    wall = work_s * wall_over_work(interval_s, save_s, RESTART_S, between)
    return RunSeconds(work_s, checkpoints, np.maximum(0.0, wall - work_s - checkpoints), startup_s)


def power_w(site: Site, busy_share: Any) -> Any:
    """Watts at the wall of the facility for each device that computes for a share of the time; numbers or arrays."""
    device = _IDLE_POWER_SHARE + (1 - _IDLE_POWER_SHARE) * busy_share
    return site.accelerator.power_w * (_HOST_POWER_SHARE + device) * site.pue


def held_bytes(inputs: StepInputs, plan: PlanNumbers) -> MemoryBytes:
    """What the fullest device holds at the peak of a step, item by item."""
    share, adapters = inputs.trainable_share, inputs.adapters
    return memory(inputs.counts, inputs.sequence, plan, inputs.memory, trainable_share=share, adapters=adapters)


def _check_devices(case: Case, plan: Plan, inputs: StepInputs) -> None:
    needed = plan.compute.processors
    if needed > case.site.devices and np.isinf(inputs.cores):
        raise UsageError(
            f"the plan needs {needed} devices and {case.site.name} has {case.site.devices}.", where="plan.compute"
        )


def _beside_reading(seconds: StepSeconds, waited: Waited) -> tuple[StepSeconds, StepSeconds]:
    """A mean step and a usual one with what they wait for data."""
    return replace(seconds, input=waited.mean_s), replace(seconds, input=waited.usual_s)


def _written(
    case: Case, plan: Plan, seconds: StepSeconds, inputs: StepInputs, own: Anatomy | None
) -> CheckpointSeconds:
    return checkpoint_seconds(
        case,
        plan.storage,
        PlanNumbers.of(plan.compute),
        inputs.codecs,
        own,
        hidden_s=seconds.total - seconds.optimiser,
        threads=plan.compute.threads,
        optimisers=optimisers(plan),
    )


def _values(
    case: Case, plan: Plan, inputs: StepInputs, seconds: StepSeconds, run: RunSeconds, written: CheckpointSeconds
) -> dict[str, tuple[str, float]]:
    compute, site = plan.compute, case.site
    busy = min(compute.processors, site.devices)
    step_s = float(seconds.total)
    tokens = compute.global_batch * case.application.sequence
    watts = power_w(site, float(seconds.compute) / step_s)
    held = held_bytes(inputs, PlanNumbers.of(compute))
    beside = {"checkpoint_slowing": ("seconds", float(written.slowed))} if plan.storage.asynchronous else {}
    return {
        **beside,
        "compute": ("seconds", float(seconds.compute) + float(seconds.fixed)),
        "transfer": ("seconds", float(seconds.transfer)),
        "waiting": ("seconds", float(seconds.waiting)),
        "input": ("seconds", float(seconds.input)),
        "optimiser": ("seconds", float(seconds.optimiser)),
        "checkpoint": ("seconds", float(written.stall)),
        "checkpoint_write": ("seconds", float(written.write)),
        "startup": ("seconds", run.startup),
        "step_time": ("seconds", step_s),
        "total_time": ("seconds", float(run.total)),
        "peak_memory": ("bytes", float(held.total)),
        "energy": ("joules", float(watts * busy * run.total)),
        "cost": ("usd", site.accelerator.price_usd_per_h / 3600.0 * busy * run.total),
        "tokens_per_s": ("tokens_per_s", tokens / step_s),
    }


def _mfu(case: Case, plan: Plan, inputs: StepInputs, step_s: float) -> dict[str, tuple[str, float]]:
    """MFU; nothing where a measured peak lies below a measured rate, as it may on a busy machine."""
    compute, site = plan.compute, case.site
    peak = peak_flops_per_s(site.accelerator, compute.precision) * min(compute.processors, site.devices)
    adapters = adapter_parameters(case.model, case.application)
    try:
        share = step_mfu(inputs.counts, inputs.sequence, compute.global_batch, step_s, peak, adapters)
    except UsageError:
        if site.label("accelerator") not in (Label.MEASURED, Label.ASSUMED):
            raise
        return {}
    return {"mfu": ("share", share)}


def _label(case: Case, calibration: Calibration) -> Label:
    """The weakest label of the inputs in use; data sheets that a transferred fit took in are judged with it."""
    site = case.site
    links = [name for name, used in (("scale_up", site.devices > 1), ("scale_out", site.nodes > 1)) if used]
    labels = [site.label(path) for path in ("accelerator", *links)]
    if calibration.label is Label.TRANSFERRED:
        labels = [label for label in labels if label is not Label.CATALOGUE]
    return weakest([calibration.label, *labels])


def _metrics(
    case: Case, values: dict[str, tuple[str, float]], calibration: Calibration, label: Label
) -> dict[str, Metric]:
    """The values with their intervals and labels."""
    # Joules and dollars rest on figures that no fit and no probe has touched.
    priced = {name: weakest([label, case.site.label(path)]) for name, path in PRICED.items()}
    metrics = {
        name: _metric(name, unit, value, calibration, priced.get(name, label)) for name, (unit, value) in values.items()
    }
    metrics["cost"] = _with_prices(metrics["cost"], case.site.accelerator)
    return metrics


def _metric(name: str, unit: str, value: float, calibration: Calibration, label: Label) -> Metric:
    low, high = calibration.spread(name)
    inverse = name in {"tokens_per_s", "mfu"}
    low, high = (1 / high, 1 / low) if inverse else (low, high)
    ceiling = 1.0 if unit == "share" else float("inf")
    return Metric(name, unit, value, value * low, min(ceiling, value * high), label)


def _with_prices(cost: Metric, card: Accelerator) -> Metric:
    """The cost with its interval widened by the range of the catalogue's prices, independent of the time's."""
    middle, low, high = card.price_usd_per_h, card.price_low_usd_per_h, card.price_high_usd_per_h
    if not 0 < low <= middle <= high or cost.low <= 0:
        return cost
    cheaper = math.hypot(math.log(cost.value / cost.low), math.log(middle / low))
    dearer = math.hypot(math.log(cost.high / cost.value), math.log(high / middle))
    return replace(cost, low=cost.value * math.exp(-cheaper), high=cost.value * math.exp(dearer))


def _goodput(run: RunSeconds, calibration: Calibration, label: Label) -> Metric:
    """Useful over all time: low where steps are short and what is lost is long."""
    (short, long), (less, more) = calibration.spread("step_time"), calibration.spread("startup")
    lost = run.total - run.steps
    low, high = (float(run.steps * by / (run.steps * by + lost * loss)) for by, loss in ((short, more), (long, less)))
    return Metric("goodput", "share", float(run.goodput_share), low, high, label)


def _busiest(plan: Plan, more: float, label: Label) -> dict[str, Metric]:
    """The rows of the busiest expert rank, `more` above the mean rank's: from even routing to three times that."""
    ranks = plan.compute.expert
    if ranks == 1 or more == 0:
        return {}
    found = Metric("busiest_share", "share", (1 + more) / ranks, 1 / ranks, min(1.0, (1 + 3 * more) / ranks), label)
    return {found.name: found}


def _notes(
    case: Case, plan: Plan, run: RunSeconds, inputs: StepInputs, own: Anatomy | None, calibration: Calibration
) -> tuple[str, ...]:
    notes: list[str] = []
    if calibration.label is Label.CATALOGUE:
        notes.append(f"No measured run on a {case.site.accelerator.name} or its like stands behind these seconds.")
    held, room = float(held_bytes(inputs, PlanNumbers.of(plan.compute)).total), case.site.accelerator.memory_bytes
    if held > room and case.site.accelerator.kind != "cpu":
        notes.append(f"It does not fit: it needs {human(held, 'bytes')} of the {human(room, 'bytes')} of a device.")
    if network_unstated(case, calibration):
        notes.append(NETWORK_NOTE)
    if not is_plain(plan.network):
        notes.append("A lossy or rarer exchange may need more steps to the same loss: see `datahall exchange`.")
    if plan.storage.interval_steps:
        notes.append(codec_sentence(case, plan.storage, PlanNumbers.of(plan.compute), inputs.codecs, own))
    card = case.site.accelerator
    if not card.price_usd_per_h:
        notes.append("The site has no price, so the cost is 0.")
    elif card.price_low_usd_per_h < card.price_high_usd_per_h:
        span = f"the catalogue has {card.price_low_usd_per_h:.2f} to {card.price_high_usd_per_h:.2f}"
        span += f", each a {card.price_basis}" if card.price_basis else ""
        notes.append(f"Cost at ${card.price_usd_per_h:.2f} a device and hour; {span}.")
    if not card.power_w:
        notes.append("The accelerator has no power figure, so the energy is 0.")
    if run.failures > 0.001 * run.total:
        notes.append(f"Failures and restarts take {100 * run.failures / run.total:.1f} % of the time.")
    if plan.compute.processors < case.site.devices:
        notes.append(f"The plan leaves {case.site.devices - plan.compute.processors} devices of the site idle.")
    return tuple(notes)
