"""How much a proof does: numbers of rounds, steps and configurations, fixed before anything is measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Effort:
    """The size of a proof.

    `timed_s` is how long each timed run should step, by its own forecast, within `least_steps` and `most_steps`;
    `doses` are multiples of the forecast step (of the checkpoint for a disk) that the blind trials add.
    """

    quick_probe: bool
    rounds: int
    timed_s: float
    least_steps: int
    most_steps: int
    parity_steps: int
    fitted: int
    held_out: int
    doses: tuple[float, ...]
    controls: int

    @property
    def reading_s(self) -> float:
        """Seconds of one reading of the machine's pace: a twelfth of the run beside it."""
        return self.timed_s / 12.0

    def steps(self, step_s: float) -> int:
        """Steps of a timed run whose step is forecast to take `step_s`."""
        return int(min(self.most_steps, max(self.least_steps, self.timed_s / max(step_s, 1e-6))))


DEMO = Effort(True, 2, 4.0, 10, 40, 20, 6, 6, (), 0)
FULL = Effort(False, 2, 4.0, 12, 50, 20, 20, 24, (0.3, 0.7, 1.5), 2)
