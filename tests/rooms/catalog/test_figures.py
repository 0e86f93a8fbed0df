"""Every figure of the hardware tables says where it stands; those that stand nowhere are counted and cannot grow."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from datahall.catalog import accelerators, figures, tables
from datahall.ui.catalog import catalog

PAGE = (Path(__file__).parents[3] / "docs" / "catalog.md").read_text(encoding="utf-8")

# The most figures that were recalled and never read again, or estimated.  Lower a number when a page was found; a new
# figure comes with its page.
MOST = {
    "accelerators": {"recalled": 176, "estimate": 222},
    "links": {"recalled": 44, "estimate": 73},
    "disks": {"recalled": 4, "estimate": 44},
    "sites": {"recalled": 107, "estimate": 41},
    "rates": {"recalled": 8, "estimate": 1},
}
ALL = [(table, row["name"], figure) for table in figures.FIGURES for row in tables.rows(table)
       for figure in figures.stated(table, row["name"])]  # fmt: skip


def counted(table: str) -> Counter[str]:
    return Counter(figures.standing(*one).checked for one in ALL if one[0] == table)


def test_every_figure_says_where_it_stands_and_when_it_was_read() -> None:
    for table, name, figure in ALL:
        found = figures.standing(table, name, figure)
        assert found.checked in figures.KINDS, (table, name, figure)
        assert len(found.source) > 5, (table, name, figure)
        assert re.fullmatch(r"20\d\d-\d\d-\d\d", found.date), (table, name, figure)
        if found.checked != "estimate":  # nobody can look these up
            assert not re.search(r"order of magnitude|data sheets of the class|cloud list prices", found.source), found


@pytest.mark.parametrize("table", figures.FIGURES)
def test_no_more_figures_are_recalled_or_estimated_than_there_were(table: str) -> None:
    found = counted(table)
    assert {kind: found[kind] for kind in MOST[table]} == MOST[table]


@pytest.mark.parametrize("table", figures.FIGURES)
def test_the_page_counts_them(table: str) -> None:
    found = counted(table)
    counts = (sum(found.values()), *(found[kind] for kind in figures.KINDS))
    assert f"| {table} | {' | '.join(f'{count:,}' for count in counts)} |" in PAGE


def test_the_page_says_how_many_prices_are_estimates() -> None:
    prices = Counter(figures.standing(*one).checked for one in ALL if one[2].endswith("_usd_per_h"))
    said = f"of {prices.total()} prices of accelerators {prices['estimate']} are estimates"
    page = " ".join(PAGE.split())
    assert said in page
    assert f"{prices['recalled']} are recalled" in page


def test_every_row_of_single_figures_is_of_a_figure_that_exists_and_no_two_are_of_the_same() -> None:
    said: Counter[tuple[str, str, str]] = Counter()
    for row in tables.rows("figures"):
        known = {one["name"] for one in tables.rows(row["table"])}
        assert row["name"] == "*" or row["name"] in known, row
        for figure in row["figures"].split():
            assert figure in figures.FIGURES[row["table"]], row
            names = known if row["name"] == "*" else {row["name"]}
            assert any(figure in figures.stated(row["table"], name) for name in names), (row["name"], figure)
            said[row["table"], row["name"], figure] += 1
    assert max(said.values()) == 1, said.most_common(3)


def test_each_price_has_a_page_of_its_own_or_says_that_it_is_an_estimate() -> None:
    for name in accelerators.names():
        for figure in figures.stated("accelerators", name):
            if figure.startswith("price_"):
                row = tables.find("accelerators", name, "")
                assert figures.standing("accelerators", name, figure).source != row["source"], (name, figure)
    assert "lambda.ai" in accelerators.accelerator("GH200").fact("price_mid_usd_per_h").source
    assert "offer file" in accelerators.accelerator("L40S").fact("price_high_usd_per_h").source


def test_a_price_says_whether_clouds_ask_it_or_owners_bear_it() -> None:
    for name in accelerators.names():
        card = accelerators.accelerator(name)
        if card.price_mid_usd_per_h is None:
            assert card.price_basis == "", name
            continue
        owned = "TCO" in card.fact("price_mid_usd_per_h").source
        assert card.price_basis == ("cost of ownership" if owned else "cloud price"), name
        assert not owned or name in PAGE, name


def test_an_entry_shows_the_source_of_each_figure() -> None:
    said = json.loads(CliRunner().invoke(catalog, ["disks", "s3", "--json"]).output)["entry"]["sources"]
    assert set(said) == set(figures.stated("disks", "s3"))
    assert said["price_usd_per_gb_month"]["source"].startswith("aws.amazon.com/s3/pricing")
    shown = CliRunner().invoke(catalog, ["accelerators", "A40"], env={"COLUMNS": "100"}).output
    head, below = shown.split("\n\n")
    assert "source" not in head  # of the row, which is not that of the price
    for figure in figures.stated("accelerators", "A40"):
        assert figure in below, figure
    assert re.search(r"^read +skypilot-org/.*primeintellect", below, re.MULTILINE)
    assert re.search(r"^estimate +the usual build", below, re.MULTILINE)
