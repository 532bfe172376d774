"""What a user agent does with requests that begin nothing, or may not."""

from __future__ import annotations

import pytest
from fakes.sip_phones import ANSWER, Bench, confirmed, invite, within

from offhook.providers.sip import useragent
from offhook.providers.sip.events import Ended, RequestArrived


def outside(method: str, branch: str = "z9hG4bK-o", to: str = "<sip:bob@10.0.0.2>") -> str:
    return f"""{method} sip:bob@10.0.0.2 SIP/2.0
Via: SIP/2.0/UDP 10.0.0.1:5060;branch={branch};rport
From: <sip:alice@10.0.0.1>;tag=x1
To: {to}
Call-ID: outside-{method}
CSeq: 1 {method}
"""


@pytest.mark.parametrize(
    ("method", "status"),
    [("OPTIONS", 200), ("REGISTER", 405), ("MESSAGE", 405), ("FETCH", 501), ("BYE", 481), ("NOTIFY", 481)],
)
def test_requests_that_nobody_serves(method: str, status: int) -> None:
    bench = Bench()
    (arrived,) = bench.feed(outside(method))
    assert isinstance(arrived, RequestArrived)
    assert arrived.request.method == method
    assert bench.sent() == []
    bench.ua.dismiss(arrived.tx, bench.now)
    (response,) = bench.responses()
    assert response.status == status
    assert response.to.tag
    if status == 200:
        assert response.headers.get("Accept") == "application/sdp"
        assert "INVITE" in response.options("Allow")
        assert "timer" in response.options("Supported")
    bench.feed(outside(method))
    assert [again.encode() for again in bench.sent()] == [response.encode()]


def test_owner_answers_by_itself() -> None:
    bench = Bench()
    (arrived,) = bench.feed(outside("OPTIONS"))
    assert isinstance(arrived, RequestArrived)
    bench.ua.respond(arrived.tx, 503, "Draining", [("Retry-After", "30")], now=bench.now)
    bench.ua.respond(arrived.tx, 200, now=bench.now)
    (response,) = bench.responses()
    assert (response.status, response.reason, response.headers.get("Retry-After")) == (503, "Draining", "30")


def test_owner_ignores() -> None:
    bench = Bench()
    bench.feed(invite())
    bench.ua.ignore(bench.of(RequestArrived)[0].tx)
    assert bench.take() is None
    assert bench.sent() == []
    assert len(bench.ua._transactions) == 0


def test_strangers_leave_nothing_behind() -> None:
    bench = Bench()
    tags = set()
    for _ in range(3):
        bench.feed(invite())
        bench.ua.respond(bench.of(RequestArrived)[-1].tx, 401, stranger=True, now=bench.now)
        (challenge,) = bench.responses()
        tags.add(challenge.to.tag)
    assert len(tags) == 1
    assert len(bench.of(RequestArrived)) == 3
    assert len(bench.ua._transactions) == 0
    assert bench.ua._undecided == {}
    assert bench.wait(40) == []


@pytest.mark.parametrize("method", ["INVITE", "BYE", "UPDATE", "CANCEL"])
def test_requests_of_no_dialog_leave_nothing_behind(method: str) -> None:
    bench = Bench()
    tags = set()
    for _ in range(2):
        assert bench.feed(outside(method, to="<sip:bob@10.0.0.2>;tag=guessed")) == []
        (response,) = bench.responses()
        assert response.status == 481
        tags.add(response.to.tag)
    assert tags == {"guessed"}
    assert len(bench.ua._transactions) == 0
    assert bench.wait(40) == []  # an INVITE's 481 that is never acknowledged is not said eleven times


def test_undecided_invites_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(useragent, "MAX_UNDECIDED", 2)
    bench = Bench()
    for number in range(4):
        bench.feed(invite(branch=f"z9hG4bK-{number}", cseq=f"CSeq: {number + 1}"))
    assert len(bench.of(RequestArrived)) == 2
    assert [r.status for r in bench.responses()] == [503, 503]


@pytest.mark.parametrize(
    ("old", "new", "status"),
    [
        ("Contact: <sip:alice@10.0.0.1:5060>\n", "", 400),
        ("Contact: <sip:alice@10.0.0.1:5060>", "Contact: <sip:alice", 400),
        ("INVITE sip:bob@10.0.0.2", "INVITE mailto:bob@10.0.0.2", 416),
        ("CSeq: 7 INVITE", "CSeq: 7 INVITE\nSession-Expires: soon\nSupported: timer", 400),
    ],
)
def test_invites_that_are_broken(old: str, new: str, status: int) -> None:
    bench = Bench()
    bench.feed(invite().replace(old, new))
    assert bench.take() is None
    assert [r.status for r in bench.responses()] == [status]
    assert not bench.ua.sessions


def test_broken_request_in_a_call() -> None:
    bench = Bench()
    ok = confirmed(bench)
    bench.feed(within("REFER", ok, 8))
    bench.feed(within("UPDATE", ok, 9, "Contact: <sip:broken"))
    assert [r.status for r in bench.responses()] == [400, 400]
    assert bench.calls[0].confirmed


def replacing(bench: Bench, value: str) -> list[int]:
    """Bring an INVITE with Replaces; gives the statuses of what was answered."""
    bench.sent()
    count = len(bench.of(RequestArrived))
    bench.feed(invite(f"Replaces: {value}", branch=f"z9hG4bK-r{count}", cseq=f"CSeq: {50 + count}"))
    bench.take()
    return [r.status for r in bench.responses()]


def test_replaces() -> None:
    bench = Bench()
    ok = confirmed(bench)
    old = bench.calls[0]
    name = f"{ok.call_id};to-tag={old.dialog.local_tag};from-tag=a1"
    assert replacing(bench, "nothing;to-tag=1;from-tag=2") == [481]
    assert replacing(bench, f"{name};early-only") == [486]
    assert replacing(bench, "broken") == [400]
    assert replacing(bench, f"{name}\nReplaces: {name}") == [400]
    assert replacing(bench, name) == [100]
    new = bench.calls[-1]
    assert new.replaces is old
    new.answer(ANSWER, now=bench.now)
    old.hang_up(now=bench.now)
    assert replacing(bench, name) == [603]
    bench.wait(0)
    assert bench.of(Ended)[0].session is old


def test_replaces_of_a_call_that_rings_here() -> None:
    bench = Bench()
    bench.feed(invite())
    session = bench.take()
    assert session is not None
    name = f"{session.request.call_id};to-tag={session.dialog.local_tag};from-tag=a1"
    assert replacing(bench, name) == [481]


def test_events_wait_for_the_next_tick_or_a_question() -> None:
    bench = Bench()
    confirmed(bench)
    bench.calls[0].hang_up(now=bench.now)
    assert bench.ua.next_timer() == 0.0
    assert [type(event) for event in bench.ua.events()] == [Ended]
    assert bench.ua.next_timer() != 0.0
    assert bench.ua.events() == []
