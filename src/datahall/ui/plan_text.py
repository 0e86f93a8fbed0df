"""How a plan reads in a terminal of a hundred columns: the answer first, then the reasons.

Text only; what it says comes from a ranking and its explanations.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from datahall.base.metric import percentile_90
from datahall.base.result import Result
from datahall.base.units import human, human_count, human_interval, human_time
from datahall.catalog.calibrations import calibration
from datahall.compute.plan import ComputePlan
from datahall.decisions.choice import SAME_SHARE
from datahall.report.terminal import plain_table
from datahall.report.words import percent
from datahall.search.engines import ENGINES, engines_of
from datahall.search.rank import Ranking, goal_values
from datahall.search.why import Flip, Loss, bargain, explain, host_items, left_free, memory_items, step_items
from datahall.ui.plan_metrics import resting, share_cell, unordered

_BAR = 24
_FRONT = 6
_FLIPS = "What would flip it"
_STEP_ITEMS = (
    ("matrix products", "linear"),
    ("experts", "experts"),
    ("attention", "attention"),
    ("element-wise", "elementwise"),
    ("embedding", "embedding"),
    ("logits and loss", "logits"),
    ("recomputation", "recompute"),
    ("kernel launches", "launch"),
    ("slowed by hidden transfers", "beside"),
    ("exposed transfers", "transfer"),
    ("waiting for others", "waiting"),
    ("input", "input"),
    ("optimiser", "optimiser"),
    ("fixed", "fixed"),
)
_MEMORY_ITEMS = ("weights", "gradients", "optimiser", "activations", "buffers", "fragmentation")


_HOST_ITEMS = (
    ("interpreters", "interpreter"),
    ("device contexts", "context"),
    ("communication", "communication"),
    ("input", "input"),
    ("checkpoint copies", "checkpoint"),
    ("initial weights", "initial_weights"),
    ("training itself", "training"),
)


def split_text(plan: ComputePlan) -> str:
    """A split in the field's shorthand: "dp8 tp2 zero3"; "zb" is a zero-bubble schedule."""
    parts = [f"dp{plan.data}"] if plan.data > 1 else []
    parts += [f"tp{plan.tensor}"] if plan.tensor > 1 else []
    if plan.pipeline > 1:
        parts.append(f"pp{plan.pipeline}" + (f"x{plan.virtual_stages}" if plan.virtual_stages > 1 else ""))
        parts += ["zb"] if plan.schedule == "zero-bubble" else []
    parts += [f"cp{plan.context}"] if plan.context > 1 else []
    parts += [f"ep{plan.expert}"] if plan.expert > 1 else []
    if plan.zero_stage:
        parts.append(f"zero{plan.zero_stage}" + (f"/{plan.shard_group}" if plan.shard_group else ""))
    return " ".join(parts) or "one device"


def told(ranking: Ranking, forecast: Result, others: Sequence[Loss], changes: Sequence[Flip], seconds: float) -> Group:
    """Everything that `datahall plan` says, in order of use."""
    parts: list[RenderableType] = [
        _headline(ranking, seconds),
        Text(""),
        _run_table(forecast, ranking.case.application.tokens),
        Text(""),
        _splits_table(ranking, others),
        Text(""),
        _items_tables(ranking, forecast),
        Text(""),
        *_front_tables(ranking),
        _sentences(ranking, forecast, changes),
    ]
    return Group(*parts)


def _headline(ranking: Ranking, seconds: float) -> Text:
    case, plan = ranking.case, ranking.compute(0)
    task = "LoRA fine-tuning on" if case.application.method == "lora" else "training on"
    text = Text()
    text.append(f"{case.model.name} on {case.site.name}", style="bold")
    text.append(
        f": {task} {human_count(case.application.tokens)} tokens,"
        f" {case.application.global_batch:,} x {case.application.sequence:,} a step\n"
    )
    if ranking.narrow(0):
        text.append("It fits by the forecast, but not by the end of its interval. ", style="bold yellow")
    else:
        text.append("It fits. ", style="bold green")
    text.append("Run it as ")
    text.append(split_text(plan), style="bold")
    text.append(f", {_details(plan)}{_share_of(plan, ranking)}\n")
    text.append(
        f"{ranking.qualified:,} of {len(ranking.space):,} plans meet the goal"
        f" (least {case.goal.minimise}); searched in {seconds:.1f} s",
        style="dim",
    )
    return text


def _details(plan: ComputePlan) -> str:
    recompute = {"none": "no recomputation", "selective": "selective recomputation", "full": "full recomputation"}
    schedule = ", zero-bubble schedule" if plan.schedule == "zero-bubble" else ""
    whole = ", no sequence parallelism" if plan.tensor > 1 and not plan.sequence_parallel else ""
    batches = f"micro-batch {plan.micro_batch} x {plan.accumulation}"
    return f"{batches}, {recompute[plan.recompute]}, {plan.precision}{schedule}{whole}"


def _share_of(plan: ComputePlan, ranking: Ranking) -> str:
    return (
        ""
        if plan.devices == ranking.case.site.devices
        else f", {plan.devices:,} of {ranking.case.site.devices:,} devices"
    )


def _run_table(forecast: Result, tokens: float) -> Table:
    table = plain_table("Forecast", "", "90 % interval", "rests on")
    named = (
        ("whole run", "total_time"),
        ("one step", "step_time"),
        ("throughput", "tokens_per_s"),
        ("MFU", "mfu"),
        ("cost", "cost"),
        ("energy", "energy"),
        ("peak memory", "peak_memory"),
        ("a node's host memory", "host_memory"),
    )
    for name, key in named:
        metric = forecast.metrics[key]
        if metric.value > 0:
            interval = human_interval(metric.low, metric.high, metric.unit)
            table.add_row(name, human(metric.value, metric.unit), interval, str(metric.label))
    if (cost := forecast.metrics["cost"]).value > 0:
        low, value, high = (1e6 * usd / tokens for usd in (cost.low, cost.value, cost.high))
        table.add_row("a million tokens", human(value, "usd"), human_interval(low, high, "usd"), str(cost.label))
    return table


def _splits_table(ranking: Ranking, others: Sequence[Loss]) -> Table:
    table = plain_table("Best splits", "micro", "recompute", "memory", "step", "whole run", "why it lost")
    table.columns[-1].justify = "left"
    table.columns[0].no_wrap = False  # a long split takes a second line, so that figures and reasons stay whole
    for loss in others:
        step, total = loss.forecast.metrics["step_time"], loss.forecast.metrics["total_time"]
        style = "bold" if loss.place == 0 else ""
        table.add_row(
            split_text(loss.plan),
            f"{loss.plan.micro_batch}x{loss.plan.accumulation}",
            loss.plan.recompute,
            human(loss.forecast.metrics["peak_memory"].value, "bytes"),
            human_time(step.value),
            human_time(total.value),
            _why(ranking, loss),
            style=style,
        )
    return table


def _front_tables(ranking: Ranking) -> list[RenderableType]:
    """The plans that no other beats in time, cost and memory at once, where there is a choice between them."""
    front, prices = ranking.front(_FRONT), ranking.prices
    if len(front) < 2:
        return []
    forecasts = [explain(ranking, place) for place in front]
    table = plain_table("Trade-offs", "micro", "recompute", "devices", "memory", "whole run", "cost", "energy")
    table.columns[0].no_wrap = False
    for place, forecast in zip(front, forecasts, strict=True):
        plan, index = ranking.compute(place), ranking.order[place]
        table.add_row(
            split_text(plan),
            f"{plan.micro_batch}x{plan.accumulation}",
            plan.recompute,
            str(plan.devices),
            human(float(prices.memory_bytes[index]), "bytes"),
            share_cell(forecast.metrics["total_time"]),
            share_cell(forecast.metrics["cost"], "no price"),
            share_cell(forecast.metrics["energy"], "no figure"),
        )
    order = unordered([forecast.metrics["total_time"] for forecast in forecasts], "times")
    return [table, Text(f"{resting(forecasts)} {order}".strip(), style="dim"), Text("")]


def _why(ranking: Ranking, loss: Loss) -> str:
    if loss.place == 0:
        return "the choice"
    goal, devices = ranking.case.goal.minimise, loss.plan.devices
    if goal != "time" and devices != ranking.compute(0).devices:  # their steps do not compare
        values = goal_values(ranking.case, ranking.prices)[ranking.order]
        more = float(values[loss.place] / values[0]) - 1.0
        if more > 0:
            return f"{percent(more)} more {goal} on {devices:,}"
        longer = ranking.prices.total_s[ranking.order[loss.place]] / ranking.prices.total_s[ranking.order[0]]
        return f"no more {goal}, {longer:.1f} times as long" if longer > 1 + SAME_SHARE else _as_good(ranking, loss)
    base, worst = sum(loss.more_s.values()), loss.reason
    return f"+{human_time(loss.more_s[worst])} {worst}" if base > 0 else _as_good(ranking, loss)


def _as_good(ranking: Ranking, loss: Loss) -> str:
    """Why one lost that is as good, or not much better and may not fit; of equals one that surely fits goes first."""
    if not ranking.narrow(loss.place) or ranking.narrow(0):
        return "as good, less simple"
    values = goal_values(ranking.case, ranking.prices)[ranking.order]
    less = 1.0 - float(values[loss.place] / values[0])
    return f"{percent(less)} less, may not fit" if less > SAME_SHARE else "as good, may not fit"


def _items_tables(ranking: Ranking, forecast: Result) -> Table:
    compute = ranking.compute(0)
    side = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), show_header=False)
    side.add_column()
    side.add_column()
    memory = memory_items(ranking.case, compute, ranking.calibration)
    seconds = step_items(ranking.case, compute, ranking.calibration)
    held = [(name, float(getattr(memory, name)), "bytes") for name in _MEMORY_ITEMS]
    spent = [(name, float(getattr(seconds, key)), "seconds") for name, key in _STEP_ITEMS]
    room = ranking.case.site.accelerator.memory_bytes
    side.add_row(
        Group(_items(f"Memory of {human(room, 'bytes')}", held, room), Text(""), _host_items(ranking, forecast)),
        _items("One step", [item for item in spent if item[1] > 0.0005 * float(seconds.total)], float(seconds.total)),
    )
    return side


def _host_items(ranking: Ranking, forecast: Result) -> Table:
    """What the processes of a node hold beside their devices; of all there is, where the site states that."""
    held, has = host_items(ranking, forecast), ranking.case.site.host_memory_bytes
    items = [(name, float(getattr(held, key)), "bytes") for name, key in _HOST_ITEMS if float(getattr(held, key)) > 0]
    title = f"Host memory of {human(has, 'bytes')}" if has else "Host memory of a node"
    return _items(title, items, has or float(held.total))


def _items(title: str, items: Sequence[tuple[str, float, str]], whole: float) -> Table:
    table = plain_table(title, "", "")
    table.columns[2].justify = "left"
    for name, value, unit in items:
        length = round(_BAR / 2 * min(1.0, value / whole))
        table.add_row(name, human(value, unit), Text("█" * length + "░" * (_BAR // 2 - length), style="cyan"))
    total = sum(value for _, value, _ in items)
    table.add_row("together", human(total, items[0][2]) if items else "", percent(total / whole), style="bold")
    return table


def _sentences(ranking: Ranking, forecast: Result, changes: Sequence[Flip]) -> Table:
    pairs = [_flip_pair(ranking, flip) for flip in changes]
    if (found := bargain(ranking)) is not None:
        price = f"${found.price_usd_per_h:.2f} a device and hour"
        run = f"{split_text(found.plan)} on {found.plan.devices} devices, {human_time(found.total_s)}"
        pairs.append((_FLIPS, f"a price of {price}: {run}"))
    pairs.sort(key=lambda pair: pair[0] != _FLIPS)
    pairs += [("If memory is short", text) for text in _roomier(ranking)]
    pairs += _left_free(ranking)
    pairs.append(("What to request", _request(forecast)))
    pairs.append(("How sure", _sure(ranking, forecast)))
    pairs += [("Engines", text) for text in _engines(ranking)]
    for reason, count in sorted(ranking.reasons.items(), key=lambda item: -item[1]):
        pairs.append(("Did not qualify", f"{count:,} plans: {reason}"))
    for note in forecast.notes:
        pairs.append(("Note", note))
    for path, why in ranking.case.defaults.items():
        pairs.append(("Assumed", f"{path}: {why}"))
    return _bullets(pairs)


def _bullets(pairs: Sequence[tuple[str, str]]) -> Table:
    """Sentences under their titles, each title said once."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(width=18, style="bold")
    table.add_column(ratio=1)
    said = ""
    for title, text in pairs:
        table.add_row("" if title == said else title, Text(text))
        said = title
    return table


def _flip_pair(ranking: Ranking, flip: Flip) -> tuple[str, str]:
    """What a change brings, under the title that says whether another plan would clearly win."""
    if flip.plan is None:
        return _FLIPS, f"{flip.change}: then no plan qualifies"
    share = 1.0 - 1.0 / flip.gain
    gain = f"{percent(share)} less {ranking.case.goal.minimise}" if share >= 0.005 else "nothing gained"
    if flip.unable:
        how = f"{gain}, as {split_text(flip.plan)}, {_details(flip.plan)}"
        return _FLIPS, f"{flip.change}: the configuration of {flip.unable} cannot say that; without `--for`, {how}"
    if flip.same_split or share < SAME_SHARE:
        return "What would not", f"{flip.change}: {gain}"
    return _FLIPS, f"{flip.change} ({gain}): {split_text(flip.plan)}, {_details(flip.plan)}"


def _roomier(ranking: Ranking) -> list[str]:
    """The best plan that fits by the end of its interval too, where the chosen one does not."""
    prices, order = ranking.prices, ranking.order
    if not ranking.narrow(0):
        return []
    if (place := ranking.roomy()) is None:
        return ["no plan fits by the end of its interval too"]
    longer = float(prices.total_s[order[place]] / prices.total_s[order[0]])
    held = human(float(prices.memory_bytes[order[place]]), "bytes")
    plan = ranking.compute(place)
    return [f"{split_text(plan)}, {_details(plan)}: {held}, {longer:.2f} times as long"]


def _left_free(ranking: Ranking) -> list[tuple[str, str]]:
    if (free := left_free(ranking)) is None:
        return []
    text = "the job does not ask for them, so that neither its dollars nor its joules count them"
    if free.idle_j:
        text += f"; idle they would draw {human(free.idle_j, 'joules')} meanwhile"
    if ranking.case.goal.minimise == "energy" and free.place:
        plan = ranking.compute(free.place)
        text += f", and with that {split_text(plan)} on {plan.devices:,} would draw least"
        text += f" ({human(free.energy_j, 'joules')})"
    return [("Left free", f"{free.devices:,} of {ranking.case.site.devices:,} devices: {text}")]


def _engines(ranking: Ranking) -> list[str]:
    """Which engines' configuration can say the chosen plan, where none was named and some could be meant."""
    able = engines_of(ranking.case, ranking.compute(0))
    others = [engine for engine in ENGINES if engine not in able]
    if ranking.engine or ranking.case.site.accelerator.kind != "gpu" or not others:
        return []
    said = f"{', '.join(able)} can run this plan" if able else "the configuration of none can say this plan"
    return [f"{said}; `--for` plans for {' or '.join(others)}"]


def _request(forecast: Result) -> str:
    asked = human_time(percentile_90(forecast.metrics["total_time"]))
    host = human(percentile_90(forecast.metrics["host_memory"]), "bytes")
    return (
        f"{asked} of time and {host} of host memory a node, enough for nine runs in ten; `datahall plan ... --out"
        " plan.json` and `datahall export plan.json --to slurm` write the job script"
    )


def _sure(ranking: Ranking, forecast: Result) -> str:
    step = forecast.metrics["step_time"]
    half = 0.5 * (step.high - step.low) / step.value
    published = ranking.case.site.accelerator.name in calibration("training")["validity"]["accelerators"]
    others = " `datahall claim CASE.yaml` lays published runs beside it." if published else ""
    return (
        f"to within {percent(half)} (90 % interval), resting on {step.label} figures; splits within 2 % of each"
        f" other are one to the forecast: what surely fits and is simpler is taken.{others} Compare a run:"
        " `datahall compare --log train.log plan.json`"
    )
