"""Commands on the links page work, and the command's answers hang together."""

import json
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from datahall.base.errors import UsageError
from datahall.ui.exchange import exchange
from datahall.ui.run import run

PAGE = (Path(__file__).parents[2] / "docs" / "links.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    datahall exchange (.*)$", PAGE, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_page_works(command: str) -> None:
    done = CliRunner().invoke(exchange, shlex.split(command))
    assert done.exit_code == 0, done.output
    assert "Pick:" in done.output


def test_the_slow_link_case_runs_over_loopback(tmp_path: Path) -> None:
    case = Path(__file__).parents[2] / "cases" / "slow-link.yaml"
    words = ["--workers", "2", "--exchange", "local_steps=2", "--steps", "4", "--no-forecast", "--runs", str(tmp_path)]
    done = CliRunner().invoke(run, [str(case), *words])
    assert done.exit_code == 0, done.output
    assert "collective_calls              2" in done.output


def answer(link: str) -> dict[str, dict[str, float]]:
    words = ["--parameters", "1e8", "--step", "0.2 s", "--link", link, "--json"]
    done = CliRunner().invoke(exchange, words)
    assert done.exit_code == 0, done.output
    return {option["candidate"]["name"]: option for option in json.loads(done.output)["options"]}


def test_on_a_fast_link_plain_comes_first_and_below_its_break_even_bf16_beats_plain() -> None:
    assert next(iter(answer("400 Gb/s"))) == "plain"
    slow = answer("1 Gb/s")
    assert slow["bf16"]["break_even_bits_per_s"] > 1e9
    assert slow["bf16"]["equal_loss_s"] < slow["plain"]["equal_loss_s"]


def test_one_host_exchanges_nothing() -> None:
    words = ["--parameters", "1", "--step", "1", "--link", "1 Gb/s", "--hosts", "1"]
    with pytest.raises(UsageError, match="exchanges nothing"):
        CliRunner().invoke(exchange, words, catch_exceptions=False)
