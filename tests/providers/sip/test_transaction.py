"""Transactions by the tables: what is absorbed, sent again, given up, and what the user agent is told of it."""

from __future__ import annotations

import pytest
from fakes.transactions import PEER, TCP_PEER, answer, asked, begun, ours, run, sent, transactions

from offhook.providers.sip import transaction as module
from offhook.providers.sip.message import Request, parse, respond
from offhook.providers.sip.transaction import (
    AckReceived,
    AckTimeout,
    IllegalStepError,
    ResponseReceived,
    State,
    TooManyTransactions,
    Transactions,
    TxTimeout,
    new_branch,
)
from offhook.providers.sip.transaction_state import TRANSITIONS, Step

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
