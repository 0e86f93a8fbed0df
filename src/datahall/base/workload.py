"""What a workload is to the rest of datahall: a model, numbered samples, a loss, and where the model may be cut.

The protocol only.  Our own models and the user's (`application.entry: package.module:build`) are built by the same
signature, `build(case) -> Workload`; nothing here imports a framework.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable


class Samples(Protocol):
    """Numbered training samples.  `batch(ids)` must give the same tensors for the same ids on every worker."""

    def __len__(self) -> int:
        """How many different samples there are."""
        ...

    def batch(self, ids: Sequence[int]) -> Any:
        """The samples with these numbers (0 to len - 1), stacked along a first dimension, on the CPU."""
        ...


class Travel(Protocol):
    """How rows go to the workers that hold their experts; all of them call together."""

    def counts(self, given: Any) -> Any:
        """A tensor of as many counts for each worker, exchanged: what each worker gives this one."""
        ...

    def rows(self, rows: Any, sent: list[int], got: list[int]) -> Any:
        """`rows`, the first `sent[0]` of them for worker 0 and so on; what comes back is `got[0]` of worker 0's, ..."""
        ...


class Mixture(Protocol):
    """A module whose `experts`, a dictionary of modules, may be spread over workers."""

    experts: Any
    received: list[int]  # rows that each of this worker's experts was given since somebody set it to zero

    def spread(self, place: int, places: int, travel: Travel) -> None:
        """Keep the share of worker `place` of `places`, and send the rows of other experts by `travel`."""
        ...


@runtime_checkable
class Adapted(Protocol):
    """A linear module whose frozen `base` has a trained adapter beside it: base(x) + expand (scale reduce x)."""

    base: Any
    reduce: Any
    expand: Any
    scale: float


@dataclass(frozen=True, slots=True)
class Workload:
    """One thing to train.

    `model` is a module initialised from the case's seed alone, so that every worker builds the same weights.
    `loss(model, batch)` gives the mean loss over the batch's samples as a scalar.  `tokens_per_sample` turns samples
    into tokens (1 where there are none).  `metrics` are functions of the model, evaluated after training.
    `cut_points` names the modules, in order of execution, between which the model may be cut into pipeline stages or
    sharding units ("blocks.0", "blocks.1", ...).  `optimiser(parameters)` makes the optimiser; None: AdamW.
    A pipeline also needs `cut(model, start, stop)`, the part from cut point `start` up to `stop` with the model's own
    parameter names (the first part takes the inputs, the last gives the outputs), `split(batch)` into inputs and
    targets, and `criterion(output, target)`, so that loss(model, batch) is criterion(model(inputs), targets).
    `attention_cores` names the modules that selective recomputation runs again in the backward pass.
    `tensor_cuts` says how tensor parallelism cuts modules, by name with * for one part: "column" (outputs), "row"
    (inputs), "vocabulary" (rows of a table), "gathered" (outputs, put together again), "input" (whose input is whole).
    "part" is for what these do not describe: a module whose input is whole and whose output is the sum of what ranks
    make of it.  Inside it modules are "column", "row" (without a bias), which exchange nothing there, or "whole", on
    every rank, whose gradients are then parts of a sum; parameters in none of these must get the same gradient on all.
    "column:4" is a column cut in four pieces that stay whole (heads): of more ranks than that, several have the same.
    "sequence" names what works on each token alone between those (norms): with sequence parallelism tensor ranks share
    the tokens there, along dimension 1 of (batch, sequence, ...), and a part of a pipeline takes and gives such shares.
    `mixtures` names the modules that are a Mixture, whose experts may be spread over workers.
    Context ranks need `split`, whose inputs and targets they share along dimension 1, with a criterion that is a mean
    over tokens, and `cut_sequence(model, positions, attend)`: it has the model work on the tokens at `positions` (a
    tensor of numbers) of sequences of `tokens_per_sample`, and use attend(query, key, value), each (batch, heads,
    tokens, head_dim), for its causal attention, which there sees the whole sequence.
    """

    name: str
    model: Any
    data: Samples
    loss: Callable[[Any, Any], Any]
    tokens_per_sample: int = 1
    metrics: Mapping[str, Callable[[Any], float]] = field(default_factory=lambda: MappingProxyType({}))
    cut_points: tuple[str, ...] = ()
    optimiser: Callable[[Any], Any] | None = None
    cut: Callable[[Any, int, int], Any] | None = None
    split: Callable[[Any], tuple[Any, Any]] | None = None
    criterion: Callable[[Any, Any], Any] | None = None
    attention_cores: tuple[str, ...] = ()
    cut_sequence: Callable[[Any, Any, Callable[..., Any]], None] | None = None
    tensor_cuts: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    mixtures: tuple[str, ...] = ()
