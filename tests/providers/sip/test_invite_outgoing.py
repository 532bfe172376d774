"""Calls that go out, by messages written by hand."""

from __future__ import annotations

import pytest
from fakes.sip_phones import ANSWER, HOLD, OFFER, Bench, calling, reply

from offhook.providers.sip.events import (
    Answered,
    Ended,
    OfferReceived,
    Progressed,
    Refused,
    RequestDone,
)
from offhook.providers.sip.headers import NameAddr
from offhook.providers.sip.hop import Hop
from offhook.providers.sip.message import Headers, Message, Request
from offhook.providers.sip.transfer import Replaces
from offhook.providers.sip.uri import Uri


def methods(messages: list[Message]) -> list[str]:
    return [message.method if isinstance(message, Request) else str(message.status) for message in messages]


def test_invite_is_complete() -> None:
    bench = Bench()
    invite = calling(bench, headers=[("X-Call", "7")], route=["<sip:10.0.0.9;lr>"])
    assert invite.uri == "sip:bob@10.0.0.1"
    assert invite.headers.get("Route") == "<sip:10.0.0.9;lr>"
    assert invite.headers.get("Max-Forwards") == "70"
    assert invite.headers.get("X-Call") == "7"
    assert invite.from_.display == "Alice"
    assert invite.from_.tag
    assert not invite.to.tag
    assert {"100rel", "timer", "replaces"} <= invite.options("Supported")
    assert invite.headers.get("Session-Expires") == "1800"
    assert invite.body == OFFER
    assert len(invite.encode()) < 1300  # RFC 3261 section 18.1.1


def test_2xx_that_comes_again_is_acknowledged_again() -> None:
    bench = Bench()
    invite = calling(bench)
    bench.feed(reply(invite, 200, sdp=ANSWER))
    (ack,) = bench.requests("ACK")
    assert (ack.uri, ack.cseq.number, ack.to.tag) == ("sip:b1@10.0.0.1:5060", invite.cseq.number, "b1")
    assert ack.top_via.branch != invite.top_via.branch
    for _ in range(3):
        bench.feed(reply(invite, 200, sdp=ANSWER))
    again = bench.requests("ACK")
    assert [message.encode() for message in again] == [ack.encode()] * 3
    assert len(bench.of(Answered)) == 1


def test_other_phone_that_answers_too_is_hung_up() -> None:
    bench = Bench()
    invite = calling(bench)
    bench.feed(reply(invite, 180, "b1"))
    bench.feed(reply(invite, 183, "b2", sdp=OFFER))
    bench.feed(reply(invite, 200, "b2", sdp=ANSWER))
    bench.sent()
    bench.feed(reply(invite, 200, "b1", sdp=ANSWER))
    ack, bye = bench.sent()
    assert isinstance(ack, Request)
    assert isinstance(bye, Request)
    assert (ack.method, ack.uri, ack.to.tag) == ("ACK", "sip:b1@10.0.0.1:5060", "b1")
    assert (bye.method, bye.uri, bye.to.tag) == ("BYE", "sip:b1@10.0.0.1:5060", "b1")
    bench.feed(reply(bye, 200))
    bench.feed(reply(invite, 200, "b1", sdp=ANSWER))
    assert methods(bench.sent()) == ["ACK"]
    assert bench.calls[0].confirmed
    assert bench.calls[0].dialog.remote_tag == "b2"
    assert len(bench.of(Answered)) == 1
    assert len(bench.ua._core._dialogs) == 1


def test_early_media_stands_when_the_2xx_has_no_sdp() -> None:
    bench = Bench()
    invite = calling(bench)
    bench.feed(reply(invite, 183, sdp=ANSWER))
    bench.feed(reply(invite, 200))
    assert (bench.of(Progressed)[0].sdp, bench.of(Answered)[0].sdp) == (ANSWER, ANSWER)


def test_answer_without_sdp_is_hung_up() -> None:
    bench = Bench()
    invite = calling(bench)
    bench.feed(reply(invite, 200))
    assert methods(bench.sent()) == ["ACK", "BYE"]
    assert bench.of(Ended)[0].by == "protocol"


def test_reliable_progress_is_acknowledged_once_and_in_order() -> None:
    bench = Bench()
    invite = calling(bench)
    reliable = ("Require", "100rel")
    first = reply(invite, 183, "b1", reliable, ("RSeq", "41"), sdp=ANSWER)
    bench.feed(first)
    (prack,) = bench.requests("PRACK")
    assert prack.headers.get("RAck") == f"41 {invite.cseq.number} INVITE"
    assert (prack.uri, prack.to.tag) == ("sip:b1@10.0.0.1:5060", "b1")
    bench.feed(reply(prack, 200))
    bench.feed(first)
    bench.feed(reply(invite, 180, "b1", reliable, ("RSeq", "43")))
    assert bench.sent() == []
    bench.feed(reply(invite, 180, "b1", reliable, ("RSeq", "42")))
    assert bench.requests("PRACK")[0].headers.get("RAck") == f"42 {invite.cseq.number} INVITE"
    assert [event.status for event in bench.of(Progressed)] == [183, 180]
    bench.feed(reply(invite, 200, "b1"))
    assert bench.of(Answered)[0].sdp == ANSWER


def test_offer_in_an_early_dialog() -> None:
    bench = Bench()
    invite = calling(bench)
    bench.feed(reply(invite, 183, "b1", ("Require", "100rel"), ("RSeq", "1"), sdp=ANSWER))
    bench.sent()
    update = f"""UPDATE sip:alice@10.0.0.2 SIP/2.0
Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK-u
From: <sip:bob@10.0.0.1>;tag=b1
To: {invite.headers.get("From")}
Call-ID: {invite.call_id}
CSeq: 1 UPDATE
Contact: <sip:b1@10.0.0.1:5061>
Content-Type: application/sdp

{HOLD.decode()}"""
    bench.feed(update)
    assert bench.of(OfferReceived)[0].sdp == HOLD
    bench.calls[0].answer_offer(OFFER, now=bench.now)
    assert [r.status for r in bench.responses()] == [200]
    bench.feed(reply(invite, 200, "b1", contact="<sip:b1@10.0.0.1:5061>"))
    assert bench.requests("ACK")[0].uri == "sip:b1@10.0.0.1:5061"


def test_cancel_waits_for_a_provisional_and_ends_with_487() -> None:
    bench = Bench()
    invite = calling(bench)
    bench.calls[0].hang_up(now=bench.now)
    assert bench.sent() == []
    bench.feed(reply(invite, 100, ""))
    (cancel,) = bench.requests("CANCEL")
    assert (cancel.uri, cancel.cseq.number, cancel.top_via.branch) == (
        invite.uri,
        invite.cseq.number,
        invite.top_via.branch,
    )
    assert cancel.headers.get("Reason") == "Q.850;cause=16"
    bench.feed(reply(cancel, 200))
    bench.feed(reply(invite, 180))
    assert bench.sent() == []
    bench.feed(reply(invite, 487))
    assert methods(bench.sent()) == ["ACK"]
    assert [type(event) for event in bench.events] == [Ended]
    assert bench.calls[0].state == "ended"


def test_answer_that_crosses_the_cancel() -> None:
    bench = Bench()
    invite = calling(bench)
    bench.feed(reply(invite, 180))
    bench.calls[0].hang_up(now=bench.now)
    assert methods(bench.sent()) == ["CANCEL"]
    bench.feed(reply(invite, 200, sdp=ANSWER))
    assert methods(bench.sent()) == ["ACK", "BYE"]
    assert not bench.of(Answered)
    assert not bench.ua.sessions


def test_cancel_that_nobody_answers() -> None:
    bench = Bench()
    invite = calling(bench)
    bench.feed(reply(invite, 180))
    bench.calls[0].hang_up(now=bench.now)
    bench.wait(33)
    assert bench.calls[0].state == "ended"
    assert len(bench.of(Ended)) == 1


def test_challenges() -> None:
    bench = Bench()
    credentials = ("agent", "s3cret")
    invite = calling(bench, credentials=credentials)
    asks = ("Proxy-Authenticate", 'Digest realm="gw", nonce="n1", algorithm=MD5, qop="auth"')
    bench.feed(reply(invite, 407, "x", asks))
    ack, again = bench.sent()
    assert isinstance(again, Request)
    assert methods([ack]) == ["ACK"]
    assert (again.call_id, again.from_.tag) == (invite.call_id, invite.from_.tag)
    assert again.cseq.number == invite.cseq.number + 1
    assert again.top_via.branch != invite.top_via.branch
    assert 'username="agent"' in (again.headers.get("Proxy-Authorization") or "")
    bench.feed(reply(again, 200, sdp=ANSWER))
    (ack2,) = bench.requests("ACK")
    assert ack2.headers.get("Proxy-Authorization") == again.headers.get("Proxy-Authorization")
    assert ack2.cseq.number == again.cseq.number


def test_wrong_password_and_stale_nonce() -> None:
    bench = Bench()
    invite = calling(bench, credentials=("agent", "wrong"))
    asks = ("WWW-Authenticate", 'Digest realm="gw", nonce="n1"')
    stale = ("WWW-Authenticate", 'Digest realm="gw", nonce="n2", stale=true')
    bench.feed(reply(invite, 401, "x", asks))
    (second,) = bench.requests("INVITE")
    bench.feed(reply(second, 401, "x", stale))
    (third,) = bench.requests("INVITE")
    assert third.headers.lines("Authorization") != second.headers.lines("Authorization")
    assert len(third.headers.lines("Authorization")) == 1
    bench.feed(reply(third, 401, "x", stale))
    assert bench.requests("INVITE") == []
    assert bench.of(Refused)[0].status == 401


def test_challenge_without_credentials_or_one_that_cannot_be_read() -> None:
    for credentials, asks in ((None, 'Digest realm="gw", nonce="n1"'), (("a", "b"), "Kerberos x=1")):
        bench = Bench()
        invite = calling(bench, credentials=credentials)
        bench.feed(reply(invite, 401, "x", ("WWW-Authenticate", asks)))
        assert bench.of(Refused)[0].status == 401


def test_interval_too_small_is_asked_again() -> None:
    bench = Bench()
    invite = calling(bench, session_expires=300)
    bench.feed(reply(invite, 422, "x", ("Min-SE", "600")))
    (again,) = bench.requests("INVITE")
    assert (again.headers.get("Session-Expires"), again.headers.get("Min-SE")) == ("600", "600")
    assert again.cseq.number == invite.cseq.number + 1
    bench.feed(reply(again, 422, "x", ("Min-SE", "600")))
    assert bench.of(Refused)[0].status == 422


def test_answer_to_our_lack_of_an_offer() -> None:
    bench = Bench()
    invite = calling(bench, sdp=None)
    assert "100rel" not in invite.options("Supported")
    bench.feed(reply(invite, 200, sdp=OFFER))
    bench.feed(reply(invite, 200, sdp=OFFER))
    assert bench.sent() == []
    assert bench.of(Answered)[0].is_offer
    bench.calls[0].acknowledge(ANSWER, bench.now)
    (ack,) = bench.requests("ACK")
    assert (ack.body, ack.content_type) == (ANSWER, "application/sdp")
    bench.feed(reply(invite, 200, sdp=OFFER))
    assert bench.requests("ACK")[0].body == ANSWER


def test_hang_up_instead_of_an_answer_to_their_offer() -> None:
    bench = Bench()
    invite = calling(bench, sdp=None)
    bench.feed(reply(invite, 200, sdp=OFFER))
    bench.calls[0].hang_up(now=bench.now)
    assert methods(bench.sent()) == ["ACK", "BYE"]


def test_route_set_is_reversed() -> None:
    bench = Bench()
    invite = calling(bench)
    record = ("Record-Route", "<sip:10.3.0.2;lr>, <sip:10.3.0.1;lr>")
    bench.feed(reply(invite, 200, "b1", record, sdp=ANSWER))
    ((_, hop),) = bench.ua.outbox
    (ack,) = bench.requests("ACK")
    assert ack.headers.values("Route") == ["<sip:10.3.0.1;lr>", "<sip:10.3.0.2;lr>"]
    assert hop.host == "10.3.0.1"


def test_redirection_is_told() -> None:
    bench = Bench()
    invite = calling(bench)
    bench.feed(reply(invite, 302, "x", contact="<sip:other@10.0.0.8>"))
    refused = bench.of(Refused)[0]
    assert refused.headers is not None
    assert (refused.status, refused.headers.get("Contact")) == (302, "<sip:other@10.0.0.8>")


def test_peer_that_cannot_be_reached() -> None:
    bench = Bench(transport="tcp")
    calling(bench)
    bench.hear(bench.ua.transport_failed(Hop("tcp", "10.0.0.1", 5060, "10.0.0.2", 5060), bench.now), bench.now)
    assert (bench.of(Refused)[0].status, bench.of(Refused)[0].headers) == (503, None)


def test_broken_responses() -> None:
    bench = Bench()
    invite = calling(bench)
    bench.feed(reply(invite, 183, sdp=ANSWER, contact="<sip:broken"))
    assert bench.events == []
    bench.feed(reply(invite, 200, sdp=ANSWER, contact="<sip:broken"))
    assert (bench.of(Refused)[0].status, bench.of(Refused)[0].headers) == (502, None)
    bench.feed(reply(invite, 200, sdp=ANSWER))  # it is up at the other end, as it turns out
    assert methods(bench.sent()) == ["ACK", "BYE"]
    assert not bench.of(Answered)


@pytest.mark.parametrize("answer", [200, 401, None])
def test_other_requests(answer: int | None) -> None:
    bench = Bench()
    alice = NameAddr.parse("<sip:alice@10.0.0.2>")
    id = bench.ua.request(
        "OPTIONS",
        Uri.parse("sip:10.0.0.1"),
        bench.hop_to("10.0.0.1"),
        local=alice,
        remote=NameAddr.parse("<sip:10.0.0.1>"),
        headers=[("Accept", "application/sdp")],
        credentials=("a", "b"),
        now=bench.now,
    )
    (options,) = bench.requests("OPTIONS")
    assert options.headers.get("Accept") == "application/sdp"
    if answer is None:
        bench.wait(33)
        assert bench.of(RequestDone) == [RequestDone(id, 408, None)]
        return
    bench.feed(reply(options, answer, "x", ("WWW-Authenticate", 'Digest realm="r", nonce="n"')))
    if answer == 401:
        (options,) = bench.requests("OPTIONS")
        assert "Authorization" in options.headers
        bench.feed(reply(options, 200))
    assert (bench.of(RequestDone)[0].id, bench.of(RequestDone)[0].status) == (id, 200)


def test_request_that_is_complete() -> None:
    bench = Bench()
    fields = [
        ("From", "<sip:a@b>;tag=1"),
        ("To", "<sip:a@b>"),
        ("Call-ID", "r"),
        ("CSeq", "4 REGISTER"),
        ("Max-Forwards", "70"),
    ]
    id = bench.ua.send_request(Request("REGISTER", "sip:b", Headers(fields)), bench.hop_to("10.0.0.1"), bench.now)
    (register,) = bench.requests("REGISTER")
    bench.feed(reply(register, 423, "x", ("Min-Expires", "60")))
    done = bench.of(RequestDone)[0]
    assert done.response is not None
    assert (done.id, done.status, done.response.headers.get("Min-Expires")) == (id, 423, "60")


def test_replaces_is_required_of_the_callee() -> None:
    bench = Bench()
    invite = calling(bench, replaces=Replaces("c@x", "t", "f"))
    assert invite.headers.get("Replaces") == "c@x;to-tag=t;from-tag=f"
    assert "replaces" in invite.options("Require")
