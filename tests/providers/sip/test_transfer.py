"""Transfers, by messages written by hand."""

from __future__ import annotations

import pytest
from fakes.sip_phones import ANSWER, Bench, calling, confirmed, reply, within

from offhook.providers.sip.core import IllegalStep
from offhook.providers.sip.events import Ended, ReferProgressed, ReferReceived
from offhook.providers.sip.message import BadMessage, Headers, Message, Request, Response
from offhook.providers.sip.transfer import MAX_ASKED, Replaces, parse_refer_to, parse_sipfrag


def notify(ok: Response, number: int, line: str, state: str = "active", event: str = "refer") -> str:
    fields = [f"Event: {event}", f"Subscription-State: {state}", "Content-Type: message/sipfrag"]
    return within("NOTIFY", ok, number, *fields, body=f"{line}\r\n" if line else "")


def progress(bench: Bench) -> list[tuple[int, bool]]:
    return [(event.status, event.final) for event in bench.of(ReferProgressed)]


def referred(bench: Bench, *, status: int = 202, fields: tuple[tuple[str, str], ...] = ()) -> Response:
    """A call, and a REFER of ours that was answered; gives the 200 of the call."""
    ok = confirmed(bench)
    bench.calls[0].refer("sip:+15550100@10.0.0.9", now=bench.now)
    (refer,) = bench.requests("REFER")
    assert refer.headers.get("Refer-To") == "<sip:+15550100@10.0.0.9>"
    assert refer.headers.get("Referred-By") == "<sip:bob@10.0.0.2>"
    assert refer.contact is not None
    bench.feed(reply(refer, status, "a1", *fields))
    return ok


def test_blind_transfer() -> None:
    bench = Bench()
    ok = referred(bench)
    with pytest.raises(IllegalStep, match="under way"):
        bench.calls[0].refer("sip:a@b", now=bench.now)
    bench.feed(notify(ok, 8, "SIP/2.0 100 Trying"))
    bench.feed(notify(ok, 9, "SIP/2.0 180 Ringing", "active;expires=60"))
    bench.feed(notify(ok, 10, "SIP/2.0 200 OK", "terminated;reason=noresource"))
    assert [r.status for r in bench.responses()] == [200, 200, 200]
    assert progress(bench) == [(100, False), (100, False), (180, False), (200, True)]
    bench.feed(notify(ok, 11, "SIP/2.0 200 OK", "terminated"))  # once more, after the final word
    assert [r.status for r in bench.responses()] == [200]
    bench.calls[0].hang_up(now=bench.now)
    assert bench.requests("BYE")


@pytest.mark.parametrize("status", [405, 603])
def test_transfer_that_is_declined(status: int) -> None:
    bench = Bench()
    referred(bench, status=status)
    assert progress(bench) == [(status, True)]
    assert bench.calls[0].confirmed
    bench.calls[0].refer("sip:a@b", now=bench.now)


def test_transfer_by_a_peer_that_lost_the_call() -> None:
    bench = Bench()
    referred(bench, status=481)
    assert progress(bench) == [(481, True)]
    assert bench.of(Ended)


def test_transfer_that_fails() -> None:
    bench = Bench()
    ok = referred(bench)
    bench.feed(notify(ok, 8, "SIP/2.0 486 Busy Here", "terminated;reason=noresource"))
    assert progress(bench)[-1] == (486, True)
    assert bench.calls[0].confirmed


def test_transfer_without_reports() -> None:
    bench = Bench()
    referred(bench, fields=(("Refer-Sub", "false"),))
    assert progress(bench) == [(202, True)]


def test_transfer_that_nobody_reports_on() -> None:
    bench = Bench()
    referred(bench)
    bench.wait(29)
    assert progress(bench) == [(100, False)]
    bench.wait(2)
    assert progress(bench) == [(100, False), (408, True)]


def test_report_that_overtakes_the_202_and_then_silence() -> None:
    bench = Bench()
    ok = confirmed(bench)
    bench.calls[0].refer("sip:a@b", now=bench.now)
    (refer,) = bench.requests("REFER")
    bench.feed(notify(ok, 8, ""))
    bench.feed(reply(refer, 202, "a1"))
    assert progress(bench) == [(100, False)]
    bench.wait(181)
    assert progress(bench)[-1] == (408, True)


def test_reports_that_nobody_asked_for() -> None:
    bench = Bench()
    ok = confirmed(bench)
    bench.feed(notify(ok, 8, "SIP/2.0 200 OK"))
    bench.feed(notify(ok, 9, "", event="presence"))
    assert [r.status for r in bench.responses()] == [481, 489]
    assert progress(bench) == []


def test_report_that_cannot_be_read() -> None:
    bench = Bench()
    ok = referred(bench)
    bench.feed(notify(ok, 8, "hello"))
    assert [r.status for r in bench.responses()] == [400]
    assert progress(bench) == [(100, False)]


def test_attended_transfer_names_the_other_call() -> None:
    bench = Bench()
    confirmed(bench)
    bench.calls.clear()
    invite = calling(bench)
    bench.feed(reply(invite, 200, "carol", sdp=ANSWER))
    consulted = bench.calls[0]
    first = next(session for session in bench.ua.sessions if session is not consulted)
    bench.sent()
    first.refer("sip:carol@10.0.0.1", replaces=consulted, headers=[("Referred-By", "<sip:x@y>")], now=bench.now)
    (refer,) = bench.requests("REFER")
    target, replaces = parse_refer_to(refer)
    assert str(target.uri) == "sip:carol@10.0.0.1"
    named = Replaces.parse(replaces)
    assert named == (invite.call_id, "carol", invite.from_.tag, False)
    assert refer.headers.lines("Referred-By") == ["<sip:x@y>"]


def asked(bench: Bench, *extra: str) -> tuple[Response, ReferReceived]:
    ok = confirmed(bench)
    bench.feed(within("REFER", ok, 8, "Refer-To: Bob <sip:bob@10.0.0.5>", "Referred-By: <sip:al@x>", *extra))
    return ok, bench.of(ReferReceived)[0]


def notified(messages: list[Message]) -> list[tuple[str, str, str]]:
    return [
        (
            m.headers.get("Event") or "",
            (m.headers.get("Subscription-State") or "").partition(";")[0],
            m.body.decode().strip(),
        )
        for m in messages
        if isinstance(m, Request) and m.method == "NOTIFY"
    ]


def test_peer_asks_for_a_transfer() -> None:
    bench = Bench()
    _, event = asked(bench)
    assert (event.target.display, str(event.target.uri), event.referred_by) == ("Bob", "sip:bob@10.0.0.5", "<sip:al@x>")
    assert bench.sent() == []
    session = bench.calls[0]
    session.accept_refer(event.tx, bench.now)
    sent = bench.sent()
    assert isinstance(sent[0], Response)
    assert (sent[0].status, str(sent[0].contact)) == (202, "<sip:10.0.0.2:5060>")
    assert notified(sent) == [("refer", "active", "SIP/2.0 100 Trying")]
    with pytest.raises(IllegalStep, match="answered"):
        session.refuse_refer(event.tx, now=bench.now)
    session.refer_progress(180, now=bench.now)
    session.refer_progress(200, "Picked\r\nUp", now=bench.now)
    session.refer_progress(200, now=bench.now)
    assert notified(bench.sent()) == [
        ("refer", "active", "SIP/2.0 180 Ringing"),
        ("refer", "terminated", "SIP/2.0 200 Picked Up"),
    ]


def test_second_transfer_has_an_id() -> None:
    bench = Bench()
    ok, event = asked(bench)
    bench.calls[0].accept_refer(event.tx, bench.now)
    bench.calls[0].refer_progress(503, now=bench.now)
    bench.sent()
    bench.feed(within("REFER", ok, 9, "Refer-To: <sip:c@10.0.0.6>"))
    bench.calls[0].accept_refer(bench.of(ReferReceived)[1].tx, bench.now)
    assert notified(bench.sent()) == [("refer;id=9", "active", "SIP/2.0 100 Trying")]


def test_peer_wants_no_reports() -> None:
    bench = Bench()
    _, event = asked(bench, "Refer-Sub: false", "Supported: norefersub")
    bench.calls[0].accept_refer(event.tx, bench.now)
    bench.calls[0].refer_progress(200, now=bench.now)
    (accepted,) = bench.responses()
    assert (accepted.status, accepted.headers.get("Refer-Sub")) == (202, "false")


def test_peer_stops_listening_to_reports() -> None:
    bench = Bench()
    _, event = asked(bench)
    bench.calls[0].accept_refer(event.tx, bench.now)
    (first,) = bench.requests("NOTIFY")
    bench.feed(reply(first, 481, "a1"))
    bench.calls[0].refer_progress(200, now=bench.now)
    assert bench.sent() == []
    assert bench.calls[0].confirmed


def test_transfer_that_we_decline() -> None:
    bench = Bench()
    ok, event = asked(bench)
    bench.calls[0].refuse_refer(event.tx, now=bench.now)
    assert [r.status for r in bench.responses()] == [603]
    for number in range(9, 9 + MAX_ASKED + 1):
        bench.feed(within("REFER", ok, number, "Refer-To: <sip:c@10.0.0.6>"))
    assert [r.status for r in bench.responses()] == [603]  # one too many
    bench.calls[0].hang_up(now=bench.now)
    assert sorted(r.status for r in bench.responses()) == [603] * MAX_ASKED


@pytest.mark.parametrize(
    "refer_to",
    ["", "<sip:", "sip:a@b\nRefer-To: sip:c@d", "<sip:a@b?Replaces=nothing>", "<sip:a@b?Replaces=c%3Bto-tag%3D1>"],
)
def test_targets_that_cannot_be_read(refer_to: str) -> None:
    headers = Headers(("Refer-To", value) for value in refer_to.split("\nRefer-To: ") if value)
    with pytest.raises(BadMessage):
        parse_refer_to(Request("REFER", "sip:a@b", headers))


def test_target_that_is_no_uri() -> None:
    bench = Bench()
    confirmed(bench)
    with pytest.raises(ValueError, match="cannot transfer to"):
        bench.calls[0].refer("nobody", now=bench.now)
    bench.calls[0].refer("tel:+15550100", now=bench.now)


def test_small_readers() -> None:
    assert parse_sipfrag(b"SIP/2.0 180 Ringing\r\nContact: <sip:a>\r\n") == 180
    assert parse_sipfrag(b"sip/2.0 200") == 200
    for body in (b"", b"SIP/2.0", b"SIP/2.0 20 OK", b"SIP/2.0 abc", b"HTTP/1.1 200 OK"):
        with pytest.raises(BadMessage):
            parse_sipfrag(body)
    text = "c@x;to-tag=1;from-tag=2;early-only"
    assert str(Replaces.parse(text)) == text
    assert Replaces.parse("c@x; from-tag=2 ;to-tag=1") == ("c@x", "1", "2", False)
