"""How a replaced worker takes the weights over from a living one: a safetensors file in the run's folder.

Stands in for torchft's own transport, which serves pickled objects over a port that is open to everybody.
"""

from __future__ import annotations

import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torchft.checkpointing.transport import CheckpointTransport  # pyright: ignore[reportMissingImports]

_COUNTS = "torchft."
_POLL_S = 0.02


class FileTransport(CheckpointTransport):
    """Writes and reads whole states of workers on one machine."""

    def __init__(self, folder: Path, rank: int) -> None:
        self.folder, self.rank = folder, rank
        folder.mkdir(exist_ok=True)

    def metadata(self) -> str:
        """Where a worker that needs it finds this worker's state: the beginning of a file name."""
        return str(self.folder / f"from-{self.rank}")

    def send_checkpoint(self, dst_ranks: list[int], step: int, state_dict: dict[str, Any], timeout: timedelta) -> None:
        """Write the state of `step`, whole or not at all."""
        state = {name: torch.as_tensor(tensor).contiguous() for name, tensor in state_dict["user"]["default"].items()}
        state |= {f"{_COUNTS}{name}": torch.tensor(count) for name, count in state_dict["torchft"].items()}
        path = Path(f"{self.metadata()}-{step}.safetensors")
        part = path.with_suffix(".part")
        save_file(state, part)
        os.replace(part, path)

    def recv_checkpoint(self, src_rank: int, metadata: str, step: int, timeout: timedelta) -> dict[str, Any]:
        """Read what the other wrote for `step`; TimeoutError when it does not come."""
        path = Path(f"{metadata}-{step}.safetensors")
        until_s = time.monotonic() + timeout.total_seconds()
        while not path.exists():
            if time.monotonic() > until_s:
                raise TimeoutError(f"no state of step {step} from {metadata}")
            time.sleep(_POLL_S)
        state = load_file(path)
        path.unlink(missing_ok=True)
        counts = {name.removeprefix(_COUNTS): int(state.pop(name)) for name in list(state) if name.startswith(_COUNTS)}
        return {"user": {"default": state}, "torchft": counts}
