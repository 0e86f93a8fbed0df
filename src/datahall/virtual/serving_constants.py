"""The constants of the forecast of inference, and the shipped ones with how far a forecast from them may be off.

`calibrate.inference_fit` fits them to published figures; here they are only read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from datahall.catalog.calibrations import calibration

NAME = "inference"


@dataclass(frozen=True, slots=True)
class ServingConstants:
    """What the data sheets do not say of devices that serve."""

    product_share: float  # of the dense peak, that large products reach
    memory_share: float  # of the data sheet's rate, that reading weights and cache reaches
    layer_s: float  # of a layer, however little it does
    reduce_s: float  # of an all-reduce, however small, with what waits for it


@dataclass(frozen=True, slots=True)
class ServingCalibration:
    """Constants, what they were fitted to, and factors within which nine of ten figures lie that were left out.

    `factor` is that of one figure over its forecast, `ratio_factor` that of two accelerators' ratio at the same load.
    """

    constants: ServingConstants
    factor: float
    ratio_factor: float
    accelerators: Sequence[str]


@cache
def shipped() -> ServingCalibration:
    """The calibration that ships with datahall."""
    data = calibration(NAME)
    factors = data["interval_factors"]
    constants = ServingConstants(**data["constants"])
    return ServingCalibration(constants, factors["figure"], factors["ratio"], tuple(data["validity"]["accelerators"]))
