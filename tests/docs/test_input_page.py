"""The commands of the page on data in shards, one after the other as it gives them; `test_readme_and_cases` runs its
cases."""

import shlex
import shutil
from pathlib import Path

from called import datahall

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
    done = datahall(*words, cwd=folder, DATAHALL_HOME=folder / "home")
    assert done.code == 0, (words, done.stderr)
    return " ".join(done.stdout.split())
