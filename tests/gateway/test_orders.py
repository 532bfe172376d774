"""What an agent may have done to its call."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from offhook.gateway.config import Route
from offhook.gateway.orders import Orders


def orders(**route: Any) -> Orders:
    return Orders(Route.model_validate({"number": "*", "agent": "desk", **route}))


def test_transfers_are_counted_when_they_are_allowed() -> None:
    mine = orders(allow_transfer=["+1555*"], max_transfers=2)
    for _ in range(3):
        assert mine.transfer("+49301") == "the route does not allow this number"
    assert [mine.transfer("+15551"), mine.transfer("+15552")] == ["", ""]
    assert mine.transfer("+15551") == "the transfers that the route allows a call (2) have been tried"
    assert orders().transfer("+15551") == "the route does not allow this number"
    assert orders(allow_transfer=["*"], max_transfers=0).transfer("+1").endswith("(0) have been tried")


def test_keys_are_counted_without_their_pauses() -> None:
    mine = orders(max_dtmf=6)
    assert mine.dtmf("1ww2w#") == ""
    assert mine.dtmf("1234") == "the route allows 6 keys a call, and 3 are left"
    assert [mine.dtmf("12A"), mine.dtmf("www")] == ["", ""]
    assert mine.dtmf("*") == "the route allows 6 keys a call, and 0 are left"


@pytest.mark.parametrize("digits", ["", "5 5", "e", "a", "W", ",", "1\n", "+1", "1" * 65])
def test_what_is_no_key(digits: str) -> None:
    assert orders().dtmf(digits) == "keys are 0-9, A-D, *, # and w for half a second, at most 64 at a time"


@pytest.mark.parametrize(
    ("allowed", "yes", "no"),
    [
        (True, ["0", "*#AD", "1w2"], []),
        (False, [], ["0", "w"]),
        ([], [], ["0", "w"]),
        (["1", "9xx#", "*."], ["1", "1w", "w1", "950#", "9w9w9#", "*", "*72#"], ["2", "11", "9A0#", "95#", "#*"]),
        (["."], ["1", "*#"], []),
    ],
)
def test_keys_by_pattern(allowed: Any, yes: list[str], no: list[str]) -> None:
    mine = orders(allow_dtmf=allowed)
    assert [mine.dtmf(keys) for keys in yes] == [""] * len(yes)
    assert [mine.dtmf(keys) for keys in no] == ["the route does not allow these keys"] * len(no)


@pytest.mark.parametrize(
    ("allowed", "said"),
    [
        ("maybe", "write true, false, or a list of patterns"),
        ({"1": "2"}, "write true, false, or a list of patterns"),
        (["1", "5-6"], "'5-6' is no pattern of keys; write 0-9, A-D"),
        (["1.2"], "'1.2' is no pattern of keys"),
        ([""], "'' is no pattern of keys"),
        (["1" * 65], "is no pattern of keys"),
    ],
)
def test_a_pattern_that_is_none(allowed: Any, said: str) -> None:
    with pytest.raises(ValidationError) as error:
        orders(allow_dtmf=allowed)
    [fault] = error.value.errors()
    assert fault["loc"] == ("allow_dtmf",)
    assert said in fault["msg"]


def test_how_it_may_be_written() -> None:
    allowed = [
        Route.model_validate({"number": "*", "agent": "a", "allow_dtmf": written}).allow_dtmf
        for written in ("true", "False", False, [1, "9x#"])
    ]
    assert allowed == [True, False, False, ["1", "9X#"]]
