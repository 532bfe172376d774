"""Transactions: what is absorbed, sent again, given up, and what the user agent is told of it."""

from __future__ import annotations

import contextlib
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offhook.providers.sip import transaction as module
from offhook.providers.sip.hop import Hop, Transport
from offhook.providers.sip.message import Headers, Request, Response, parse, respond
from offhook.providers.sip.transaction import (
    AckReceived,
    AckTimeout,
    CancelReceived,
    ClientTransaction,
    IllegalStepError,
    RequestReceived,
    ResponseReceived,
    ServerTransaction,
    State,
    TooManyTransactions,
    Transactions,
    TxEvent,
    TxFailed,
    TxTimeout,
    new_branch,
)
from offhook.providers.sip.transaction_state import TRANSITIONS, Kind, Step

PEER = Hop("udp", "192.0.2.9", 5060, "192.0.2.1", 5060)
TCP_PEER = PEER._replace(transport="tcp", port=40123)


def transactions() -> Transactions:
    numbers = count(1)
    return Transactions(new_branch=lambda: f"z9hG4bK{next(numbers)}")


def asked(
    method: str = "INVITE", *, branch: str = "z9hG4bKpeer", via: str = "", to_tag: str = "", cseq: int = 1
) -> Request:
    """What the peer sends."""
    to = f"<sip:agent@192.0.2.1>{f';tag={to_tag}' if to_tag else ''}"
    headers = Headers(
        [
            ("Via", via or f"SIP/2.0/UDP 192.0.2.9:5060;branch={branch};rport"),
            ("From", "<sip:caller@192.0.2.9>;tag=f1"),
            ("To", to),
            ("Call-ID", "one@192.0.2.9"),
            ("CSeq", f"{cseq} {method}"),
            ("Contact", "<sip:caller@192.0.2.9>"),
        ]
    )
    return Request(method, "sip:agent@192.0.2.1", headers)


def ours(method: str = "INVITE") -> Request:
    """What we want to send."""
    headers = Headers(
        [
            ("Route", "<sip:proxy@192.0.2.7;lr>"),
            ("From", "<sip:agent@192.0.2.1>;tag=a1"),
            ("To", "<sip:callee@192.0.2.9>"),
            ("Call-ID", "two@192.0.2.1"),
            ("CSeq", f"7 {method}"),
        ]
    )
    return Request(method, "sip:callee@192.0.2.9", headers)


def sent(txs: Transactions) -> list[str]:
    """Drain the outbox: the first word or the status of each message."""
    lines = [data.split(b"\r\n")[0].decode().split() for data, _ in txs.outbox]
    txs.outbox.clear()
    return [line[1] if line[0] == "SIP/2.0" else line[0] for line in lines]


def begun(events: object) -> ServerTransaction:
    assert isinstance(events, tuple)
    (event,) = events
    assert isinstance(event, RequestReceived)
    return event.tx


def answer(tx: ClientTransaction, status: int, tag: str = "b1") -> Response:
    """What the peer answers us, as it would come off the wire."""
    message = parse(respond(tx.request, status, to_tag=tag).encode())
    assert isinstance(message, Response)
    return message


def run(txs: Transactions, until: float) -> tuple[list[tuple[float, str]], list[TxEvent]]:
    """Tick at every timer: what was sent when, and the events."""
    wire: list[tuple[float, str]] = []
    events: list[TxEvent] = []
    while (at := txs.next_timer()) is not None and at <= until:
        events += txs.tick(at)
        wire += [(at, what) for what in sent(txs)]
    return wire, events


# --- the table ----------------------------------------------------------------------


def test_every_state_of_the_table_leads_to_the_end() -> None:
    for machine in TRANSITIONS.values():
        assert not machine[State.TERMINATED]
        assert {to for steps in machine.values() for to in steps.values()} <= set(machine)
        for state in machine:
            seen = {state}
            while more := {to for at in seen for to in machine[at].values()} - seen:
                seen |= more
            assert State.TERMINATED in seen


def test_no_state_has_two_meanings_for_one_deadline() -> None:
    for machine in TRANSITIONS.values():
        assert not any({Step.TIMEOUT, Step.LINGERED} <= set(steps) for steps in machine.values())


def test_a_second_final_response_raises_and_changes_nothing() -> None:
    txs = transactions()
    tx = begun(txs.receive(asked(), PEER, 0.0))
    txs.respond(tx, respond(tx.request, 486), 0.0)
    txs.outbox.clear()
    with pytest.raises(IllegalStepError, match="server_invite transaction that is completed has no step success"):
        txs.respond(tx, respond(tx.request, 200), 0.0)
    assert (tx.state, txs.outbox) == (State.COMPLETED, [])
    assert "INVITE completed" in repr(tx)


# --- the INVITE of a peer -----------------------------------------------------------


def test_a_repeated_invite_is_one_call_answered_from_memory() -> None:
    txs = transactions()
    tx = begun(txs.receive(asked(), PEER, 0.0))
    assert txs.receive(asked(), PEER, 0.1) == ()
    assert sent(txs) == []
    for status in (100, 180):
        txs.respond(tx, respond(tx.request, status, to_tag="t"), 0.2)
    assert sent(txs) == ["100", "180"]
    assert txs.receive(asked(), PEER, 0.5) == ()
    assert sent(txs) == ["180"]
    assert not tx.answered


def test_a_2xx_is_never_repeated_by_the_transaction_and_absorbs_for_32_seconds() -> None:
    txs = transactions()
    tx = begun(txs.receive(asked(), PEER, 0.0))
    txs.respond(tx, respond(tx.request, 200, to_tag="t"), 1.0)
    assert sent(txs) == ["200"]
    for at in (1.5, 12.0, 32.9):
        assert txs.receive(asked(), PEER, at) == ()
        assert txs.tick(at) == []
    assert (sent(txs), tx.state, tx.answered) == ([], State.ACCEPTED, True)
    txs.respond(tx, respond(tx.request, 200, to_tag="t"), 20.0)
    assert sent(txs) == ["200"]
    assert run(txs, 100.0) == ([], [])
    assert (tx.over, len(txs)) == (True, 0)


def test_the_ack_of_a_2xx_is_told_with_its_own_branch_or_that_of_the_invite() -> None:
    txs = transactions()
    tx = begun(txs.receive(asked(), PEER, 0.0))
    txs.respond(tx, respond(tx.request, 200, to_tag="t"), 0.0)
    for branch in ("z9hG4bKother", "z9hG4bKpeer"):
        ack = asked("ACK", branch=branch, to_tag="t")
        assert txs.receive(ack, PEER, 0.1) == (AckReceived(ack, PEER),)
    assert tx.state is State.ACCEPTED


def test_a_refusal_is_repeated_until_the_ack_and_then_nothing() -> None:
    txs = transactions()
    tx = begun(txs.receive(asked(), PEER, 0.0))
    txs.respond(tx, respond(tx.request, 486, to_tag="t"), 0.0)
    assert sent(txs) == ["486"]
    wire, _ = run(txs, 12.0)
    assert wire == [(at, "486") for at in (0.5, 1.5, 3.5, 7.5, 11.5)]
    ack = asked("ACK", to_tag="t")
    assert txs.receive(ack, PEER, 12.0) == ()
    assert tx.state is State.CONFIRMED
    assert txs.receive(ack, PEER, 12.1) == txs.receive(asked(), PEER, 12.2) == ()
    assert run(txs, 16.9) == ([], [])
    assert not tx.over
    run(txs, 17.0)
    assert tx.over


def test_a_refusal_without_an_ack_is_given_up_after_32_seconds() -> None:
    txs = transactions()
    tx = begun(txs.receive(asked(), PEER, 0.0))
    txs.respond(tx, respond(tx.request, 486), 0.0)
    assert run(txs, 31.9)[1] == []
    assert run(txs, 40.0)[1] == [AckTimeout(tx)]
    assert len(txs) == 0


def test_on_tcp_a_refusal_is_sent_once_and_the_ack_ends_it() -> None:
    txs = transactions()
    tx = begun(txs.receive(asked(), TCP_PEER, 0.0))
    txs.respond(tx, respond(tx.request, 486), 0.0)
    assert (sent(txs), txs.next_timer()) == (["486"], 32.0)
    assert txs.receive(asked("ACK", to_tag="t"), TCP_PEER, 1.0) == ()
    assert (tx.over, txs.next_timer(), len(txs)) == (True, None, 0)


# --- other requests of a peer -------------------------------------------------------


def test_a_repeated_bye_gets_the_same_answer_for_32_seconds() -> None:
    txs = transactions()
    tx = begun(txs.receive(asked("BYE", to_tag="t"), PEER, 0.0))
    assert tx.state is State.TRYING
    assert txs.receive(asked("BYE", to_tag="t"), PEER, 0.1) == ()
    assert sent(txs) == []
    txs.respond(tx, respond(tx.request, 200), 0.2)
    assert txs.receive(asked("BYE", to_tag="t"), PEER, 5.0) == ()
    assert sent(txs) == ["200", "200"]
    assert run(txs, 32.1) == ([], [])
    assert not tx.over
    assert run(txs, 32.2) == ([], [])
    assert tx.over


def test_a_request_that_nobody_answers_is_forgotten_silently() -> None:
    txs = transactions()
    tx = begun(txs.receive(asked("OPTIONS"), PEER, 0.0))
    txs.respond(tx, respond(tx.request, 100), 1.0)
    assert sent(txs) == ["100"]
    assert run(txs, 32.0) == ([], [])
    assert tx.over
    with pytest.raises(IllegalStepError):
        txs.respond(tx, respond(tx.request, 200), 33.0)


def test_on_tcp_nothing_lingers_after_the_answer() -> None:
    txs = transactions()
    tx = begun(txs.receive(asked("BYE", to_tag="t"), TCP_PEER, 0.0))
    txs.respond(tx, respond(tx.request, 200), 0.0)
    assert (tx.over, len(txs), txs.next_timer()) == (True, 0, None)


def test_what_tells_two_requests_apart_is_branch_sent_by_and_method() -> None:
    txs = transactions()
    begun(txs.receive(asked("BYE", to_tag="t"), PEER, 0.0))
    begun(txs.receive(asked("INFO", to_tag="t"), PEER, 0.0))
    begun(txs.receive(asked("BYE", branch="z9hG4bKother", to_tag="t"), PEER, 0.0))
    begun(txs.receive(asked("BYE", via="SIP/2.0/UDP 192.0.2.9:5062;branch=z9hG4bKpeer;rport", to_tag="t"), PEER, 0.0))
    assert len(txs) == 4


def test_a_peer_of_rfc_2543_is_recognised_without_a_branch() -> None:
    txs = transactions()
    via = "SIP/2.0/UDP 192.0.2.9:5060"
    tx = begun(txs.receive(asked(via=via), PEER, 0.0))
    assert txs.receive(asked(via=via), PEER, 0.5) == ()
    txs.respond(tx, respond(tx.request, 404, to_tag="t"), 1.0)
    assert txs.receive(asked("ACK", via=via, to_tag="t"), PEER, 1.1) == ()
    assert tx.state is State.CONFIRMED
    begun(txs.receive(asked(via=via, cseq=2), PEER, 2.0))


# --- CANCEL, forks, strangers, floods -----------------------------------------------


def test_a_cancel_names_the_invite_it_is_for() -> None:
    txs = transactions()
    invite = begun(txs.receive(asked(), PEER, 0.0))
    cancel = asked("CANCEL")
    (event,) = txs.receive(cancel, PEER, 0.1)
    assert isinstance(event, CancelReceived)
    assert (event.invite, event.request, event.tx.method) == (invite, cancel, "CANCEL")
    txs.respond(event.tx, respond(cancel, 200), 0.1)
    txs.respond(invite, respond(invite.request, 487), 0.1)
    assert txs.receive(asked("CANCEL"), PEER, 0.2) == ()
    assert sent(txs) == ["200", "487", "200"]


@pytest.mark.parametrize(("branch", "host"), [("z9hG4bKother", PEER.host), ("z9hG4bKpeer", "198.51.100.66")])
def test_a_cancel_for_nothing_or_from_elsewhere_names_none(branch: str, host: str) -> None:
    txs = transactions()
    begun(txs.receive(asked(), PEER, 0.0))
    (event,) = txs.receive(asked("CANCEL", branch=branch), PEER._replace(host=host), 0.1)
    assert isinstance(event, CancelReceived)
    assert event.invite is None


def test_a_request_that_forked_and_met_again_is_refused_with_482() -> None:
    txs = transactions()
    tx = begun(txs.receive(asked(), PEER, 0.0))
    for _ in range(2):
        assert txs.receive(asked(branch="z9hG4bKfork"), PEER, 0.1) == ()
    first, second = (data for data, _ in txs.outbox)
    assert b" 482 " in first
    assert first == second
    assert b";tag=" in first.split(b"\r\nTo: ")[1].split(b"\r\n")[0]
    txs.forget(tx)
    begun(txs.receive(asked(branch="z9hG4bKlater"), PEER, 0.2))


def test_credentials_with_the_old_cseq_are_no_fork() -> None:
    txs = transactions()
    tx = begun(txs.receive(asked("REGISTER"), PEER, 0.0))
    txs.respond(tx, respond(tx.request, 401), 0.0)
    begun(txs.receive(asked("REGISTER", branch="z9hG4bKagain"), PEER, 0.1))


def test_a_stranger_is_answered_and_forgotten() -> None:
    txs = transactions()
    for _ in range(2):
        tx = begun(txs.receive(asked(), PEER, 0.0))
        txs.forget(tx, respond(tx.request, 401, to_tag="t"))
        assert sent(txs) == ["401"]
        assert (len(txs), txs.next_timer(), tx.over) == (0, None, True)
    ack = asked("ACK", to_tag="t")
    assert txs.receive(ack, PEER, 0.1) == (AckReceived(ack, PEER),)
    with pytest.raises(IllegalStepError):
        txs.forget(tx)


def test_a_full_table_answers_503_yet_lets_calls_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SERVER", 1)
    monkeypatch.setattr(module, "RESERVE", 1)
    txs = transactions()
    begun(txs.receive(asked(), PEER, 0.0))
    assert txs.receive(asked("OPTIONS", branch="z9hG4bK2"), PEER, 0.0) == ()
    (data, hop) = txs.outbox.pop()
    refusal = parse(data)
    assert isinstance(refusal, Response)
    assert (refusal.status, refusal.headers.get("Retry-After"), hop) == (503, "5", PEER)
    begun(txs.receive(asked("BYE", branch="z9hG4bK3", to_tag="t"), PEER, 0.0))
    assert txs.receive(asked("BYE", branch="z9hG4bK4", to_tag="t"), PEER, 0.0) == ()
    assert sent(txs) == ["503"]
    assert len(txs) == 2


def test_what_cannot_be_read_is_dropped_and_counted() -> None:
    txs = transactions()
    broken = asked()
    broken.headers.set("Via", "SIP/2.0/UDP")
    assert txs.receive(broken, PEER, 0.0) == ()
    broken = asked()
    broken.headers.remove("From")
    assert txs.receive(broken, PEER, 0.0) == ()
    assert (txs.malformed, len(txs), txs.outbox) == (2, 0, [])


# --- where responses go -------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent_by", "transport", "source", "top", "port"),
    [
        ("192.0.2.9:5060;branch=z9hG4bKp", "udp", 5060, "192.0.2.9:5060;branch=z9hG4bKp", 5060),
        ("192.0.2.9;branch=z9hG4bKp", "udp", 40000, "192.0.2.9;branch=z9hG4bKp", 5060),
        ("10.0.0.5:5066;branch=z9hG4bKp", "udp", 40000, "10.0.0.5:5066;branch=z9hG4bKp;received=192.0.2.9", 5066),
        (
            "10.0.0.5:5066;rport;branch=z9hG4bKp",
            "udp",
            40000,
            "10.0.0.5:5066;rport=40000;branch=z9hG4bKp;received=192.0.2.9",
            40000,
        ),
        (
            "pbx.example.net;branch=z9hG4bKp",
            "tcp",
            40000,
            "pbx.example.net;branch=z9hG4bKp;received=192.0.2.9",
            40000,
        ),
    ],
)
def test_the_top_via_says_where_the_request_came_from(
    sent_by: str, transport: Transport, source: int, top: str, port: int
) -> None:
    txs = transactions()
    hop = PEER._replace(transport=transport, port=source)
    below = "SIP/2.0/UDP 192.0.2.77;branch=z9hG4bKbelow"
    tx = begun(txs.receive(asked("BYE", via=f"SIP/2.0/UDP {sent_by}, {below}", to_tag="t"), hop, 0.0))
    assert tx.request.headers.values("Via") == [f"SIP/2.0/UDP {top}", below]
    assert (tx.hop, tx.source) == (hop._replace(port=port), hop)


def test_a_peer_that_comes_back_by_another_port_is_answered_there() -> None:
    txs = transactions()
    tx = begun(txs.receive(asked("BYE", to_tag="t"), TCP_PEER, 0.0))
    anew = TCP_PEER._replace(port=40200)
    txs.receive(asked("BYE", to_tag="t"), anew, 0.1)
    assert tx.hop == anew
    txs.receive(asked("BYE", to_tag="t"), anew._replace(host="198.51.100.66"), 0.2)
    assert tx.hop == anew


# --- INVITEs of ours ----------------------------------------------------------------


def test_an_invite_is_sent_again_until_anything_answers() -> None:
    txs = transactions()
    request = ours()
    tx = txs.request(request, PEER, 0.0)
    (data, hop) = txs.outbox.pop()
    wire = parse(data)
    assert (str(wire.top_via), hop) == ("SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK1;rport", PEER)
    assert "Via" not in request.headers
    assert run(txs, 4.0)[0] == [(at, "INVITE") for at in (0.5, 1.5, 3.5)]
    ringing = answer(tx, 180)
    assert txs.receive(ringing, PEER, 4.0) == (ResponseReceived(tx, ringing),)
    assert txs.receive(ringing, PEER, 4.5) == (ResponseReceived(tx, ringing),)
    assert txs.next_timer() is None


def test_an_invite_that_nothing_answers_is_given_up_after_32_seconds() -> None:
    txs = transactions()
    tx = txs.request(ours(), PEER, 0.0)
    sent(txs)
    wire, events = run(txs, 100.0)
    assert [at for at, _ in wire] == [0.5, 1.5, 3.5, 7.5, 15.5, 31.5]
    assert events == [TxTimeout(tx)]
    assert (len(txs), tx.over) == (0, True)


def test_every_2xx_of_32_seconds_is_told() -> None:
    txs = transactions()
    tx = txs.request(ours(), PEER, 0.0)
    for at, tag in ((1.0, "b1"), (1.5, "b1"), (32.9, "fork")):
        txs.tick(at)
        response = answer(tx, 200, tag)
        assert txs.receive(response, PEER, at) == (ResponseReceived(tx, response),)
    assert txs.receive(answer(tx, 486), PEER, 33.0) == txs.receive(answer(tx, 180), PEER, 33.0) == ()
    run(txs, 33.0)
    assert txs.receive(answer(tx, 200), PEER, 33.5) == ()
    assert (len(txs), txs.strays) == (0, 1)


def test_a_refusal_is_acknowledged_each_time_and_told_once() -> None:
    txs = transactions()
    tx = txs.request(ours(), PEER, 0.0)
    sent(txs)
    refusal = answer(tx, 486)
    assert txs.receive(refusal, PEER, 1.0) == (ResponseReceived(tx, refusal),)
    assert txs.receive(refusal, PEER, 1.5) == ()
    (first, _), (second, _) = txs.outbox
    assert first == second
    ack = parse(first)
    assert isinstance(ack, Request)
    assert (ack.method, ack.uri, str(ack.cseq), ack.to.tag) == ("ACK", tx.request.uri, "7 ACK", "b1")
    assert ack.headers.lines("Via") == tx.request.headers.lines("Via")
    assert ack.headers.lines("Route") == tx.request.headers.lines("Route")
    assert run(txs, 32.9)[1] == []
    run(txs, 33.0)
    assert tx.over


def test_on_tcp_an_invite_is_sent_once_and_a_refusal_ends_it() -> None:
    txs = transactions()
    tx = txs.request(ours(), TCP_PEER, 0.0)
    assert txs.next_timer() == 32.0
    txs.receive(answer(tx, 603), TCP_PEER, 1.0)
    assert sent(txs) == ["INVITE", "ACK"]
    assert (tx.over, len(txs), txs.next_timer()) == (True, 0, None)


def test_a_retry_with_credentials_gets_a_via_of_its_own() -> None:
    txs = transactions()
    first = txs.request(ours(), PEER, 0.0)
    second = txs.request(first.request, PEER, 0.1)
    assert [via.branch for via in second.request.vias] == ["z9hG4bK2"]


def test_a_cancel_waits_for_a_provisional_and_goes_the_way_of_its_invite() -> None:
    txs = transactions()
    tx = txs.request(ours(), PEER, 0.0)
    with pytest.raises(IllegalStepError, match="cannot be cancelled"):
        txs.cancel(tx, 0.1)
    txs.receive(answer(tx, 180), PEER, 0.2)
    txs.outbox.clear()
    cancel = txs.cancel(tx, 1.0, [("Reason", "SIP;cause=200")])
    message = parse(txs.outbox[0][0])
    assert isinstance(message, Request)
    assert (message.method, message.uri, str(message.cseq), message.to.tag) == (
        "CANCEL",
        tx.request.uri,
        "7 CANCEL",
        "",
    )
    assert message.headers.lines("Via") == tx.request.headers.lines("Via")
    assert message.headers.get("Reason") == "SIP;cause=200"
    with pytest.raises(IllegalStepError, match="cannot be cancelled again"):
        txs.cancel(tx, 1.0)
    done, ended = answer(cancel, 200), answer(tx, 487)
    assert txs.receive(done, PEER, 1.1) == (ResponseReceived(cancel, done),)
    assert txs.receive(ended, PEER, 1.2) == (ResponseReceived(tx, ended),)


def test_a_cancelled_invite_that_is_never_answered_is_given_up() -> None:
    txs = transactions()
    tx = txs.request(ours(), PEER, 0.0)
    txs.receive(answer(tx, 180), PEER, 0.2)
    cancel = txs.cancel(tx, 1.0)
    txs.receive(answer(cancel, 200), PEER, 1.1)
    txs.receive(answer(tx, 183), PEER, 1.2)
    assert run(txs, 50.0)[1] == [TxTimeout(tx)]
    assert len(txs) == 0


def test_the_ack_of_a_2xx_is_sent_again_as_it_was() -> None:
    txs = transactions()
    ack = ours("ACK")
    txs.send(ack, PEER)
    txs.send(ack, PEER)
    (first, _), (second, _) = txs.outbox
    assert first == second
    assert parse(first).top_via.branch == "z9hG4bK1"
    assert (len(txs), txs.next_timer()) == (0, None)


# --- other requests of ours ---------------------------------------------------------


def test_a_request_is_sent_again_at_t1_doubling_to_t2() -> None:
    txs = transactions()
    tx = txs.request(ours("BYE"), PEER, 0.0)
    sent(txs)
    wire, events = run(txs, 100.0)
    assert [at for at, _ in wire] == [0.5, 1.5, 3.5, *(7.5 + 4 * number for number in range(7))]
    assert events == [TxTimeout(tx)]


def test_a_provisional_slows_a_request_down_to_t2() -> None:
    txs = transactions()
    tx = txs.request(ours("BYE"), PEER, 0.0)
    sent(txs)
    txs.receive(answer(tx, 100), PEER, 0.1)
    assert [at for at, _ in run(txs, 9.0)[0]] == [0.5, 4.5, 8.5]
    final = answer(tx, 200)
    assert txs.receive(final, PEER, 9.0) == (ResponseReceived(tx, final),)
    assert txs.receive(final, PEER, 9.5) == ()
    assert run(txs, 13.9) == ([], [])
    assert not tx.over
    run(txs, 14.0)
    assert tx.over


def test_a_late_tick_sends_once_and_not_what_it_missed() -> None:
    txs = transactions()
    txs.request(ours("BYE"), PEER, 0.0)
    sent(txs)
    txs.tick(10.0)
    assert (sent(txs), txs.next_timer()) == (["BYE"], 11.0)


def test_more_requests_than_we_can_have_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CLIENT", 1)
    txs = transactions()
    txs.request(ours("OPTIONS"), PEER, 0.0)
    with pytest.raises(TooManyTransactions, match="send fewer a second"):
        txs.request(ours("OPTIONS"), PEER, 0.0)


def test_a_via_needs_an_address_of_ours() -> None:
    unknown = PEER._replace(local="", local_port=0)
    with pytest.raises(ValueError, match="must name an address"):
        Transactions().request(ours(), unknown, 0.0)
    txs = Transactions(sent_by=lambda hop: f"gw.example.net:{hop.port}")
    txs.request(ours(), unknown, 0.0)
    assert b"Via: SIP/2.0/UDP gw.example.net:5060;branch=z9hG4bK" in txs.outbox[0][0]
    txs.request(ours(), PEER._replace(host="2001:db8::9", local="2001:db8::1"), 0.0)
    txs = Transactions()
    txs.request(ours(), PEER._replace(host="2001:db8::9", local="2001:db8::1", local_port=0), 0.0)
    assert b"Via: SIP/2.0/UDP [2001:db8::1];branch=z9hG4bK" in txs.outbox[0][0]


@pytest.mark.parametrize("method", ["ACK", "CANCEL"])
def test_ack_and_cancel_are_no_requests_of_their_own(method: str) -> None:
    with pytest.raises(ValueError, match=method):
        transactions().request(ours(method), PEER, 0.0)


def test_branches_are_unique_and_carry_the_cookie() -> None:
    assert new_branch() != new_branch()
    assert new_branch().startswith("z9hG4bK")


# --- transports that fail -----------------------------------------------------------


def test_a_lost_transport_fails_what_is_unanswered_there_at_once() -> None:
    txs = transactions()
    calling, options = txs.request(ours(), TCP_PEER, 0.0), txs.request(ours("OPTIONS"), TCP_PEER, 0.0)
    elsewhere = txs.request(ours(), PEER, 0.0)
    assert txs.transport_failed(TCP_PEER, 0.5) == [TxFailed(calling), TxFailed(options)]
    assert txs.transport_failed(TCP_PEER, 0.5) == []
    assert not elsewhere.over


def test_an_invite_that_rings_outlives_its_connection() -> None:
    txs = transactions()
    tx = txs.request(ours(), TCP_PEER, 0.0)
    txs.receive(answer(tx, 180), TCP_PEER, 0.1)
    assert txs.transport_failed(TCP_PEER, 0.5) == []
    final = answer(tx, 200)
    assert txs.receive(final, TCP_PEER, 1.0) == (ResponseReceived(tx, final),)


def test_an_ack_that_cannot_be_delivered_ends_the_transaction_silently() -> None:
    txs = transactions()
    tx = txs.request(ours(), PEER, 0.0)
    txs.receive(answer(tx, 486), PEER, 0.1)
    assert txs.transport_failed(PEER, 0.2) == []
    assert tx.over


def test_a_response_whose_connection_is_gone_goes_to_the_port_of_the_via() -> None:
    txs = transactions()
    via = "SIP/2.0/TCP 192.0.2.9:5070;branch=z9hG4bKpeer"
    tx = begun(txs.receive(asked(via=via), TCP_PEER, 0.0))
    txs.respond(tx, respond(tx.request, 180, to_tag="t"), 0.0)
    sent(txs)
    named = TCP_PEER._replace(port=5070)
    assert txs.transport_failed(TCP_PEER, 0.1) == []
    assert txs.outbox.pop()[1] == named
    assert txs.transport_failed(named, 0.2) == []
    assert txs.outbox == []
    txs.respond(tx, respond(tx.request, 200, to_tag="t"), 0.3)
    assert txs.outbox.pop()[1] == named


# --- many of them -------------------------------------------------------------------


def test_timers_of_thousands_stay_in_order_and_their_dead_are_cleared() -> None:
    txs = Transactions()
    for number in range(3000):
        tx = txs.request(ours("OPTIONS"), TCP_PEER, number / 1000)
        txs.receive(answer(tx, 200), TCP_PEER, number / 1000)
    assert len(txs) == 0
    assert len(txs._timers) <= 1025
    assert txs.next_timer() is None
    for number in range(100):
        txs.request(ours("OPTIONS"), PEER, float(99 - number))
    txs.outbox.clear()
    assert txs.next_timer() == 0.5
    txs.tick(0.5)
    assert len(txs.outbox) == 1
    assert txs._by_peer.keys() == {PEER[:3]}


def test_kinds_are_told_apart_by_the_method() -> None:
    txs = transactions()
    assert txs.request(ours(), PEER, 0.0).kind is Kind.CLIENT_INVITE
    assert txs.request(ours("BYE"), PEER, 0.0).kind is Kind.CLIENT


def wander(txs: Transactions, steps: list[tuple[int, int, int]]) -> None:
    """Let a peer and a user agent do what the numbers say, sensible or not."""
    now = 0.0
    servers: list[ServerTransaction] = []
    clients: list[ClientTransaction] = []
    methods, statuses = ("INVITE", "BYE", "CANCEL", "ACK", "OPTIONS"), (100, 180, 200, 302, 401, 486, 503)
    for what, which, how in steps:
        now += how / 4
        hop = TCP_PEER if which % 2 else PEER
        match what:
            case 0:
                method = methods[how % 5]
                for event in txs.receive(asked(method, branch=f"z9hG4bK{which}"), hop, now):
                    if isinstance(event, RequestReceived | CancelReceived):
                        servers.append(event.tx)
            case 1:
                clients.append(txs.request(ours(methods[how % 2]), hop, now))
            case 2 if clients:
                tx = clients[which % len(clients)]
                txs.receive(answer(tx, statuses[how % 7]), tx.hop, now)
            case 3 if servers:
                server = servers[which % len(servers)]
                status = statuses[how % 7]
                step = Step.PROVISIONAL if status < 200 else Step.SUCCESS if status < 300 else Step.FAILURE
                if server.can(step):
                    txs.respond(server, respond(server.request, status, to_tag="t"), now)
                else:
                    with pytest.raises(IllegalStepError):
                        txs.respond(server, respond(server.request, status, to_tag="t"), now)
            case 4:
                txs.transport_failed(hop, now)
            case 5 if clients:
                with contextlib.suppress(IllegalStepError):
                    clients.append(txs.cancel(clients[which % len(clients)], now))
        txs.tick(now)
    for server in servers:
        if not server.answered:
            txs.forget(server) if server.can(Step.FORGOTTEN) else None
    for client in clients:
        if not client.over and client.state is State.PROCEEDING and client.can(Step.SUCCESS):
            txs.receive(answer(client, 200), client.hop, now)
    while (at := txs.next_timer()) is not None:
        txs.tick(at)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 13)), max_size=40))
def test_whatever_happens_nothing_is_left_in_memory(steps: list[tuple[int, int, int]]) -> None:
    txs = transactions()
    wander(txs, steps)
    assert (len(txs), txs._merged, txs._by_peer, txs.next_timer()) == (0, {}, {}, None)
    assert txs.malformed == 0
