"""A proposal survives its file, and a file that was edited is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from datahall.base.errors import UsageError
from datahall.base.label import Label
from datahall.base.metric import Metric
from datahall.base.result import Result
from datahall.case.model import LatentAttention, ModelShape
from datahall.case.question import Case, Goal, Training
from datahall.case.site import Accelerator, Disk, Link, Site
from datahall.compute.plan import ComputePlan
from datahall.decisions.plan import Plan
from datahall.decisions.proposal import Proposal, load_proposal
from datahall.network.plan import NetworkPlan
from datahall.storage.plan import StoragePlan


def a_proposal() -> Proposal:
    latent = LatentAttention(1536, 512, 64, 128, 128)
    model = ModelShape("m", 4, 256, 8, 8, 32, 512, 1000, experts=8, experts_per_token=2, latent=latent)
    gpu = Accelerator("X", "gpu", "acme", 80e9, 2e12, {"bf16": 312e12}, power_w=400, price_usd_per_h=2)
    site = Site(
        "s",
        gpu,
        1,
        8,
        8,
        Link(3e11, 1e-6),
        Link(25e9, 5e-6),
        Disk(2e9, 3e9, 1e-3),
        provenance={"scale_up": Label.CATALOGUE},
    )
    case = Case(
        "c",
        model,
        Training(1e9, 64, 2048),
        site,
        Goal("cost", deadline_s=86400.0),
        {"site": Label.CATALOGUE},
        {"goal": "none given"},
    )
    plan = Plan(ComputePlan(data=8, accumulation=8), StoragePlan(), NetworkPlan(), case.hash())
    return Proposal(
        case, plan, Result("virtual", {"step_time": Metric("step_time", "seconds", 1.0, 0.9, 1.2, Label.CATALOGUE)})
    )


def test_a_saved_proposal_comes_back_equal(tmp_path: Path) -> None:
    proposal = a_proposal()
    proposal.save(tmp_path / "plan.json")
    loaded = load_proposal(tmp_path / "plan.json")
    assert loaded.case.hash() == proposal.case.hash()
    assert loaded.case.model == proposal.case.model
    assert loaded.case.site.disk.capacity_bytes == float("inf")
    assert loaded.plan == proposal.plan
    assert loaded.forecast.metrics["step_time"] == proposal.forecast.metrics["step_time"]
    assert list(tmp_path.iterdir()) == [tmp_path / "plan.json"]


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("case", "model", "layers"), 5, "another case"),
        (("case", "model", "layer"), 5, "not a resolved case"),
        (("case", "site", "node"), 5, "site.node"),
        (("format_version",), 99, "format_version 99"),
        (("kind",), "else", "not a plan file"),
        (("plan", "compute", "zero_stage"), 7, "no ZeRO stage 7"),
        (("plan", "compute", "accumulation"), 3, "sequences a step"),
    ],
)
def test_an_edited_file_is_refused(tmp_path: Path, path: tuple[str, ...], value: object, said: str) -> None:
    data = a_proposal().to_json()
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    (tmp_path / "plan.json").write_text(json.dumps(data))
    with pytest.raises(UsageError, match=said):
        load_proposal(tmp_path / "plan.json")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a readable plan file"):
        load_proposal(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(UsageError, match="not a readable plan file"):
        load_proposal(tmp_path / "bad.json")
