"""What DTensor itself costs each layer and each micro-step: thin models, cut over all processes of the probe and whole.

Products of a thin model take next to nothing, so that what a cut one takes longer is DTensor's work on its modules and
its small collectives.  What a collective takes of that is subtracted by who reads the findings.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist

from datahall.case.local import guessed_site
from datahall.case.model import ModelShape
from datahall.case.question import Case, Goal, Training
from datahall.compute.execute import Executor, prepare
from datahall.compute.plan import ComputePlan
from datahall.real.measure import median
from datahall.workloads import language_model

DEPTHS = (1, 3)
_HEAD_DIM, _TOKENS = 8, 16  # of a rank


def thin_models(quick: bool) -> Iterator[dict[str, Any]]:
    """Findings of kind thin_model: seconds of one micro-step forward and backward by depth and how it is cut.

    `ranks` is 1 for the whole model; `shared` says whether tensor ranks share the sequence.
    """
    ranks = dist.get_world_size()
    for layers in DEPTHS:
        case = _case(layers, ranks)
        for plan in (
            ComputePlan(data=ranks, precision="fp32", sequence_parallel=False),
            ComputePlan(tensor=ranks, precision="fp32", sequence_parallel=False),
            ComputePlan(tensor=ranks, precision="fp32", sequence_parallel=True),
        ):
            workload = language_model.build(case)
            executor = prepare(workload, plan, bucket_bytes=2**20, device=torch.device("cpu"))
            seconds = _rehearsed_s(executor, workload.data.batch([0]), 9 if quick else 25)
            about = {"layers": layers, "ranks": plan.tensor, "shared": plan.sequence_parallel}
            yield {"kind": "thin_model", **about, "seconds": seconds}


def _rehearsed_s(executor: Executor, batch: Any, repeats: int) -> float:
    taken: list[float] = []
    for number in range(repeats + 2):  # the first two find their way
        dist.barrier()
        began_s = time.perf_counter()
        executor.rehearse([batch])
        if number >= 2:
            taken.append(time.perf_counter() - began_s)
    return median(taken)


def _case(layers: int, ranks: int) -> Case:
    heads = 2 * ranks
    shape = ModelShape("thin", layers, heads * _HEAD_DIM, heads, ranks, _HEAD_DIM, 4 * heads * _HEAD_DIM, 256)
    return Case("thin", shape, Training(1e5, ranks, _TOKENS * ranks), guessed_site()[0], Goal())
