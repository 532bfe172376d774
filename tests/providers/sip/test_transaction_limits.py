"""Transactions at their edges: forks, strangers, floods, lost transports, thousands of them, and chance."""

from __future__ import annotations

import contextlib

import pytest
from fakes.transactions import PEER, TCP_PEER, answer, asked, begun, ours, sent, transactions
from hypothesis import given, settings
from hypothesis import strategies as st

from offhook.providers.sip import transaction as module
from offhook.providers.sip.hop import Transport
from offhook.providers.sip.message import Response, parse, respond
from offhook.providers.sip.transaction import (
    AckReceived,
    CancelReceived,
    ClientTransaction,
    IllegalStepError,
    RequestReceived,
    ResponseReceived,
    ServerTransaction,
    State,
    Transactions,
    TxFailed,
)
from offhook.providers.sip.transaction_state import Kind, Step

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
    for number in range(1300):
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
                told = txs.receive(asked(method, branch=f"z9hG4bK{which}"), hop, now)
                servers += [event.tx for event in told if isinstance(event, RequestReceived | CancelReceived)]
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
        if server.can(Step.FORGOTTEN):
            txs.forget(server)
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
