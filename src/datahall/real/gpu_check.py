"""A short probe and training run on the GPUs of this machine, as one JSON file that can be shared.

NEVER RUN ON A GPU YET: until somebody sends its result in, everything that datahall says of GPUs rests on published
figures.  On a machine without a GPU it is refused.  Names of hosts, users and paths are not part of the result.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from datahall.base.errors import Refused, WorldFailed
from datahall.case.local import guessed_site
from datahall.case.model import ModelShape
from datahall.case.question import Case, Goal, Training
from datahall.compute.plan import ComputePlan
from datahall.decisions.plan import Plan
from datahall.network.plan import NetworkPlan
from datahall.real.measure import median
from datahall.real.training import run
from datahall.storage.plan import StoragePlan

FORMAT_VERSION = 1
SHAPE = ModelShape("gpu-check", layers=8, hidden=1024, heads=16, kv_heads=4, head_dim=64, ffn=2816, vocab=256)
_PRODUCTS = ((4096, 1024, 4096), (8192, 4096, 4096), (8192, 8192, 8192))
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_SEQUENCE, _STEPS, _REPEATS = 512, 30, 20


def gpu_check(folder: Path) -> dict[str, Any]:
    """Measure the GPUs here and train on one and on all of them; Refused without a GPU."""
    if not torch.cuda.is_available():
        raise Refused(
            "this machine has no GPU that PyTorch can use, so there is nothing to check.",
            hint="Run it where torch.cuda.is_available() is true, and send in the result.",
        )
    count = torch.cuda.device_count()
    device = torch.device("cuda", 0)
    found = {
        "format_version": FORMAT_VERSION,
        "gpu": torch.cuda.get_device_name(device),
        "gpus": count,
        "memory_bytes": torch.cuda.get_device_properties(device).total_memory,
        "stack": {"torch": torch.__version__, "cuda": torch.version.cuda, "python": platform.python_version()},
        "products": [_product(device, shape, dtype) for dtype in _DTYPES for shape in _PRODUCTS],
        "copy_bytes_per_s": _copy(device),
        "power_w": _power_w(),
    }
    for workers in sorted({1, count}):
        found[f"training_{workers}"] = _training(folder / str(workers), workers)
    return found


def _product(device: torch.device, shape: tuple[int, int, int], dtype: str) -> dict[str, Any]:
    tokens, inner, outer = shape
    left = torch.randn(tokens, inner, device=device, dtype=_DTYPES[dtype])
    right = torch.randn(inner, outer, device=device, dtype=_DTYPES[dtype])
    seconds = _seconds(lambda: torch.mm(left, right))
    return {"dtype": dtype, "shape": shape, "seconds": seconds, "flops_per_s": 2 * tokens * inner * outer / seconds}


def _copy(device: torch.device) -> float:
    source = torch.empty(2**28, device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    return 2 * source.numel() / _seconds(lambda: target.copy_(source))


def _seconds(call: Callable[[], Any]) -> float:
    taken: list[float] = []
    call()
    for _ in range(_REPEATS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        torch.cuda.synchronize()
        taken.append(begin.elapsed_time(end) / 1e3)
    return median(taken)


def _power_w() -> float | None:
    """The board's power now, by NVML, where its Python bindings are installed."""
    try:
        return torch.cuda.power_draw() / 1e3
    except (ModuleNotFoundError, RuntimeError):
        return None


def _training(folder: Path, workers: int) -> dict[str, Any]:
    guess, _ = guessed_site()
    site = replace(guess, accelerator=replace(guess.accelerator, kind="gpu"), devices_per_node=workers)
    batch = 8 * workers
    case = Case("gpu-check", SHAPE, Training(1e9, batch, _SEQUENCE), site, Goal())
    compute = ComputePlan(data=workers, micro_batch=8, precision="bf16")
    plan = Plan(compute, StoragePlan(interval_steps=20), NetworkPlan(), case.hash())
    try:
        measured = run(case, plan, folder, steps=_STEPS)
    except WorldFailed as error:
        return {"failed": str(error)}
    return {"result": measured.result.to_json(), "losses": list(measured.losses)}
