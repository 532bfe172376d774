"""Calls that take an unusual turn: what the other side hears of it, and that nothing is left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fakes.sip_desk import OURS, PBX, SipDesk
from fakes.sip_phones import Phone

from offhook.agents import link
from offhook.gateway.operator_api import BadOrder, PlaceCall
from offhook.gateway.switchboard import CARRIER_SILENCE
from offhook.providers.sip.events import (
    Answered,
    Cancelled,
    Ended,
    OfferReceived,
    ReferProgressed,
    ReferReceived,
    Refused,
    RequestArrived,
    UaEvent,
)
from offhook.providers.sip.hop import Hop
from offhook.providers.sip.invite import InviteSession
from offhook.providers.sip.message import parse
from offhook.providers.sip.transfer import replaces_of

pytestmark = [
    pytest.mark.virtual_time,
    pytest.mark.own_tasks("`desk` closes the switchboard"),
]

SDP = b"v=0\r\no=- 7 %d IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 9 RTP/AVP %b\r\na=%b\r\n"
OFFER = SDP % (1, b"0 8", b"sendrecv")
ANSWER = SDP % (2, b"0", b"sendrecv")
HOLD = SDP % (3, b"0", b"inactive")


@pytest.fixture
async def desk(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SipDesk]:
    made = SipDesk(tmp_path, **getattr(request, "param", {}))
    yield made
    await made.close()
    assert not made.errors


def trunk(**settings: Any) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("desk", [settings], indirect=True)


def now() -> float:
    return asyncio.get_running_loop().time()


def call(desk: SipDesk, phone: Phone, **more: Any) -> InviteSession:
    session = phone.call(OURS, now(), **({"sdp": OFFER} | more))
    desk.wire.flush(phone)
    return session


def do(desk: SipDesk, phone: Phone) -> None:
    """Send what a telephone was told to."""
    phone.hear(phone.ua.events(), now())
    desk.wire.flush(phone)


def statuses(phone: Phone, *status: int) -> None:
    """Have a telephone answer every call with these, one after another, and follow every REFER."""
    answers = iter(status)

    def on_event(phone: Phone, event: UaEvent, at: float) -> None:
        if isinstance(event, RequestArrived) and event.request.method == "INVITE":
            session = phone.ua.take_invite(event.tx, at)
            assert session is not None
            phone.calls.append(session)
            given = next(answers, 180)
            if given < 200:
                session.ring(given, now=at)
            elif given < 300:
                session.answer(ANSWER, now=at)
            else:
                session.refuse(given, now=at)
        elif isinstance(event, ReferReceived):
            event.session.accept_refer(event.tx, at)
        elif isinstance(event, OfferReceived):
            event.session.answer_offer(SDP % (9, b"0", b"sendrecv"), now=at)

    phone.on_event = on_event


async def up(desk: SipDesk, phone: Phone, **more: Any) -> InviteSession:
    session = call(desk, phone, **more)
    await asyncio.sleep(0.5)
    assert phone.of(Answered)
    return session


async def nothing_left(desk: SipDesk) -> None:
    await asyncio.sleep(70)
    assert desk.left() == {}


async def test_a_line_gone_silent_is_hung_up_at_the_other_end_too(desk: SipDesk) -> None:
    phone = desk.phone("127.0.0.12")
    await up(desk, phone)
    await asyncio.sleep(CARRIER_SILENCE + 2)
    assert [event.cause for event in phone.of(Ended)] == ["Q.850;cause=102"]
    assert desk.ended == ["carrier_timeout"]
    await nothing_left(desk)


async def test_a_cancel_on_the_heels_of_its_invite(desk: SipDesk) -> None:
    phone = desk.phone("127.0.0.12")
    session = phone.call(OURS, now(), sdp=OFFER)
    invite, _ = phone.ua.outbox.pop()
    head = invite.partition(b"\r\n\r\n")[0].replace(b"INVITE", b"CANCEL").split(b"\r\n")
    cancel = b"\r\n".join([*(line for line in head if not line.startswith(b"Content")), b"", b""])
    hop = Hop("udp", phone.host, 5060, OURS, 5060)
    desk.service._sip.receive(parse(invite), hop)
    desk.service._sip.receive(parse(cancel), hop)
    await asyncio.sleep(0.1)
    assert session.state == "ended"
    assert not desk.pool.agents
    await nothing_left(desk)


async def test_one_call_id_is_one_call(desk: SipDesk) -> None:
    one, two = desk.phone("127.0.0.12"), desk.phone("127.0.0.14")
    call(desk, one, call_id="same")
    call(desk, two, call_id="same")
    await asyncio.sleep(0.5)
    assert one.of(Answered)
    assert [event.status for event in two.of(Refused)] == [482]
    assert len(desk.pool.agents) == 1


@trunk(proxies=["sip:127.0.0.13:5060", f"sip:{PBX}:5060"])
async def test_a_call_hung_up_between_two_targets_goes_to_no_other(desk: SipDesk) -> None:
    first, second = desk.phone("127.0.0.13"), desk.phone(PBX)
    statuses(first, 503)
    statuses(second, 200)
    targets = desk.service.targets

    async def slow(name: str, number: str) -> Any:
        async for target in targets(name, number):
            yield target
            await asyncio.sleep(1)  # the next name is being looked up

    desk.service.targets = slow  # type: ignore[method-assign]
    await desk.service.place(PlaceCall("200"))
    await asyncio.sleep(0.5)
    assert len(first.calls) == 1
    desk.pool.agents[0].says(link.HangUp("no more", after_speech=False))
    await asyncio.sleep(2)
    assert not second.calls
    await nothing_left(desk)


@trunk(transfer="attended")
@pytest.mark.parametrize("status", [486, 180])
async def test_a_target_that_does_not_answer_leaves_nothing(desk: SipDesk, status: int) -> None:
    caller, target = desk.phone("127.0.0.12"), desk.phone(PBX)
    statuses(target, status)
    session = await up(desk, caller)
    desk.pool.agents[0].says(link.Transfer("200", after_speech=False))
    await asyncio.sleep(1)
    if status == 180:  # the caller does not want to wait for it
        session.hang_up(now=now())
        do(desk, caller)
        await asyncio.sleep(0.5)
        assert target.of(Cancelled)
    else:
        refused = [message for message in desk.pool.agents[0].told if isinstance(message, link.OrderRefused)]
        assert len(refused) == 1
        assert not caller.of(Ended)
        session.hang_up(now=now())
        do(desk, caller)
    await nothing_left(desk)


@trunk(accept_refer=["2*"])
async def test_a_telephone_that_transfers_and_hangs_up_at_once_has_transferred(desk: SipDesk) -> None:
    caller, target = desk.phone("127.0.0.12"), desk.phone(PBX)
    statuses(target, 180)
    session = await up(desk, caller)
    leg = desk.service.leg(session.request.call_id)
    assert leg is not None
    session.refer("sip:200@127.0.0.11", now=now())
    do(desk, caller)
    await asyncio.sleep(0.5)
    session.hang_up(now=now())
    do(desk, caller)
    await asyncio.sleep(20)  # longer than a line may be silent
    (ringing,) = target.calls
    assert not leg.over
    ringing.answer(ANSWER, now=now())
    do(desk, target)
    await asyncio.sleep(1)
    assert leg.session is not None
    assert leg.session.confirmed
    assert leg.call is not None
    assert leg.call.live
    ringing.hang_up(now=now())
    do(desk, target)
    await nothing_left(desk)


@trunk(accept_refer=["2*"])
@pytest.mark.parametrize("status", [486, 480])
async def test_whoever_transfers_to_nobody_and_hangs_up_leaves_no_call_behind(desk: SipDesk, status: int) -> None:
    caller, target = desk.phone("127.0.0.12"), desk.phone(PBX)
    statuses(target, 180)
    session = await up(desk, caller)
    session.refer("sip:200@127.0.0.11", now=now())
    do(desk, caller)
    await asyncio.sleep(0.5)
    session.hang_up(now=now())
    do(desk, caller)
    if status == 486:
        target.calls[0].refuse(486, now=now())
        do(desk, target)
    else:
        await asyncio.sleep(61)  # it is let ring for a minute
        assert target.of(Cancelled)
    await asyncio.sleep(1)
    await nothing_left(desk)


@trunk(accept_refer=["2*"])
async def test_the_target_of_a_transfer_does_not_ring_for_ever(desk: SipDesk) -> None:
    caller, target = desk.phone("127.0.0.12"), desk.phone(PBX)
    statuses(target, 180)
    desk.service.board.pool.delay = 0.0  # type: ignore[attr-defined]
    session = await up(desk, caller)
    leg = desk.service.leg(session.request.call_id)
    assert leg is not None
    session.refer("sip:200@127.0.0.11", now=now())
    do(desk, caller)
    for _ in range(70):
        assert leg.call is not None
        leg.call.last_heard = now()  # somebody speaks all the while
        await asyncio.sleep(1)
    assert target.of(Cancelled)
    assert [event.status for event in caller.of(ReferProgressed) if event.final] == [480]
    assert not caller.of(Ended)


async def test_a_call_that_another_phone_takes_over_begins_only_once(desk: SipDesk) -> None:
    one, two = desk.phone("127.0.0.12"), desk.phone("127.0.0.14")
    old = await up(desk, one)
    new = await up(desk, two, replaces=replaces_of(old))
    await asyncio.sleep(2)
    assert one.of(Ended)
    assert len(desk.journal.of("call.answered")) == 1
    new.hang_up(now=now())
    do(desk, two)
    await nothing_left(desk)


async def test_a_call_of_ours_that_another_phone_picks_up_while_it_rings(desk: SipDesk) -> None:
    called, other = desk.phone(PBX), desk.phone("127.0.0.14")
    statuses(called, 180)
    await desk.service.place(PlaceCall("200", ring_timeout=5))
    await asyncio.sleep(0.5)
    new = await up(desk, other, replaces=replaces_of(called.calls[0]))
    await asyncio.sleep(7)
    assert called.of(Cancelled)
    assert not other.of(Ended)
    assert len(desk.journal.of("call.answered")) == 1
    new.hang_up(now=now())
    do(desk, other)
    await nothing_left(desk)


async def test_an_offer_of_the_callee_before_he_answers(desk: SipDesk) -> None:
    phone = desk.phone(PBX)

    def on_event(phone: Phone, event: UaEvent, at: float) -> None:
        if isinstance(event, RequestArrived):
            session = phone.ua.take_invite(event.tx, at, reliable="required")
            assert session is not None
            phone.calls.append(session)
            session.ring(183, ANSWER, now=at)

    phone.on_event = on_event
    placed = await desk.service.place(PlaceCall("200"))
    await asyncio.sleep(0.5)
    (session,) = phone.calls
    session.send(session.build("UPDATE", body=HOLD), lambda *about: None, now())
    do(desk, phone)
    await asyncio.sleep(0.1)
    session.answer(ANSWER, now=now())
    do(desk, phone)
    await asyncio.sleep(0.1)
    leg = desk.service.leg(placed["carrier_call_id"])
    assert leg is not None
    assert leg.media.plan is not None
    assert leg.media.plan.direction == "inactive"
    assert desk.journal.of("call.answered")


@trunk(session_expires=90)
async def test_a_refresh_that_is_answered_in_other_words(desk: SipDesk) -> None:
    phone = desk.phone("127.0.0.12")
    statuses(phone)
    session = call(desk, phone, session_expires=0)
    await asyncio.sleep(0.5)
    leg = desk.service.leg(session.request.call_id)
    assert leg is not None
    assert leg.session is not None
    leg.session.peer_allows = frozenset({"INVITE"})  # so that the refresh takes a description with it
    for _ in range(60):
        assert leg.call is not None
        leg.call.last_heard = now()
        await asyncio.sleep(1)
    assert phone.of(OfferReceived)
    assert leg.media.plan is not None
    assert not phone.of(Ended)


async def test_an_agent_that_is_lost_on_hold_does_not_wait_for_the_caller(desk: SipDesk) -> None:
    phone = desk.phone("127.0.0.12")
    session = await up(desk, phone)
    session.offer(HOLD, now())
    do(desk, phone)
    await asyncio.sleep(60)
    assert not phone.of(Ended)
    desk.pool.agents[0].says(link.Failed("boom", ""))
    await asyncio.sleep(1)
    assert phone.of(Ended)
    assert desk.ended == ["agent_crashed"]
    await nothing_left(desk)


async def test_one_who_only_listened_is_not_taken_for_dead_when_he_begins_to_speak(desk: SipDesk) -> None:
    phone = desk.phone("127.0.0.12")
    session = await up(desk, phone, sdp=SDP % (1, b"0", b"recvonly"))
    await asyncio.sleep(4 * CARRIER_SILENCE)
    assert not phone.of(Ended)
    session.offer(SDP % (2, b"0", b"sendrecv"), now())
    do(desk, phone)
    await asyncio.sleep(CARRIER_SILENCE - 2)
    assert not phone.of(Ended)
    await asyncio.sleep(5)
    assert phone.of(Ended)
    await nothing_left(desk)


@pytest.mark.parametrize("to", ["", "sip:bob@198.51.100.7", "bob@elsewhere", "1 2", "9" * 65, "1\r\nX: y"])
async def test_only_numbers_and_extensions_are_called(desk: SipDesk, to: str) -> None:
    with pytest.raises(BadOrder, match="to: "):
        await desk.service.place(PlaceCall(to))
    assert desk.left() == {}


async def test_a_transfer_to_an_address_stays_on_the_trunk(desk: SipDesk) -> None:
    (target,) = [target async for target in desk.service.targets("pbx", "sip:200@198.51.100.7")]
    assert (target.uri.user, target.uri.host, target.hop.host) == ("200", PBX, PBX)
