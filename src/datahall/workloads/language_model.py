"""A small decoder-only language model from a `ModelShape`: RMSNorm, rotary positions, grouped queries, SwiGLU.

Dense, or with mixtures of experts (`mixture`); heads are plain, or read from a latent (`latent`).  Weights depend on
the seed alone, so that every worker builds the same model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from datahall.base.errors import Refused, UsageError
from datahall.base.workload import Samples, Workload
from datahall.case.model import ModelShape
from datahall.case.question import Case
from datahall.workloads.latent import LatentHeads, check_heads
from datahall.workloads.lora import add_adapters
from datahall.workloads.mixture import mlp_of
from datahall.workloads.rotary import ROTARY_BASE, rotary_table, rotate
from datahall.workloads.text import VOCABULARY, samples_of

_NORM_EPSILON = 1e-5
_VALIDATION_SAMPLES = 64
_TENSOR_CUTS = {
    "embedding": "vocabulary",
    "blocks.*.attention_norm": "sequence",
    "blocks.*.attention": "input",
    "blocks.*.attention.query": "column",
    "blocks.*.attention.output": "row",
    "blocks.*.mlp_norm": "sequence",
    "blocks.*.mlp": "input",
    "blocks.*.mlp.gate": "column",
    "blocks.*.mlp.up": "column",
    "blocks.*.mlp.down": "row",
    "norm": "sequence",
    "head": "gathered",
}
_LATENT_CUTS = {
    "blocks.*.attention": "part",
    "blocks.*.attention.query_latent": "whole",
    "blocks.*.attention.query_norm": "whole",
    "blocks.*.attention.compress": "whole",
    "blocks.*.attention.compressed_norm": "whole",
    "blocks.*.attention.expand": "column",
}
_MIXTURE_CUTS = {
    "blocks.*.mlp.router": "whole",
    **{
        f"blocks.*.mlp.{kind}.*.{matrix}": how
        for kind in ("experts", "shared")
        for matrix, how in (("gate", "column"), ("up", "column"), ("down", "row"))
    },
}


def build(case: Case) -> Workload:
    """The language model of the case on Python's standard library.  Refused for shapes that it cannot run."""
    torch.manual_seed(case.application.seed)
    model = LanguageModel(case.model)
    add_adapters(model, case.application)
    return language_workload(case, model, *samples_of(case.application))


def language_workload(
    case: Case,
    model: LanguageModel,
    samples: Samples,
    held_out: Samples,
    optimiser: Callable[[Any], torch.optim.Optimizer] | None = None,
    validated: int = _VALIDATION_SAMPLES,
) -> Workload:
    """The workload of `model` on these samples, judged on up to `validated` held-out ones; UsageError without any."""
    sequence = case.application.sequence
    if not len(samples) or not len(held_out):
        raise UsageError(
            f"the text is too short for samples of {sequence} tokens.",
            where="application.dataset",
            hint="Name a longer text, or shorten application.sequence.",
        )
    return Workload(
        name=case.model.name,
        model=model,
        data=samples,
        loss=next_token_loss,
        tokens_per_sample=sequence,
        metrics={"validation_loss": lambda trained: validation_loss(trained, held_out, validated)},
        cut_points=tuple(f"blocks.{index}" for index in range(case.model.layers)),
        cut=LanguageModelPart,
        split=lambda batch: (batch[:, :-1], batch[:, 1:]),
        criterion=token_cross_entropy,
        attention_cores=tuple(f"blocks.{index}.attention.core" for index in range(case.model.layers)),
        tensor_cuts=_tensor_cuts(case.model),
        mixtures=_mixtures(case.model),
        cut_sequence=cut_sequence,
        optimiser=optimiser,
    )


def _tensor_cuts(shape: ModelShape) -> dict[str, str]:
    kept = f"column:{shape.kv_heads}"
    heads = {f"blocks.*.attention.{name}": kept for name in ("key", "value")} if shape.latent is None else _LATENT_CUTS
    mixtures = dict.fromkeys(_mixtures(shape), "part")  # first: what is named first counts
    return mixtures | _TENSOR_CUTS | heads | (_MIXTURE_CUTS if mixtures else {})


def _mixtures(shape: ModelShape) -> tuple[str, ...]:
    return tuple(f"blocks.{index}.mlp" for index in range(shape.layers - shape.moe_layers, shape.layers))


def cut_sequence(model: LanguageModel, positions: torch.Tensor, attend: Callable[..., torch.Tensor]) -> None:
    """Have the model work on the tokens at `positions` only, with `attend` for attention over the others as well."""
    for block in model.blocks:
        attention: Attention | LatentHeads = block.attention  # pyright: ignore[reportAssignmentType]
        whole = rotary_table(int(positions.max()) + 1, attention.turned, positions.device, attention.rotary_base)
        attention.rotation = (whole[0][positions], whole[1][positions])
        attention.core.forward = attend


def next_token_loss(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy, in nats per token, of each token given those before it."""
    return token_cross_entropy(model(batch[:, :-1]), batch[:, 1:])


def token_cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of logits (batch, sequence, vocabulary) in nats."""
    return functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


@torch.no_grad()
def validation_loss(model: nn.Module, samples: Samples, most: int = _VALIDATION_SAMPLES) -> float:
    """Loss on up to `most` held-out samples, spread evenly over the held-out text."""
    count = min(most, len(samples))
    ids = [index * len(samples) // count for index in range(count)]
    losses = [next_token_loss(model, samples.batch(ids[at : at + 16])).item() for at in range(0, count, 16)]
    return sum(losses) / len(losses)


class LanguageModel(nn.Module):
    """Token ids (batch, sequence) to logits (batch, sequence, vocabulary)."""

    def __init__(self, shape: ModelShape, rotary_base: float = ROTARY_BASE) -> None:
        super().__init__()
        _check_runnable(shape)
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocab, shape.hidden)
        self.blocks = nn.ModuleList(Block(shape, rotary_base, layer) for layer in range(shape.layers))
        self.norm = nn.RMSNorm(shape.hidden, eps=_NORM_EPSILON)
        self.head = nn.Linear(shape.hidden, shape.vocab, bias=False)
        self.apply(_initialise)
        if shape.tied_embeddings:
            self.head.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.embedding(tokens)
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(self.norm(hidden))


class LanguageModelPart(nn.Module):
    """Blocks `start` to `stop` - 1 of a model, with its embedding if first and its head if last, under its names."""

    def __init__(self, model: LanguageModel, start: int, stop: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleDict({str(index): model.blocks[index] for index in range(start, stop)})
        last = stop == model.shape.layers
        self.reads_tokens = start == 0
        tied = last and model.shape.tied_embeddings  # a head that is the table again: held under the table's name
        self.embedding = model.embedding if self.reads_tokens or tied else None
        self.norm, self.head = (model.norm, model.head) if last else (None, None)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if self.embedding is not None and self.reads_tokens:
            hidden = self.embedding(hidden)
        for block in self.blocks.values():
            hidden = block(hidden)
        return hidden if self.norm is None or self.head is None else self.head(self.norm(hidden))


class Block(nn.Module):
    """Attention, then the MLP of this layer, each behind its own norm and added to the stream."""

    def __init__(self, shape: ModelShape, rotary_base: float, layer: int = 0) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(shape.hidden, eps=_NORM_EPSILON)
        latent = shape.latent is not None
        self.attention = LatentHeads(shape, rotary_base, AttentionCore()) if latent else Attention(shape, rotary_base)
        self.mlp_norm = nn.RMSNorm(shape.hidden, eps=_NORM_EPSILON)
        self.mlp = mlp_of(shape, layer)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        hidden = hidden + self.attention(self.attention_norm(hidden))
        return hidden + self.mlp(self.mlp_norm(hidden))


class Attention(nn.Module):
    """Causal attention with fewer key and value heads than query heads (arXiv 2305.13245) and rotary positions."""

    def __init__(self, shape: ModelShape, rotary_base: float) -> None:
        super().__init__()
        self.rotary_base, self.turned = rotary_base, shape.head_dim
        self.rotation: tuple[torch.Tensor, torch.Tensor] | None = None  # of positions that are not all
        self.head_dim = shape.head_dim
        self.query = nn.Linear(shape.hidden, shape.heads * shape.head_dim, bias=shape.attention_bias)
        self.key = nn.Linear(shape.hidden, shape.kv_heads * shape.head_dim, bias=shape.attention_bias)
        self.value = nn.Linear(shape.hidden, shape.kv_heads * shape.head_dim, bias=shape.attention_bias)
        self.core = AttentionCore()
        self.output = nn.Linear(shape.heads * shape.head_dim, shape.hidden, bias=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        rotation = self.rotation or rotary_table(hidden.shape[1], self.head_dim, hidden.device, self.rotary_base)
        mixed = self.core(*self.project(hidden, rotation))
        return self.output(mixed.transpose(1, 2).flatten(2))

    def project(
        self, hidden: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries, keys and values by head, (batch, heads, sequence, head_dim), turned by their positions."""
        batch, sequence, _ = hidden.shape
        query = self.query(hidden).view(batch, sequence, -1, self.head_dim).transpose(1, 2)
        key = self.key(hidden).view(batch, sequence, -1, self.head_dim).transpose(1, 2)
        value = self.value(hidden).view(batch, sequence, -1, self.head_dim).transpose(1, 2)
        return rotate(query, rotation), rotate(key, rotation), value


class AttentionCore(nn.Module):
    """Scores, softmax and values: queries (batch, heads, sequence, head_dim) over as many or fewer keys and values.

    Narrower values are filled with zeros: the fused kernel wants one width.
    """

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        grouped, width = query.shape[1] != key.shape[1], value.shape[-1]
        if width < key.shape[-1]:
            value = functional.pad(value, (0, key.shape[-1] - width))
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=grouped)
        return mixed[..., :width]


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


def _check_runnable(shape: ModelShape) -> None:
    biased = shape.mlp_bias or shape.query_key_norm
    if shape.learned_positions or shape.window or shape.mlp_matrices != 3 or biased:
        raise Refused(
            f"{shape.name} is planned but not run: our language model has rotary positions and gated MLPs.",
            where="model",
            hint="Give the model's own code with application.entry: package.module:build.",
        )
    check_heads(shape)
    if shape.vocab < VOCABULARY:
        raise UsageError(
            f"the text is read as bytes, so the vocabulary needs {VOCABULARY} entries, not {shape.vocab}.",
            where="model.vocab",
            hint=f"Set model.vocab to {VOCABULARY} or more.",
        )
