"""The language model has the shape's parameters, is causal, and its samples are the same for any worker."""

from dataclasses import replace

import pytest
import torch
from small_cases import LATENT, SHAPE, small_case

from datahall.base.errors import Refused, UsageError
from datahall.storage.order import Order
from datahall.workloads import entry
from datahall.workloads.language_model import LanguageModel, next_token_loss, rotary_table, rotate
from datahall.workloads.text import TextSamples, held_out_text, training_text


@pytest.mark.parametrize("shape", [SHAPE, replace(SHAPE, tied_embeddings=True), replace(SHAPE, attention_bias=True)])
def test_parameters_are_those_of_the_shape(shape):
    assert sum(weights.numel() for weights in LanguageModel(shape).parameters()) == shape.parameters()


@pytest.mark.parametrize("shape", [SHAPE, replace(SHAPE, latent=LATENT)])
def test_a_token_does_not_see_the_future(shape):
    torch.manual_seed(0)
    model = LanguageModel(shape)
    tokens = torch.randint(256, (1, 32))
    changed = tokens.clone()
    changed[0, 20] = (changed[0, 20] + 1) % 256
    before, after = model(tokens), model(changed)
    assert torch.equal(before[0, :20], after[0, :20])
    assert not torch.allclose(before[0, 20:], after[0, 20:])


def test_rotation_keeps_length_and_depends_on_distance_only():
    rotation = rotary_table(16, 8, torch.device("cpu"))
    query, key = torch.randn(2, 1, 1, 1, 8).expand(2, 1, 1, 16, 8).unbind(0)
    turned, other = rotate(query, rotation), rotate(key, rotation)
    assert torch.allclose(turned.norm(dim=-1), query.norm(dim=-1), atol=1e-5)
    scores = (turned[0, 0] @ other[0, 0].T).diagonal(offset=3)
    assert torch.allclose(scores, scores[0].expand_as(scores), atol=1e-4)


def test_every_worker_builds_the_same_model():
    first, second = entry.build(small_case()), entry.build(small_case())
    batch = first.data.batch([3, 5])
    assert next_token_loss(first.model, batch).item() == next_token_loss(second.model, batch).item()


def test_targets_are_the_next_bytes(tmp_path):
    file = tmp_path / "text"
    file.write_bytes(bytes(range(200)) * 50)
    batch = training_text(8, str(file)).batch([0, 1])
    assert batch[0].tolist() == list(range(9))
    assert batch[1, 0] == batch[0, -1]
    assert len(held_out_text(8, str(file))) == 24


def test_a_text_that_is_not_there_is_the_users_error():
    with pytest.raises(UsageError, match="cannot be read"):
        training_text(8, "/nowhere/text")


def test_a_window_is_refused():
    with pytest.raises(Refused, match="planned but not run"):
        LanguageModel(replace(SHAPE, window=16))


@pytest.mark.parametrize("world", [1, 2, 4])
def test_workers_share_one_global_batch(world):
    order = Order([1000], seed=1)
    shares = [order.batch(7 * 8, 8, rank, world) for rank in range(world)]
    assert [sample for share in shares for sample in share] == order.batch(7 * 8, 8)


def test_a_pass_over_the_data_reads_each_sample_once():
    order = Order([50], seed=0)
    read = [sample for step in range(10) for sample in order.batch(5 * step, 5)]
    assert sorted(read) == list(range(50))
    assert order.batch(50, 5) != read[:5]
    assert isinstance(training_text(64), TextSamples)
