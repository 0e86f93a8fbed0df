"""A site from a name ("dgx-h100", "16xdgx-h100") or from a count ("8xA40", "16x8xH100-SXM"), as plain numbers.

What nobody stated (links between nodes, disk, failures) gets a usual value that is labelled `assumed` and explained.
Nothing is measured here.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from types import MappingProxyType

from datahall.base.errors import UnknownName, UsageError
from datahall.base.label import Label
from datahall.base.units import human
from datahall.case.site import Accelerator, Disk, Link, Site
from datahall.catalog import accelerators, disks, links, rates, sites
from datahall.catalog.accelerators import AcceleratorEntry
from datahall.catalog.links import LinkEntry

_DESCRIBE = (
    "Hardware that it does not have can be described, as `site:` of a case or in a file for --site: `accelerator:"
    " {name: ..., memory: ..., memory_bandwidth: ..., peak: {bf16: ...}}` with its links and disk (docs/case.md)."
)
_COUNTED = re.compile(r"\s*(?P<first>\d+)\s*[x×*]\s*(?:(?P<second>\d+)\s*[x×*]\s*)?(?P<name>.+?)\s*", re.IGNORECASE)


def site_from_text(text: str) -> tuple[Site, Mapping[str, str]]:
    """The site that `text` names, and why each value that it does not state was chosen, by field path.

    `text` is a catalogue site, `<count>x<site>`, `<devices>x<accelerator>` or `<nodes>x<devices>x<accelerator>`.
    Raises UnknownName for a name that the catalogue lacks, UsageError for a count that makes no sense.
    """
    match = _COUNTED.fullmatch(text)
    if match is None:
        return _named_or_single(text)
    first, second, name = int(match["first"]), match["second"], match["name"]
    if first < 1 or (second is not None and int(second) < 1):
        raise UsageError(f'site "{text}" counts to zero.', hint='Write it like "8xA40" or "16x8xH100-SXM".')
    if second is None and _is_site(name):
        return named_site(name, nodes=first * sites.site(name).nodes)
    if second is None:
        nodes, devices = _nodes_of(first, _known(name))
        return counted_site(nodes, devices, name)
    return counted_site(first, int(second), name)


def is_counted(text: str) -> bool:
    """Whether `text` says how many, as in "8xA40"."""
    return _COUNTED.fullmatch(text) is not None


def is_file(text: str) -> bool:
    """Whether `text` is the path of a site's file, which `site_file` reads, and no name."""
    return text.strip().endswith((".yaml", ".yml"))


def named_site(name: str, nodes: int | None = None) -> tuple[Site, Mapping[str, str]]:
    """The catalogue's site `name` with `nodes` nodes (None: as many as the catalogue says)."""
    entry = sites.site(name)
    card = accelerators.accelerator(entry.accelerator)
    count = entry.nodes if nodes is None else nodes
    if count < 1:
        raise UsageError(f'site "{entry.name}" is asked for with {count} nodes.', hint="Ask for one or more.")
    scale_up, scale_out = links.link(entry.scale_up_link), links.link(entry.scale_out_link)
    site = Site(
        name=_times(entry.name, count, entry.nodes),
        accelerator=accelerator_of(card),
        nodes=count,
        devices_per_node=entry.devices_per_node,
        scale_up_domain=_domain(entry.scale_up_devices, count, entry.devices_per_node),
        scale_up=plain_link(scale_up),
        scale_out=Link(
            scale_out.bytes_per_s * entry.node_scale_out_links / entry.devices_per_node, scale_out.latency_s
        ),
        disk=disk_of(entry.disk),
        topology=entry.topology,
        oversubscription=entry.oversubscription,
        pod_devices=entry.pod_devices,
        host_cores=entry.host_cores,
        host_memory_bytes=entry.host_memory_bytes,
        pue=entry.pue,
        failures_per_device_s=float(rates.rate("default").value),
        provenance=MappingProxyType(
            {"failures_per_device_s": Label.ASSUMED, "pue": Label.ASSUMED, "disk": Label.ASSUMED}
        ),
    )
    return site, MappingProxyType({**_failure_default(), "site.disk": f"{entry.disk}, usual for {entry.name}"})


def counted_site(nodes: int, devices_per_node: int, name: str) -> tuple[Site, Mapping[str, str]]:
    """`nodes` nodes with `devices_per_node` accelerators `name` each, and usual links and disks for such a node."""
    card = _known(name)
    scale_up, scale_out = links.link(card.scale_up_link), links.link(card.scale_out_link)
    ports = _usual_ports(card, devices_per_node)
    disk_name = _usual_disk(card, nodes)
    assumed = ("scale_up", "scale_out", "disk", "topology", "pue", "failures_per_device_s")
    site = Site(
        name=_counted_name(nodes, devices_per_node, card.name),
        accelerator=accelerator_of(card),
        nodes=nodes,
        devices_per_node=devices_per_node,
        scale_up_domain=_domain(card.scale_up_devices, nodes, devices_per_node),
        scale_up=plain_link(scale_up),
        scale_out=Link(scale_out.bytes_per_s * ports / devices_per_node, scale_out.latency_s),
        disk=disk_of(disk_name),
        topology="torus" if card.kind == "tpu" else "rail" if ports >= devices_per_node > 1 else "switch",
        pue=float(rates.rate("pue-average").value),
        failures_per_device_s=float(rates.rate("default").value),
        provenance=MappingProxyType(dict.fromkeys(assumed, Label.ASSUMED)),
    )
    inside, rate = (human(link.bytes_per_s, "bytes_per_s") for link in (site.scale_up, site.scale_out))
    why = {
        "site.scale_up": f"{scale_up.name} ({inside} a direction), usual for {card.name}",
        "site.scale_out": f"{ports} port(s) of {scale_out.name} in each node, {rate} a device, usual for {card.name}",
        "site.disk": f"{disk_name}, usual for such nodes",
        "site.pue": "the average of data centres",
    }
    if nodes == 1:
        why["site.scale_out"] += "; not used by one node"
    return site, MappingProxyType({**why, **_failure_default()})


def ports_of(text: str, devices_per_node: int) -> int:
    """Ports between nodes of a node of so many devices, on the site or usual for the accelerator that `text` names."""
    match = _COUNTED.fullmatch(text)
    name = match["name"] if match else text
    if not _is_site(name):
        return _usual_ports(accelerators.accelerator(name), devices_per_node)
    entry = sites.site(name)
    return max(1, round(entry.node_scale_out_links * devices_per_node / entry.devices_per_node))


def recounted(site: Site, nodes: int | None, devices_per_node: int | None) -> tuple[Site, Mapping[str, str]] | None:
    """The site of as many nodes or devices, if `site` is one that `counted_site` made; else None."""
    if not _is_counted(site):
        return None
    return counted_site(nodes or site.nodes, devices_per_node or site.devices_per_node, site.accelerator.name)


def accelerator_of(entry: AcceleratorEntry) -> Accelerator:
    """A catalogue entry as the plain numbers that plans use; an unknown power or price is 0."""
    return Accelerator(
        name=entry.name,
        kind=entry.kind,
        vendor=entry.vendor,
        memory_bytes=entry.memory_bytes,
        memory_bytes_per_s=entry.memory_bytes_per_s,
        peak_flops_per_s=entry.peak_flops_per_s,
        measured_flops_per_s=entry.measured_flops_per_s,
        power_w=entry.power_w or 0.0,
        price_usd_per_h=entry.price_mid_usd_per_h or 0.0,
        architecture=entry.architecture,
        all_in_power_w=entry.all_in_power_w or 0.0,
        price_low_usd_per_h=entry.price_low_usd_per_h or 0.0,
        price_high_usd_per_h=entry.price_high_usd_per_h or 0.0,
        price_basis=entry.price_basis,
    )


def plain_link(entry: LinkEntry) -> Link:
    """A catalogue entry as the plain numbers that plans use."""
    return Link(entry.bytes_per_s, entry.latency_s, entry.torus_dims, entry.wraps_from)


def disk_of(name: str) -> Disk:
    """The catalogue's disk `name` as plain numbers."""
    entry = disks.disk(name)
    return Disk(
        entry.write_bytes_per_s, entry.read_bytes_per_s, entry.latency_s, entry.capacity_bytes, entry.scope == "site"
    )


def with_nodes(site: Site, nodes: int) -> Site:
    """The same site with another number of nodes; its name says so."""
    domain = _domain(site.scale_up_domain, nodes, site.devices_per_node)
    return dataclasses.replace(site, nodes=nodes, scale_up_domain=domain, name=_name_with_nodes(site, nodes))


def _name_with_nodes(site: Site, nodes: int) -> str:
    if _is_counted(site):
        return _counted_name(nodes, site.devices_per_node, site.accelerator.name)
    nested = is_counted(site.name) and nodes % site.nodes == 0 and nodes != site.nodes
    return _times(f"({site.name})" if nested else site.name, nodes, site.nodes)


def _is_counted(site: Site) -> bool:
    """Whether the site has the name that its counts make, as that of `counted_site` has."""
    return site.name == _counted_name(site.nodes, site.devices_per_node, site.accelerator.name)


def _counted_name(nodes: int, devices_per_node: int, card: str) -> str:
    return f"{nodes}x{devices_per_node}x{card}" if nodes > 1 else f"{devices_per_node}x{card}"


def _times(name: str, nodes: int, own: int) -> str:
    """How a site of so many nodes is called, `own` being those of the named one."""
    if nodes % own:
        return f"{nodes} node{'s' if nodes > 1 else ''} of {name}"
    return name if nodes == own else f"{nodes // own}x{name}"


def _named_or_single(text: str) -> tuple[Site, Mapping[str, str]]:
    if _is_site(text):
        return named_site(text)
    try:
        return counted_site(1, 1, _known(text).name)
    except UnknownName as error:
        raise UnknownName(
            f'"{text}" is neither a site nor an accelerator that the catalogue has.', hint=error.hint
        ) from error


def _known(name: str) -> AcceleratorEntry:
    """The catalogue's accelerator; UnknownName says how to describe one that it does not have."""
    try:
        return accelerators.accelerator(name)
    except UnknownName as error:
        raise UnknownName(error.what, hint=f"{error.hint} {_DESCRIBE}") from error


def _is_site(name: str) -> bool:
    try:
        sites.site(name)
    except UnknownName:
        return False
    return True


def _nodes_of(devices: int, card: AcceleratorEntry) -> tuple[int, int]:
    if devices <= card.node_devices:
        return 1, devices
    if devices % card.node_devices:
        raise UsageError(
            f'site "{devices}x{card.name}" does not fill nodes of {card.node_devices}.',
            hint=f'Say how they are spread, nodes x devices: "1x{devices}x{card.name}" if all stand in one node.',
        )
    return devices // card.node_devices, card.node_devices


def _domain(largest: int, nodes: int, devices_per_node: int) -> int:
    return max(1, min(largest, nodes * devices_per_node))


def _usual_ports(card: AcceleratorEntry, devices_per_node: int) -> int:
    return max(1, round(card.node_scale_out_links * devices_per_node / card.node_devices))


def _usual_disk(card: AcceleratorEntry, nodes: int) -> str:
    if card.kind == "tpu":
        return "gcs"
    if card.node_scale_out_links >= 4:
        return "nvme-raid8"
    return "nvme" if nodes == 1 else "nfs-25gbe"


def _failure_default() -> dict[str, str]:
    return {"site.failures_per_device_s": "as often as Llama 3's H100s: 419 interruptions in 54 days on 16,384"}
