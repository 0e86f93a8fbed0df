"""Two proofs at the same time take turns and both end well; Ctrl-C in the middle of one leaves nothing running."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from interrupted import said_of_an_interrupted_proof

from datahall.real.launch import worker_environment

CASE = Path(__file__).parents[2] / "cases" / "first.yaml"
SMALL = ("application.tokens=16 Ki tokens", "model.inline.hidden=64", "model.inline.layers=2", "model.inline.heads=2",
         "model.inline.kv_heads=1", "model.inline.ffn=160")  # fmt: skip
ONE = """
import json, sys, time
from pathlib import Path
from datahall.case import load
from datahall.prove.effort import Effort
from datahall.prove.loop import Settings, prove
heard = []
effort = Effort(True, 1, 0.3, 6, 6, 4, 3, 1, (), 0)
folder = Path(sys.argv[1])
folder.mkdir()
def hear(event):
    heard.append((time.monotonic(), event.kind))
proof = prove(load(sys.argv[2], sys.argv[3:]), Settings(folder, effort, hear))
(folder / "heard.json").write_text(json.dumps(heard))
print(proof.comparison.verdict.word)
"""

pytestmark = pytest.mark.system


def test_two_proofs_at_once_each_finish_right_and_take_turns(tmp_path):
    folders = [tmp_path / "one", tmp_path / "two"]
    started = [
        subprocess.Popen(
            [sys.executable, "-c", ONE, str(folder), str(CASE), *SMALL],
            env=worker_environment(threads=1, interface="lo"),
            stdout=subprocess.PIPE,
            text=True,
        )
        for folder in folders
    ]
    try:
        for one in started:
            said, _ = one.communicate(timeout=900)
            assert one.returncode == 0
            # Beside another's imports times may miss, or cancel each other; counts and parity may not differ.
            assert said.strip() in {"holds", "misses", "cancels"}
    finally:
        for one in started:
            one.kill()
    timed = []
    for folder in folders:
        data = json.loads((folder / "comparison.json").read_text())
        assert data["parity"]["holds"]
        assert all(row["equal"] is not False for row in data["counts"] if row["decided_by"] == "datahall")
        assert json.loads((folder / "recovery.json").read_text())["holds"]
        assert (folder / "report.html").is_file()
        timed.append(_timed_sections(json.loads((folder / "heard.json").read_text())))
    assert all(len(sections) >= 2 for sections in timed)
    for begin, end in timed[0]:
        assert all(end <= other_begin or other_end <= begin for other_begin, other_end in timed[1])


def test_ctrl_c_in_the_middle_of_a_run_ends_with_130_and_no_process(tmp_path):
    said_of_an_interrupted_proof(CASE, tmp_path, "baseline")  # one run is done, the plan's own is under way


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mount") is None, reason="needs root to mount a small disk")
def test_a_full_disk_ends_a_proof_with_a_clear_error(tmp_path):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", tmp_path], check=True)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "datahall.ui.cli", "prove", str(CASE), "--runs", str(tmp_path)],
            env=worker_environment(threads=1, interface="lo"),
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 1
        assert "No space left" in done.stderr
        assert "make room" in done.stderr
        assert "Traceback" not in done.stderr
        assert not list(tmp_path.rglob("manifest.json"))
        assert not list(tmp_path.rglob("comparison.json"))
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def _timed_sections(heard):
    """From the launch of workers to the end of their run, both inside the turn."""
    sections, begin = [], None
    for time_s, kind in heard:
        if kind == "launched" and begin is None:
            begin = time_s
        elif kind == "finished" and begin is not None:
            sections.append((begin, time_s))
            begin = None
    return sections
