"""Proofs as others meet them: a folder that is not theirs, an impatient Ctrl-C."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from interrupted import said_of_an_interrupted_proof

from datahall.real.launch import worker_environment

CASE = Path(__file__).parents[2] / "cases" / "first.yaml"
NOBODY = 65534

# What the verbs need is imported first: an ordinary user may not be able to read the folder that datahall lies in.
AS_NOBODY = f"""
import contextlib, io, json, os, sys
import click, numpy, rich.console, torch
from datahall.ui import cli, plan, probe, prove, run
import datahall.prove.effort, datahall.prove.loop, datahall.report.terminal
if os.getuid() == 0:
    os.setgroups([]); os.setresgid({NOBODY}, {NOBODY}, {NOBODY}); os.setresuid({NOBODY}, {NOBODY}, {NOBODY})
for words in json.loads(sys.argv[1]):
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            cli.main(words)
        except SystemExit as ended:
            code = ended.code
    print(json.dumps([code, said.getvalue()]))
"""


@pytest.fixture
def not_mine(tmp_path):
    """A folder that may be read and not be written to, and a case in it."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "case.yaml").write_text(CASE.read_text())
    for each in (tmp_path, *tmp_path.parents):
        if each.stat().st_uid == os.getuid() and each != Path("/"):
            each.chmod(each.stat().st_mode | 0o055)
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)


def test_an_ordinary_user_without_write_permission_is_told_where_and_what_next(not_mine):
    case, runs = str(not_mine / "case.yaml"), ["--runs", str(not_mine / "runs")]
    verbs = [
        ["prove", case, *runs],
        ["run", case, "--steps", "2", *runs],
        ["plan", case, "--out", str(not_mine / "plan.json")],
        ["probe", "--out", str(not_mine / "site.yaml")],
    ]
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, json.dumps(verbs)],
        env=worker_environment(threads=1, interface="lo"),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for (verb, *_), line in zip(verbs, done.stdout.splitlines(), strict=True):
        code, said = json.loads(line)
        assert code == 1, (verb, said)
        assert "Permission denied" in said, verb
        assert str(not_mine) in said, verb
        assert "choose another place with --" in said, verb
    assert [one.name for one in not_mine.iterdir()] == ["case.yaml"]


def test_ctrl_c_during_the_probe_ends_with_130_and_no_process(tmp_path):
    said = said_of_an_interrupted_proof(CASE, tmp_path, "probe")
    assert "interrupted" in said
    assert "Traceback" not in said
