"""The table of a full proof: what `make prove-full` reached, beside its bars (`benchmarks/prove_full.py FOLDER`).

Reads the folder that the proof left; measures nothing.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from datahall.base.score import HeldOutScore, coverage_accepted, heldout_from_json
from datahall.prove.blind import Trial, summary
from datahall.report.comparison import comparison_from_json

DISK_BAR, MEMORY_BAR, STEP_BAR, WIDTH_BAR = 0.25, 0.15, 0.15, 0.25


def main(folder: Path) -> None:
    """Print the table in Markdown."""
    scores = {name: heldout_from_json(data) for name, data in read(folder / "heldout" / "scores.json").items()}
    comparison = comparison_from_json(read(folder / "comparison.json"))
    rows = [*heldout_rows(scores), *run_rows(comparison), *blind_rows(folder / "blind.json")]
    machine = comparison.machine
    print("# A full proof\n")
    print("`make prove-full`, then `python benchmarks/prove_full.py FOLDER`.", end=" ")
    if machine:
        print(f"{machine.cores} cores, load {machine.load_before:.1f} before and {machine.load_during:.1f} during.")
    print("\n| what | bar | reached | held |\n|---|---|---|---|")
    for what, bar, reached, held in rows:
        print(f"| {what} | {bar} | {reached} | {'yes' if held else '**no**'} |")
    print("\n| configuration that the fit has not seen | forecast | 90 % interval | measured | error |")
    print("|---|---:|---:|---:|---:|")
    for one in scores["step_time"].points:
        interval = f"{1e3 * one.low:.0f} to {1e3 * one.high:.0f} ms"
        error = one.forecast / one.measured - 1.0
        print(f"| {one.name} | {1e3 * one.forecast:.0f} ms | {interval} | {1e3 * one.measured:.0f} ms | {error:+.0%} |")


def heldout_rows(scores: dict[str, HeldOutScore]) -> list[tuple[str, str, str, bool]]:
    step, memory = scores["step_time"], scores["peak_memory"]
    covered = round(step.coverage_share * step.n)
    return [
        (f"median error of the step, {step.n} held out", "15 %", f"{step.median_error_share:.1%}",
         step.n >= 24 and step.median_error_share <= STEP_BAR),
        ("the same before calibration", "", f"{step.median_error_share_before:.1%}", True),
        ("90 % intervals hold (binomial test at 5 %)", "not rejected", f"{covered} of {step.n}",
         coverage_accepted(covered, step.n)),
        ("median half-width", "25 %", f"{step.median_half_width_share:.1%}", step.median_half_width_share <= WIDTH_BAR),
        ("interval score, before and after", "smaller", f"{step.interval_score_before:.2f}, {step.interval_score:.2f}",
         step.interval_score < step.interval_score_before),
        ("median error of peak memory", "15 %", f"{memory.median_error_share:.1%}",
         memory.median_error_share <= MEMORY_BAR),
    ]  # fmt: skip


def run_rows(comparison) -> list[tuple[str, str, str, bool]]:
    checkpoint, memory = comparison.row("checkpoint_write"), comparison.row("peak_memory")
    return [
        ("peak memory of the sealed plan", "15 %", f"{memory.error_share:+.1%}", abs(memory.error_share) <= MEMORY_BAR),
        ("checkpoint of the sealed plan", "25 %", f"{checkpoint.error_share:+.1%}",
         abs(checkpoint.error_share) <= DISK_BAR),
    ]  # fmt: skip


def blind_rows(path: Path) -> list[tuple[str, str, str, bool]]:
    trials = [Trial(**{key: value for key, value in one.items() if key != "right"}) for one in read(path)["trials"]]
    rows: list[tuple[str, str, str, bool]] = []
    doses = sorted({trial.dose for trial in trials})
    for dose, right, count in summary(trials):
        what = f"bottleneck found blind, {dose:g} of a step added" if dose else "controls in which nothing is named"
        asked = dose == 0 or dose in doses[-2:]
        rows.append((what, f"{count} of {count}" if asked else "", f"{right} of {count}", right == count or not asked))
    return rows


def read(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
