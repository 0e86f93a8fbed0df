"""LoRA by counting: which matrices get adapters, how many parameters those have, and what a step needs of them.

An adapter is two thin matrices beside a frozen one: y = W x + (alpha / rank) B A x (arXiv 2106.09685, section 4.1).
No seconds here; the modules themselves are `workloads.lora`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from datahall.case.model import ModelShape
from datahall.case.question import Training

ATTENTION, ALL = "attention", "all"
_ROW_CUT = (3, 6)  # of a layer's adapted matrices: what attention and MLP end with


@dataclass(frozen=True, slots=True)
class Adapters:
    """Adapters of rank `rank` beside the attention's four projections, or beside every matrix of a layer ("all")."""

    rank: int
    targets: str = ATTENTION

    def matrices(self, shape: ModelShape) -> tuple[tuple[int, int], ...]:
        """Inputs and outputs of each adapted matrix of one layer; queries, keys and values first."""
        query, kept = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        found = [(shape.hidden, query), (shape.hidden, kept), (shape.hidden, kept), (query, shape.hidden)]
        if self.targets == ALL:
            found += [(shape.hidden, shape.ffn)] * (shape.mlp_matrices - 1) + [(shape.ffn, shape.hidden)]
        return tuple(found)

    def parameters(self, shape: ModelShape) -> int:
        """Parameters of all adapters."""
        return shape.layers * self.rank * self.width(shape)

    def width(self, shape: ModelShape) -> int:
        """Inputs and outputs of one layer's adapted matrices, summed."""
        return sum(inputs + outputs for inputs, outputs in self.matrices(shape))

    def on_rank(self, shape: ModelShape, ranks: int = 1) -> AdapterPieces:
        """What one of so many tensor ranks has of one layer's adapters.

        Beside a matrix that is cut by column the first product is whole and the second cut as the matrix; beside one
        that is cut by row the first is cut and the second whole.  What is whole has a gradient on each rank, of its
        piece: these are summed.  Of fewer heads of keys and values than ranks, all are on each rank, which uses one.
        """
        reduce, expand, used, summed = [], [], [], []
        for index, (inputs, outputs) in enumerate(self.matrices(shape)):
            by_row = index in _ROW_CUT
            copied = index in (1, 2) and ranks > shape.kv_heads
            reduce.append((self.rank, inputs // ranks if by_row else inputs))
            own = shape.head_dim if copied else outputs // ranks
            used.append(outputs if by_row else own)
            expand.append((outputs if by_row or copied else own, self.rank))
            whole = [expand[-1]] if by_row else [reduce[-1], *([expand[-1]] if copied else [])]
            summed += whole if ranks > 1 else []
        return AdapterPieces(tuple(reduce), tuple(expand), tuple(used), tuple(summed))

    def forward_flops(self, shape: ModelShape, tokens: int, layers: int, ranks: int = 1) -> int:
        """FLOPs of the adapters of so many layers forward on a rank; backward takes twice that, less `spared_flops`."""
        pieces = self.on_rank(shape, ranks)
        inputs = sum(shape[1] for shape in pieces.reduce)
        return 2 * tokens * layers * self.rank * (inputs + sum(pieces.used))

    def spared_flops(self, shape: ModelShape, tokens: int, ranks: int = 1) -> int:
        """Backward FLOPs that the first layer spares: nothing before its queries, keys and values is trained."""
        used = self.on_rank(shape, ranks).used[:3]
        return 2 * tokens * shape.hidden * sum(outputs + self.rank for outputs in used)

    def numbers(self, shape: ModelShape) -> AdapterNumbers:
        """What a step's time and memory follow from."""
        return AdapterNumbers(self.rank, self.width(shape), len(self.matrices(shape)), float(self.targets == ALL))


@dataclass(frozen=True, slots=True)
class AdapterPieces:
    """One layer's adapters on a tensor rank: shapes of first and second products, and what the rank uses of outputs.

    `summed` are the shapes of those whose gradients are added up over the ranks.
    """

    reduce: tuple[tuple[int, int], ...]
    expand: tuple[tuple[int, int], ...]
    used: tuple[int, ...]
    summed: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class AdapterNumbers:
    """Adapters as plain numbers or arrays; all zero: none, and every parameter is trained.

    `width` sums inputs and outputs of a layer's adapted matrices, of which there are `matrices`; `mlp` is 1 where those
    of the MLP are among them.
    """

    rank: Any = 0.0
    width: Any = 0.0
    matrices: Any = 0.0
    mlp: Any = 0.0


def adapters_of(application: Training) -> Adapters | None:
    """The adapters that a case asks for, None where all parameters are trained."""
    if application.method != "lora" or not application.lora_rank:
        return None
    return Adapters(application.lora_rank, application.lora_targets)


def adapter_parameters(shape: ModelShape, application: Training) -> int | None:
    """Parameters of the adapters that a case asks for, None where all parameters are trained."""
    adapters = adapters_of(application)
    return None if adapters is None else adapters.parameters(shape)


def trained_parameters(shape: ModelShape, adapters: Adapters | None) -> int:
    """Parameters that get gradients."""
    return shape.parameters() if adapters is None else adapters.parameters(shape)
