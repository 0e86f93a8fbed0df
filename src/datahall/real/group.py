"""The end of a group of workers: how the loss of another one shows, and how all leave together.

Starting a group and what is exchanged in it are the workers' own.
"""

from __future__ import annotations

import torch.distributed as dist


def lost_peer(error: Exception) -> bool:
    """Whether a collective failed because another worker is gone, and not by itself."""
    text = str(error)
    signs = ("closed by peer", "reset by peer", "Broken pipe", "Timed out waiting", "Socket closed")
    return isinstance(error, RuntimeError) and any(sign in text for sign in signs)


def leave_together() -> None:
    """Wait for the other workers and close the group; nothing of the group's work may be left to do.

    Whoever sees here that another worker has closed its connections has lost nothing: that one was here before and left
    while its last message was on the way (pytorch/gloo, issue 155).  One that died says so by its own exit code.
    """
    if not dist.is_initialized():
        return
    try:
        dist.barrier()
    except RuntimeError as error:
        if not lost_peer(error):
            raise
    dist.destroy_process_group()
