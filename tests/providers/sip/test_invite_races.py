"""What comes at the wrong moment, from either side."""

from __future__ import annotations

import pytest
from fakes.sip_phones import ANSWER, HELD, HOLD, OFFER, Bench, answered, calling, confirmed, invite, reply, within

from offhook.providers.sip import core, transaction
from offhook.providers.sip.core import IllegalStep
from offhook.providers.sip.events import Ended, OfferReceived, ReferReceived, Refused, RequestDone
from offhook.providers.sip.headers import NameAddr
from offhook.providers.sip.hop import Hop
from offhook.providers.sip.message import Request, Response
from offhook.providers.sip.uri import Uri

SDP = "Content-Type: application/sdp"
CONTACT = "Contact: <sip:alice@10.0.0.1:5060>"


def test_hang_up_with_everything_under_way() -> None:
    bench = Bench()
    ok = confirmed(bench)
    bench.feed(within("INVITE", ok, 8, CONTACT, SDP, body=HOLD.decode()))
    bench.feed(within("REFER", ok, 9, "Refer-To: <sip:a@b>"))
    bench.calls[0].refer("sip:c@d", now=bench.now)
    (refer,) = bench.requests("REFER")
    bench.feed(reply(refer, 202, "a1"))
    bench.calls[0].hang_up(now=bench.now)
    sent = bench.sent()
    assert sorted(m.status for m in sent if isinstance(m, Response)) == [487, 603]
    assert [m.method for m in sent if isinstance(m, Request)] == ["BYE"]
    bench.wait(100)
    assert isinstance(bench.events[-1], Ended)
    with pytest.raises(IllegalStep):
        bench.calls[0].accept_refer(bench.of(ReferReceived)[0].tx, bench.now)
    assert bench.of(OfferReceived)


def test_hang_up_while_an_offer_waits_or_is_unacknowledged() -> None:
    bench = Bench()
    ok = confirmed(bench)
    bench.calls[0].offer(HOLD, bench.now)
    (ours,) = bench.requests("INVITE")
    bench.feed(reply(ours, 491, "a1"))
    bench.calls[0].hang_up(now=bench.now)
    bench.sent()
    assert all(not isinstance(m, Request) or m.method != "INVITE" for _, m in bench.wait(10))

    bench = Bench()
    ok = confirmed(bench)
    bench.feed(within("INVITE", ok, 8, CONTACT, SDP, body=HOLD.decode()))
    bench.calls[0].answer_offer(HELD, now=bench.now)
    bench.calls[0].hang_up(now=bench.now)
    bench.sent()
    assert all(not isinstance(m, Response) for _, m in bench.wait(40))


def test_refer_that_is_answered_after_the_hang_up() -> None:
    bench = Bench()
    confirmed(bench)
    bench.calls[0].refer("sip:c@d", now=bench.now)
    (refer,) = bench.requests("REFER")
    bench.calls[0].hang_up(now=bench.now)
    bench.feed(reply(refer, 202, "a1"))
    bench.wait(200)
    assert [type(event) for event in bench.events[-1:]] == [Ended]


def test_offer_that_is_answered_after_the_hang_up_is_acknowledged() -> None:
    bench = Bench()
    confirmed(bench)
    bench.calls[0].offer(HOLD, bench.now)
    (ours,) = bench.requests("INVITE")
    bench.calls[0].hang_up(now=bench.now)
    bench.sent()
    bench.feed(reply(ours, 200, "a1", sdp=HELD))
    assert len(bench.requests("ACK")) == 1


def test_requests_that_cross_a_hang_up_before_the_ack() -> None:
    bench = Bench()
    ok = answered(bench)
    bench.calls[0].hang_up(now=bench.now)
    bench.feed(within("INFO", ok, 8))
    assert [r.status for r in bench.responses()] == [481]
    bench.feed(within("BYE", ok, 9))
    assert [r.status for r in bench.responses()] == [200]
    assert bench.calls[0].state == "ended"
    assert len(bench.of(Ended)) == 1


def theirs(invite: Request, method: str, number: int, *extra: str, body: str = "") -> str:
    """A request of the phone that we have called."""
    lines = [
        f"{method} sip:alice@10.0.0.2 SIP/2.0",
        f"Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK-{method}-{number}",
        "From: <sip:bob@10.0.0.1>;tag=b1",
        f"To: {invite.headers.get('From')}",
        f"Call-ID: {invite.call_id}",
        f"CSeq: {number} {method}",
        *extra,
    ]
    return "\n".join(lines) + "\n\n" + body


def test_requests_in_an_early_dialog_of_ours() -> None:
    bench = Bench()
    request = calling(bench, reliable="required")
    assert "100rel" in request.options("Require")
    bench.feed(reply(request, 180))
    bench.feed(theirs(request, "BYE", 1))
    bench.feed(theirs(request, "PRACK", 2, "RAck: 1 1 INVITE"))
    bench.feed(theirs(request, "UPDATE", 3, CONTACT, SDP, body=HOLD.decode()))
    bench.feed(theirs(request, "INVITE", 4, CONTACT, SDP, body=HOLD.decode()))
    assert [r.status for r in bench.responses()] == [481, 481, 491, 491]
    bench.calls[0].hang_up(now=bench.now)
    bench.sent()
    bench.feed(theirs(request, "BYE", 5))
    assert [r.status for r in bench.responses()] == [200]


def test_early_session_interval_is_minded() -> None:
    bench = Bench()
    ok = confirmed(bench)
    short = ("Supported: timer", "Session-Expires: 20")
    bench.feed(within("INVITE", ok, 8, CONTACT, SDP, *short, body=HOLD.decode()))
    assert [r.status for r in bench.responses()] == [422]
    assert not bench.of(OfferReceived)


def test_refresh_that_wants_a_longer_interval() -> None:
    bench = Bench()
    request = calling(bench)
    bench.feed(reply(request, 200, "b1", ("Session-Expires", "1800;refresher=uac"), sdp=ANSWER))
    bench.sent()
    ((_, refresh), *_) = bench.wait(900)
    assert isinstance(refresh, Request)
    bench.feed(reply(refresh, 422, "b1", ("Min-SE", "3600")))
    found = [m for _, m in bench.wait(0) if isinstance(m, Request) and m.method == "INVITE"]
    assert found[0].headers.get("Session-Expires") == "3600"


def test_info_to_a_peer_that_lost_the_call() -> None:
    bench = Bench()
    confirmed(bench)
    bench.calls[0].info(b"5", "application/dtmf", bench.now)
    (info,) = bench.requests("INFO")
    bench.feed(reply(info, 481, "a1"))
    assert bench.of(Ended)[0].by == "protocol"
    bench.calls[0].dialog.local_number = 0
    with pytest.raises(IllegalStep, match="ended"):
        bench.calls[0].info(b"5", "application/dtmf", bench.now)


def test_late_481_of_a_call_that_is_over() -> None:
    bench = Bench()
    confirmed(bench)
    bench.calls[0].info(b"5", "application/dtmf", bench.now)
    (info,) = bench.requests("INFO")
    bench.calls[0].hang_up(now=bench.now)
    bench.feed(reply(info, 481, "a1"))
    bench.wait(1)
    assert len(bench.of(Ended)) == 1


def test_offer_in_a_prack_at_the_wrong_time() -> None:
    bench = Bench()
    bench.feed(invite("Require: 100rel"))
    session = bench.take()
    assert session is not None
    session.ring(180, now=bench.now)  # without SDP: their offer is still unanswered
    ringing = bench.responses()[-1]
    rack = f"RAck: {ringing.headers.get('RSeq')} 7 INVITE"
    bench.feed(within("PRACK", ringing, 8, rack, SDP, body=OFFER.decode()))
    assert [r.status for r in bench.responses()] == [488]


def test_steps_of_an_inbound_call_that_make_no_sense() -> None:
    bench = Bench()
    bench.feed(invite("Require: 100rel"))
    session = bench.take()
    assert session is not None
    for status in (100, 200):
        with pytest.raises(ValueError, match="101 to 199"):
            session.ring(status, now=bench.now)
    with pytest.raises(ValueError, match="300 to 699"):
        session.refuse(200, now=bench.now)
    session.ring(183, ANSWER, now=bench.now)
    session.answer(ANSWER, now=bench.now)  # waits for the PRACK
    for step in (lambda: session.ring(now=bench.now), lambda: session.answer(ANSWER, now=bench.now)):
        with pytest.raises(IllegalStep):
            step()


def test_steps_of_an_outbound_call_that_make_no_sense() -> None:
    bench = Bench()
    calling(bench)
    session = bench.calls[0]
    for step in (
        lambda: session.ring(now=bench.now),
        lambda: session.answer(ANSWER, now=bench.now),
        lambda: session.refuse(486, now=bench.now),
        lambda: session.acknowledge(ANSWER, bench.now),
        lambda: session.refer("sip:a@b", now=bench.now),
    ):
        with pytest.raises(IllegalStep):
            step()
    assert session.state == "calling"


def test_too_many_requests_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transaction, "MAX_CLIENT", 0)
    bench = Bench()
    bench.call("10.0.0.1", bench.now)
    assert bench.sent() == []
    bench.wait(0)
    assert bench.of(Refused)[0].status == 503


def test_cancel_waits_for_room(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    request = calling(bench)
    bench.feed(reply(request, 180))
    monkeypatch.setattr(transaction, "MAX_CLIENT", 0)
    bench.calls[0].hang_up(now=bench.now)
    assert bench.sent() == []
    assert [type(event) for event in bench.ua.events()] == [Ended]
    monkeypatch.setattr(transaction, "MAX_CLIENT", 10)
    assert [m.method for _, m in bench.wait(4) if isinstance(m, Request)] == ["CANCEL"]


def test_ended_dialogs_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "MAX_ENDED", 2)
    bench = Bench()
    for number in range(4):
        bench.feed(invite(branch=f"z9hG4bK-{number}", cseq=f"CSeq: {number + 1}"))
        session = bench.take()
        assert session is not None
        session.refuse(486, now=bench.now)
    assert len(bench.ua._core._ended) == 2


def test_lost_connection_is_made_anew() -> None:
    bench = Bench(transport="tcp")
    bench.feed(invite(), port=41234)
    session = bench.take()
    assert session is not None
    session.answer(ANSWER, now=bench.now)
    ok = bench.responses()[-1]
    bench.feed(within("ACK", ok, 7), port=41234)
    session.hang_up(now=bench.now)
    ((_, old),) = bench.ua.outbox
    assert old.port == 41234
    bench.sent()
    bench.hear(bench.ua.transport_failed(old, bench.now), bench.now)
    ((data, new),) = bench.ua.outbox
    assert (new.transport, new.host, new.port) == ("tcp", "10.0.0.1", 5060)
    assert data.startswith(b"BYE ")
    bench.hear(bench.ua.transport_failed(new, bench.now), bench.now)
    bench.wait(40)
    assert not bench.ua._core._errands


def test_challenge_that_is_odd() -> None:
    bench = Bench()
    request = calling(bench, credentials=("a", "b"))
    odd = ("WWW-Authenticate", 'Digest "')
    good = ("WWW-Authenticate", 'Digest realm="r", nonce="n"')
    bench.feed(reply(request, 401, "x", odd, good))
    (second,) = bench.requests("INVITE")
    bench.feed(reply(second, 401, "x", odd, good))
    assert bench.of(Refused)[0].status == 401


def test_request_with_a_body() -> None:
    bench = Bench()
    id = bench.ua.request(
        "MESSAGE",
        Uri.parse("sip:10.0.0.1"),
        Hop("udp", "10.0.0.1", 5060, "10.0.0.2", 5060),
        local=NameAddr.parse("<sip:a@b>"),
        remote=NameAddr.parse("<sip:c@d>"),
        body=b"hello",
        content_type="text/plain",
        route=["<sip:proxy;lr>"],
        now=bench.now,
    )
    (message,) = bench.requests("MESSAGE")
    assert (message.body, message.content_type, message.headers.get("Route")) == (
        b"hello",
        "text/plain",
        "<sip:proxy;lr>",
    )
    bench.feed(reply(message, 100, ""))
    assert bench.events == []
    bench.feed(reply(message, 404))
    assert (bench.of(RequestDone)[0].id, bench.of(RequestDone)[0].status) == (id, 404)


def test_refusal_that_nobody_acknowledges() -> None:
    bench = Bench()
    bench.feed(invite())
    session = bench.take()
    assert session is not None
    session.refuse(486, now=bench.now)
    bench.wait(40)
    assert len(bench.of(Ended)) == 1
    assert bench.ua.next_timer() is None


def test_session_timer_that_is_settled_while_it_rings_runs_from_the_answer() -> None:
    timer = ("Supported: timer", "Session-Expires: 90;refresher=uac")
    bench = Bench()
    request = calling(bench)
    bench.feed(reply(request, 180))
    bench.feed(theirs(request, "UPDATE", 1, CONTACT, *timer))
    assert [r.status for r in bench.responses()] == [200]
    bench.wait(150)
    assert not bench.of(Ended)
    bench.feed(reply(request, 200, "b1", ("Session-Expires", "90;refresher=uas"), sdp=ANSWER))
    bench.wait(61)
    assert [event.by for event in bench.of(Ended)] == ["timer"]

    bench = Bench()
    bench.feed(invite())
    session = bench.take()
    assert session is not None
    session.ring(now=bench.now)
    ringing = bench.responses()[-1]
    bench.feed(within("UPDATE", ringing, 8, CONTACT, *timer))
    bench.sent()
    rung = bench.wait(150)
    assert {message.status for _, message in rung if isinstance(message, Response)} == {180}
    assert not any(isinstance(message, Request) for _, message in rung)
    session.answer(ANSWER, now=bench.now)
    assert not bench.of(Ended)


def test_challenge_to_a_request_of_ours_in_a_call_that_came_in() -> None:
    bench = Bench()
    bench.feed(invite())
    session = bench.take(credentials=("agent", "s3cret"))
    assert session is not None
    session.answer(ANSWER, now=bench.now)
    bench.feed(within("ACK", bench.responses()[-1], 7))
    session.hang_up(now=bench.now)
    (bye,) = bench.requests("BYE")
    bench.feed(reply(bye, 407, "a1", ("Proxy-Authenticate", 'Digest realm="pbx", nonce="n", qop="auth"')))
    (again,) = bench.requests("BYE")
    assert (again.headers.get("Proxy-Authorization") or "").startswith('Digest username="agent"')
    assert again.cseq.number == bye.cseq.number + 1
