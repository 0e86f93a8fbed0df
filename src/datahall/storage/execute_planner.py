"""PyTorch's planners with two changes: what is no tensor travels as JSON, not as a pickle; what does not fit is named.

What is raised here is raised on all ranks.
"""

from __future__ import annotations

import difflib
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadPlan, ReadItem, WriteItem, WriteItemType

from datahall.storage.execute_tensor import check_storable
from datahall.storage.faults import StoreFault
from datahall.storage.plain import from_plain, to_plain


class JsonSavePlanner(DefaultSavePlanner):
    """Plans which rank writes which box; entries that are no tensors become JSON text."""

    def set_up_planner(self, state_dict: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        """Refuse, before anything is written, what could not be."""
        check_storable(state_dict)
        super().set_up_planner(state_dict, *args, **kwargs)

    def transform_object(self, write_item: WriteItem, object: Any) -> Any:
        """A tensor as it is; anything else as a stream of JSON."""
        if write_item.type is not WriteItemType.BYTE_IO:
            return object
        return io.BytesIO(json.dumps(to_plain(object, write_item.index.fqn)).encode())


class JsonLoadPlanner(DefaultLoadPlanner):
    """Plans which rank reads which box; JSON text is put back into the state."""

    def set_up_planner(self, state_dict: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        """Refuse what could not be filled; with a process group PyTorch gives memory to tensors on the meta device."""
        if not (dist.is_available() and dist.is_initialized()):
            check_storable(state_dict)
        super().set_up_planner(state_dict, *args, **kwargs)

    def create_local_plan(self) -> LoadPlan:
        """The default's, once every entry of the state is one of the checkpoint."""
        held: Mapping[str, Any] = self.metadata.state_dict_metadata if self.metadata is not None else {}
        for name, value in self.state_dict.items():
            _check_entry(name, value, held)
        return super().create_local_plan()

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Set the entry that `value` holds."""
        loaded = from_plain(json.loads(value.read()))
        name = read_item.dest_index.fqn
        if self.flatten_state_dict:
            _put(self.original_state_dict, self.mappings[name], loaded)
        else:
            self.state_dict[name] = loaded

    def unread(self) -> tuple[str, ...]:
        """What the checkpoint holds and the state did not ask for."""
        held: Mapping[str, Any] = self.metadata.state_dict_metadata if self.metadata is not None else {}
        return tuple(sorted(held.keys() - self.state_dict.keys()))


def _check_entry(name: str, value: Any, held: Mapping[str, Any]) -> None:
    about = held.get(name)
    if about is None:
        near = difflib.get_close_matches(name, held, 1)
        hint = f"The nearest name there is {near[0]!r}." if near else "`datahall store ls` lists the steps."
        raise StoreFault(f"the checkpoint has no {name!r}.", hint=hint)
    if not isinstance(about, TensorStorageMetadata):
        return
    if not isinstance(value, torch.Tensor):
        raise StoreFault(
            f"{name!r} is a tensor in the checkpoint and a {type(value).__name__} in the state.",
            hint="Put a tensor of its shape there, to be filled.",
        )
    if about.size != value.shape:
        raise StoreFault(
            f"{name!r} has the shape {tuple(about.size)} in the checkpoint and {tuple(value.shape)} in the state.",
            hint="Build the model as it was when it was saved.",
        )


def _put(container: Any, path: Sequence[str | int], value: Any) -> None:
    for item in path[:-1]:
        container = container[_key(container, item)]
    container[_key(container, path[-1])] = value


def _key(container: Any, item: str | int) -> Any:
    """The key that PyTorch's path means, which has a text for every key of a dictionary."""
    if not isinstance(container, Mapping) or item in container:
        return item
    return next((key for key in container if str(key) == item), item)
