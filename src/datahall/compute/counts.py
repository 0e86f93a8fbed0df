"""What a step of a model counts by, from its shape alone: weights in matrix products, widths, parameters by kind.

`ShapeCounts.of(shape)` holds Python integers, for an exact step table; the same fields as arrays (`stack_counts`)
price many models at once.  No seconds here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from datahall.case.model import LatentAttention, ModelShape


@dataclass(frozen=True, slots=True)
class ShapeCounts:
    """Counts of one model (integers), or of many (arrays of equal shape).

    `*_weights` are elements of the matrices that one token is multiplied with, in one layer; a matrix product over
    T tokens is 2 T weights FLOPs forward and twice that backward.  `score_width` and `value_width` are the summed head
    widths of the attention core: 2 T keys (score_width + value_width) FLOPs forward.
    """

    layers: Any
    moe_layers: Any
    hidden: Any
    vocab: Any
    attention_weights: Any
    attention_width: Any  # elements a token writes in the attention projections (queries, keys, values, output)
    whole_weights: Any  # of attention_weights, those that every tensor rank has whole (down to a latent)
    whole_width: Any  # of attention_width, what these write
    score_width: Any
    value_width: Any
    key_value_width: Any  # elements a token keeps for keys and values
    ring_width: Any  # elements of its keys and values as the attention core is given them
    heads: Any
    dense_weights: Any  # of a dense layer's MLP
    dense_width: Any  # elements a token writes inside a dense MLP
    expert_weights: Any  # of one routed expert
    expert_width: Any
    experts: Any
    experts_per_token: Any
    shared_weights: Any  # of all shared experts of a layer
    shared_width: Any
    mlp_matrices: Any
    window: Any
    window_share: Any
    chunked: Any
    embedding_parameters: Any  # tables, positions, an untied head
    head_weights: Any  # hidden x vocab
    other_parameters: Any  # norms, biases and routers of all layers
    tied_weights: Any  # of a head that is the table again

    @classmethod
    def of(cls, shape: ModelShape) -> ShapeCounts:
        """The exact counts of `shape`."""
        head = shape.vocab * shape.hidden
        attention, mlp = _attention(shape), _mlp(shape)
        embedding = head * (1 if shape.tied_embeddings else 2) + shape.learned_positions * shape.hidden
        counted = embedding + shape.layers * attention["attention_weights"]
        counted += (shape.layers - shape.moe_layers) * mlp["dense_weights"]
        counted += shape.moe_layers * (shape.experts * mlp["expert_weights"] + mlp["shared_weights"])
        return cls(
            layers=shape.layers,
            moe_layers=shape.moe_layers,
            hidden=shape.hidden,
            vocab=shape.vocab,
            heads=shape.heads,
            experts=shape.experts,
            experts_per_token=shape.experts_per_token,
            mlp_matrices=shape.mlp_matrices,
            window=shape.window,
            window_share=shape.window_share,
            chunked=shape.chunked,
            embedding_parameters=embedding,
            head_weights=head,
            other_parameters=shape.parameters() - counted,
            tied_weights=head if shape.tied_embeddings else 0,
            **attention,
            **mlp,
        )

    def keys(self, sequence: Any) -> Any:
        """Keys that one query of a full (not causal) attention is compared with, on average over the layers.

        A window of w of S tokens reaches w keys back, and fewer for the first ones: w (2 - w / S) where it reaches
        ahead as well, of which causal attention takes half.  In a chunk it is as in a sequence of that length.
        """
        reach = np.minimum(sequence, np.where(np.asarray(self.window) > 0, self.window, sequence))
        seen = np.where(np.asarray(self.chunked) > 0, reach, reach * (2.0 - reach / sequence))
        return (1.0 - self.window_share) * sequence + self.window_share * seen

    @property
    def router_weights(self) -> Any:
        """Weights of one layer's router."""
        return self.hidden * self.experts

    @property
    def layer_weights(self) -> Any:
        """Weights in matrix products that a token meets in all layers, the head left out."""
        dense = self.layers - self.moe_layers
        mixture = self.experts_per_token * self.expert_weights + self.shared_weights + self.router_weights
        return self.layers * self.attention_weights + dense * self.dense_weights + self.moe_layers * mixture


def stack_counts(models: Sequence[ShapeCounts]) -> ShapeCounts:
    """The counts of several models as float64 arrays, element i being `models[i]`."""
    names = [field.name for field in fields(ShapeCounts)]
    return ShapeCounts(**{name: np.array([float(getattr(model, name)) for model in models]) for name in names})


def _attention(shape: ModelShape) -> dict[str, int]:
    """The fields of one layer's attention."""
    if shape.latent is not None:
        return _latent_attention(shape, shape.latent)
    hidden, query, kept = shape.hidden, shape.heads * shape.head_dim, 2 * shape.kv_heads * shape.head_dim
    return {
        "attention_weights": hidden * (2 * query + kept),
        "attention_width": 2 * query + kept,
        "whole_weights": 0,
        "whole_width": 0,
        "score_width": query,
        "value_width": query,
        "key_value_width": kept,
        "ring_width": kept,
    }


def _latent_attention(shape: ModelShape, latent: LatentAttention) -> dict[str, int]:
    """The fields of one layer's attention with compressed queries, keys and values."""
    hidden, heads = shape.hidden, shape.heads
    score, value = heads * (latent.nope_dim + latent.rope_dim), heads * latent.value_dim
    query = (hidden * latent.query_rank + latent.query_rank * score) if latent.query_rank else hidden * score
    compressed, down = latent.key_value_rank + latent.rope_dim, _latent_width(latent)
    expanded = heads * (latent.nope_dim + latent.value_dim)
    return {
        "attention_weights": query + hidden * compressed + latent.key_value_rank * expanded + value * hidden,
        "attention_width": score + down + expanded + value,
        "whole_weights": hidden * down,
        "whole_width": down,
        "score_width": score,
        "value_width": value,
        "key_value_width": expanded,
        "ring_width": score + value,
    }


def _mlp(shape: ModelShape) -> dict[str, int]:
    """The fields of a dense layer's MLP, of one routed expert, and of all shared experts of a layer."""
    matrices, written = shape.mlp_matrices, shape.mlp_matrices - 1
    dense = shape.dense_ffn if shape.experts else shape.ffn
    routed = shape.ffn if shape.experts else 0
    shared = shape.shared_experts * shape.shared_ffn
    return {
        "dense_weights": matrices * shape.hidden * dense,
        "dense_width": written * dense,
        "expert_weights": matrices * shape.hidden * routed,
        "expert_width": written * routed,
        "shared_weights": matrices * shape.hidden * shared,
        "shared_width": written * shared,
    }


def _latent_width(latent: LatentAttention) -> int:
    """What a token writes on the way down to its latents."""
    return latent.query_rank + latent.key_value_rank + latent.rope_dim
