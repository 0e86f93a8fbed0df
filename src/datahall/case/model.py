"""The shape of a decoder-only language model: what its counts of parameters, FLOPs and bytes follow from.

Shapes only; no weights, no names of hardware.  Encoders and recommenders have their own shapes elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class LatentAttention:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1): widths in elements."""

    query_rank: int  # 0: queries are projected directly
    key_value_rank: int
    rope_dim: int
    nope_dim: int
    value_dim: int


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A transformer decoder by its dimensions, all in elements or counts.

    `ffn` is the hidden width of a dense MLP, or of one routed expert where `experts` > 0; `mlp_matrices` is 3 for gated
    MLPs and 2 for plain ones.  The first `dense_layers` layers of a mixture model are dense with width `dense_ffn`;
    `shared_experts` experts of width `shared_ffn` see every token.  A share `window_share` of
    the layers attends to the last `window` tokens only (0: all layers attend in full).  Rotary positions and
    traits change no count: they are carried for exports, and shapes that differ in them alone are the same.
    """

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    mlp_matrices: int = 3
    tied_embeddings: bool = False
    experts: int = 0
    experts_per_token: int = 0
    shared_experts: int = 0
    shared_ffn: int = 0
    dense_layers: int = 0
    dense_ffn: int = 0
    latent: LatentAttention | None = None
    attention_bias: bool = False  # of queries, keys and values
    output_bias: bool = False  # of the attention's output projection
    mlp_bias: bool = False
    norm_bias: bool = False
    norms_per_layer: int = 2  # 0: norms without parameters
    query_key_norm: bool = False
    learned_positions: int = 0  # rows of a learned position table
    window: int = 0
    window_share: float = 0.0
    chunked: bool = False  # windows are chunks of the sequence, beyond which none of their tokens attends
    router_balance: bool = False  # of each expert a bias that only choosing sees, learnt from its load
    rotary_base: float = field(default=0.0, compare=False)  # 0: not known, or more than one
    rotary_share: float = field(default=1.0, compare=False)  # of each head's elements; 0: not known, or more than one
    rotary_scaling: str = field(default="", compare=False)  # how its positions are stretched, as "llama3 8"; empty: not
    traits: str = field(default="", compare=False)  # words of `hf_traits.WORDS`: what else it is, as "geglu softcap"

    @property
    def moe_layers(self) -> int:
        """Layers whose MLP is a mixture of experts."""
        return self.layers - self.dense_layers if self.experts else 0

    def attention_parameters(self) -> int:
        """Weights and biases of one layer's attention projections."""
        if self.latent is not None:
            return self._latent_parameters(self.latent)
        query = self.heads * self.head_dim
        key_value = 2 * self.kv_heads * self.head_dim
        bias = ((query + key_value) if self.attention_bias else 0) + (self.hidden if self.output_bias else 0)
        norms = 2 * self.head_dim if self.query_key_norm else 0
        return self.hidden * (query + key_value) + query * self.hidden + bias + norms

    def mlp_parameters(self, width: int) -> int:
        """Weights and biases of one MLP of hidden width `width`."""
        bias = (self.mlp_matrices - 1) * width + self.hidden if self.mlp_bias else 0
        return self.mlp_matrices * self.hidden * width + bias

    def parameters(self) -> int:
        """All parameters, embeddings included."""
        return self._parameters(experts=self.experts)

    def active_parameters(self) -> int:
        """Parameters that one token passes through, embeddings included."""
        return self._parameters(experts=self.experts_per_token)

    def _parameters(self, experts: int) -> int:
        norm = self.hidden * (2 if self.norm_bias else 1)
        final_norm = norm if self.norms_per_layer else 0
        embeddings = self.vocab * self.hidden * (1 if self.tied_embeddings else 2)
        embeddings += self.learned_positions * self.hidden
        dense = self.layers - self.moe_layers
        dense_mlp = self.mlp_parameters(self.dense_ffn if self.experts else self.ffn)
        mixture = experts * self.mlp_parameters(self.ffn) + self.shared_experts * self.mlp_parameters(self.shared_ffn)
        mixture += self.hidden * self.experts  # the router scores every expert
        mixture += self.experts if self.router_balance else 0
        layers = self.layers * (self.attention_parameters() + self.norms_per_layer * norm)
        return embeddings + layers + dense * dense_mlp + self.moe_layers * mixture + final_norm

    def _latent_parameters(self, latent: LatentAttention) -> int:
        query_width = self.heads * (latent.nope_dim + latent.rope_dim)
        if latent.query_rank:
            query = self.hidden * latent.query_rank + latent.query_rank + latent.query_rank * query_width
        else:
            query = self.hidden * query_width
        compressed = self.hidden * (latent.key_value_rank + latent.rope_dim) + latent.key_value_rank
        expanded = latent.key_value_rank * self.heads * (latent.nope_dim + latent.value_dim)
        return query + compressed + expanded + self.heads * latent.value_dim * self.hidden
