"""How a model is cut over devices: degrees of parallelism, micro-batches, precision, recomputation.

The value only, and what follows from it by counting; seconds are `estimate`'s work.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ComputePlan:
    """One way to cut a training step.

    The product data x tensor x pipeline x context is the number of devices; `expert` divides data x context (experts
    are spread inside it).  `micro_batch` is sequences per data-parallel rank and micro-step, `accumulation`
    micro-steps per optimiser step (with pipeline > 1: the micro-batches in flight).  `zero_stage` 0 to 3 says what
    data-parallel ranks shard (nothing, optimiser state, gradients too, parameters too); `shard_group` ranks share one
    copy (0: all of them, fewer is HSDP).  `recompute` is none, selective (attention core) or full; published runs also
    keep-qkv (full, but queries, keys and values are kept) and keep-attention (and what attention made of them).
    `threads` is CPU threads per process.
    """

    data: int = 1
    tensor: int = 1
    pipeline: int = 1
    virtual_stages: int = 1
    context: int = 1
    expert: int = 1
    zero_stage: int = 0
    shard_group: int = 0
    micro_batch: int = 1
    accumulation: int = 1
    precision: str = "bf16"
    recompute: str = "none"
    schedule: str = "1f1b"
    sequence_parallel: bool = True
    threads: int = 1

    @property
    def devices(self) -> int:
        """Devices that one copy of the run uses."""
        return self.data * self.tensor * self.pipeline * self.context

    @property
    def replicated(self) -> bool:
        """Whether each of several devices has all of the model and its state: plain data parallelism."""
        return self.devices == self.data > 1 and self.expert == 1 and self.zero_stage == 0

    @property
    def copies(self) -> int:
        """Devices that hold the same parameters and add up their gradients: data and context ranks."""
        return self.data * self.context

    @property
    def shards(self) -> int:
        """How many of those share one copy of what ZeRO spreads."""
        return min(self.shard_group or self.copies, self.copies)

    @property
    def processors(self) -> int:
        """Devices of the site that the run keeps busy: on a processor a device is a core, and each thread has one."""
        return self.devices * self.threads

    @property
    def global_batch(self) -> int:
        """Sequences per optimiser step."""
        return self.data * self.micro_batch * self.accumulation
