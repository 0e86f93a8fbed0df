"""A checkpoint of another library gives the same logits here; wrong ones are refused with the reason."""

import json
from dataclasses import replace

import pytest
import torch
from small_cases import small_case
from small_checkpoint import write_checkpoint

from datahall.base.errors import Refused, UsageError
from datahall.case.question import Training
from datahall.workloads import pretrained
from datahall.workloads.language_model import LanguageModel
from datahall.workloads.lora import LoraLinear, add_adapters

TOKENS = torch.arange(24).view(2, 12) * 7 % 256


@pytest.fixture
def checkpoint(tmp_path):
    return tmp_path, write_checkpoint(tmp_path)


def test_logits_are_those_of_transformers(checkpoint):
    transformers = pytest.importorskip("transformers")
    folder, shape = checkpoint
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        ours = pretrained.load_model(folder, shape)(TOKENS)
        assert torch.allclose(ours, theirs(TOKENS).logits, atol=1e-5)


def test_a_configuration_as_transformers_saves_it_today_gives_the_same_rotation(checkpoint):
    transformers = pytest.importorskip("transformers")
    folder, shape = checkpoint
    with torch.no_grad():
        before = pretrained.load_model(folder, shape)(TOKENS)
    transformers.AutoConfig.from_pretrained(folder).save_pretrained(folder)
    assert "rope_theta" not in json.loads((folder / "config.json").read_text())  # it stands among `rope_parameters`
    unknown = replace(shape, rotary_base=0.0)  # as of a case that states sizes alone: the same model
    with torch.no_grad():
        assert torch.equal(pretrained.load_model(folder, unknown)(TOKENS), before)


def test_weights_of_heads_that_are_rotary_in_part_are_refused(checkpoint):
    folder, shape = checkpoint
    stated = json.loads((folder / "config.json").read_text())
    for half in (
        {"partial_rotary_factor": 0.5},
        {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
    ):
        (folder / "config.json").write_text(json.dumps(stated | half))
        with pytest.raises(Refused, match="parts of heads"):
            pretrained.load_model(folder, shape)


def test_another_shape_and_missing_weights_are_refused(checkpoint):
    folder, shape = checkpoint
    with pytest.raises(UsageError, match="the weights are of"):
        pretrained.load_model(folder, replace(shape, layers=3))
    case = small_case(shape)
    missing = replace(case, application=replace(case.application, weights="no-such-model"))
    with pytest.raises(UsageError, match="no weights"):
        pretrained.build(missing)


def test_weights_fit_a_stated_shape_whose_positions_are_not_stated(checkpoint):
    folder, shape = checkpoint
    assert shape.rotary_base
    stated = replace(shape, rotary_base=0.0, traits="parallel")
    assert pretrained.load_model(folder, stated)(TOKENS).shape == pretrained.load_model(folder, shape)(TOKENS).shape


def test_an_adapted_model_begins_as_what_it_adapts_and_merges_back():
    from small_cases import SHAPE

    model = LanguageModel(SHAPE)
    before = model(TOKENS).detach()
    add_adapters(model, Training(1e6, 8, 64, method="lora", lora_rank=4, lora_targets="all"))
    assert torch.equal(model(TOKENS), before)
    layer = model.blocks[0].mlp.down
    assert isinstance(layer, LoraLinear)
    torch.nn.init.normal_(layer.expand)
    inputs = torch.randn(3, SHAPE.ffn)
    assert torch.allclose(layer(inputs), inputs @ layer.merged().T, atol=1e-4)
