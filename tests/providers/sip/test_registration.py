"""Registering: what is sent when, and what becomes of each answer."""

from __future__ import annotations

from itertools import count

import pytest

from offhook.providers.sip.digest import verify
from offhook.providers.sip.message import Headers, Request
from offhook.providers.sip.registration import TRANSITIONS, IllegalStepError, Registration, State

CONTACT = "sip:300@192.0.2.1:5060"
CHALLENGE = 'Digest realm="pbx", nonce="{}", algorithm=MD5, qop="auth"'
NOTHING = Headers()


def registration(*registrars: str, **arguments: object) -> Registration:
    numbers = count(1)
    arguments = {"password": "s3cret", "share": lambda: 0.0, "token": lambda: f"token{next(numbers)}", **arguments}
    return Registration(registrars or ("sip:pbx.example.net",), "300", 0.0, **arguments)  # type: ignore[arg-type]


def granted(seconds: int | None = None, **more: str) -> Headers:
    contact = f"<{CONTACT}>" + (f";expires={seconds}" if seconds is not None else "")
    return Headers([("Contact", contact), *((name.replace("_", "-"), value) for name, value in more.items())])


def asks(nonce: str = "n1", *, stale: bool = False, name: str = "WWW-Authenticate") -> Headers:
    return Headers([(name, CHALLENGE.format(nonce) + (", stale=true" if stale else ""))])


def is_signed(request: Request | None, name: str = "Authorization") -> str:
    """The nonce count of credentials that are right."""
    assert request is not None
    value = request.headers.get(name)
    assert value is not None
    assert verify(
        value, "REGISTER", request.uri, lambda user, realm: "s3cret" if (user, realm) == ("300", "pbx") else None
    )
    return value.split("nc=")[1][:8]


def test_every_state_of_the_table_leads_to_the_end() -> None:
    for state, steps in TRANSITIONS.items():
        seen = {state}
        while more := {to for at in seen for to in TRANSITIONS[at].values()} - seen:
            seen |= more
        assert State.REMOVED in seen
        assert set(steps.values()) <= set(TRANSITIONS)


def test_a_register_names_the_domain_the_extension_and_our_address() -> None:
    one = registration("sip:pbx.example.net:5070;transport=tcp", headers=[("User-Agent", "offhook")], expires=600)
    assert (one.next_timer(), one.registrar.params["transport"]) == (0.0, "tcp")
    request = one.start(CONTACT, 0.0)
    assert (request.method, request.uri) == ("REGISTER", "sip:pbx.example.net:5070")
    assert str(request.to) == "<sip:300@pbx.example.net>"
    assert (request.from_.uri, request.from_.tag) == (request.to.uri, "token2")
    assert (request.call_id, str(request.cseq)) == ("token1", "1 REGISTER")
    assert [request.headers.get(name) for name in ("Contact", "Expires", "Max-Forwards", "User-Agent")] == [
        f"<{CONTACT}>",
        "600",
        "70",
        "offhook",
    ]
    assert "Authorization" not in request.headers
    assert str(registration(domain="tenant.example").start(CONTACT, 0.0).to) == "<sip:300@tenant.example>"


def test_a_grant_is_refreshed_before_it_lapses() -> None:
    one = registration()
    first = one.start(CONTACT, 0.0)
    assert (one.next_timer(), one.registered) == (None, False)
    assert one.answered(200, granted(100, Service_Route="<sip:edge.example;lr>"), 1.0) is None
    assert (one.registered, one.until, one.next_timer()) == (True, 101.0, 91.0)
    assert one.service_route == ["<sip:edge.example;lr>"]
    again = one.start(CONTACT, 91.0)
    assert (again.call_id, again.cseq.number, one.registered) == (first.call_id, 2, True)
    one.answered(200, granted(100), 91.1)
    assert one.next_timer() == pytest.approx(181.1)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (granted(), 3600),
        (granted(Expires="120"), 120),
        (granted(60, Expires="120"), 60),
        (NOTHING, 3600),
        (Headers([("Contact", f"<sip:300@192.0.2.7>;expires=10, <{CONTACT}>;expires=77")]), 77),
        (Headers([("Contact", "<sip:300@203.0.113.5:1024>;expires=55")]), 55),
        (Headers([("Contact", '"unreadable'), ("Contact", f"<{CONTACT}>;expires=66")]), 66),
        (Headers([("Contact", "<sip:x@y>, <sip:z@y>"), ("Expires", "44")]), 44),
        (granted(Expires="soon"), 3600),
        (granted(10**9), 7 * 86_400),
    ],
)
def test_how_long_is_read_from_our_own_binding(headers: Headers, expected: int) -> None:
    one = registration()
    one.start(CONTACT, 0.0)
    one.answered(200, headers, 0.0)
    assert one.until == expected


def test_a_tiny_grant_does_not_make_us_ask_all_the_time_and_none_is_a_failure() -> None:
    one = registration()
    one.start(CONTACT, 0.0)
    one.answered(200, granted(1), 0.0)
    assert one.next_timer() == 10.0
    one.start(CONTACT, 10.0)
    assert one.state is State.ASKING  # the binding had lapsed
    one.answered(200, granted(0), 10.0)
    assert (one.state, one.next_timer()) == (State.WAITING, 15.0)
    assert "without a binding" in one.fault


def test_a_challenge_is_answered_and_then_used_without_being_asked() -> None:
    one = registration()
    one.start(CONTACT, 0.0)
    signed = one.answered(401, asks(), 0.1)
    assert is_signed(signed) == "00000001"
    assert signed is not None
    assert signed.cseq.number == 2
    one.answered(200, granted(100), 0.2)
    again = one.start(CONTACT, 90.0)
    assert is_signed(again) == "00000002"
    fresh = one.answered(401, asks("n2", stale=True), 90.1)
    assert is_signed(fresh) == "00000001"
    one.answered(200, granted(100), 90.2)
    assert one.registered


def test_a_proxy_and_the_registrar_may_both_ask() -> None:
    one = registration()
    one.start(CONTACT, 0.0)
    is_signed(one.answered(407, asks(name="Proxy-Authenticate"), 0.1), "Proxy-Authorization")
    both = one.answered(401, asks("n2"), 0.2)
    is_signed(both)
    is_signed(both, "Proxy-Authorization")


@pytest.mark.parametrize(
    "again", [asks("n2"), NOTHING, Headers([("WWW-Authenticate", 'Digest realm="pbx", nonce="n", algorithm=X')])]
)
def test_a_second_challenge_is_a_wrong_password(again: Headers) -> None:
    one = registration()
    one.start(CONTACT, 0.0)
    assert one.answered(401, asks(), 0.1) is not None
    assert one.answered(401, again, 0.2) is None
    assert (one.state, one.fault, one.next_timer()) == (
        State.WAITING,
        "pbx.example.net: wrong user or password (401)",
        300.2,
    )
    assert "Authorization" not in one.start(CONTACT, 300.2).headers


def test_a_nonce_that_is_stale_for_ever_ends_too() -> None:
    one = registration()
    one.start(CONTACT, 0.0)
    sent = 0
    while one.answered(401, asks(f"n{sent}", stale=True), 0.1) is not None:
        sent += 1
    assert (sent, one.state) == (2, State.WAITING)


def test_a_challenge_of_no_use_or_without_a_password_is_not_answered() -> None:
    one = registration()
    one.start(CONTACT, 0.0)
    assert one.answered(401, Headers([("WWW-Authenticate", 'Basic realm="pbx"')]), 0.1) is None
    one = registration(password="")
    one.start(CONTACT, 0.0)
    assert one.answered(401, asks(), 0.1) is None
    assert one.state is State.WAITING


def test_423_asks_for_longer_once() -> None:
    one = registration(expires=60)
    one.start(CONTACT, 0.0)
    longer = one.answered(423, Headers([("Min-Expires", "300")]), 0.1)
    assert longer is not None
    assert longer.headers.get("Expires") == "300"
    assert one.answered(423, Headers([("Min-Expires", "400")]), 0.2) is None
    assert one.state is State.WAITING


@pytest.mark.parametrize("least", ["30", "never", "999999999"])
def test_423_without_sense_is_a_refusal(least: str) -> None:
    one = registration(expires=60)
    one.start(CONTACT, 0.0)
    assert one.answered(423, Headers([("Min-Expires", least)]), 0.1) is None
    assert one.next_timer() == 300.1


def test_a_registrar_that_does_not_answer_is_left_for_the_next_at_once() -> None:
    one = registration("sip:one.example", "sip:two.example")
    one.start(CONTACT, 0.0)
    assert one.answered(408, None, 32.0) is None
    assert (one.next_timer(), one.registrar.host, one.fault) == (32.0, "two.example", "one.example: no answer (408)")
    assert one.start(CONTACT, 32.0).uri == "sip:two.example"
    one.answered(503, Headers([("Retry-After", "60 (busy);duration=3600")]), 33.0)
    assert (one.registrar.host, one.next_timer()) == ("one.example", 93.0)
    one.start(CONTACT, 93.0)
    one.answered(200, granted(100), 93.0)
    assert (one.registrar.host, one.fault) == ("one.example", "")


def test_pauses_double_and_are_forgotten_after_a_success() -> None:
    one = registration()
    now, pauses = 0.0, []
    for _ in range(8):
        one.start(CONTACT, now)
        one.answered(500, None, now)
        due = one.next_timer()
        assert due is not None
        pauses.append(due - now)
        now = due
    assert pauses == [5, 10, 20, 40, 80, 160, 300, 300]
    one.start(CONTACT, now)
    one.answered(200, granted(100), now)
    one.start(CONTACT, now + 90)
    one.answered(500, None, now + 90)
    assert (one.next_timer(), one.registered) == (now + 95, True)
    one.start(CONTACT, now + 95)
    one.answered(500, None, now + 95)
    assert (one.next_timer(), one.registered, one.state) == (now + 105, False, State.WAITING)


def test_refusals_wait_longer_and_longer() -> None:
    one = registration()
    now = 0.0
    for pause in (300, 600, 1200, 2400, 3600, 3600):
        one.start(CONTACT, now)
        one.answered(403, NOTHING, now)
        assert one.next_timer() == now + pause
        now += pause
    assert one.fault == "pbx.example.net: refused (403)"


def test_answers_that_come_late_change_nothing() -> None:
    one = registration()
    one.start(CONTACT, 0.0)
    for value in ("9 REGISTER", "no number"):
        assert one.answered(200, Headers([("CSeq", value)]), 0.1) is None
    assert one.state is State.ASKING
    one.answered(200, Headers([("CSeq", "1 REGISTER")]), 0.1)
    assert one.registered
    one.answered(500, NOTHING, 0.2)
    assert one.registered


def test_the_binding_is_taken_back_at_the_end() -> None:
    one = registration()
    one.start(CONTACT, 0.0)
    one.answered(200, granted(100), 0.1)
    last = one.stop()
    assert last is not None
    assert (last.headers.get("Expires"), last.headers.get("Contact"), one.registered) == ("0", f"<{CONTACT}>", False)
    signed = one.answered(401, asks(), 0.2)
    assert signed is not None
    assert (is_signed(signed), signed.headers.get("Expires")) == ("00000001", "0")
    assert one.answered(200, NOTHING, 0.3) is None
    assert (one.state, one.next_timer()) == (State.REMOVED, None)
    with pytest.raises(IllegalStepError, match="removed has no step stop"):
        one.stop()
    with pytest.raises(IllegalStepError, match="removed has no step start"):
        one.start(CONTACT, 1.0)
    assert one.answered(200, NOTHING, 1.0) is None


def test_stopping_while_asking_takes_back_what_may_have_been_granted() -> None:
    one = registration()
    one.start(CONTACT, 0.0)
    assert one.stop() is not None
    assert one.answered(500, NOTHING, 0.1) is None
    assert one.state is State.REMOVED
    one = registration()
    assert one.stop() is None


def test_a_registration_needs_a_registrar_and_starts_once_at_a_time() -> None:
    with pytest.raises(ValueError, match="needs a registrar"):
        Registration([], "300", 0.0)
    one = Registration(["sip:pbx.example.net"], "300", 0.0)
    one.start(CONTACT, 0.0)
    with pytest.raises(IllegalStepError, match="asking has no step start"):
        one.start(CONTACT, 0.0)
