"""`datahall plan` as people call it: exit codes, JSON, text within a hundred columns, no PyTorch."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from called import Said
from called import datahall as called

from datahall.ui.plan import asked_case

OWN_MODEL = str(Path(__file__).parents[3] / "cases" / "own-model.yaml")
PYPROJECT = Path(__file__).parents[3] / "pyproject.toml"
SITE = ("--model", "llama-3.1-8b", "--site", "8xA40")


@pytest.fixture(autouse=True)
def _own_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATAHALL_HOME", str(tmp_path / "home"))


def datahall(*arguments: str, code: int = 0) -> Said:
    done = called(*arguments, COLUMNS="60")
    assert done.code == code, done.stderr
    return done


def test_the_answer_fits_a_hundred_columns_and_begins_with_the_answer() -> None:
    text = datahall("plan", *SITE).stdout
    assert max(len(line) for line in text.splitlines()) <= 100
    assert "\x1b" not in text
    assert text.splitlines()[1].startswith("It fits")
    assert "Run it as " in text.splitlines()[1]
    for said in ("whole run", "peak memory", "90 % interval", "why it lost", "activations", "What would flip it",
                 "What to request", "How sure", "Did not qualify", "Assumed"):  # fmt: skip
        assert said in text, said
    assert "published runs" not in text  # nobody published any on this accelerator


def test_where_others_published_runs_the_answer_says_how_to_see_them() -> None:
    text = " ".join(datahall("plan", "--model", "llama-3.1-8b", "--site", "8xH100").stdout.split())
    assert "`datahall claim CASE.yaml` lays published runs beside it" in text


def test_a_choice_that_few_engines_can_run_is_said_and_is_made_only_for_a_stack_that_has_it() -> None:
    asked = ("plan", "--model", "llama-3.1-405b", "--site", "llama3-h100")
    text = " ".join(datahall(*asked, "--set", "site.stack=torch 2.13").stdout.split())
    for said in (
        ", zero-bubble schedule",
        "the configuration of none can say this plan",
        "No published run has",
    ):
        assert said in text, said
    text = " ".join(datahall(*asked).stdout.split())
    assert "zero-bubble" not in text
    assert "Engines megatron can run this plan" in text
    assert "plans: no engine that plans are exported to can run it" in text
    assert "Engines" not in datahall(*asked, "--for", "megatron").stdout


def test_a_faster_plan_that_lost_since_it_may_not_fit_is_said_to() -> None:
    shown = datahall("plan", "--model", "llama-3.1-70b", "--site", "128x8xH100-SXM").stdout
    others = shown.split("Best splits")[1].split("\n\n")[0].splitlines()
    assert any(re.search(r"[\d.]+ % less, may not fit$", line.rstrip()) for line in others), others


def test_a_plan_on_other_devices_lost_by_what_the_goal_makes_small() -> None:
    """Steps of different numbers of devices do not compare, and copies alone have no pipeline to fill."""
    text = datahall("plan", "--model", "gpt2", "--site", "4x8xH100-SXM", "--set", "goal.minimise=energy").stdout
    others = text.split("Best splits")[1].split("\n\n")[0].splitlines()[2:]
    assert any(re.search(r"[\d.]+ % more energy on \d+$", line) for line in others), others
    assert "waiting for others" in datahall("plan", "--model", "gpt2", "--site", "8xA40").stdout


def test_what_devices_draw_that_are_left_free_is_said() -> None:
    """Energy counts the devices that the job holds; on a site that nobody else uses that is not the whole bill."""
    words = ("plan", "--model", "gpt2", "--site", "4x8xH100-SXM")
    least = " ".join(datahall(*words, "--set", "goal.minimise=energy").stdout.split())
    assert "Left free 31 of 32 devices" in least
    assert re.search(r"idle they would draw [\d.]+ kWh meanwhile, and with that dp32 zero\d on 32 would", least)
    cheapest = datahall(*words, "--set", "goal.minimise=cost").stdout
    assert "Left free" in cheapest
    assert "would draw least" not in cheapest
    assert "Left free" not in datahall(*words).stdout


def test_figures_of_the_largest_sites_are_whole() -> None:
    text = datahall("plan", "--model", "llama-3.1-405b", "--site", "llama3-h100", "--ask", "scaling").stdout
    assert "262,144*" in text
    assert "…" not in text


def test_json_has_what_its_readers_need(tmp_path: Path) -> None:
    done = datahall("plan", *SITE, "--json", "--out", str(tmp_path / "plan.json"))
    answer: dict[str, Any] = json.loads(done.stdout)
    assert answer["format_version"] == 1
    assert {"case", "plan", "forecast", "memory_bytes", "step_seconds", "plans", "splits", "front", "flips"} <= set(
        answer
    )
    metrics = {metric["name"]: metric for metric in answer["forecast"]["metrics"]}
    for name in ("total_time", "step_time", "cost", "energy", "peak_memory", "mfu", "tokens_per_s"):
        assert metrics[name]["low"] <= metrics[name]["value"] <= metrics[name]["high"], name
        assert metrics[name]["label"] in ("measured", "calibrated", "transferred", "catalogue", "assumed")
    assert answer["plans"]["qualified"] + sum(answer["plans"]["reasons"].values()) == answer["plans"]["searched"]
    assert sum(answer["memory_bytes"].values()) == pytest.approx(metrics["peak_memory"]["value"])
    assert sum(answer["host_memory_bytes"].values()) == pytest.approx(metrics["host_memory"]["value"])
    saved = json.loads((tmp_path / "plan.json").read_text())
    assert saved["plan"]["compute"] == answer["plan"]["compute"]
    assert answer["splits"][0]["plan"] == answer["plan"]["compute"]
    assert "wrote" in done.stderr


def test_a_case_file_does_what_its_parts_do(tmp_path: Path) -> None:
    case = tmp_path / "a.yaml"
    case.write_text("model: llama-3.1-8b\napplication: {kind: training}\nsite: 8xA40\n")
    by_file, by_parts = (json.loads(datahall("plan", *arguments, "--json").stdout) for arguments in ([str(case)], SITE))
    assert by_file["plan"]["compute"] == by_parts["plan"]["compute"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "--model is missing"),
        (("--model", "llama-3.1-8b"), 2, "--site is missing"),
        (("none.yaml",), 2, "none.yaml"),
        (("--model", "./none/config.json", "--site", "8xA40"), 2, "none/config.json: it cannot be read"),
        (("--model", "gpt2", "--site", "8xTPU-v7x", "--set", "goal.minimise=cost"), 2, "nobody stated a price"),
        (
            (*SITE, "--for", "megatron", "--set", "application.method=lora", "--set", "application.tokens=1e8"),
            3,
            "can be run by this engine",
        ),
        (("--model", "lama", "--site", "8xA40"), 2, "lama"),
        (("--model", "llama-3.1-8b", "--site", "8xA41"), 2, "A41"),
        (("--model", "llama-3.1-8b", "--site", "none.yaml"), 2, "none.yaml: the site cannot be read: there is no such"),
        ((*SITE, "--set", "application.tokns=3"), 2, "tokns"),
        ((*SITE, "--set", "goal.deadline=soon"), 2, "soon"),
        ((*SITE, "--set", "application.precision=fp8"), 2, "A40 does not compute in fp8"),
        (("--model", "llama-3.1-8b", "--site", "1xA40"), 3, "does not fit"),
        ((*SITE, "--set", "goal.deadline=1 min"), 3, "takes longer than"),
        ((*SITE, "--ask", "link"), 2, "one node"),
        ((*SITE, "--ask", "hardware", "--for", "megatron"), 2, "--ask hardware takes no --for"),
        ((*SITE, "--out", "/proc/none/plan.json"), 1, "cannot write here"),
    ],
)
def test_what_is_wrong_is_said_with_its_exit_code(arguments: tuple[str, ...], code: int, said: str) -> None:
    done = datahall("plan", *arguments, code=code)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("sets", "name"), [((), "gpt2 on 8xA40"), (("site.devices_per_node=4",), "gpt2 on 4xA40"), (("name=mine",), "mine")]
)
def test_a_case_of_two_words_is_called_by_the_site_that_it_has(sets: tuple[str, ...], name: str) -> None:
    assert asked_case(None, "gpt2", "8xA40", sets).name == name


@pytest.mark.parametrize("stated", ["long", "long/", "long/config.json", "long/."])
def test_a_case_of_a_folder_is_called_by_the_folder_itself(stated: str, tmp_path: Path) -> None:
    (tmp_path / "long").mkdir()
    config = {"model_type": "llama", "hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    config |= {"intermediate_size": 512, "vocab_size": 1000}
    (tmp_path / "long" / "config.json").write_text(json.dumps(config))
    assert asked_case(None, f"{tmp_path}/{stated}", "8xA40", ()).name == "long on 8xA40"


def test_an_engine_that_cannot_say_a_change_is_named_and_not_taken_for_want_of_room() -> None:
    """torchtitan's configuration has no fp8: that says nothing of what fits in it."""
    asked = ("plan", "--model", "llama-3.1-8b", "--site", "8xH100-SXM", "--set", "application.tokens=1e9")
    text = " ".join(datahall(*asked, "--for", "torchtitan").stdout.split())
    assert "nothing fits" not in text
    said = r"fp8 products: the configuration of torchtitan cannot say that; without `--for`, \d+ % less"
    assert re.search(said, text)
    flip = flips_of("--for", "torchtitan")["fp8 products"]
    free = flips_of()["fp8 products"]
    assert (flip["unable"], free["unable"]) == ("torchtitan", "")
    assert flip["plan"]["precision"] == "fp8"
    assert flip["gain"] > 1.1


def test_costs_on_two_bases_are_told_apart() -> None:
    asked = ("plan", "--model", "gpt2", "--site", "8xH100-SXM", "--set", "application.tokens=1e9")
    assert "each a cost of ownership" in " ".join(datahall(*asked).stdout.split())
    stated = " ".join(datahall(*asked, "--set", "site.price_per_device_hour=3").stdout.split())
    assert "cost of ownership" not in stated
    text = datahall(*asked, "--ask", "hardware").stdout
    assert re.search(r"8 x B200 .* \$[\d.,]+\* ", text), text
    assert not re.search(r"x (A100|TPU|L40S).*\*", text), text
    assert "*: at the cost of ownership" in " ".join(text.split())


def test_a_search_of_hardware_that_ended_at_its_own_cap_says_so() -> None:
    asked = ("plan", "--model", "gpt2", "--site", "8xTPU-v5e", "--ask", "hardware", "--set", "application.tokens=1e9")
    asked += ("--set", "application.precision=int8")  # which few kinds have
    rich = (*asked, "--set", "goal.budget=2000 USD")
    text = " ".join(datahall(*rich).stdout.split())
    assert re.search(r"\d+ of \d+ are on 128 devices, the most that were tried: that cap ended .* not money,", text)
    answer = json.loads(datahall(*rich, "--json").stdout)
    assert answer["most_devices"] == 128
    assert all(offer["most_tried"] == (offer["devices"] == 128) for offer in answer["offers"])
    assert any(offer["most_tried"] for offer in answer["offers"])
    assert "the most that were tried" not in datahall(*asked).stdout


def flips_of(*more: str) -> dict[str, Any]:
    asked = ("plan", "--model", "llama-3.1-8b", "--site", "8xH100-SXM", "--set", "application.tokens=1e9", "--json")
    return {flip["change"]: flip for flip in json.loads(datahall(*asked, *more).stdout)["flips"]}


def test_a_plan_for_a_model_that_code_builds_says_what_it_is_a_plan_of() -> None:
    assert "for a transformer of the stated shape" in datahall("plan", OWN_MODEL).stderr


@pytest.mark.parametrize(
    ("question", "more", "keys"),
    [
        ("site", ("--set", "application.tokens=15e9", "--set", "goal.deadline=9 days"), {"deadline_s", "offer"}),
        ("hardware", (), {"offers"}),
        ("link", (), {"enough", "smallest_bytes_per_s", "steps"}),
        ("checkpoint", (), {"interval_s", "interval_steps", "lost_shares"}),
        ("scaling", (), {"sizes", "worth_devices"}),
    ],
)
def test_other_questions_answer_in_words_and_in_json(question: str, more: tuple[str, ...], keys: set[str]) -> None:
    asked = ("plan", "--model", "llama-3.1-8b", "--site", "4x8xA40", *more, "--ask", question)
    text = datahall(*asked).stdout
    assert 0 < max(len(line) for line in text.splitlines()) <= 100
    answer = json.loads(datahall(*asked, "--json").stdout)
    assert answer["format_version"] == 1
    assert answer["question"] == question
    assert keys <= set(answer)
    assert bare_figures(answer) == []
    assert "90 %" in text
    for label in ("assumed", "catalogue", "transferred"):
        assert (label in json.dumps(answer)) == (label in text), label


@pytest.mark.parametrize("goal", ["time", "cost", "energy"])
@pytest.mark.parametrize("question", ["site", "hardware", "link", "exchange", "checkpoint", "scaling"])
def test_every_question_answers_in_json_under_every_goal(question: str, goal: str) -> None:
    asked = ("plan", "--model", "gpt2", "--site", "2x8xA40", "--set", "application.tokens=1e9", "--ask", question)
    answer = json.loads(datahall(*asked, "--set", f"goal.minimise={goal}", "--json").stdout)
    assert answer["question"] == question
    assert bare_figures(answer) == []


def bare_figures(answer: Any, path: str = "") -> list[str]:
    """Paths of times, costs and energies that a forecast made and that have no interval and label beside them."""
    if isinstance(answer, list):
        return [bare for item in answer for bare in bare_figures(item, path)]  # pyright: ignore[reportUnknownVariableType]
    if not isinstance(answer, dict):
        return []
    known = {metric["name"]: metric for metric in answer.get("metrics", [])}
    for metric in known.values():
        assert metric["low"] <= metric["value"] <= metric["high"]
        assert metric["label"] in ("measured", "calibrated", "transferred", "catalogue", "assumed")
    named = {"total_s": "total_time", "cost_usd": "cost", "energy_j": "energy", "step_s": "step_time"}
    named |= {"write_s": "checkpoint_write", "stall_s": "checkpoint", "slowed_s": "checkpoint_slowing"}
    named |= {"interval_s": "interval"} if "metrics" in answer else {}
    bare = [path + key for key, name in named.items() if key in answer and name not in known]
    bare = [found for found in bare if f"low_{found.rpartition('.')[2]}" not in answer or "label" not in answer]
    return bare + [inner for key, value in answer.items() for inner in bare_figures(value, f"{path}{key}.")]


def test_neighbours_that_may_be_the_other_way_round_are_marked() -> None:
    asked = ("plan", "--model", "gpt2", "--site", "8xTPU-v5e", "--ask", "hardware", "--set", "application.tokens=1e9")
    asked += ("--set", "application.precision=int8")
    answer, text = json.loads(datahall(*asked, "--json").stdout), datahall(*asked).stdout
    ends = [next(one for one in offer["metrics"] if one["name"] == "total_time") for offer in answer["offers"]]
    told = [False, *(one["high"] >= other["low"] for one, other in pairwise(ends))]
    assert [offer["overlaps_previous"] for offer in answer["offers"]] == told
    assert [line[0] == "≈" for line in text.splitlines() if " x TPU" in line] == told
    assert [offer["overlaps_first"] for offer in answer["offers"]] == [
        place > 0 and ends[0]["high"] >= one["low"] for place, one in enumerate(ends)
    ]


def test_a_site_for_a_deadline_says_with_what_chance_and_which_one_keeps_it_nearly_always() -> None:
    asked = ("plan", *SITE, "--set", "application.tokens=15e9", "--set", "goal.deadline=9 days", "--ask", "site")
    answer, text = json.loads(datahall(*asked, "--json").stdout), " ".join(datahall(*asked).stdout.split())
    assert 0.0 < answer["chances"]["deadline"] < 0.9
    assert f"the deadline {100 * answer['chances']['deadline']:.0f} %" in text
    assert answer["at_90th_percentile"]["nodes"] > answer["offer"]["nodes"]
    assert f"{answer['at_90th_percentile']['nodes']} nodes keep the deadline at the 90th percentile too, in " in text
    site = ("plan", "--model", "llama-3.1-8b", "--site", answer["offer"]["site"], "--set", "application.tokens=15e9")
    forecast = json.loads(datahall(*site, "--json").stdout)["forecast"]["metrics"]
    assert [metric for metric in forecast if metric["name"] == "total_time"] == [answer["offer"]["metrics"][0]]


def test_of_several_bounds_it_says_which_one_the_90th_percentile_keeps_and_no_chance_is_certain() -> None:
    asked = ("plan", *SITE, "--set", "application.tokens=1e9", "--set", "goal.deadline=20 days", "--ask", "site")
    asked += ("--set", "goal.budget=1e6 USD")
    text = " ".join(datahall(*asked).stdout.split())
    assert "Chance to keep the deadline over 99 %, the budget over 99 %. They keep the deadline at the 90th" in text
    hurried = ("plan", *SITE, "--set", "application.tokens=15e9", "--set", "goal.deadline=9 days", "--ask", "site")
    text = " ".join(datahall(*hurried, "--set", "goal.budget=1e6 USD").stdout.split())
    kept = r"nodes keep the deadline at the 90th percentile too, in [^;]*; with them the budget over 99 %\."
    assert re.search(kept, text)


def test_however_little_checkpoints_lose_it_is_a_figure_and_a_stated_failure_rate_is_exact() -> None:
    asked = ("plan", "--model", "gpt2", "--site", "1xA40", "--ask", "checkpoint")
    text = " ".join(datahall(*asked).stdout.split())
    assert " 0.00 %" not in text
    assert "nobody stated how often, so half to double is assumed." in text
    assert "by Daly; Young says" in text
    stated = " ".join(datahall(*asked, "--set", "site.mtbf_per_device=5 years").stdout.split())
    assert re.search(r"some device fails every [\d,.]+ days\. ", stated)


def test_every_trade_off_has_its_intervals() -> None:
    answer = json.loads(datahall("plan", *SITE, "--json").stdout)
    assert len(answer["front"]) > 1
    assert bare_figures({"front": answer["front"]}) == []
    both = [
        (point, {metric["name"]: metric for metric in split["metrics"]})
        for point in answer["front"]
        for split in answer["splits"]
        if point["plan"] == split["plan"]
    ]
    assert both
    assert all(metric == known[metric["name"]] for point, known in both for metric in point["metrics"])
    text = datahall("plan", *SITE).stdout
    table = text[text.index("Trade-offs") :]
    assert re.search(r"−\d+ \+\d+ %", table)
    assert "by them alone their order is not known" in " ".join(table.split())


def test_planning_imports_no_framework() -> None:
    text = "import sys; from datahall.ui.cli import main\ntry: main(sys.argv[1:])\nexcept SystemExit: pass\n"
    text += "bad = {'torch', 'ray', 'pandas', 'scipy', 'altair'} & set(sys.modules); assert not bad, bad"
    subprocess.run([sys.executable, "-c", text, "plan", *SITE], check=True, capture_output=True)
    lazy = "import sys, datahall; assert 'numpy' not in sys.modules; datahall.plan; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", lazy], check=True)


def test_planning_needs_no_extra_and_neither_does_the_help_of_any_verb() -> None:
    """What `pip install .` alone brings is enough to plan; extras are missing as if they were not installed."""
    extras = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]
    named = {re.split(r"[^A-Za-z0-9_-]", one)[0].replace("-", "_") for extra in extras.values() for one in extra}
    missing = sorted(named - {"datahall"} | {"vl_convert"})
    text = f"import sys\nfor name in {missing}: sys.modules[name] = None\n"
    plan = text + "from datahall.ui.cli import main; main(sys.argv[1:])"
    done = subprocess.run([sys.executable, "-c", plan, "plan", *SITE], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    helped = text + "from datahall.ui.cli import VERBS, datahall\n"
    helped += "for verb in VERBS: datahall.main([verb, '--help'], standalone_mode=False)"
    done = subprocess.run([sys.executable, "-c", helped], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
