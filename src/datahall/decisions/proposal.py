"""What `datahall plan` proposes: the case, the plan chosen for it and its forecast, in one file.

Exports and log comparisons read it, so that nobody has to name the case again.  It is no seal: a proof seals its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datahall.base.errors import UsageError
from datahall.base.result import Result, result_from_json
from datahall.base.whole_file import write_text
from datahall.case.question import Case
from datahall.case.saved import case_from_json
from datahall.compute.possible import check_possible
from datahall.decisions.plan import Plan, plan_from_json

FORMAT_VERSION = 1
KIND = "datahall-proposal"


@dataclass(frozen=True, slots=True)
class Proposal:
    """A case, one plan for it and the forecast of that plan."""

    case: Case
    plan: Plan
    forecast: Result

    def to_json(self) -> dict[str, Any]:
        """The proposal as plain JSON values."""
        return {
            "format_version": FORMAT_VERSION,
            "kind": KIND,
            "case": self.case.to_json(),
            "plan": self.plan.to_json(),
            "forecast": self.forecast.to_json(),
        }

    def save(self, path: Path) -> None:
        """Write the proposal to `path` in one move, so that a half-written file never bears its name."""
        text = json.dumps(self.to_json(), indent=2) + "\n"
        write_text(path, text)


def load_proposal(path: Path) -> Proposal:
    """The proposal at `path`; UsageError unless it is one and its plan was made for its case and can exist."""
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError(f"this is not a readable plan file: {reason}.", where=str(path), hint=_HINT) from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UsageError(f"this is not a readable plan file: {error}.", where=str(path), hint=_HINT) from error
    if not isinstance(data, Mapping) or data.get("kind") != KIND:  # pyright: ignore[reportUnknownMemberType]
        raise UsageError("this is not a plan file.", where=str(path), hint=_HINT)
    return proposal_from_json(data, where=str(path))  # pyright: ignore[reportUnknownArgumentType]


def proposal_from_json(data: Mapping[str, Any], where: str = "") -> Proposal:
    """The proposal that `Proposal.to_json` wrote; UsageError on another format, a plan of another case or of none."""
    if data.get("format_version") != FORMAT_VERSION:
        raise UsageError(
            f"this plan file has format_version {data.get('format_version')!r}, not {FORMAT_VERSION}.",
            where=where,
            hint=_HINT,
        )
    try:
        proposal = Proposal(
            case_from_json(data["case"]), plan_from_json(data["plan"]), result_from_json(data["forecast"])
        )
    except KeyError as error:
        raise UsageError(f"this plan file lacks {error}.", where=where, hint=_HINT) from error
    except (TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"this plan file was changed: {error}.", where=where, hint=_HINT) from error
    case = proposal.case
    proposal.plan.check_belongs_to(case)
    if not case.application.entry:  # a model of the user's own has another shape than the case
        check_possible(proposal.plan.compute, case.model, case.application.sequence, case.application.global_batch)
    return proposal


_HINT = "Write one with `datahall plan ... --out plan.json`."
