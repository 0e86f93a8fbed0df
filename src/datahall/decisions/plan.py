"""One decision as an ordinary value: how a case uses its site along the axes.

A plan carries the hash of its case and is refused with another.  It neither estimates nor does anything.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from datahall.base.errors import UsageError
from datahall.case.question import Case
from datahall.compute.plan import ComputePlan
from datahall.network.plan import NetworkPlan
from datahall.storage.plan import StoragePlan

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class Plan:
    """What is decided, for one case."""

    compute: ComputePlan
    storage: StoragePlan
    network: NetworkPlan
    case_hash: str

    def to_json(self) -> dict[str, Any]:
        """The plan as plain JSON values."""
        return {"format_version": FORMAT_VERSION, **asdict(self)}

    def dumps(self) -> str:
        """The plan as indented JSON text."""
        return json.dumps(self.to_json(), indent=2) + "\n"

    def check_belongs_to(self, case: Case) -> None:
        """Raise UsageError unless this plan was made for `case`."""
        if self.case_hash != case.hash():
            raise UsageError(
                f"this plan was made for another case (hash {self.case_hash[:12]}, this case's {case.hash()[:12]}).",
                hint="Plan the case again, or pass the case that the plan was made for.",
            )


def plan_from_json(data: dict[str, Any]) -> Plan:
    """The plan that `Plan.to_json` wrote; UsageError on another format or an unknown field."""
    if data.get("format_version") != FORMAT_VERSION:
        raise UsageError(
            f"this plan has format_version {data.get('format_version')!r}, not {FORMAT_VERSION}.",
            hint="Plan the case again.",
        )
    try:
        return Plan(
            ComputePlan(**data["compute"]),
            StoragePlan(**data["storage"]),
            NetworkPlan(**data["network"]),
            data["case_hash"],
        )
    except (KeyError, TypeError) as error:
        raise UsageError(f"this is not a plan: {error}.", hint="Pass a plan.json that datahall wrote.") from error
