"""A rival on the same rows: llm-analysis (PyPI, Apache-2.0) beside datahall, families left out, and its memory.

    pip install llm-analysis        # in an environment of its own: it pins and pulls in transformers
    PYTHONPATH=src python benchmarks/rivals.py docs/tables/rivals.md

llm-analysis prices FLOPs at an efficiency that its user states.  It is shown twice: with the efficiency that it has
where nobody states one, and with the one that fits the runs of all other families best, which is what a careful user
could know.  Rows that it cannot express (mixtures, context parallelism, TPU, Blackwell, narrow precision) are left out
for both.  Takes about a minute.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np

from datahall.calibrate.forecasting import Forecasts
from datahall.calibrate.holdout import group_of, left_out_forecasts
from datahall.calibrate.judge import Judgement
from datahall.calibrate.published import PublishedRun
from datahall.calibrate.shipped import load, shipped_runs
from datahall.compute.counts import ShapeCounts
from datahall.compute.memory import memory
from datahall.compute.numbers import PlanNumbers
from datahall.virtual.pricing import memory_habits, setting_of

_CARDS = {
    "A100-80GB-SXM": "a100-sxm-80gb",
    "A100-40GB-SXM": "a100-sxm-40gb",
    "H100-SXM": "h100-sxm-80gb",
    "H100-SXM-96GB-HBM2e": "h100-sxm-80gb",
}
_RECOMPUTE = {"none": 0, "selective": 1, "full": 2}


def main() -> int:
    """Write the table to the file that the first argument names, or print it."""
    logging.disable(logging.CRITICAL)
    runs = [run for run in shipped_runs()[0] if _expressible(run)]
    answers = [_rival(run) for run in runs]
    print(f"{len(runs)} rows, {sum(answer is None for answer in answers)} that llm-analysis refuses", file=sys.stderr)
    kept = [(run, answer) for run, answer in zip(runs, answers, strict=True) if answer is not None]
    text = _table([run for run, _ in kept], np.array([answer["latency_per_iter"] for _, answer in kept]))
    text += "\n" + _memory(kept)
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(text, encoding="utf-8")
    print(text)
    return 0


def _expressible(run: PublishedRun) -> bool:
    plan = run.variants[0].plan
    narrow = plan.precision not in {"bf16", "fp16"}
    return run.accelerator.name in _CARDS and not (run.shape.experts or run.shape.latent or narrow or plan.context > 1)


def _rival(run: PublishedRun) -> dict[str, Any] | None:
    """What llm-analysis says of a run at an efficiency of 1; None where it refuses (an assertion)."""
    from llm_analysis import analysis, config

    shape, plan = run.shape, run.variants[0].plan
    model = config.ModelConfig(
        name=shape.name,
        num_layers=shape.layers,
        n_head=shape.heads,
        hidden_dim=shape.hidden,
        vocab_size=shape.vocab,
        max_seq_len=run.sequence,
        num_key_value_heads=shape.kv_heads,
        ffn_embed_dim=shape.ffn,
        expansion_ratio=shape.ffn / shape.hidden,
    )
    try:
        one = analysis.LLMAnalysis(
            model,
            config.get_gpu_config_by_name(_CARDS[run.accelerator.name]),
            config.get_dtype_config_by_name("w16a16e16"),
            config.ParallelismConfig(tp_size=plan.tensor, pp_size=plan.pipeline, dp_size=plan.data),
            flops_efficiency=1.0,
        )
        return one.training(
            batch_size_per_gpu=plan.micro_batch,
            gradient_accumulation_steps=plan.accumulation,
            global_batch_size=plan.global_batch,
            seq_len=run.sequence,
            activation_recomputation=analysis.ActivationRecomputation(_RECOMPUTE[plan.recompute]),
            ds_zero=analysis.DSZeRO(plan.zero_stage),
            flash_attn=bool(run.traits.fused_attention),
            mlp_gated_linear_units=shape.mlp_matrices == 3,
        )
    except (AssertionError, ValueError, TypeError, ZeroDivisionError) as error:
        print(f"{run.group} {run.model} on {run.devices}: {str(error)[:90]}", file=sys.stderr)
        return None


def _table(runs: list[PublishedRun], rival: Any) -> str:
    trained = load()
    own = left_out_forecasts(runs, shipped_runs()[0], group_of, trained.factors, start=trained.fitted.constants).seconds
    measured = np.array([run.step_s for run in runs])
    groups = np.array([run.group for run in runs])
    lines = [
        "| family left out | runs | datahall: median / mean | llm-analysis 0.2.2, efficiency fitted to the others "
        "| llm-analysis as installed |",
        "|---|---:|---:|---:|---:|",
    ]
    for group in dict.fromkeys(groups.tolist()):
        mine = groups == group
        sizes = {name: 1.0 / np.sqrt((groups == name).sum()) for name in set(groups.tolist()) - {group}}
        weights = np.array([sizes.get(name, 0.0) for name in groups])
        factor = _weighted_median((measured / rival)[~mine], weights[~mine])
        cells = [_errors(_on_primary(seconds, runs)[mine]) for seconds in (own, rival * factor, rival)]
        lines.append(f"| {group} | {mine.sum()} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _on_primary(seconds: Any, runs: list[PublishedRun]) -> Any:
    """Forecast over measurement in what each source measured, a time or a rate, as `datahall validate` scores it."""
    nothing = np.zeros(len(runs))
    found = Forecasts(seconds, nothing, nothing, nothing, ("",) * len(runs))
    return 1.0 + Judgement(tuple(runs), found, ()).errors


def _weighted_median(values: Any, weights: Any) -> float:
    order = np.argsort(values)
    share = np.cumsum(weights[order]) / weights.sum()
    return float(values[order][np.searchsorted(share, 0.5)])


def _errors(ratio: Any) -> str:
    size = np.abs(ratio - 1.0)
    return f"{100 * np.median(size):.1f} / {100 * np.mean(size):.1f} %"


def _memory(kept: list[tuple[PublishedRun, dict[str, Any]]]) -> str:
    """Peak memory of the rows that state it, in one stage: datahall's own model beside the rival's sum."""
    from datahall.case.named_site import accelerator_of
    from datahall.virtual.links import LinkRates

    rows = [(run, answer) for run, answer in kept if run.memory_bytes and run.variants[0].plan.pipeline == 1]
    own, rival = [], []
    for run, answer in rows:
        plan = run.variants[0].plan
        links = LinkRates(1.0, 0.0, 1.0, 1.0, 0.0)
        setting = setting_of(accelerator_of(run.accelerator), plan.precision, run.traits, links)
        numbers = PlanNumbers.of(plan)
        held = memory(ShapeCounts.of(run.shape), run.sequence, numbers, memory_habits(setting)).total
        own.append(float(held) / run.memory_bytes)
        rival.append(answer["(weight+op_state+grad+act)_memory_per_gpu"] / run.memory_bytes)
    lines = [
        "| peak memory | runs | datahall: median / mean | llm-analysis 0.2.2 |",
        "|---|---:|---:|---:|",
        f"| torchtitan | {len(rows)} | {_errors(np.array(own))} | {_errors(np.array(rival))} |",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
