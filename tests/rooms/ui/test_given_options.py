"""Options of `run` and `exchange` that make no sense are refused before anything starts."""

from __future__ import annotations

from typing import Any

import pytest
from click.testing import CliRunner

from datahall.base.errors import UsageError
from datahall.case import from_model_and_site
from datahall.ui.exchange import exchange
from datahall.ui.given_plan import given_plan


@pytest.mark.parametrize(
    ("split", "said"),
    [
        ("tensor=0", "does not say how to cut"),
        ("pipeline=-1", "does not say how to cut"),
        ("recompute=foo", "none, selective, full"),
        ("schedule=zbv", "gpipe, 1f1b, interleaved"),
        ("context=0", "does not say how to cut"),
    ],
)
def test_a_split_that_cannot_be_is_refused(split: str, said: str) -> None:
    case = from_model_and_site("gpt2", "2xA40", tokens=1e6, global_batch=4, sequence=64)
    with pytest.raises(UsageError, match=said):
        given_plan(case, 2, None, 0, (split,))


@pytest.mark.parametrize(
    ("option", "value"),
    [("--link", "0 Gb/s"), ("--step", "0 s"), ("--parameters", "0"), ("--parameters", "many"), ("--memory", "-1 TB/s")],
)
def test_an_exchange_of_nothing_over_nothing_is_refused(option: str, value: str) -> None:
    given: dict[str, Any] = {"--parameters": "1e9", "--step": "1 s", "--link": "1 Gb/s"} | {option: value}
    done = CliRunner().invoke(exchange, [text for pair in given.items() for text in pair])
    assert isinstance(done.exception, UsageError)
    assert option in str(done.exception)
