"""The exception tree and the exit codes.

    DatahallError
      UsageError          exit 2   the command line or a case is wrong; nothing was written
        CaseError                  a case file is wrong, with file and line
        UnknownName                a name that the catalogue does not have, with its neighbours
        Impossible                 what cannot be: a degree, a shape, a measurement
          Incompatible             a combination that does not exist (fp8 on an A100)
        Unstated                   an input that the answer needs and nobody gave
      NoPlan              exit 3   nothing meets the goal; lists what stood in the way
      Refused             exit 1   outside the validated range; the reason is the answer
      SealBroken          exit 1   a sealed forecast was changed after it was sealed
      WorldFailed         exit 1   a machine, a disk, a port or a worker failed

A forecast that missed by more than its tolerance is a result, no failure: the commands that compare end with 4.
Every message says where, what, why and what next.  This module only names failures; it never logs or exits.
"""

from __future__ import annotations

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NO_PLAN = 3
EXIT_OUTSIDE_TOLERANCE = 4
EXIT_INTERRUPTED = 130


class DatahallError(Exception):
    """Any failure that datahall foresees.

    `what` says what is wrong and why, `where` names the file and line or the part, `hint` says what to do next.
    """

    exit_code = EXIT_FAILED

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        hint = f" {self.hint}" if self.hint else ""
        return f"{place}{self.what}{hint}"


class UsageError(DatahallError):
    """The command line or an input file is wrong."""

    exit_code = EXIT_USAGE


class CaseError(UsageError):
    """A case file is wrong; `where` is `file:line`."""


class UnknownName(UsageError):
    """A name that the catalogue does not have."""


class Impossible(UsageError):
    """What no machine can have run: figures that contradict each other or physics."""


class Incompatible(Impossible):
    """A combination that the hardware or the framework does not have."""


class Unstated(UsageError):
    """An input is missing without which there is no answer."""


class NoPlan(DatahallError):
    """No plan meets the goal.  `reasons` maps each obstacle to the number of plans that it stopped."""

    exit_code = EXIT_NO_PLAN

    def __init__(self, what: str, *, reasons: dict[str, int] | None = None, where: str = "", hint: str = "") -> None:
        super().__init__(what, where=where, hint=hint)
        self.reasons = dict(reasons or {})


class Refused(DatahallError):
    """datahall does not answer, because the answer would rest on nothing that was validated."""


class SealBroken(DatahallError):
    """A sealed forecast does not match its hash."""


class WorldFailed(DatahallError):
    """A machine, disk, port or worker failed while a plan was carried out."""
