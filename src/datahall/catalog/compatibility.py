"""What works with what: accelerator x precision x framework, refused with the reason where it does not.

"Works" means arithmetic in that precision at the accelerator's own rate.  Storing weights in a smaller format and
computing in a larger one is another decision and not this table's.
"""

from __future__ import annotations

from functools import cache

from datahall.base.errors import Incompatible, UnknownName
from datahall.catalog import stack_names, tables
from datahall.catalog.accelerators import PRECISIONS, AcceleratorEntry, accelerator

FRAMEWORKS = ("pytorch", "jax", "tensorflow")
_INT8_TRAINERS = ("jax",)  # AQT and Qwix, which MaxText trains with; torchao's int8 training is a prototype
UNASKED = ("bf16", "fp16", "fp32")  # precisions that training takes unless it is told, the best first


def framework_of(stack: str, kind: str) -> str:
    """The framework of a software stack by its name; where none is named, JAX on a "tpu", else PyTorch."""
    if named := stack_names.framework_in(stack):
        return named
    return "jax" if kind == "tpu" and not stack else "pytorch"


def check(accelerator_name: str, precision: str, framework: str = "pytorch") -> None:
    """Return if `accelerator_name` computes in `precision` under `framework`.

    Raises Incompatible with the reason and what to use instead if it does not, UnknownName for a name (or an
    accelerator, precision or framework) that the catalogue lacks.
    """
    if precision not in PRECISIONS:
        raise UnknownName(f'"{precision}" is not a precision.', hint=f"Use one of {', '.join(PRECISIONS)}.")
    if framework not in FRAMEWORKS:
        raise UnknownName(
            f'"{framework}" is not a framework of the table.', hint=f"Use one of {', '.join(FRAMEWORKS)}."
        )
    entry = accelerator(accelerator_name)
    row = _table()[entry.architecture, precision]
    if row[framework] == "yes" and precision in entry.peak_flops_per_s:
        return
    reason = row["reason"] or f"the catalogue has no {precision} peak for it"
    usable = ", ".join(precisions(accelerator_name, framework)) or f"nothing under {framework}"
    raise Incompatible(
        f"{entry.name} does not compute in {precision} with {framework}: {reason}.", hint=f"It has {usable}."
    )


def check_trained(precision: str, framework: str) -> None:
    """Return if trainers of `framework` train in `precision` where the accelerator computes in it; else Incompatible.

    Products in int8 are what inference has them for: gradients do not survive it without work of their own.
    """
    if precision == "int8" and framework not in _INT8_TRAINERS:
        raise Incompatible(
            f"nothing that is forecast here trains in int8 with {framework}: int8 is for inference.",
            hint="Write bf16, or fp8 where the accelerator has it; JAX trains in int8 (AQT): `site.stack: MaxText`.",
        )


def works(accelerator_name: str, precision: str, framework: str = "pytorch") -> bool:
    """Whether `check` would pass; an unknown name is still an error."""
    try:
        check(accelerator_name, precision, framework)
    except Incompatible:
        return False
    return True


def precisions(accelerator_name: str, framework: str = "pytorch") -> tuple[str, ...]:
    """The precisions that work on an accelerator under a framework, in the catalogue's order."""
    entry: AcceleratorEntry = accelerator(accelerator_name)
    table = _table()
    return tuple(
        p for p in PRECISIONS if p in entry.peak_flops_per_s and table[entry.architecture, p][framework] == "yes"
    )


@cache
def _table() -> dict[tuple[str, str], tables.RowText]:
    return {(row["architecture"], row["precision"]): row for row in tables.rows("compatibility")}
