"""A torus of devices: what a group of its ranks reaches of a device's links, hops around it, and a crowded all-to-all.

Axes are taken as equally long and groups as whole axes, as compilers lay meshes out; twisted tori and the shape of a
single slice are left out.  `dims` 0 means that the devices are not a torus: nothing changes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from datahall.base.formula import formula


@formula(
    equation="b = B a/d w with a = min(d, log2 N) ln n / ln N, at least 1; w = 1 where axes close to rings, else 1/2",
    source="Jouppi et al. 2023, TPU v4 (arXiv 2304.01433), section 2; Sack and Gropp 2015, Collective algorithms for "
    "multiported torus networks, ACM TOPC 1(2)",
    holds="n of N devices on whole axes of equal sides; gather, scatter and sum, along all axes at once, both ways",
)
def reached_bytes_per_s(all_links_bytes_per_s: Any, ranks: Any, devices: Any, dims: Any, wraps_from: Any) -> Any:
    """What a rank of a group of `ranks` sends in one direction; `wraps_from` is the side from which axes are rings."""
    at = np.maximum(dims, 1.0)
    open_ended = np.where(_wraps(ranks, devices, dims, wraps_from), 1.0, 0.5)
    return np.where(
        _is_torus(dims, ranks),
        all_links_bytes_per_s * _axes(ranks, devices, dims) / at * open_ended,
        all_links_bytes_per_s,
    )


@formula(
    equation="h = a s/2 with s = n^(1/a), axes that close to rings; a (s-1) otherwise",
    source="Sack and Gropp 2015, Collective algorithms for multiported torus networks, ACM TOPC 1(2)",
    holds="as the rate; a switch or a single ring takes n - 1",
)
def hops(ranks: Any, devices: Any, dims: Any, wraps_from: Any) -> Any:
    """Messages in a row until the last rank of a group has heard of every other."""
    axes = _axes(ranks, devices, dims)
    side = _side(ranks, axes)
    around = np.where(_wraps(ranks, devices, dims, wraps_from), side / 2.0, side - 1.0)
    return np.where(_is_torus(dims, ranks), axes * around, ranks - 1.0)


@formula(
    equation="c = a s/4 n/(n-1), at least 1",
    source="Dally and Towles 2004, Principles and practices of interconnection networks, chapter 5 (channel load "
    "under uniform traffic)",
    holds="shortest paths, sides even; times of what a gather of as many bytes takes",
)
def crowding(ranks: Any, devices: Any, dims: Any) -> Any:
    """How many times as long an all-to-all keeps the links busy as if every rank were every other's neighbour."""
    axes = _axes(ranks, devices, dims)
    lengthened = axes * _side(ranks, axes) / 4.0 * ranks / np.maximum(ranks - 1.0, 1.0)
    return np.where(_is_torus(dims, ranks), np.maximum(1.0, lengthened), 1.0)


def _is_torus(dims: Any, ranks: Any) -> Any:
    return (np.asarray(dims) > 0) & (np.asarray(ranks) > 1)


def _axes(ranks: Any, devices: Any, dims: Any) -> Any:
    """Of the torus's axes, those that a group lies along; few devices fill fewer axes, each of at least two."""
    spread = np.log(np.maximum(ranks, 1.0)) / np.log(np.maximum(devices, 2.0))
    filled = np.maximum(np.minimum(dims, np.log2(np.maximum(devices, 2.0))), 1.0)
    return np.clip(filled * spread, 1.0, filled)


def _side(ranks: Any, axes: Any) -> Any:
    return np.power(np.maximum(ranks, 1.0), 1.0 / axes)


def _wraps(ranks: Any, devices: Any, dims: Any, wraps_from: Any) -> Any:
    """Whether a group's axes close to rings: those of the whole torus do, and the group has more than half of one."""
    whole = np.power(np.maximum(devices, 1.0), 1.0 / np.maximum(dims, 1.0))
    return (whole > np.asarray(wraps_from) - 1e-9) & (_side(ranks, _axes(ranks, devices, dims)) > whole / 2.0)
