"""Every command of the README runs as it stands, and so does every case."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from called import datahall
from furnished import furnish
from small_checkpoint import write_checkpoint

ROOT = Path(__file__).parents[2]
CASES = sorted(path.name for path in (ROOT / "cases").glob("*.yaml"))
NAMED = {"FILE.csv": "runs.csv", "PLAN": "plan.json"}  # what a reader would put for the words in capitals
PLAYED_ELSEWHERE = {
    "digits.yaml": "tests/rooms/real/test_engines.py",
    "generate.yaml": "tests/worlds/test_generation_agrees.py",
    "slow-link.yaml": "tests/rooms/real/test_system_on_link.py",
}


def case_at(name, folder):
    """The case as it lies in the checkout; where its head says what to run first, a copy for which that was run."""
    first = re.findall(r"^#   datahall (data .+)$", (ROOT / "cases" / name).read_text(), re.MULTILINE)
    if not first:
        return ROOT / "cases" / name
    (folder / "cases").mkdir()
    for line in first:
        assert datahall(*shlex.split(line), cwd=folder).code == 0
    return shutil.copy(ROOT / "cases" / name, folder / "cases")


def test_every_command_of_the_readme_runs(tmp_path):
    furnish(tmp_path)
    lines = re.findall(r"^    datahall (.+)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    commands = [shlex.split(line, comments=True) for line in lines]
    assert {words[0] for words in commands} >= {"plan", "prove", "compare", "export", "validate"}
    for words in commands:
        if words[0] == "prove":
            continue  # four minutes; tests/worlds/test_proof.py plays a small one whole
        command = [sys.executable, "-m", "datahall.ui.cli", *(NAMED.get(word, word) for word in words)]
        environment = {**os.environ, "DATAHALL_HOME": str(tmp_path / "home")}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (words, done.stderr)


@pytest.mark.parametrize("name", CASES)
def test_every_case_can_be_planned(name, tmp_path):
    done = datahall("plan", case_at(name, tmp_path), cwd=tmp_path, DATAHALL_HOME=tmp_path / "home")
    assert done.code == 0, done.stderr
    assert "Run it as" in done.stdout


@pytest.mark.parametrize(
    "name", [name for name in CASES if re.search("^site: local", (ROOT / "cases" / name).read_text(), re.M)]
)
def test_every_case_for_this_machine_runs(name, tmp_path):
    if name in PLAYED_ELSEWHERE:
        assert name in (ROOT / PLAYED_ELSEWHERE[name]).read_text()
        return
    changed = []
    if "weights:" in (ROOT / "cases" / name).read_text():  # the real weights are a download of a hundred megabytes
        shape = write_checkpoint(tmp_path / "weights")
        sizes = {"name": "small", "layers": shape.layers, "hidden": shape.hidden, "heads": shape.heads,
                 "kv_heads": shape.kv_heads, "ffn": shape.ffn, "vocab": shape.vocab}  # fmt: skip
        changed = [f"--set=model.inline.{field}={size}" for field, size in sizes.items()]
        changed.append(f"--set=application.weights={tmp_path / 'weights'}")
    done = datahall("run", case_at(name, tmp_path), "--steps", 3, "--no-forecast", *changed, cwd=tmp_path)
    assert done.code == 0, done.stderr
    assert "step_time" in done.stdout


def test_every_percentage_of_the_readme_is_in_a_committed_table():
    """Of the generated table another test says so; these are those in the text, each beside the table that it links."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").split("<!-- end of table -->")[1]
    found = 0
    for paragraph in text.split("\n\n"):
        tables = [ROOT / name for name in re.findall(r"\((docs/tables/[a-z-]+\.md)\)", paragraph)]
        shown = "\n".join(table.read_text(encoding="utf-8") for table in tables).replace(" %", "%")
        for figure in re.findall(r"\d+(?:\.\d+)? %", paragraph):
            assert figure.replace(" %", "%") in shown, f"{figure} in: {paragraph}"
            found += 1
    assert found
