"""What an engine does in one worker, which engines there are, and how a missing one is said.

The interface only; each engine's file has its own imports and is loaded in the worker's process alone.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from datahall.base.errors import UnknownName, UsageError

ADAM = (1e-3, 0.9, 0.999, 1e-8)  # learning rate, first and second moment's decay, epsilon

Layers = Sequence[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True, slots=True)
class Team:
    """The processes that train together: this one's rank, their number, threads each, and an address (127.0.0.1:port)
    for each of them.  `rendezvous` is a file that does not exist yet.
    """

    rank: int
    workers: int
    threads: int
    addresses: tuple[str, ...]
    rendezvous: str


class Engine(Protocol):
    """One worker's side of a training.  Steps may still be running when they return; `finish` waits for them."""

    def __init__(self, team: Team, layers: Layers) -> None:
        """Join the others and build the network with these weights and Adam; called once, after the fork of threads."""
        ...

    def step(self, images: np.ndarray, classes: np.ndarray) -> Any:
        """One step of all workers together on this worker's share.

        Gives the mean loss of the share or of the whole batch, perhaps still to come: the mean over equal shares is the
        batch's either way.
        """
        ...

    def finish(self) -> None:
        """Wait until every step is done."""
        ...

    def exchange(self) -> None:
        """Sum as many numbers as the network has over all workers by the engine's own collective, and wait for it."""
        ...

    def scores(self, images: np.ndarray) -> np.ndarray:
        """The network's output for each image, a number a class."""
        ...

    def layers(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """The weights (inputs, outputs) and biases as they are now."""
        ...

    def close(self) -> None:
        """Leave, after every worker has its result and before the process ends."""
        ...


@dataclass(frozen=True, slots=True)
class Entry:
    """Where an engine is, which modules it needs, the extra that installs them, and what its collectives are.

    `listens_beyond` says that its workers listen on every interface, not on 127.0.0.1 alone.
    """

    name: str
    place: str
    needs: tuple[str, ...]
    extra: str
    exchange: str
    listens_beyond: bool = False


ENGINES = {
    entry.name: entry
    for entry in (
        Entry("pytorch", "datahall.real.engines.pytorch:PyTorch", ("torch",), "train", "DistributedDataParallel, gloo"),
        Entry(
            "tensorflow",
            "datahall.real.engines.tensorflow_keras:TensorFlow",
            ("tensorflow", "tf_keras"),
            "tensorflow",
            "MultiWorkerMirroredStrategy, gRPC ring",
            listens_beyond=True,
        ),
        Entry("jax", "datahall.real.engines.jax_gloo:Jax", ("jax", "jaxlib"), "jax", "jax.distributed, gloo"),
    )
}


def entry_of(name: str) -> Entry:
    """The engine called `name`, installed; UnknownName if there is none, UsageError if it is not installed."""
    if name not in ENGINES:
        raise UnknownName(f"{name!r} is no engine.", where="--engine", hint=f"There are {', '.join(ENGINES)}.")
    entry = ENGINES[name]
    missing = [module for module in entry.needs if importlib.util.find_spec(module) is None]
    if missing:
        raise UsageError(
            f"{name} needs {' and '.join(missing)}, which this Python does not have.",
            where="--engine",
            hint=f'In the checkout: pip install -c constraints.txt ".[{entry.extra}]"',
        )
    return entry


def load(name: str) -> type[Engine]:
    """The class of the engine called `name`; imports it."""
    module, _, kind = entry_of(name).place.partition(":")
    return getattr(importlib.import_module(module), kind)
