"""Where a published run ran: its accelerator by the names that people write, the precision, and its links.

No model and no plan here.  What cannot be read is refused, never guessed.
"""

from __future__ import annotations

import re

from datahall.base.errors import Incompatible, UnknownName
from datahall.catalog import links
from datahall.catalog.accelerators import PRECISIONS, AcceleratorEntry
from datahall.virtual.links import LinkRates

# what is written for a precision; where two are named (bf16 and fp8), products run in the narrow one
_PRECISIONS = (
    (r"(?:nv|mx)?fp4|float4", "fp4"),
    (r"(?:mx|h)?fp8|float8|e4m3|e5m2", "fp8"),
    (r"bf16|bfloat16", "bf16"),
    (r"fp16|float16|half", "fp16"),
    (r"tf32", "tf32"),
    (r"fp32|float32", "fp32"),
    (r"^mixed|^amp|^$", "bf16"),
)
_INSIDE_NODES = re.compile(r"nvlink|nvl\d|nvswitch|xgmi|infinity fabric|\bici\b", re.IGNORECASE)


def precision_of(text: str, card: AcceleratorEntry) -> str:
    """The catalogue's name for the precision that `text` states (bf16 where blank).

    Incompatible if the card lacks it, UnknownName if nobody has it.
    """
    low = text.strip().lower()
    known = next((name for pattern, name in _PRECISIONS if re.search(pattern, low)), low)
    peaks = card.peak_flops_per_s
    if known in peaks:
        return known
    if known in {"bf16", "fp16"} and ("bf16" in peaks or "fp16" in peaks):
        return "bf16" if "bf16" in peaks else "fp16"
    lacking = Incompatible if known in PRECISIONS else UnknownName
    raise lacking(f"{card.name} has no {known}.")


def link_figures(card: AcceleratorEntry, text: str, devices: int, per_node: int) -> LinkRates:
    """Line rates from what a row says of its interconnect, the accelerator's usual ones where it says nothing."""
    up, out = links.link(card.scale_up_link), links.link(card.scale_out_link)
    node = per_node or card.node_devices
    out_rate = out.bytes_per_s * max(1, card.node_scale_out_links) / card.node_devices
    domain = card.scale_up_devices
    if card.kind == "gpu" and node < domain:
        domain = max(node, 1) if card.scale_up_devices <= 8 else domain
    rack = card.node_devices < card.scale_up_devices == per_node  # its devices are stated, its ways out by trays
    stated = _stated_bits_per_s(text, card.node_devices if rack else node)
    if stated:
        out_rate = stated / 8
    slices = re.search(r"slice of (\d+)", text)
    if slices:
        domain = int(slices[1])
    return LinkRates(
        up.bytes_per_s,
        up.latency_s,
        max(1, min(domain, devices)),
        out_rate,
        out.latency_s,
        torus_dims=up.torus_dims,
        wraps_from=up.wraps_from,
    )


def network_stated(card: AcceleratorEntry, text: str) -> bool:
    """Whether a row says how fast its network is; that of a cloud's own chips goes with them."""
    return card.kind != "gpu" or _stated_bits_per_s(text, card.node_devices) > 0


def _stated_bits_per_s(text: str, node: int) -> float:
    """Bits per second and device that `text` states for the way out of a node; 0 where it does not."""
    several = re.search(r"(\d+)\s*x\s*(?:HDR|NDR|EDR|XDR)?[^\d]{0,20}(\d{2,3})\s*(?:Gb|IB)", text)
    if several:
        return int(several[1]) * int(several[2]) * 1e9 / node
    if re.search(r"8x HDR", text):
        return 200e9
    by_device = r"\s*(?:/|per\b)\s*(node|host|server|GPU|device|chip|accelerator)"
    for one in re.finditer(rf"(\d+(?:\.\d+)?)\s*([GgTt])([Bb])(?:ps|/s|it/s)?(?i:{by_device})", text):
        if one[3] == "B" and _INSIDE_NODES.search(re.split(r"[;,+]", text[: one.start()])[-1] + text[one.end() :][:12]):
            continue
        rate = float(one[1]) * (1e12 if one[2] in "Tt" else 1e9) * (8 if one[3] == "B" else 1)
        return rate / (node if one[4].lower() in {"node", "host", "server"} else 1)
    port = re.search(r"(\d+)\s*GbE\b", text, re.IGNORECASE)  # Ethernet is a port of the node
    return int(port[1]) * 1e9 / node if port else 0.0
