"""The commands on the pages on planning, exports and logs are run as they stand."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from called import datahall
from furnished import furnish

from datahall.case import from_model_and_site
from datahall.compute.plan import ComputePlan
from datahall.search.why import memory_items
from datahall.virtual.transferred import default_calibration

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


@pytest.mark.parametrize(("precision", "said"), [("bf16", (2, 4, 12)), ("fp32", (4, 4, 8))])
def test_bytes_of_a_parameter_are_those_of_the_page(precision: str, said: tuple[int, ...]) -> None:
    case = from_model_and_site("llama-3.1-8b", "8xA100-80GB-SXM", precision=precision)
    plan = ComputePlan(data=8, precision=precision)
    held = memory_items(case, plan, default_calibration(case))
    parameters = case.model.parameters()
    assert (held.weights, held.gradients, held.optimiser) == tuple(pytest.approx(part * parameters) for part in said)
    text = " ".join((DOCS / "planning.md").read_text().split())
    assert "counts 18 bytes a parameter before activations: 2 for the weights" in text
    assert "fp32 takes 16 (4 + 4 + 8)" in text
