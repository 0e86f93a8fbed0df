"""A group of workers: how all begin together, how the loss of another one shows, and how all leave together.

Making a group and what is exchanged in it are the workers' own.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch.distributed as dist

from datahall.real.launch import POLL_S, START_TIMEOUT_S


def begin_together(folder: Path, rank: int, workers: int) -> None:
    """Wait until every worker has come so far, so that none goes on alone; files in `folder` say who is here.

    A worker that died before it came is not waited for longer than a start takes.
    """
    (folder / f"here-{rank}").touch()
    until_s = time.monotonic() + START_TIMEOUT_S
    others = [folder / f"here-{other}" for other in range(workers)]
    while not all(path.exists() for path in others) and time.monotonic() < until_s:
        time.sleep(POLL_S)


def lost_peer(error: Exception) -> bool:
    """Whether a collective failed because another worker is gone, and not by itself."""
    text = str(error)
    signs = ("closed by peer", "reset by peer", "Broken pipe", "Timed out waiting", "Socket closed")
    return isinstance(error, RuntimeError) and any(sign in text for sign in signs)


def leave_together() -> None:
    """Wait for the other workers; nothing of the group's work may be left to do, and the process ends soon after.

    Whoever sees here that another worker has closed its connections has lost nothing: that one was here before and left
    while its last message was on the way (pytorch/gloo, issue 155).  One that died says so by its own exit code.  The
    group is not taken apart: that waits for the group's threads, one of which may wait for the interpreter.
    """
    if not dist.is_initialized():
        return
    try:
        dist.barrier()
    except RuntimeError as error:
        if not lost_peer(error):
            raise
