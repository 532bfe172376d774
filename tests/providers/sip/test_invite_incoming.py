"""Calls that come in, by messages written by hand."""

from __future__ import annotations

import pytest
from fakes.sip_phones import ANSWER, OFFER, Bench, answered, confirmed, invite, within

from offhook.providers.sip.core import IllegalStep
from offhook.providers.sip.events import (
    Acked,
    Cancelled,
    Ended,
    InfoReceived,
    OfferAnswered,
    OfferReceived,
    RequestArrived,
)
from offhook.providers.sip.message import Request, Response


def test_repeated_invite_is_one_call() -> None:
    bench = Bench()
    for _ in range(4):
        bench.feed(invite())
    assert len(bench.of(RequestArrived)) == 1
    session = bench.take()
    assert session is not None
    assert (session.direction, session.remote_offer, session.remote_party.display) == ("inbound", OFFER, "Alice")
    session.ring(now=bench.now)
    ringing = bench.responses()[-1]
    bench.feed(invite())
    again = bench.responses()
    assert [response.encode() for response in again] == [ringing.encode()]
    session.answer(ANSWER, now=bench.now)
    (ok,) = bench.responses()
    assert ok.to.tag == ringing.to.tag == session.dialog.local_tag
    for _ in range(3):
        bench.feed(invite())
    assert bench.sent() == []  # RFC 6026: absorbed
    assert len(bench.of(RequestArrived)) == 1


def test_100_carries_no_tag_and_200_what_a_caller_needs() -> None:
    bench = Bench()
    bench.feed(invite("Record-Route: <sip:r1;lr>, <sip:r2;lr>", "Supported: timer"))
    session = bench.take()
    assert session is not None
    (trying,) = bench.responses()
    assert (trying.status, trying.to.tag) == (100, "")
    session.answer(ANSWER, [("X-Agent", "echo")], now=bench.now)
    (ok,) = bench.responses()
    assert ok.status == 200
    assert ok.headers.values("Record-Route") == ["<sip:r1;lr>", "<sip:r2;lr>"]
    assert str(ok.contact) == "<sip:10.0.0.2:5060>"
    assert "UPDATE" in ok.options("Allow")
    assert ok.headers.get("X-Agent") == "echo"
    assert ok.headers.get("Content-Type") == "application/sdp"
    assert ok.body == ANSWER


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_200_is_repeated_until_32_seconds_and_then_hung_up(transport: str) -> None:
    bench = Bench(transport=transport)  # type: ignore[arg-type]
    answered(bench)
    found = bench.wait(40)
    repeated = [at for at, message in found if isinstance(message, Response)]
    assert repeated == [0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5]
    byes = [at for at, message in found if isinstance(message, Request) and message.method == "BYE"]
    assert byes[0] == 32.0
    assert (bench.of(Ended)[0].by, bench.of(Ended)[0].cause) == ("timer", "no ACK")


def test_ack_stops_the_repetition() -> None:
    bench = Bench()
    ok = answered(bench)
    assert [round(at, 1) for at, _ in bench.wait(2)] == [0.5, 1.5]
    bench.feed(within("ACK", ok, 7))
    bench.feed(within("ACK", ok, 7))
    assert len(bench.of(Acked)) == 1
    assert bench.wait(40) == []
    assert bench.calls[0].confirmed


def test_cancel_before_the_answer() -> None:
    bench = Bench()
    bench.feed(invite())
    session = bench.take()
    assert session is not None
    session.ring(now=bench.now)
    bench.sent()
    cancel = invite("Reason: SIP;cause=200;text=elsewhere", body=b"").replace("INVITE", "CANCEL")
    bench.feed(cancel)
    answers = bench.responses()
    assert sorted((r.status, r.cseq.method) for r in answers) == [(200, "CANCEL"), (487, "INVITE")]
    assert len({r.to.tag for r in answers}) == 1  # section 9.2
    assert bench.of(Cancelled)[0].headers.get("Reason") == "SIP;cause=200;text=elsewhere"
    with pytest.raises(IllegalStep):
        session.answer(ANSWER, now=bench.now)
    assert session.state == "ended"


def test_cancel_after_the_answer_changes_nothing() -> None:
    bench = Bench()
    ok = answered(bench)
    bench.feed(invite(body=b"").replace("INVITE", "CANCEL"))
    assert [(r.status, r.cseq.method) for r in bench.responses()] == [(200, "CANCEL")]
    bench.feed(within("ACK", ok, 7))
    assert bench.calls[0].confirmed


def test_cancel_before_the_owner_decided_and_of_nothing() -> None:
    bench = Bench()
    bench.feed(invite(body=b"").replace("INVITE", "CANCEL").replace("z9hG4bK-1", "z9hG4bK-9"))
    assert [r.status for r in bench.responses()] == [481]
    bench.feed(invite())
    bench.feed(invite(body=b"").replace("INVITE", "CANCEL"))
    assert sorted(r.status for r in bench.responses()) == [200, 487]
    assert bench.take() is None


def test_required_extensions() -> None:
    bench = Bench()
    bench.feed(invite("Require: foo, 100rel, bar"))
    assert bench.take() is None
    (refusal,) = bench.responses()
    assert (refusal.status, refusal.headers.get("Unsupported")) == (420, "bar, foo")
    bench.feed(invite("Require: 100rel", branch="z9hG4bK-2", cseq="CSeq: 8"))
    assert bench.take(reliable="off") is None
    assert bench.responses()[0].headers.get("Unsupported") == "100rel"
    bench.feed(invite("Supported: 100rel", branch="z9hG4bK-3", cseq="CSeq: 9"))
    session = bench.take()
    assert session is not None
    session.ring(now=bench.now)
    assert "RSeq" not in bench.responses()[-1].headers


def test_vias_come_back_in_order_and_stamped() -> None:
    bench = Bench()
    text = invite().replace(
        "Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK-1;rport",
        "v: SIP/2.0/UDP proxy.example:5060;branch=z9hG4bK-p;rport, SIP/2.0/TCP 10.9.9.9;branch=z9hG4bK-1",
    )
    bench.feed(text, source="10.0.0.7", port=5099)
    bench.take()
    (trying,) = bench.responses()
    assert [via.host for via in trying.vias] == ["proxy.example", "10.9.9.9"]
    assert (trying.vias[0].params["received"], trying.vias[0].params["rport"]) == ("10.0.0.7", "5099")


def test_our_requests_follow_the_route_set() -> None:
    bench = Bench()
    confirmed(bench, "Record-Route: <sip:10.1.0.1;lr>", "Record-Route: <sip:10.1.0.2:5070;lr>")
    bench.calls[0].hang_up(now=bench.now)
    ((data, hop),) = bench.ua.outbox
    (bye,) = bench.requests("BYE")
    assert bye.uri == "sip:alice@10.0.0.1:5060"
    assert bye.headers.values("Route") == ["<sip:10.1.0.1;lr>", "<sip:10.1.0.2:5070;lr>"]
    assert (hop.host, hop.port) == ("10.1.0.1", 5060)
    assert data.startswith(b"BYE sip:alice@10.0.0.1:5060 SIP/2.0\r\n")


def test_peer_that_does_not_know_its_own_address() -> None:
    bench = Bench()
    bench.feed(invite().replace("10.0.0.1:5060", "172.17.0.2:5060"), port=33333)
    session = bench.take()
    assert session is not None
    session.answer(ANSWER, now=bench.now)
    bench.feed(within("ACK", bench.responses()[-1], 7), port=33333)
    session.hang_up(now=bench.now)
    ((data, hop),) = bench.ua.outbox
    assert (hop.host, hop.port) == ("10.0.0.1", 33333)
    assert data.startswith(b"BYE sip:alice@172.17.0.2:5060 SIP/2.0")


def test_strict_router() -> None:
    bench = Bench()
    confirmed(bench, "Record-Route: <sip:10.1.0.1>", "Record-Route: <sip:10.1.0.2;lr>")
    bench.calls[0].hang_up(now=bench.now)
    (bye,) = bench.requests("BYE")
    assert bye.uri == "sip:10.1.0.1"
    assert bye.headers.values("Route") == ["<sip:10.1.0.2;lr>", "<sip:alice@10.0.0.1:5060>"]


def test_order_of_cseq_and_dialogs_that_do_not_exist() -> None:
    bench = Bench()
    ok = confirmed(bench)
    bench.feed(within("INFO", ok, 9, "Content-Type: application/dtmf-relay", body="Signal=1\n"))
    bench.feed(within("INFO", ok, 8))
    assert [r.status for r in bench.responses()] == [200, 500]
    assert bench.of(InfoReceived)[0].content_type == "application/dtmf-relay"
    for method in ("BYE", "INVITE", "UPDATE", "NOTIFY"):
        bench.feed(within(method, ok, 20).replace("tag=a1", "tag=other"))
    assert [r.status for r in bench.responses()] == [481] * 4
    bench.feed(within("ACK", ok, 20).replace("tag=a1", "tag=other"))
    assert bench.sent() == []
    bench.feed(within("BYE", ok, 10, branch="z9hG4bK-b1"))
    bench.feed(within("BYE", ok, 11, branch="z9hG4bK-b2"))
    assert [r.status for r in bench.responses()] == [200, 200]
    assert bench.of(Ended)[0].by == "caller"
    bench.now += 33
    bench.feed(within("BYE", ok, 12, branch="z9hG4bK-b3"))
    assert [r.status for r in bench.responses()] == [481]


def test_bye_needs_both_tags() -> None:
    bench = Bench()
    ok = confirmed(bench)
    bench.feed(within("BYE", ok, 9).replace(bench.calls[0].dialog.local_tag, "guess"))
    assert [r.status for r in bench.responses()] == [481]
    assert bench.calls[0].confirmed


def test_methods_and_extensions_that_are_not_served_in_a_call() -> None:
    bench = Bench()
    ok = confirmed(bench)
    for number, method in enumerate(("MESSAGE", "FETCH", "OPTIONS"), 9):
        bench.feed(within(method, ok, number))
    bench.feed(within("INFO", ok, 20, "Require: recorder"))
    assert [r.status for r in bench.responses()] == [405, 501, 200, 420]


def test_bye_before_the_ack_and_before_the_answer() -> None:
    bench = Bench()
    ok = answered(bench)
    bench.feed(within("BYE", ok, 8))
    assert [r.status for r in bench.responses()] == [200]
    assert bench.of(Ended)
    assert [m for _, m in bench.wait(40)] == []

    bench = Bench()
    bench.feed(invite())
    session = bench.take()
    assert session is not None
    session.ring(now=bench.now)
    ringing = bench.responses()[-1]
    bench.feed(within("BYE", ringing, 8))
    assert [r.status for r in bench.responses()] == [200, 487]
    assert bench.of(Cancelled)


def test_call_without_an_offer() -> None:
    bench = Bench()
    bench.feed(invite(body=b""))
    session = bench.take()
    assert session is not None
    assert session.remote_offer is None
    session.answer(OFFER, now=bench.now)
    ok = bench.responses()[-1]
    assert ok.body == OFFER
    bench.feed(within("ACK", ok, 7, "Content-Type: application/sdp", body=ANSWER.decode()))
    assert bench.of(Acked)[0].sdp == ANSWER


def test_call_without_an_offer_and_without_an_answer() -> None:
    bench = Bench()
    bench.feed(invite(body=b""))
    session = bench.take()
    assert session is not None
    session.answer(OFFER, now=bench.now)
    ok = bench.responses()[-1]
    bench.feed(within("ACK", ok, 7))
    assert bench.requests("BYE")
    assert bench.of(Ended)[0].by == "protocol"


def test_hang_up_before_the_answer_says_why() -> None:
    for reason, status in (("Q.850;cause=17", 486), ("Q.850;cause=16", 487), ("Q.850;cause=x", 487), ("", 487)):
        bench = Bench()
        bench.feed(invite())
        session = bench.take()
        assert session is not None
        session.hang_up(reason, now=bench.now)
        refusal = bench.responses()[-1]
        assert (refusal.status, refusal.headers.get("Reason") or "") == (status, reason)
        assert bench.ua.next_timer() == 0.0
        bench.wait(0)
        assert bench.of(Ended)[0].by == "callee"


def test_steps_that_the_state_does_not_have() -> None:
    bench = Bench()
    confirmed(bench)
    session = bench.calls[0]
    for step in (
        lambda: session.ring(now=bench.now),
        lambda: session.answer(ANSWER, now=bench.now),
        lambda: session.refuse(486, now=bench.now),
        lambda: session.acknowledge(ANSWER, bench.now),
        lambda: session.answer_offer(ANSWER, now=bench.now),
    ):
        with pytest.raises(IllegalStep):
            step()
    assert session.confirmed
    session.hang_up(now=bench.now)
    session.hang_up(now=bench.now)
    assert len(bench.requests("BYE")) == 1
    for step in (
        lambda: session.offer(OFFER, bench.now),
        lambda: session.info(b"", "text/plain", bench.now),
        lambda: session.refer("sip:a@b", now=bench.now),
    ):
        with pytest.raises(IllegalStep):
            step()


def test_headers_that_cannot_be_sent_change_nothing() -> None:
    bench = Bench()
    bench.feed(invite())
    session = bench.take()
    assert session is not None
    bench.sent()
    for field in (("X-A", "a\r\nVia: x"), ("X A", "a"), ("m", "<sip:evil@x>"), ("Content-Length", "3")):
        for step in (session.ring, session.hang_up):
            with pytest.raises(ValueError, match=r"X-A|X A|m is|Content-Length"):
                step(headers=[field], now=bench.now)
        with pytest.raises(ValueError, match=r"X-A|X A|m is|Content-Length"):
            session.answer(ANSWER, [field], now=bench.now)
        with pytest.raises(ValueError, match=r"X-A|X A|m is|Content-Length"):
            session.refuse(486, headers=[field], now=bench.now)
    with pytest.raises(ValueError, match="Reason"):
        session.hang_up("Q.850\r\nX: y", now=bench.now)
    assert bench.sent() == []
    assert session.state == "incoming"
    session.answer(ANSWER, now=bench.now)
    with pytest.raises(ValueError, match="v is"):
        session.hang_up(headers=[("v", "x")], now=bench.now)
    bench.feed(within("ACK", bench.responses()[-1], 7))
    for act in (session.hang_up, lambda **more: session.refer("sip:a@b", **more)):
        with pytest.raises(ValueError, match="Route"):
            act(headers=[("Route", "<sip:x;lr>")], now=bench.now)
    assert session.confirmed
    with pytest.raises(ValueError, match="Contact"):
        bench.call("10.0.0.1", bench.now, headers=[("Contact", "<sip:x>")])
    assert len(bench.ua.sessions) == 1


def test_bodies_that_are_no_sdp() -> None:
    bench = Bench()
    bench.feed(invite().replace("application/sdp", "text/plain"))
    assert bench.take() is None
    (refusal,) = bench.responses()
    assert (refusal.status, refusal.headers.get("Accept")) == (415, "application/sdp")


def test_reliable_ringing_is_repeated_and_answered() -> None:
    bench = Bench()
    bench.feed(invite("Require: 100rel"))
    session = bench.take()
    assert session is not None
    session.ring(183, ANSWER, now=bench.now)
    progress = bench.responses()[-1]
    rseq = int(progress.headers.get("RSeq") or "")
    assert "100rel" in progress.options("Require")
    assert [at for at, _ in bench.wait(4)] == [0.5, 1.5, 3.5]
    session.answer(ANSWER, now=bench.now)
    assert bench.sent() == []  # the 2xx waits for the PRACK
    bench.feed(within("PRACK", progress, 8, f"RAck: {rseq + 1} 7 INVITE"))
    assert [r.status for r in bench.responses()] == [481]
    bench.feed(within("PRACK", progress, 9, f"RAck: {rseq} 7 INVITE"))
    prack, ok = bench.responses()
    assert (prack.status, prack.cseq.method, ok.status, ok.cseq.method) == (200, "PRACK", 200, "INVITE")
    assert ok.body == b""  # the offer has been answered before
    bench.feed(within("ACK", ok, 7))
    assert bench.of(Acked)


def test_reliable_ringing_that_nobody_acknowledges() -> None:
    bench = Bench()
    bench.feed(invite("Require: 100rel"))
    session = bench.take()
    assert session is not None
    session.ring(now=bench.now)
    bench.sent()
    found = [(at, m.status) for at, m in bench.wait(33) if isinstance(m, Response)]
    assert [at for at, status in found if status == 180] == [0.5, 1.5, 3.5, 7.5, 15.5, 31.5]
    assert (32.0, 504) in found
    assert bench.of(Ended)[0].by == "timer"


def test_offer_in_a_prack() -> None:
    bench = Bench()
    bench.feed(invite("Require: 100rel"))
    session = bench.take()
    assert session is not None
    session.ring(183, ANSWER, now=bench.now)
    progress = bench.responses()[-1]
    rack = f"RAck: {progress.headers.get('RSeq')} 7 INVITE"
    bench.feed(within("PRACK", progress, 8, rack, "Content-Type: application/sdp", body=OFFER.decode()))
    assert bench.of(OfferReceived)[0].sdp == OFFER
    session.answer_offer(ANSWER, now=bench.now)
    (ok,) = bench.responses()
    assert (ok.status, ok.cseq.method, ok.body) == (200, "PRACK", ANSWER)


def test_answer_in_a_prack() -> None:
    bench = Bench()
    bench.feed(invite("Require: 100rel", body=b""))
    session = bench.take()
    assert session is not None
    session.ring(183, OFFER, now=bench.now)
    progress = bench.responses()[-1]
    rack = f"RAck: {progress.headers.get('RSeq')} 7 INVITE"
    bench.feed(within("PRACK", progress, 8, rack, "Content-Type: application/sdp", body=ANSWER.decode()))
    assert bench.of(OfferAnswered)[0].sdp == ANSWER
    session.answer(OFFER, now=bench.now)
    ok = bench.responses()[-1]
    assert ok.body == b""
    bench.feed(within("ACK", ok, 7))
    assert bench.of(Acked)[0].sdp is None
    assert session.confirmed


def test_ringing_is_repeated_every_minute() -> None:
    bench = Bench()
    bench.feed(invite())
    session = bench.take()
    assert session is not None
    session.ring(183, ANSWER, [("X-Queue", "3")], now=bench.now)
    bench.sent()
    found = bench.wait(130)
    assert [at for at, _ in found] == [60.0, 120.0]
    assert all(m.body == ANSWER and m.headers.get("X-Queue") == "3" for _, m in found)


def test_hang_up_in_a_lost_ack_says_bye_at_the_end() -> None:
    bench = Bench()
    answered(bench)
    bench.calls[0].hang_up("Q.850;cause=31", now=bench.now)
    bench.wait(0)
    assert bench.of(Ended)[0].cause == "Q.850;cause=31"
    found = bench.wait(33)
    byes = [(at, m.headers.get("Reason")) for at, m in found if isinstance(m, Request)]
    assert byes[0] == (32.0, "Q.850;cause=31")
    assert len(bench.of(Ended)) == 1
