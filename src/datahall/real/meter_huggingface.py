"""The meter as a callback of Hugging Face's Trainer: `Trainer(..., callbacks=[MeterCallback("runs/mine")])`.

Reading, computing and the optimiser are told apart by hooks; the loss is the one that the Trainer logs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainerCallback  # pyright: ignore[reportMissingImports]

from datahall.base.result import Result
from datahall.real.meter import Meter


class MeterCallback(TrainerCallback):
    """Measures a Trainer's run; `result` is there when training has ended."""

    def __init__(self, folder: str | Path, *, tokens_per_step: int = 0) -> None:
        self.folder = folder
        self.tokens_per_step = tokens_per_step
        self.meter: Meter | None = None

    @property
    def result(self) -> Result | None:
        """What was measured, or None before the end."""
        return self.meter.result if self.meter else None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin to measure the Trainer's model."""
        self.meter = Meter(self.folder, kwargs["model"], tokens_per_step=self.tokens_per_step).start()
        self.meter.samples_per_step = state.train_batch_size * args.gradient_accumulation_steps

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Read the logs."""
        if self.meter is not None:
            self.meter.stop()
