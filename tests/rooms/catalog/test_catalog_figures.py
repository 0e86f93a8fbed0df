"""Lint of the catalogue: dense peaks, sane units, a source and a date for every figure, plausible links."""

from __future__ import annotations

import re

import pytest

from datahall.base.errors import Incompatible, UnknownName
from datahall.case.named_model import shape_of
from datahall.case.named_site import named_site, site_from_text
from datahall.catalog import accelerators, codecs, compatibility, disks, links, models, rates, sites, tables

CARDS = [accelerators.accelerator(name) for name in accelerators.names()]
TABLES = ["accelerators", "links", "disks", "codecs", "models", "sites", "rates", "compatibility", "stacks", "figures"]


def test_it_is_large_enough() -> None:
    assert len(CARDS) >= 45
    assert len({models.model(name).family for name in models.names()}) >= 34


@pytest.mark.parametrize("table", TABLES)
def test_every_row_has_source_and_date(table: str) -> None:
    for row in tables.rows(table):
        assert len(row["source"]) > 5, row
        assert re.fullmatch(r"20\d\d-\d\d-\d\d", row["date"]), row
        if "checked" in row:
            assert row["checked"] in {"read", "recalled", "measured", "estimate"}, row
    for row in tables.rows("accelerators"):
        stated = bool(row["measured_bf16_flops_per_s"] or row["measured_fp8_flops_per_s"])
        assert bool(row["measured_source"]) == stated == bool(row["measured_date"]), row["name"]


@pytest.mark.parametrize("table", [name for name in TABLES if name not in {"compatibility", "stacks", "figures"}])
def test_names_and_aliases_are_unique(table: str) -> None:
    seen: dict[str, str] = {}
    for row in tables.rows(table):
        for name in {row["name"], *row.get("aliases", "").split()}:
            key = re.sub(r"[^a-z0-9.+]", "", name.lower())
            assert seen.setdefault(key, row["name"]) == row["name"], name


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_an_accelerators_figures_are_sane(card: accelerators.AcceleratorEntry) -> None:
    peaks = card.peak_flops_per_s
    assert 8e9 <= card.memory_bytes <= 2e12
    assert 5e10 <= card.memory_bytes_per_s <= 3e13
    assert all(1e12 <= peak <= 2e16 for peak in peaks.values())
    assert 50 <= (card.power_w or 100) <= 3000
    for precision, measured in card.measured_flops_per_s.items():
        assert 0.3 < measured / peaks[precision] < 1, "a measured rate cannot exceed a dense peak"
    prices = [card.price_low_usd_per_h, card.price_mid_usd_per_h, card.price_high_usd_per_h]
    stated = [price for price in prices if price is not None]
    assert stated == sorted(stated)
    assert len(stated) in {0, 3}
    assert card.scale_up_link in links.names()
    assert card.scale_out_link in links.names()


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_peaks_are_dense(card: accelerators.AcceleratorEntry) -> None:
    """Sparse data-sheet figures are doubled: halving the width may double a dense rate, never quadruple it."""
    peaks = card.peak_flops_per_s
    for wide, narrow, most in (
        ("tf32", "bf16", 4.05),
        ("bf16", "fp8", 2.05),
        ("fp8", "fp4", 4.05),
        ("bf16", "int8", 4.05),
    ):
        if wide in peaks and narrow in peaks and card.kind in {"gpu", "tpu"}:
            assert peaks[narrow] / peaks[wide] <= most, (wide, narrow)


def test_known_dense_peaks() -> None:
    known = {
        "A100": 312e12,
        "H100-SXM": 989.5e12,
        "H200": 989.5e12,
        "L40S": 362e12,
        "RTX4090": 165.2e12,
        "B200": 2250e12,
        "TPU-v5p": 459e12,
        "Ascend-910B": 353.9e12,  # Huawei's own modelling tool; its fp16 is 376
    }
    for name, peak in known.items():
        assert accelerators.accelerator(name).peak_flops_per_s["bf16"] == peak


def test_links_are_plausible() -> None:
    for name in links.names():
        entry = links.link(name)
        assert 1e8 <= entry.bytes_per_s <= entry.marketed_bytes_per_s <= 1e12
        assert 1e-7 <= entry.latency_s <= 1e-3
    assert links.link("ib-ndr").bytes_per_s == 400e9 / 8
    assert links.link("thunderbolt-40").bytes_per_s * 8 == pytest.approx(16.2e9)
    assert links.link("neuronlink3").bytes_per_s == 1024e9 / 2, "of one instance, not the UltraServer"
    assert links.link("ici-v2").bytes_per_s == 4 * 496e9 / 8
    assert links.link("omni-path-100").vendor == "Cornelis Networks"
    assert {accelerators.accelerator(n).scale_up_link[:4] for n in accelerators.names() if n.startswith("TPU")} == {
        "ici-"
    }


def test_disks_and_rates_are_plausible() -> None:
    for name in codecs.names():
        one = codecs.codec(name)
        assert 1.0 < one.ratio < (4.0 if name.startswith("lossy-") else 2.0)
        assert 1e7 < one.encode_bytes_per_s < one.decode_bytes_per_s < 1e10
    for name in disks.names():
        entry = disks.disk(name)
        assert 1e8 <= entry.write_bytes_per_s <= entry.read_bytes_per_s <= 1e11
        assert entry.scope in {"node", "site"}
    assert rates.rate("llama3-405b-h100").value == pytest.approx(419 / (54 * 86400 * 16384), rel=0.01)


@pytest.mark.parametrize("name", models.names())
def test_parameter_counts_match_the_published_ones(name: str) -> None:
    entry = models.model(name)
    shape = shape_of(name)
    assert entry.tolerance_share <= 0.1
    assert shape.parameters() == pytest.approx(entry.published_parameters, rel=entry.tolerance_share)
    if entry.published_active_parameters:
        assert shape.active_parameters() == pytest.approx(
            entry.published_active_parameters, rel=max(entry.tolerance_share, 0.01)
        )


@pytest.mark.parametrize("name", sites.names())
def test_named_sites_resolve(name: str) -> None:
    site, _ = named_site(name)
    assert site.devices >= 4
    assert site.scale_up_domain <= site.devices
    assert site.scale_up.bytes_per_s > site.scale_out.bytes_per_s


def test_an_unknown_name_is_refused_with_its_neighbours() -> None:
    with pytest.raises(UnknownName, match=r"A40"):
        accelerators.accelerator("A41")
    with pytest.raises(UnknownName, match=r"RTX4090"):
        accelerators.accelerator("RTX4099")
    with pytest.raises(UnknownName):
        site_from_text("8xNothingLikeIt")
    with pytest.raises(UnknownName):
        models.model("llama-9")


def test_case_and_vendor_do_not_matter() -> None:
    assert accelerators.accelerator("nvidia a100 80gb sxm") is not None
    assert (
        accelerators.accelerator("nvidia a100 80gb sxm").name
        == accelerators.accelerator("A100").name
        == "A100-80GB-SXM"
    )


def test_fp8_on_an_a100_is_refused_with_the_reason() -> None:
    with pytest.raises(Incompatible, match=r"A100.*fp8.*Hopper.*bf16"):
        compatibility.check("A100-80GB-SXM", "fp8")
    with pytest.raises(Incompatible, match="bf16"):
        compatibility.check("V100", "bf16")
    with pytest.raises(Incompatible):
        compatibility.check("TPU-v5p", "fp16", "jax")
    with pytest.raises(UnknownName):
        compatibility.check("A100", "fp12")
    compatibility.check("H100", "fp8")
    compatibility.check("A100", "bf16")


def test_the_table_covers_every_accelerator_and_precision() -> None:
    for card in CARDS:
        usable = compatibility.precisions(card.name)
        assert usable, card.name
        for precision in accelerators.PRECISIONS:
            assert compatibility.works(card.name, precision) == (precision in usable)
            if compatibility.works(card.name, precision):
                assert card.peak_flops_per_s[precision] > 0


def test_every_refusal_has_a_reason() -> None:
    for row in tables.rows("compatibility"):
        if "no" in (row["pytorch"], row["jax"], row["tensorflow"]):
            assert len(row["reason"]) > 10, row


def test_a_fact_carries_its_source() -> None:
    card = accelerators.accelerator("H100-SXM")
    assert card.fact("peak.bf16").value == 989.5e12
    assert "InferenceX" in card.fact("price_mid_usd_per_h").source
    assert card.fact("memory_bytes").unit == "B"
    assert card.fact("measured.fp8").source == card.measured_source
    with pytest.raises(KeyError):
        card.fact("peak.fp4")
    with pytest.raises(KeyError):
        accelerators.accelerator("A800").fact("price_mid_usd_per_h")


@pytest.mark.parametrize(
    ("stack", "kind", "framework"),
    [
        ("", "gpu", "pytorch"),
        ("", "tpu", "jax"),
        ("MaxText 2025.1", "gpu", "jax"),
        ("torch-xla", "tpu", "pytorch"),
        ("TensorFlow 2.16", "gpu", "tensorflow"),
        ("megatron-bridge 26.04", "gpu", "pytorch"),
    ],
)
def test_a_stack_has_its_framework(stack: str, kind: str, framework: str) -> None:
    assert compatibility.framework_of(stack, kind) == framework
