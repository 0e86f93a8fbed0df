"""The article's two hardware claims, answered: against which baselines they hold, by forecasts with intervals."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from datahall.base.errors import UnknownName, UsageError
from datahall.ui.claim import claim_command, share_of

CASES = Path(__file__).parents[2] / "cases"


def answer(case: str, *options: str) -> dict:
    result = CliRunner().invoke(claim_command, [str(CASES / case), "--json", *options])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_thirty_percent_less_on_a100s_holds_against_v100s_and_against_other_programs_not_against_h100s():
    said = answer("a100-megatron.yaml", "--against", "V100-32GB-SXM2", "--against", "H100-SXM")
    verdicts = {one["site"].split(" x ")[1]: one for one in said["baselines"]}
    assert verdicts["V100-32GB-SXM2"]["training"] == "holds"
    assert verdicts["H100-SXM"]["training"] == "fails"
    assert verdicts["V100-32GB-SXM2"]["by_memory"] == pytest.approx(2039 / 900)
    assert verdicts["V100-32GB-SXM2"]["by_arithmetic"] == pytest.approx(312 / 125)
    same = said["same_devices_at_mfu"]
    assert same["value"] == pytest.approx(0.7 * said["mfu"]["value"])
    low, _, high = said["published_mfu"]
    assert low < same["value"] < high  # two programs on one A100 differ by as much
    assert same["low"] < 140e12 / 312e12 < same["high"]  # what Megatron-LM published for this run (arXiv 2104.04473)


def test_half_the_time_on_tpus_holds_against_older_chips_and_no_published_run_on_the_same_chip():
    asked = (
        "--training-time=-50%",
        "--inference=+30%",
        "--against",
        "TPU-v3",
        "--against",
        "H100-SXM",
        "--against",
        "B200",
    )
    said = answer("tpu-v5p.yaml", *asked)
    verdicts = {one["site"].split(" x ")[1]: one for one in said["baselines"]}
    assert (verdicts["TPU-v3"]["training"], verdicts["H100-SXM"]["training"]) == ("holds", "fails")
    assert (verdicts["TPU-v3"]["inference"], verdicts["B200"]["inference"]) == ("holds", "fails")
    assert verdicts["B200"]["served"]["low"] < verdicts["B200"]["served"]["value"] < verdicts["B200"]["served"]["high"]
    assert said["same_devices_at_mfu"]["high"] < said["published_mfu"][0]


@pytest.mark.parametrize(
    ("case", "claimed", "title"),
    [("a100-megatron.yaml", "-30%", "1,024 A100s"), ("tpu-v5p.yaml", "-50%", "512 TPU v5p")],
)
def test_the_page_says_what_the_command_says(case: str, claimed: str, title: str):
    said = answer(case, f"--training-time={claimed}")
    whole = (CASES.parent / "docs" / "claims.md").read_text()
    page = next(" ".join(part.split()) for part in whole.split("## ") if part.startswith(title))
    days, mfu, same = said["total_time"], said["mfu"], said["same_devices_at_mfu"]
    run = " to ".join(f"{days[end] / 86400:.1f}" for end in ("low", "high"))
    assert f"The run takes {days['value'] / 86400:.1f} days ({run}) at {100 * mfu['value']:.0f} % MFU" in page
    shares = {end: f"{100 * same[end]:.0f}" for end in ("low", "value", "high")}
    assert f"baseline at {shares['value']} % MFU ({shares['low']} to {shares['high']})" in page
    for one in said["baselines"]:  # of those that the page gives with an interval
        ratio = [1 - one[end] for end in ("saved", "saved_high", "saved_low")]
        if f"({ratio[0]:.2f}, " in page:
            assert "({:.2f}, {:.2f} to {:.2f})".format(*ratio) in page, one["site"]


def test_a_longer_run_is_told_as_a_ratio():
    done = CliRunner().invoke(claim_command, [str(CASES / "a100-megatron.yaml"), "--against", "H100-SXM"])
    assert re.search(r"1024 x H100-SXM +\S+ days +2\.\d\d \(1\.\d\d to 3\.\d\d\)", done.stdout), done.stdout
    assert max(len(line) for line in done.stdout.splitlines()) <= 100


def test_a_claim_that_is_no_percentage_is_refused():
    with pytest.raises(UsageError, match="percentage"):
        share_of("a third")


def test_a_baseline_that_is_not_known_or_too_small_is_named():
    asked = [str(CASES / "a100-megatron.yaml"), "--against", "H100-SXM", "--against", "A101"]
    assert isinstance(CliRunner().invoke(claim_command, asked).exception, UnknownName)
    said = answer("a100-megatron.yaml", "--against", "H100-SXM", "--against", "Xeon-8380", "--against", "Inferentia2")
    assert {one["site"].split(" x ")[1] for one in said["baselines"]} == {"H100-SXM", "Xeon-8380"}
    assert said["unable"] == ["Inferentia2"]
