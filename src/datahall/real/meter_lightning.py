"""The meter as a callback of Lightning: `Trainer(callbacks=[MeterCallback("runs/mine")])`.

Reading, computing and the optimiser are told apart by hooks; automatic and manual optimisation alike.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback  # pyright: ignore[reportMissingImports]

from datahall.base.result import Result
from datahall.real.meter import Meter


class MeterCallback(Callback):
    """Measures a Lightning run; `result` is there when training has ended."""

    def __init__(self, folder: str | Path, *, tokens_per_step: int = 0) -> None:
        super().__init__()
        self.folder = folder
        self.tokens_per_step = tokens_per_step
        self.meter: Meter | None = None

    @property
    def result(self) -> Result | None:
        """What was measured, or None before the end."""
        return self.meter.result if self.meter else None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin to measure the module (or what the strategy wrapped it in)."""
        model = trainer.strategy.model or pl_module
        self.meter = Meter(self.folder, model, tokens_per_step=self.tokens_per_step).start()
        self.meter.told_of_updates = True

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """A batch was read; the module's training_step begins."""
        if self.meter is not None:
            self.meter.read(batch)
            self.meter.phase("forward")

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Gradients are there: Lightning computes them inside of the optimiser's step."""
        if self.meter is not None:
            self.meter.phase("optimiser")

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Read the logs."""
        if self.meter is not None:
            self.meter.stop()
