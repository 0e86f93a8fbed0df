"""Generated pages are what the code says today, and every link between pages leads somewhere."""

import re
from pathlib import Path

import pytest

from datahall.ui.pages import pages

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("page", sorted(path.relative_to(ROOT).as_posix() for path in pages(ROOT)))
def test_the_page_is_up_to_date(page):
    assert (ROOT / page).read_text(encoding="utf-8") == pages(ROOT)[ROOT / page], "run `make docs`"


@pytest.mark.parametrize("page", sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("**/*.md")))
def test_links_lead_somewhere(page):
    if ".venv" in page or page.startswith("runs/"):
        return
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert ((ROOT / page).parent / target).exists(), f"{page} links to {target}"


def test_every_make_target_of_the_readme_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"\bmake ([a-z-]+)", (ROOT / "README.md").read_text(encoding="utf-8"))):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
