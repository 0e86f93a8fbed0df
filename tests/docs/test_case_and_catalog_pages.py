"""What docs/case.md and docs/catalog.md show is run: YAML blocks load, commands work, numbers are right."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from datahall.base.errors import CaseError
from datahall.case import loads
from datahall.case.schema import ShapeForm, SiteForm, TrainingForm
from datahall.catalog import models, tables
from datahall.ui.catalog import catalog

DOCS = Path(__file__).parents[2] / "docs"
CASE_PAGE = (DOCS / "case.md").read_text(encoding="utf-8")
CATALOG_PAGE = (DOCS / "catalog.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```yaml\n(.*?)```", CASE_PAGE, re.DOTALL)
COMMANDS = re.findall(r"^    datahall catalog ?(.*?)(?:\s+#.*)?$", CATALOG_PAGE, re.MULTILINE)


@pytest.mark.parametrize("block", BLOCKS)
def test_every_case_of_the_page_loads(block: str) -> None:
    assert loads(block).application.steps >= 1


def test_every_key_is_on_the_page() -> None:
    for form in (TrainingForm, SiteForm):
        for key in form.model_fields:
            assert f"`{key}" in CASE_PAGE or f"{key}:" in CASE_PAGE or key in {"name", "nodes", "file", "catalog"}, key
    assert {"layers", "hidden", "heads", "ffn", "vocab"} <= set(ShapeForm.model_fields)


def test_the_error_on_the_page_is_the_error() -> None:
    text = BLOCKS[0].replace("nodes: 16", "link: 400 GB/s")
    with pytest.raises(CaseError) as caught:
        loads(text, file="cases/a.yaml")
    assert str(caught.value) in CASE_PAGE


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_page_works(command: str) -> None:
    done = CliRunner().invoke(catalog, command.split())
    assert done.exit_code == 0, done.output


def test_the_numbers_of_the_page_are_right() -> None:
    text = " ".join(CATALOG_PAGE.split())
    for table, words in (
        ("accelerators", "accelerators and hosts"),
        ("links", "links"),
        ("disks", "disks"),
        ("sites", "sites"),
    ):
        assert f"{len(tables.rows(table))} {words}" in text
    families = len({models.model(name).family for name in models.names()})
    assert f"{len(tables.rows('models'))} models of {families} families" in text
