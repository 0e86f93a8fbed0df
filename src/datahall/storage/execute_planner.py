"""PyTorch's planners with one change: what is no tensor travels as JSON, not as a pickle."""

from __future__ import annotations

import io
import json
from typing import Any

from torch.distributed.checkpoint._traverse import set_element
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.planner import ReadItem, WriteItem, WriteItemType

from datahall.storage.plain import from_plain, to_plain


class JsonSavePlanner(DefaultSavePlanner):
    """Plans which rank writes which box; entries that are no tensors become JSON text."""

    def transform_object(self, write_item: WriteItem, object: Any) -> Any:
        """A tensor as it is; anything else as a stream of JSON."""
        if write_item.type is not WriteItemType.BYTE_IO:
            return object
        return io.BytesIO(json.dumps(to_plain(object, write_item.index.fqn)).encode())


class JsonLoadPlanner(DefaultLoadPlanner):
    """Plans which rank reads which box; JSON text is put back into the state."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Set the entry that `value` holds."""
        loaded = from_plain(json.loads(value.read()))
        name = read_item.dest_index.fqn
        if self.flatten_state_dict:
            set_element(self.original_state_dict, self.mappings[name], loaded)
        else:
            self.state_dict[name] = loaded
