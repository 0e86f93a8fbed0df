"""The door for cases: what loads, and what each mistake is answered with."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from datahall.base.errors import CaseError, DatahallError, Incompatible, UnknownName, UsageError
from datahall.base.label import Label
from datahall.case import from_model_and_site, load, loads, read_site, site_from_yaml, site_to_yaml, write_site
from datahall.case.named_site import site_from_text, with_nodes
from datahall.case.question import _without_empty
from datahall.case.saved import case_from_json
from datahall.storage.shards import write_shards

CASES = sorted((Path(__file__).parents[3] / "cases").glob("*.yaml"))
GOOD = """\
model: {catalog: llama-3.1-8b}
application:
  kind: training
  tokens: 15e9
  global_batch: 4 Mi tokens
site: {catalog: dgx-h100, nodes: 16}
goal: {minimise: cost, deadline: 3 days}
"""


@pytest.mark.parametrize("file", CASES, ids=lambda path: path.stem)
def test_every_shipped_case_loads(file: Path, tmp_path: Path) -> None:
    for data in re.findall(r"path: (shards/\S+)", file.read_text()):  # what the head of the case says to make first
        write_shards(str(tmp_path / data), b"to be or not to be" * 1000, 4096)
        file = Path(shutil.copy(file, tmp_path))
    case = load(file)
    assert case.name == file.stem
    assert case.application.steps >= 1
    assert case.hash() == load(file).hash()


def test_a_case_says_what_was_asked() -> None:
    case = loads(GOOD)
    assert case.application.tokens == 15e9
    assert case.application.global_batch * case.application.sequence == 4 * 2**20
    assert case.site.devices == 128
    assert case.goal.deadline_s == 3 * 86400
    assert case.provenance["application.sequence"] is Label.ASSUMED
    assert "application.tokens" not in case.defaults


SITE = "{catalog: dgx-h100, nodes: 16}"
CARD = "{accelerator: {name: N, memory: 1 GB, memory_bandwidth: 1 TB/s, peak: {bf16: 1e12 FLOP/s}}, disk: nvme}"
MISTAKES = [
    ("kind: training", "kind: serving", CaseError, ":3: application.kind .*not done yet"),
    ("tokens: 15e9", "tokns: 15e9", CaseError, ':4: application.tokns is not a key.*Did you mean "tokens"'),
    ("tokens: 15e9", "tokens: 15 GB", CaseError, ':4: application.tokens is "15 GB".*"4 Mi tokens"'),
    ("tokens: 15e9", "tokens: no", CaseError, ':4: application.tokens is "no"'),
    ("tokens: 15e9", "tokens: -1", CaseError, ":4: application.tokens is -1"),
    ("nodes: 16", "link: 400 GB/s", CaseError, r':6: site.link is "400 GB/s", faster.*Did you mean "400 Gb/s"\?'),
    ("nodes: 16", "nodes: 0", CaseError, ":6: site.nodes is 0"),
    ("nodes: 16", "nodes: 2, nodes: 3", CaseError, ':6: "nodes" stands here twice'),
    ("nodes: 16", "nodes: [1", CaseError, ":6: this is not YAML"),
    ("dgx-h100", "dgx-h1000", UnknownName, ":6: .*dgx-h100"),
    ("llama-3.1-8b", "llama-3.1-9b", UnknownName, ":1: .*llama-3.1-8b"),
    ("4 Mi tokens", "4 Mi tokens\n  precision: fp4", Incompatible, ":6: H100-SXM does not compute in fp4"),
    ("4 Mi tokens", "4 Mi tokens\n  seq_len: 9", CaseError, ':6: application.seq_len .* called "sequence"'),
    ("4 Mi tokens", "0.3", CaseError, ":5: application.global_batch is 0.3"),
    ("3 days", "3 dayz", CaseError, ':7: goal.deadline is "3 dayz"'),
    ("minimise", "minimize", CaseError, ':7: goal.minimize .* called "minimise"'),
    ("{catalog: llama-3.1-8b}", "{layers: 4}", CaseError, ":1: model.hidden is missing"),
    ("{catalog: llama-3.1-8b}", "{from: hf, path: nope.json}", CaseError, ":1: nope.json: it cannot be read"),
    ("{catalog: llama-3.1-8b}", "[1]", CaseError, ":1: model is"),
    ("{catalog: dgx-h100, nodes: 16}", "8xA41", UnknownName, ":6: .*A40"),
    ("{catalog: dgx-h100, nodes: 16}", "{nodes: 2}", CaseError, ":6: site must have exactly one of"),
    ("{catalog: dgx-h100, nodes: 16}", "{file: nope.yaml}", CaseError, "nope.yaml: the site cannot be read"),
    (SITE, CARD.replace("1 TB/s", "0 TB/s"), CaseError, ":6: .*memory_bandwidth is .* above zero"),
    (SITE, CARD.replace("1 GB", "0 GB"), CaseError, ":6: .*memory is .* above zero"),
    (SITE, CARD.replace("1e12", "0"), CaseError, ":6: .*above zero"),
    ("{catalog: llama-3.1-8b}", "{layers: 4, hidden: 256, heads: 7, ffn: 704, vocab: 256}", CaseError, ":1: 7 heads"),
    ("kind: training", "kind: training\n  method: lora", CaseError, ":4: .*fine-tuning"),
]


@pytest.mark.parametrize(("old", "new", "error", "says"), MISTAKES, ids=[new[:40] for _, new, _, _ in MISTAKES])
def test_a_mistake_is_told_with_its_line(old: str, new: str, error: type[DatahallError], says: str) -> None:
    assert old in GOOD
    with pytest.raises(error, match=says) as caught:
        loads(GOOD.replace(old, new), file="cases/a.yaml")
    assert caught.value.exit_code == 2
    if error is CaseError and "nope.yaml" not in new:
        assert str(caught.value).startswith("cases/a.yaml:")


def test_settings_lie_over_the_file() -> None:
    case = loads(GOOD, ["application.tokens=2e9", "site=8xA40", "goal.minimise=time"])
    assert (case.application.tokens, case.site.name, case.goal.minimise) == (2e9, "8xA40", "time")
    with pytest.raises(CaseError, match=r"--set application\.tokens"):
        loads(GOOD, ["application.tokens=lots"])
    with pytest.raises(UsageError, match="no keys to set"):
        loads(GOOD, ["model=gpt2", "model.layers=2"])
    with pytest.raises(UsageError, match="not a setting"):
        loads(GOOD, ["application"])


def test_an_accelerator_of_ones_own_needs_its_figures() -> None:
    own = "{accelerator: {name: Mine, memory: 32 GiB, memory_bandwidth: 1 TB/s, peak: {bf16: 100 TFLOP/s}}, "
    site = own + "devices_per_node: 4, device_link: 30 GB/s, disk: nvme}"
    case = loads(GOOD.replace("{catalog: dgx-h100, nodes: 16}", site))
    assert case.site.accelerator.memory_bytes == 32 * 2**30
    assert case.site.scale_up.bytes_per_s == 30e9
    with pytest.raises(CaseError, match=r"site\.device_link is missing"):
        loads(GOOD.replace("{catalog: dgx-h100, nodes: 16}", own + "devices_per_node: 4, disk: nvme}"))
    with pytest.raises(CaseError, match="which the catalogue has"):
        loads(GOOD.replace("{catalog: dgx-h100, nodes: 16}", site.replace("Mine", "A40")))


def test_overrides_of_a_named_site() -> None:
    site = "{catalog: dgx-h100, nodes: 2, link: 25 Gb/s, disk: nfs-25gbe, price_per_device_hour: 3 USD, pue: 1.4}"
    case = loads(GOOD.replace("{catalog: dgx-h100, nodes: 16}", site))
    assert case.site.scale_out.bytes_per_s == 25e9 / 8  # through each of the eight ports that a DGX H100 has
    assert case.site.disk.shared
    assert case.site.accelerator.price_usd_per_h == 3
    assert case.site.pue == 1.4


@pytest.mark.parametrize(
    ("stated", "ports", "bytes_per_s"),
    [
        ("{catalog: 16xdgx-h100, link: 400 Gb/s}", "8 in each node, as 16xdgx-h100 has", 50e9),
        ("{catalog: 16xdgx-h100, link: ib-ndr}", "8 in each node, as 16xdgx-h100 has", 50e9),
        ("{catalog: dgx-h100, nodes: 4, devices_per_node: 4, link: 400 Gb/s}", "4 in each node, as dgx-h100 has", 50e9),
        ("{catalog: 2x8xA40, link: 100 Gb/s}", "1 in each node, as 2x8xA40 has", 12.5e9 / 8),
        ("{accelerator: H100-SXM, nodes: 2, devices_per_node: 8, link: 25 Gb/s}", "as H100-SXM has", 25e9 / 8),
        ("{catalog: dgx-h100, nodes: 4, links_per_node: 2}", "", 2 * 50e9 / 8),
        ("{catalog: dgx-h100, nodes: 4, link: 100 Gb/s, links_per_node: 2}", "", 2 * 12.5e9 / 8),
        ("{catalog: 4x8xH100-SXM, links_per_node: 1}", "", 50e9 / 8),
    ],
)
def test_a_stated_link_has_the_ports_of_its_node_and_says_so(stated: str, ports: str, bytes_per_s: float) -> None:
    case = loads(f"model: gpt2\napplication: {{kind: training}}\nsite: {stated}\n")
    assert case.site.scale_out.bytes_per_s == pytest.approx(bytes_per_s)
    assert ports in case.defaults.get("site.links_per_node", "")
    assert bool(ports) == ("site.links_per_node" in case.defaults)


def test_ports_alone_do_not_make_a_usual_link_a_stated_one() -> None:
    case = loads("model: gpt2\napplication: {kind: training}\nsite: {catalog: 4x8xH100-SXM, links_per_node: 1}\n")
    assert case.site.label("scale_out") is Label.ASSUMED


def test_the_network_that_was_assumed_is_named_with_the_ports_that_were_stated() -> None:
    case = loads("model: gpt2\napplication: {kind: training}\nsite: {catalog: 4x8xH100-SXM, links_per_node: 4}\n")
    named = case.defaults["site.scale_out"]
    assert named.startswith("4 port(s) in each node, 25 GB/s a device, in place of 8 port(s) of ib-ndr in each node")
    stated = loads("model: gpt2\napplication: {kind: training}\nsite: {catalog: 4xdgx-h100, links_per_node: 4}\n")
    assert "site.scale_out" not in stated.defaults


@pytest.mark.parametrize("link", ["", ", link: ib-ndr"])
def test_more_ports_than_carry_what_any_link_does_are_refused(link: str) -> None:
    text = f"model: gpt2\napplication: {{kind: training}}\nsite: {{catalog: 4xdgx-h100, links_per_node: 400{link}}}\n"
    with pytest.raises(CaseError, match=r"case:3.*links_per_node is 400: each of 8 devices would have 2\.5 TB/s"):
        loads(text)
    assert loads(text.replace("400", "16")).site.scale_out.bytes_per_s == 100e9


def test_a_file_that_names_an_accelerator_has_the_ports_that_are_usual_for_it(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("accelerator: H100-SXM\nnodes: 2\ndevices_per_node: 8\nlink: ib-ndr\n")
    case = loads("model: gpt2\napplication: {kind: training}\nsite: mine.yaml\n", folder=tmp_path)
    assert case.site.scale_out.bytes_per_s == 50e9
    assert case.defaults["site.links_per_node"] == "8 in each node, as H100-SXM has"


def test_ports_of_a_site_that_knows_no_port_need_a_link(tmp_path: Path) -> None:
    write_site(site_from_text("4xA10")[0], tmp_path / "mine.yaml")
    text = "model: gpt2\napplication: {kind: training}\nsite: {file: mine.yaml, nodes: 2, links_per_node: 2}\n"
    with pytest.raises(CaseError, match=r"case:3.*links_per_node is stated without site\.link"):
        loads(text, folder=tmp_path)
    stated = loads(text, ["site.link=100 Gb/s"], folder=tmp_path)
    assert stated.site.scale_out.bytes_per_s == pytest.approx(2 * 12.5e9 / 4)


@pytest.mark.parametrize(
    ("text", "nodes", "devices"),
    [
        ("8xA40", 1, 8),
        ("16x8xH100-SXM", 16, 8),
        ("64xH100", 8, 8),
        ("256xTPU-v5e", 64, 4),
        ("16xdgx-a100", 16, 8),
        ("A40", 1, 1),
    ],
)
def test_counted_sites(text: str, nodes: int, devices: int) -> None:
    site, why = site_from_text(text)
    assert (site.nodes, site.devices_per_node) == (nodes, devices)
    assert why
    assert site.failures_per_device_s > 0


def test_memory_of_hosts_is_stated_or_left_open() -> None:
    named = loads(GOOD)
    assert named.site.host_memory_bytes == 2 * 2**40
    stated = loads(GOOD, ["site.host_memory=512 GiB"])
    assert stated.site.host_memory_bytes == 512 * 2**30
    assert stated.hash() != named.hash()
    assert from_model_and_site("gpt2", "8xH100-SXM").site.host_memory_bytes == 0
    with pytest.raises(CaseError, match="above zero"):
        loads(GOOD, ["site.host_memory=0 GiB"])


def test_an_uneven_count_is_refused() -> None:
    with pytest.raises(UsageError, match="nodes x devices"):
        site_from_text("12xH100")
    with pytest.raises(UsageError, match="zero"):
        site_from_text("0xA40")


def test_an_a40_never_gets_another_cards_memory() -> None:
    case = from_model_and_site("llama-3.1-8b", "8xA40")
    assert case.site.accelerator.memory_bytes == 46068 * 2**20
    assert case.site.accelerator.peak_flops_per_s["bf16"] == 149.7e12
    with pytest.raises(UnknownName):
        from_model_and_site("llama-3.1-8b", "8xA40000")


@pytest.mark.parametrize(
    ("model", "site", "sequences"),
    [("llama-3.1-405b", "llama3-h100", 2048), ("llama-3.1-8b", "8xA40", 128), ("gpt3-13b", "3x8xA100-80GB-SXM", 768)],
)
def test_the_usual_batch_suits_all_devices_and_stays_within_what_is_usual(
    model: str, site: str, sequences: int
) -> None:
    assert from_model_and_site(model, site).application.global_batch == sequences


def test_a_quick_case_refuses_an_impossible_precision() -> None:
    with pytest.raises(Incompatible, match=r"A100.*fp8"):
        from_model_and_site("gpt2", "8xA100", precision="fp8")
    lora = from_model_and_site("llama-3.1-8b", "8xA40", method="lora", tokens="1e8")
    assert lora.application.lora_rank == 16
    assert "application.lora_rank" in lora.defaults


def test_a_site_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    site, _ = site_from_text("16xdgx-h100")
    assert site_from_yaml(site_to_yaml(site, {"matmul": "40 sizes"})) == site
    file = tmp_path / "sites" / "mine.yaml"
    write_site(site, file)
    assert read_site(file) == site
    assert list(file.parent.iterdir()) == [file]
    case = loads(GOOD.replace("{catalog: dgx-h100, nodes: 16}", "{file: mine.yaml}"), folder=file.parent)
    assert case.site == site
    file.write_text(file.read_text().replace("format_version: 1", "format_version: 9"))
    with pytest.raises(CaseError, match="format_version 9"):
        read_site(file)


DESCRIBED = """\
accelerator:
  name: NewCard
  memory: 32 GiB
  memory_bandwidth: 1 TB/s
  peak: {bf16: 200 TFLOP/s, fp32: 50 TFLOP/s}
devices_per_node: 4
device_link: 30 GB/s
disk: nvme
"""


def test_a_probed_site_is_asked_for_where_nothing_else_will_do() -> None:
    with pytest.raises(CaseError, match=r"mine.yaml: .*no file of `datahall probe`.*`--site FILE`"):
        site_from_yaml(DESCRIBED, "mine.yaml")
    with pytest.raises(CaseError, match=r"format_version 2, not 1. Run `datahall probe` again"):
        site_from_yaml("format_version: 2\n" + DESCRIBED, "mine.yaml")


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_site_described_in_a_file_is_the_one_described_in_a_case(tmp_path: Path, wrapped: bool) -> None:
    section = "site:\n" + "".join(f"  {line}\n" for line in DESCRIBED.splitlines())
    file = tmp_path / "mine.yaml"
    file.write_text(section if wrapped else DESCRIBED)
    text = "model: gpt2\napplication: {kind: training}\n"
    inline = loads(text + section)
    assert inline.site.devices == 4
    for case in (
        loads(text + "site: mine.yaml\n", folder=tmp_path),
        loads(text + "site: {file: mine.yaml}\n", folder=tmp_path),
        from_model_and_site("gpt2", str(file)),
    ):
        assert case.site == inline.site
        assert case.hash() == inline.hash()
        assert case.defaults == inline.defaults


def test_settings_go_before_what_a_site_s_file_says(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(DESCRIBED)
    text = "model: gpt2\napplication: {kind: training}\nsite: mine.yaml\n"
    case = loads(text, ["site.price_per_device_hour=2 USD", "site.disk=nfs-25gbe"], folder=tmp_path)
    assert case.site.accelerator.price_usd_per_h == 2
    assert case.site.disk.shared
    linked = loads(text, ["site.nodes=2", "site.link=100 Gb/s"], folder=tmp_path)
    assert (linked.site.devices, linked.site.scale_out.bytes_per_s) == (8, 100e9 / 8 / 4)
    with pytest.raises(CaseError, match=r"mine.yaml:1: site.link is missing"):  # one node had none to state
        loads(text, ["site.nodes=2"], folder=tmp_path)
    with pytest.raises(CaseError, match=r'--set site.link: site.link is "100 TB/s"'):
        loads(text, ["site.nodes=2", "site.link=100 TB/s"], folder=tmp_path)
    inner = "{file: mine.yaml,\n  link: 100 Gb/s, nodes: 2,\n  disk: {write: fast, read: 1 GB/s}}"
    over = text.replace("mine.yaml", inner)
    with pytest.raises(CaseError, match=r'a.yaml:5: site.disk.write is "fast"'):
        loads(over, file="a.yaml", folder=tmp_path)
    ports = DESCRIBED + "nodes: 2\nlink: 50 Gb/s\nlinks_per_node: 4\n"
    (tmp_path / "mine.yaml").write_text(ports)
    assert loads(text, ["site.link=100 Gb/s"], folder=tmp_path).site.scale_out.bytes_per_s == 100e9 / 8


BAD_SITES = [
    ("disk: nvme", "disc: nvme", r'mine.yaml:8: site.disc is not a key.*Did you mean "disk"'),
    ("memory: 32 GiB", "memory: 32 GB/s", r'mine.yaml:3: site.accelerator.memory is "32 GB/s"'),
    ("name: NewCard", "name: A40", r"mine.yaml:2: site.accelerator.name .*its own figures"),
    ("disk: nvme", "disk: floppy", r'mine.yaml:8: "floppy" is not a disk'),
    ("device_link: 30 GB/s\n", "", r"mine.yaml:1: site.device_link is missing"),
    ("device_link: 30 GB/s", "device_link: 30 TB/s", r"mine.yaml:7: .*faster than any link"),
    ("accelerator:\n", "accelerator: [\n", r"mine.yaml:\d+: this is not YAML"),
    (DESCRIBED, "", r"mine.yaml: it holds no keys.*accelerator"),
    (DESCRIBED, "- A40\n", r"mine.yaml: it holds no keys.*accelerator"),
    (DESCRIBED, "file: mine.yaml\n", r"mine.yaml:1: a site's file cannot name another"),
    (DESCRIBED, "catalog: other.yaml\n", r"mine.yaml:1: a site's file cannot name another"),
    (DESCRIBED, "site: other.yml\n", r"mine.yaml:1: a site's file cannot name another"),
    (DESCRIBED, "nodes: 2\naccelerator: A41\n", r'mine.yaml:2: "A41" is not an accelerator'),
    (DESCRIBED, "model: gpt2\nsite: 8xA40\n", r"mine.yaml:1: this is a whole case.*datahall plan "),
]


@pytest.mark.parametrize(("old", "new", "said"), BAD_SITES, ids=[said for _, _, said in BAD_SITES])
def test_a_bad_file_of_a_site_is_refused_with_its_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in DESCRIBED
    (tmp_path / "mine.yaml").write_text(DESCRIBED.replace(old, new))
    text = "model: gpt2\napplication: {kind: training}\n"
    for site in ("mine.yaml", "{file: mine.yaml}"):
        with pytest.raises(UsageError, match=said):
            loads(f"{text}site: {site}\n", folder=tmp_path)
    with pytest.raises(UsageError, match=said):
        from_model_and_site("gpt2", str(tmp_path / "mine.yaml"))


@pytest.mark.parametrize("text", ["Foo", "8xFoo", "4x8xFoo", "dgx-h1000"])
def test_an_unknown_name_says_how_hardware_is_described(text: str) -> None:
    for ask in (
        lambda: from_model_and_site("gpt2", text),
        lambda: loads(f"model: gpt2\napplication: {{kind: training}}\nsite: {text}\n"),
        lambda: loads("model: gpt2\napplication: {kind: training}\nsite: {accelerator: Foo}\n"),
    ):
        with pytest.raises(UnknownName, match=r"datahall catalog accelerators.*described.*accelerator: .*docs/case.md"):
            ask()


def test_a_quick_case_takes_a_site_file_or_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mine.yaml"
    monkeypatch.setenv("DATAHALL_SITE", str(file))
    guessed = from_model_and_site("gpt2", "local")
    assert guessed.site.label("accelerator") is Label.ASSUMED
    write_site(site_from_text("4xA10")[0], file)
    assert from_model_and_site("gpt2", str(file)).site.name == "4xA10"
    assert from_model_and_site("gpt2", "local").site.name == "4xA10"


def test_a_word_that_is_a_site_file_is_read(tmp_path: Path) -> None:
    site, _ = site_from_text("4xA10")
    write_site(site, tmp_path / "mine.yaml")
    text = "model: gpt2\napplication: {kind: training}\nsite: mine.yaml\n"
    assert loads(text, folder=tmp_path).site == site
    assert loads(text, ["site.nodes=2"], folder=tmp_path).site.devices == 8
    for sets in ([], ["site.nodes=2"]):
        with pytest.raises(CaseError, match=r"none\.yaml: .*no such file.*datahall probe --out") as missing:
            loads(text.replace("mine", "none"), sets, folder=tmp_path)
        assert "accelerator" not in str(missing.value)


def test_an_alias_bomb_is_refused() -> None:
    bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{new}: &{new} [{','.join(['*' + old] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    )
    with pytest.raises(CaseError, match="too large"):
        loads(bomb)


def test_loading_needs_no_heavy_import() -> None:
    code = (
        "import sys; from datahall.case import from_model_and_site as f; f('llama-3.1-8b', '8xA40');"
        "bad = {'torch', 'numpy', 'pydantic', 'ruamel'} & set(sys.modules); sys.exit(f'loaded {bad}' if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_key_that_a_later_release_adds_does_not_disown_saved_plans() -> None:
    case = from_model_and_site("llama-3.1-8b", "8xA40")
    whole = case.to_json()
    later = {**whole, "application": {**whole["application"], "unheard_of": ""}}
    assert _without_empty(later) == _without_empty(whole)
    assert dataclasses.replace(case, application=dataclasses.replace(case.application, seed=7)).hash() != case.hash()


@pytest.mark.parametrize(("text", "joules"), [("1 MWh", 3.6e9), ("3.6 GJ", 3.6e9), ("5e6", 5e6)])
def test_a_goal_may_bound_energy(text: str, joules: float) -> None:
    case = loads(GOOD, [f"goal.energy={text}"])
    assert case.goal.energy_j == joules
    assert case_from_json(case.to_json()).goal == case.goal
    with pytest.raises(CaseError, match=r"goal\.energy.*joules"):
        loads(GOOD, ["goal.energy=3 GW"])


def test_no_bound_on_energy_leaves_the_hash_of_a_case_as_it_was_before_there_was_one() -> None:
    case = from_model_and_site("gpt2", "8xA40")
    whole = case.to_json()
    del whole["goal"]["energy_j"]
    whole["model"] = {key: value for key, value in whole["model"].items() if not key.startswith("rotary_")}
    asked = _without_empty({key: whole[key] for key in ("model", "application", "site", "goal")})
    text = json.dumps(asked, sort_keys=True, separators=(",", ":"))
    assert case.hash() == hashlib.sha256(text.encode()).hexdigest()
    bounded = dataclasses.replace(case, goal=dataclasses.replace(case.goal, energy_j=1e9))
    assert bounded.hash() != case.hash()


def test_a_model_stated_inline_says_how_much_of_its_heads_is_rotary() -> None:
    text = (
        "model: {layers: 2, hidden: 64, heads: 4, ffn: 128, vocab: 256}\napplication: {kind: training}\nsite: 8xA40\n"
    )
    assert loads(text).model.rotary_share == 1.0
    assert loads(text, ["model.rotary_share=0.25"]).model.rotary_share == 0.25
    with pytest.raises(CaseError, match="must not be above one"):
        loads(text, ["model.rotary_share=25"])


def test_a_setting_reaches_into_a_site_that_is_named_by_a_word() -> None:
    text = "model: gpt2\napplication: {kind: training}\nsite: 2x8xA40\n"
    plain, faster = loads(text).site, loads(text, ["site.link=100 Gb/s", "site.price_per_device_hour=1 USD"]).site
    assert faster.name == plain.name
    assert faster.scale_out.bytes_per_s == pytest.approx(4 * plain.scale_out.bytes_per_s)
    assert faster.accelerator.price_usd_per_h == 1.0
    assert loads(text, ["site.nodes=4"]).site.devices == 32
    with pytest.raises(CaseError, match=r"--set site\.link.*Did you mean"):
        loads(text, ["site.link=400 GB/s"])


def test_int8_is_trained_in_only_where_a_framework_does() -> None:
    """MaxText trains with products in int8 (AQT); torchao's is a prototype, and inference is no training."""
    text = "model: gpt2\napplication: {kind: training, precision: int8}\nsite: {catalog: SITE}\n"
    for site in ("8xA100-80GB-SXM", "8xMI300X", "8xH100-SXM, stack: TensorFlow"):
        with pytest.raises(Incompatible, match=r"case:2.*int8 is for inference.*bf16"):
            loads(text.replace("SITE", site))
    with pytest.raises(Incompatible, match="int8 is for inference"):
        from_model_and_site("gpt2", "8xA40", precision="int8")
    for site in ("8xTPU-v5e", "8xH100-SXM, stack: MaxText"):
        assert loads(text.replace("SITE", site)).application.precision == "int8"


@pytest.mark.parametrize(
    ("stated", "name", "devices", "joined"),
    [
        ("{catalog: 8xA40, devices_per_node: 4}", "4xA40", 4, 4),
        ("{catalog: 2x8xA40, nodes: 4}", "4x8xA40", 32, 8),
        ("{catalog: A40, devices_per_node: 2}", "2xA40", 2, 2),
        ("{catalog: dgx-h100, nodes: 2, devices_per_node: 4}", "2xdgx-h100 with 4 devices a node", 8, 4),
        ("{catalog: 2xdgx-h100, nodes: 4}", "2x(2xdgx-h100)", 32, 8),
        ("{catalog: gb200-nvl72, devices_per_node: 2}", "gb200-nvl72 with 2 devices a node", 36, 36),
        ("{catalog: dgx-h100, devices_per_node: 4, name: mine}", "mine", 4, 4),
    ],
)
def test_a_site_of_other_counts_is_called_by_them(stated: str, name: str, devices: int, joined: int) -> None:
    site = loads(f"model: gpt2\napplication: {{kind: training}}\nsite: {stated}\n").site
    assert (site.name, site.devices, site.scale_up_domain) == (name, devices, joined)


def test_a_counted_site_is_the_same_however_its_counts_are_stated() -> None:
    text = "model: gpt2\napplication: {kind: training}\nsite: SITE\n"
    by_keys = loads(text.replace("SITE", "{catalog: 4xA40, nodes: 2, devices_per_node: 8}"))
    assert by_keys.site == loads(text.replace("SITE", "2x8xA40")).site
    assert [with_nodes(by_keys.site, count).name for count in (1, 2, 3)] == ["8xA40", "2x8xA40", "3x8xA40"]


@pytest.mark.parametrize("key", ["lora_rank", "lora_alpha"])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_adapters_of_nothing_are_refused_and_unstated_ones_usual(key: str, method: str) -> None:
    text = f"model: gpt2\napplication: {{kind: fine-tuning, tokens: 1e8, method: {method}}}\nsite: 8xA40\n"
    assert loads(text).application.lora_rank == (16 if method == "lora" else 0)
    with pytest.raises(CaseError, match=rf"application\.{key} is 0.*method: full.*leave it out"):
        loads(text, [f"application.{key}=0"])


def test_two_of_a_rack_are_two_racks() -> None:
    assert site_from_text("2xgb200-nvl72")[0].devices == 144
    assert site_from_text("2xgb200-nvl72")[0].name == "2xgb200-nvl72"
    assert site_from_text("16xdgx-h100")[0].devices == 128
    text = "model: gpt2\napplication: {kind: training}\nsite: {catalog: gb200-nvl72, nodes: 2}\n"
    assert (loads(text).site.devices, loads(text).site.name) == (8, "2 nodes of gb200-nvl72")


def test_an_optimiser_that_is_not_counted_is_refused() -> None:
    with pytest.raises(CaseError, match="adafactor is not counted"):
        loads(GOOD, ["application.optimiser=adafactor"])
    own = loads(GOOD, ["application.optimiser=sgd", "application.entry=mine:build"])
    assert own.application.optimiser == "sgd"


@pytest.mark.parametrize(
    ("site", "more", "says"),
    [
        ("{catalog: gaudi2-node, stack: MaxText}", "", "Gaudi2 does not compute in bf16 with jax: no JAX"),
        ("{catalog: trn1-32xlarge, stack: jax 0.6}", ", precision: fp8", "does not compute in fp8 with jax"),
        ("{catalog: dgx-h100, stack: TensorFlow}", ", precision: fp8", "does not compute in fp8 with tensorflow"),
    ],
)
def test_what_the_frameworks_of_a_stack_lack_is_refused(site: str, more: str, says: str) -> None:
    with pytest.raises(Incompatible, match=says):
        loads(f"model: gpt2\napplication: {{kind: training{more}}}\nsite: {site}\n")
    assert loads(f"model: gpt2\napplication: {{kind: training{more}}}\nsite: {site.split(',')[0]}}}\n")


def test_a_precision_that_the_stack_has_no_recipe_for_is_refused() -> None:
    """B200s compute in fp4 and PyTorch has it; Composer's precisions end with fp8."""
    text = "model: gpt2\napplication: {kind: training, precision: PRECISION}\nsite: {catalog: 8xB200, stack: STACK}\n"
    with pytest.raises(Incompatible, match=r"case:2.*llm-foundry does not train in fp4.*amp_fp8.*Megatron-Core"):
        loads(text.replace("PRECISION", "fp4").replace("STACK", "llm-foundry"))
    with pytest.raises(Incompatible, match=r"case:2.*Megatron-Bridge 25.07 does not train in fp4.*September 2025"):
        loads(text.replace("PRECISION", "fp4").replace("STACK", "Megatron-Bridge 25.07"))
    for precision, stack in (("fp8", "llm-foundry"), ("fp4", "Megatron-Bridge 26.02"), ("fp4", "MaxText")):
        assert loads(text.replace("PRECISION", precision).replace("STACK", stack)).application.precision == precision
    loads(text.replace("PRECISION", '""').replace("8xB200", "8xV100").replace("STACK", "torchtitan"))


def test_a_measured_rate_between_devices_keeps_a_torus_and_another_link_makes_it_a_switch() -> None:
    text = "model: llama-2-7b\napplication: {{kind: training, tokens: 1e9}}\nsite: {{catalog: tpu-v5e-pod{}}}\n"
    own, slower, other = (
        loads(text.format(more)).site.scale_up for more in ("", ", device_link: 150 GB/s", ", device_link: nvlink4")
    )
    assert (own.torus_dims, own.wraps_from) == (2, 16)
    assert (slower.torus_dims, slower.wraps_from, slower.bytes_per_s) == (2, 16, 150e9)
    assert (other.torus_dims, other.wraps_from, other.bytes_per_s) == (0, 0, 450e9)
