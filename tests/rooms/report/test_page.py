"""The HTML page: complete, self-contained, small, escaped; and honest about what a folder lacks."""

import itertools
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from datahall.base.errors import UsageError, WorldFailed
from datahall.report.data import ReportData
from datahall.report.drawing import COLOURS, COMPONENTS
from datahall.report.folder import load_run
from datahall.report.page import render
from datahall.report.write import write_report
from datahall.ui.cli import main

SECTIONS = ("compared", "step", "plans", "learning", "memory", "calibration", "carry", "counts", "evidence")
VOID = {"meta", "br", "link", "img", "input", "hr"}


SIGHTS = {
    "full": np.eye(3),
    "no red": np.array([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]]),
    "no green": np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]),
}


class _Reader(HTMLParser):
    """Collects ids and checks that tags close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.figures = 0
        self.scripts = 0

    def handle_starttag(self, tag, attrs):
        self.ids += [value for name, value in attrs if name == "id"]
        self.figures += tag == "figure"
        self.scripts += tag == "script"
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page(run_folder) -> str:
    return render(load_run(run_folder))


def test_page_has_every_section_and_every_figure(page):
    reader = _Reader()
    reader.feed(page)
    assert reader.open == []
    assert [name for name in SECTIONS if name not in reader.ids] == []
    assert reader.figures == 7
    assert 'class="lacking"' not in page


def test_page_is_one_small_file_that_fetches_nothing(page):
    assert len(page.encode()) < 2_000_000
    assert re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", page) == []
    assert re.findall(r"<(?:link|img|iframe|object|embed)\b|@import|url\(|fetch\(|XMLHttpRequest", page) == []
    assert re.findall(r"<script[^>]*\bsrc=", page) == []


def test_names_from_the_case_are_escaped(page, sample):
    assert "<b>case" not in page
    assert "first &lt;b&gt;case&lt;/b&gt; &amp; more" in page


def test_names_of_plans_and_configurations_are_escaped_in_figures(run_folder, sample, tmp_path):
    hostile = "</svg><script>alert(1)</script>"
    folder = sample.write_sample_run(tmp_path / "hostile")
    plans = json.loads((folder / "plans.json").read_text())
    for plan in plans["plans"]:
        plan["name"] = hostile
    (folder / "plans.json").write_text(json.dumps(plans))
    heldout = json.loads((folder / "heldout.json").read_text())
    for point in heldout["points"]:
        point["name"] = hostile
    (folder / "heldout.json").write_text(json.dumps(heldout))
    reader = _Reader()
    reader.feed(render(load_run(folder)))
    assert reader.scripts == 1


def test_every_colour_of_a_figure_follows_light_and_dark(page):
    svgs = "".join(re.findall(r"<svg.*?</svg>", page, re.S))
    used = set(re.findall(r'(?:fill|stroke)="(#[0-9a-fA-F]{3,6})"', svgs))
    assert used <= {light for light, _ in COLOURS.values()}


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("sight", SIGHTS)
def test_components_can_be_told_apart(mode, sight):
    """By the distance in CIE L*a*b* of colours as they appear (Machado et al. 2009, severity 1)."""
    seen = {name: _lab(SIGHTS[sight] @ _linear(COLOURS[name][mode])) for name in COMPONENTS if name != "startup"}
    pairs = itertools.combinations(seen.values(), 2)
    assert min(float(np.linalg.norm(one - other)) for one, other in pairs) > 12


def test_the_verdict_and_the_seal_stand_on_the_page(page):
    assert "The forecast holds" in page
    assert "3f9c" * 16 in page


def test_a_failed_forecast_says_why(sample):
    text = render(ReportData("slow", sample.sample_comparison(transfer=0.16)))
    assert "The forecast misses" in text
    assert "a slow link" in text


def test_an_empty_run_says_what_it_lacks():
    text = render(ReportData(name="only a name"))
    assert "Not measured yet" in text
    assert text.count('class="lacking"') >= 8


def test_each_part_may_be_missing(sample, tmp_path):
    whole = sample.write_sample_run(tmp_path / "parts")
    for path in sorted(whole.rglob("*.json")):
        text = path.read_text()
        path.unlink()
        assert str(path.relative_to(whole)) in load_run(whole).missing
        path.write_text(text)


def test_a_run_that_only_has_a_forecast_can_be_shown(sample, tmp_path):
    whole = sample.write_sample_run(tmp_path / "forecast")
    for path in [path for path in whole.rglob("*.json*") if path.name not in {"case.json", "forecast.json"}]:
        path.unlink()
    assert "Not measured yet" in render(load_run(whole))


def test_a_measurement_of_nothing_can_be_drawn(sample):
    assert "<svg" in render(ReportData("zeros", sample.sample_comparison(waiting=0.0, transfer=0.0)))


def test_no_folder_and_a_foreign_folder_are_wrong_usage(tmp_path):
    with pytest.raises(UsageError):
        load_run(tmp_path / "nowhere")
    with pytest.raises(UsageError):
        load_run(tmp_path)


def test_a_damaged_part_is_named(sample, tmp_path):
    folder = sample.write_sample_run(tmp_path / "damaged")
    (folder / "comparison.json").write_text("{")
    with pytest.raises(WorldFailed, match=r"comparison\.json"):
        load_run(folder)


def test_write_report_leaves_page_and_trace_and_no_part(sample, tmp_path):
    folder = _with_logs_only(sample.write_sample_run(tmp_path / "written"))
    before = {path.name for path in folder.iterdir()}
    assert write_report(folder) == folder / "report.html"
    assert {path.name for path in folder.iterdir()} - before == {"report.html", "trace.json.gz"}


def test_the_verb_writes_the_page_and_says_where(sample, tmp_path, capsys):
    folder = _with_logs_only(sample.write_sample_run(tmp_path / "by verb"))
    with pytest.raises(SystemExit) as done:
        main(["report", str(folder)])
    assert done.value.code == 0
    assert capsys.readouterr().out == f"{folder / 'report.html'}\n"
    with pytest.raises(SystemExit) as refused:
        main(["report", str(tmp_path / "nowhere")])
    assert refused.value.code == 2


def _with_logs_only(folder):
    """The run without what takes long to draw."""
    for path in folder.glob("*.json"):
        path.unlink()
    return folder


def _linear(colour):
    channels = np.array([int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)])
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def _lab(linear):
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ np.clip(linear, 0, 1) / np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])
