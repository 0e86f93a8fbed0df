"""The gradient exchange of one bucket, timed at the call: when it was handed over, and when its sum was there.

A slow link is injected here, behind the real collective, so that its seconds are transfer and not waiting.  Which
algorithm moves the bytes is the library's decision.
"""

from __future__ import annotations

from typing import Any

import torch

from datahall.compute.execute import begin_sum
from datahall.real.injection import Injection, Throttle
from datahall.real.record import Recorder


class TimedExchange:
    """Sums a bucket over all workers; the phase "exchange" begins when the last bucket is handed over."""

    def __init__(self, recorder: Recorder, injection: Injection | None) -> None:
        self.recorder = recorder
        slow = injection is not None and injection.kind == "slow-link"
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

        return begin_sum(buffer).then(arrived)
