"""What the launcher tells the processes of one engine: one JSON file, plain values only."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True, slots=True)
class Task:
    """A training of `steps` steps, or a probe of steps with each of `sizes` images a worker.

    `widths` are the network's layers from the image to the classes.  The first `untimed_steps` belong to the training
    but not to what is timed: engines compile in them.  `digits` is the file of images.  A worker has `threads` threads
    where its engine can be told (JAX cannot).
    """

    kind: str  # train | probe
    engine: str
    folder: Path
    digits: Path
    widths: tuple[int, ...]
    seed: int
    workers: int
    threads: int
    batch: int = 0
    steps: int = 0
    untimed_steps: int = 0
    sizes: tuple[int, ...] = ()
    blocks: int = 0
    steps_a_block: int = 0
    keep_weights: bool = False
    addresses: tuple[str, ...] = ()
    parent: int = 0

    def save(self, path: Path) -> None:
        """Write the task to `path`."""
        values = asdict(self)
        values.update(folder=str(self.folder), digits=str(self.digits))
        path.write_text(json.dumps(values), encoding="utf-8")


def load_task(path: Path) -> Task:
    """The task that `Task.save` wrote."""
    values = json.loads(path.read_text(encoding="utf-8"))
    values.update(folder=Path(values["folder"]), digits=Path(values["digits"]))
    for name in ("widths", "sizes", "addresses"):
        values[name] = tuple(values[name])
    return Task(**values)


def save_weights(path: Path, layers: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """Write the arrays of `layers` under the names weights.0, biases.0, ..."""
    named: dict[str, np.ndarray] = {}
    for number, (weights, biases) in enumerate(layers):
        named |= {f"weights.{number}": weights, f"biases.{number}": biases}
    np.savez(path, allow_pickle=False, **named)
