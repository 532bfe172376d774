"""Two user agents against each other, over good and bad networks."""

from __future__ import annotations

import pytest
from fakes.sip_phones import ANSWER, HELD, HOLD, OFFER, Network, Phone

from offhook.providers.sip.events import (
    Acked,
    Answered,
    Cancelled,
    Ended,
    InfoReceived,
    OfferAnswered,
    OfferReceived,
    Progressed,
    ReferProgressed,
    ReferReceived,
    Refused,
    RequestArrived,
    UaEvent,
)
from offhook.providers.sip.invite import InviteSession


def answering(ring: bool = True, answer: bytes | None = ANSWER, **take: object):
    """What a phone does that picks up at once."""

    def act(phone: Phone, event: UaEvent, now: float) -> None:
        match event:
            case RequestArrived() if event.request.method == "INVITE":
                session = phone.ua.take_invite(event.tx, now, **take)
                if session is None:
                    return
                phone.calls.append(session)
                if ring:
                    session.ring(180, now=now)
                if answer is not None:
                    session.answer(answer, now=now)
            case RequestArrived():
                phone.ua.dismiss(event.tx, now)
            case OfferReceived():
                event.session.answer_offer(HELD if event.sdp is not None else ANSWER, now=now)

    return act


def pair(**network: float) -> tuple[Phone, Phone, Network]:
    alice, bob = Phone("10.0.0.1", seed=1), Phone("10.0.0.2", seed=2)
    alice.on_event = bob.on_event = answering()
    return alice, bob, Network(alice, bob, **network)


def test_call_is_set_up_and_hung_up_by_the_caller() -> None:
    alice, bob, network = pair()
    call = alice.call("10.0.0.2", network.now)
    network.run()
    assert [type(event) for event in alice.events] == [Progressed, Answered]
    assert alice.of(Answered)[0].sdp == ANSWER
    assert bob.calls[0].remote_offer == OFFER
    assert bob.of(Acked)[0].sdp is None
    assert call.state == bob.calls[0].state == "confirmed"
    call.hang_up(now=network.now)
    network.run()
    assert alice.of(Ended)[0].by == bob.of(Ended)[0].by == "caller"
    assert bob.of(Ended)[0].cause == "Q.850;cause=16"
    assert not alice.ua.sessions
    assert not bob.ua.sessions


def test_callee_hangs_up() -> None:
    alice, bob, network = pair()
    alice.call("10.0.0.2", network.now)
    network.run()
    bob.calls[0].hang_up("Q.850;cause=31", now=network.now)
    network.run()
    assert (alice.of(Ended)[0].by, alice.of(Ended)[0].cause) == ("callee", "Q.850;cause=31")
    assert bob.of(Ended)[0].by == "callee"


def test_call_is_refused() -> None:
    alice, bob, network = pair()
    bob.on_event = answering(answer=None)
    alice.call("10.0.0.2", network.now)
    network.run()
    bob.calls[0].refuse(486, headers=[("X-Why", "lunch")], now=network.now)
    network.run(40)
    refused = alice.of(Refused)[0]
    assert (refused.status, refused.reason) == (486, "Busy Here")
    assert refused.headers is not None
    assert refused.headers.get("X-Why") == "lunch"
    assert alice.ua.next_timer() is None
    assert bob.ua.next_timer() is None


def test_nobody_answers() -> None:
    alice, _, network = pair(loss=1.0)
    alice.call("10.0.0.2", network.now)
    network.run(33)
    assert (alice.of(Refused)[0].status, alice.of(Refused)[0].headers) == (408, None)
    assert not alice.ua.sessions


def test_cancel_while_ringing() -> None:
    alice, bob, network = pair()
    bob.on_event = answering(answer=None)
    call = alice.call("10.0.0.2", network.now)
    network.run()
    call.hang_up("SIP;cause=200", now=network.now)
    network.run()
    assert bob.of(Cancelled)[0].headers.get("Reason") == "SIP;cause=200"
    assert [type(event) for event in alice.events] == [Progressed, Ended]
    assert call.state == "ended"
    assert any(line.startswith("SIP/2.0 487") for _, _, line in network.log)


def test_cancel_waits_for_the_first_response() -> None:
    alice, bob, network = pair(delay=0.1)
    bob.on_event = answering(answer=None)
    alice.call("10.0.0.2", network.now).hang_up(now=network.now)
    network.run(0.15)
    assert not any("CANCEL" in line for _, _, line in network.log)
    network.run()
    assert bob.of(Cancelled)
    assert not bob.ua.sessions


def test_answer_that_crosses_the_cancel_is_hung_up() -> None:
    alice, bob, network = pair(delay=0.1)
    bob.on_event = answering(answer=None)
    call = alice.call("10.0.0.2", network.now)
    network.run()
    bob.calls[0].answer(ANSWER, now=network.now)
    call.hang_up(now=network.now)
    network.run()
    assert bob.of(Acked)
    assert bob.of(Ended)[0].by == "caller"
    assert len(alice.of(Ended)) == 1
    assert not alice.of(Answered)
    assert not alice.ua.sessions
    assert not bob.ua.sessions


def test_hang_up_right_after_the_answer_waits_for_the_ack() -> None:
    alice, bob, network = pair(delay=0.1)
    bob.on_event = answering(answer=None)
    alice.call("10.0.0.2", network.now)
    network.run()
    bob.calls[0].answer(ANSWER, now=network.now)
    bob.calls[0].hang_up(now=network.now)
    assert bob.of(Ended) == []
    network.run()
    lines = [line.split()[0] for _, _, line in network.log if not line.startswith("SIP")]
    assert lines[-3:] == ["INVITE", "ACK", "BYE"]
    assert alice.of(Ended)[0].by == bob.of(Ended)[0].by == "callee"


def test_hold_and_resume() -> None:
    alice, bob, network = pair()
    call = alice.call("10.0.0.2", network.now)
    network.run()
    call.offer(HOLD, network.now)
    network.run()
    assert bob.of(OfferReceived)[0].sdp == HOLD
    assert (alice.of(OfferAnswered)[0].sdp, alice.of(OfferAnswered)[0].status) == (HELD, 200)
    call.offer(OFFER, network.now, update=True)
    network.run()
    assert bob.of(OfferReceived)[1].sdp == OFFER
    assert len(alice.of(OfferAnswered)) == 2
    assert any(line.startswith("UPDATE") for _, _, line in network.log)


def test_offer_that_is_refused_leaves_the_call() -> None:
    alice, bob, network = pair()
    call = alice.call("10.0.0.2", network.now)
    network.run()
    bob.on_event = lambda phone, event, now: (
        event.session.answer_offer(None, 488, now=now) if isinstance(event, OfferReceived) else None
    )
    call.offer(HOLD, network.now)
    network.run()
    assert (alice.of(OfferAnswered)[0].sdp, alice.of(OfferAnswered)[0].status) == (None, 488)
    assert call.confirmed


def test_offers_that_collide_are_both_answered() -> None:
    alice, bob, network = pair(delay=0.1)
    call = alice.call("10.0.0.2", network.now)
    network.run()
    start = len(network.log)
    at = network.now
    call.offer(HOLD, now=network.now)
    bob.calls[0].offer(HOLD, network.now)
    network.run(10)
    assert sum("491" in line for _, _, line in network.log[start:]) == 2
    assert alice.of(OfferAnswered)[0].sdp == bob.of(OfferAnswered)[0].sdp == HELD
    again = {who: when - at for when, who, line in network.log[start:] if line.startswith("INVITE")}
    assert 2.3 <= again["10.0.0.1"] <= 4.4  # it owns the Call-ID
    assert again["10.0.0.2"] <= 2.4


def test_call_without_an_offer() -> None:
    alice, bob, network = pair()
    call = alice.call("10.0.0.2", network.now, sdp=None)
    network.run()
    answered = alice.of(Answered)[0]
    assert (answered.sdp, answered.is_offer, call.state) == (ANSWER, True, "unacknowledged")
    assert bob.calls[0].remote_offer is None
    call.acknowledge(OFFER, network.now)
    network.run()
    assert bob.of(Acked)[0].sdp == OFFER
    assert call.confirmed


def test_reinvite_without_an_offer() -> None:
    alice, bob, network = pair()
    alice.call("10.0.0.2", network.now)
    network.run()
    session = bob.calls[0]
    session.offers._wanted = (None, False)
    session.offers.local_sdp = None
    session.offers.go_on(network.now)
    network.run()
    assert alice.of(OfferReceived)[0].sdp is None
    assert session.confirmed
    assert alice.of(OfferAnswered)[0].sdp is None  # nothing came in the ACK
    assert alice.of(OfferAnswered)[0].status == 488


def test_early_media_and_reliable_ringing() -> None:
    alice, bob, network = pair()
    bob.on_event = answering(ring=False, answer=None, reliable="required")
    alice.call("10.0.0.2", network.now)
    network.run()
    session = bob.calls[0]
    session.ring(183, ANSWER, now=network.now)
    session.ring(180, now=network.now)
    session.answer(ANSWER, now=network.now)
    network.run()
    assert [event.status for event in alice.of(Progressed)] == [183, 180]
    assert alice.of(Progressed)[0].sdp == ANSWER
    assert alice.of(Answered)[0].sdp == ANSWER
    pracks = [line for _, _, line in network.log if line.startswith("PRACK")]
    assert len(pracks) == 2
    assert bob.of(Acked)


def test_info() -> None:
    alice, bob, network = pair()
    call = alice.call("10.0.0.2", network.now)
    network.run()
    call.info(b"Signal=5\r\nDuration=160\r\n", "application/dtmf-relay", network.now)
    network.run()
    assert (bob.of(InfoReceived)[0].body, bob.of(InfoReceived)[0].content_type) == (
        b"Signal=5\r\nDuration=160\r\n",
        "application/dtmf-relay",
    )


def test_session_is_refreshed_until_the_peer_is_gone() -> None:
    alice, bob, network = pair()
    alice.call("10.0.0.2", network.now, session_expires=1800)
    network.run()
    network.run(4000)
    updates = [(round(at), who) for at, who, line in network.log if line.startswith("UPDATE")]
    assert [at for at, _ in updates] == [1900, 2800, 3700, 4600]
    assert {who for _, who in updates} == {"10.0.0.2"}
    assert not alice.of(Ended)
    del network.phones["10.0.0.2"]
    network.run(1800)
    assert (alice.of(Ended)[0].by, alice.of(Ended)[0].cause) == ("timer", "session timer ran out")
    assert not bob.of(Ended)


def test_blind_transfer_is_reported() -> None:
    alice, bob, network = pair()
    call = alice.call("10.0.0.2", network.now)
    network.run()
    bob.calls[0].refer("sip:+15550100@10.0.0.9", now=network.now)
    network.run()
    asked = alice.of(ReferReceived)[0]
    assert (str(asked.target.uri), asked.replaces) == ("sip:+15550100@10.0.0.9", "")
    call.accept_refer(asked.tx, network.now)
    network.run()
    call.refer_progress(180, now=network.now)
    network.run()
    call.refer_progress(200, now=network.now)
    network.run()
    said = [(event.status, event.final) for event in bob.of(ReferProgressed)]
    assert said[-1] == (200, True)
    assert [final for _, final in said].count(True) == 1
    assert 180 in [status for status, _ in said]


def test_attended_transfer_replaces_the_call() -> None:
    alice, bob, carol = Phone("10.0.0.1"), Phone("10.0.0.2"), Phone("10.0.0.3")
    for phone in (alice, bob, carol):
        phone.on_event = answering()
    network = Network(alice, bob, carol)
    alice.call("10.0.0.2", network.now)
    network.run()
    consulted = bob.call("10.0.0.3", network.now)
    network.run()
    bob.calls[0].refer("sip:carol@10.0.0.3", replaces=consulted, now=network.now)
    network.run()
    asked = alice.of(ReferReceived)[0]
    alice.calls[0].accept_refer(asked.tx, network.now)
    alice.call("10.0.0.3", network.now, headers=[("Replaces", asked.replaces)])
    network.run()
    new = carol.calls[1]
    assert new.replaces is carol.calls[0]
    assert new.confirmed


@pytest.mark.parametrize("seed", range(12))
def test_calls_survive_a_bad_network(seed: int) -> None:
    """Whatever the network does, each side hears of one end, and nothing is left behind."""
    alice, bob, network = pair(seed=seed, loss=0.2, repeat=0.2, delay=0.02, jitter=0.2)
    calls: list[InviteSession] = [alice.call("10.0.0.2", network.now + i * 0.01) for i in range(5)]
    network.run(20)
    assert sum(call.confirmed for call in calls) >= 4
    for i, call in enumerate(calls):
        if call.confirmed:
            call.offer(HOLD, network.now)
        if i < len(bob.calls) and bob.calls[i].confirmed:
            bob.calls[i].offer(HOLD, network.now)
    network.run(20)
    mine = {call.request.call_id for call in calls[:3]}
    for call in [*calls[:3], *(call for call in bob.calls if call.request.call_id not in mine)]:
        call.hang_up(now=network.now)
    network.run(120)
    for phone in (alice, bob):
        ends = [event.session for event in phone.events if isinstance(event, Ended | Refused | Cancelled)]
        assert len(ends) == len(set(map(id, ends)))
        assert {id(end) for end in ends} == {id(call) for call in phone.calls}
        assert not phone.ua.sessions
        assert not phone.ua._core._errands
        assert not phone.ua._core._dialogs
        assert not phone.ua._invites
