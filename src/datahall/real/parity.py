"""Are several workers one process? The same case in fp32, on the same global batches, and how far results lie apart.

Sums in another order differ in the last bits, and Adam divides by small numbers, so the tolerance is not zero.  It is
a tolerance for fp32 and some dozens of steps; after thousands of steps training runs drift apart and parity means less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from datahall.base.event import OnEvent
from datahall.case.question import Case
from datahall.decisions.plan import Plan
from datahall.real.training import Measurement, run

STEPS = 20
LOSS_TOLERANCE_SHARE = 1e-4
WEIGHT_TOLERANCE_SHARE = 1e-3  # root mean square difference over root mean square weight


@dataclass(frozen=True, slots=True)
class Parity:
    """How far two runs lie apart: the largest relative loss difference of a step, and the weights at the end.

    `weights_share` is the root mean square difference over the root mean square weight; `weights_max` the largest
    absolute difference of one weight.
    """

    steps: int
    workers: int
    loss_share: float
    weights_share: float
    weights_max: float
    same_samples: bool

    @property
    def holds(self) -> bool:
        """Within the stated tolerances, and on the same samples."""
        return (
            self.same_samples
            and self.loss_share <= LOSS_TOLERANCE_SHARE
            and self.weights_share <= WEIGHT_TOLERANCE_SHARE
        )

    def to_json(self) -> dict[str, Any]:
        """Parity and its tolerances as plain JSON values."""
        return {
            "steps": self.steps,
            "workers": self.workers,
            "loss_share": self.loss_share,
            "loss_tolerance_share": LOSS_TOLERANCE_SHARE,
            "weights_share": self.weights_share,
            "weights_tolerance_share": WEIGHT_TOLERANCE_SHARE,
            "weights_max": self.weights_max,
            "same_samples": self.same_samples,
            "holds": self.holds,
        }


def compare(
    case: Case,
    plan: Plan,
    folder: Path,
    *,
    steps: int = STEPS,
    on_event: OnEvent | None = None,
    import_paths: Sequence[str] = (),
) -> Parity:
    """Run `plan` in fp32 and one process on the same global batches; both runs stay under `folder`."""
    told: dict[str, Any] = {
        "steps": steps,
        "on_event": on_event,
        "import_paths": import_paths,
        "keep_weights": True,
        "count_flops": False,
    }
    plan = replace(
        plan, compute=replace(plan.compute, precision="fp32"), storage=replace(plan.storage, interval_steps=0)
    )
    many = run(case, plan, folder / "workers", **told)
    one = run(case, alone(plan), folder / "alone", **told)
    return between(many, one)


def alone(plan: Plan) -> Plan:
    """The plan for one process with the same global batch and micro-batch."""
    compute = plan.compute
    accumulation = compute.global_batch // compute.micro_batch
    single = replace(
        compute, data=1, tensor=1, pipeline=1, context=1, expert=1, zero_stage=0, accumulation=accumulation
    )
    return replace(plan, compute=single)


def between(first: Measurement, second: Measurement) -> Parity:
    """How far two finished runs lie apart; both must have kept their weights."""
    losses = zip(first.losses, second.losses, strict=True)
    loss_share = max(abs(one - other) / abs(other) for one, other in losses)
    weights = load_file(first.folder / "weights.safetensors")
    others = load_file(second.folder / "weights.safetensors")
    squares = sum(float(((weights[name] - others[name]) ** 2).sum()) for name in others)
    whole = sum(float((others[name] ** 2).sum()) for name in others)
    return Parity(
        steps=len(first.losses),
        workers=len(first.steps[0].workers),
        loss_share=loss_share,
        weights_share=(squares / whole) ** 0.5,
        weights_max=max(float((weights[name] - others[name]).abs().max()) for name in others),
        same_samples={step: sorted(ids) for step, ids in first.samples.items()}
        == {step: sorted(ids) for step, ids in second.samples.items()},
    )
