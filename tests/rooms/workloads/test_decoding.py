"""Tokens made with held keys and values are those of the model's own forward pass."""

from dataclasses import replace

import pytest
import torch
from small_cases import SHAPE
from small_checkpoint import write_checkpoint

from datahall.base.errors import UsageError
from datahall.workloads.decoding import KeyValues, next_tokens, read_prompt
from datahall.workloads.language_model import LanguageModel
from datahall.workloads.pretrained import load_model

CLOSE = 2e-5  # of logits around 1, in 32 bits: other orders of the same sums


@torch.no_grad()
def without_a_cache(model, prompt, new_tokens):
    tokens, logits = list(prompt), []
    for _ in range(new_tokens):
        logits.append(model(torch.tensor([tokens]))[0, -1])
        tokens.append(int(logits[-1].argmax()))
    return tokens[len(prompt) :], torch.stack(logits)


def with_a_cache(model, prompts, new_tokens, split=0):
    held = KeyValues(model.shape, len(prompts), max(map(len, prompts)) + new_tokens)
    first = []
    for row, prompt in enumerate(prompts):
        if split:
            read_prompt(model, prompt[:split], held, row)
        first.append(read_prompt(model, prompt[split:], held, row))
    seen = [torch.stack(first)]
    for _ in range(new_tokens - 1):
        seen.append(next_tokens(model, seen[-1].argmax(-1).tolist(), held))
    every = torch.stack(seen, dim=1)
    return every.argmax(-1).tolist(), every


def model_of(kind, folder):
    torch.manual_seed(5)
    if kind == "pretrained":
        return load_model(folder, write_checkpoint(folder))
    shape = {"grouped": SHAPE, "plain": replace(SHAPE, kv_heads=4), "biased": replace(SHAPE, attention_bias=True)}
    model = LanguageModel(shape[kind])
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(4.0 if weights.ndim > 1 else 1.0)  # so that tokens differ from one another
    return model


@pytest.mark.parametrize("kind", ["grouped", "plain", "biased", "pretrained"])
@pytest.mark.parametrize("split", [0, 1, 16])
def test_a_batch_makes_the_tokens_of_the_plain_forward_pass(kind, split, tmp_path):
    model = model_of(kind, tmp_path)
    prompts = [torch.randint(256, (length,), generator=torch.Generator().manual_seed(length)).tolist()
               for length in (40, 23, 31)]  # fmt: skip
    made, logits = with_a_cache(model, prompts, 12, split)
    for row, prompt in enumerate(prompts):
        tokens, expected = without_a_cache(model, prompt, 12)
        assert made[row] == tokens
        assert torch.allclose(logits[row], expected, atol=CLOSE * float(expected.abs().max()), rtol=0)
    assert len({token for row in made for token in row}) > 3


def test_bytes_of_a_token_are_those_of_the_shape():
    held = KeyValues(SHAPE, 3, 10)
    assert held.token_bytes == 2 * SHAPE.layers * SHAPE.kv_heads * SHAPE.head_dim * 4
    assert KeyValues(SHAPE, 1, 7, torch.bfloat16).token_bytes == held.token_bytes // 2


def test_what_does_not_fit_is_refused():
    model = LanguageModel(SHAPE)
    with pytest.raises(UsageError, match="do not fit"):
        read_prompt(model, range(9), KeyValues(SHAPE, 1, 8), 0)
    with pytest.raises(UsageError, match="none"):
        read_prompt(model, [], KeyValues(SHAPE, 1, 8), 0)
