"""What a step costs on an engine, measured before a training: real steps with shares of three sizes, and the exchange.

The processes, the network, the batches and the collectives are the training's own; the sizes are not.  Nothing is
fitted here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from datahall.case.question import Case
from datahall.real.engines.launcher import carry_out
from datahall.real.engines.runs import IMAGES, widths
from datahall.real.engines.task import Task
from datahall.workloads.digits_images import fetch

SMALLEST_SHARE = 8
BLOCKS, STEPS_A_BLOCK = 7, 20


def probe(
    case: Case,
    engine: str,
    folder: Path,
    *,
    workers: int,
    largest_share: int,
    threads: int = 1,
    port: int = 0,
    open_ports: bool = False,
) -> dict[str, Any]:
    """Seconds a step by size of a worker's share, up to somewhat more than `largest_share`, and of the exchange alone.

    Plain JSON values: `steps` (size, block, step_s) and `exchange_s`, as worker 0 saw them.  Raises what
    `launcher.carry_out` raises.
    """
    task = Task(
        kind="probe",
        engine=engine,
        folder=folder,
        digits=fetch(),
        widths=widths(case),
        seed=case.application.seed,
        workers=workers,
        threads=threads,
        sizes=_sizes(largest_share, IMAGES // workers),
        blocks=BLOCKS,
        steps_a_block=STEPS_A_BLOCK,
    )
    carry_out(task, port, open_ports=open_ports)
    told = json.loads((folder / "result-0.json").read_text(encoding="utf-8"))
    return {"engine": engine, "workers": workers, "threads": threads, **told}


def _sizes(largest_share: int, most: int) -> tuple[int, int, int]:
    """Small, between (their geometric mean) and large; the large one covers `largest_share` with some room."""
    large = min(most, max(4 * SMALLEST_SHARE, -(-largest_share * 5 // 4)))
    return SMALLEST_SHARE, round((SMALLEST_SHARE * large) ** 0.5), large
