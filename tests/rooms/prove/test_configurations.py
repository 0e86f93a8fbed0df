"""What is held out was not seen, and the split does not depend on chance that nobody fixed."""

import dataclasses

import pytest

from datahall.calibrate.machine import position_of
from datahall.case.model import ModelShape
from datahall.case.question import Case, Goal, Training
from datahall.case.site import Accelerator, Disk, Link, Site
from datahall.prove.configurations import HELD_OUT, SEEN, configurations


@pytest.fixture
def case():
    cpu = Accelerator("cpu", "cpu", "any", 8e9, 1e10, {"fp32": 1e11})
    site = Site("here", cpu, 1, 2, 2, Link(1e9, 1e-5), Link(1e9, 1e-5), Disk(1e9, 1e9, 1e-3))
    model = ModelShape("lm", 4, 256, 8, 4, 32, 704, 256)
    return Case("first", model, Training(1e6, 16, 128), site, Goal())


def test_no_held_out_value_was_seen():
    for field in dataclasses.fields(SEEN):
        assert not set(getattr(SEEN, field.name)) & set(getattr(HELD_OUT, field.name))


def test_the_same_seed_gives_the_same_configurations(case):
    first = configurations(case, HELD_OUT, 24, seed=7, precisions=("fp32", "bf16"))
    again = configurations(case, HELD_OUT, 24, seed=7, precisions=("fp32", "bf16"))
    assert first == again
    assert len({one.name for one in first}) == 24
    assert first != configurations(case, HELD_OUT, 24, seed=8, precisions=("fp32", "bf16"))


def test_every_configuration_is_consistent(case):
    for one in configurations(case, SEEN, 12, seed=1, precisions=("fp32", "bf16")):
        one.plan.check_belongs_to(one.case)
        assert one.plan.compute.global_batch == one.case.application.global_batch
        assert one.case.model.heads * one.case.model.head_dim == one.case.model.hidden
        assert one.case.model.heads % one.case.model.kv_heads == 0
        assert len(position_of(one.case, one.plan.compute)) == 5
