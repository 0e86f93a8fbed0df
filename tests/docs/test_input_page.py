"""The commands of the page on data in shards, one after the other as it gives them; `test_readme_and_cases` runs its
cases."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_command_of_the_page_runs(tmp_path):
    (tmp_path / "book.txt").write_text("to be or not to be, that is the question; " * 100_000)
    (tmp_path / "cases").mkdir()
    for case in ("cached-text.yaml", "cached-tokens.yaml"):
        shutil.copy(ROOT / "cases" / case, tmp_path / "cases")
    lines = (ROOT / "docs" / "input.md").read_text(encoding="utf-8").splitlines()
    commands = [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("    datahall ")]
    said = {" ".join(words): _said(words, tmp_path) for words in commands if words[0] != "run"}
    assert "It does not pay because no shard comes back" in said["plan cases/cached-tokens.yaml"]
    assert "It pays because it spares" in said["plan cases/cached-text.yaml"]


def _said(words, folder):
    environment = {**os.environ, "DATAHALL_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "datahall.ui.cli", *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (words, done.stderr)
    return " ".join(done.stdout.split())
