"""Save and load the state of a training run: sharded, checked, committed at once, on any number of ranks.

    saved = save("ckpt", step, {"model": model.state_dict(), "lr": 0.1}, extras={"epoch": 3})
    loaded = load("ckpt", state)          # in place; the newest whole step

`state` is a nested dictionary of tensors (plain or DTensor) and plain values; `extras` is JSON.  With an initialised
process group all ranks call together; one process needs none.  PyTorch's distributed checkpoint plans which rank writes
and reads what; the bytes, the manifest and the commit are ours.  `execute_async` saves in the background.
"""

from __future__ import annotations

import operator
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load as planned_load
from torch.distributed.checkpoint.state_dict_saver import save as planned_save
from torch.optim import Optimizer

from datahall.base.errors import UsageError
from datahall.storage.codec import codec as checked_codec
from datahall.storage.execute_planner import JsonLoadPlanner, JsonSavePlanner
from datahall.storage.execute_reader import ShardReader
from datahall.storage.execute_writer import ShardWriter
from datahall.storage.faults import CorruptShard, NoCheckpoint, StoreFault
from datahall.storage.manifest import Manifest
from datahall.storage.place import Place, open_place
from datahall.storage.plain import check_json
from datahall.storage.plan import DEFAULT_SHARDS
from datahall.storage.store import collect, committed_steps, read_manifest

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Saved:
    """A committed step.  Bytes are the whole checkpoint's (0 on ranks other than the first), seconds this rank's."""

    step: int
    raw_bytes: int
    stored_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Loaded:
    """The step that was loaded, its extras, and the newer steps that could not be (step, what was wrong).

    `unread` names what the step holds and this rank's state did not ask for.
    """

    step: int
    extras: Any
    run: Mapping[str, Any]
    skipped: tuple[tuple[int, str], ...] = ()
    unread: tuple[str, ...] = ()


def save(
    path: str | Path | Place,
    step: int,
    state: Mapping[str, Any],
    *,
    extras: Any = None,
    run: Mapping[str, Any] | None = None,
    codec: str = "none",
    allow_loss: bool = False,
    shards: int = DEFAULT_SHARDS,
    keep: int = 0,
    replace: bool = False,
    group: dist.ProcessGroup | None = None,
    check: Callable[[], None] | None = None,
    began: float | None = None,
) -> Saved:
    """Write `state` as step `step` and return when it is committed and durable.

    What is no DTensor is taken from one of the ranks that have its name, and must be the same on them.  `shards` is
    files per rank; `keep` retires all but the newest few and this one after the commit (0 keeps all); `replace` allows
    a step that is committed already to be written anew; what `check` raises on one rank fails the save on all; seconds
    count from `began` (by time.perf_counter).  Raises StoreFault, and UsageError for a wrong argument; a failure
    touches nothing committed.
    """
    began = time.perf_counter() if began is None else began
    _check_codec(codec, allow_loss)
    place, step = open_place(path), _checked_step(step)
    _check_keys(state)
    check_json(extras, "extras")
    check_json(run, "run")
    options = {"codec": codec, "shards": shards, "replace": replace, "check": check}
    writer = ShardWriter(place, step, run=dict(run or {}), extras=extras, **options)
    with _faults_of_all_ranks(place):
        planned_save(
            dict(state), storage_writer=writer, planner=JsonSavePlanner(), process_group=group, no_dist=_alone()
        )
    manifest = writer.manifest
    if manifest is not None and (keep or replace):
        collect(place, keep, spare=step)
    raw, stored = (manifest.raw_bytes, manifest.stored_bytes) if manifest else (0, 0)
    return Saved(step, raw, stored, time.perf_counter() - began)


def load(
    path: str | Path | Place, state: dict[str, Any], *, step: int | None = None, group: dist.ProcessGroup | None = None
) -> Loaded:
    """Fill `state` in place from step `step`, or from the newest step that is whole.

    The tensors of `state` say what is wanted: their shapes must be the stored ones, their split over ranks need not be.
    Raises NoCheckpoint when there is none, CorruptShard when the asked step is damaged; `state` may then hold a part of
    the damaged step.
    """
    place = open_place(path)
    _check_keys(state)
    if step is not None:
        manifest, unread = _read(place, step, state, group)
        return Loaded(step, manifest.extras, manifest.run, unread=unread)
    skipped: list[tuple[int, str]] = []
    while candidates := _first_rank_says(lambda: _untried(place, skipped), group):
        try:
            manifest, unread = _read(place, candidates[-1], state, group)
        except (CorruptShard, NoCheckpoint) as error:  # damaged, or retired since the steps were listed
            skipped.append((candidates[-1], str(error)))
            continue
        return Loaded(candidates[-1], manifest.extras, manifest.run, tuple(skipped), unread)
    damage = "".join(f" Step {number}: {text}" for number, text in skipped)
    raise NoCheckpoint(f"there is no {'whole ' if skipped else ''}checkpoint.{damage}", where=place.name)


def training_state(model: nn.Module, optimiser: Optimizer) -> dict[str, Any]:
    """Model and optimiser as a state for `save` and `load`, by parameter name; DDP, FSDP and TP alike."""
    of_model, of_optimiser = get_state_dict(model, optimiser)
    return {"model": of_model, "optimiser": of_optimiser}


def restore_training_state(model: nn.Module, optimiser: Optimizer, state: dict[str, Any]) -> None:
    """Give a loaded state back to model and optimiser."""
    set_state_dict(model, optimiser, model_state_dict=state["model"], optim_state_dict=state["optimiser"])


def _check_codec(codec: str, allow_loss: bool) -> None:
    if not checked_codec(codec).lossless and not allow_loss:
        raise StoreFault(
            f"codec {codec!r} loses precision.",
            hint="Pass allow_loss=True (in a case: application.lossy_checkpoint), or choose a lossless codec.",
        )


def _checked_step(step: int) -> int:
    try:
        number = operator.index(step)
    except TypeError as error:
        raise UsageError(f"a step is a whole number, not {step!r}.", hint="Pass int(step).") from error
    if number < 0:
        raise UsageError(f"step {number} is below 0, where no checkpoint is found again.", hint="Count from 0.")
    return number


def _check_keys(state: Mapping[Any, Any]) -> None:
    if len({type(key) for key in state}) > 1:
        raise UsageError("the state's keys are of several types, which have no order.", hint="Use texts: str(key).")


def _untried(place: Place, skipped: list[tuple[int, str]]) -> list[int]:
    return sorted(set(committed_steps(place)) - {step for step, _ in skipped})


def _alone() -> bool:
    return not (dist.is_available() and dist.is_initialized())


def _first_rank_says(ask: Callable[[], R], group: dist.ProcessGroup | None) -> R:
    """What the first rank sees, on all ranks, so that all of them try the same; its StoreFault is everybody's."""
    if _alone():
        return ask()
    told: list[Any] = [None, None]
    if dist.get_rank(group) == 0:
        try:
            told[0] = ask()
        except StoreFault as error:
            told[1] = error
    source = dist.get_global_rank(group, 0) if group is not None else 0
    dist.broadcast_object_list(told, src=source, group=group)
    if told[1] is not None:
        raise told[1]
    return told[0]


def _read(
    place: Place, step: int, state: dict[str, Any], group: dist.ProcessGroup | None
) -> tuple[Manifest, tuple[str, ...]]:
    """Fill `state`; the step's manifest, and the names in it that `state` does not have."""
    planner = JsonLoadPlanner()
    manifest = _first_rank_says(lambda: read_manifest(place, step), group)
    with _faults_of_all_ranks(place):
        planned_load(
            state,
            storage_reader=ShardReader(place, manifest),
            planner=planner,
            process_group=group,
            no_dist=_alone(),
        )
    return manifest, planner.unread()


@contextmanager
def _faults_of_all_ranks(place: Place) -> Iterator[None]:
    """Raises the first rank's own fault for PyTorch's of all ranks, and keeps PyTorch's warnings to users away."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            yield
    except CheckpointException as error:
        _raise_first(error, place)


def _raise_first(error: CheckpointException, place: Place) -> NoReturn:
    for _, (cause, _) in sorted(error.failures.items()):
        if isinstance(cause, StoreFault):
            cause.where = cause.where or place.name
            raise cause from error
    rank, (cause, _) = min(error.failures.items())
    raise StoreFault(f"rank {rank} failed: {type(cause).__name__}: {cause}", where=place.name) from error
