"""Carries out a compute plan with PyTorch: wraps the model, exchanges gradients, updates the parameters.

`prepare` chooses the executor of a plan's split; the training loop knows executors only.  It reads no clock: the loop
hands in `mark`, called with the name of each phase as it begins (forward, backward, exchange).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint as recompute

from datahall.base.errors import Incompatible, Refused
from datahall.base.workload import Workload
from datahall.compute.execute_buffers import agreed_buffers, buffers_of, restore_buffers
from datahall.compute.execute_optimiser import allocate_state, make_optimiser, optimiser_tensors, restore_optimiser
from datahall.compute.layout import check_runnable
from datahall.compute.plan import ComputePlan

Mark = Callable[[str], None]
Exchange = Callable[[Any], "torch.futures.Future[torch.Tensor]"]  # a DDP bucket to the future of its sum

_MODEL = "model."
_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Executor(Protocol):
    """One worker's side of a split.

    `data_rank` of `data_world` says which share of the global batch this worker reads; of the workers that read the
    same share, one `logs_samples`.  `group_key` tells groups apart whose members exchange gradients with each other.
    Over `stage_group` a pipeline's stages hand one another activations and gradients.  `actions` is what the worker
    did in the last pass of a pipeline's schedule, in order: (F or B, stage, micro-batch).  Nothing that `optimiser`
    holds changes but in `update` (and in `restore`), after its own step has begun.
    """

    data_rank: int
    data_world: int
    logs_samples: bool
    group_key: int
    stage_group: dist.ProcessGroup | None
    actions: list[tuple[str, int, int]] | None

    @property
    def optimiser(self) -> torch.optim.Optimizer:
        """The optimiser of what this worker holds."""
        ...

    def gradients(self, batches: Iterable[Any], micro_steps: int, mark: Mark) -> float | None:
        """Forward and backward of one step's micro-batches, gradients exchanged.

        The mean loss of this worker's samples; None where another pipeline stage has it.
        """
        ...

    def rehearse(self, batches: Iterable[Any]) -> None:
        """Forward and backward of one step, for observers: gradients are not exchanged between copies, nothing updated.

        Workers that share one copy of the model do it together.
        """
        ...

    def update(self) -> None:
        """One step of the optimiser; gradients are cleared."""
        ...

    def tensors(self, *, complete: bool = False) -> dict[str, torch.Tensor]:
        """Everything that a checkpoint keeps of model and optimiser, by name.

        Before the first step an optimiser holds nothing yet; `complete` makes it allocate its state.
        """
        ...

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take over what `tensors` gave."""
        ...

    def whole_weights(self) -> dict[str, torch.Tensor]:
        """All trained parameters and buffers of the whole model by name; workers call together, worker 0 gets them."""
        ...


def prepare(
    workload: Workload, plan: ComputePlan, *, bucket_bytes: int, device: torch.device, exchange: Exchange | None = None
) -> Executor:
    """The executor of `plan`'s split, in an initialised process group where there is more than one worker.

    `exchange` replaces the all-reduce of a bucket of plain data parallelism and must give the sum over workers.
    Refused for splits that datahall plans but does not run.
    """
    check_runnable(plan)
    made: Any = executor_class(plan)
    return made(workload, plan, bucket_bytes, device, *([exchange] if made is DataParallel else []))


def executor_class(plan: ComputePlan) -> type[Executor]:
    """The class that carries out `plan`'s split; loads the libraries that it needs."""
    if plan.pipeline > 1:
        from datahall.compute.execute_pipeline import Pipelined

        return Pipelined
    if plan.tensor > 1:
        from datahall.compute.execute_tensor import TensorParallel

        return TensorParallel
    grouped = dist.is_initialized() and dist.get_world_size() > 1
    if max(plan.context, plan.expert) > 1 or plan.zero_stage == 1 or (plan.zero_stage and grouped):
        from datahall.compute.execute_sharded import Sharded

        return Sharded
    return DataParallel


class DataParallel:
    """One copy of the model per worker; gradients are summed bucket by bucket while the backward pass still runs.

    With `alone` nothing is summed: each worker goes its own way until somebody makes the copies equal again.
    """

    logs_samples = True
    group_key = 0
    stage_group: dist.ProcessGroup | None = None
    actions: list[tuple[str, int, int]] | None = None

    def __init__(
        self,
        workload: Workload,
        plan: ComputePlan,
        bucket_bytes: int,
        device: torch.device,
        exchange: Exchange | None,
        *,
        alone: bool = False,
    ) -> None:
        self.loss, self.device = workload.loss, device
        self.precision = autocast_dtype(plan.precision)
        self.module: nn.Module = workload.model.to(device)
        recompute_parts(self.module, workload, plan.recompute)
        grouped = dist.is_initialized() and dist.get_world_size() > 1 and not alone
        self.data_rank = dist.get_rank() if grouped else 0
        self.data_world = dist.get_world_size() if grouped else 1
        self.replica = _replicate(self.module, bucket_bytes, exchange) if grouped else self.module
        self.optimiser = make_optimiser(workload, self.module)
        self.trained = {name: one for name, one in self.module.named_parameters() if one.requires_grad}

    def gradients(self, batches: Iterable[Any], micro_steps: int, mark: Mark) -> float:
        """As in Executor.  The sum over workers of gradients scaled by 1 / (workers x micro-steps) is their mean."""
        if self.data_world > 1:
            agreed_buffers([self.module], dist.group.WORLD)
        scale = 1.0 / (micro_steps * self.data_world)
        total = torch.zeros((), device=self.device)
        for index, batch in enumerate(batches):
            with self._exchanging(last=index == micro_steps - 1):
                mark("forward")
                loss = self._loss(self.replica, batch)
                mark("backward")
                (loss * scale).backward()
            total += loss.detach()
        if self.data_world > 1:
            check_taught(name for name, parameter in self.trained.items() if parameter.grad is None)
        return float(total) / micro_steps

    def rehearse(self, batches: Iterable[Any]) -> None:
        """As in Executor."""
        for batch in batches:
            self.loss_of(batch).backward()
        self.optimiser.zero_grad(set_to_none=True)

    def loss_of(self, batch: Any) -> torch.Tensor:
        """The loss of a batch by this worker's own copy, for observers."""
        return self._loss(self.module, batch)

    def update(self) -> None:
        """One step of the optimiser; gradients are cleared."""
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)

    def tensors(self, *, complete: bool = False) -> dict[str, torch.Tensor]:
        """What is trained, buffers and the optimiser's state; `build` makes what is frozen, the same every time."""
        if complete and not self.optimiser.state:
            allocate_state(self.optimiser)
        buffers = agreed_buffers([self.module], dist.group.WORLD if self.data_world > 1 else None)
        return {
            **in_checkpoint({**self.trained, **buffers}),
            **optimiser_tensors(self.optimiser, list(self.trained.values())),
        }

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take over what `tensors` gave."""
        given = of_model(tensors)
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(given[name])
        restore_buffers([self.module], given)
        restore_optimiser(self.optimiser, list(self.trained.values()), tensors)

    def whole_weights(self) -> dict[str, torch.Tensor]:
        """As in Executor."""
        return whole({**self.trained, **buffers_of([self.module])})

    def _exchanging(self, *, last: bool) -> AbstractContextManager[Any]:
        if last or not isinstance(self.replica, DistributedDataParallel):
            return nullcontext()
        return self.replica.no_sync()

    def _loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        if self.precision is None:
            return self.loss(model, to_device(batch, self.device))
        with torch.autocast(self.device.type, dtype=self.precision):
            return self.loss(model, to_device(batch, self.device))


def check_taught(untaught: Iterable[str]) -> None:
    """Refused where parameters got no gradient in a step, by name: not all workers would do the same with them."""
    names = list(untaught)
    if names:
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        raise Refused(
            f"{shown} got no gradient in this step; workers could not add up their gradients.",
            where="application.entry",
            hint="Set requires_grad to False for what the loss does not use, or have it use all in every step.",
        )


def whole(held: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Shards put together, by all workers that share them."""
    return {
        name: (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach()  # pyright: ignore
        for name, tensor in held.items()
    }


def in_checkpoint(held: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Parameters and buffers under the names that they have in a checkpoint."""
    return {f"{_MODEL}{name}": tensor.detach() for name, tensor in held.items()}


def of_model(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Of a checkpoint's tensors those of the model, under their names in it."""
    return {name.removeprefix(_MODEL): tensor for name, tensor in tensors.items() if name.startswith(_MODEL)}


def autocast_dtype(precision: str) -> torch.dtype | None:
    """The type that products are computed in; None for 32 bits.  Incompatible where PyTorch cannot train so."""
    if precision not in _DTYPES:
        raise Incompatible(
            f"PyTorch cannot train in {precision} here.",
            where="plan.compute.precision",
            hint=f"Choose one of {', '.join(_DTYPES)}.",
        )
    return _DTYPES[precision]


def _replicate(module: nn.Module, bucket_bytes: int, exchange: Exchange | None) -> DistributedDataParallel:
    replica = DistributedDataParallel(
        module,
        bucket_cap_mb=bucket_bytes / 2**20,
        gradient_as_bucket_view=True,
        forward_sync_buffers=False,  # the executor does, where observers see it and without those that never change
    )

    def hook(state, bucket):
        return state(bucket)

    replica.register_comm_hook(exchange or sum_bucket, hook)
    return replica


def sum_bucket(bucket: Any) -> torch.futures.Future[torch.Tensor]:
    """The bucket's sum over workers by the library's all-reduce."""
    return begin_sum(bucket.buffer()).then(lambda future: future.value()[0])


def begin_sum(buffer: torch.Tensor) -> torch.futures.Future[Any]:
    """Start the library's all-reduce of `buffer` in place; the future holds a list with the sum."""
    work: Any = dist.all_reduce(buffer, async_op=True)
    return work.get_future()


def recompute_parts(module: nn.Module, workload: Workload, how: str) -> None:
    """Have blocks, or only their attention cores, keep their inputs and run again in the backward pass.

    `how` is the plan's: none, selective (the cores) or full (the blocks).
    """
    if how == "selective" and not workload.attention_cores:
        raise Refused(
            f"{workload.name} does not say which of its modules are the attention cores.",
            where="plan.compute.recompute",
            hint="Give Workload.attention_cores, or choose none or full.",
        )
    parts: Mapping[str, tuple[str, ...]] = {"selective": workload.attention_cores, "full": workload.cut_points}
    for name in parts.get(how, ()):
        part = module.get_submodule(name)
        forward = part.forward
        part.forward = lambda *inputs, _forward=forward: recompute(_forward, *inputs, use_reentrant=False)


def to_device(batch: Any, device: torch.device) -> Any:
    """A batch of tensors on the device."""
    if device.type == "cpu":
        return batch
    if isinstance(batch, torch.Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return {key: to_device(value, device) for key, value in batch.items()}
    return type(batch)(to_device(value, device) for value in batch)
