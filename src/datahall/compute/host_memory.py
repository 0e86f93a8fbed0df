"""What the processes of a node hold in its host's memory while devices train, item by item, in bytes.

Arrays or plain numbers.  A plan offloads nothing, so that no state is counted here.  The kernel's page cache is left
out: it is given back when a process asks for the room.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from datahall.base.formula import formula
from datahall.compute.counts import ShapeCounts
from datahall.compute.numbers import PlanNumbers

PREFETCHED = 2  # batches that each worker of PyTorch's DataLoader makes ahead
_TOKEN_BYTES = 16  # a token and its label, 64 bits each
_CHANNELS = 8  # of a communicator's ring or tree
_CHANNEL_BYTES = 2 * (524_288 + 4_915_200 + 4_194_304)  # to and from a neighbour: NCCL's LL, LL128 and simple buffers


@dataclass(frozen=True, slots=True)
class HostHabits:
    """What one process keeps under a framework on a kind of device; `loaders` are its input workers.

    A worker of PyTorch 2.13 for processors kept 322 MB before its model was built, as much as an import of PyTorch 2.2
    built for CUDA (pytorch/pytorch#113326).  What a CUDA context and the libraries behind it add to a process was
    published thirteen times, 0.1 to 4.8 GB: pytorch/pytorch issues 12873, 15209, 19397, 31767 and 113326,
    discuss.pytorch.org topics 25064, 42814, 124078 and 185388, DeepSpeedExamples#630, wenet#989.  2.0 GB is the median.
    """

    interpreter_bytes: float = 0.32e9  # Python and the framework
    context_bytes: float = 2.0e9  # of the device, with the libraries that it loads
    communicator_bytes: float = _CHANNELS * _CHANNEL_BYTES  # as if its messages went through host memory
    loaders: int = 2  # Megatron-LM's --num-workers; torchtitan reads in the process itself
    loader_bytes: float = 0.2e9  # 202 to 231 MiB each (ultralytics#26090)


PYTORCH = HostHabits()
JAX = HostHabits(interpreter_bytes=0.21e9)  # jaxlib 0.10 for processors kept 213 MB
ON_PROCESSOR = HostHabits(context_bytes=0.0, communicator_bytes=0.0, loaders=0)  # its peak has buffers in it
_TPU_PINNED_BYTES = 2.0**32  # at the start of its runtime (TPU_PREMAPPED_BUFFER_SIZE, Cloud TPU performance guide)


def on_tpu(habits: HostHabits) -> HostHabits:
    """The habits of a framework on TPUs, whose runtime is the same for all and whose messages never see the host."""
    return replace(habits, context_bytes=_TPU_PINNED_BYTES, communicator_bytes=0.0)


@dataclass(frozen=True, slots=True)
class HostBytes:
    """Bytes in the memory of the fullest host, by item; `training` is what a processor's own training holds."""

    interpreter: Any
    context: Any
    communication: Any
    input: Any
    checkpoint: Any
    initial_weights: Any
    training: Any

    @property
    def total(self) -> Any:
        """Bytes of all items."""
        return sum(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True, slots=True)
class HostWidths:
    """What each item may be more or less by, nine times in ten, as a factor on both sides of it.

    The context's is of the published figures, the interpreter's of the frameworks' releases.  The others are assumed:
    of messages that go from device to device, of loaders that hold tables of their data, of allocators that round up to
    a power of two, of programs that read initial weights in 16 bits.
    """

    interpreter: float = 1.4
    context: float = 2.3
    communication: float = 4.0
    input: float = 3.0
    checkpoint: float = 1.4
    initial_weights: float = 2.0
    training: float = 1.6  # where no calibration says


@formula(
    equation="host = (n + 1) i + n c + n g 8 x 2 x 9.2 MiB + n l (w + 2 batches) + max(copies of checkpoints, 4 r P)",
    source="ours, of n processes with interpreter i, context c, g communicators (NCCL's src/init.cc: 0.5 + 4.7 + 4 MiB "
    "a channel and direction), l input workers w; a rank's copy of its state: PyTorch's recipe of asynchronous DCP",
    holds="resident memory of training processes; CUDA's c is taken for other makers' devices too; P parameters where "
    "a case states its weights, read by r = n processes as a plain from_pretrained does, or by r = 1 of them where the "
    "plan spreads the weights, as transformers does under FSDP (its pull request 25107)",
)
def host_memory(
    plan: PlanNumbers,
    sequence: Any,
    habits: HostHabits,
    *,
    devices: Any,
    processes: Any,
    launchers: int = 1,
    copied_bytes: Any = 0.0,
    read_bytes: float = 0.0,
    ahead: int = 0,
    shards_open_bytes: float = 0.0,
    training_bytes: Any = 0.0,
) -> HostBytes:
    """What `processes` with `devices` among them hold on one host, and what started them.

    `copied_bytes` of a checkpoint wait in host memory for each device, or before there is any the `read_bytes` of the
    initial weights for each process that reads them, whichever is more.  `ahead` micro-batches are read early, with
    `shards_open_bytes` of data.  `training_bytes` are a process's own where it computes on a processor.
    """
    batch = _TOKEN_BYTES * np.asarray(plan.micro_batch) * sequence * devices
    batches = (PREFETCHED * habits.loaders + ahead + 1) * batch
    copies = devices * np.asarray(copied_bytes, dtype=float)
    weights = np.where(_spreads_weights(plan), 1, processes) * read_bytes
    return HostBytes(
        interpreter=(processes + launchers) * habits.interpreter_bytes,
        context=processes * habits.context_bytes,
        communication=processes * communicators(plan) * habits.communicator_bytes,
        input=processes * (habits.loaders * habits.loader_bytes + shards_open_bytes) + batches,
        checkpoint=copies,
        initial_weights=np.maximum(0.0, weights - copies),
        training=processes * training_bytes,
    )


def host_log_half_width(held: HostBytes, widths: HostWidths) -> Any:
    """Half of the 90 % interval of the logarithm of the sum, its items erring apart.

    The same on every process of a node, since they run one program: more processes make nothing surer.
    """
    parts = [(getattr(held, field.name), getattr(widths, field.name)) for field in fields(HostBytes)]
    squares = sum((size * np.log(width)) ** 2 for size, width in parts)
    return np.sqrt(squares) / held.total


def communicators(plan: PlanNumbers) -> Any:
    """Groups that a process talks to: everybody, and one for each way in which the step is cut; none of one device."""
    cuts = (plan.data, plan.tensor, plan.pipeline, plan.context, plan.expert)
    return (np.asarray(plan.devices) > 1) * (1 + sum(1 * (np.asarray(degree) > 1) for degree in cuts))


def devices_of_a_node(devices: Any, most: int, tensor: Any, nodes: int) -> Any:
    """Devices that a plan takes of a node, at most `most`: as many on each, and tensor ranks side by side.

    Where that needs more than the site's `nodes`, tensor ranks lie on two of them.
    """
    even = beside = np.ones_like(np.asarray(devices * tensor, dtype=np.int64))
    for count in range(2, most + 1):
        divides = (count <= devices) & (devices % count == 0)
        even = np.where(divides, count, even)
        beside = np.where(divides & ((count % tensor == 0) | (tensor % count == 0)), count, beside)
    return np.where(beside * nodes >= devices, beside, even)


def largest_tensor_bytes(counts: ShapeCounts, plan: PlanNumbers) -> Any:
    """The largest tensor of one rank in 32 bits, which a save that holds the loop copies by itself.

    A table of embeddings, or the same matrix of all experts of a rank.
    """
    experts = counts.experts * counts.expert_weights / counts.mlp_matrices / np.asarray(plan.expert)
    matrix = np.maximum(counts.dense_weights / counts.mlp_matrices, experts)
    return 4.0 * np.maximum(counts.head_weights, matrix) / np.asarray(plan.tensor)


def _spreads_weights(plan: PlanNumbers) -> Any:
    """Whether no device holds the whole model, so that a program had better not read it in every process."""
    cut = np.asarray(plan.tensor) * plan.pipeline * plan.expert > 1
    return cut | ((np.asarray(plan.zero_stage) >= 3) & (np.asarray(plan.shards) > 1))
