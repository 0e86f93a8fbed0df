"""The shipped figures of inference: known models and accelerators, each with its source, none twice."""

from __future__ import annotations

import csv
import os
from collections import Counter
from pathlib import Path

import pytest

from datahall.case.named_model import shape_of
from datahall.catalog import published_runs
from datahall.catalog.accelerators import accelerator
from datahall.catalog.published_inference import TokenFigure, figures, unseen_figures


def test_every_figure_is_of_a_known_model_on_known_devices_with_its_source() -> None:
    for figure in figures():
        card, shape = accelerator(figure.accelerator), shape_of(figure.model)
        assert card.name == figure.accelerator, "written as the catalogue writes it"
        assert shape.name == figure.model
        assert figure.tensor <= card.scale_up_devices
        assert shape.heads % figure.tensor == 0
        assert figure.weights in {"bf16", "fp16", "fp8", "fp4"}
        assert figure.sequences_at_once >= 1
        assert figure.prompt_tokens >= 1
        assert figure.answer_tokens >= 2
        assert 1e-3 < figure.token_s < 2.0
        assert figure.source in published_runs.sources().values()
        assert figure.key.startswith(f"{figure.family}-")


def test_rates_that_are_kept_for_judging_are_of_known_things_too() -> None:
    for figure in unseen_figures():
        assert accelerator(figure.accelerator).name == figure.accelerator
        assert shape_of(figure.model).name == figure.model
        assert 1.0 < figure.tokens_per_s_per_device < 1e5
        assert {figure.weights, figure.cache} <= {"fp16", "fp8", "fp4"}
        assert figure.source in published_runs.sources().values()
    assert not {figure.model for figure in unseen_figures()} & {figure.model for figure in figures()}


def test_keys_are_given_once_and_no_source_stands_idle() -> None:
    keys = Counter(figure.key for figure in (*figures(), *unseen_figures()))
    assert max(keys.values()) == 1
    used = {figure.source for figure in (*figures(), *unseen_figures())}
    named = {where for name, where in published_runs.sources().items() if name[0] in "ij"}
    assert used == named


def _given() -> list[dict[str, str]]:
    named = os.environ.get("DATAHALL_TRUTH")
    folders = ([Path(named)] if named else []) + [Path(__file__).resolve().parents[4] / "shared" / "truth"]
    for folder in folders:
        if (folder / "inference.csv").exists():
            with (folder / "inference.csv").open(encoding="utf-8") as file:
                return list(csv.DictReader(file))
    return []


@pytest.mark.skipif(not _given(), reason="optional: the table of published serving figures is not here")
def test_they_are_all_figures_of_the_table_that_the_rule_selects() -> None:
    stated = [row for row in _given() if row["quality"] == "A" and row["tpot_ms"] and row["disagg"] == "no"]
    plain = [row for row in stated if row["spec_decode"] in ("", "none")]
    one = [row for row in plain if row["dp_attention"] != "yes"]
    chosen = [row for row in one if int(row["tp"]) <= 8]
    assert (len(stated) - len(plain), len(plain) - len(one), len(one) - len(chosen)) == (30, 22, 49)
    theirs, ours = sorted(map(_of_row, chosen)), sorted(map(_of_figure, figures()))
    assert [load for *load, _ in theirs] == [load for *load, _ in ours]
    assert [one[-1] for one in ours] == pytest.approx([one[-1] for one in theirs], rel=1e-5)


def _of_row(row: dict[str, str]) -> tuple[str | int | float, ...]:
    load = (int(row[name]) for name in ("tp", "concurrency_or_batch", "input_len", "output_len"))
    return row["group"], row["accelerator"], *load, float(row["tpot_ms"]) / 1e3


def _of_figure(figure: TokenFigure) -> tuple[str | int | float, ...]:
    load = figure.tensor, figure.sequences_at_once, figure.prompt_tokens, figure.answer_tokens
    return figure.family, figure.accelerator, *load, figure.token_s
