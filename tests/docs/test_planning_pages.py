"""The commands on the pages on planning, exports and logs are run as they stand."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from furnished import furnish

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("page", ["planning.md", "export.md", "logs.md"])
def test_every_command_of_the_page_runs(page: str, tmp_path: Path) -> None:
    furnish(tmp_path)
    lines = (DOCS / page).read_text().splitlines()
    commands = [line.split("  #")[0].strip() for line in lines if line.startswith("    datahall ")]
    assert len(commands) >= 2
    environment = {**os.environ, "DATAHALL_HOME": str(tmp_path / "home")}
    for command in commands:
        arguments = [sys.executable, "-m", "datahall.ui.cli", *shlex.split(command)[1:]]
        done = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, (command, done.stderr)
