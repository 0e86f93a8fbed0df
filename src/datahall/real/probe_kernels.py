"""What this process computes in a second: matrix products, attention, element-wise work, memory, the optimiser.

Shapes are those of small language models; rates at other shapes are the forecast's business.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn import functional

from datahall.real.probe_timing import time_call

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# tokens, inner, outer width: what narrow products lose has to be seen
PRODUCTS = (
    (512, 128, 128), (1024, 128, 384), (256, 256, 256), (512, 256, 768), (1024, 512, 1024), (512, 1024, 512),
    (2048, 1024, 1024),
)  # fmt: skip
QUICK_PRODUCTS = ((1024, 128, 384), (1024, 512, 1024))
# batch, heads, sequence, head_dim: what the core costs each sequence and head, short as it may be, has to be seen
ATTENTION = ((8, 4, 64, 32), (4, 4, 128, 32), (4, 8, 256, 32), (2, 8, 512, 64))
QUICK_ATTENTION = ((8, 4, 64, 32), (4, 8, 256, 32))
_WORTH_DIVIDING_S = 1e-4
_TRIES_AGAIN, _PAUSE_S = 3, 1.0
_COPY_BYTES = 64 * 2**20
_OPTIMISED = 4_000_000
_TENSORS, _OF_EACH = 256, 4096  # adapters of a small language model: each tensor is four short streams of memory


def kernels(quick: bool, budget_s: float) -> Iterator[dict[str, Any]]:
    """Measure one kernel after the other: dictionaries with kind, dtype, shape, flops or bytes, and the timing."""
    yield from _memory(budget_s)
    for dtype in DTYPES:
        for shape in QUICK_PRODUCTS if quick else PRODUCTS:
            yield from _product(shape, dtype, budget_s)
        for shape in QUICK_ATTENTION if quick else ATTENTION:
            yield from _attention(shape, dtype, budget_s)
    yield from _optimiser(budget_s)


def undisturbed(measure: Callable[[], Iterator[dict[str, Any]]], alone: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The findings of `measure` on several threads; what others disturbed is measured again, the fastest counts.

    Threads wait for the last of them, so that one busy core makes a kernel take ten and a hundred times as long.  More
    threads never take twice as long as one (`alone`: its findings) for a kernel that is worth dividing.
    """
    found = list(measure())
    for _ in range(_TRIES_AGAIN if alone else 0):
        pairs = zip(found, alone, strict=True)
        if all(one["seconds"] < max(2.0 * other["seconds"], _WORTH_DIVIDING_S) for one, other in pairs):
            break
        time.sleep(_PAUSE_S)
        found = [min(pair, key=lambda one: one["seconds"]) for pair in zip(found, measure(), strict=True)]
    return found


def _product(shape: tuple[int, int, int], dtype: str, budget_s: float) -> Iterator[dict[str, Any]]:
    tokens, inner, outer = shape
    inputs = torch.randn(tokens, inner).to(DTYPES[dtype]).requires_grad_()
    weight = torch.randn(outer, inner).to(DTYPES[dtype]).requires_grad_()
    flops = 2 * tokens * inner * outer
    with torch.no_grad():
        timing = time_call(lambda: functional.linear(inputs, weight), budget_s)
    yield _finding("product", timing, dtype=dtype, shape=shape, flops=flops)
    output = functional.linear(inputs, weight)
    grad = torch.ones_like(output)
    timing = time_call(lambda: torch.autograd.grad(output, (inputs, weight), grad, retain_graph=True), budget_s)
    yield _finding("product_backward", timing, dtype=dtype, shape=shape, flops=2 * flops)


def _attention(shape: tuple[int, int, int, int], dtype: str, budget_s: float) -> Iterator[dict[str, Any]]:
    batch, heads, sequence, width = shape
    query, key, value = (torch.randn(shape).to(DTYPES[dtype]).requires_grad_() for _ in range(3))
    causal = 2 * batch * heads * sequence * sequence * width  # half of the full product of scores and of values

    def attend() -> torch.Tensor:
        return functional.scaled_dot_product_attention(query, key, value, is_causal=True)

    with torch.no_grad():
        timing = time_call(attend, budget_s)
    yield _finding("attention", timing, dtype=dtype, shape=shape, flops=causal)
    mixed = attend()
    grad = torch.ones_like(mixed)
    timing = time_call(lambda: torch.autograd.grad(mixed, (query, key, value), grad, retain_graph=True), budget_s)
    yield _finding("attention_backward", timing, dtype=dtype, shape=shape, flops=5 * causal // 2)


def _memory(budget_s: float) -> Iterator[dict[str, Any]]:
    source = torch.ones(_COPY_BYTES // 4)
    target = torch.empty_like(source)
    yield _finding("copy", time_call(lambda: target.copy_(source), budget_s), bytes=2 * _COPY_BYTES)
    small, other = torch.ones(2**18), torch.ones(2**18)  # a megabyte each: the size of a small model's activations
    out = torch.empty_like(small)
    yield _finding("add", time_call(lambda: torch.add(small, other, out=out), budget_s), bytes=3 * 2**20)
    tiny = torch.ones(16)
    yield _finding("launch", time_call(lambda: tiny + tiny, budget_s), bytes=0)
    weight, inputs = torch.ones(16, 16), torch.ones(16, 16)
    yield _finding("tiny_product", time_call(lambda: functional.linear(inputs, weight), budget_s), bytes=0)


def _optimiser(budget_s: float) -> Iterator[dict[str, Any]]:
    """An update of one tensor that no cache holds, and one of many small tensors."""
    timing = time_call(_optimiser_of(1, _OPTIMISED), budget_s)
    yield _finding("optimiser", timing, parameters=_OPTIMISED, bytes=7 * 4 * _OPTIMISED)
    timing, count = time_call(_optimiser_of(_TENSORS, _OF_EACH), budget_s), _TENSORS * _OF_EACH
    yield _finding("update", timing, parameters=count, tensors=_TENSORS, bytes=7 * 4 * count)


def _optimiser_of(tensors: int, each: int) -> Callable[[], Any]:
    parameters = [torch.ones(each, requires_grad=True) for _ in range(tensors)]
    for parameter in parameters:
        parameter.grad = torch.ones(each)
    return torch.optim.AdamW(parameters, fused=True).step


def _finding(kind: str, timing: Any, **about: Any) -> dict[str, Any]:
    finding = {"kind": kind, **about, **timing.to_json()}
    for count in ("flops", "bytes"):
        if finding.get(count):
            finding[f"{count}_per_s"] = finding[count] / timing.seconds
    return finding
