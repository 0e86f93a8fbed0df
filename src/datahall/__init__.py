"""datahall plans, runs and proves large-model workloads on a data centre.

    case = datahall.load("case.yaml")                              # or datahall.quick("llama-3.1-8b", "8xA40")
    ranking = datahall.plan(case)                                  # every split that fits, best first
    result = datahall.explain(ranking)                             # the forecast of the best, with intervals
    result = datahall.forecast(case, ranking.plan())               # the forecast of any plan
    probed = datahall.probe(Path("probe"))                         # this machine, measured
    measured = datahall.run(case, ranking.plan(), Path("run"))     # train for real
    with datahall.meter("runs/mine", model) as meter: ...          # measure a loop of your own
    datahall.compare(result, meter.result, noise_share=0.03)       # forecast and measurement, component by component

Importing this loads neither NumPy nor PyTorch; a name's module is imported when the name is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datahall.case import from_model_and_site as quick
    from datahall.case import load
    from datahall.real.meter import Meter as meter
    from datahall.real.probe import probe
    from datahall.real.training import run
    from datahall.report.comparison import compare
    from datahall.search.rank import search as plan
    from datahall.search.why import explain
    from datahall.virtual.training import forecast

__version__ = "0.1.0"

__all__ = ["compare", "explain", "forecast", "load", "meter", "plan", "probe", "quick", "run"]

_HOMES = {
    "compare": ("datahall.report.comparison", "compare"),
    "explain": ("datahall.search.why", "explain"),
    "forecast": ("datahall.virtual.training", "forecast"),
    "load": ("datahall.case", "load"),
    "meter": ("datahall.real.meter", "Meter"),
    "plan": ("datahall.search.rank", "search"),
    "probe": ("datahall.real.probe", "probe"),
    "quick": ("datahall.case", "from_model_and_site"),
    "run": ("datahall.real.training", "run"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(importlib.import_module(module), attribute)
