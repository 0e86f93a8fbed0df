"""Context parallelism: every sample's tokens are cut over ranks, and keys and values go around a ring.

Each rank's queries look at its own keys, then at those of one rank after another as they come by; results are merged by
their log-sum-exp, so that softmax is the whole sequence's.  In the backward pass keys and values go around again, and
their gradients with them.  Written for processors: PyTorch's own experimental context_parallel has no kernel for them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional

from datahall.base.errors import Refused
from datahall.base.workload import Workload
from datahall.compute.context import own_positions, seen_of
from datahall.compute.execute_grid import Grid

Loss = Callable[[nn.Module, Any], torch.Tensor]


class OwnTokens:
    """The tokens of each sample that this worker works on; all of them where there are no context ranks."""

    def __init__(self, workload: Workload, grid: Grid, device: torch.device) -> None:
        self.workload, self.positions = workload, None
        ring = grid.group("context")
        if ring is None:
            return
        check_sequence(workload, device)
        own = own_positions(workload.tokens_per_sample, grid.layout.context, grid.place.context)
        self.positions = torch.tensor(own, device=device)
        attend = Ring(ring).attend
        workload.cut_sequence(workload.model, self.positions, attend)  # pyright: ignore[reportOptionalCall]

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        """The mean loss of a batch over these tokens."""
        if self.positions is None:
            return self.workload.loss(model, batch)
        inputs, targets = self.split(batch)
        return self.workload.criterion(model(inputs), targets)  # pyright: ignore[reportOptionalCall]

    def split(self, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """These tokens of a batch as inputs and targets."""
        inputs, targets = self.workload.split(batch)  # pyright: ignore[reportOptionalCall]
        if self.positions is None:
            return inputs, targets
        return inputs[:, self.positions], targets[:, self.positions]


def check_sequence(workload: Workload, device: torch.device) -> None:
    """Refused unless context ranks can run this workload on `device`."""
    if workload.cut_sequence is None or workload.split is None or workload.criterion is None:
        raise Refused(
            f"{workload.name} does not say how its sequence is cut over context ranks.",
            where="plan.compute.context",
            hint="Give Workload.cut_sequence, split and criterion, or choose a plan with context 1.",
        )
    if device.type != "cpu":
        raise Refused(
            "context ranks run on processors only.",
            where="plan.compute.context",
            hint="Choose a plan with context 1, or export the plan to an engine that has kernels for it.",
        )


class Ring:
    """The context ranks around this one: what each hands to the next, and attention over all of their keys."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group, self.ranks, self.rank = group, dist.get_world_size(group), dist.get_rank(group)

    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Causal attention of this rank's queries (batch, heads, tokens, head_dim) over the whole sequence."""
        return _RingAttention.apply(query, key, value, self)  # pyright: ignore[reportReturnType]

    def before(self, hops: int) -> int:
        """The rank whose keys come by after so many hops."""
        return (self.rank - hops) % self.ranks

    def pass_on(self, tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
        """Begin to hand `tensor` to the next rank; call what is returned for what the one before hands over."""
        tensor, received = tensor.contiguous(), torch.empty_like(tensor, memory_format=torch.contiguous_format)
        following, leading = (self.rank + 1) % self.ranks, self.before(1)
        works = dist.batch_isend_irecv(
            [
                dist.P2POp(dist.isend, tensor, group=self.group, group_peer=following),
                dist.P2POp(dist.irecv, received, group=self.group, group_peer=leading),
            ]
        )

        def wait() -> torch.Tensor:
            for work in works:
                work.wait()
            return received

        return wait


class _RingAttention(torch.autograd.Function):
    """Ring attention (arXiv 2310.01889) with balanced pieces (arXiv 2311.09431); keeps this rank's own tensors only."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, ring: Ring) -> torch.Tensor:
        held = _packed(key, value)
        coming = ring.pass_on(held)
        output, weight = _kernel(query, key, value, causal=True)
        total = output.float()
        for hops in range(1, ring.ranks):
            held = coming()
            if hops < ring.ranks - 1:
                coming = ring.pass_on(held)
            queries, keys = seen_of(ring.rank, ring.before(hops), query.shape[2])
            part, part_weight = _kernel(query[:, :, queries], *_unpacked(held[:, :, keys], key), causal=False)
            _merge(total[:, :, queries], weight[:, :, queries], part, part_weight)
        output = total.to(query.dtype)
        ctx.ring = ring
        ctx.save_for_backward(query, key, value, output, weight)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        query, key, value, output, weight = ctx.saved_tensors
        ring: Ring = ctx.ring
        gradient = gradients[0]
        held, returning = _packed(key, value), None
        coming = ring.pass_on(held)
        by_query, by_key, by_value = _kernel_backward(gradient, query, key, value, output, weight, causal=True)
        for hops in range(1, ring.ranks):
            held = coming()
            if hops < ring.ranks - 1:
                coming = ring.pass_on(held)
            queries, keys = seen_of(ring.rank, ring.before(hops), query.shape[2])
            seen = [one[:, :, queries] for one in (query, output, weight, gradient)]
            found = _kernel_backward(seen[3], seen[0], *_unpacked(held[:, :, keys], key), *seen[1:3], causal=False)
            by_query[:, :, queries] += found[0]
            by_held = torch.zeros_like(held) if returning is None else returning()
            by_held[:, :, keys] += _packed(*found[1:])
            returning = ring.pass_on(by_held)
        own_key, own_value = _unpacked(returning(), key)  # pyright: ignore[reportOptionalCall]
        return by_query, by_key + own_key, by_value + own_value, None


def _packed(key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return torch.cat((key, value), dim=-1)


def _unpacked(held: torch.Tensor, key: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return held[..., : key.shape[-1]], held[..., key.shape[-1] :]


def _merge(total: torch.Tensor, weight: torch.Tensor, part: torch.Tensor, part_weight: torch.Tensor) -> None:
    """Add `part` of an attention to `total` in place, each by the sum of exponentials whose logarithm is its weight."""
    both = torch.logaddexp(weight, part_weight)
    total.mul_((weight - both).exp()[..., None]).add_(part * (part_weight - both).exp()[..., None])
    weight.copy_(both)


def _kernel(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, causal: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention and the logarithm of its sums of exponentials (batch, heads, tokens)."""
    wide = _as_wide(value, key)
    output, weight = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, wide, 0.0, causal)
    return output[..., : value.shape[-1]], weight


def _kernel_backward(
    gradient: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    output: torch.Tensor,
    weight: torch.Tensor,
    *,
    causal: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of these queries, keys and values; `output` and `weight` are the whole attention's, not this part's."""
    gradient, wide, output = (_as_wide(one, key) for one in (gradient, value, output))
    by_query, by_key, by_value = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        gradient, query, key, wide, output, weight, 0.0, causal
    )
    return by_query, by_key, by_value[..., : value.shape[-1]]


def _as_wide(value: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """`value` with zeros up to the width of `key`: the kernel wants one width."""
    missing = key.shape[-1] - value.shape[-1]
    return functional.pad(value, (0, missing)) if missing else value
