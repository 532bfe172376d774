"""Offers within a call and session timers, by messages written by hand."""

from __future__ import annotations

import pytest
from fakes.sip_phones import ANSWER, HELD, HOLD, OFFER, Bench, calling, confirmed, invite, reply, within

from offhook.providers.sip.events import Ended, OfferAnswered, OfferReceived
from offhook.providers.sip.message import Request, Response

SDP = "Content-Type: application/sdp"
CONTACT = "Contact: <sip:alice@10.0.0.1:5060>"


def up(bench: Bench, *fields: tuple[str, str], **more: object) -> Request:
    """Place a call that is answered; gives the INVITE."""
    request = calling(bench, **more)
    allow = ("Allow", "INVITE, ACK, BYE, UPDATE")
    bench.feed(reply(request, 200, "b1", allow, *fields, sdp=ANSWER))
    bench.sent()
    return request


@pytest.mark.parametrize("method", ["INVITE", "UPDATE"])
def test_hold_by_the_peer(method: str) -> None:
    bench = Bench()
    ok = confirmed(bench)
    moved = "Contact: <sip:alice@10.0.0.1:5999>"
    bench.feed(within(method, ok, 8, moved, SDP, body=HOLD.decode()))
    assert bench.of(OfferReceived)[0].sdp == HOLD
    bench.calls[0].answer_offer(HELD, now=bench.now)
    held = bench.responses()[-1]
    assert (held.status, held.body, held.cseq.method) == (200, HELD, method)
    assert str(held.contact) == "<sip:10.0.0.2:5060>"
    if method == "INVITE":
        assert [at for at, _ in bench.wait(2)] == [0.5, 1.5]
        bench.feed(within("ACK", ok, 8))
    assert bench.wait(40) == []
    bench.calls[0].hang_up(now=bench.now)
    assert bench.requests("BYE")[0].uri == "sip:alice@10.0.0.1:5999"


def test_reinvite_that_is_not_acknowledged_ends_the_call() -> None:
    bench = Bench()
    ok = confirmed(bench)
    bench.feed(within("INVITE", ok, 8, CONTACT, SDP, body=HOLD.decode()))
    bench.calls[0].answer_offer(HELD, now=bench.now)
    bench.wait(33)
    assert (bench.of(Ended)[0].by, bench.of(Ended)[0].cause) == ("timer", "no ACK for a re-INVITE")


def test_reinvite_on_top_of_another() -> None:
    bench = Bench()
    ok = confirmed(bench)
    bench.feed(within("INVITE", ok, 8, CONTACT, SDP, body=HOLD.decode()))
    bench.feed(within("INVITE", ok, 9, CONTACT, SDP, body=HOLD.decode()))
    bench.feed(within("UPDATE", ok, 10, CONTACT, SDP, body=HOLD.decode()))
    refusals = [r for r in bench.responses() if r.status != 100]
    assert [(r.status, r.cseq.number) for r in refusals] == [(500, 9), (500, 10)]
    assert all(0 <= int(r.headers.get("Retry-After") or "") <= 10 for r in refusals)
    bench.calls[0].answer_offer(HELD, now=bench.now)
    bench.feed(within("INVITE", ok, 11, CONTACT, SDP, body=HOLD.decode()))
    assert [(r.status, r.cseq.number) for r in bench.responses()] == [(200, 8), (491, 11)]
    assert len(bench.of(OfferReceived)) == 1


def test_reinvite_asks_for_a_full_offer() -> None:
    bench = Bench()
    ok = confirmed(bench)
    bench.feed(within("INVITE", ok, 8, CONTACT))
    assert bench.of(OfferReceived)[0].sdp is None
    bench.calls[0].answer_offer(OFFER, now=bench.now)
    assert bench.responses()[-1].body == OFFER
    bench.feed(within("ACK", ok, 8, SDP, body=ANSWER.decode()))
    assert bench.of(OfferAnswered)[0].sdp == ANSWER


def test_answer_that_makes_no_sense() -> None:
    bench = Bench()
    ok = confirmed(bench)
    bench.feed(within("INVITE", ok, 8, CONTACT, SDP, body=HOLD.decode()))
    for sdp, status in ((None, 200), (HELD, 488), (None, 180)):
        with pytest.raises(ValueError, match="an answer has SDP"):
            bench.calls[0].answer_offer(sdp, status, now=bench.now)
    bench.calls[0].answer_offer(None, 488, now=bench.now)
    assert bench.responses()[-1].status == 488


def test_update_without_sdp_refreshes_and_one_with_something_else_does_not() -> None:
    bench = Bench()
    ok = confirmed(bench)
    bench.feed(within("UPDATE", ok, 8, "Contact: <sip:alice@10.0.0.1:5777>"))
    bench.feed(within("UPDATE", ok, 9, CONTACT, "Content-Type: text/plain", body="hello"))
    assert [r.status for r in bench.responses()] == [200, 415]
    assert bench.calls[0].dialog.target == "sip:alice@10.0.0.1:5777"
    assert not bench.of(OfferReceived)


def test_glare() -> None:
    bench = Bench()
    request = up(bench)
    session = bench.calls[0]
    session.offer(HOLD, bench.now)
    (ours,) = bench.requests("INVITE")
    theirs = f"""INVITE sip:alice@10.0.0.2 SIP/2.0
Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK-re
From: <sip:bob@10.0.0.1>;tag=b1
To: {request.headers.get("From")}
Call-ID: {request.call_id}
CSeq: 1 INVITE
Contact: <sip:b1@10.0.0.1:5060>
{SDP}

{HOLD.decode()}"""
    bench.feed(theirs)
    assert [r.status for r in bench.responses()] == [491]
    bench.feed(reply(ours, 491))
    assert len(bench.requests("ACK")) == 1
    found = [(at, m) for at, m in bench.wait(4.1) if isinstance(m, Request) and m.method == "INVITE"]
    at, again = found[0]
    assert 2.1 <= at <= 4.0
    assert (again.body, again.cseq.number) == (HOLD, ours.cseq.number + 1)
    bench.feed(reply(again, 200, "b1", sdp=HELD))
    assert bench.requests("ACK")[0].cseq.number == again.cseq.number
    bench.feed(reply(again, 200, "b1", sdp=HELD))
    assert len(bench.requests("ACK")) == 1
    assert [event.sdp for event in bench.of(OfferAnswered)] == [HELD]


def test_last_of_several_offers_is_sent() -> None:
    bench = Bench()
    up(bench)
    session = bench.calls[0]
    session.offer(HOLD, bench.now)
    session.offer(ANSWER, bench.now)
    session.offer(OFFER, bench.now)
    (first,) = bench.requests("INVITE")
    bench.feed(reply(first, 200, "b1", sdp=HELD))
    (second,) = bench.requests("INVITE")
    assert second.body == OFFER


def test_offer_before_the_answer_waits() -> None:
    bench = Bench()
    request = calling(bench)
    bench.calls[0].offer(HOLD, bench.now)
    assert bench.sent() == []
    bench.feed(reply(request, 200, "b1", sdp=ANSWER))
    (reinvite,) = bench.requests("INVITE")
    assert reinvite.body == HOLD


@pytest.mark.parametrize("status", [481, 408])
def test_reinvite_to_a_peer_that_lost_the_call(status: int) -> None:
    bench = Bench()
    up(bench)
    bench.calls[0].offer(HOLD, bench.now)
    (ours,) = bench.requests("INVITE")
    bench.feed(reply(ours, status))
    assert bench.of(Ended)[0].by == ("protocol" if status == 481 else "transport")
    assert bench.requests("BYE")


def test_reinvite_that_gets_only_a_100_is_cancelled() -> None:
    bench = Bench()
    up(bench)
    bench.calls[0].offer(HOLD, bench.now)
    (ours,) = bench.requests("INVITE")
    bench.feed(reply(ours, 100, ""))
    found = [(at, m) for at, m in bench.wait(33) if isinstance(m, Request)]
    assert (found[0][0], found[0][1].method) == (32.0, "CANCEL")
    bench.feed(reply(ours, 487))
    assert (bench.of(OfferAnswered)[0].sdp, bench.of(OfferAnswered)[0].status) == (None, 487)
    assert bench.calls[0].confirmed


def test_offer_by_update_falls_back_to_reinvite() -> None:
    bench = Bench()
    up(bench)
    bench.calls[0].offer(HOLD, bench.now, update=True)
    (update,) = bench.requests("UPDATE")
    bench.feed(reply(update, 405))
    ((_, again),) = bench.wait(0)
    assert isinstance(again, Request)
    assert (again.method, again.body) == ("INVITE", HOLD)


def test_answer_without_sdp_fails_the_offer() -> None:
    bench = Bench()
    up(bench)
    bench.calls[0].offer(HOLD, bench.now)
    (ours,) = bench.requests("INVITE")
    bench.feed(reply(ours, 200, "b1"))
    assert (bench.of(OfferAnswered)[0].sdp, bench.of(OfferAnswered)[0].status) == (None, 200)


# --- session timers -------------------------------------------------------------------


def test_interval_that_is_too_small() -> None:
    bench = Bench()
    bench.feed(invite("Supported: timer", "Session-Expires: 60"))
    assert bench.take() is None
    (refusal,) = bench.responses()
    assert (refusal.status, refusal.headers.get("Min-SE")) == (422, "90")


def test_we_refresh_at_half_the_interval() -> None:
    bench = Bench()
    ok = confirmed(bench, "Supported: timer", "Session-Expires: 1800;refresher=uas", "Allow: INVITE, ACK, BYE")
    assert ok.headers.get("Session-Expires") == "1800;refresher=uas"
    assert "timer" not in ok.options("Require")
    found = bench.wait(901)
    ((at, refresh), *_) = found
    assert isinstance(refresh, Request)
    assert (round(at), refresh.method, refresh.body) == (900, "INVITE", ANSWER)
    assert refresh.headers.get("Session-Expires") == "1800;refresher=uac"
    bench.feed(reply(refresh, 200, "a1", ("Session-Expires", "1800;refresher=uac"), sdp=OFFER))
    assert len(bench.requests("ACK")) == 1
    assert not bench.of(OfferAnswered)  # nothing has changed
    ((at, _), *_) = bench.wait(905)
    assert round(at) == 900


def test_peer_that_should_refresh_and_does_not() -> None:
    bench = Bench()
    ok = confirmed(bench, "Supported: timer", "Session-Expires: 1800;refresher=uac")
    assert ok.headers.get("Session-Expires") == "1800;refresher=uac"
    assert "timer" in ok.options("Require")
    found = bench.wait(1800)
    (at, bye) = found[0]
    assert isinstance(bye, Request)
    assert (round(at), bye.method) == (1768, "BYE")
    assert (bye.headers.get("Reason") or "").startswith("Q.850;cause=102")
    assert bench.of(Ended)[0].by == "timer"


def test_peer_that_refreshes_keeps_the_call() -> None:
    bench = Bench()
    ok = confirmed(bench, "Supported: timer", "Session-Expires: 180;refresher=uac")
    for number in range(8, 20):
        bench.wait(90)
        bench.feed(within("UPDATE", ok, number, CONTACT, "Supported: timer", "Session-Expires: 180;refresher=uac"))
        assert bench.responses()[-1].headers.get("Session-Expires") == "180;refresher=uac"
    assert not bench.of(Ended)
    bench.feed(within("UPDATE", ok, 30, CONTACT, "Supported: timer", "Session-Expires: 20"))
    assert bench.responses()[-1].status == 422


def test_refresh_by_update_and_its_failures() -> None:
    bench = Bench()
    up(bench, ("Session-Expires", "1800;refresher=uac"))
    ((at, update), *_) = bench.wait(900)
    assert isinstance(update, Request)
    assert (round(at), update.method, update.body) == (900, "UPDATE", b"")
    bench.feed(reply(update, 503))
    found = [(at, m) for at, m in bench.wait(435) if isinstance(m, Request)]
    assert (round(found[0][0]), found[0][1].method) == (434, "UPDATE")  # half of what is left
    bench.feed(reply(found[0][1], 481))
    assert bench.of(Ended)[0].by == "protocol"


def test_peer_without_session_timers() -> None:
    bench = Bench()
    up(bench)
    assert [m for _, m in bench.wait(10_000) if isinstance(m, Request | Response)] == []
    assert bench.calls[0].confirmed
