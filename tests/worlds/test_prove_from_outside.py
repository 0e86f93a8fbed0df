"""Proofs as others meet them: a folder that is not theirs, a port that is taken, an impatient Ctrl-C."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from interrupted import said_of_an_interrupted_proof
from small_cases import small_case, small_plan

from datahall.real import training
from datahall.real.launch import worker_environment

CASE = Path(__file__).parents[2] / "cases" / "first.yaml"
NOBODY = 65534

# What a verb needs is imported first: an ordinary user may not be able to read the folder that datahall lies in.
AS_NOBODY = f"""
import os, sys
import click, numpy, rich.console, torch
from datahall.ui import cli, plan, probe, prove, run
import datahall.prove.effort, datahall.prove.loop, datahall.report.terminal
if os.getuid() == 0:
    os.setgroups([]); os.setresgid({NOBODY}, {NOBODY}, {NOBODY}); os.setresuid({NOBODY}, {NOBODY}, {NOBODY})
cli.main(sys.argv[1:])
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


@pytest.mark.parametrize(
    "verb",
    [("prove",), ("run", "--steps", "2"), ("plan", "--out", "plan.json"), ("probe", "--out", "site.yaml")],
    ids=lambda verb: verb[0],
)
def test_an_ordinary_user_without_write_permission_is_told_where_and_what_next(not_mine, verb):
    name, *options = verb
    asked = [] if name == "probe" else [str(not_mine / "case.yaml")]
    where = [] if "--out" in options else ["--runs", str(not_mine / "runs")]
    options = [str(not_mine / one) if "." in one else one for one in options]
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, name, *asked, *options, *where],
        env=worker_environment(threads=1, interface="lo"),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert "Permission denied" in done.stderr
    assert str(not_mine) in done.stderr
    assert "Traceback" not in done.stderr
    assert "choose another place with --" in done.stderr
    assert [one.name for one in not_mine.iterdir()] == ["case.yaml"]


def test_a_port_that_others_hold_stops_nobody(tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("MASTER_PORT", str(taken.getsockname()[1]))
        case = small_case()
        done = training.run(case, small_plan(case, workers=2), tmp_path, steps=3)
    assert done.result.counts["steps"] == 3
    assert not done.lost


def test_ctrl_c_during_the_probe_ends_with_130_and_no_process(tmp_path):
    said = said_of_an_interrupted_proof(CASE, tmp_path, "probe")
    assert "interrupted" in said
    assert "Traceback" not in said
