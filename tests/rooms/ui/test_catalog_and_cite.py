"""`datahall catalog` and `datahall cite`, as a person calls them."""

from __future__ import annotations

import json

import pytest
from called import datahall
from click.testing import CliRunner

from datahall.ui.catalog import TABLES, catalog
from datahall.ui.cite import all_citations, cite, formulas_page


@pytest.mark.parametrize("table", TABLES)
def test_each_table_is_listed(table: str) -> None:
    done = CliRunner().invoke(catalog, [table])
    assert done.exit_code == 0, done.output
    assert len(done.output.splitlines()) >= 3
    listed = json.loads(CliRunner().invoke(catalog, [table, "--json"]).output)
    assert listed["format_version"] == 1
    assert listed["entries"]


@pytest.mark.parametrize(
    ("table", "name", "says"),
    [
        ("accelerators", "A40", "NVIDIA A40 data sheet"),
        ("models", "deepseek-v3", "arXiv 2412.19437"),
        ("links", "omni-path-100", "Cornelis"),
        ("disks", "nvme", "write_bytes_per_s"),
        ("sites", "dgx-h100", "nvlink4"),
        ("rates", "llama3-405b-h100", "2407.21783"),
        ("compatibility", "A100", "bf16"),
        ("stacks", "Megatron-LM", "low_precision_training.md"),
    ],
)
def test_an_entry_names_its_source(table: str, name: str, says: str) -> None:
    done = CliRunner().invoke(catalog, [table, name])
    assert done.exit_code == 0, done.output
    assert says in done.output
    assert says in CliRunner().invoke(catalog, [table, name, "--json"]).output


def test_what_stands_behind_a_stack_s_answers_fits_a_terminal() -> None:
    said = CliRunner().invoke(catalog, ["stacks", "Megatron-LM"], env={"COLUMNS": "80"}).output
    listed = json.loads(CliRunner().invoke(catalog, ["stacks", "Megatron-LM", "--json"]).output)["entries"]
    assert said.startswith("Megatron-Core\n")
    assert max(map(len, said.splitlines())) <= 80
    for row in listed:
        for name in ("precision", "reason", "source", "date", "checked"):
            assert "".join(row[name].split()) in "".join(said.split())


def test_whole_figures_are_written_in_full() -> None:
    said = CliRunner().invoke(catalog, ["models", "llama-3.1-8b"]).output
    assert "vocab 128256" in said
    assert "8030261248" in said


def test_an_unknown_name_ends_with_2() -> None:
    done = datahall("catalog", "accelerators", "A41")
    assert done.code == 2
    assert "A40" in done.stderr
    assert done.stdout == ""


def test_every_formula_has_equation_source_and_range() -> None:
    found = all_citations()
    assert "datahall.compute.mfu.mfu" in {one.function for one in found}
    for one in found:
        assert min(len(one.equation), len(one.source), len(one.holds)) > 3, one
        assert one.equation in formulas_page()
    assert CliRunner().invoke(cite, []).exit_code == 0
    assert len(json.loads(CliRunner().invoke(cite, ["--json"]).output)["formulas"]) == len(found)


@pytest.mark.parametrize("name", ["A40", "RTX3090", "H100-SXM"])
def test_a_long_note_is_wrapped_below_itself(name: str) -> None:
    lines = datahall("catalog", "accelerators", name).stdout.splitlines()
    assert max(map(len, lines)) <= 100
    note = next(at for at, line in enumerate(lines) if line.startswith("note "))
    assert lines[note].split()[1:]
    if name != "H100-SXM":
        assert lines[note + 1].startswith(" " * 29)
