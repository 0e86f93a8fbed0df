"""The gradient exchange of one bucket, timed at the call: when it was handed over, and when its sum was there.

Compressed when the plan says so; the bytes noted are then those of the bucket, the counter's those handed over.  A slow
link is injected here, behind the real collective, so that its seconds are transfer and not waiting.  Which
algorithm moves the bytes is the library's decision, unless the plan names one: then its sends are carried out here.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from datahall.base.errors import Incompatible
from datahall.compute.execute import begin_sum
from datahall.network.algorithms import LIBRARY, schedule
from datahall.network.compress import codec_of
from datahall.network.execute import TorchTransport, all_reduce
from datahall.network.execute_compress import Exchange
from datahall.network.plan import NetworkPlan
from datahall.real.injection import Injection, Throttle
from datahall.real.record import Recorder


class TimedExchange:
    """Sums a bucket over all workers; the phase "exchange" begins when the last bucket is handed over."""

    def __init__(self, recorder: Recorder, injection: Injection | None, plan: NetworkPlan | None = None) -> None:
        self.recorder = recorder
        slow = injection is not None and injection.kind == "slow-link"
        self.plan = plan or NetworkPlan()
        codec = codec_of(self.plan)
        if codec.name != "none" and self.plan.algorithm != LIBRARY:
            raise Incompatible(
                f"{codec.name} compression travels by the library's collectives, not by {self.plan.algorithm}.",
                where="plan.network",
                hint='Set algorithm to "library" or compression to "none".',
            )
        self.codec = Exchange(codec) if codec.name != "none" else None
        self.link = Throttle(injection.bytes_per_s, injection.latency_s) if injection is not None and slow else None

    def __call__(self, bucket: Any) -> torch.futures.Future[torch.Tensor]:
        """The future of the bucket's sum."""
        buffer = bucket.buffer()
        if bucket.is_last():
            self.recorder.mark("exchange")
        handed_s = self.recorder.now()
        count = buffer.numel() * buffer.element_size()

        def arrived(future: Any) -> torch.Tensor:
            if self.link is not None:
                self.link.send(count)
            self.recorder.transfer(count, handed_s, self.recorder.now())
            return future.value()[0]

        return self._begin(bucket).then(arrived)

    def _begin(self, bucket: Any) -> torch.futures.Future[Any]:
        """The future of a list with the bucket's sum, by the library's all-reduce or through the plan's codec."""
        codec = self.codec
        if codec is None:
            return begin_sum(bucket.buffer()) if self.plan.algorithm == LIBRARY else self._by_schedule(bucket.buffer())
        shapes = [tuple(parameter.shape) for parameter in bucket.parameters()]
        return codec.start(bucket.index(), bucket.buffer(), shapes).then(lambda mean: [mean.value() * codec.ranks])

    def _by_schedule(self, buffer: torch.Tensor) -> torch.futures.Future[Any]:
        """The sum by the plan's own algorithm, send by send; nothing else runs meanwhile."""
        if buffer.device.type != "cpu":
            raise Incompatible(
                "our all-reduce schedules are carried out on CPU only.",
                where="plan.network.algorithm",
                hint='Use "library".',
            )
        plan = schedule(self.plan.algorithm, dist.get_world_size())
        all_reduce(buffer.numpy(), dist.get_rank(), plan, TorchTransport())
        done: torch.futures.Future[Any] = torch.futures.Future()
        done.set_result([buffer])
        return done
