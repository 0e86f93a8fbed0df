"""`datahall claim`: percentages without a baseline, answered by naming the baselines against which they would hold."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Group
from rich.text import Text

from datahall.base.errors import UsageError
from datahall.base.units import human_time
from datahall.calibrate.nearby import Nearby
from datahall.case import load
from datahall.report.terminal import plain_table, show
from datahall.report.words import percent
from datahall.search.claim import Claim, Ratio, claim
from datahall.virtual.serving_constants import shipped

FORMAT_VERSION = 1
_USUAL = (
    "V100-32GB-SXM2", "A100-40GB-SXM", "A100-80GB-SXM", "H100-SXM", "H200-SXM", "B200",
    "MI300X", "TPU-v3", "TPU-v4", "TPU-v5e", "TPU-v5p", "TPU-v6e",
)  # fmt: skip


@click.command("claim", short_help="against which baseline a claimed percentage would hold")
@click.argument("case", type=click.Path(path_type=Path))
@click.option("--training-time", default="-30%", show_default=True, help="The claimed change of the training time.")
@click.option("--inference", default="+20%", show_default=True, help="The claimed change of the inference rate.")
@click.option("--against", multiple=True, metavar="ACCELERATOR", help="Baselines; by default a dozen of the catalogue.")
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")
def claim_command(case: Path, training_time: str, inference: str, against: tuple[str, ...], as_json: bool) -> None:
    """Say against which baseline CASE would take so much less time, and infer so much faster.

    Each baseline is as many devices of another accelerator with its own best plan; and the same devices, used less
    well.  Inference is a modest forecast of tokens served in 16 bits, with a wide interval, beside the ratios of the
    data sheets.  The published runs nearest to CASE follow, each beside a forecast that never saw its family.
    """
    asked = load(case, ())
    less, more = -share_of(training_time), share_of(inference)
    names = against or tuple(name for name in _USUAL if name != asked.site.accelerator.name)
    found = claim(asked, names)
    if as_json:
        click.echo(json.dumps(_as_json(found, less, more), indent=2))
        return
    parts = [_head(found, asked.site.accelerator.name, less), _table(found, less, more)]
    show(Group(*parts, _measured(found)) if found.measured else Group(*parts))


def share_of(text: str) -> float:
    """A signed change in percent as a share; UsageError where it is none, or leaves nothing of what it changes."""
    match = re.fullmatch(r"\s*([+-]?\d+(?:\.\d+)?)\s*%\s*", text)
    if not match:
        raise UsageError(f"{text!r} is not a percentage.", hint='Write it as "-30%".')
    share = float(match[1]) / 100.0
    if share <= -1.0:
        raise UsageError(f"{text!r} leaves nothing of what it changes.", hint='Ask above -100%: "-50%" is half.')
    return share


def _head(found: Claim, name: str, less: float) -> Text:
    text = Text()
    text.append(f"{human_time(found.total.value)} at {percent(found.mfu.value)} MFU", style="bold")
    text.append(f" ({human_time(found.total.low)} to {human_time(found.total.high)}).\n")
    text.append(f"{_same_devices(found, less)}.\n")
    if found.served is not None:
        copy = f"{found.served.tensor * found.served.stages} devices a copy, {found.served.at_once} sequences at once"
        each = f"{found.served.tokens_per_s:,.0f} tokens/s of each device"
        text.append(f"Inference: {each} (within a factor of {found.served.factor:.1f}; {copy}).\n")
    if found.published_mfu:
        ends = " / ".join(percent(share) for share in found.published_mfu)
        text.append(
            f"Others measured {ends} MFU on {name} (10th, 50th, 90th percentile of {found.published_runs} published"
            " runs in 16 bits).\n"
        )
    return text


def _same_devices(found: Claim, less: float) -> str:
    """How well a baseline of the same devices would use them; beyond their peak there is none."""
    value, low, high = found.mfu_of_baseline(less)
    kept = f"{_times(1.0 - less)} times as long"
    if value > 1.0:
        return f"{kept}: the same devices are no such baseline: it would take {_times(value)} times their peak"
    upper = percent(high) if high <= 1.0 else "all of the peak"
    return f"{kept} as the same devices at {percent(value)} MFU ({percent(low)} to {upper})"


def _table(found: Claim, less: float, more: float) -> Group:
    table = plain_table("Baseline", "run", "as long", f"≤ {_times(1.0 - less)}", "tokens", f"≥ {_times(1.0 + more)}")
    for one in found.baselines:
        table.add_row(
            one.site,
            human_time(one.total_s),
            _between(Ratio(1.0 - one.saved, 1.0 - one.saved_high, 1.0 - one.saved_low)),
            one.training(less),
            _between(one.served),
            one.inference(more),
        )
    note = Text("As long, tokens: the case's run and tokens/s over the baseline's, two forecasts each.", style="dim")
    known = ", ".join(shipped().accelerators)
    note.append(f"\nTokens: fitted to published figures on {known}; all others are forecast unseen.")
    if found.unable:
        note.append(f"\nAs many cannot hold the case, or fill no whole nodes: {', '.join(found.unable)}.")
    return Group(table, note)


def _measured(found: Claim) -> Group:
    """The published runs nearest to the case: measured, forecast unseen, and the case at their MFU."""
    above = ("", "", "measured", "measured", "forecast unseen", "", "", "case at")
    below = ("Published run", "devices", "step", "MFU", "of the step", "off", "held", "its MFU")
    table = plain_table(*map("\n".join, zip(above, below, strict=True)))
    families = list(dict.fromkeys((near.run.group, near.run.source) for near in found.measured))
    for near in found.measured:
        run, then = near.run, found.total_at(near)
        table.add_row(
            f"{run.model} [{families.index((run.group, run.source)) + 1}]",
            f"{run.devices:,}",
            f"{run.step_s:.3g} s",
            percent(near.mfu),
            f"{near.seconds:.3g} s ({near.low:.3g} to {near.high:.3g})",
            f"{late:+d} %" if (late := round(100 * near.late)) else "0 %",
            "yes" if near.held else "no",
            "–" if then is None else human_time(then),
        )
    lines = [f"[{at}] {group}: {source}" for at, (group, source) in enumerate(families, start=1)]
    lines += [
        "Unseen: by constants refitted without the run's family, or the run was collected after the fit.",
        "Case at its MFU: the case's run if its devices are used as well as that run's.",
    ]
    return Group(Text(""), table, Text("\n".join(lines), style="dim"))


def _between(ratio: Ratio | None) -> str:
    """A ratio with its interval; a dash where there is none."""
    return "–" if ratio is None else f"{_times(ratio.value)} ({_times(ratio.low)} to {_times(ratio.high)})"


def _times(ratio: float) -> str:
    """A ratio with two decimals, or with two digits where it is so small that they would say nothing."""
    return f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.2g}"


def _as_json(found: Claim, less: float, more: float) -> dict[str, object]:
    value, low, high = found.mfu_of_baseline(less)
    return {
        "format_version": FORMAT_VERSION,
        "claimed": {"less_time_share": less, "more_inference_share": more},
        "total_time": found.total.to_json(),
        "mfu": found.mfu.to_json(),
        "same_devices_at_mfu": None if value > 1.0 else {"value": value, "low": low, "high": min(high, 1.0)},
        "same_devices_times_peak": value if value > 1.0 else None,
        "published_mfu": found.published_mfu,
        "unable": list(found.unable),
        "served": None if found.served is None else asdict(found.served),
        "measured_runs": [_run_json(found, near) for near in found.measured],
        "baselines": [
            {**asdict(one), "training": one.training(less), "inference": one.inference(more)} for one in found.baselines
        ],
    }


def _run_json(found: Claim, near: Nearby) -> dict[str, object]:
    run = near.run
    return {
        "id": run.key,
        "group": run.group,
        "model": run.model,
        "stack": run.stack,
        "devices": run.devices,
        "precision": near.precision,
        "quality": run.quality,
        "metric": run.metric,
        "measured": run.reading(run.step_s),
        "measured_step_s": run.step_s,
        "mfu": near.mfu,
        "forecast_step_s": near.seconds,
        "low_step_s": near.low,
        "high_step_s": near.high,
        "late_share": near.late,
        "held": near.held,
        "forecast_by": "constants refitted without its family"
        if near.refitted
        else "constants that were fitted before",
        "case_total_s_at_its_mfu": found.total_at(near),
        "source": run.source,
    }
