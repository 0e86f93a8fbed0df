"""The commands on the pages on planning, exports and logs are run as they stand."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from called import datahall
from furnished import furnish

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("page", ["planning.md", "export.md", "logs.md"])
def test_every_command_of_the_page_runs(page: str, tmp_path: Path) -> None:
    furnish(tmp_path)
    lines = (DOCS / page).read_text().splitlines()
    commands = [line.split("  #")[0].strip() for line in lines if line.startswith("    datahall ")]
    assert len(commands) >= 2
    for command in commands:
        done = datahall(*shlex.split(command)[1:], cwd=tmp_path, DATAHALL_HOME=tmp_path / "home")
        assert done.code == 0, (command, done.stderr)
