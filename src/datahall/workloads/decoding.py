"""Our language model one token after another: keys and values of what was read are held, and nothing is read twice.

The model's own modules in the order of its forward pass, which stays as it is for training.  Prompts are read one by
one (each is a long product of its own), tokens are then made for a whole batch at once.  Greedy; no server.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional

from datahall.base.errors import Refused, UsageError
from datahall.case.model import ModelShape
from datahall.case.question import Case
from datahall.workloads.language_model import Attention, LanguageModel
from datahall.workloads.pretrained import load_model, weights_folder
from datahall.workloads.rotary import rotary_table

Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def generating_model(case: Case) -> LanguageModel:
    """The case's model to make tokens with: its weights, or random ones by seed.  Refused for a model of another's."""
    if case.application.entry:
        raise Refused(
            "tokens are made with datahall's own language model only.",
            where="application.entry",
            hint="Leave entry out; application.weights names a pretrained model.",
        )
    if case.model.latent:
        raise Refused("a latent in place of keys and values is planned but not held.", where="model.latent")
    torch.manual_seed(case.application.seed)
    weights = case.application.weights
    model = load_model(weights_folder(weights), case.model) if weights else LanguageModel(case.model)
    return model.eval()


class KeyValues:
    """Keys and values of a batch of sequences, up to `capacity` tokens each.

    `data` is (layers, 2, batch, kv_heads, capacity, head_dim); of row i the first `lengths[i]` tokens are filled.
    """

    def __init__(self, shape: ModelShape, batch: int, capacity: int, dtype: torch.dtype = torch.float32) -> None:
        self.capacity = capacity
        self.lengths = [0] * batch
        self.data = torch.zeros(shape.layers, 2, batch, shape.kv_heads, capacity, shape.head_dim, dtype=dtype)

    @property
    def token_bytes(self) -> int:
        """Bytes that one token of one sequence takes, as the memory has them."""
        return self.data.nbytes // (len(self.lengths) * self.capacity)

    def row(self, number: int) -> torch.Tensor:
        """One sequence: (layers, 2, kv_heads, capacity, head_dim), the same memory."""
        return self.data[:, :, number]


@torch.no_grad()
def read_prompt(model: LanguageModel, tokens: Sequence[int], held: KeyValues, row: int) -> torch.Tensor:
    """Logits (vocabulary) after `tokens`, which follow what `held` has of this row and are added to it."""
    start, count = held.lengths[row], len(tokens)
    _check(held, start + count, count)
    ids = torch.tensor(tokens, dtype=torch.long)[None]
    stop = start + count
    seen = torch.ones(count, stop, dtype=torch.bool).tril(start) if start and count > 1 else None

    def attend(layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        kept = held.data[layer, :, row]
        kept[0, :, start:stop], kept[1, :, start:stop] = key[0], value[0]
        keys, values = kept[0, None, :, :stop], kept[1, None, :, :stop]
        grouped = query.shape[1] != keys.shape[1]
        return functional.scaled_dot_product_attention(
            query, keys, values, attn_mask=seen, is_causal=count > 1 and seen is None, enable_gqa=grouped
        )

    logits = _forward(model, ids, torch.arange(start, stop)[None], held.capacity, attend)
    held.lengths[row] = stop
    return logits[0]


@torch.no_grad()
def next_tokens(model: LanguageModel, tokens: Sequence[int], held: KeyValues) -> torch.Tensor:
    """Logits (batch, vocabulary) after one more token of each sequence, which is added to `held`."""
    batch, longest = len(tokens), max(held.lengths) + 1
    _check(held, longest, batch)
    at, rows = torch.tensor(held.lengths), torch.arange(batch)
    ragged = len(set(held.lengths)) > 1
    seen = (torch.arange(longest) <= at[:, None])[:, None, None] if ragged else None

    def attend(layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        keys, values = held.data[layer]
        keys[rows, :, at], values[rows, :, at] = key[:, :, 0], value[:, :, 0]
        # heads that share keys stand in for several queries, so that no key is copied for each of them
        grouped = query.reshape(batch, keys.shape[1], -1, query.shape[-1])
        mixed = functional.scaled_dot_product_attention(
            grouped, keys[:, :, :longest], values[:, :, :longest], attn_mask=seen
        )
        return mixed.reshape(query.shape)

    logits = _forward(model, torch.tensor(tokens)[:, None], at[:, None], held.capacity, attend)
    held.lengths = [length + 1 for length in held.lengths]
    return logits


def _forward(
    model: LanguageModel, tokens: torch.Tensor, positions: torch.Tensor, capacity: int, attend: Attend
) -> torch.Tensor:
    """Logits (batch, vocabulary) after the last of `tokens` (batch, count), which stand at `positions`."""
    first: Attention = model.blocks[0].attention  # pyright: ignore[reportAssignmentType]
    table = rotary_table(capacity, first.head_dim, tokens.device, first.rotary_base)
    rotation = (table[0][positions][:, None], table[1][positions][:, None])
    hidden = model.embedding(tokens)
    for layer, block in enumerate(model.blocks):
        attention: Attention = block.attention  # pyright: ignore[reportAssignmentType]
        normed = block.attention_norm(hidden)  # pyright: ignore[reportCallIssue]
        mixed = attend(layer, *attention.project(normed, rotation))
        hidden = hidden + attention.output(mixed.transpose(1, 2).flatten(2))
        hidden = hidden + block.mlp(block.mlp_norm(hidden))  # pyright: ignore[reportCallIssue]
    return model.head(model.norm(hidden[:, -1]))


def _check(held: KeyValues, needed: int, count: int) -> None:
    if not count or needed > held.capacity:
        raise UsageError(
            f"{needed} tokens of a sequence do not fit where {held.capacity} are held, or there are none.",
            hint="Give prompts of at least one token, and a capacity of prompt and answer together.",
        )
