"""A site as a case states it: a name, a file, this machine, or accelerators, links and disk inline; and overrides.

Every number that the case states itself is labelled `catalogue` (the user's data sheet), never `measured`.  A link that
is faster than any of the catalogue is refused, because bits and bytes were then most likely mixed up.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from datahall.base import units
from datahall.base.errors import CaseError, DatahallError, UnknownName, UsageError
from datahall.base.label import Label
from datahall.case import local, site_file
from datahall.case.form_errors import check, shown
from datahall.case.lines import Document, Path_, dotted
from datahall.case.named_site import (
    accelerator_of,
    counted_site,
    disk_of,
    is_counted,
    is_file,
    named_site,
    plain_link,
    ports_of,
    recounted,
    site_from_text,
    with_nodes,
)
from datahall.case.schema import AcceleratorForm, DiskForm, LinkForm, SiteForm
from datahall.case.site import Accelerator, Disk, Link, Site
from datahall.catalog import accelerators, links

_AXES = ("torus_dims", "wraps_from")
SitePair = tuple[Site, Mapping[str, str]]


def site_of(data: Any, document: Document, folder: Path) -> SitePair:
    """The site that `data` (the case's `site`) states, and why what it leaves out was chosen.

    `folder` is where relative paths start.  Raises CaseError or UnknownName with the line.
    """
    if isinstance(data, str):
        return _word(data, document, folder)
    form = check(SiteForm, data, document, ("site",))
    _one_origin(form, document)
    if form.file or is_file(form.catalog):  # the latter is a word that a setting reached into
        return _file_site(folder / Path((form.file or form.catalog).strip()).expanduser(), form, document)
    if form.catalog:
        site, why = _at(document, ("site", "catalog"), lambda: _catalogue_site(form))
    else:
        site, why = _inline(form, document)
    return _override(site, why, form, document)


def site_in_file(path: Path) -> SitePair:
    """The site that `datahall probe` wrote to a file, or that somebody described there as under `site:` of a case.

    Raises CaseError or UnknownName with the file and its line.
    """
    return _file_site(path, SiteForm(), Document({"site": {}}, str(path)))


def _word(text: str, document: Document, folder: Path) -> SitePair:
    if text == "local":
        return local.local_site()
    if is_file(text):
        return site_in_file(folder / Path(text.strip()).expanduser())
    return _at(document, ("site",), lambda: site_from_text(text))


def _one_origin(form: SiteForm, document: Document) -> None:
    stated = [name for name in ("catalog", "file", "accelerator") if getattr(form, name)]
    if len(stated) != 1:
        which = " and ".join(stated) or "none"
        raise CaseError(
            f"site must have exactly one of catalog, file and accelerator; it has {which}.",
            where=document.where(("site",)),
            hint='Write "site: local", "site: {catalog: dgx-h100}" or "site: 8xA40" for a quick one.',
        )


def _file_site(path: Path, form: SiteForm, document: Document) -> SitePair:
    """The site of a file, under what a case states beside its name in `form`, read of `document`."""
    found = site_file.read(path)
    if not site_file.is_described(found):
        site = site_file.site_in(found)
        return _override(with_nodes(site, form.nodes) if form.nodes else site, {}, form, document)
    section = _section(found)
    described = section.data["site"]
    if isinstance(described, str):
        described = section.data["site"] = {"catalog": described}
    own = check(SiteForm, described, section, ("site",))
    if own.file or is_file(own.catalog):
        where = section.where(("site",))
        raise CaseError("a site's file cannot name another.", where=where, hint="Name that one instead.")
    for key in document.data["site"].keys() - {"file", "catalog"}:
        stated = [known for known in (*document.lines, *document.elsewhere) if known[:2] == ("site", key)]
        section.put(("site", key), document.data["site"][key], {known: document.where(known) for known in stated})
    return site_of(described, section, path.parent)


def _section(document: Document) -> Document:
    """A file that describes a site, read as a case with nothing else in it."""
    whole = next((key for key in ("model", "application") if key in document.data), "")
    if whole:
        raise CaseError(
            "this is a whole case, not a site.",
            where=document.where((whole,)),
            hint=f"Say `datahall plan {document.file}`, or give what stands under `site:` a file of its own.",
        )
    if set(document.data) == {"site"}:
        return document
    lines = {("site", *path): line for path, line in document.lines.items()}
    return Document({"site": document.data}, document.file, lines)


def _catalogue_site(form: SiteForm) -> SitePair:
    if form.catalog == "local":
        return local.local_site()
    site, why = site_from_text(form.catalog)
    if again := recounted(site, form.nodes, form.devices_per_node):
        return again
    if form.nodes is None:
        return site, why
    if is_counted(form.catalog):
        return with_nodes(site, form.nodes), why
    return named_site(form.catalog, nodes=form.nodes)


def _inline(form: SiteForm, document: Document) -> SitePair:
    nodes, devices = form.nodes or 1, form.devices_per_node or 1
    if isinstance(form.accelerator, str):
        name = form.accelerator
        return _at(document, ("site", "accelerator"), lambda: counted_site(nodes, devices, name))
    described = check(AcceleratorForm, form.accelerator, document, ("site", "accelerator"))
    _refuse_borrowed_name(described.name, document)
    needed = [key for key in ("link", "disk") if getattr(form, key) is None and (key == "disk" or nodes > 1)]
    needed += ["device_link"] if form.device_link is None and devices > 1 else []
    if needed:
        raise CaseError(
            f"site.{needed[0]} is missing: nothing is usual for an accelerator that the catalogue does not have.",
            where=document.where(("site",)),
            hint=f"Write `{needed[0]}:` with a catalogue name or figures of yours.",
        )
    idle = Link(1e9, 1e-5)  # never used: one device, or one node
    accelerator = _described(described)
    site = Site(
        form.name or f"{nodes}x{devices}x{accelerator.name}",
        accelerator,
        nodes,
        devices,
        devices,
        idle,
        idle,
        _any_disk(),
    )
    why = {"site.failures_per_device_s": "none stated: failures are left out"}
    return dataclasses.replace(site, provenance=MappingProxyType({"failures_per_device_s": Label.ASSUMED})), why


def _refuse_borrowed_name(name: str, document: Document) -> None:
    try:
        known = accelerators.accelerator(name).name
    except UnknownName:
        return
    raise CaseError(
        f'site.accelerator.name is "{name}", which the catalogue has with its own figures.',
        where=document.where(("site", "accelerator", "name")),
        hint=f"Write `accelerator: {known}` for those, or give yours another name.",
    )


def _described(form: AcceleratorForm) -> Accelerator:
    return Accelerator(
        name=form.name,
        kind=form.kind,
        vendor=form.vendor,
        memory_bytes=form.memory,
        memory_bytes_per_s=form.memory_bandwidth,
        peak_flops_per_s=_rates(form.peak),
        measured_flops_per_s=_rates(form.measured),
        power_w=form.power,
        price_usd_per_h=form.price_per_hour,
        price_low_usd_per_h=form.price_per_hour,
        price_high_usd_per_h=form.price_per_hour,
    )


def _rates(stated: Mapping[Any, float]) -> Mapping[str, float]:
    return MappingProxyType({str(precision): rate for precision, rate in stated.items()})


def _override(site: Site, why: Mapping[str, str], form: SiteForm, document: Document) -> SitePair:
    changed: dict[str, Any] = {}
    devices = form.devices_per_node or site.devices_per_node
    if devices != site.devices_per_node:
        joined = devices if site.scale_up_domain <= site.devices_per_node else devices * site.nodes
        changed |= {"devices_per_node": devices, "scale_up_domain": min(site.scale_up_domain, joined)}
        changed["name"] = f"{site.name} with {devices} device{'s' if devices > 1 else ''} a node"
    ports, assumed = _ports(form, site, why, devices, document)
    if ports is not None:
        changed["scale_out"] = ports
    if form.device_link is not None:
        inside = link_of(form.device_link, document, ("site", "device_link"), "inside")
        kept = {} if _is_name(form.device_link) else {name: getattr(site.scale_up, name) for name in _AXES}
        changed["scale_up"] = dataclasses.replace(inside, **kept)  # a measured rate makes no other network of a torus
    if form.device_link_reach is not None:
        changed["scale_up_domain"] = min(form.device_link_reach, devices * site.nodes)
    if form.disk is not None:
        changed["disk"] = _disk(form.disk, document)
    changed |= {name: value for name in ("name", "topology", "stack") if (value := getattr(form, name))}
    plain = ("oversubscription", "pod_devices", "host_cores", "pue")
    changed |= {name: value for name in plain if (value := getattr(form, name)) is not None}
    if form.host_memory is not None:
        changed["host_memory_bytes"] = form.host_memory
    changed |= _prices_and_failures(site, form)
    stated = {path: Label.CATALOGUE for path in changed if path in site.provenance or path != "name"}
    if form.link is None:
        stated.pop("scale_out", None)  # more or fewer ports do not make a usual link a stated one
    provenance = MappingProxyType({**site.provenance, **stated})
    left = {path: reason for path, reason in why.items() if path.removeprefix("site.") not in changed}
    return dataclasses.replace(site, **changed, provenance=provenance), MappingProxyType({**left, **assumed})


def _ports(
    form: SiteForm, site: Site, why: Mapping[str, str], devices: int, document: Document
) -> tuple[Link | None, Mapping[str, str]]:
    """The ports of a node as each of its devices sees them, where the form changes them, and what was assumed."""
    if form.link is None and form.links_per_node is None:
        return None, {}
    text = form.catalog or (form.accelerator if isinstance(form.accelerator, str) else "")
    own = 0 if not text or text == "local" or is_file(text) else ports_of(text, devices)
    count = form.links_per_node or own or 1
    if form.link is None:
        found = _other_ports(site, own, count, devices, document)
        assumed = _usual_with(count, found, why)
    else:
        port = link_of(form.link, document, ("site", "link"), "between")
        of = f"as {text} has" if own else "none stated"
        assumed = {} if form.links_per_node else {"site.links_per_node": f"{count} in each node, {of}"}
        found = Link(port.bytes_per_s * count / devices, port.latency_s)
    if form.links_per_node:
        _refuse_too_many(count, found, devices, document)
    return found, assumed


def _usual_with(count: int, found: Link, why: Mapping[str, str]) -> Mapping[str, str]:
    """The line that says which network is usual, where one was assumed, with so many ports in place of its own."""
    usual = why.get("site.scale_out")
    if usual is None:
        return {}
    rate = units.human(found.bytes_per_s, "bytes_per_s")
    return {"site.scale_out": f"{count} port(s) in each node, {rate} a device, in place of {usual}"}


def _refuse_too_many(count: int, found: Link, devices: int, document: Document) -> None:
    fastest = links.fastest_bytes_per_s("between")
    if found.bytes_per_s <= fastest:
        return
    many = f"each of {devices} devices" if devices > 1 else "its device"
    raise CaseError(
        f"site.links_per_node is {count}: {many} would have {units.human(found.bytes_per_s, 'bytes_per_s')} between"
        " nodes, more than any link in the catalogue carries.",
        where=document.where(("site", "links_per_node")),
        hint=f"It counts the ports of one node; a device has up to {units.human(fastest, 'bytes_per_s')}.",
    )


def _other_ports(site: Site, own: int, count: int, devices: int, document: Document) -> Link:
    """`count` ports of the link of which the site has `own` (0: not known, then CaseError)."""
    if not own:
        raise CaseError(
            "site.links_per_node is stated without site.link, and what one port of this site carries is not known.",
            where=document.where(("site", "links_per_node")),
            hint="Write `link: 100 Gb/s` beside it, what one port carries.",
        )
    port_bytes_per_s = site.scale_out.bytes_per_s * devices / own  # a node of fewer devices has fewer ports
    return dataclasses.replace(site.scale_out, bytes_per_s=port_bytes_per_s * count / devices)


def _prices_and_failures(site: Site, form: SiteForm) -> dict[str, Any]:
    changed: dict[str, Any] = {}
    if form.mtbf_per_device is not None:
        changed["failures_per_device_s"] = 1 / form.mtbf_per_device if form.mtbf_per_device else 0.0
    if form.price_per_device_hour is not None:
        price = form.price_per_device_hour
        changed["accelerator"] = dataclasses.replace(
            site.accelerator,
            price_usd_per_h=price,
            price_low_usd_per_h=price,
            price_high_usd_per_h=price,
            price_basis="",
        )
    return changed


def link_of(data: Any, document: Document, path: Path_, reach: str) -> Link:
    """The link that `data` states: a catalogue name, a rate such as "25 Gb/s", or a rate and a latency."""
    if isinstance(data, Mapping):
        form = check(LinkForm, dict(data), document, path)  # pyright: ignore[reportUnknownArgumentType]
        rate, latency = form.rate, form.latency
        text = data.get("rate")  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    elif _is_name(data):
        return plain_link(_at(document, path, lambda: links.link(data)))
    else:
        rate, latency, text = _at(document, path, lambda: units.parse(data, "bytes_per_s")), 10e-6, data
    _refuse_too_fast(rate, text, document, path, reach)
    return Link(rate, latency)


def _is_name(data: Any) -> bool:
    """Whether a stated link is the catalogue's name for one, and no rate."""
    return isinstance(data, str) and not data.strip()[:1].isdigit()


def _refuse_too_fast(rate: float, text: Any, document: Document, path: Path_, reach: str) -> None:
    fastest = links.fastest_bytes_per_s(reach)
    if 0 < rate <= fastest:
        return
    if rate <= 0:
        raise CaseError(
            f"{dotted(path)} is {shown(text)}: no link.", where=document.where(path), hint='Write "25 Gb/s".'
        )
    fixed = str(text).replace("B/s", "b/s").replace("Bps", "bps")
    meant = f' Did you mean "{fixed}"?' if fixed != str(text) and rate / 8 <= fastest else ""
    raise CaseError(
        f"{dotted(path)} is {shown(text)}, faster than any link in the catalogue.{meant}",
        where=document.where(path),
        hint=""
        if meant
        else f"The fastest {reach} nodes carries {units.human(fastest, 'bytes_per_s')} in one direction.",
    )


def _disk(data: Any, document: Document) -> Disk:
    path: Path_ = ("site", "disk")
    if isinstance(data, str):
        return _at(document, path, lambda: disk_of(data))
    form = check(DiskForm, data, document, path)
    if min(form.write, form.read) <= 0:
        raise CaseError("site.disk has a rate of zero.", where=document.where(path), hint='Write it like "2 GB/s".')
    return Disk(form.write, form.read, form.latency, form.capacity or float("inf"), form.shared)


def _any_disk() -> Disk:
    return Disk(1e9, 1e9, 1e-3)


def _at(document: Document, path: Path_, act: Any) -> Any:
    """What `act` gives; its error gets the line of `path`."""
    try:
        return act()
    except DatahallError as error:
        if not error.where or isinstance(error, UnknownName):
            error.where = document.where(path)
        if isinstance(error, UsageError) and not isinstance(error, CaseError | UnknownName):
            raise CaseError(error.what, where=error.where, hint=error.hint) from error
        raise


__all__ = ["accelerator_of", "link_of", "site_of"]
