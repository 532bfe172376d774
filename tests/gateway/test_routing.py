"""Which agent answers: the most specific route, its hours, and what it may transfer to."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from offhook.gateway.config import Config
from offhook.gateway.routing import Router, may_transfer

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
NIGHT = datetime(2026, 11, 23, 23, tzinfo=UTC)
HOURS = {"timezone": "UTC", "open": {"mon-fri": "09:00-17:00"}}


def router(*routes: dict[str, Any]) -> Router:
    return Router(
        Config.model_validate(
            {
                "public_url": "https://voice.example.com",
                "carriers": {"twilio": {"account_sid": "AC1", "auth_token": "t"}},
                "agents": {"desk": {"kind": "echo"}, "night": {"kind": "echo"}},
                "routes": [{"agent": "desk", **route} for route in routes],
            }
        )
    )


@pytest.mark.parametrize(
    ("called", "number", "reason"),
    [
        ("+15550100", "+15550100", "exact +15550100"),
        ("15550100", "+15550100", "exact +15550100"),
        ("+15550101", "+155501*", "prefix +155501*"),
        ("+15559999", "+1555*", "prefix +1555*"),
        ("+4930", "*", "default"),
        ("sip:Desk@example.com", "sip:desk@example.com", "exact sip:desk@example.com"),
        ("anonymous", "*", "default"),
        ("", "*", "default"),
    ],
)
def test_the_most_specific_route_wins_whatever_the_order(called: str, number: str, reason: str) -> None:
    routes = [{"number": n} for n in ("*", "+1555*", "sip:desk@example.com", "+15550100", "+155501*")]
    for order in (routes, routes[::-1]):
        match = router(*order).route(called, "+1999", NOON)
        assert match.route is not None
        assert (match.route.number, match.agent_name, match.reason, match.is_open) == (number, "desk", reason, True)
        assert match.closed is None


def test_a_number_without_a_route_has_none() -> None:
    match = router({"number": "+1555*"}).route("+4930", "+1999", NOON)
    assert (match.route, match.agent_name, match.reason) == (None, "", "no route has this number")
    assert match.closed is None


def test_outside_the_hours_another_agent_answers() -> None:
    routes = router({"number": "*", "hours": HOURS, "closed": "night"})
    assert routes.route("+1", "+2", NOON).agent_name == "desk"
    match = routes.route("+1", "+2", NIGHT)
    assert (match.agent_name, match.is_open, match.reason) == ("night", False, "default, closed")
    assert match.closed is None


def test_outside_the_hours_a_sentence_or_a_transfer_answers() -> None:
    match = router({"number": "*", "hours": HOURS, "closed": {"say": "We sleep.", "transfer": "+1 555 0199"}}).route(
        "+1", "+2", NIGHT
    )
    assert match.agent_name == ""
    assert match.closed is not None
    assert (match.closed.say, match.closed.transfer) == ("We sleep.", "+15550199")


def test_outside_the_hours_without_a_word_nobody_answers() -> None:
    match = router({"number": "*", "hours": HOURS}).route("+1", "+2", NIGHT)
    assert (match.agent_name, match.closed, match.is_open) == ("", None, False)


def test_transfers_only_where_the_route_allows() -> None:
    route = router({"number": "*", "allow_transfer": ["+15550199", "+4930*"]}).route("+1", "+2", NOON).route
    assert route is not None
    assert [may_transfer(route, to) for to in ("+15550199", "15550199", "+49301", "+1555019", "+900", "")] == [
        True,
        True,
        True,
        False,
        False,
        False,
    ]
    none = router({"number": "*"}).route("+1", "+2", NOON).route
    assert none is not None
    assert not may_transfer(none, "+15550199")
