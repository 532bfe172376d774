"""Session timers on their own; within calls they are in test_invite_offers."""

from __future__ import annotations

from math import inf

import pytest

from offhook.providers.sip.message import BadMessage, Headers, Request, Response
from offhook.providers.sip.session_timer import CEILING, SessionTimer, parse_min_se, parse_session_expires


def request(**fields: str) -> Request:
    return Request("INVITE", "sip:a@b", headers(fields))


def response(**fields: str) -> Response:
    return Response(200, "", headers(fields))


def headers(fields: dict[str, str]) -> Headers:
    return Headers((name.replace("_", "-"), value) for name, value in fields.items())


def test_reading() -> None:
    assert parse_session_expires("1800") == (1800, "")
    assert parse_session_expires(" 90 ; refresher=UAS;x") == (90, "uas")
    assert parse_session_expires("99;refresher=me") == (99, "")
    assert parse_session_expires("4000000000") == (CEILING, "")
    assert parse_min_se(Headers()) == 90
    assert parse_min_se(Headers([("Min-SE", "120;x=1")])) == 120
    assert parse_min_se(Headers([("Min-SE", "5")])) == 90
    for value in ("", "soon", "-1", "99999999999999"):
        with pytest.raises(BadMessage):
            parse_session_expires(value)
        with pytest.raises(BadMessage):
            parse_min_se(Headers([("Min-SE", value)]))


@pytest.mark.parametrize(
    ("fields", "gives", "ours"),
    [
        ({}, [], False),
        ({"Supported": "timer"}, [("Session-Expires", "1800;refresher=uas")], True),
        ({"Session_Expires": "600"}, [("Session-Expires", "600;refresher=uas")], True),
        (
            {"Supported": "a, timer", "Session_Expires": "600;refresher=uac"},
            [("Require", "timer"), ("Session-Expires", "600;refresher=uac")],
            False,
        ),
        ({"Supported": "timer", "x": "3600"}, [("Session-Expires", "1800;refresher=uas")], True),
        ({"Supported": "timer", "Session_Expires": "7200"}, [("Session-Expires", "1800;refresher=uas")], True),
        (
            {"Supported": "timer", "Session_Expires": "7200", "Min_SE": "3600"},
            [("Session-Expires", "3600;refresher=uas")],
            True,
        ),
    ],
)
def test_terms_as_the_called_side(fields: dict[str, str], gives: list[tuple[str, str]], ours: bool) -> None:
    timer = SessionTimer()
    asked = Request("INVITE", "sip:a@b", headers(fields))
    assert timer.accept(asked, 0.0) == gives
    assert timer.ours is ours
    if gives:
        interval = int(gives[-1][1].partition(";")[0])
        assert timer.refresh_at == (interval / 2 if ours else inf)
        assert timer.expires_at == interval - 32
        assert timer.next_at == min(timer.refresh_at, timer.expires_at)
    else:
        assert timer.next_at == inf


def test_without_a_wish_of_ours() -> None:
    timer = SessionTimer(0)
    assert timer.request_headers() == []
    assert timer.accept(request(Supported="timer"), 0.0) == []
    assert timer.accept(request(Supported="timer", Session_Expires="600"), 0.0)


def test_terms_as_the_calling_side() -> None:
    timer = SessionTimer(600)
    assert timer.request_headers() == [("Session-Expires", "600")]
    timer.settle(response(Session_Expires="600;refresher=uas"), 100.0)
    assert (timer.ours, timer.refresh_at, timer.expires_at) == (False, inf, 668.0)
    assert timer.request_headers() == [("Session-Expires", "600;refresher=uas")]
    timer.settle(response(Session_Expires="90"), 100.0)
    assert (timer.ours, timer.refresh_at, timer.expires_at) == (True, 145.0, 160.0)
    assert timer.request_headers() == [("Session-Expires", "90;refresher=uac")]
    timer.settle(response(Session_Expires="1"), 0.0)
    assert timer.interval == 90  # never so small that it would flood
    timer.settle(response(), 200.0)
    assert timer.next_at == inf


def test_roles_are_those_of_each_request() -> None:
    timer = SessionTimer()
    timer.settle(response(Session_Expires="1800;refresher=uas"), 0.0)
    assert timer.accept(request(Supported="timer", Session_Expires="1800"), 0.0)[-1][1] == "1800;refresher=uac"
    timer.settle(response(Session_Expires="1800;refresher=uac"), 0.0)
    assert timer.accept(request(Supported="timer", Session_Expires="1800"), 0.0)[-1][1] == "1800;refresher=uas"


def test_too_small() -> None:
    timer = SessionTimer(1800, 300)
    assert timer.min_se_header == ("Min-SE", "300")
    assert timer.too_small(request(Supported="timer", Session_Expires="200"))
    assert not timer.too_small(request(Supported="timer", Session_Expires="300"))
    assert not timer.too_small(request(Session_Expires="200"))  # it would not know what a 422 is
    assert not timer.too_small(request(Supported="timer"))
    assert timer.request_headers() == [("Session-Expires", "1800"), ("Min-SE", "300")]


def test_422() -> None:
    timer = SessionTimer(300)
    assert timer.raise_to(response(Min_SE="600"))
    assert timer.request_headers() == [("Session-Expires", "600"), ("Min-SE", "600")]
    assert not timer.raise_to(response(Min_SE="600"))
    assert not timer.raise_to(response())


def test_another_try() -> None:
    timer = SessionTimer()
    timer.settle(response(Session_Expires="1800"), 0.0)
    timer.postpone(900.0)
    assert timer.refresh_at == 900 + (1768 - 900) / 2
    timer.postpone(1767.0)
    assert timer.refresh_at == inf
